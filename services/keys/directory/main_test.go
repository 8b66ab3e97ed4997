package directory

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/quartz"
	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	root         = "root@corp.example"
	rootPassword = "Tr0ub4dor&3"
	waitUp       = time.Minute
	poll         = 10 * time.Millisecond
)

// site is a directory behind its endpoints, with a real database and a real NATS, and a clock that the test moves.
type site struct {
	cfg    Config
	pool   *pgxpool.Pool
	conn   *bus.Conn
	clock  *quartz.Mock
	dir    *Directory
	svc    *app.Service
	stop   func() // ends svc
	logs   *testkit.Logs
	signer *testSigner
	log    *zap.Logger

	mu      sync.Mutex
	revoked []keys.TokenRevocation
}

// testSigner signs as the service does, with a key of its own.
type testSigner struct{ key *ecdsa.PrivateKey }

func (s *testSigner) Sign(c jwt.Claims) (token, kid string, err error) {
	token, err = jwt.NewWithClaims(jwt.SigningMethodES256, c).SignedString(s.key)
	return token, "kid", err
}

// newSite is a running directory with its first administrator.
func newSite(t testing.TB, tune ...func(*Config)) *site {
	t.Helper()
	s := prepareSite(t, tune...)
	s.start(t)
	testkit.Ready(t, s.svc)
	return s
}

func prepareSite(t testing.TB, tune ...func(*Config)) *site {
	t.Helper()
	s := &site{
		cfg:  Config{Domain: "corp.example", AdminUser: root, AdminPassword: rootPassword, TrustMode: compat},
		pool: testkit.Database(t, "keys", os.DirFS("../migrations")),
	}
	for _, f := range tune {
		f(&s.cfg)
	}
	s.clock = quartz.NewMock(t).WithLogger(quartz.NoOpLogger)
	s.clock.Set(time.Date(2031, 5, 1, 8, 0, 0, 125_000_000, time.UTC))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	s.signer = &testSigner{key}
	s.log, s.logs = testkit.NewLogs()
	nats := testkit.NATS(t)
	s.conn, err = bus.Connect(bus.Config{Embedded: nats, Name: t.Name(), Log: s.log})
	require.NoError(t, err)
	t.Cleanup(s.conn.Close)
	return s
}

func (s *site) start(t testing.TB) {
	t.Helper()
	p := testkit.Platform(t, s.conn, s.pool, s.clock)
	p.Log = s.log
	svc := app.NewService(p, "keys", "keys", os.DirFS("../migrations"))
	dir, err := s.make(svc, p.Metrics)
	require.NoError(t, err)
	svc.OnReady(dir.Prepare)
	dir.Serve(svc.Server)
	s.stop = testkit.Run(t, svc)
	s.svc, s.dir = svc, dir
}

func (s *site) make(svc *app.Service, metrics *prometheus.Registry) (*Directory, error) {
	revoke := func(ctx context.Context, tx pgx.Tx, journal *bus.Journal, r keys.TokenRevocation) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.revoked = append(s.revoked, r)
		return bus.Record(ctx, tx, journal, keys.TokenRevoked, bus.Fact{Account: access.DefaultAccount, Entity: "sub"}, r)
	}
	return New(s.cfg, NewStore(s.pool, svc.Tx, svc.Journal, revoke), s.signer, s.clock, rand.Reader, metrics, s.log)
}

// caller is who calls an endpoint: the platform itself when it is nobody.
type caller struct {
	*site

	who access.Caller
}

// as is a site seen by the holder of an access token: what the gateway would make of it.
func (s *site) as(t testing.TB, token string) caller {
	t.Helper()
	c := s.claims(t, token)
	return caller{s, access.Caller{Kind: access.JWT, Account: c.Account, ID: c.ID, Subject: c.Subject, Scopes: c.Scopes, Address: "10.0.0.9"}}
}

func (s *site) anonymous() caller {
	return caller{s, access.Caller{Kind: "anonymous", Subject: "anonymous"}}
}

// root is the first administrator.
func (s *site) root(t testing.TB) caller {
	t.Helper()
	return s.as(t, s.login(t, root, rootPassword).AccessToken)
}

// call wants an answer.
func call[Req, Resp any](t testing.TB, c caller, e rpc.Endpoint[Req, Resp], req Req) Resp {
	t.Helper()
	resp, err := bus.Call(access.WithCaller(t.Context(), c.who), c.conn, e, req)
	require.NoError(t, err)
	return resp
}

// refused wants a problem with this status.
func refused[Req, Resp any](t testing.TB, c caller, status int, e rpc.Endpoint[Req, Resp], req Req) problem.Problem {
	t.Helper()
	_, err := bus.Call(access.WithCaller(t.Context(), c.who), c.conn, e, req)
	var p *problem.Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, status, p.Status(), p.Error())
	return *p
}

func (s *site) login(t testing.TB, username, password string) contract.GrantResponse {
	t.Helper()
	return call(t, s.anonymous(), contract.Grant, contract.GrantRequest{GrantType: contract.PasswordGrant, Username: username, Password: password})
}

func appGrant(id, secret string) contract.GrantRequest {
	return contract.GrantRequest{GrantType: contract.ClientGrant, ClientID: id, ClientSecret: secret}
}

// claims verifies a token and decodes its payload the way the published client does: with the standard alphabet.
func (s *site) claims(t testing.TB, token string) claims {
	t.Helper()
	var c claims
	_, err := jwt.NewParser(jwt.WithTimeFunc(func() time.Time { return s.clock.Now() }), jwt.WithIssuer("https://console.corp.example")).
		ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return &s.signer.key.PublicKey, nil })
	require.NoError(t, err)
	standardPayload(t, token)
	return c
}

func standardPayload(t testing.TB, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	require.Len(t, parts, 3)
	b, err := base64.RawStdEncoding.DecodeString(parts[1])
	require.NoError(t, err, "the payload must decode with the standard alphabet")
	var m map[string]any
	require.NoError(t, json.Unmarshal(b, &m))
	return m
}

// withdrawn reports whether an access token is among those that were revoked.
func (s *site) withdrawn(t testing.TB, token string) bool {
	t.Helper()
	c := s.claims(t, token)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.revoked {
		if r.JTI == c.ID || r.Subject == c.Subject && c.IssuedAt.Before(r.IssuedBefore) {
			return true
		}
	}
	return false
}

// events collects what the keys domain says.
func (s *site) events(t testing.TB) <-chan event.Envelope {
	t.Helper()
	all := make(chan event.Envelope, 1024)
	testkit.Watch(t, s.conn, event.Keys, func(e event.Envelope) { all <- e })
	return all
}

// until waits for an event of a kind and returns its payload; the others are passed over.
func until[P any](t testing.TB, events <-chan event.Envelope, kind rpc.Event[P]) (event.Envelope, P) {
	t.Helper()
	deadline := time.After(waitUp)
	for {
		select {
		case e := <-events:
			if p, ok := bus.As[P](e, kind); ok {
				return e, p
			}
		case <-deadline:
			require.FailNow(t, "no event "+kind.Type())
		}
	}
}

// newUser makes a user with a password that holds.
func (s *site) newUser(t testing.TB, by caller, email string) (id, password string) {
	t.Helper()
	u := call(t, by, contract.CreateUser, contract.CreateUserRequest{Email: email})
	return u.ID, u.TempPassword
}

func (s *site) granted(grant, result string) float64 {
	return testutil.ToFloat64(s.dir.grants.WithLabelValues(grant, result))
}
