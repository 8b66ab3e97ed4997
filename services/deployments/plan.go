package deployments

import (
	"cmp"
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
	// ifIdle has the instance go on when it has a request.
	ifIdle bool
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
	var remaining []*instance
	for _, i := range d.live() {
		if nodes.lost(i.place()) {
			p.lost = append(p.lost, i)
			continue
		}
		remaining = append(remaining, i)
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
	v := p.verdicts()
	pause, replace := pauseUntil(d, now), mayReplace(d)
	for _, s := range byPreference(d.Specs) {
		missing := p.fit(s, v.useful(d.of(s)), nodes)
		if !replace {
			// An image that cannot start is not started without end: its failures stay counted as its instances.
			missing -= v.failures(d.of(s))
		}
		switch {
		case missing <= 0:
		case now.Before(pause):
			p.later(pause)
		default:
			p.starts = append(p.starts, start{s, missing})
		}
	}
	for _, s := range d.Specs {
		if now.Before(s.RaisedUntil) {
			p.later(s.RaisedUntil)
		}
	}
	return p
}

// fit says how many instances of a specification are missing, and ends those that are too many or replaced by now.
func (p *plan) fit(s *specification, useful []*instance, nodes nodeView) (missing int) {
	missing = s.Wanted - len(useful)
	if old := rolling(useful); len(old) > 0 {
		if mayEnd(s, useful) {
			p.stops = append(p.stops, stop{instance: old[0], cause: instances.ByUser, drain: drainScaleDown})
			return 0
		}
		missing++ // one more than wanted, until it has taken a place
		if s.UnplacedCode != "" && missing == 1 {
			missing = 0 // no room for one more; what ends first makes it
		}
	}
	if missing < 0 {
		for _, i := range victims(useful, nodes)[:-missing] {
			p.stops = append(p.stops, surplus(i))
		}
	}
	return missing
}

// surplus ends an instance that is one too many. One that idles goes only if it still does, and finishes what slips in.
func surplus(i *instance) stop {
	if i.IdleSince != nil {
		return stop{instance: i, cause: instances.ByUser, drain: drainGraceful, ifIdle: true}
	}
	return stop{instance: i, cause: instances.ByUser, drain: drainScaleDown}
}

// verdicts are what a plan has judged so far: instances that end with their node, and those that are given up.
type verdicts struct{ gone, given, blamed map[*instance]bool }

func (p *plan) verdicts() verdicts {
	v := verdicts{gone: map[*instance]bool{}, given: map[*instance]bool{}, blamed: map[*instance]bool{}}
	for _, i := range p.lost {
		v.gone[i] = true
	}
	for _, s := range p.stops {
		v.given[s.instance] = s.message != ""
		v.blamed[s.instance] = s.message != "" && fault(s.cause)
	}
	return v
}

// useful leaves out the instances that were given up just now: they do not count towards what is wanted any more.
func (v verdicts) useful(all []*instance) []*instance {
	return slices.DeleteFunc(all, func(i *instance) bool { return !i.useful() || v.gone[i] || v.given[i] })
}

// failures counts the instances that failed, before or just now.
func (v verdicts) failures(all []*instance) int {
	return len(slices.DeleteFunc(all, func(i *instance) bool { return !i.failed() && !v.blamed[i] }))
}

// stopAll ends every instance; one that drains already is hurried when drain is 0.
func (p *plan) stopAll(all []*instance, cause instances.Cause, drain int) {
	for _, i := range all {
		if i.StopCause == "" || i.StopDrain > 0 && drain == 0 {
			p.stops = append(p.stops, stop{instance: i, cause: cause, drain: drain})
		}
	}
}

// repeatStop gives an order to end again when nothing came of it.
func (p *plan) repeatStop(i *instance, now time.Time) {
	if i.StopCause == "" || i.StopAt == nil {
		return
	}
	s := stop{instance: i, cause: i.StopCause}
	again := i.StopAt.Add(time.Duration(i.StopDrain)*time.Second + stopGrace)
	if i.StopIfIdle && i.State != instances.ShuttingDown { // not answered yet
		again, s = i.StopAt.Add(stopGrace), surplus(i)
	}
	if now.Before(again) {
		p.later(again)
		return
	}
	p.stops = append(p.stops, s)
}

// byPreference orders specifications by preferredOrder, and those alike as they were sent.
func byPreference(specs []*specification) []*specification {
	sorted := slices.Clone(specs)
	slices.SortStableFunc(sorted, func(a, b *specification) int { return cmp.Compare(a.order(), b.order()) })
	return sorted
}
