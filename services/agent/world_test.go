package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/relay"
	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// patience is how long a test waits for anything.
const patience = 2 * time.Minute

// world is everything around an agent: NATS, and the services that it talks to, played by the test.
type world struct {
	t      *testing.T
	nats   *server.Server
	conn   *bus.Conn
	dir    string
	client *relay.Client

	mu       sync.Mutex
	versions map[string]functions.Launchable
	images   map[string]clusters.Image
	beats    []clusters.HeartbeatRequest
	answer   clusters.HeartbeatResponse
	events   []event.Envelope
	reports  map[string][]instances.Report
	capacity []capacityMessage
	news     chan struct{} // closed and replaced at every change
	logs     bytes.Buffer
}

// capacityMessage is a snapshot or a delta.
type capacityMessage struct {
	clusters.Delta
	Snapshot *clusters.Snapshot
	Heard    time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s := testkit.NATS(t)
	return newWorldOn(t, s, testkit.Conn(t, s))
}

func newWorldOn(t *testing.T, s *server.Server, conn *bus.Conn) *world {
	t.Helper()
	w := &world{
		t: t, nats: s, conn: conn, dir: t.TempDir(), versions: map[string]functions.Launchable{},
		images: map[string]clusters.Image{}, reports: map[string][]instances.Report{}, news: make(chan struct{}),
	}
	ctx := t.Context()
	for _, owner := range []string{"agent", "deployments"} {
		require.NoError(t, w.conn.Declare(ctx, owner))
	}
	self, err := os.Executable()
	require.NoError(t, err)
	w.images["tester"] = clusters.Image{Reference: "tester", Command: []string{self, roleContainer}}
	for domain, hear := range map[string]func(event.Envelope){event.Instances: w.hearReport, event.Nodes: w.hearCapacity} {
		stop, err := w.conn.Watch(ctx, domain, hear)
		require.NoError(t, err)
		t.Cleanup(stop)
	}
	w.serve()
	w.client, err = relay.NewClient(w.conn.NATS())
	require.NoError(t, err)
	require.NoError(t, w.client.Start(ctx))
	t.Cleanup(func() { _ = w.client.Close(context.Background()) })
	return w
}

// serve plays the functions service and the cluster inventory.
func (w *world) serve() {
	fn, inventory := bus.NewServer(w.conn, "functions"), bus.NewServer(w.conn, "cluster-inventory")
	bus.Serve(fn, functions.Launch, func(_ context.Context, r functions.InternalRequest) (functions.Launchable, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		l, ok := w.versions[r.VersionID]
		if !ok {
			return l, problem.New(problem.NotFound, "no such version")
		}
		return l, nil
	})
	bus.Serve(inventory, clusters.Heartbeat, func(_ context.Context, r clusters.HeartbeatRequest) (clusters.HeartbeatResponse, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.beats = append(w.beats, r)
		w.tell()
		return w.answer, nil
	})
	bus.Serve(inventory, clusters.FindImage, func(_ context.Context, q clusters.ImageQuery) (clusters.ImageResponse, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		i, ok := w.images[q.Reference]
		return clusters.ImageResponse{Found: ok, Image: i}, nil
	})
	for _, s := range []*bus.Server{fn, inventory} {
		require.NoError(w.t, s.Start(w.t.Context()))
		w.t.Cleanup(func() { _ = s.Stop(context.Background()) })
	}
}

// tell wakes whoever waits. It is called with the lock.
func (w *world) tell() {
	close(w.news)
	w.news = make(chan struct{})
}

func (w *world) hearReport(env event.Envelope) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var r instances.Report
	if json.Unmarshal(env.Data, &r) == nil {
		w.events = append(w.events, env)
		w.reports[r.InstanceID] = append(w.reports[r.InstanceID], r)
	}
	w.tell()
}

func (w *world) hearCapacity(env event.Envelope) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := capacityMessage{Heard: time.Now()}
	if s, ok := bus.As[clusters.Snapshot](env, clusters.CapacitySnapshot); ok {
		m.Snapshot = &s
		m.Delta = clusters.Delta{Epoch: s.Epoch, Sequence: s.Sequence, At: s.At, Changed: s.Devices}
	} else if m.Delta, ok = bus.As[clusters.Delta](env, clusters.CapacityDelta); !ok {
		if b, left := bus.As[clusters.Bye](env, clusters.NodeLeft); left {
			m.Delta = clusters.Delta{Epoch: b.Epoch, Sequence: b.Sequence, State: clusters.NodeGone}
		}
	}
	w.capacity = append(w.capacity, m)
	w.tell()
}

// until waits for something; check is called with the lock.
func (w *world) until(what string, check func() bool) {
	w.t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		w.mu.Lock()
		ok, news := check(), w.news
		w.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-news:
		case <-limit.C:
			w.logReports()
			require.FailNow(w.t, "waited in vain", what)
		}
	}
}

// logReports shows the reports of a few instances, for a test that fails.
func (w *world) logReports() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	shown := 0
	for id, rs := range w.reports {
		if shown++; shown > 10 {
			return
		}
		for _, r := range rs {
			w.t.Logf("%s %d %s %s %s %s", id, r.Sequence, r.State, r.Phase, r.Cause, r.Message)
		}
	}
}

// state waits until the last report of an instance has the state, and returns that report. An instance that shuts down
// may have ended before anybody looks, so then any report will do.
func (w *world) state(id string, state instances.State) (last instances.Report) {
	w.t.Helper()
	w.until(id+" "+string(state), func() bool {
		rs := w.reports[id]
		if n := slices.IndexFunc(rs, func(r instances.Report) bool { return r.State == instances.ShuttingDown }); n >= 0 && state == instances.ShuttingDown {
			last = rs[n]
			return true
		}
		if len(rs) == 0 {
			return false
		}
		last = rs[len(rs)-1]
		return last.State == state
	})
	return last
}

// phase waits until an instance was reported in a phase or beyond.
func (w *world) phase(id string, phase instances.Phase) {
	w.t.Helper()
	w.until(id+" "+string(phase), func() bool {
		return slices.ContainsFunc(w.reports[id], func(r instances.Report) bool { return r.Phase == phase || r.State != instances.Starting })
	})
}

// told is every capacity message so far.
func (w *world) told() []capacityMessage {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.capacity)
}

// heard is every report of an instance so far.
func (w *world) heard(id string) []instances.Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.reports[id])
}

func steps(rs []instances.Report) (s []string) {
	for _, r := range rs {
		s = append(s, strings.TrimSuffix(string(r.State)+"/"+string(r.Phase), "/"))
	}
	return s
}

// version makes a version known to the functions service and gives it a queue. change may be nil.
func (w *world) version(change func(*functions.Launchable)) string {
	w.t.Helper()
	id := uuid.NewString()
	l := functions.Launchable{Function: functions.Function{
		ID: "fn-" + id[:4], VersionID: id, NCAID: "acme",
		Spec: functions.Spec{
			Name: "echo", ContainerImage: "tester", InferencePort: 8000,
			Health: &functions.Health{Protocol: "HTTP", URI: "/health", Port: 8000, Timeout: "PT30S", ExpectedStatusCode: 200},
		},
	}}
	if change != nil {
		change(&l)
	}
	w.mu.Lock()
	w.versions[id] = l
	w.mu.Unlock()
	require.NoError(w.t, w.conn.EnsureQueue(w.t.Context(), id))
	return id
}

// knob is an environment entry of a version.
func knob(name, value string) func(*functions.Launchable) {
	return func(l *functions.Launchable) {
		l.Function.ContainerEnvironment = append(l.Function.ContainerEnvironment, functions.EnvironmentEntry{Key: name, Value: value})
	}
}

func args(s string) func(*functions.Launchable) {
	return func(l *functions.Launchable) { l.Function.ContainerArgs = s }
}

// launch orders an instance and returns its id. change may be nil.
func (w *world) launch(version string, change func(*instances.LaunchOrder)) string {
	w.t.Helper()
	order := instances.LaunchOrder{
		CommandID: uuid.NewString(), InstanceID: uuid.NewString(), Account: "acme", FunctionID: "fn", VersionID: version,
		DeploymentID: "dep", GPU: "H100", InstanceType: "NCP.GPU.H100_1x", MaxConcurrency: 1, Deadline: time.Now().Add(5 * time.Minute),
	}
	if change != nil {
		change(&order)
	}
	send(w, instances.Launch, order.CommandID, order)
	return order.InstanceID
}

func (w *world) terminate(id string, drain int, change ...func(*instances.TerminateOrder)) {
	w.t.Helper()
	order := instances.TerminateOrder{CommandID: uuid.NewString(), InstanceID: id, Account: "acme", Cause: instances.ByUser, DrainSeconds: drain}
	for _, c := range change {
		c(&order)
	}
	send(w, instances.Terminate, order.CommandID, order)
}

func (w *world) renewSecrets(id string) {
	w.t.Helper()
	order := instances.SecretsOrder{CommandID: uuid.NewString(), InstanceID: id, Account: "acme"}
	send(w, instances.UpdateSecrets, order.CommandID, order)
}

// send publishes an order as an outbox does.
func send[O any](w *world, cmd rpc.Command[O], id string, order O) {
	w.t.Helper()
	b, err := json.Marshal(order)
	require.NoError(w.t, err)
	_, err = w.conn.PublishBatch(w.t.Context(), []store.Message{{Subject: cmd.Subject("lab", "n1"), ID: id, Payload: b}})
	require.NoError(w.t, err)
}

// quick is a pace for tests.
var quick = pace{
	probeStarting: 50 * time.Millisecond, probeRunning: 50 * time.Millisecond, replaceAfter: time.Hour,
	remembered: time.Hour, lookEvery: 5 * time.Second,
}

func (w *world) config() Config {
	return Config{
		DataDir: w.dir, Cluster: "lab", Node: "n1", Account: "acme", Region: "us-west-1", GPUs: "H100:4",
		Drivers: []string{"process"}, InstanceProvider: "NCP", StopGrace: 20 * time.Second,
	}
}

// node is a running agent.
type node struct {
	*Agent
	w    *world
	over bool
}

// agent starts an agent and waits until it is ready. change may be nil.
func (w *world) agent(change func(*Config), paces ...pace) *node {
	w.t.Helper()
	n := w.startAgent(change, paces...)
	require.Eventually(w.t, func() bool { return n.Check(w.t.Context()) == nil }, patience, 5*time.Millisecond)
	return n
}

func (w *world) startAgent(change func(*Config), paces ...pace) *node {
	w.t.Helper()
	cfg := w.config()
	if change != nil {
		change(&cfg)
	}
	core := zapcore.NewCore(zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()), zapcore.AddSync(&locked{w: w}), zap.DebugLevel)
	a, err := New(cfg, testkit.Conn(w.t, w.nats), zap.New(core))
	require.NoError(w.t, err)
	a.pace = quick
	if len(paces) > 0 {
		a.pace = paces[0]
	}
	n := &node{Agent: a, w: w}
	w.t.Cleanup(n.clear)
	require.NoError(w.t, a.Start(w.t.Context()))
	return n
}

func sims(c *Config) { c.Drivers = []string{"sim"} }

// locked writes the log of an agent into the world.
type locked struct{ w *world }

func (l *locked) Write(p []byte) (int, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.w.logs.Write(p)
}

// crash ends the agent as a kill does, as far as that is possible within one process: nothing more is written or said.
func (n *node) crash() {
	n.over = true
	n.cancel()
	n.halt()
	n.running.Wait()
	n.work.close()
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.relay.Close(gone)
	for _, d := range n.drivers {
		_ = d.Close()
	}
}

// stop ends the agent in an orderly way.
func (n *node) stop() {
	n.w.t.Helper()
	n.stopWithin(patience)
}

func (n *node) stopWithin(time time.Duration) {
	n.w.t.Helper()
	n.over = true
	ctx, cancel := context.WithTimeout(context.Background(), time)
	defer cancel()
	require.NoError(n.w.t, n.Stop(ctx))
}

// clear stops the agent at the end of a test and everything that it runs.
func (n *node) clear() {
	if !n.over {
		n.stop()
	}
	n.w.sweep()
}

// sweep removes what instances are left on the node.
func (w *world) sweep() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cfg := w.config()
	cfg.Drivers = []string{"process", "sim"}
	a, err := New(cfg, w.conn, zap.NewNop())
	require.NoError(w.t, err)
	for _, d := range a.drivers {
		handles, err := d.List(ctx)
		require.NoError(w.t, err)
		for _, h := range handles {
			_ = d.Remove(ctx, h)
		}
		_ = d.Close()
	}
}

func (n *node) instance(id string) *instance {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.instances[id]
}

// port is where the instance really listens.
func (n *node) port(id string) string {
	i := n.instance(id)
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.rec.Handle.Ports[8000]
}

// ask calls an instance past the agent.
func (n *node) ask(id, path string) []byte {
	n.w.t.Helper()
	b, err := tryGet("http://" + n.port(id) + path)
	require.NoError(n.w.t, err)
	return b
}

// release lets an instance finish the work that it holds.
func (n *node) release(id string) {
	n.w.t.Helper()
	n.ask(id, "/release")
}

// holds waits until so much work goes on in an instance.
func (n *node) holds(id string, count int) {
	n.w.t.Helper()
	require.Eventually(n.w.t, func() bool { return n.stats(id).Now == count }, patience, 5*time.Millisecond)
}

// stats asks one instance, whoever would get the next call.
func (n *node) stats(id string) (s stats) {
	n.w.t.Helper()
	require.NoError(n.w.t, json.Unmarshal(n.ask(id, "/stats"), &s))
	return s
}

// within fails unless something takes less than the limit: now and then a busy machine is late, a fault always is.
func within(t *testing.T, limit time.Duration, try func() time.Duration) {
	t.Helper()
	var took time.Duration
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if took = try(); took < limit {
			return
		}
	}
	require.Less(t, took, limit)
}

// exist lists what instances exist on the node, whatever an agent believes.
func (n *node) exist() (ids []string) {
	for _, d := range n.drivers {
		handles, err := d.List(context.Background())
		require.NoError(n.w.t, err)
		for _, h := range handles {
			ids = append(ids, h.InstanceID)
		}
	}
	return ids
}

// response is what a client gets.
type response struct {
	status int
	body   string
	err    error
}

// open prepares a call as a gateway does.
func (w *world) open(uri string, h http.Header) *relay.Exchange {
	w.t.Helper()
	ex, err := w.client.Open(&relay.Request{
		ID: uuid.NewString(), Method: http.MethodGet, URI: uri, Header: h, Deadline: time.Now().Add(22 * time.Second),
		Attributes: []relay.Attribute{{Name: "NVCF-SUB", Value: "alice"}, {Name: "NVCF-NCAID", Value: "acme"}},
	})
	require.NoError(w.t, err)
	w.t.Cleanup(ex.Cancel)
	return ex
}

// read waits for the response.
func read(ex *relay.Exchange) response {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := ex.Response(ctx)
	if err != nil {
		return response{err: err}
	}
	b, err := io.ReadAll(resp.Body)
	return response{resp.Status, string(b), err}
}

func direct(version string) string { return "inv.direct." + version }

// call calls a version directly, again and again while it is busy.
func (w *world) call(version, uri string) response {
	w.t.Helper()
	return w.callWith(version, uri, http.Header{})
}

func (w *world) callWith(version, uri string, h http.Header) (r response) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		ex := w.open(uri, h.Clone())
		// NATS may give an offer to an agent that was killed just now, who never answers.
		ctx, cancel := context.WithTimeout(context.Background(), patience/8)
		defer cancel()
		if r.err = ex.Offer(ctx, direct(version)); r.err != nil {
			ex.Cancel()
			return false
		}
		r = read(ex)
		return true
	}, patience, 5*time.Millisecond)
	return r
}

func (w *world) self(version string) (s self) {
	w.t.Helper()
	r := w.call(version, "/self")
	require.NoError(w.t, r.err)
	require.NoError(w.t, json.Unmarshal([]byte(r.body), &s), r.body)
	return s
}

func (w *world) stats(version string) (s stats) {
	w.t.Helper()
	r := w.call(version, "/stats")
	require.NoError(w.t, r.err)
	require.NoError(w.t, json.Unmarshal([]byte(r.body), &s), r.body)
	return s
}

// enqueue puts a call into the queue of a version.
func (w *world) enqueue(version, uri string) (*relay.Exchange, bus.Entry) {
	w.t.Helper()
	ex := w.open(uri, http.Header{})
	e, err := w.conn.Enqueue(w.t.Context(), version, uuid.NewString(), ex.Payload())
	require.NoError(w.t, err)
	return ex, e
}

// device is the uuid of the n-th device of the node, as its last snapshot tells.
func (w *world) device(n int) (uuid string) {
	w.t.Helper()
	w.until("a snapshot", func() bool {
		for _, m := range w.capacity {
			if m.Snapshot != nil && len(m.Snapshot.Devices) > n {
				uuid = m.Snapshot.Devices[n].UUID
			}
		}
		return uuid != ""
	})
	return uuid
}

func onDevice(uuid string) func(*instances.LaunchOrder) {
	return func(o *instances.LaunchOrder) { o.Devices = []string{uuid} }
}
