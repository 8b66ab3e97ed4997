package deployments

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// A forced undeploy takes effect for clients at once, while its last instances need a moment to stop. Deploying again in
// that moment waits for them instead of failing.
const (
	awaitTeardown = 5 * time.Second
	awaitIdle     = time.Second
	awaitEvery    = 25 * time.Millisecond
)

// vacant is nil when the version has no deployment; else it says what to do about the one it has. A teardown is waited
// for: a forced one for long, and one without instances, as after an ERROR; a graceful one for the moment that it takes
// when nothing is in flight.
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
		switch {
		case d.Teardown == standing:
			return occupied(d)
		case d.Teardown == graceful && len(d.live()) > 0:
			patience = idle.C
		default:
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

// errTaken ends the transaction of a deploy call that came second.
var errTaken = errors.New("the version has a deployment")

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
