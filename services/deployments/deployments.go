package deployments

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	libstore "github.com/sirocco-cloud/sirocco/libs/store"
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
}

// New makes the use cases over a store whose schema is migrated.
func New(s *store, j *bus.Journal, conn *bus.Conn, clock quartz.Clock, log *zap.Logger, reporter *Reporter, m *meters) *Deployments {
	return &Deployments{store: s, journal: j, conn: conn, clock: clock, log: log, reporter: reporter, meters: m}
}

// A forced undeploy takes effect for clients at once, while its last instances need a moment to stop. Deploying again in
// that moment waits for them instead of failing.
const (
	awaitTeardown = 5 * time.Second
	awaitIdle     = time.Second
	awaitEvery    = 25 * time.Millisecond
)

// Create deploys a version (§11.4); the checks come in the order written there. A request that comes again with its
// idempotency key has the answer of the first one, whatever became of the deployment.
func (u *Deployments) Create(ctx context.Context, req contract.CreateRequest) (contract.Response, error) {
	none := contract.Response{}
	if err := validIDs(map[string]string{"functionId": req.FunctionID, "versionId": req.VersionID}); err != nil {
		return none, err
	}
	specs := cleaned(req.Specifications)
	if err := validSpecs(specs); err != nil {
		return none, err
	}
	if earlier, err := u.answered(ctx, req); earlier != nil || err != nil {
		return deref(earlier), err
	}
	response, err := u.deploy(ctx, req, specs)
	if problem.HasCode(err, problem.IllegalState) && req.IdempotencyKey != "" { // perhaps occupied by the same request
		if earlier, again := u.answered(ctx, req); earlier != nil || again != nil {
			return deref(earlier), again
		}
	}
	return response, err
}

func deref(r *contract.Response) contract.Response {
	if r == nil {
		return contract.Response{}
	}
	return *r
}

// deploy makes a deployment of specifications that are well formed.
func (u *Deployments) deploy(ctx context.Context, req contract.CreateRequest, specs []contract.Specification) (contract.Response, error) {
	none := contract.Response{}
	f, err := u.deployable(ctx, req.FunctionID, req.VersionID)
	if err != nil {
		return none, err
	}
	if err := covered(ctx, access.Deploy, f.ID, f.VersionID); err != nil {
		return none, err
	}
	if err := u.vacant(ctx, req.VersionID); err != nil {
		return none, err
	}
	nodes, err := bus.Call(ctx, u.conn, clusters.Nodes, clusters.NodesRequest{Account: f.NCAID})
	if err != nil {
		return none, err
	}
	if err := validAgainst(nodes.Nodes, f, specs); err != nil {
		return none, err
	}
	rules, err := u.quotaRules(ctx, f.NCAID)
	if err != nil {
		return none, err
	}
	if _, err := bus.Call(ctx, u.conn, functions.CheckArtifacts, functions.InternalRequest{VersionID: f.VersionID}); err != nil {
		return none, err
	}
	d := u.fresh(f, specs, nodes.Nodes)
	response := respond(d)
	var taken bool
	err = u.store.tx(ctx, func(t tx) error {
		return u.store.answers.Once(ctx, t, keyOf(ctx, req), u.clock.Now(), &response, func() error {
			if taken, err = u.store.insert(ctx, t, d); err != nil {
				return err
			}
			if taken { // by a request at the same time
				return errTaken
			}
			if err := u.admit(ctx, t, d, rules); err != nil {
				return err
			}
			if err := bus.Record(ctx, t, u.journal, contract.Created, d.fact(), contract.Changed{Deployment: answer(d)}); err != nil {
				return err
			}
			for _, s := range d.Specs {
				if err := scaled(ctx, t, u.journal, d, s, 0, "user"); err != nil {
					return err
				}
			}
			return u.store.poke(ctx, t, d.ID)
		})
	})
	switch {
	case errors.Is(err, errTaken):
		return none, u.beaten(ctx, f)
	case errors.Is(err, libstore.ErrKeyReused):
		return none, keyReused()
	case err != nil:
		return none, err
	case response.Deployment.ID != d.ID: // the same request was quicker
		return response, nil
	}
	u.meters.moved(d, functions.Inactive, u.clock.Now())
	u.tell(ctx, d.ID)
	if u.vanished(ctx, d) { // undeployed by another request, or the version was deleted at the same time
		if _, err := u.function(ctx, req.FunctionID, req.VersionID); err != nil {
			return none, err
		}
	}
	u.awaitQuickStart(ctx, d)
	return response, nil
}

// errTaken ends the transaction of a deploy call that came second.
var errTaken = errors.New("the version has a deployment")

// errUnanswered ends the transaction of a look at an idempotency key that nobody has used.
var errUnanswered = errors.New("no answer yet")

// answered finds the answer of an earlier request with the same idempotency key; nil when there is none.
func (u *Deployments) answered(ctx context.Context, req contract.CreateRequest) (*contract.Response, error) {
	if req.IdempotencyKey == "" {
		return nil, nil
	}
	check := problem.NewCheck("deployment")
	check.Require(len(req.IdempotencyKey) <= maxName && !strings.ContainsRune(req.IdempotencyKey, 0), "Idempotency-Key", "must be at most %d bytes", maxName)
	if err := check.Err(); err != nil {
		return nil, err
	}
	var earlier contract.Response
	err := u.store.tx(ctx, func(t tx) error {
		return u.store.answers.Once(ctx, t, keyOf(ctx, req), u.clock.Now(), &earlier, func() error { return errUnanswered })
	})
	switch {
	case errors.Is(err, errUnanswered):
		return nil, nil
	case errors.Is(err, libstore.ErrKeyReused):
		return nil, keyReused()
	case err != nil:
		return nil, err
	}
	return &earlier, covered(ctx, access.Deploy, earlier.Deployment.FunctionID, earlier.Deployment.VersionID)
}

func keyReused() error {
	return problem.New(problem.Unprocessable, "Idempotency-Key: was used for another request; use a new one")
}

// keyOf names a deploy call: whose it is, of which version, and what it says.
func keyOf(ctx context.Context, req contract.CreateRequest) libstore.Key {
	said := req
	said.IdempotencyKey = ""
	return libstore.Key{Scope: "deploy/" + access.CallerFrom(ctx).Account + "/" + strings.ToLower(req.VersionID), Key: req.IdempotencyKey, Request: said}
}

// beaten explains why a deployment that was free to be made a moment ago was not: another request made it.
func (u *Deployments) beaten(ctx context.Context, f functions.Function) error {
	d, err := u.store.find(ctx, u.store.pool, `WHERE version_id = $1`, f.VersionID)
	if err != nil {
		return err
	}
	if d == nil { // made and removed meanwhile
		return problem.New(problem.IllegalState, "Function id '%s', version '%s': it was deployed and undeployed by other requests at the same time; try again", f.ID, f.VersionID)
	}
	return occupied(d)
}

// vanished reports whether a deployment that was just made is gone, or going, already.
func (u *Deployments) vanished(ctx context.Context, d *deployment) bool {
	now, err := u.store.find(ctx, u.store.pool, `WHERE id = $1`, d.ID)
	return err == nil && (now == nil || !now.visible())
}

// quickStart is how long the answer to a deploy call waits for a start that is about to succeed. Public clients poll
// at once and then only every 10 or 60 s, so a start that takes a quarter of a second would cost them that.
const quickStart = time.Second

// awaitQuickStart waits while the version deploys, for a moment. The answer still tells the state that the request made.
func (u *Deployments) awaitQuickStart(ctx context.Context, d *deployment) {
	if d.Status != functions.Deploying {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, quickStart)
	defer cancel()
	for ctx.Err() == nil {
		now, err := u.store.find(ctx, u.store.pool, `WHERE id = $1`, d.ID)
		if err != nil || now == nil || now.Status != functions.Deploying && !now.unreported() {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(awaitEvery):
		}
	}
}

// fresh is a new deployment of a version.
func (u *Deployments) fresh(f functions.Function, specs []contract.Specification, nodes []clusters.Node) *deployment {
	now := u.clock.Now().Truncate(time.Microsecond) // what Postgres keeps, so that every answer says the same
	d := &deployment{
		ID: uuid.NewString(), Account: f.NCAID, FunctionID: f.ID, VersionID: f.VersionID, FunctionName: f.Name,
		Status: functions.Active, Grace: drainGraceful, CreatedAt: now, UpdatedAt: now,
	}
	for n, s := range specs {
		s.ID = uuid.NewString()
		s.MaxRequestConcurrency = orOne(s.MaxRequestConcurrency)
		s.PreferredOrder = orOne(s.PreferredOrder)
		if *s.MinInstances > 0 {
			d.Status = functions.Deploying
		}
		d.Specs = append(d.Specs, &specification{Specification: s, Position: n, Wanted: *s.MinInstances, GPUs: describe(&s, nodes)})
		d.Specs[n].Specification = s
	}
	d.Reason = explain(d)
	return d
}

func orOne(n *int) *int {
	if n == nil {
		one := 1
		return &one
	}
	return n
}

// vacant is nil when the version has no deployment; else it says what to do about the one it has. A teardown is waited
// for: a forced one for long, a graceful one for the moment that it takes when nothing is in flight.
func (u *Deployments) vacant(ctx context.Context, versionID string) error {
	deadline, idle := u.clock.NewTimer(awaitTeardown), u.clock.NewTimer(awaitIdle)
	defer deadline.Stop()
	defer idle.Stop()
	for {
		d, err := u.store.find(ctx, u.store.pool, `WHERE version_id = $1`, versionID)
		if err != nil || d == nil {
			return err
		}
		var patience <-chan time.Time
		switch d.Teardown {
		case standing:
			return occupied(d)
		case graceful:
			patience = idle.C
		case forced:
			patience = deadline.C
		}
		retry := u.clock.NewTimer(awaitEvery)
		select {
		case <-ctx.Done():
			retry.Stop()
			return occupied(d)
		case <-patience:
			retry.Stop()
			return occupied(d)
		case <-retry.C:
		}
	}
}

// occupied explains why a version cannot be deployed now. Clients cut the text at ", use P".
func occupied(d *deployment) error {
	name := fmt.Sprintf("Function id '%s', version '%s'", d.FunctionID, d.VersionID)
	switch {
	case d.Status.Busy():
		return problem.New(problem.IllegalState, "%s: Status %s, use PATCH endpoint /v2/nvcf/deployments/%s/gpu-specifications/{gpuSpecificationId} to change its deployment", name, d.Status, d.ID)
	case d.Status == functions.Error:
		return problem.New(problem.IllegalState, "%s: Status %s, delete the failed deployment first", name, d.Status)
	}
	remain := len(d.live())
	if remain == 0 {
		return problem.New(problem.IllegalState, "%s: Status %s, the previous deployment is being removed; try again in a moment", name, d.Status)
	}
	return problem.New(problem.IllegalState, "%s: Status %s, the previous deployment still drains: %d instances remain; try again when they are gone, or undeploy with graceful=false", name, d.Status, remain)
}

// Replace changes bounds and concurrency of every specification (§11.6).
func (u *Deployments) Replace(ctx context.Context, req contract.CreateRequest) (contract.Response, error) {
	none := contract.Response{}
	if err := validIDs(map[string]string{"functionId": req.FunctionID, "versionId": req.VersionID}); err != nil {
		return none, err
	}
	check := problem.NewCheck("deployment")
	check.Require(len(req.Specifications) > 0, "deploymentSpecifications", "must have at least one GPU specification")
	for n, s := range req.Specifications {
		at := fmt.Sprintf("deploymentSpecifications[%d].", n)
		validBounds(check, at, s.MinInstances, s.MaxInstances)
		validConcurrency(check, at, s.MaxRequestConcurrency)
	}
	if err := check.Err(); err != nil {
		return none, err
	}
	found, err := u.ofVersion(ctx, access.Deploy, req.FunctionID, req.VersionID)
	if err != nil {
		return none, err
	}
	rules, err := u.quotaRules(ctx, found.Account)
	if err != nil {
		return none, err
	}
	var d *deployment
	err = u.change(ctx, found.ID, func(t tx, locked *deployment) (bool, error) {
		d = locked
		if err := d.unchanged(req.IfMatch); err != nil {
			return false, err
		}
		pairs, err := paired(d, req.Specifications)
		if err != nil {
			return false, err
		}
		changed, raised := false, false
		for n, s := range pairs {
			sent := req.Specifications[n]
			raised = raised || *sent.MinInstances > s.minimum()
			moved, err := u.bounds(ctx, t, d, s, *sent.MinInstances, *sent.MaxInstances)
			if err != nil {
				return false, err
			}
			changed = changed || moved
			if sent.MaxRequestConcurrency != nil && *sent.MaxRequestConcurrency != s.concurrency() {
				s.MaxRequestConcurrency, changed = sent.MaxRequestConcurrency, true
			}
		}
		if raised {
			return changed, u.admit(ctx, t, d, rules)
		}
		return changed, nil
	})
	if err != nil {
		return none, err
	}
	return respond(d), nil
}

// paired finds the stored specification of each one sent.
func paired(d *deployment, sent []contract.Specification) ([]*specification, error) {
	if len(sent) != len(d.Specs) {
		return nil, problem.New(problem.Validation, "deploymentSpecifications: must have %d GPU specifications, as the deployment has, not %d", len(d.Specs), len(sent))
	}
	check := problem.NewCheck("deployment")
	out := make([]*specification, len(sent))
	taken := map[string]bool{}
	for n, s := range sent {
		at := fmt.Sprintf("deploymentSpecifications[%d].", n)
		id := strings.ToLower(strings.TrimSpace(s.ID))
		switch {
		case id != "":
			out[n] = d.spec(id)
			check.Require(out[n] != nil, at+"gpuSpecificationId", "unknown: '%s'", s.ID)
			check.Require(!taken[id], at+"gpuSpecificationId", "must not be named twice")
			taken[id] = true
		case len(sent) > 1:
			check.Require(false, at+"gpuSpecificationId", "must be given when there are several GPU specifications")
		default:
			out[n] = d.Specs[0]
		}
		if out[n] == nil {
			continue
		}
		backend := strings.TrimSpace(s.Backend)
		check.Require(backend == "" || strings.EqualFold(backend, out[n].Backend), at+"backend", "cannot be changed; undeploy and deploy again")
		check.Require(len(s.Clusters) == 0 || sameNames(s.Clusters, out[n].Clusters), at+"clusters", "cannot be changed; undeploy and deploy again")
	}
	return out, check.Err()
}

// sameNames compares sets of names without case.
func sameNames(a, b []string) bool {
	norm := func(names []string) []string {
		out := make([]string, len(names))
		for n, name := range names {
			out[n] = strings.ToLower(strings.TrimSpace(name))
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	return slices.Equal(norm(a), norm(b))
}

// Patch changes one specification (§11.7).
func (u *Deployments) Patch(ctx context.Context, req contract.PatchRequest) (contract.PatchResponse, error) {
	none := contract.PatchResponse{}
	if err := validIDs(map[string]string{"deploymentId": req.DeploymentID, "gpuSpecificationId": req.ID}); err != nil {
		return none, err
	}
	req.Autoscaling = present(req.Autoscaling)
	policy := strings.ToUpper(strings.TrimSpace(req.AutoscalingPolicy))
	if err := validPatch(req, policy); err != nil {
		return none, err
	}
	found, err := u.byID(ctx, access.Deploy, req.DeploymentID)
	if err != nil {
		return none, err
	}
	id := strings.ToLower(req.ID)
	if found.spec(id) == nil {
		return none, problem.New(problem.NotFound, "Deployment id '%s', GPU specification id '%s': Not found", req.DeploymentID, req.ID)
	}
	var rules []clusters.QuotaRule
	if req.MinInstances != nil {
		if rules, err = u.quotaRules(ctx, found.Account); err != nil {
			return none, err
		}
	}
	var patched *deployment
	var s *specification
	err = u.change(ctx, found.ID, func(t tx, d *deployment) (bool, error) {
		if err := d.unchanged(req.IfMatch); err != nil {
			return false, err
		}
		patched, s = d, d.spec(id)
		low, high := s.minimum(), s.maximum()
		if req.MinInstances != nil {
			low = *req.MinInstances
		}
		if req.MaxInstances != nil {
			high = *req.MaxInstances
		}
		check := problem.NewCheck("gpuSpecification")
		check.Require(low <= high, "minInstances", "must not be greater than maxInstances: %d > %d, after merging with what is stored", low, high)
		if err := check.Err(); err != nil {
			return false, err
		}
		raised := low > s.minimum()
		changed, err := u.bounds(ctx, t, d, s, low, high)
		if err == nil && raised {
			err = u.admit(ctx, t, d, rules)
		}
		switch {
		case policy == platformConfiguration:
			changed = changed || s.Autoscaling != nil
			s.Autoscaling = nil
		case req.Autoscaling != nil && !bytes.Equal(s.Autoscaling, req.Autoscaling):
			s.Autoscaling, changed = req.Autoscaling, true
		}
		return changed, err
	})
	if err != nil {
		return none, err
	}
	return contract.PatchResponse{Specification: s.Specification, ETag: patched.etag()}, nil
}

func validPatch(req contract.PatchRequest, policy string) error {
	check := problem.NewCheck("gpuSpecification")
	check.Require(req.MinInstances != nil || req.MaxInstances != nil || req.Autoscaling != nil || policy != "", "minInstances",
		"at least one of minInstances, maxInstances, autoscalingConfiguration, autoscalingConfigurationPolicy must be given")
	check.Require(req.MinInstances == nil || *req.MinInstances >= 0 && *req.MinInstances <= maxInstances, "minInstances", "must be between 0 and %d", maxInstances)
	check.Require(req.MaxInstances == nil || *req.MaxInstances >= 1 && *req.MaxInstances <= maxInstances, "maxInstances", "must be between 1 and %d", maxInstances)
	check.Require(policy == "" || policy == customConfiguration || policy == platformConfiguration, "autoscalingConfigurationPolicy",
		"must be %s or %s", customConfiguration, platformConfiguration)
	validAutoscaling(check, "autoscalingConfiguration", req.Autoscaling)
	return check.Err()
}

// bounds sets minimum and maximum of a specification and moves what is wanted with them: a count that followed the
// minimum goes on following it, one that work had raised only stays within the bounds.
func (u *Deployments) bounds(ctx context.Context, t tx, d *deployment, s *specification, low, high int) (changed bool, err error) {
	if low == s.minimum() && high == s.maximum() {
		return false, nil
	}
	was := s.Wanted
	if s.Wanted == s.minimum() {
		s.Wanted = low
	}
	if low > s.minimum() {
		s.RaisedUntil = u.clock.Now().Add(raiseAllowance)
	}
	s.Wanted = min(max(s.Wanted, low), high)
	s.Proven = min(s.Proven, low)
	s.MinInstances, s.MaxInstances = &low, &high
	return true, scaled(ctx, t, u.journal, d, s, was, "user")
}

// change runs fn on a busy deployment under its lock, and stores, tells and wakes when fn changed something.
func (u *Deployments) change(ctx context.Context, id string, fn func(tx, *deployment) (bool, error)) error {
	return u.store.tx(ctx, func(t tx) error {
		d, err := u.store.lock(ctx, t, id)
		if err != nil {
			return err
		}
		if d == nil || !d.visible() {
			return problem.New(problem.NotFound, "Deployment id '%s': Deployment not found", id)
		}
		if !d.Status.Busy() {
			return problem.New(problem.IllegalState, "Function id '%s', version '%s': Status %s, only a deployment that is active or on its way there can be changed", d.FunctionID, d.VersionID, d.Status)
		}
		changed, err := fn(t, d)
		if err != nil || !changed {
			return err
		}
		d.UpdatedAt = u.clock.Now().Truncate(time.Microsecond)
		if err := u.store.put(ctx, t, d); err != nil {
			return err
		}
		if err := bus.Record(ctx, t, u.journal, contract.Updated, d.fact(), contract.Changed{Deployment: answer(d)}); err != nil {
			return err
		}
		return u.store.poke(ctx, t, d.ID)
	})
}

// Delete undeploys (§11.8). A graceful one that drains can be hurried by a second one that is not graceful; every other
// second one finds nothing.
func (u *Deployments) Delete(ctx context.Context, req contract.DeleteRequest) (functions.FunctionResponse, error) {
	none := functions.FunctionResponse{}
	if err := validIDs(map[string]string{"functionId": req.FunctionID, "versionId": req.VersionID}); err != nil {
		return none, err
	}
	how, grace, err := gracePeriod(req)
	if err != nil {
		return none, err
	}
	found, err := u.ofVersion(ctx, access.ReadDeployment, req.FunctionID, req.VersionID)
	if problem.HasCode(err, problem.NotFound) && access.CallerFrom(ctx).Alias {
		return u.undeployed(ctx, req)
	}
	if err != nil {
		return none, err
	}
	f, err := u.function(ctx, req.FunctionID, req.VersionID)
	if err != nil {
		return none, err
	}
	was := found.Status
	err = u.store.tx(ctx, func(t tx) error {
		d, err := u.store.lock(ctx, t, found.ID)
		if err != nil {
			return err
		}
		if d == nil || !d.visible() || d.Teardown == graceful && how == graceful {
			return noDeployment(req.VersionID)
		}
		if err := d.unchanged(req.IfMatch); err != nil {
			return err
		}
		was, found = d.Status, d
		return beginTeardown(ctx, t, u.store, u.journal, d, how, grace, u.clock.Now().Truncate(time.Microsecond))
	})
	if err != nil {
		return none, err
	}
	u.meters.moved(found, was, u.clock.Now())
	u.tell(ctx, found.ID)
	return inactive(f), nil
}

// undeployed answers a client of the organisation's aliases that undeploys what is not deployed: it updates a resource
// that has no specification, and takes nothing but success for an answer (§11.8).
func (u *Deployments) undeployed(ctx context.Context, req contract.DeleteRequest) (functions.FunctionResponse, error) {
	f, err := u.function(ctx, req.FunctionID, req.VersionID)
	if err != nil {
		return functions.FunctionResponse{}, err
	}
	return inactive(f), covered(ctx, access.ReadDeployment, f.ID, f.VersionID)
}

func inactive(f functions.Function) functions.FunctionResponse {
	f.Status, f.Secrets, f.ActiveInstances = functions.Inactive, nil, nil
	return functions.FunctionResponse{Function: f}
}

// gracePeriod reads how a client wants to undeploy: seconds, or an ISO-8601 duration; none at all is a forced undeploy.
func gracePeriod(req contract.DeleteRequest) (how teardown, seconds int, err error) {
	text := strings.TrimSpace(req.GracePeriod)
	switch {
	case !req.Graceful && text == "":
		return forced, 0, nil
	case text == "":
		return graceful, drainGraceful, nil
	}
	period, ok := parseISO(text)
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		period, ok = time.Duration(n)*time.Second, n >= 0
	}
	check := problem.NewCheck("undeployment")
	check.Require(ok && period <= longestDrain*time.Second, "gracePeriod", "must be an ISO-8601 duration such as PT10M, or a number of seconds, of at most a day")
	if err := check.Err(); err != nil {
		return forced, 0, err
	}
	if seconds = int(math.Ceil(period.Seconds())); seconds == 0 || !req.Graceful {
		return forced, 0, nil
	}
	return graceful, seconds, nil
}

// Get answers with the deployment of a version.
func (u *Deployments) Get(ctx context.Context, req contract.VersionRequest) (contract.Response, error) {
	if err := validIDs(map[string]string{"functionId": req.FunctionID, "versionId": req.VersionID}); err != nil {
		return contract.Response{}, err
	}
	d, err := u.ofVersion(ctx, access.ReadDeployment, req.FunctionID, req.VersionID)
	if err != nil {
		return contract.Response{}, err
	}
	return respond(d), nil
}

// GetByID answers with one deployment.
func (u *Deployments) GetByID(ctx context.Context, req contract.IDRequest) (contract.Response, error) {
	if err := validIDs(map[string]string{"deploymentId": req.ID}); err != nil {
		return contract.Response{}, err
	}
	d, err := u.byID(ctx, access.ReadDeployment, req.ID)
	if err != nil {
		return contract.Response{}, err
	}
	return respond(d), nil
}

// Instances answers with the live instances of a version, for other services.
func (u *Deployments) Instances(ctx context.Context, req contract.InstancesRequest) (contract.InstancesResponse, error) {
	out := contract.InstancesResponse{Instances: []instances.Brief{}}
	if err := validIDs(map[string]string{"versionId": req.VersionID}); err != nil {
		return out, err
	}
	d, err := u.store.find(ctx, u.store.pool, `WHERE version_id = $1`, req.VersionID)
	if err != nil || d == nil {
		return out, err
	}
	for _, i := range d.live() {
		out.Instances = append(out.Instances, brief(d, i))
	}
	return out, nil
}

// Wake raises a version that wants no instance to one, where it is preferred; for any other it does nothing.
func (u *Deployments) Wake(ctx context.Context, req contract.WakeRequest) (rpc.None, error) {
	if err := validIDs(map[string]string{"versionId": req.VersionID}); err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, u.store.tx(ctx, func(t tx) error {
		id, err := u.store.idOf(ctx, t, "deployments", "version_id", req.VersionID)
		if err != nil || id == "" {
			return err
		}
		d, err := u.store.lock(ctx, t, id)
		if err != nil || d == nil || d.Teardown != standing || !d.Status.Busy() {
			return err
		}
		if slices.ContainsFunc(d.Specs, func(s *specification) bool { return s.Wanted > 0 }) {
			return nil
		}
		first := byPreference(d.Specs)[0]
		first.Wanted = 1
		if err := u.store.put(ctx, t, d); err != nil {
			return err
		}
		if err := scaled(ctx, t, u.journal, d, first, 0, "zero"); err != nil {
			return err
		}
		return u.store.poke(ctx, t, d.ID)
	})
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
