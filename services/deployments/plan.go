package deployments

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/services/deployments/placement"
)

// Drain times of an order to end, in seconds.
const (
	drainGraceful  = 3600
	drainScaleDown = 30
	// longestDrain is the most that a client may ask for.
	longestDrain = 24 * 3600
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

// plan is the difference between wanted and observed, as steps.
type plan struct {
	lost   []*instance
	stops  []stop
	starts []start
	// again is when time alone will change the plan; zero when never.
	again time.Time
}

type stop struct {
	instance *instance
	cause    instances.Cause
	drain    int
	// message is set when the order is a verdict on the instance.
	message string
}

type start struct {
	spec  *specification
	count int
}

// later notes a time at which the plan changes by itself.
func (p *plan) later(at time.Time) {
	if !at.IsZero() && (p.again.IsZero() || at.Before(p.again)) {
		p.again = at
	}
}

// nodeView answers what the planner asks about nodes; an unknown node is fine until it is judged lost.
type nodeView struct {
	// lost says that the instances of a node count as ended.
	lost func(placement.Node) bool
	// state of a node, empty when unknown.
	state func(placement.Node) clusters.NodeState
}

// makePlan compares wanted with observed. It is pure, and planning again after the plan was carried out gives nothing.
func makePlan(d *deployment, nodes nodeView, now time.Time) plan {
	var p plan
	gone := map[*instance]bool{}
	for _, i := range d.live() {
		if nodes.lost(i.place()) {
			p.lost, gone[i] = append(p.lost, i), true
		}
	}
	remaining := slices.DeleteFunc(d.live(), func(i *instance) bool { return gone[i] })
	for _, i := range remaining {
		p.repeatStop(i, now)
	}
	switch {
	case d.Teardown != standing || d.Status == functions.Inactive:
		drain := 0
		if d.Teardown == graceful {
			drain = d.Grace
		}
		p.stopAll(remaining, instances.ByUser, drain)
		return p
	case d.Status == functions.Error:
		p.stopAll(remaining, instances.ByUser, 0)
		return p
	}
	for _, i := range remaining {
		p.judge(i, now)
	}
	// Those given up just now are neither useful nor, while nothing is replaced, missing.
	given, blamed := map[*instance]bool{}, map[*instance]bool{}
	for _, s := range p.stops {
		given[s.instance] = s.message != ""
		blamed[s.instance] = s.message != "" && fault(s.cause)
	}
	pause := pauseUntil(d, now)
	replace := mayReplace(d)
	for _, s := range byPreference(d.Specs) {
		mine := d.of(s)
		useful := slices.DeleteFunc(slices.Clone(mine), func(i *instance) bool { return !i.useful() || gone[i] || given[i] })
		missing := s.Wanted - len(useful)
		if old := rolling(useful); len(old) > 0 {
			if mayEnd(s, useful) {
				p.stops = append(p.stops, stop{instance: old[0], cause: instances.ByUser, drain: drainScaleDown})
				continue
			}
			missing++ // one more than wanted, until it has taken a place
			if s.UnplacedCode != "" && missing == 1 {
				missing = 0 // no room for one more; what ends first makes it
			}
		}
		if missing < 0 {
			for _, i := range victims(useful, nodes)[:-missing] {
				p.stops = append(p.stops, stop{instance: i, cause: instances.ByUser, drain: drainScaleDown})
			}
			continue
		}
		if !replace {
			// An image that cannot start is not started without end: its failures stay counted as its instances.
			missing -= len(slices.DeleteFunc(slices.Clone(mine), func(i *instance) bool { return !i.failed() && !blamed[i] }))
		}
		if missing <= 0 {
			continue
		}
		if now.Before(pause) {
			p.later(pause)
			continue
		}
		p.starts = append(p.starts, start{s, missing})
	}
	for _, s := range d.Specs {
		if now.Before(s.RaisedUntil) {
			p.later(s.RaisedUntil)
		}
	}
	return p
}

// moved is a specification whose wanted count is another one than before.
type moved struct {
	spec *specification
	was  int
}

// overflow moves what a specification wants beyond its minimum, and finds no place for, to the next ones in the order of
// preference. It never moves back to a better one, so that two full ones do not play ball.
func overflow(d *deployment) []moved {
	if d.Teardown != standing || !d.Status.Busy() {
		return nil
	}
	var out []moved
	order := byPreference(d.Specs)
	for n, s := range order {
		if s.UnplacedCode == "" {
			continue
		}
		have := len(slices.DeleteFunc(d.of(s), func(i *instance) bool { return !i.useful() }))
		spare := s.Wanted - max(have, s.minimum())
		for _, other := range order[n+1:] {
			if room := min(spare, other.maximum()-other.Wanted); room > 0 && other.UnplacedCode == "" {
				out = append(out, moved{s, s.Wanted}, moved{other, other.Wanted})
				s.Wanted, other.Wanted, spare = s.Wanted-room, other.Wanted+room, spare-room
			}
		}
	}
	return out
}

// rolling are the instances to be replaced, the oldest first.
func rolling(useful []*instance) []*instance {
	return slices.DeleteFunc(slices.Clone(useful), func(i *instance) bool { return !i.Rolling })
}

// mayEnd reports whether an instance that is to be replaced can go: another one runs in its place, or there is no room
// for another one and nothing is missing yet.
func mayEnd(s *specification, useful []*instance) bool {
	running := 0
	for _, i := range useful {
		if i.State == instances.Running {
			running++
		}
	}
	return running > s.Wanted || s.UnplacedCode != "" && running >= s.Wanted
}

// rollingBlocked reports whether a replacement found no place, so that the plan changes at once.
func rollingBlocked(d *deployment) bool {
	return slices.ContainsFunc(d.Specs, func(s *specification) bool {
		useful := slices.DeleteFunc(d.of(s), func(i *instance) bool { return !i.useful() })
		return s.UnplacedCode != "" && len(rolling(useful)) > 0 && mayEnd(s, useful)
	})
}

// repeatStop gives an order to end again when nothing came of it.
func (p *plan) repeatStop(i *instance, now time.Time) {
	if i.StopCause == "" || i.StopAt == nil {
		return
	}
	again := i.StopAt.Add(time.Duration(i.StopDrain)*time.Second + stopGrace)
	if now.Before(again) {
		p.later(again)
		return
	}
	p.stops = append(p.stops, stop{instance: i, cause: i.StopCause})
}

// stopAll ends every instance; one that drains already is hurried when drain is 0.
func (p *plan) stopAll(all []*instance, cause instances.Cause, drain int) {
	for _, i := range all {
		if i.StopCause == "" || i.StopDrain > 0 && drain == 0 {
			p.stops = append(p.stops, stop{instance: i, cause: cause, drain: drain})
		}
	}
}

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

// byPreference orders specifications by preferredOrder, and those alike as they were sent.
func byPreference(specs []*specification) []*specification {
	sorted := slices.Clone(specs)
	slices.SortStableFunc(sorted, func(a, b *specification) int { return cmp.Compare(a.order(), b.order()) })
	return sorted
}

// victims orders instances, the first to go first: ailing, starting, on a node that is not ready, and then the youngest
// (clusters-agents §4.6).
func victims(all []*instance, nodes nodeView) []*instance {
	rank := func(i *instance) int {
		switch {
		case i.State == instances.Unhealthy, i.Rolling:
			return 0
		case i.State == instances.Starting:
			return 1
		case nodes.state(i.place()) != clusters.NodeReady:
			return 2
		}
		return 3
	}
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b *instance) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return sorted
}

// startBy is when a deployment that does not become ACTIVE has failed: with every instance placed, when the last of
// them had to be ready; else when waiting for a place has taken longer than patience.
func startBy(d *deployment, patience time.Duration) time.Time {
	by := d.CreatedAt.Add(patience)
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
	if last := d.CreatedAt.Add(2 * patience); last.Before(by) {
		return last
	}
	return by
}
