package invocation

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"go.uber.org/fx"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	contract "github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	libstore "github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestModuleIsComplete(t *testing.T) {
	t.Parallel()
	require.NoError(t, fx.ValidateApp(app.Base("invocation"), Module))
}

func TestMigrationsGoBack(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, app.Migrations(migrations))
	require.NoError(t, libstore.MigrateDown(t.Context(), pool, schema, app.Migrations(migrations)))
	require.NoError(t, libstore.Migrate(t.Context(), pool, schema, app.Migrations(migrations)))
}

const (
	account  = "alice"
	patience = time.Minute
	tick     = 10 * time.Millisecond
)

// world is the service under test, with the test in the place of the functions and deployments services and of the
// gateway. Everything goes over the bus.
type world struct {
	t *testing.T
	// connect makes one more connection to the world's NATS.
	connect func() *bus.Conn
	pool    *pgxpool.Pool
	conn    *bus.Conn

	mu       sync.Mutex
	versions map[string]functions.Function // by version id
	facts    []event.Envelope
	public   string // the id of the function that everybody may invoke
}

func newWorld(t *testing.T, nats *server.Server) *world {
	t.Helper()
	return newWorldOn(t, func() *bus.Conn { return testkit.Conn(t, nats) })
}

func newWorldOn(t *testing.T, connect func() *bus.Conn) *world {
	t.Helper()
	w := &world{
		t: t, connect: connect, pool: testkit.Database(t, schema, app.Migrations(migrations)),
		conn: connect(), versions: map[string]functions.Function{},
	}
	require.NoError(t, w.conn.Declare(t.Context(), "deployments"))
	require.NoError(t, w.conn.Declare(t.Context(), "functions"))
	require.NoError(t, w.conn.Declare(t.Context(), "invocation"))
	testkit.Watch(t, w.conn, event.Invocations, func(env event.Envelope) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.facts = append(w.facts, env)
	})
	s := bus.NewServer(connect(), "functions")
	bus.Serve(s, functions.Resolve, w.resolve)
	bus.Serve(s, functions.Lookup, w.lookup)
	testkit.Run(t, s)
	return w
}

// start runs a replica until the test ends or stop is called.
func (w *world) start() (stop func()) {
	w.t.Helper()
	s := NewService(testkit.Platform(w.t, w.connect(), w.pool, quartz.NewReal()))
	stop = testkit.Run(w.t, s)
	testkit.Ready(w.t, s)
	return stop
}

func (w *world) resolve(_ context.Context, r functions.ResolveRequest) (functions.ResolveResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	answer := functions.ResolveResponse{FunctionID: r.FunctionID, Owner: r.Account}
	known := false
	for _, v := range w.versions {
		open := v.ID == w.public
		if v.ID != r.FunctionID || v.NCAID != r.Account && !open || r.VersionID != "" && v.VersionID != r.VersionID {
			continue
		}
		known, answer.Owner, answer.Public = true, v.NCAID, answer.Public || open
		if v.Status != functions.Inactive {
			answer.Targets = append(answer.Targets, functions.Target{VersionID: v.VersionID, Name: v.Name, Status: v.Status, Public: open})
		}
	}
	if !known {
		return answer, problem.New(problem.NotFound, "no such function")
	}
	return answer, nil
}

func (w *world) lookup(_ context.Context, r functions.InternalRequest) (functions.FunctionResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if v, ok := w.versions[r.VersionID]; ok {
		return functions.FunctionResponse{Function: v}, nil
	}
	return functions.FunctionResponse{}, problem.New(problem.NotFound, "no such version")
}

// version adds a version in a state to what the functions service knows.
func (w *world) version(function string, status functions.Status) functions.Function {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := functions.Function{ID: function, VersionID: uuid.NewString(), NCAID: account, Status: status, Spec: functions.Spec{Name: "echo"}}
	w.versions[v.VersionID] = v
	return v
}

// deployment announces what happened to the deployment of a version.
func (w *world) deployment(e rpc.Event[deployments.Changed], v functions.Function) {
	w.t.Helper()
	d := deployments.Deployment{ID: uuid.NewString(), FunctionID: v.ID, VersionID: v.VersionID, NCAID: v.NCAID}
	f := bus.Fact{Account: v.NCAID, Entity: d.ID, Refs: event.Refs{FunctionID: v.ID, VersionID: v.VersionID, DeploymentID: d.ID}}
	require.NoError(w.t, bus.Announce(w.t.Context(), w.conn, "deployments", uuid.NewString(), e, f, deployments.Changed{Deployment: d}))
}

func (w *world) deployed(function string) functions.Function {
	w.t.Helper()
	v := w.version(function, functions.Active)
	w.deployment(deployments.Created, v)
	w.queueExists(v.VersionID, true)
	return v
}

func (w *world) hasQueue(version string) bool {
	_, err := w.conn.OpenQueue(w.t.Context(), version)
	return err == nil
}

func (w *world) queueExists(version string, want bool) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.hasQueue(version) == want }, patience, tick)
}

// story waits for n facts about an entity and returns their types.
func (w *world) story(entity string, n int) []string {
	w.t.Helper()
	types := func() []string {
		w.mu.Lock()
		defer w.mu.Unlock()
		var out []string
		for _, env := range w.facts {
			if env.Subject == "queue/"+entity || env.Subject == "request/"+entity {
				out = append(out, env.Type)
			}
		}
		return out
	}
	require.Eventually(w.t, func() bool { return len(types()) >= n }, patience, tick)
	return types()
}

func call[Req, Resp any](w *world, who access.Caller, e rpc.Endpoint[Req, Resp], req Req) (Resp, error) {
	w.t.Helper()
	return bus.Call(access.WithCaller(w.t.Context(), who), w.conn, e, req)
}

func admin(account string) access.Caller {
	return access.Caller{Kind: access.JWT, Account: account, Subject: "admin"}
}

var platform = access.Caller{}

func (w *world) ensure(version string) error {
	w.t.Helper()
	_, err := call(w, platform, contract.EnsureQueue, contract.QueueRequest{VersionID: version})
	return err
}

// restartable is a NATS server on TCP.
type restartable struct {
	port int
	stop func()
}

func startNATS(t *testing.T, dir string, port int) restartable {
	t.Helper()
	// At an address of its own: a connection of somebody else may get any port of 127.0.0.1 while the server is away.
	s, err := bus.StartEmbedded(bus.EmbeddedOptions{Dir: dir, Host: "127.0.0.2", Port: port, Log: zap.NewNop()})
	require.NoError(t, err)
	addr, ok := s.Addr().(*net.TCPAddr)
	require.True(t, ok)
	return restartable{port: addr.Port, stop: func() { s.Shutdown(); s.WaitForShutdown() }}
}

func (r restartable) connect(t *testing.T) func() *bus.Conn {
	return func() *bus.Conn {
		c, err := bus.Connect(bus.Config{URL: fmt.Sprintf("nats://127.0.0.2:%d", r.port), Name: t.Name(), Log: zap.NewNop()})
		require.NoError(t, err)
		t.Cleanup(c.Close)
		return c
	}
}
