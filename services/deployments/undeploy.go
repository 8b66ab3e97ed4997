package deployments

import (
	"context"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

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

// beginTeardown stores that a deployment shall go, with its events, and wakes the reconciler. The drain starts once: a
// forced teardown that hurries a graceful one is an update of it.
func beginTeardown(ctx context.Context, t tx, s *store, j *bus.Journal, d *deployment, how teardown, grace int, now time.Time) error {
	told := contract.DrainStarted
	if d.Teardown != standing {
		told = contract.Updated
	}
	was := make([]int, len(d.Specs))
	for n, spec := range d.Specs {
		was[n] = spec.Wanted
	}
	before := answer(d)
	d.Grace = grace
	tearDown(d, how, now)
	if err := s.put(ctx, t, d); err != nil {
		return err
	}
	for n, spec := range d.Specs {
		if err := scaled(ctx, t, j, d, moved{spec, was[n]}, becauseDrain); err != nil {
			return err
		}
	}
	err := bus.Record(ctx, t, j, told, d.fact(), contract.Changed{Deployment: answer(d), Before: &before, Graceful: how == graceful})
	if err != nil {
		return err
	}
	return s.poke(ctx, t, d.ID)
}

// tearDown changes what is wanted to nothing.
func tearDown(d *deployment, how teardown, now time.Time) {
	d.Teardown, d.Status, d.UpdatedAt = how, functions.Inactive, now
	for _, s := range d.Specs {
		s.Wanted, s.Unplaced, s.UnplacedCode = 0, "", ""
	}
	d.Reason = explain(d)
}
