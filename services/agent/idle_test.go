package agent

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/libs/relay"
)

// said waits until an instance has said of itself so often what it does, and returns the last of it.
func (w *world) said(id string, a instances.Activity, times int) (last instances.Report) {
	w.t.Helper()
	w.until(id+" is "+string(a), func() bool {
		n := 0
		for _, r := range w.reports[id] {
			if r.Activity == a {
				n, last = n+1, r
			}
		}
		return n >= times
	})
	return last
}

func idles(seconds int) func(*instances.LaunchOrder) {
	return func(o *instances.LaunchOrder) { o.IdleSeconds = seconds }
}

func ifIdle(o *instances.TerminateOrder) { o.IfIdle = true }

func TestAnInstanceSaysThatItIdlesAndThatItWorksAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent(nil)
	v := w.version(nil)
	id, silent := w.launch(v, idles(1)), w.launch(w.version(nil), nil)
	w.state(silent, instances.Running)
	rested := w.said(id, instances.Idle, 1)
	require.GreaterOrEqual(t, rested.IdleSeconds, 1)
	require.Equal(t, instances.Running, rested.State, "it serves as before")
	w.ready(v)
	require.Greater(t, w.said(id, instances.Busy, 1).Sequence, rested.Sequence)
	w.said(id, instances.Idle, 2)
	for _, r := range w.heard(silent) {
		require.Empty(t, r.Activity, "nobody asked")
	}
}

// Whoever hears that an instance is not well forgets that it rests.
func TestAnInstanceThatIsWellAgainSaysThatItStillIdles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(nil)
	id := w.launch(w.version(nil), idles(1))
	w.said(id, instances.Idle, 1)
	container := "http://" + n.port(id)
	get(t, container+"/sick")
	w.state(id, instances.Unhealthy)
	get(t, container+"/well")
	require.Equal(t, instances.Running, w.said(id, instances.Idle, 2).State)
	for _, r := range w.heard(id) {
		require.NotEqual(t, instances.Busy, r.Activity, "nobody called it")
	}
}

func TestOnlyAnInstanceWithoutARequestEndsWhenItIdles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent(nil)
	v := w.version(nil)
	id := w.launch(v, slots(2))
	w.state(id, instances.Running)
	work := w.open("/work?ms=1500", nil)
	w.place(work, v)
	w.terminate(id, 60, ifIdle)
	w.said(id, instances.Kept, 1)
	r := read(work)
	require.NoError(t, r.err)
	require.Equal(t, id, r.body, "the request in flight is answered")
	w.ready(v)
	for n := 2; ; n++ { // a look into the queue may just be under way, which counts as work
		w.terminate(id, 60, ifIdle)
		ended := false
		w.until("the order is answered", func() bool {
			rs := w.reports[id]
			kept := len(slices.DeleteFunc(slices.Clone(rs), func(r instances.Report) bool { return r.Activity != instances.Kept }))
			ended = rs[len(rs)-1].State == instances.Terminated
			return ended || kept >= n
		})
		if ended {
			break
		}
	}
	require.ErrorIs(t, w.offer(w.open("/work", nil), v), relay.ErrNoResponders)
	last := w.state(id, instances.Terminated)
	require.Equal(t, instances.ByUser, last.Cause)
}
