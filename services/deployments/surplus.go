package deployments

import (
	"cmp"
	"slices"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
)

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
		have := len(d.usefulOf(s))
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
		useful := d.usefulOf(s)
		return s.UnplacedCode != "" && len(rolling(useful)) > 0 && mayEnd(s, useful)
	})
}

// victims orders instances, the first to go first: ailing, starting, on a node that is not ready, idle for the longest time,
// and then the youngest (clusters-agents §4.6).
func victims(all []*instance, nodes nodeView) []*instance {
	rank := func(i *instance) int {
		switch {
		case i.State == instances.Unhealthy, i.Rolling:
			return 0
		case i.State == instances.Starting:
			return 1
		case nodes.state(i.place()) != clusters.NodeReady:
			return 2
		case i.IdleSince != nil:
			return 3
		}
		return 4
	}
	rested := func(a, b *instance) int {
		if a.IdleSince == nil || b.IdleSince == nil {
			return 0
		}
		return a.IdleSince.Compare(*b.IdleSince)
	}
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b *instance) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), rested(a, b), b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return sorted
}
