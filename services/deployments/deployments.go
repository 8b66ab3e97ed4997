package deployments

import (
	"context"
	"fmt"

	"github.com/coder/quartz"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// Deployments are the use cases, in the words of the API (functions-deployments §11).
type Deployments struct {
	store    *store
	journal  *bus.Journal
	conn     *bus.Conn
	clock    quartz.Clock
	log      *zap.Logger
	reporter *Reporter
	meters   *meters
	// quick has a place for each deploy call that waits for its version.
	quick chan struct{}
}

// New makes the use cases over a store whose schema is migrated.
func New(s *store, j *bus.Journal, conn *bus.Conn, clock quartz.Clock, log *zap.Logger, reporter *Reporter, m *meters) *Deployments {
	return &Deployments{store: s, journal: j, conn: conn, clock: clock, log: log, reporter: reporter, meters: m, quick: make(chan struct{}, quickStarts)}
}

// function asks for a version of the caller's account.
func (u *Deployments) function(ctx context.Context, functionID, versionID string) (functions.Function, error) {
	account := access.CallerFrom(ctx).Account
	answer, err := bus.Call(ctx, u.conn, functions.Lookup, functions.InternalRequest{FunctionID: functionID, VersionID: versionID})
	if problem.HasCode(err, problem.NotFound) || err == nil && answer.Function.NCAID != account {
		return functions.Function{}, versionNotFound(ctx, functionID, versionID)
	}
	return answer.Function, err
}

// deployable asks for a version that is to be deployed. A public one is deployed by a super administrator only (§11.4).
func (u *Deployments) deployable(ctx context.Context, functionID, versionID string) (functions.Function, error) {
	caller := access.CallerFrom(ctx)
	answer, err := bus.Call(ctx, u.conn, functions.Lookup, functions.InternalRequest{FunctionID: functionID, VersionID: versionID})
	switch {
	case err == nil && answer.Public && !caller.CrossAccount:
		return functions.Function{}, problem.New(problem.IllegalState, "Function id '%s', version '%s': a public function is deployed by an administrator of the platform only", functionID, versionID)
	case problem.HasCode(err, problem.NotFound), err == nil && answer.Function.NCAID != caller.Account:
		return functions.Function{}, versionNotFound(ctx, functionID, versionID)
	}
	return answer.Function, err
}

func versionNotFound(ctx context.Context, functionID, versionID string) error {
	return problem.New(problem.NotFound, "Function id '%s', version '%s': Not found in account '%s'", functionID, versionID, access.CallerFrom(ctx).Account)
}

// ofVersion finds the deployment of a version of the caller's account.
func (u *Deployments) ofVersion(ctx context.Context, row access.Row, functionID, versionID string) (*deployment, error) {
	d, err := u.store.find(ctx, u.store.pool, `WHERE version_id = $1 AND function_id = $2 AND account = $3`, versionID, functionID, access.CallerFrom(ctx).Account)
	if err != nil {
		return nil, err
	}
	if d == nil || !d.visible() || u.deleted(ctx, d) {
		return nil, u.absent(ctx, row, functionID, versionID)
	}
	return d, covered(ctx, row, d.FunctionID, d.VersionID)
}

// absent says that a version has no deployment, to those who may know: a key that does not cover a function of its
// account is refused, deployed or not, and only what does not exist is not found for it.
func (u *Deployments) absent(ctx context.Context, row access.Row, functionID, versionID string) error {
	refusal := covered(ctx, row, functionID, versionID)
	if refusal == nil {
		return noDeployment(versionID)
	}
	_, err := u.function(ctx, functionID, versionID)
	switch {
	case problem.HasCode(err, problem.NotFound):
		return noDeployment(versionID)
	case err != nil:
		return err
	}
	return refusal
}

func (u *Deployments) byID(ctx context.Context, row access.Row, id string) (*deployment, error) {
	d, err := u.store.find(ctx, u.store.pool, `WHERE id = $1 AND account = $2`, id, access.CallerFrom(ctx).Account)
	if err != nil {
		return nil, err
	}
	if d == nil || !d.visible() || u.deleted(ctx, d) {
		return nil, problem.New(problem.NotFound, "Deployment id '%s': Deployment not found", id)
	}
	return d, covered(ctx, row, d.FunctionID, d.VersionID)
}

// deleted reports whether the version of a deployment is gone already, although the event that takes the deployment along
// is still on its way. When the functions service does not answer, the deployment speaks for itself.
func (u *Deployments) deleted(ctx context.Context, d *deployment) bool {
	_, err := bus.Call(ctx, u.conn, functions.Lookup, functions.InternalRequest{FunctionID: d.FunctionID, VersionID: d.VersionID})
	return problem.HasCode(err, problem.NotFound)
}

func noDeployment(versionID string) error {
	return problem.New(problem.NotFound, "Function version '%s': Deployment not found (failed to find function deployment)", versionID)
}

// covered refuses a key whose resources do not include the version.
func covered(ctx context.Context, row access.Row, functionID, versionID string) error {
	if access.CallerFrom(ctx).CoversFunction(true, functionID, versionID) {
		return nil
	}
	return access.NotCovered(row, fmt.Sprintf("function '%s', version '%s'", functionID, versionID))
}

// tell reports the new status before the client gets its answer, so that what it reads next agrees. When the functions
// service is away, the reporter goes on trying.
func (u *Deployments) tell(ctx context.Context, id string) {
	if err := u.reporter.Report(ctx, id); err != nil {
		u.log.Warn("status not acknowledged, telling it again", zap.String("deployment", id), zap.Error(err))
		u.reporter.Tell(id)
	}
}
