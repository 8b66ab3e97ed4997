package deployments

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// why is the reason of a scaling decision: a word that programs know, and a sentence.
type why struct{ cause, reason string }

var (
	becauseUser     = why{"user", "a client set the bounds"}
	becauseWork     = why{"zero", "a request waits and no instance is wanted"}
	becauseKept     = why{"busy", "an idle instance that was to end has a request again"}
	becauseCapacity = why{"capacity", "a specification that is preferred has no room"}
	becauseDrain    = why{"drain", "the deployment is removed"}
)

func becauseIdle(after time.Duration) why {
	return why{"idle", fmt.Sprintf("without a request for %s", after)}
}

// moved is a specification whose wanted count is another one than before.
type moved struct {
	spec *specification
	was  int
}

// scaled records why the number of wanted instances changed, if it did.
func scaled(ctx context.Context, t tx, j *bus.Journal, d *deployment, m moved, w why) error {
	if m.was == m.spec.Wanted {
		return nil
	}
	return bus.Record(ctx, t, j, contract.ScaleChanged, d.fact(), contract.ScaleDecided{
		DeploymentID: d.ID, VersionID: d.VersionID, GPUSpecificationID: m.spec.ID, From: m.was, To: m.spec.Wanted, Cause: w.cause, Reason: w.reason,
	})
}

// Wake raises a version that wants no instance to one, where it is preferred; for any other it only notes that work asks.
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
		now := u.clock.Now()
		if slices.ContainsFunc(d.Specs, func(s *specification) bool { return s.Wanted > 0 }) {
			return u.asked(ctx, t, d, now)
		}
		first := byPreference(d.Specs)[0]
		first.Wanted, first.AskedAt = 1, now
		if err := u.store.put(ctx, t, d); err != nil {
			return err
		}
		if err := scaled(ctx, t, u.journal, d, moved{first, 0}, becauseWork); err != nil {
			return err
		}
		return u.store.poke(ctx, t, d.ID)
	})
}

// notedEvery is how often it is noted that work still asks.
const notedEvery = time.Second

// asked notes that work waits, so that what was raised for it stays.
func (u *Deployments) asked(ctx context.Context, t tx, d *deployment, now time.Time) error {
	noted := false
	for _, s := range d.Specs {
		if s.Wanted > s.minimum() && now.Sub(s.AskedAt) >= notedEvery {
			s.AskedAt, noted = now, true
		}
	}
	if !noted {
		return nil
	}
	return u.store.put(ctx, t, d)
}

// Scale sets how many instances a version, or one of its specifications, shall have (§11.10). What is asked for is brought
// within the bounds; only a version that is ACTIVE is scaled.
func (u *Deployments) Scale(ctx context.Context, req contract.ScaleRequest) (contract.ScaleResponse, error) {
	none := contract.ScaleResponse{}
	if err := validScale(&req); err != nil {
		return none, err
	}
	var out contract.ScaleResponse
	err := u.store.tx(ctx, func(t tx) error {
		id, err := u.store.idOf(ctx, t, "deployments", "version_id", req.VersionID)
		if err != nil {
			return err
		}
		var d *deployment
		if id != "" {
			if d, err = u.store.lock(ctx, t, id); err != nil {
				return err
			}
		}
		if d == nil || !d.visible() {
			return noDeployment(req.VersionID)
		}
		specs, err := meant(d, req)
		if err != nil {
			return err
		}
		if d.Status != functions.Active || d.Teardown != standing {
			out = d.scaling(contract.NoOperation)
			return nil
		}
		outcome, moves := rescale(specs, *req.Required)
		for _, m := range moves {
			if m.spec.Wanted > m.was {
				m.spec.AskedAt = u.clock.Now()
			}
			if err := scaled(ctx, t, u.journal, d, m, why{"autoscaler", fmt.Sprintf("%d instances are required: %s", *req.Required, req.Reason)}); err != nil {
				return err
			}
		}
		if out = d.scaling(outcome); len(moves) == 0 {
			return nil
		}
		if err := u.store.put(ctx, t, d); err != nil {
			return err
		}
		return u.store.poke(ctx, t, d.ID)
	})
	return out, err
}

func validScale(req *contract.ScaleRequest) error {
	ids := map[string]string{"versionId": req.VersionID}
	if req.DeploymentID != "" {
		ids["deploymentId"] = req.DeploymentID
	}
	if req.GPUSpecificationID != "" {
		ids["gpuSpecificationId"] = req.GPUSpecificationID
	}
	if err := validIDs(ids); err != nil {
		return err
	}
	check := problem.NewCheck("scaling")
	check.Require(req.Required != nil && *req.Required >= 0, "requiredNumberOfInstances", "must be given and at least 0")
	if req.Reason = strings.TrimSpace(req.Reason); req.Reason == "" {
		req.Reason = "no reason was given"
	}
	check.Require(len(req.Reason) <= maxMessage, "reason", "must be at most %d bytes", maxMessage)
	return check.Err()
}

// meant are the specifications that a scale call is about; ids of another deployment are refused.
func meant(d *deployment, req contract.ScaleRequest) ([]*specification, error) {
	check := problem.NewCheck("scaling")
	check.Require(req.DeploymentID == "" || strings.EqualFold(req.DeploymentID, d.ID), "deploymentId", "the deployment of version '%s' is '%s'", d.VersionID, d.ID)
	specs := d.Specs
	if req.GPUSpecificationID != "" {
		s := d.spec(strings.ToLower(req.GPUSpecificationID))
		check.Require(s != nil, "gpuSpecificationId", "deployment '%s' has no such specification", d.ID)
		specs = []*specification{s}
	}
	return specs, check.Err()
}

// rescale moves what specifications want towards a number of instances in all: more where it is preferred, less where it
// is preferred least, never beyond the bounds of any.
func rescale(specs []*specification, required int) (contract.ScaleOutcome, []moved) {
	var low, high, have int
	for _, s := range specs {
		low, high, have = low+s.minimum(), high+s.maximum(), have+s.Wanted
	}
	target := min(max(required, low), high)
	order := byPreference(specs)
	outcome := contract.ScalingUp
	switch {
	case target == have && target != required:
		return contract.NotAutoScalable, nil
	case target == have:
		return contract.NoScalingNeeded, nil
	case target < have:
		outcome = contract.ScalingDown
		slices.Reverse(order)
	}
	var moves []moved
	for _, s := range order {
		was := s.Wanted
		s.Wanted = min(max(s.Wanted+target-have, s.minimum()), s.maximum())
		if have += s.Wanted - was; s.Wanted != was {
			moves = append(moves, moved{s, was})
		}
	}
	return outcome, moves
}

// scaling tells how a deployment stands after a scale call.
func (d *deployment) scaling(outcome contract.ScaleOutcome) contract.ScaleResponse {
	out := contract.ScaleResponse{Outcome: outcome, Status: d.Status}
	useful, wanted := 0, 0
	for _, i := range d.live() {
		switch {
		case !i.useful():
			out.TerminatingInstances++
			continue
		case i.State == instances.Starting:
			out.PendingInstances++
		default:
			out.ActiveInstances++
		}
		useful++
	}
	for _, s := range d.Specs {
		wanted += s.Wanted
	}
	out.AllocatingInstances = max(wanted-useful, 0)
	return out
}

// settleIdle lowers what is wanted beyond the minimums by the instances that have had no request for so long, and by those
// that work asked for so long ago and that never came. It also says when time alone will change that.
func settleIdle(d *deployment, after time.Duration, now time.Time) (moves []moved, again time.Time) {
	if after <= 0 || d.Teardown != standing || d.Status != functions.Active {
		return nil, again
	}
	for _, s := range d.Specs {
		if s.Wanted <= s.minimum() {
			continue
		}
		useful := d.usefulOf(s)
		var waiting []time.Time
		for range s.Wanted - len(useful) {
			waiting = append(waiting, s.AskedAt) // for an instance that is not there
		}
		for _, i := range useful {
			if i.IdleSince != nil && i.State == instances.Running {
				waiting = append(waiting, *i.IdleSince)
			}
		}
		spare := 0
		for _, since := range waiting {
			if s.AskedAt.After(since) {
				since = s.AskedAt
			}
			if due := since.Add(after); !now.Before(due) {
				spare++
			} else if again.IsZero() || due.Before(again) {
				again = due
			}
		}
		if spare > 0 {
			_, lowered := rescale([]*specification{s}, s.Wanted-spare)
			moves = append(moves, lowered...)
		}
	}
	return moves, again
}
