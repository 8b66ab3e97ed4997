package deployments

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"go.uber.org/fx"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestModuleIsComplete(t *testing.T) {
	t.Parallel()
	require.NoError(t, fx.ValidateApp(app.Base("deployments"), Module))
}

const (
	account = "acct-77"
	soon    = time.Minute
)

// launched is an order that a node took.
type launched struct {
	node  string
	order instances.LaunchOrder
}

// ended is an order to end that a node took.
type ended struct {
	node  string
	order instances.TerminateOrder
}

// world is the platform around the service under test: the test plays the functions service, the inventory and the
// agents, through the same contracts that they use.
type world struct {
	t    *testing.T
	nats *server.Server
	pool *pgxpool.Pool
	conn *bus.Conn
	cfg  Config

	launches chan launched
	ends     chan ended
	renewals chan instances.SecretsOrder
	sequence atomic.Int64
	// stopFunctions takes the functions service away.
	stopFunctions func()
	// kill ends the replica that was started last without waiting for what it does.
	kill func()

	mu        sync.Mutex
	functions map[string]*functions.Function
	told      map[string][]functions.SetStatusRequest
	nodes     map[string]*clusters.Node
	rules     map[string][]clusters.QuotaRule
	public    map[string]bool
	queues    map[string]bool
	// gone is what the functions service says of versions whose artifacts cannot be had any more.
	gone map[string]error
	// interrupt, when it is set, is asked at each step of the others' work; an error is an answer that never comes.
	interrupt func(step string) error
	// onLaunch and onEnd are what agents do with orders.
	onLaunch func(launched)
	onEnd    func(ended)
}

func newWorld(t *testing.T, nodes ...clusters.Node) *world {
	t.Helper()
	w := &world{
		t: t, nats: testkit.NATS(t), pool: testkit.Database(t, schema, app.Migrations(migrations)),
		launches: make(chan launched, 1024), ends: make(chan ended, 1024), renewals: make(chan instances.SecretsOrder, 16),
		functions: map[string]*functions.Function{}, told: map[string][]functions.SetStatusRequest{}, nodes: map[string]*clusters.Node{}, rules: map[string][]clusters.QuotaRule{}, public: map[string]bool{}, queues: map[string]bool{},
	}
	w.onLaunch, w.onEnd = w.comesUp, w.goesDown
	w.conn = testkit.Conn(t, w.nats)
	for _, owner := range []string{"agent", "functions", "deployments", "cluster-inventory"} {
		require.NoError(t, w.conn.Declare(t.Context(), owner))
	}
	for _, n := range nodes {
		w.join(n)
	}
	w.stopFunctions = w.serveFunctions()
	inventory := bus.NewServer(w.conn, "cluster-inventory")
	bus.Serve(inventory, clusters.Nodes, w.listNodes)
	bus.Serve(inventory, clusters.FindQuotaRules, w.listRules)
	testkit.Run(t, inventory)
	queues := bus.NewServer(w.conn, "invocation")
	bus.Serve(queues, invocation.EnsureQueue, w.ensureQueue)
	testkit.Run(t, queues)
	return w
}

// interrupted is called with the lock held.
func (w *world) interrupted(step string) error {
	if w.interrupt == nil {
		return nil
	}
	return w.interrupt(step)
}

func (w *world) ensureQueue(_ context.Context, r invocation.QueueRequest) (rpc.None, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.interrupted("queue"); err != nil {
		return rpc.None{}, err
	}
	w.queues[r.VersionID] = true
	return rpc.None{}, w.interrupted("queue made")
}

func (w *world) serveFunctions() (stop func()) {
	fns := bus.NewServer(w.conn, "functions")
	bus.Serve(fns, functions.Lookup, w.lookup)
	bus.Serve(fns, functions.SetStatus, w.setStatus)
	bus.Serve(fns, functions.CheckArtifacts, func(_ context.Context, r functions.InternalRequest) (rpc.None, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return rpc.None{}, w.gone[r.VersionID]
	})
	return testkit.Run(w.t, fns)
}

// start runs one replica of the service and waits until it serves.
func (w *world) start() (stop func()) {
	w.t.Helper()
	s := NewService(testkit.Platform(w.t, testkit.Conn(w.t, w.nats), w.pool, quartz.NewReal()), w.cfg)
	stop = testkit.Run(w.t, s)
	w.kill = sync.OnceFunc(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Stop(now) // nothing is waited for
	})
	testkit.Ready(w.t, s)
	return stop
}

func (w *world) lookup(_ context.Context, r functions.InternalRequest) (functions.FunctionResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.functions[r.VersionID]
	if f == nil || f.ID != r.FunctionID {
		return functions.FunctionResponse{}, problem.New(problem.NotFound, "no such version")
	}
	return functions.FunctionResponse{Function: *f, Public: w.public[r.VersionID]}, nil
}

func (w *world) setStatus(_ context.Context, r functions.SetStatusRequest) (rpc.None, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.functions[r.VersionID]
	if f == nil {
		return rpc.None{}, problem.New(problem.NotFound, "no such version")
	}
	if err := w.interrupted("status"); err != nil {
		return rpc.None{}, err
	}
	f.Status = r.Status
	if err := w.interrupted("status told"); err != nil {
		return rpc.None{}, err
	}
	w.told[r.VersionID] = append(w.told[r.VersionID], r)
	return rpc.None{}, nil
}

func (w *world) listNodes(_ context.Context, r clusters.NodesRequest) (clusters.NodesResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out clusters.NodesResponse
	for _, n := range w.nodes {
		if r.Account == "" || n.UsableBy(r.Account) {
			out.Nodes = append(out.Nodes, *n)
		}
	}
	return out, nil
}

func (w *world) listRules(_ context.Context, r clusters.QuotaQuery) (clusters.QuotaRules, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Account != "" {
		return clusters.QuotaRules{Rules: w.rules[r.Account]}, nil
	}
	var all clusters.QuotaRules
	for _, rules := range w.rules {
		all.Rules = append(all.Rules, rules...)
	}
	return all, nil
}

// join makes a node known and runs its agent.
func (w *world) join(n clusters.Node) {
	w.t.Helper()
	w.mu.Lock()
	w.nodes[n.Node] = &n
	w.mu.Unlock()
	agent := bus.NewCommands(w.conn, n.Cluster, n.Node)
	bus.OnCommand(agent, instances.Launch, func(_ context.Context, o instances.LaunchOrder) error {
		l := launched{n.Node, o}
		w.behaviour().launch(l)
		w.launches <- l
		return nil
	})
	bus.OnCommand(agent, instances.Terminate, func(_ context.Context, o instances.TerminateOrder) error {
		e := ended{n.Node, o}
		w.behaviour().end(e)
		w.ends <- e
		return nil
	})
	bus.OnCommand(agent, instances.UpdateSecrets, func(_ context.Context, o instances.SecretsOrder) error {
		w.renewals <- o
		return nil
	})
	require.NoError(w.t, agent.Start(w.t.Context()))
	w.t.Cleanup(agent.Stop)
}

type behaviour struct {
	launch func(launched)
	end    func(ended)
}

func (w *world) behaviour() behaviour {
	w.mu.Lock()
	defer w.mu.Unlock()
	return behaviour{w.onLaunch, w.onEnd}
}

// behave changes what agents do; nil leaves it.
func (w *world) behave(launch func(launched), end func(ended)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if launch != nil {
		w.onLaunch = launch
	}
	if end != nil {
		w.onEnd = end
	}
}

// capacity tells that something changed on a node.
func (w *world) capacity(node string, change func(*clusters.Node)) {
	w.t.Helper()
	w.mu.Lock()
	change(w.nodes[node])
	w.mu.Unlock()
	require.NoError(w.t, bus.Announce(w.t.Context(), w.conn, "agent", uuid.NewString(), clusters.CapacityDelta,
		bus.Fact{Account: account, Entity: node}, clusters.Delta{Node: node}))
}

// moved is what the inventory says when a node changes state.
func (w *world) moved(node string, to clusters.NodeState) {
	w.t.Helper()
	w.mu.Lock()
	w.nodes[node].State = to
	w.mu.Unlock()
	require.NoError(w.t, bus.Announce(w.t.Context(), w.conn, "cluster-inventory", uuid.NewString(), clusters.NodeMoved,
		bus.Fact{Account: account, Entity: node}, clusters.NodeChanged{Node: node, To: to}))
}

// report is what the agent of a node says about an instance.
func (w *world) report(l launched, state instances.State, change ...func(*instances.Report)) {
	w.mu.Lock()
	cluster := w.nodes[l.node].Cluster
	w.mu.Unlock()
	r := instances.Report{
		InstanceID: l.order.InstanceID, Account: l.order.Account, FunctionID: l.order.FunctionID, VersionID: l.order.VersionID,
		DeploymentID: l.order.DeploymentID, GPUSpecificationID: l.order.GPUSpecificationID, Cluster: cluster, Node: l.node,
		State: state, Sequence: w.sequence.Add(1), At: time.Now(),
	}
	for _, c := range change {
		c(&r)
	}
	w.say(r)
}

// say publishes a report as it is.
func (w *world) say(r instances.Report) {
	err := bus.Announce(context.Background(), w.conn, "agent", fmt.Sprintf("%s:%d:%s", r.InstanceID, r.Sequence, uuid.NewString()), r.Event(),
		bus.Fact{Account: r.Account, Entity: r.InstanceID, Refs: event.Refs{InstanceID: r.InstanceID}}, r)
	if err != nil {
		w.t.Errorf("report: %v", err)
	}
}

// comesUp is the life of a good instance.
func (w *world) comesUp(l launched) {
	w.report(l, instances.Starting, func(r *instances.Report) { r.Phase = instances.Creating })
	w.report(l, instances.Running)
}

// crashes is the life of a bad one.
func (w *world) crashes(l launched) {
	w.report(l, instances.Starting, func(r *instances.Report) { r.Phase = instances.Creating })
	w.report(l, instances.Terminated, func(r *instances.Report) {
		r.Cause, r.Message, r.Logs = instances.Failed, "the process exited with status 3", []string{"loading", "no such model"}
	})
}

// idles is the life of one that never gets anywhere.
func (w *world) idles(launched) {}

// goesDown carries an order to end out, as an agent does that knows no more than the order says.
func (w *world) goesDown(e ended) {
	w.report(launched{e.node, instances.LaunchOrder{InstanceID: e.order.InstanceID, Account: e.order.Account, VersionID: e.order.VersionID}},
		instances.Terminated, func(r *instances.Report) { r.Cause = e.order.Cause })
}

// version registers a function version.
func (w *world) version() functions.Function {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := &functions.Function{
		ID: uuid.NewString(), VersionID: uuid.NewString(), NCAID: account, Status: functions.Inactive,
		Spec: functions.Spec{Name: "echo", ContainerImage: "echo:1"}, Secrets: []string{"TOKEN"},
	}
	w.functions[f.VersionID] = f
	return *f
}

func (w *world) status(version string) functions.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.functions[version].Status
}

// path is every status that the functions service was told, without repetitions.
func (w *world) path(version string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, r := range w.told[version] {
		if len(out) == 0 || out[len(out)-1] != string(r.Status) {
			out = append(out, string(r.Status))
		}
	}
	return strings.Join(out, " ")
}

func admin(ctx context.Context) context.Context {
	return access.WithCaller(ctx, access.Caller{Account: account, Kind: access.JWT, Subject: "test"})
}

// one is a specification of one H100.
func one(low, high int) contract.Specification {
	return contract.Specification{GPU: "H100", InstanceType: "NCP.GPU.H100_1x", MinInstances: new(low), MaxInstances: new(high)}
}

func (w *world) create(f functions.Function, specs ...contract.Specification) (contract.Deployment, error) {
	r, err := bus.Call(admin(w.t.Context()), w.conn, contract.Create, contract.CreateRequest{FunctionID: f.ID, VersionID: f.VersionID, Specifications: specs})
	return r.Deployment, err
}

func (w *world) deploy(f functions.Function, specs ...contract.Specification) contract.Deployment {
	w.t.Helper()
	d, err := w.create(f, specs...)
	require.NoError(w.t, err)
	return d
}

func (w *world) get(f functions.Function) (contract.Deployment, error) {
	r, err := bus.Call(admin(w.t.Context()), w.conn, contract.Get, contract.VersionRequest{FunctionID: f.ID, VersionID: f.VersionID})
	return r.Deployment, err
}

func (w *world) undeploy(f functions.Function, gracefully bool) (functions.Function, error) {
	r, err := bus.Call(admin(w.t.Context()), w.conn, contract.Delete, contract.DeleteRequest{FunctionID: f.ID, VersionID: f.VersionID, Graceful: gracefully})
	return r.Function, err
}

// becomes waits until clients and the functions service agree on a status.
func (w *world) becomes(f functions.Function, s functions.Status) contract.Deployment {
	w.t.Helper()
	var d contract.Deployment
	var err error
	require.Eventually(w.t, func() bool {
		d, err = w.get(f)
		return err == nil && d.Status == s && w.status(f.VersionID) == s
	}, soon, 5*time.Millisecond, "never became %s", s)
	return d
}

// vanishes waits until nothing of a deployment is left.
func (w *world) vanishes(f functions.Function) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.count(`deployments.deployments WHERE version_id = '`+f.VersionID+`'`) == 0 }, soon, 5*time.Millisecond)
}

func (w *world) count(from string) (n int) {
	w.t.Helper()
	require.NoError(w.t, w.pool.QueryRow(w.t.Context(), `SELECT count(*) FROM `+from).Scan(&n))
	return n
}

func (w *world) launch() launched {
	w.t.Helper()
	select {
	case l := <-w.launches:
		return l
	case <-time.After(soon):
		require.Fail(w.t, "no order to launch")
	}
	return launched{}
}

func (w *world) end() ended {
	w.t.Helper()
	select {
	case e := <-w.ends:
		return e
	case <-time.After(soon):
		require.Fail(w.t, "no order to end")
	}
	return ended{}
}

// quiet asserts that no node got an order since the last look. A round trip through every party makes it a fair look.
func (w *world) quiet(f functions.Function) {
	w.t.Helper()
	_, err := bus.Call(w.t.Context(), w.conn, contract.Wake, contract.WakeRequest{VersionID: f.VersionID})
	require.NoError(w.t, err)
	require.Empty(w.t, w.launches)
	require.Empty(w.t, w.ends)
}

// node is a ready one with simulated H100s.
func node(name string, gpus int) clusters.Node {
	n := clusters.Node{
		ClusterID: uuid.NewString(), Cluster: "lab", Node: name, Account: account, Epoch: 1, Sequence: 1, State: clusters.NodeReady, SeenAt: time.Now(),
		Facts: clusters.NodeFacts{Region: "eu-north-1", Drivers: []string{"sim"}},
	}
	for i := range gpus {
		n.Devices = append(n.Devices, clusters.Device{UUID: fmt.Sprintf("GPU-%s-%d", name, i), Index: i, GPU: "H100", State: clusters.Free, Health: "ok", Simulated: true})
	}
	for _, k := range []int{1, 2, 4} {
		n.Types = append(n.Types, clusters.InstanceType{
			Name: fmt.Sprintf("NCP.GPU.H100_%dx", k), Value: "NCP.GPU.H100", GPU: "H100", GPUCount: k, NodeType: "SINGLE", CPUMilli: 1000, MemoryMiB: 1024,
		})
	}
	return n
}
