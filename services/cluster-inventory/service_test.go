package clusterinventory

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/coder/quartz"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/fx"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestModuleIsComplete(t *testing.T) {
	t.Parallel()
	require.NoError(t, fx.ValidateApp(app.Base("cluster-inventory"), Module))
}

const account = "acct-77"

// patience is how long a test waits for what comes at once unless it is broken.
const patience = time.Minute

// world is one inventory under test, with the test as its agents and clients.
type world struct {
	t     *testing.T
	nats  *server.Server
	pool  *pgxpool.Pool
	conn  *bus.Conn
	clock *quartz.Mock
	stop  func()
	moves chan clusters.NodeChanged
	lives chan clusters.ClusterChanged
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, nats: testkit.NATS(t), pool: testkit.Database(t, schema, app.Migrations(migrations)), clock: quartz.NewMock(t),
		moves: make(chan clusters.NodeChanged, 64), lives: make(chan clusters.ClusterChanged, 64),
	}
	w.clock.Set(time.Now())
	w.conn = testkit.Conn(t, w.nats)
	require.NoError(t, w.conn.Declare(t.Context(), "agent"))
	w.start()
	testkit.Watch(t, w.conn, event.Clusters, func(env event.Envelope) {
		if m, ok := bus.As[clusters.NodeChanged](env, clusters.NodeMoved); ok {
			w.moves <- m
		}
		if m, ok := bus.As[clusters.ClusterChanged](env, clusters.ClusterMoved); ok {
			w.lives <- m
		}
	})
	return w
}

func (w *world) start() {
	w.t.Helper()
	trap := w.clock.Trap().NewTicker("sweep")
	defer trap.Close()
	s := NewService(testkit.Platform(w.t, testkit.Conn(w.t, w.nats), w.pool, w.clock))
	w.stop = testkit.Run(w.t, s)
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	trap.MustWait(ctx).MustRelease(ctx)
	testkit.Ready(w.t, s)
}

// pass moves the clock in steps of the sweep.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	for ; d > 0; d -= sweepEvery {
		w.clock.Advance(sweepEvery).MustWait(ctx)
	}
}

func (w *world) say(s clusters.Snapshot) {
	w.t.Helper()
	id := fmt.Sprintf("%s:%d:%d", s.Node, s.Epoch, s.Sequence)
	require.NoError(w.t, bus.Announce(w.t.Context(), w.conn, "agent", id, clusters.CapacitySnapshot,
		bus.Fact{Account: s.Account, Entity: s.Node, Refs: event.Refs{NodeID: s.Node}}, s))
}

func (w *world) change(d clusters.Delta) {
	w.t.Helper()
	id := fmt.Sprintf("%s:%d:%d", d.Node, d.Epoch, d.Sequence)
	require.NoError(w.t, bus.Announce(w.t.Context(), w.conn, "agent", id, clusters.CapacityDelta,
		bus.Fact{Account: d.Account, Entity: d.Node, Refs: event.Refs{NodeID: d.Node}}, d))
}

func (w *world) heartbeat(node string, epoch, seq int64) clusters.HeartbeatResponse {
	w.t.Helper()
	r, err := bus.Call(w.t.Context(), w.conn, clusters.Heartbeat, clusters.HeartbeatRequest{Cluster: "lab", Node: node, Epoch: epoch, Sequence: seq})
	require.NoError(w.t, err)
	return r
}

func (w *world) ctx() context.Context {
	return access.WithCaller(w.t.Context(), access.Caller{Account: account, Kind: access.JWT, Subject: "test"})
}

func (w *world) groups() []clusters.Group {
	w.t.Helper()
	r, err := bus.Call(w.ctx(), w.conn, clusters.Groups, clusters.GroupsRequest{})
	require.NoError(w.t, err)
	return r.ClusterGroups
}

func (w *world) available() int {
	g := w.groups()
	if len(g) == 0 || len(g[0].GPUs) == 0 {
		return -1
	}
	return g[0].GPUs[0].Available
}

func (w *world) free(want int) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.available() == want }, patience, 5*time.Millisecond)
}

func (w *world) moved(node string, to clusters.NodeState) clusters.NodeChanged {
	w.t.Helper()
	for {
		select {
		case m := <-w.moves:
			if m.Node == node && m.To == to {
				return m
			}
		case <-time.After(patience):
			require.Fail(w.t, "no event", "%s never became %s", node, to)
		}
	}
}

func snapshot(node string, epoch, seq int64, states ...clusters.DeviceState) clusters.Snapshot {
	d := devices(states...)
	for i := range d {
		d[i].UUID = node + d[i].UUID
	}
	return clusters.Snapshot{
		Cluster: "lab", Node: node, Account: account, Epoch: epoch, Sequence: seq, State: clusters.NodeReady,
		Facts: clusters.NodeFacts{Region: "eu-north-1", Drivers: []string{"sim"}}, Devices: d, Types: gpuTypes(),
	}
}

func TestCapacityIsVisibleWithinASecond(t *testing.T) {
	w := newWorld(t)
	require.Empty(t, w.groups())
	require.True(t, w.heartbeat("n1", 1, 0).WantSnapshot, "an unknown node is asked for everything")

	w.say(snapshot("n1", 1, 1, clusters.Free, clusters.Free, clusters.Free, clusters.Free))
	w.free(4)
	g := w.groups()[0]
	require.Equal(t, "lab", g.Name)
	require.Equal(t, "READY", g.Clusters[0].Status)
	require.Equal(t, "none", g.Clusters[0].K8sVersion)
	require.Equal(t, "NOT_READY", (<-w.lives).From)
	w.moved("n1", clusters.NodeReady)

	w.change(clusters.Delta{
		Cluster: "lab", Node: "n1", Account: account, Epoch: 1, Sequence: 2, BasedOn: 1, State: clusters.NodeReady,
		Changed: []clusters.Device{{UUID: "n1GPU-a", GPU: "H100", State: clusters.Allocated, InstanceID: "i-1"}},
	})
	w.free(3)
	require.Equal(t, 1, w.groups()[0].GPUs[0].InstanceTypes[1].Available, "three free devices make one pair")
	// A busy machine is late now and then, so the quickest of several changes counts.
	quickest := patience
	for seq := int64(3); seq < 13 && quickest >= time.Second; seq++ {
		state := clusters.Free
		if seq%2 == 0 {
			state = clusters.Allocated
		}
		began := time.Now()
		w.change(clusters.Delta{
			Cluster: "lab", Node: "n1", Account: account, Epoch: 1, Sequence: seq, BasedOn: seq - 1, State: clusters.NodeReady,
			Changed: []clusters.Device{{UUID: "n1GPU-a", GPU: "H100", State: state}},
		})
		w.free(4 - int((seq+1)%2))
		quickest = min(quickest, time.Since(began))
	}
	require.Less(t, quickest, time.Second, "free counts must be visible within a second of the event")

	other, err := bus.Call(access.WithCaller(t.Context(), access.Caller{Account: "someone-else", Kind: access.JWT}), w.conn, clusters.Groups, clusters.GroupsRequest{})
	require.NoError(t, err)
	require.Equal(t, []clusters.Group{}, other.ClusterGroups, "another account sees an empty array")

	gpus, err := bus.Call(w.ctx(), w.conn, clusters.SupportedGPUs, rpc.None{})
	require.NoError(t, err)
	require.Equal(t, []clusters.SupportedGPU{{GPU: "H100", Backend: "lab"}}, gpus)
}

func TestAGapIsAskedForAndFencedLivesAreTold(t *testing.T) {
	w := newWorld(t)
	w.say(snapshot("n1", 2, 1, clusters.Free, clusters.Free))
	w.free(2)
	require.Equal(t, clusters.HeartbeatResponse{}, w.heartbeat("n1", 2, 1))
	require.True(t, w.heartbeat("n1", 1, 9).Fenced)
	require.True(t, w.heartbeat("n1", 3, 1).WantSnapshot, "a newer life has said nothing yet")

	w.change(clusters.Delta{
		Cluster: "lab", Node: "n1", Account: account, Epoch: 2, Sequence: 3, BasedOn: 2, State: clusters.NodeReady,
		Changed: []clusters.Device{{UUID: "n1GPU-a", GPU: "H100", State: clusters.Allocated}},
	})
	require.Eventually(t, func() bool { return w.heartbeat("n1", 2, 3).WantSnapshot }, patience, 5*time.Millisecond)
	require.Equal(t, 2, w.available(), "what does not connect is not applied")
	w.say(snapshot("n1", 2, 4, clusters.Allocated, clusters.Free))
	w.free(1)
	require.False(t, w.heartbeat("n1", 2, 4).WantSnapshot)

	w.say(snapshot("n1", 1, 99, clusters.Free, clusters.Free)) // an old life still talks
	w.say(snapshot("n2", 1, 1, clusters.Free))
	w.free(2)
}

func TestSilenceMakesSuspectThenLost(t *testing.T) {
	w := newWorld(t)
	w.say(snapshot("n1", 1, 1, clusters.Free))
	w.say(snapshot("n2", 1, 1, clusters.Free))
	w.free(2)
	for range 3 {
		w.pass(clusters.HeartbeatEvery)
		w.heartbeat("n2", 1, 1)
	}
	w.pass(2 * time.Second)
	w.moved("n1", clusters.NodeSuspect)
	w.free(1)
	for range 6 {
		w.pass(clusters.HeartbeatEvery)
		w.heartbeat("n2", 1, 1)
	}
	w.pass(time.Second)
	lost := w.moved("n1", clusters.NodeLost)
	require.Contains(t, lost.Reason, "no heartbeat for 4")
	require.Equal(t, "READY", w.groups()[0].Clusters[0].Status, "one node is left")

	require.True(t, w.heartbeat("n1", 1, 1).WantSnapshot, "a node that returns shows everything first")
	require.Equal(t, 1, w.available())
	w.say(snapshot("n1", 1, 2, clusters.Free))
	w.moved("n1", clusters.NodeReady)
	w.free(2)
}

func TestTheLastNodeTakesItsClusterAlong(t *testing.T) {
	w := newWorld(t)
	w.say(snapshot("n1", 1, 1, clusters.Free))
	w.free(1)
	require.NoError(t, bus.Announce(t.Context(), w.conn, "agent", "bye", clusters.NodeLeft, bus.Fact{Account: account, Entity: "n1"},
		clusters.Bye{Cluster: "lab", Node: "n1", Account: account, Epoch: 1, Sequence: 2, Reason: "the operator stopped the agent"}))
	require.Equal(t, "the operator stopped the agent", w.moved("n1", clusters.NodeGone).Reason)
	require.Equal(t, "READY", (<-w.lives).To)
	gone := <-w.lives
	require.Equal(t, "UNHEALTHY", gone.To)
	require.Equal(t, "UNHEALTHY", w.groups()[0].Clusters[0].Status)
	w.say(snapshot("n1", 2, 1, clusters.Free))
	require.Equal(t, "READY", (<-w.lives).To)
}

func TestARestartGivesNodesTimeToSpeak(t *testing.T) {
	w := newWorld(t)
	w.say(snapshot("n1", 1, 1, clusters.Free))
	w.free(1)
	w.moved("n1", clusters.NodeReady)
	w.stop()
	w.clock.Advance(time.Hour)
	w.start()
	w.pass(clusters.SuspectAfter - time.Second)
	require.Equal(t, 1, w.available(), "the hour in which nobody listened does not count")
	require.False(t, w.heartbeat("n1", 1, 1).WantSnapshot)
	w.pass(10 * time.Second)
	require.Equal(t, 1, w.available())
	require.Empty(t, w.moves)
	w.pass(10 * time.Second)
	w.moved("n1", clusters.NodeSuspect)
}

func TestTheProjectionRebuildsFromTheStream(t *testing.T) {
	w := newWorld(t)
	w.say(snapshot("n1", 1, 1, clusters.Free, clusters.Free, clusters.Sick))
	w.free(2)
	w.say(snapshot("n2", 1, 1, clusters.Free))
	w.free(3)
	w.change(clusters.Delta{
		Cluster: "lab", Node: "n1", Account: account, Epoch: 1, Sequence: 2, BasedOn: 1, State: clusters.NodeReady,
		Changed: []clusters.Device{{UUID: "n1GPU-b", GPU: "H100", State: clusters.Allocated}},
	})
	w.free(2)
	before := w.groups()
	nodesBefore, err := bus.Call(t.Context(), w.conn, clusters.Nodes, clusters.NodesRequest{Account: account})
	require.NoError(t, err)

	w.stop()
	_, err = w.pool.Exec(t.Context(), `TRUNCATE cluster_inventory.clusters, cluster_inventory.nodes, cluster_inventory.inbox`)
	require.NoError(t, err)
	js, err := jetstream.New(w.conn.NATS())
	require.NoError(t, err)
	require.NoError(t, js.DeleteConsumer(t.Context(), event.StreamOf(event.Nodes), "cluster-inventory-"+event.Nodes))
	w.start()
	require.Eventually(t, func() bool { return reflect.DeepEqual(before, w.groups()) }, patience, 5*time.Millisecond, "same ids, same counts")
	nodesAfter, err := bus.Call(t.Context(), w.conn, clusters.Nodes, clusters.NodesRequest{Account: account})
	require.NoError(t, err)
	for i := range nodesAfter.Nodes {
		nodesAfter.Nodes[i].SeenAt = nodesBefore.Nodes[i].SeenAt
	}
	require.Equal(t, nodesBefore, nodesAfter)
}

func TestImagesAreFoundInEverySpelling(t *testing.T) {
	w := newWorld(t)
	put := func(r clusters.ImageRequest) error {
		_, err := bus.Call(w.ctx(), w.conn, clusters.PutImage, r)
		return err
	}
	require.NoError(t, put(clusters.ImageRequest{Reference: "echo", Command: []string{"old"}}))
	require.NoError(t, put(clusters.ImageRequest{Reference: "docker.io/library/echo:latest", Command: []string{"/bin/echo", "-n"}, Directory: "/tmp"}))
	require.NoError(t, put(clusters.ImageRequest{Reference: "registry.example:5000/team/model:1.2", Command: []string{"serve"}}))
	for _, ref := range []string{"echo", "echo:latest", "library/echo", "docker.io/echo", "docker.io/library/echo:latest"} {
		got, err := bus.Call(t.Context(), w.conn, clusters.FindImage, clusters.ImageQuery{Reference: ref})
		require.NoError(t, err)
		require.True(t, got.Found, ref)
		require.Equal(t, []string{"/bin/echo", "-n"}, got.Image.Command)
	}
	for _, ref := range []string{"echo:2", "team/echo", "registry.example:5000/team/model"} {
		got, err := bus.Call(t.Context(), w.conn, clusters.FindImage, clusters.ImageQuery{Reference: ref})
		require.NoError(t, err)
		require.False(t, got.Found, ref)
	}
	list, err := bus.Call(t.Context(), w.conn, clusters.ListImages, rpc.None{})
	require.NoError(t, err)
	require.Len(t, list.Images, 2)

	_, err = bus.Call(w.ctx(), w.conn, clusters.DeleteImage, clusters.ImageQuery{Reference: "echo"})
	require.NoError(t, err)
	_, err = bus.Call(w.ctx(), w.conn, clusters.DeleteImage, clusters.ImageQuery{Reference: "echo"})
	require.True(t, problem.HasCode(err, problem.NotFound))
	require.ErrorContains(t, err, "Not found")
}

func TestBadImagesNameTheField(t *testing.T) {
	t.Parallel()
	good := clusters.ImageRequest{Reference: "echo", Command: []string{"true"}}
	for name, c := range map[string]struct {
		change func(*clusters.ImageRequest)
		field  string
	}{
		"no reference":       {func(r *clusters.ImageRequest) { r.Reference = "" }, "reference"},
		"upper case":         {func(r *clusters.ImageRequest) { r.Reference = "Team/Echo" }, "reference"},
		"blank inside":       {func(r *clusters.ImageRequest) { r.Reference = "a b" }, "reference"},
		"a url":              {func(r *clusters.ImageRequest) { r.Reference = "https://x/y" }, "reference"},
		"too long":           {func(r *clusters.ImageRequest) { r.Reference = strings.Repeat("a", 600) }, "reference"},
		"no command":         {func(r *clusters.ImageRequest) { r.Command = nil }, "command"},
		"blank program":      {func(r *clusters.ImageRequest) { r.Command = []string{" "} }, "command"},
		"257 arguments":      {func(r *clusters.ImageRequest) { r.Command = make([]string, 257); r.Command[0] = "x" }, "command"},
		"NUL in argument":    {func(r *clusters.ImageRequest) { r.Command = []string{"a\x00b"} }, "command"},
		"huge argument":      {func(r *clusters.ImageRequest) { r.Command = []string{strings.Repeat("a", maxArgument+1)} }, "command"},
		"relative directory": {func(r *clusters.ImageRequest) { r.Directory = "work" }, "directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := good
			c.change(&r)
			_, err := validImage(r)
			p, ok := problem.From(err)
			require.True(t, ok)
			require.Equal(t, 400, p.Status())
			require.Contains(t, p.Detail, "field: "+c.field)
		})
	}
	_, err := validImage(good)
	require.NoError(t, err)
}
