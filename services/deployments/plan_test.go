package deployments

import (
	"fmt"
	"testing"
	"time"

	"github.com/coder/quartz"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/services/deployments/placement"
)

// calm is a fleet on which nothing is wrong.
var calm = nodeView{
	lost:  func(placement.Node) bool { return false },
	state: func(placement.Node) clusters.NodeState { return clusters.NodeReady },
}

// standingWith is a deployment of one specification per wanted count.
func standingWith(status functions.Status, wanted ...int) *deployment {
	d := &deployment{ID: "d", Status: status, CreatedAt: noon.Add(-time.Hour), UpdatedAt: noon}
	for n, w := range wanted {
		s := one(w, max(w, 9))
		s.ID, s.PreferredOrder = fmt.Sprintf("s%d", n), new(1)
		d.Specs = append(d.Specs, &specification{Specification: s, Position: n, Wanted: w, Proven: w})
	}
	return d
}

// has adds an instance to the first specification.
func (d *deployment) has(id string, state instances.State, change ...func(*instance)) *deployment {
	i := &instance{ID: id, SpecID: "s0", Cluster: "lab", Node: "n1", State: state, CreatedAt: noon, UpdatedAt: noon, StateAt: noon, Deadline: noon.Add(time.Minute)}
	for _, c := range change {
		c(i)
	}
	d.Instances = append(d.Instances, i)
	return d
}

func at(t time.Time) func(*instance) { return func(i *instance) { i.CreatedAt, i.StateAt = t, t } }

func of(spec string) func(*instance) { return func(i *instance) { i.SpecID = spec } }

// died is how an instance ends by itself.
func died(cause instances.Cause, when time.Time) func(*instance) {
	return func(i *instance) { i.Cause, i.EndedAt = cause, &when }
}

// told is an order to end.
func told(cause instances.Cause, drain int, when time.Time) func(*instance) {
	return func(i *instance) { i.StopCause, i.StopDrain, i.StopAt = cause, drain, &when }
}

func (p *plan) show() string {
	out := ""
	for _, i := range p.lost {
		out += "lost " + i.ID + " "
	}
	for _, s := range p.stops {
		out += fmt.Sprintf("stop %s %s %d ", s.instance.ID, s.cause, s.drain)
	}
	for _, s := range p.starts {
		out += fmt.Sprintf("start %d of %s ", s.count, s.spec.ID)
	}
	return out
}

func TestPlan(t *testing.T) {
	t.Parallel()
	const (
		starting, running, sick, stopping, dead = instances.Starting, instances.Running, instances.Unhealthy, instances.ShuttingDown, instances.Terminated
		user                                    = "instance-terminated-by-user"
	)
	ago := func(d time.Duration) time.Time { return noon.Add(-d) }
	for _, c := range []struct {
		name  string
		d     *deployment
		nodes *nodeView
		want  string
		again time.Duration
	}{
		{name: "first start", d: standingWith(functions.Deploying, 2), want: "start 2 of s0 "},
		{name: "as wanted", d: standingWith(functions.Active, 1).has("a", running), want: ""},
		{name: "starting counts", d: standingWith(functions.Deploying, 1).has("a", starting), want: "", again: time.Minute + startGrace},
		{name: "one is missing", d: standingWith(functions.Active, 2).has("a", running), want: "start 1 of s0 "},
		{name: "one that drains does not count", d: standingWith(functions.Active, 1).has("a", stopping), want: "start 1 of s0 "},
		{name: "one told to end does not count", d: standingWith(functions.Active, 1).has("a", running, told("instance-terminated-by-user", 30, noon)), want: "start 1 of s0 ", again: 90 * time.Second},
		{name: "a crash while deploying is not repeated", d: standingWith(functions.Deploying, 1).has("a", dead, died(instances.Failed, noon)), want: ""},
		{name: "nor half of a crash", d: standingWith(functions.Deploying, 2).has("a", dead, died(instances.Failed, noon)).has("b", running), want: ""},
		{name: "a node's end while deploying is repaired", d: standingWith(functions.Deploying, 1).has("a", dead, died(instances.NodeLost, noon)), want: "start 1 of s0 "},
		{name: "so is the agent's", d: standingWith(functions.Deploying, 1).has("a", dead, died(instances.AgentShutdown, noon)), want: "start 1 of s0 "},
		{name: "so are devices that were gone", d: standingWith(functions.Deploying, 1).has("a", dead, died(instances.NoCapacity, noon)), want: "start 1 of s0 "},
		{name: "first failure, at once", d: standingWith(functions.Active, 1).has("a", dead, died(instances.Failed, noon)), want: "start 1 of s0 "},
		{
			name: "second failure, after a second", want: "", again: time.Second,
			d: standingWith(functions.Active, 1).has("a", dead, died(instances.Failed, ago(time.Minute))).has("b", dead, died(instances.Failed, noon)),
		},
		{
			name: "second failure, a second ago", want: "start 1 of s0 ",
			d: standingWith(functions.Active, 1).has("a", dead, died(instances.Failed, ago(time.Minute))).has("b", dead, died(instances.Failed, ago(time.Second))),
		},
		{
			name: "old failures are forgiven", want: "start 1 of s0 ",
			d: standingWith(functions.Active, 1).has("a", dead, died(instances.Failed, ago(11*time.Minute))).has("b", dead, died(instances.Failed, noon)),
		},
		{
			name: "surplus: starting first, then the youngest", want: "stop c " + user + " 30 stop b " + user + " 30 ",
			d: standingWith(functions.Active, 1).has("a", running, at(ago(3*time.Hour))).has("b", running, at(ago(time.Hour))).has("c", starting, at(ago(time.Minute)), func(i *instance) { i.Deadline = noon.Add(time.Hour) }), again: time.Hour + startGrace,
		},
		{
			name: "surplus: not from a good node", want: "stop a " + user + " 30 ",
			d: standingWith(functions.Active, 1).has("a", running, at(ago(time.Hour)), func(i *instance) { i.Node = "cordoned" }).has("b", running, at(ago(time.Minute))),
			nodes: &nodeView{lost: calm.lost, state: func(n placement.Node) clusters.NodeState {
				return map[string]clusters.NodeState{"n1": clusters.NodeReady, "cordoned": clusters.NodeCordoned}[n.Name]
			}},
		},
		{name: "too late", d: standingWith(functions.Deploying, 1).has("a", starting, func(i *instance) { i.Deadline, i.Sequence = ago(startGrace), 1 }), want: "stop a degraded-worker 0 "},
		{name: "the order was never taken", d: standingWith(functions.Deploying, 1).has("a", starting, func(i *instance) { i.Deadline = ago(startGrace) }), want: "stop a instance-terminated-no-capacity 0 start 1 of s0 "},
		{name: "late within the grace", d: standingWith(functions.Deploying, 1).has("a", starting, func(i *instance) { i.Deadline = ago(time.Second) }), want: "", again: startGrace - time.Second},
		{name: "ailing for a while", d: standingWith(functions.Degraded, 1).has("a", sick, at(ago(time.Minute))), want: "", again: 4 * time.Minute},
		{name: "ailing for too long", d: standingWith(functions.Degraded, 1).has("a", sick, at(ago(sickFor))), want: "stop a degraded-worker 30 start 1 of s0 "},
		{name: "an order nobody heard is repeated", d: standingWith(functions.Active, 0).has("a", running, told("instance-terminated-by-user", 30, ago(2*time.Minute))), want: "stop a " + user + " 0 "},
		{name: "a failed deployment keeps nothing", d: standingWith(functions.Error, 2).has("a", running).has("b", dead), want: "stop a " + user + " 0 "},
		{name: "forced teardown", d: tornDown(forced).has("a", running).has("b", starting), want: "stop a " + user + " 0 stop b " + user + " 0 "},
		{name: "graceful teardown", d: tornDown(graceful).has("a", running), want: "stop a " + user + " 3600 "},
		{name: "graceful teardown goes on", d: tornDown(graceful).has("a", stopping, told("instance-terminated-by-user", 3600, noon)), want: "", again: time.Hour + stopGrace},
		{name: "forced after graceful", d: tornDown(forced).has("a", stopping, told("instance-terminated-by-user", 3600, noon)), want: "stop a " + user + " 0 ", again: time.Hour + stopGrace},
		{
			name: "a lost node", want: "lost a start 1 of s0 ", d: standingWith(functions.Active, 1).has("a", running),
			nodes: &nodeView{lost: func(placement.Node) bool { return true }, state: calm.state},
		},
		{name: "a failed specification waits for the other", d: standingWith(functions.Deploying, 1, 1).has("a", dead, died(instances.Failed, noon)).has("b", running, of("s1")), want: ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			nodes := calm
			if c.nodes != nil {
				nodes = *c.nodes
			}
			p := makePlan(c.d, nodes, noon)
			require.Equal(t, c.want, p.show())
			if c.again == 0 {
				require.Zero(t, p.again)
			} else {
				require.Equal(t, noon.Add(c.again), p.again)
			}
		})
	}
}

func tornDown(how teardown) *deployment {
	d := standingWith(functions.Active, 1)
	d.Grace = drainGraceful
	tearDown(d, how, noon)
	return d
}

func TestReplacementWhileDeployingOnceAllHaveRun(t *testing.T) {
	t.Parallel()
	d := standingWith(functions.Deploying, 2).has("a", instances.Terminated, died(instances.Failed, noon)).has("b", instances.Running)
	d.Specs[0].Ran = true
	p := makePlan(d, calm, noon)
	require.Equal(t, "start 1 of s0 ", p.show())
}

func TestPreferredOrderIsServedFirst(t *testing.T) {
	t.Parallel()
	d := standingWith(functions.Deploying, 1, 1, 1)
	for n, order := range []int{5, 1, 5} {
		d.Specs[n].PreferredOrder = new(order)
	}
	p := makePlan(d, calm, noon)
	require.Equal(t, "start 1 of s1 start 1 of s0 start 1 of s2 ", p.show())
}

func TestPauseGrowsToAMinute(t *testing.T) {
	t.Parallel()
	var got []time.Duration
	for n := range 10 {
		got = append(got, pause(n)/time.Second)
	}
	require.Equal(t, []time.Duration{0, 0, 1, 2, 4, 8, 16, 32, 60, 60}, got)
	require.Equal(t, time.Minute, pause(1000))
}

func TestStartBy(t *testing.T) {
	t.Parallel()
	d := standingWith(functions.Deploying, 1)
	d.StartingAt = noon
	require.Equal(t, noon.Add(startReal), startBy(d, startReal), "nothing placed")
	d.has("a", instances.Starting)
	require.Equal(t, noon.Add(time.Minute+2*startGrace), startBy(d, startReal), "all placed")
	d.Instances[0].Deadline = noon.Add(9 * startReal)
	require.Equal(t, noon.Add(2*startReal), startBy(d, startReal), "but not for ever")
	d.Specs[0].UnplacedCode = "no-node"
	require.Equal(t, noon.Add(startReal), startBy(d, startReal), "one waits for a place")
}

func TestLogsKeepTheirEnd(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"cc", "dd"}, clipLines([]string{"aa", "bb", "cc", "dd"}, 7))
	require.Equal(t, []string{"ab"}, clipLines([]string{"a\x00b"}, 100))
	require.Equal(t, "ä", clip("ää", 3), "no half letters")
}

func TestHealthInfoFollowsTheSpecification(t *testing.T) {
	t.Parallel()
	d := standingWith(functions.Degraded, 1).has("a", instances.Terminated, died(instances.OutOfMemory, noon), func(i *instance) { i.Message = "killed" })
	info := healthInfo(d)
	require.Len(t, info, 1)
	require.Equal(t, "oom-killed: killed", info[0].Error)
	require.Equal(t, "lab", info[0].Backend)
	require.Empty(t, healthInfo(d.has("b", instances.Starting)), "cleared when the specification recovers")
	d = standingWith(functions.Degraded, 1)
	require.Equal(t, []contract.HealthInfo{{
		ICMSRequestID: "00000000-0000-0000-0000-000000000000", SISRequestID: "00000000-0000-0000-0000-000000000000",
		GPU: "H100", InstanceType: "NCP.GPU.H100_1x", Error: "no error reported", Message: "no error reported",
	}}, healthInfo(d))
	require.Empty(t, healthInfo(standingWith(functions.Active, 0)))
}

func TestANodeIsLostWhenTheInventorySaysSoOrItStaysAway(t *testing.T) {
	t.Parallel()
	clock := quartz.NewMock(t)
	r := NewReconciler(nil, nil, nil, clock, nil, Config{}, nil, nil)
	n := placement.Node{Cluster: "lab", Name: "n1"}
	view := func(state clusters.NodeState) fleet {
		return fleet{byName: map[placement.Node]clusters.Node{n: {Cluster: "lab", Node: "n1", State: state}}}
	}
	require.False(t, r.lost(view(clusters.NodeReady), n))
	require.False(t, r.lost(view(clusters.NodeSuspect), n))
	require.True(t, r.lost(view(clusters.NodeLost), n))
	require.False(t, r.lost(fleet{err: errHeld}, n), "nothing is lost for want of an answer")
	require.False(t, r.lost(view(clusters.NodeGone), n), "an agent that stopped may be back in a moment")
	clock.Advance(clusters.LostAfter - time.Second)
	require.False(t, r.lost(fleet{}, n), "nor while the inventory rebuilds its projection")
	clock.Advance(time.Second)
	require.True(t, r.lost(view(clusters.NodeGone), n))
}
