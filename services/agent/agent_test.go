package agent

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
)

func TestALaunchGoesThroughItsPhasesAndServes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent(nil)
	v := w.version(nil)
	id := w.launch(v, onDevice(w.device(0)))
	last := w.state(id, instances.Running)
	require.Equal(t, []string{
		"starting/reserved", "starting/pulling-image", "starting/creating", "starting/waiting-ready", "running",
	}, steps(w.heard(id)))
	require.Equal(t, "process", last.Driver)
	require.Equal(t, "n1", last.Node)
	r := w.call(v, "/self")
	require.NoError(t, r.err)
	require.Equal(t, 200, r.status)

	w.terminate(id, 5)
	last = w.state(id, instances.Terminated)
	require.Equal(t, instances.ByUser, last.Cause)
	require.Empty(t, last.Logs, "nobody wonders about an end that was ordered")
	require.Equal(t, "shutting-down", steps(w.heard(id))[5])
	require.NoDirExists(t, filepath.Join(w.dir, "agent", "instances", id))
}

func TestCapacityFollowsWithin100Milliseconds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(sims)
	gpu := w.device(2)
	first := w.told()[0].Snapshot
	require.NotNil(t, first, "the first word is a snapshot")
	require.Len(t, first.Devices, 4)
	require.NotEmpty(t, first.Types)
	require.Equal(t, []string{"sim"}, first.Facts.Drivers)
	in := func(known int, state clusters.DeviceState, holder string) (at time.Time) {
		w.until("device is "+string(state), func() bool {
			for _, m := range w.capacity[known:] {
				for _, d := range m.Changed {
					if at.IsZero() && d.UUID == gpu && d.State == state && d.InstanceID == holder {
						at = m.Heard
					}
				}
			}
			return !at.IsZero()
		})
		return at
	}
	v := w.version(nil)
	within(t, 100*time.Millisecond, func() time.Duration {
		known := len(w.told())
		id := w.launch(v, onDevice(gpu))
		allocated := in(known, clusters.Allocated, id)
		w.state(id, instances.Running)
		late := allocated.Sub(w.heard(id)[0].At)
		known = len(w.told())
		w.terminate(id, 0)
		freed := in(known, clusters.Free, "")
		return max(late, freed.Sub(w.state(id, instances.Terminated).At))
	})

	w.mu.Lock()
	before := len(w.capacity)
	w.answer.WantSnapshot = true
	w.mu.Unlock()
	w.until("a snapshot on request", func() bool {
		return len(w.capacity) > before && w.capacity[len(w.capacity)-1].Snapshot != nil
	})
	w.mu.Lock()
	w.answer.WantSnapshot = false
	w.mu.Unlock()
	n.stop()
	n = w.agent(sims)
	n.stop()
	w.until("two lives", func() bool {
		return w.capacity[len(w.capacity)-1].State == clusters.NodeGone && w.capacity[len(w.capacity)-1].Epoch > w.capacity[0].Epoch
	})
	told := w.told()
	for k, m := range told[1:] {
		was := told[k]
		// The end of an agent may cut a message short that has its number already.
		next := m.Sequence == was.Sequence+1 || m.State == clusters.NodeGone && m.Sequence > was.Sequence
		require.True(t, m.Epoch > was.Epoch || m.Epoch == was.Epoch && next, "%d:%d after %d:%d", m.Epoch, m.Sequence, was.Epoch, was.Sequence)
		if m.Snapshot == nil && m.State != clusters.NodeGone {
			require.Equal(t, was.Sequence, m.BasedOn)
		}
		if was.State == clusters.NodeGone {
			require.NotNil(t, m.Snapshot, "nothing follows a farewell but a new life")
		}
	}
}

func TestAFencedAgentStandsAside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(sims)
	v := w.version(nil)
	id := w.launch(v, nil)
	w.state(id, instances.Running)
	n.crash()
	w.mu.Lock()
	w.answer.Fenced = true
	w.mu.Unlock()
	n = w.startAgent(sims)
	require.Eventually(t, func() bool {
		err := n.Check(t.Context())
		return err != nil && strings.Contains(err.Error(), "another agent runs as node n1")
	}, patience, 5*time.Millisecond)
	before := len(w.heard(id))
	late := w.launch(v, nil)
	w.terminate(id, 0)
	n.stop()
	require.Empty(t, w.heard(late), "it takes no orders")
	require.Len(t, w.heard(id), before)
	require.Contains(t, n.exist(), id, "and touches no instance")
}

func TestOrdersAreCarriedOutOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(nil)
	v := w.version(nil)
	gpu := w.device(0)
	var order instances.LaunchOrder
	id := w.launch(v, func(o *instances.LaunchOrder) { o.Devices = []string{gpu}; order = *o })
	for _, command := range []string{"again-1", "again-2"} {
		order.CommandID = command
		send(w, instances.Launch, command, order)
	}
	w.state(id, instances.Running)
	pid := w.self(v).PID

	rival := w.launch(v, onDevice(gpu))
	last := w.state(rival, instances.Terminated)
	require.Equal(t, instances.NoCapacity, last.Cause)
	require.Contains(t, last.Message, "in use by instance "+id)
	lost := w.launch(v, onDevice("GPU-gone"))
	require.Contains(t, w.state(lost, instances.Terminated).Message, "no device GPU-gone")
	late := w.launch(v, func(o *instances.LaunchOrder) { o.Deadline = time.Now().Add(-time.Minute) })
	last = w.state(late, instances.Terminated)
	require.Equal(t, instances.NotReady, last.Cause)
	require.Contains(t, last.Message, "after its deadline")

	require.Equal(t, []string{id}, n.exist())
	require.Equal(t, pid, w.self(v).PID)
	require.Len(t, w.heard(id), 5)

	w.terminate("never-seen", 0)
	require.Equal(t, instances.ByUser, w.state("never-seen", instances.Terminated).Cause)
	w.terminate("never-seen", 0)
	w.until("a second answer", func() bool { return len(w.reports["never-seen"]) == 2 })
	stillborn := w.launch(v, func(o *instances.LaunchOrder) { o.InstanceID = "never-seen" })
	w.terminate(id, 0)
	w.state(id, instances.Terminated)
	require.Len(t, w.heard(stillborn), 2, "what was terminated is not launched by an order that comes late")
	send(w, instances.Terminate, "evil", instances.TerminateOrder{CommandID: "evil", InstanceID: "../../evil"})
	require.NoFileExists(t, filepath.Join(w.dir, "evil.json"))
}

func TestEndsTellWhyAndWhatToDo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent(nil)
	cases := []struct {
		name   string
		change func(*functions.Launchable)
		order  func(*instances.LaunchOrder)
		cause  instances.Cause
		says   []string
		logs   string
		exit   int
	}{
		{
			"unknown image", func(l *functions.Launchable) { l.Function.ContainerImage = "nowhere/none:1" }, nil, instances.ImagePull,
			[]string{"nowhere/none:1", "sirocco image add nowhere/none:1"},
			"", 0,
		},
		{"crash", args("crash"), nil, instances.Failed, []string{"before the health check passed", "exit code 3"}, "no such weights: llama", 3},
		{"mute", args("mute"), soon, instances.NotReady, []string{"health check did not pass in time", "connection refused"}, "", 0},
		{"quote", args(`--prompt "unclosed`), nil, instances.TerminalError, []string{"containerArgs", `"`}, "", 0},
		{"sick", func(l *functions.Launchable) { l.Function.Health.ExpectedStatusCode = 204 }, soon, instances.NotReady, []string{"answered 200 instead of 204"}, "serving", 0},
	}
	ids := map[string]string{}
	for _, c := range cases { // all at once, because some take their time
		ids[c.name] = w.launch(w.version(c.change), c.order)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			last := w.state(ids[c.name], instances.Terminated)
			require.Equal(t, c.cause, last.Cause, last.Message)
			for _, says := range c.says {
				require.Contains(t, last.Message, says)
			}
			if c.logs != "" {
				require.Contains(t, last.Logs, c.logs)
			}
			if c.exit != 0 {
				require.NotNil(t, last.ExitCode)
				require.Equal(t, c.exit, *last.ExitCode)
			}
		})
	}
	w.t = t
	id := w.launch("deleted", nil)
	require.Contains(t, w.state(id, instances.Terminated).Message, "does not exist any more")
}

func TestHealthDecidesWhoServes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(nil)
	v := w.version(nil)
	id := w.launch(v, func(o *instances.LaunchOrder) { o.MaxConcurrency = 4 })
	w.state(id, instances.Running)
	w.ready(v)
	ex := w.open("/work?hold", nil) // goes on through the sickness
	w.place(ex, v)
	require.Equal(t, 200, w.call(v, "/sick").status)
	last := w.state(id, instances.Unhealthy)
	require.Contains(t, last.Message, "answered 503 instead of 200")
	refused := w.open("/self", nil)
	require.Error(t, refused.Offer(t.Context(), direct(v)), "a sick instance takes no work")

	n.crash()
	n = w.agent(nil)
	require.Equal(t, instances.Unhealthy, w.state(id, instances.Unhealthy).State, "a restart does not make it well")
	port := n.port(id)
	get(t, "http://"+port+"/well")
	w.state(id, instances.Running)
	require.Equal(t, 200, w.call(v, "/self").status)
	require.Equal(t, []string{"running", "unhealthy", "running"}, steps(w.heard(id))[4:])

	w.place(w.open("/exit", nil), v)
	last = w.state(id, instances.Terminated)
	require.Equal(t, instances.Failed, last.Cause)
	require.Contains(t, last.Logs, "asked to exit")
}

func TestAnInstanceThatStaysSickEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := quick
	p.replaceAfter = 200 * time.Millisecond
	w.agent(nil, p)
	v := w.version(nil)
	id := w.launch(v, nil)
	w.state(id, instances.Running)
	require.Equal(t, 200, w.call(v, "/sick").status)
	last := w.state(id, instances.Terminated)
	require.Equal(t, instances.NotReady, last.Cause)
	require.Contains(t, last.Message, "has failed for 200ms")
	require.Equal(t, []string{"running", "unhealthy", "shutting-down", "terminated"}, steps(w.heard(id))[4:])
}

func TestTerminateDrainsUnlessForced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(nil)
	v := w.version(nil)
	busy := func() (string, <-chan response) {
		id := w.launch(v, nil)
		w.state(id, instances.Running)
		ex := w.open("/work?hold", nil)
		w.place(ex, v)
		answer := make(chan response, 1)
		go func() { answer <- read(ex) }()
		return id, answer
	}
	id, answer := busy()
	w.terminate(id, 3600)
	w.state(id, instances.ShuttingDown)
	refused := w.open("/self", nil)
	require.Error(t, refused.Offer(t.Context(), direct(v)), "a draining instance takes no work")
	n.release(id)
	r := <-answer
	require.NoError(t, r.err)
	require.Equal(t, id, r.body, "the request in flight is answered")
	w.state(id, instances.Terminated)

	id, answer = busy()
	w.terminate(id, 0)
	require.Error(t, (<-answer).err)
	w.state(id, instances.Terminated)

	id, answer = busy()
	w.terminate(id, 3600)
	w.state(id, instances.ShuttingDown)
	w.terminate(id, 0)
	require.Error(t, (<-answer).err, "a forced order cuts a drain short")
	w.state(id, instances.Terminated)
}

func TestTerminateDuringStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(nil)
	for _, phase := range []instances.Phase{instances.Reserved, instances.PullingImage, instances.Creating, instances.WaitingReady} {
		id := w.launch(w.version(args("mute")), onDevice(w.device(0)))
		w.phase(id, phase)
		w.terminate(id, 60)
		require.Equal(t, instances.ByUser, w.state(id, instances.Terminated).Cause)
		require.Empty(t, n.exist())
	}
}

func TestAKilledAgentFindsItsInstancesAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(nil)
	v := w.version(nil)
	id := w.launch(v, onDevice(w.device(0)))
	w.state(id, instances.Running)
	before := w.self(v)
	for range 2 {
		n.crash()
		n = w.agent(nil)
		after := w.self(v)
		require.Equal(t, before.PID, after.PID)
		require.Equal(t, before.Port, after.Port)
		require.Equal(t, []string{id}, n.exist())
	}
	require.Len(t, w.heard(id), 5, "a restart is no news of the instance")

	n.stop()
	n = w.agent(nil)
	require.Equal(t, before.PID, w.self(v).PID, "an orderly stop leaves instances alone, too")

	// It ends while no agent is there.
	port := n.port(id)
	n.crash()
	_, _ = tryGet("http://" + port + "/exit")
	n = w.agent(nil)
	require.Equal(t, instances.Failed, w.state(id, instances.Terminated).Cause)

	// A record is lost: its instance is an orphan.
	id = w.launch(v, nil)
	w.state(id, instances.Running)
	n.crash()
	require.NoError(t, os.Remove(filepath.Join(w.dir, "agent", "records", id+".json")))
	n = w.agent(nil)
	require.Eventually(t, func() bool { return len(n.exist()) == 0 }, patience, 5*time.Millisecond)

	// One that cannot be read harms nobody else.
	id = w.launch(v, nil)
	w.state(id, instances.Running)
	n.crash()
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "agent", "records", "torn.json"), []byte(`{"order":`), 0o600))
	w.agent(nil)
	require.Equal(t, 200, w.call(v, "/health").status)
}

func TestAKilledAgentFinishesWhatItBegan(t *testing.T) {
	t.Parallel()
	for _, phase := range []instances.Phase{instances.Reserved, instances.PullingImage, instances.Creating, instances.WaitingReady} {
		t.Run(string(phase), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			n := w.agent(nil)
			v := w.version(nil)
			id := w.launch(v, onDevice(w.device(0)))
			w.phase(id, phase)
			n.crash()
			n = w.agent(nil)
			w.state(id, instances.Running)
			require.Equal(t, 200, w.call(v, "/self").status)
			require.Equal(t, []string{id}, n.exist())

			w.terminate(id, 60)
			w.state(id, instances.ShuttingDown)
			n.crash()
			n = w.agent(nil)
			last := w.state(id, instances.Terminated)
			require.Equal(t, instances.ByUser, last.Cause)
			require.Eventually(t, func() bool { return len(n.exist()) == 0 }, patience, 5*time.Millisecond)
			for k, r := range w.heard(id)[1:] {
				require.GreaterOrEqual(t, r.Sequence, w.heard(id)[k].Sequence)
			}
		})
	}
}

func TestAStartCutShortIsCleanedUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(nil)
	v := w.version(args("mute"))
	id := w.launch(v, nil)
	w.phase(id, instances.WaitingReady)
	n.crash()
	// As if the agent had been killed before it could note the handle, and the function deleted meanwhile.
	path := filepath.Join(w.dir, "agent", "records", id+".json")
	var rec record
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &rec))
	require.True(t, rec.Attempted)
	rec.Handle, rec.Phase = nil, instances.Creating
	require.NoError(t, writeJSON(path, &rec, false))
	w.mu.Lock()
	delete(w.versions, v)
	w.mu.Unlock()
	n = w.startAgent(nil)
	w.state(id, instances.Terminated)
	require.Empty(t, n.exist())
}

func TestStopInstances(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(func(c *Config) { c.StopInstances = true })
	v := w.version(nil)
	id := w.launch(v, nil)
	w.state(id, instances.Running)
	w.ready(v)
	ex := w.open("/work?ms=500", nil)
	w.place(ex, v)
	answer := make(chan response, 1)
	go func() { answer <- read(ex) }()
	n.stop()
	require.NoError(t, (<-answer).err, "requests in flight are answered first")
	last := w.state(id, instances.Terminated)
	require.Equal(t, instances.AgentShutdown, last.Cause)
	require.Empty(t, n.exist())
}

func TestReportsSurviveAnOutage(t *testing.T) {
	t.Parallel()
	for _, killed := range []bool{false, true} {
		t.Run(map[bool]string{false: "agent stays", true: "agent is killed"}[killed], func(t *testing.T) {
			t.Parallel()
			s := listening(t)
			w := newWorldOn(t, s.Server, connect(t, s.ClientURL()))
			n := w.agentAt(s.ClientURL(), nil)
			id := w.launch(w.version(nil), nil)
			w.state(id, instances.Running)
			i := n.instance(id)
			url := "http://" + n.port(id)
			s.stop()
			get(t, url+"/sick")
			require.Eventually(t, func() bool { return i.last() == instances.Unhealthy }, patience, 5*time.Millisecond)
			get(t, url+"/well")
			require.Eventually(t, func() bool { return i.last() == instances.Running }, patience, 5*time.Millisecond)
			_, _ = tryGet(url + "/exit")
			require.Eventually(t, i.over, patience, 5*time.Millisecond)
			if killed {
				n.crash()
			}
			s.start()
			if killed {
				w.agentAt(s.ClientURL(), nil)
			}
			back := newListener(t, s)
			require.Eventually(t, func() bool { return slices.Contains(back.steps(id), "terminated") }, patience, 20*time.Millisecond)
			// Its health checks may fail before its end is seen.
			require.Regexp(t, "^starting/reserved starting/pulling-image starting/creating starting/waiting-ready "+
				"running unhealthy running( unhealthy)? terminated$", strings.Join(back.steps(id), " "))
		})
	}
}

func TestAStartWithoutNATSCanBeStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agentAt("nats://127.0.0.1:1", nil)
	require.Eventually(t, func() bool { return strings.Contains(n.Check(t.Context()).Error(), "waiting in streams") }, patience, 5*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	n.over = true
	_ = n.Stop(ctx) // it need not succeed, but end
}
