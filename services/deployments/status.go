package deployments

import (
	"cmp"
	"fmt"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
)

// raiseAllowance is how long a raised minimum may take before missing it counts as a loss.
const raiseAllowance = 10 * time.Minute

// tally is what the status of a version depends on, for one specification.
type tally struct {
	Min, Proven int
	RaisedUntil time.Time
	Running     int
	Starting    int
	// Failed counts instances that ended with an error.
	Failed int
}

// due is the minimum below which the version counts as hurt now.
func (t tally) due(now time.Time) int {
	if now.Before(t.RaisedUntil) {
		return min(t.Min, t.Proven)
	}
	return t.Min
}

// next is the state machine of §11.9 for a deployment that stands; startBy bounds the first start. INACTIVE and ERROR
// are left by clients only.
func next(current functions.Status, specs []tally, now, startBy time.Time) functions.Status {
	var alive, failed, minimum int
	met, hurt, toZero := true, false, false
	for _, t := range specs {
		alive += t.Running + t.Starting
		failed += t.Failed
		minimum += t.Min
		met = met && t.Running >= t.Min
		hurt = hurt || t.Running < t.due(now)
		toZero = toZero || t.Min == 0
	}
	switch current {
	case functions.Deploying:
		switch {
		case met:
			return functions.Active
		case alive == 0 && failed >= minimum, now.After(startBy):
			return functions.Error
		}
	case functions.Active, functions.Degrading, functions.Degraded:
		switch {
		case met || !hurt:
			return functions.Active
		case alive > 0:
			return functions.Degrading
		case current == functions.Active && toZero:
			return functions.Active
		}
		return functions.Degraded
	default:
	}
	return current
}

func (d *deployment) tallies() []tally {
	out := make([]tally, len(d.Specs))
	for n, s := range d.Specs {
		t := tally{Min: s.minimum(), Proven: s.Proven, RaisedUntil: s.RaisedUntil}
		for _, i := range d.of(s) {
			switch {
			case i.failed():
				t.Failed++
			case !i.useful():
			case i.State == instances.Running:
				t.Running++
			case i.State == instances.Starting:
				t.Starting++
			}
		}
		out[n] = t
	}
	return out
}

// Reason codes of a status. Codes of placement refusals and causes of failed instances appear as they are.
const (
	codeReady      = "ready"
	codeZero       = "scaled-to-zero"
	codeStarting   = "starting"
	codeBelow      = "below-minimum"
	codeNone       = "no-instance"
	codeTimeout    = "start-timeout"
	codeDraining   = "draining"
	codeStopping   = "stopping"
	codeUndeployed = "undeployed"
)

// explain says why a deployment has the status it has, and what to do.
func explain(d *deployment) functions.Reason {
	var running, starting, minimum, wanted int
	for n, t := range d.tallies() {
		running, starting, minimum, wanted = running+t.Running, starting+t.Starting, minimum+t.Min, wanted+d.Specs[n].Wanted
	}
	switch d.Status {
	case functions.Active:
		if wanted == 0 && running == 0 {
			return functions.Reason{Code: codeZero, Message: "no instance runs; the first request starts one"}
		}
		return functions.Reason{Code: codeReady, Message: fmt.Sprintf("%d of %d instances run", running, wanted)}
	case functions.Deploying:
		if s := d.unplaced(); s != nil {
			return functions.Reason{
				Code: s.UnplacedCode, Message: "an instance waits for a node: " + s.Unplaced,
				Action: "wait for capacity, add a node, or change the GPU specification",
			}
		}
		message := fmt.Sprintf("%d of %d instances run, %d start", running, minimum, starting)
		if i := d.newest(func(i *instance) bool { return i.useful() && i.State == instances.Starting }); i != nil && i.Phase != "" {
			message += " (" + string(i.Phase) + ")"
		}
		return functions.Reason{Code: codeStarting, Message: message, Action: "wait; the reason changes when a start fails"}
	case functions.Degrading, functions.Degraded:
		code, message := codeBelow, fmt.Sprintf("%d of %d instances run, %d start", running, minimum, starting)
		if d.Status == functions.Degraded {
			code, message = codeNone, "no instance runs or starts"
		}
		action := "wait for the replacement"
		if s := d.unplaced(); s != nil {
			code, action = s.UnplacedCode, "add a node, or free GPUs"
			message += "; an instance waits for a node: " + s.Unplaced
		} else if i := d.newest((*instance).failed); i != nil {
			action = "wait for the replacement; if it fails too, read healthInfo"
			message += "; the last one ended: " + i.sentence()
		}
		return functions.Reason{Code: code, Message: message, Action: action}
	case functions.Error:
		action := "read healthInfo, correct the cause, undeploy the version and deploy it again"
		if i := d.newest((*instance).failed); i != nil {
			return functions.Reason{Code: string(i.why()), Message: "the instances did not start: " + i.sentence(), Action: action}
		}
		if s := d.unplaced(); s != nil {
			return functions.Reason{Code: s.UnplacedCode, Message: "no node for an instance in time: " + s.Unplaced, Action: "add a node or free GPUs, and it starts by itself; or undeploy it and deploy it with another GPU specification"}
		}
		return functions.Reason{Code: codeTimeout, Message: "the instances were not ready in time", Action: action}
	default:
	}
	remain := len(d.live())
	switch {
	case remain == 0:
		return functions.Reason{Code: codeUndeployed, Message: "the version was undeployed"}
	case d.Teardown == graceful:
		return functions.Reason{Code: codeDraining, Message: fmt.Sprintf("%d instances finish their requests", remain), Action: "wait, or undeploy with graceful=false"}
	}
	return functions.Reason{Code: codeStopping, Message: fmt.Sprintf("%d instances stop", remain), Action: "wait a moment"}
}

func (d *deployment) unplaced() *specification {
	for _, s := range d.Specs {
		if s.UnplacedCode != "" {
			return s
		}
	}
	return nil
}

// newest is the latest instance that matches; latest by its last change.
func (d *deployment) newest(match func(*instance) bool) *instance {
	var found *instance
	for _, i := range d.Instances {
		if match(i) && (found == nil || !i.UpdatedAt.Before(found.UpdatedAt)) {
			found = i
		}
	}
	return found
}

// why is the cause that made the instance end: an order's cause says more than the end that it led to, unless the
// instance itself reported a fault.
func (i *instance) why() instances.Cause {
	if i.live() && i.StopCause == "" && i.State == instances.Unhealthy {
		return instances.NotReady
	}
	if !i.live() && i.Cause != "" && fault(i.Cause) && i.Cause != instances.ByService {
		return i.Cause
	}
	return cmp.Or(i.StopCause, i.Cause, instances.Failed)
}

// sentence says how the instance ended.
func (i *instance) sentence() string {
	if i.Message != "" {
		return string(i.why()) + ": " + i.Message
	}
	return string(i.why()) + ", no error reported"
}
