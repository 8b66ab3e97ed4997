package deployments

import (
	"fmt"
	"slices"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
)

// Patience of the reconciler.
const (
	// startGrace lets the agent itself report a start that took too long before the reconciler gives it up.
	startGrace = 15 * time.Second
	// sickFor is how long an instance may fail its health check before it is replaced (clusters-agents §5).
	sickFor = 5 * time.Minute
	// stopGrace is added to the drain time before an unanswered order to end is given again.
	stopGrace = time.Minute
	// failureWindow is how long a failure slows replacements down.
	failureWindow = 10 * time.Minute
	longestPause  = time.Minute
)

// judge gives up an instance that starts or ails for too long.
func (p *plan) judge(i *instance, now time.Time) {
	if !i.useful() {
		return
	}
	switch i.State {
	case instances.Starting:
		if at := i.Deadline.Add(startGrace); now.Before(at) {
			p.later(at)
		} else if i.Sequence == 0 {
			// Not a word of it: the order was never taken, which says nothing about what it would have started.
			p.stops = append(p.stops, stop{instance: i, cause: instances.NoCapacity, message: "the node did not take the order to start it in time"})
		} else {
			p.stops = append(p.stops, stop{instance: i, cause: instances.NotReady, message: lateMessage(i)})
		}
	case instances.Unhealthy:
		if at := i.StateAt.Add(sickFor); now.Before(at) {
			p.later(at)
		} else {
			p.stops = append(p.stops, stop{
				instance: i, cause: instances.NotReady, drain: drainScaleDown,
				message: fmt.Sprintf("the instance has failed its health check for %s", sickFor),
			})
		}
	default:
	}
}

func lateMessage(i *instance) string {
	message := "the instance was not ready in time"
	if i.Phase != "" {
		message += "; it was last seen in phase " + string(i.Phase)
	}
	if i.Message != "" {
		message += ": " + i.Message
	}
	return message
}

// mayReplace reports whether failed instances are replaced: always once the version has been ACTIVE, and while it
// deploys only when every specification has had an instance that was ready (§11.9).
func mayReplace(d *deployment) bool {
	if d.Status != functions.Deploying {
		return true
	}
	return !slices.ContainsFunc(d.Specs, func(s *specification) bool { return s.minimum() > 0 && !s.Ran })
}

// pauseUntil slows replacements down: 0, 1, 2, 4 … 60 s after the last of the recent failures of the version.
func pauseUntil(d *deployment, now time.Time) time.Time {
	var last time.Time
	recent := 0
	for _, i := range d.Instances {
		at := i.unasked()
		if at.IsZero() || now.Sub(at) > failureWindow {
			continue
		}
		recent++
		if at.After(last) {
			last = at
		}
	}
	return last.Add(pause(recent))
}

func pause(failures int) time.Duration {
	if failures < 2 {
		return 0
	}
	return min(time.Second<<min(failures-2, 16), longestPause)
}

// startBy is when a deployment that does not become ACTIVE has failed: with every instance placed, when the last of
// them had to be ready; else when waiting for a place has taken longer than patience.
func startBy(d *deployment, patience time.Duration) time.Time {
	by := d.StartingAt.Add(patience)
	if d.unplaced() != nil || len(d.Instances) == 0 {
		return by
	}
	by = time.Time{}
	for _, i := range d.Instances {
		if at := i.Deadline.Add(2 * startGrace); at.After(by) {
			by = at
		}
	}
	// Waiting for a place and then starting may each take their time, but not again and again.
	if last := d.StartingAt.Add(2 * patience); last.Before(by) {
		return last
	}
	return by
}
