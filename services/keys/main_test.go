package keys

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/coder/quartz"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	owner  = "team-a@corp.example"
	waitUp = time.Minute
	poll   = 10 * time.Millisecond
)

// site is a NATS server, a database and a clock that replicas of the service share.
type site struct {
	nats  *server.Server
	pool  *pgxpool.Pool
	conn  *bus.Conn
	clock *quartz.Mock
	log   *zap.Logger
	logs  *testkit.Logs
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{nats: testkit.NATS(t), pool: testkit.Database(t, "keys", app.Migrations(migrations))}
	s.clock = quartz.NewMock(t).WithLogger(quartz.NoOpLogger)
	s.clock.Set(time.Date(2031, 5, 1, 8, 0, 0, 125_000_000, time.UTC))
	s.log, s.logs = testkit.NewLogs()
	s.conn = s.connect(t)
	return s
}

func (s *site) connect(t testing.TB) *bus.Conn {
	t.Helper()
	c, err := bus.Connect(bus.Config{Embedded: s.nats, Name: t.Name(), Log: s.log})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// config has a data directory of its own and a reaper that stays away from the clock of the test.
func config(t testing.TB) Config {
	t.Helper()
	return Config{
		Prefix: "nvapi-nvcf-stg-", DataDir: t.TempDir(), Retention: 2 * day, ReapInterval: 100 * 365 * day,
		SigningKeyLife: 30 * day, AdminTokenLife: contract.TokenLife, AdminTokenRate: 1000, TrustMode: trustCompat,
		PolicyValidation: Lenient, Compat: access.DefaultCompat, AuditRetention: 30 * day, MaxFunctions: math.MaxInt32, MaxTasks: math.MaxInt32, RequiredArtifacts: []string{"CONTAINER", "HELM"},
	}
}

// replica starts one without waiting for it.
func (s *site) replica(t testing.TB, cfg Config) *app.Service {
	t.Helper()
	p := testkit.Platform(t, s.connect(t), s.pool, s.clock)
	p.Log = s.log
	svc, err := newService(p, cfg)
	require.NoError(t, err)
	testkit.Run(t, svc)
	return svc
}

func stop(t testing.TB, svc *app.Service) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitUp)
	defer cancel()
	require.NoError(t, svc.Stop(ctx))
}

// start is a site with one ready replica.
func start(t testing.TB) *site {
	t.Helper()
	s := newSite(t)
	testkit.Ready(t, s.replica(t, config(t)))
	return s
}

func (s *site) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	_, err := s.pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// call is what a neighbour does.
func call[Req, Resp any](t testing.TB, s *site, e rpc.Endpoint[Req, Resp], req Req) Resp {
	t.Helper()
	resp, err := bus.Call(t.Context(), s.conn, e, req)
	require.NoError(t, err)
	return resp
}

// refused calls and wants a problem with this status.
func refused[Req, Resp any](t testing.TB, s *site, status int, e rpc.Endpoint[Req, Resp], req Req) problem.Problem {
	t.Helper()
	_, err := bus.Call(t.Context(), s.conn, e, req)
	var p *problem.Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, status, p.Status(), p.Error())
	return *p
}

func functionsIssuer() contract.Issuer {
	return contract.Issuer{OwnerID: owner, ServiceID: access.FunctionsAudience, ServiceName: "nvcf-api"}
}

func tasksIssuer() contract.Issuer {
	return contract.Issuer{OwnerID: owner, ServiceID: access.TasksAudience, ServiceName: "nvct-api"}
}

const cliPolicies = `{"policies":[{"aud":"nvidia-cloud-functions-ncp-service-id-aketm","auds":["nvidia-cloud-functions-ncp-service-id-aketm"],` +
	`"product":"nv-cloud-functions","resources":[{"id":"*","type":"account-functions"}],"scopes":["deploy_function","list_functions"]}]}`

// wanted is the creation of keys §4.1.
func (s *site) wanted() contract.CreateRequest {
	return contract.CreateRequest{
		Issuer: functionsIssuer(), Description: "ci deployer", ExpiresAt: s.clock.Now().Add(day).Format(time.RFC3339),
		Authorizations: json.RawMessage(cliPolicies), Audiences: []string{access.FunctionsAudience},
	}
}

func (s *site) create(t testing.TB) contract.Key {
	t.Helper()
	return call(t, s, contract.Create, s.wanted())
}

// news is what the keys domain says, as it comes. The order holds for each entity, and not between them.
type news struct {
	coming chan event.Envelope
	// kept were passed over in search of another.
	kept []event.Envelope
}

// events are all but those of the signing keys.
func (s *site) events(t testing.TB) *news {
	t.Helper()
	some := &news{coming: make(chan event.Envelope, 1024)}
	testkit.Watch(t, s.conn, event.Keys, func(e event.Envelope) {
		if e.Type != contract.KeysRotated.Type() { // the first key of the start may be told late
			some.coming <- e
		}
	})
	return some
}

// everyEvent has those of the signing keys too.
func (s *site) everyEvent(t testing.TB) *news {
	t.Helper()
	all := &news{coming: make(chan event.Envelope, 1024)}
	testkit.Watch(t, s.conn, event.Keys, func(e event.Envelope) { all.coming <- e })
	return all
}

// find waits for the first event that is wanted; the others are kept for those who ask for them later.
func find(t testing.TB, events *news, wanted func(event.Envelope) bool) event.Envelope {
	t.Helper()
	if i := slices.IndexFunc(events.kept, wanted); i >= 0 {
		e := events.kept[i]
		events.kept = slices.Delete(events.kept, i, i+1)
		return e
	}
	for deadline := time.After(waitUp); ; {
		select {
		case e := <-events.coming:
			if wanted(e) {
				return e
			}
			events.kept = append(events.kept, e)
		case <-deadline:
			require.FailNow(t, "no such event")
		}
	}
}

func next(t testing.TB, events *news) event.Envelope {
	t.Helper()
	return find(t, events, func(event.Envelope) bool { return true })
}

// count waits until so many events of each type have come, and returns everything that was said until then.
func count(t testing.TB, events *news, want map[string]int) (said []event.Envelope) {
	t.Helper()
	missing := maps.Clone(want)
	for len(missing) > 0 {
		e := next(t, events)
		said = append(said, e)
		if missing[e.Type]--; missing[e.Type] <= 0 {
			delete(missing, e.Type)
		}
	}
	return said
}

// repeating is a random source that gives the same 32 bytes a number of times, then others.
type repeating struct {
	times int
	n     int
}

func (r *repeating) Read(p []byte) (int, error) {
	r.n++
	b := byte(0)
	if r.n > r.times {
		b = byte(r.n)
	}
	for i := range p {
		p[i] = b
	}
	return len(p), nil
}

var _ io.Reader = (*repeating)(nil)
