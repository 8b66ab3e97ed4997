package deployments

import (
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// idling is what a node says of an instance without requests.
func idling(d time.Duration) func(*instances.Report) {
	return func(r *instances.Report) { r.Activity, r.IdleSeconds = instances.Idle, int(d/time.Second) }
}

// decisions collects why a version was scaled, in order.
func (w *world) decisions() func(version string) []string {
	w.t.Helper()
	var mu sync.Mutex
	causes := map[string][]string{}
	testkit.Watch(w.t, w.conn, event.Deployments, func(env event.Envelope) {
		if d, ok := bus.As[contract.ScaleDecided](env, contract.ScaleChanged); ok {
			mu.Lock()
			defer mu.Unlock()
			causes[d.VersionID] = append(causes[d.VersionID], d.Cause)
			if d.Reason == "" {
				w.t.Errorf("a decision without a reason: %+v", d)
			}
		}
	})
	return func(version string) []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string{}, causes[version]...)
	}
}

func (w *world) wake(f functions.Function) {
	w.t.Helper()
	_, err := bus.Call(w.t.Context(), w.conn, contract.Wake, contract.WakeRequest{VersionID: f.VersionID})
	require.NoError(w.t, err)
}

// timePasses makes it long ago that work asked for an instance.
func (w *world) timePasses() {
	w.t.Helper()
	// Under the lock that the service takes, or it writes back what it read before.
	_, err := w.pool.Exec(w.t.Context(), `WITH held AS (SELECT id FROM deployments.deployments FOR UPDATE)
		UPDATE deployments.specifications SET asked_at = 'epoch' FROM held WHERE deployment_id = held.id`)
	require.NoError(w.t, err)
}

func TestAVersionGoesBackToZeroAndWakesAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 1))
	w.cfg.IdleAfter = time.Minute
	why := w.decisions()
	w.start()
	f := w.version()
	w.deploy(f, one(0, 1))
	for range 2 {
		w.wake(f)
		l := w.launch()
		require.Equal(t, 60, l.order.IdleSeconds)
		w.timePasses()
		w.report(l, instances.Running, idling(time.Minute))
		e := w.end()
		require.Equal(t, l.order.InstanceID, e.order.InstanceID)
		require.True(t, e.order.IfIdle, "a request that comes in the same moment is answered")
		require.Equal(t, drainGraceful, e.order.DrainSeconds)
		require.Eventually(t, func() bool { return w.count("deployments.devices") == 0 }, soon, 5*time.Millisecond)
	}
	d := w.becomes(f, functions.Active)
	require.Empty(t, d.Instances)
	require.Equal(t, "ACTIVE", w.path(f.VersionID))
	require.Eventually(t, func() bool { return len(why(f.VersionID)) == 4 }, soon, 5*time.Millisecond)
	require.Equal(t, []string{"zero", "idle", "zero", "idle"}, why(f.VersionID))
}

func TestAnInstanceThatIsKeptIsWantedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 2))
	w.cfg.IdleAfter = time.Minute
	why := w.decisions()
	w.start()
	f := w.version()
	w.deploy(f, one(0, 1))
	w.wake(f)
	l := w.launch()
	w.behave(nil, func(e ended) {
		w.report(l, instances.Running, func(r *instances.Report) { r.Activity = instances.Kept })
	})
	w.timePasses()
	w.report(l, instances.Running, idling(time.Minute))
	require.True(t, w.end().order.IfIdle)
	require.Eventually(t, func() bool { return len(why(f.VersionID)) == 3 }, soon, 5*time.Millisecond)
	require.Equal(t, []string{"zero", "idle", "busy"}, why(f.VersionID))
	w.quiet(f)
	d, err := w.get(f)
	require.NoError(t, err)
	require.Len(t, d.Instances, 1)
	require.Equal(t, "RUNNING", d.Instances[0].Status)
	w.behave(nil, w.goesDown)
	_, err = w.undeploy(f, true)
	require.NoError(t, err)
	require.False(t, w.end().order.IfIdle, "an undeploy does not ask")
	w.vanishes(f)
}

func TestIdleInstancesGoDownToTheMinimumTheLongestIdleFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 3))
	w.cfg.IdleAfter = time.Hour
	w.start()
	f := w.version()
	w.deploy(f, one(1, 3))
	w.becomes(f, functions.Active)
	_, err := bus.Call(t.Context(), w.conn, contract.Scale, contract.ScaleRequest{VersionID: f.VersionID, Required: new(3)})
	require.NoError(t, err)
	all := []launched{w.launch(), w.launch(), w.launch()}
	w.work(all...)
	require.Eventually(t, func() bool { return w.count(`deployments.instances WHERE state = 'running'`) == 3 }, soon, 5*time.Millisecond)
	w.timePasses()
	w.report(all[0], instances.Running, idling(2*time.Hour))
	require.Equal(t, all[0].order.InstanceID, w.end().order.InstanceID)
	w.report(all[1], instances.Running, idling(time.Hour))
	require.Equal(t, all[1].order.InstanceID, w.end().order.InstanceID)
	w.report(all[2], instances.Running, idling(3*time.Hour))
	require.Eventually(t, func() bool {
		return w.count(`deployments.instances WHERE idle_since IS NOT NULL AND state = 'running'`) == 1
	}, soon, 5*time.Millisecond)
	w.quiet(f)
	require.Equal(t, "DEPLOYING ACTIVE", w.path(f.VersionID))
}

// work is what nodes say of instances that have requests.
func (w *world) work(all ...launched) {
	for _, l := range all {
		w.report(l, instances.Running, func(r *instances.Report) { r.Activity = instances.Busy })
	}
}

func TestWhatIdlesIsNotWantedAnyMore(t *testing.T) {
	t.Parallel()
	const after = 5 * time.Minute
	ago := func(d time.Duration) *time.Time { at := noon.Add(-d); return &at }
	for _, c := range []struct {
		name     string
		low      int
		wanted   int
		idle     []*time.Time // one running instance each
		asked    time.Duration
		want     int
		again    time.Duration // from noon; zero for never
		status   functions.Status
		teardown teardown
	}{
		{name: "long enough", wanted: 1, idle: []*time.Time{ago(after)}, asked: time.Hour, want: 0},
		{name: "one second is missing", wanted: 1, idle: []*time.Time{ago(after - time.Second)}, asked: time.Hour, want: 1, again: time.Second},
		{name: "busy", wanted: 1, idle: []*time.Time{nil}, asked: time.Hour, want: 1},
		{name: "one of two", wanted: 2, idle: []*time.Time{nil, ago(after)}, asked: time.Hour, want: 1},
		{name: "the minimum stays", low: 1, wanted: 1, idle: []*time.Time{ago(time.Hour)}, asked: time.Hour, want: 1},
		{name: "down to the minimum", low: 1, wanted: 3, idle: []*time.Time{ago(after), ago(after), ago(after)}, asked: time.Hour, want: 1},
		{name: "work asked a moment ago", wanted: 2, idle: []*time.Time{nil, ago(time.Hour)}, asked: time.Minute, want: 2, again: 4 * time.Minute},
		{name: "asked for, and there is no place", wanted: 1, asked: time.Minute, want: 1, again: 4 * time.Minute},
		{name: "nobody asks for it any more", wanted: 1, asked: after, want: 0},
		{name: "not while it is hurt", wanted: 1, idle: []*time.Time{ago(after)}, asked: time.Hour, want: 1, status: functions.Degrading},
		{name: "not while it is removed", wanted: 1, idle: []*time.Time{ago(after)}, asked: time.Hour, want: 1, teardown: graceful},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := &specification{Specification: one(c.low, 4), Wanted: c.wanted, AskedAt: noon.Add(-c.asked)}
			s.PreferredOrder = new(1)
			d := &deployment{Status: functions.Active, Teardown: c.teardown, Specs: []*specification{s}}
			if c.status != "" {
				d.Status = c.status
			}
			for _, since := range c.idle {
				d.Instances = append(d.Instances, &instance{State: instances.Running, IdleSince: since})
			}
			moves, again := settleIdle(d, after, noon)
			require.Equal(t, c.want, s.Wanted)
			require.Equal(t, c.want != c.wanted, len(moves) == 1)
			if c.again == 0 {
				require.True(t, again.IsZero(), again)
			} else {
				require.Equal(t, noon.Add(c.again), again)
			}
			s.Wanted = c.wanted
			moves, again = settleIdle(d, 0, noon)
			require.Empty(t, moves, "switched off")
			require.True(t, again.IsZero())
		})
	}
}

func TestRescaleStaysWithinTheBounds(t *testing.T) {
	t.Parallel()
	type bounds struct{ low, high, wanted, order int }
	for _, c := range []struct {
		name     string
		specs    []bounds
		required int
		outcome  contract.ScaleOutcome
		want     []int
	}{
		{"more", []bounds{{0, 4, 1, 1}}, 3, contract.ScalingUp, []int{3}},
		{"less", []bounds{{0, 4, 3, 1}}, 1, contract.ScalingDown, []int{1}},
		{"as it is", []bounds{{0, 4, 3, 1}}, 3, contract.NoScalingNeeded, []int{3}},
		{"more than there may be", []bounds{{0, 4, 3, 1}}, 9, contract.ScalingUp, []int{4}},
		{"at the top", []bounds{{0, 4, 4, 1}}, 9, contract.NotAutoScalable, []int{4}},
		{"at the bottom", []bounds{{1, 4, 1, 1}}, 0, contract.NotAutoScalable, []int{1}},
		{"less than there must be", []bounds{{1, 4, 2, 1}}, 0, contract.ScalingDown, []int{1}},
		{"more where it is preferred", []bounds{{0, 2, 0, 2}, {0, 2, 1, 1}}, 3, contract.ScalingUp, []int{1, 2}},
		{"less where it is not", []bounds{{0, 2, 2, 1}, {1, 2, 2, 2}}, 2, contract.ScalingDown, []int{1, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var specs []*specification
			for _, b := range c.specs {
				s := &specification{Specification: one(b.low, b.high), Wanted: b.wanted}
				s.PreferredOrder = new(b.order)
				specs = append(specs, s)
			}
			outcome, moves := rescale(specs, c.required)
			require.Equal(t, c.outcome, outcome)
			changed := 0
			var instances []int
			for n, s := range specs {
				instances = append(instances, s.Wanted)
				if s.Wanted != c.specs[n].wanted {
					changed++
				}
			}
			require.Equal(t, c.want, instances)
			require.Len(t, moves, changed)
		})
	}
}

func TestScaleCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 4))
	w.start()
	f := w.version()
	scale := func(r contract.ScaleRequest) (contract.ScaleResponse, error) {
		r.VersionID = f.VersionID
		return bus.Call(t.Context(), w.conn, contract.Scale, r)
	}
	_, err := scale(contract.ScaleRequest{Required: new(1)})
	require.ErrorContains(t, err, "Deployment not found")
	w.behave(w.idles, nil)
	d := w.deploy(f, one(1, 3))
	got, err := scale(contract.ScaleRequest{Required: new(2)})
	require.NoError(t, err)
	require.Equal(t, contract.NoOperation, got.Outcome, "it is not ACTIVE yet")
	require.Equal(t, functions.Deploying, got.Status)
	w.behave(w.comesUp, nil)
	w.comesUp(w.launch())
	w.becomes(f, functions.Active)
	for field, bad := range map[string]contract.ScaleRequest{
		"requiredNumberOfInstances": {},
		"deploymentId":              {Required: new(2), DeploymentID: uuid.NewString()},
		"gpuSpecificationId":        {Required: new(2), GPUSpecificationID: uuid.NewString()},
	} {
		_, err = scale(bad)
		require.True(t, problem.HasCode(err, problem.Validation), field)
		require.ErrorContains(t, err, "field: "+field)
	}
	_, err = scale(contract.ScaleRequest{Required: new(-1)})
	require.True(t, problem.HasCode(err, problem.Validation))
	got, err = scale(contract.ScaleRequest{Required: new(2), DeploymentID: d.ID, GPUSpecificationID: d.Specifications[0].ID})
	require.NoError(t, err)
	require.Equal(t, contract.ScaleResponse{Outcome: contract.ScalingUp, Status: functions.Active, ActiveInstances: 1, AllocatingInstances: 1}, got)
	w.launch()
	got, err = scale(contract.ScaleRequest{Required: new(1)})
	require.NoError(t, err)
	require.Equal(t, contract.ScalingDown, got.Outcome)
	require.Equal(t, drainScaleDown, w.end().order.DrainSeconds)
}
