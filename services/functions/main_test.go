package functions

import (
	"context"
	"encoding/json"
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
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestModuleIsComplete(t *testing.T) {
	t.Parallel()
	require.NoError(t, fx.ValidateApp(app.Base("functions"), Module))
}

const account = "nvcf-default"

// patience is how long a test waits for something that comes at once unless it is broken.
const patience = time.Minute

// world is the service under test, with the test as its clients and neighbours. Everything goes over the bus.
type world struct {
	t     testing.TB
	nats  *server.Server
	pool  *pgxpool.Pool
	conn  *bus.Conn
	clock *quartz.Mock
	// logs is everything the service logged, at every level.
	logs *observer.ObservedLogs

	mu     sync.Mutex
	events []event.Envelope
	came   chan struct{}
}

func newWorld(t testing.TB) *world { return newWorldWith(t, Config{}) }

func newWorldWith(t testing.TB, cfg Config) *world {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	w := &world{
		t: t, nats: testkit.NATS(t), pool: testkit.Database(t, schema, app.Migrations(migrations)),
		clock: quartz.NewMock(t).WithLogger(quartz.NoOpLogger), logs: logs, came: make(chan struct{}, 1),
	}
	w.clock.Set(time.Date(2026, 5, 4, 10, 11, 12, 345_678_900, time.UTC))
	w.conn = testkit.Conn(t, w.nats)
	w.serveAccounts()
	w.start(cfg, zap.New(core))
	testkit.Watch(t, w.conn, event.Functions, func(env event.Envelope) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, env)
		select {
		case w.came <- struct{}{}:
		default:
		}
	})
	return w
}

// start runs a replica until the test ends.
func (w *world) start(cfg Config, log *zap.Logger) {
	w.t.Helper()
	p := testkit.Platform(w.t, testkit.Conn(w.t, w.nats), w.pool, w.clock)
	p.Log = log
	s := NewService(p, cfg)
	testkit.Run(w.t, s)
	testkit.Ready(w.t, s)
}

// story waits for n events about a version and returns all of them.
func (w *world) story(versionID string, n int) (types []string, events []event.Envelope) {
	w.t.Helper()
	return w.told(n, func(e event.Envelope) bool { return e.VersionID == versionID })
}

// facts waits for n events about an entity that has no place in the references, and returns all of them.
func (w *world) facts(entity string, n int) (types []string, events []event.Envelope) {
	w.t.Helper()
	return w.told(n, func(e event.Envelope) bool { return e.CorrelationID == entity })
}

func (w *world) told(n int, about func(event.Envelope) bool) (types []string, events []event.Envelope) {
	w.t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		w.mu.Lock()
		types, events = nil, nil
		for _, e := range w.events {
			if about(e) {
				types, events = append(types, e.Type), append(events, e)
			}
		}
		w.mu.Unlock()
		if len(types) >= n {
			return types, events
		}
		select {
		case <-w.came:
		case <-limit.C:
			require.FailNow(w.t, "events are missing", "have %v, want %d", types, n)
		}
	}
}

// serveAccounts plays the keys service, which knows every account but "nobody"; "small" may have two functions.
func (w *world) serveAccounts() {
	w.t.Helper()
	s := bus.NewServer(w.conn, "keys")
	bus.Serve(s, keys.LookupAccount, func(_ context.Context, r keys.AccountRequest) (keys.AccountResponse, error) {
		a := keys.Account{
			NCAID: r.NCAID, AdminClientIDs: []string{"client-of-" + r.NCAID},
			MaxTelemetriesAllowed: 25, MaxRegistryCredentialsAllowed: 25,
		}
		switch r.NCAID {
		case "nobody":
			return keys.AccountResponse{}, problem.New(problem.NotFound, "Account with ncaId '%s' not found", r.NCAID)
		case "small":
			a.MaxFunctionsAllowed, a.MaxTelemetriesAllowed, a.MaxRegistryCredentialsAllowed = 2, 2, 2
		}
		return keys.AccountResponse{Account: a}, nil
	})
	testkit.Run(w.t, s)
}

// serveDeployments plays the deployments service, which knows instances.
func (w *world) serveDeployments(h func(context.Context, deployments.InstancesRequest) (deployments.InstancesResponse, error)) {
	w.t.Helper()
	s := bus.NewServer(w.conn, "deployments")
	bus.Serve(s, deployments.Instances, h)
	testkit.Run(w.t, s)
}

// Callers.

func admin() access.Caller {
	return access.Caller{Account: account, Kind: access.JWT, Subject: "admin", Scopes: access.AdminDefaults(), RequestID: "req-1"}
}

func key(scopes []access.Scope, resources ...access.Resource) access.Caller {
	c := access.Caller{Account: account, Kind: access.Key, ID: uuid.NewString()}
	for _, s := range scopes {
		c.Grants = append(c.Grants, access.Grant{s: resources})
	}
	return c
}

func resource(kind access.ResourceType, id string) access.Resource {
	return access.Resource{ID: id, Type: string(kind)}
}

// call sends one request in the name of a caller.
func call[Req, Resp any](w *world, caller access.Caller, e rpc.Endpoint[Req, Resp], req Req) (Resp, error) {
	return bus.Call(access.WithCaller(w.t.Context(), caller), w.conn, e, req)
}

// asService sends one request in the name of another service.
func asService[Req, Resp any](w *world, e rpc.Endpoint[Req, Resp], req Req) (Resp, error) {
	return bus.Call(w.t.Context(), w.conn, e, req)
}

// minimal is the least that makes a function.
func minimal() contract.Spec {
	return contract.Spec{Name: "echo", InferenceURL: "/echo", ContainerImage: "registry.local/demo/echo:1.4"}
}

// create makes a function, or a version of functionID when there is one.
func (w *world) create(functionID string, spec contract.Spec, secrets ...contract.Secret) contract.Function {
	w.t.Helper()
	answer, err := call(w, admin(), contract.Create, contract.CreateRequest{FunctionID: functionID, Spec: spec, Secrets: secrets})
	require.NoError(w.t, err)
	return answer.Function
}

func (w *world) get(caller access.Caller, fn contract.Function) contract.Function {
	w.t.Helper()
	answer, err := call(w, caller, contract.Get, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
	require.NoError(w.t, err)
	return answer.Function
}

func (w *world) setStatus(fn contract.Function, deployment string, status contract.Status) {
	w.t.Helper()
	_, err := asService(w, contract.SetStatus, contract.SetStatusRequest{VersionID: fn.VersionID, DeploymentID: deployment, Status: status})
	require.NoError(w.t, err)
}

// requireProblem checks what a client would look at: code, text, and that a field is named.
func requireProblem(t testing.TB, err error, code problem.Code, substrings ...string) {
	t.Helper()
	p, ok := problem.From(err)
	require.True(t, ok, "not a problem: %v", err)
	require.Equal(t, code, p.Code, p.Detail)
	for _, s := range substrings {
		require.Contains(t, p.Detail, s)
	}
}

// membersOf is what a client sees of a version: a JSON object.
func membersOf(t testing.TB, v any) map[string]any {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	var members map[string]any
	require.NoError(t, json.Unmarshal(text, &members))
	return members
}
