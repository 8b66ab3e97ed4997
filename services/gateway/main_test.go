package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/health"
	"github.com/sirocco-cloud/sirocco/libs/relay"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	// patient bounds every wait of a test; a green run never gets near it. It is shorter than what the gateway has learned
	// counts, so that what a test waits for comes of an event and not of forgetting.
	patient = 45 * time.Second
	tick    = 5 * time.Millisecond
)

// site is a gateway among neighbours that the test plays over the bus.
type site struct {
	nats *server.Server
	conn *bus.Conn
	gw   *Gateway
	url  string
	grpc string

	signer *ecdsa.PrivateKey
	keys   *bus.Server
	fns    *bus.Server

	resolves, jwksReads, finished atomic.Int32
	woken                         chan string
	// jwks, when set, is the key set instead of the one key of signer.
	jwks atomic.Pointer[keys.JWKS]
	// holdResolve, when set, is called while a key is being resolved, after the store was read.
	holdResolve atomic.Pointer[func()]

	mu        sync.Mutex
	bearers   map[string]access.Credential
	functions map[string]functions.ResolveResponse
	records   map[string]invocation.RequestRecord
	answers   map[string]func(body []byte) any
	asked     []question
	revoked   []keys.TokenRevocation
	problems  map[string]*problem.Problem
	// dead says why keys that exist are not known.
	dead map[string]access.Reason
}

// question is what a management endpoint was asked.
type question struct {
	subject string
	caller  access.Caller
	body    string
}

func logger(t testing.TB) *zap.Logger { return zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)) }

// newSite has every neighbour and one ready gateway.
func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{
		nats: testkit.NATS(t), woken: make(chan string, 1024),
		bearers: map[string]access.Credential{}, functions: map[string]functions.ResolveResponse{},
		records: map[string]invocation.RequestRecord{}, answers: map[string]func([]byte) any{}, problems: map[string]*problem.Problem{}, dead: map[string]access.Reason{},
	}
	s.conn = testkit.Conn(t, s.nats)
	var err error
	s.signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	s.neighbours(t)
	s.gw, s.url, s.grpc = s.gateway(t, func(*Config) {})
	return s
}

// gateway starts one more.
func (s *site) gateway(t testing.TB, tune func(*Config)) (g *Gateway, url, grpc string) {
	t.Helper()
	cfg := Config{HTTPAddr: "127.0.0.1:0", GRPCAddr: "127.0.0.1:0", AdminNetworks: []string{"127.0.0.0/8"}, Region: "here", ConsoleDomain: keys.ConsoleDomain, ConsoleAccepted: true, Compat: access.DefaultCompat}
	tune(&cfg)
	g, err := New(cfg, testkit.Conn(t, s.nats), health.NewRegistry(), prometheus.NewRegistry(), logger(t))
	require.NoError(t, err)
	require.NoError(t, g.Start(t.Context()))
	t.Cleanup(func() { stopGateway(t, g) })
	require.Eventually(t, func() bool { return g.Check(t.Context()) == nil }, patient, tick)
	return g, "http://" + g.doors[0].listener.Addr().String(), g.doors[1].listener.Addr().String()
}

func stopGateway(t testing.TB, g *Gateway) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	require.NoError(t, g.Stop(ctx))
}

func (s *site) neighbours(t testing.TB) {
	t.Helper()
	s.keys = bus.NewServer(s.conn, "keys")
	bus.Serve(s.keys, keys.Resolve, func(_ context.Context, r keys.ResolveRequest) (keys.ResolveResponse, error) {
		s.resolves.Add(1)
		s.mu.Lock()
		c, known := s.bearers[r.Bearer]
		reason := s.dead[c.ID]
		s.mu.Unlock()
		at := time.Now()
		if hold := s.holdResolve.Load(); hold != nil {
			(*hold)()
		}
		if reason != "" {
			return keys.ResolveResponse{Credential: access.Credential{Kind: c.Kind, Account: c.Account, ID: c.ID, Subject: c.Subject}, Reason: reason, AsOf: at}, nil
		}
		return keys.ResolveResponse{Known: known, Credential: c, AsOf: at}, nil
	})
	bus.Serve(s.keys, keys.PublicKeys, func(context.Context, rpc.None) (keys.JWKS, error) {
		s.jwksReads.Add(1)
		if set := s.jwks.Load(); set != nil {
			return *set, nil
		}
		return keys.JWKS{Keys: []keys.JWK{s.jwk()}}, nil
	})
	bus.Serve(s.keys, keys.Client, func(_ context.Context, r keys.ClientRequest) (keys.ClientResponse, error) {
		if r.ClientID != keys.TokenSubject {
			return keys.ClientResponse{}, problem.New(problem.NotFound, "Client: Not found")
		}
		return keys.ClientResponse{Account: access.DefaultAccount}, nil
	})
	bus.Serve(s.keys, keys.Revocations, func(context.Context, rpc.None) (keys.RevocationsResponse, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return keys.RevocationsResponse{Revocations: s.revoked}, nil
	})
	bus.Serve(s.keys, keys.LookupAccount, func(_ context.Context, r keys.AccountRequest) (keys.AccountResponse, error) {
		if r.NCAID == "nobody" {
			return keys.AccountResponse{}, problem.New(problem.NotFound, "Account with ncaId '%s' not found", r.NCAID)
		}
		return keys.AccountResponse{Account: keys.Account{NCAID: r.NCAID}}, nil
	})
	bus.Serve(s.keys, keys.MintAdminToken, func(context.Context, rpc.None) (keys.Key, error) {
		return keys.Key{ID: "id", Value: s.token(t, nil), CreatedAt: time.Now().UTC(), ExpiresAt: time.Now().Add(time.Hour).UTC()}, nil
	})
	start(t, s.keys)
	s.fns = serve(t, s.conn, "functions", func(srv *bus.Server) {
		bus.Serve(srv, functions.Resolve, func(_ context.Context, r functions.ResolveRequest) (functions.ResolveResponse, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			f, ok := s.functions[r.FunctionID]
			if !ok {
				return f, problem.New(problem.NotFound, "Function id '%s': Not found in account '%s'", r.FunctionID, r.Account)
			}
			return f, nil
		})
	})
	serve(t, s.conn, "deployments", func(srv *bus.Server) {
		bus.Serve(srv, deployments.Wake, func(_ context.Context, r deployments.WakeRequest) (rpc.None, error) {
			s.woken <- r.VersionID
			return rpc.None{}, nil
		})
	})
	serve(t, s.conn, "invocation", func(srv *bus.Server) {
		bus.Serve(srv, invocation.EnsureQueue, func(ctx context.Context, r invocation.QueueRequest) (rpc.None, error) {
			return rpc.None{}, s.conn.EnsureQueue(ctx, r.VersionID)
		})
		bus.Serve(srv, invocation.Detach, func(_ context.Context, r invocation.DetachRequest) (rpc.None, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.records[r.RequestID] = invocation.RequestRecord{DetachRequest: r}
			return rpc.None{}, nil
		})
		bus.Serve(srv, invocation.Find, func(_ context.Context, r invocation.RequestQuery) (invocation.RequestRecord, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			rec, ok := s.records[r.RequestID]
			if !ok {
				return rec, problem.New(problem.NotFound, "Request id '%s': Not found", r.RequestID)
			}
			return rec, nil
		})
		bus.Serve(srv, invocation.Finish, func(_ context.Context, r invocation.FinishRequest) (rpc.None, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.records, r.RequestID)
			s.finished.Add(1)
			return rpc.None{}, nil
		})
	})
	for _, service := range []string{"cluster-inventory", "ledger", "tasks"} {
		serve(t, s.conn, service, func(*bus.Server) {})
	}
	s.management(t)
}

// management answers every endpoint of the table of routes that the test does not serve otherwise, and writes down what
// it was asked.
func (s *site) management(t testing.TB) {
	t.Helper()
	served := map[string]bool{}
	for _, rt := range routes() {
		subject := rt.endpoint.Subject
		if subject == "" || served[subject] { // some the gateway answers itself
			continue
		}
		served[subject] = true
		_, err := s.conn.NATS().QueueSubscribe(subject, "test", func(m *nats.Msg) {
			q := question{subject: subject, body: string(m.Data)}
			_ = json.Unmarshal([]byte(m.Header.Get("Sirocco-Caller")), &q.caller)
			s.mu.Lock()
			s.asked = append(s.asked, q)
			answer, refusal := s.answers[subject], s.problems[subject]
			s.mu.Unlock()
			if refusal != nil {
				b, err := json.Marshal(refusal)
				if err != nil {
					panic(err)
				}
				_ = m.RespondMsg(&nats.Msg{Data: b, Header: nats.Header{micro.ErrorCodeHeader: {strconv.Itoa(refusal.Status())}}})
				return
			}
			out := empty(rt.endpoint.Output)
			if answer != nil {
				out = answer(m.Data)
			}
			b, err := json.Marshal(out)
			if err != nil {
				panic(err)
			}
			_ = m.Respond(b)
		})
		require.NoError(t, err)
	}
	require.NoError(t, s.conn.Flush(t.Context()))
}

// empty is an answer with nothing in it: lists are empty, not null.
func empty(t reflect.Type) any {
	v := reflect.New(t)
	if t.Kind() == reflect.Struct {
		for _, f := range reflect.VisibleFields(t) {
			if field := v.Elem().FieldByIndex(f.Index); f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() != reflect.Uint8 && field.CanSet() {
				field.Set(reflect.MakeSlice(f.Type, 0, 0))
			}
		}
	}
	return v.Interface()
}

// respond makes a subject answer the same to everybody.
func respond(t testing.TB, s *site, subject string, answer any) {
	t.Helper()
	b, err := json.Marshal(answer)
	require.NoError(t, err)
	_, err = s.conn.NATS().Subscribe(subject, func(m *nats.Msg) { _ = m.Respond(b) })
	require.NoError(t, err)
	require.NoError(t, s.conn.Flush(t.Context()))
}

func (s *site) lastAsked(t testing.TB) question {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.NotEmpty(t, s.asked)
	return s.asked[len(s.asked)-1]
}

func serve(t testing.TB, c *bus.Conn, service string, add func(*bus.Server)) *bus.Server {
	t.Helper()
	srv := bus.NewServer(c, service)
	add(srv)
	start(t, srv)
	return srv
}

func start(t testing.TB, srv *bus.Server) {
	t.Helper()
	require.NoError(t, srv.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		_ = srv.Stop(ctx)
	})
}

const testKid = "signing-key"

func (s *site) jwk() keys.JWK {
	point := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	raw, err := s.signer.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	return keys.JWK{KeyType: "EC", Curve: "P-256", Use: "sig", Algorithm: "ES256", ID: testKid, X: point(raw[1:33]), Y: point(raw[33:])}
}

// publish changes the key set.
func (s *site) publish(set ...keys.JWK) { s.jwks.Store(&keys.JWKS{Keys: set}) }

// token is an administrator token that change may spoil.
func (s *site) token(t testing.TB, change func(t *jwt.Token, claims jwt.MapClaims)) string {
	t.Helper()
	now := time.Now()
	claims := jwt.MapClaims{
		"iss": keys.TokenIssuer, "aud": []string{keys.TokenAudience}, "sub": keys.TokenSubject, "jti": uuid.NewString(),
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "scopes": append(access.AdminDefaults(), access.InvokeFunction, access.QueueDetails),
	}
	tok := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	tok.Header["kid"] = testKid
	if change != nil {
		change(tok, claims)
	}
	var key any = s.signer
	switch tok.Method.(type) {
	case *jwt.SigningMethodHMAC:
		key = []byte("secret")
	case *jwt.SigningMethodECDSA:
	default:
		key = jwt.UnsafeAllowNoneSignatureType
	}
	signed, err := tok.SignedString(key)
	require.NoError(t, err)
	return signed
}

// key registers an opaque key.
func (s *site) key(scopes []string, resources ...access.Resource) (bearer string, c access.Credential) {
	bearer = keys.Prefix + "stg-" + uuid.NewString()
	c = access.Credential{
		Kind: access.Key, Account: access.DefaultAccount, ID: uuid.NewString(), Subject: "owner@corp.example",
		Audiences: []string{access.FunctionsAudience}, ExpiresAt: time.Now().Add(time.Hour), Version: 1,
		Policies: []access.Policy{{Audience: access.FunctionsAudience, Scopes: scopes, Resources: resources}},
	}
	s.register(bearer, c)
	return bearer, c
}

func (s *site) register(bearer string, c access.Credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bearers[bearer] = c
}

func (s *site) unregister(bearer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.bearers, bearer)
}

var allFunctions = access.Resource{Type: string(access.AllFunctions), ID: "*"}

// invoker is a key that may call every function of the account.
func (s *site) invoker() string {
	bearer, _ := s.key([]string{access.InvokeFunction, access.ListFunctions}, allFunctions)
	return bearer
}

// function registers one with versions that are all active.
func (s *site) function(versions ...string) (id string) {
	id = uuid.NewString()
	f := functions.ResolveResponse{FunctionID: id, Owner: access.DefaultAccount}
	for _, v := range versions {
		f.Targets = append(f.Targets, functions.Target{VersionID: v, Name: "echo", Status: functions.Active, InferenceURL: "/infer"})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.functions[id] = f
	return id
}

// worker is an agent with one instance: the container listening at target.
type worker struct {
	conn   *bus.Conn
	relay  *relay.Server
	target string
	slots  chan struct{}
	http1  *http.Transport
	http2  *http.Transport
	ctx    context.Context
	serves sync.WaitGroup
}

// worker serves a version until the test ends.
func (s *site) worker(t testing.TB, version, target string, slots int) *worker {
	t.Helper()
	w := &worker{
		conn: testkit.Conn(t, s.nats), target: target, slots: make(chan struct{}, slots),
		http1: &http.Transport{DisableCompression: true}, http2: &http.Transport{Protocols: new(http.Protocols), DisableCompression: true},
	}
	w.http2.Protocols.SetUnencryptedHTTP2(true)
	ctx, cancel := context.WithCancel(context.Background())
	w.ctx = ctx
	var err error
	w.relay, err = relay.NewServer(w.conn.NATS())
	require.NoError(t, err)
	require.NoError(t, w.relay.Start(t.Context()))
	stopDirect, err := w.conn.OnDirect(version, func(offer []byte) {
		call, err := w.relay.Receive(offer)
		if err != nil {
			return
		}
		select {
		case w.slots <- struct{}{}:
			w.serves.Go(func() { w.serve(call) })
		default:
			_ = call.Refuse(relay.Busy)
		}
	})
	require.NoError(t, err)
	hint := make(chan struct{}, 1)
	look := func() {
		select {
		case hint <- struct{}{}:
		default:
		}
	}
	stopHint, err := w.conn.OnHint(version, look)
	require.NoError(t, err)
	require.NoError(t, w.conn.Flush(t.Context()))
	look()
	w.serves.Go(func() {
		// Like the agent it also looks unasked: a hint may come before the server hands the entry out.
		unasked := time.NewTicker(50 * time.Millisecond)
		defer unasked.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-hint:
			case <-unasked.C:
			}
			w.drainQueue(version)
		}
	})
	t.Cleanup(func() {
		stopDirect()
		stopHint()
		cancel()
		closing, done := context.WithTimeout(context.Background(), patient)
		defer done()
		_ = w.relay.Close(closing)
		w.serves.Wait()
		w.http1.CloseIdleConnections()
		w.http2.CloseIdleConnections()
	})
	return w
}

func (w *worker) drainQueue(version string) {
	for w.ctx.Err() == nil {
		q, err := w.conn.OpenQueue(w.ctx, version)
		if err != nil {
			return
		}
		select {
		case w.slots <- struct{}{}:
		case <-w.ctx.Done():
			return
		}
		work, err := q.Take(1)
		if err != nil || len(work) == 0 {
			<-w.slots
			return
		}
		call, err := w.relay.Receive(work[0].Offer)
		if err == nil {
			err = call.Claim(w.ctx)
		}
		_ = work[0].Done()
		if err != nil {
			<-w.slots
			continue
		}
		w.serves.Go(func() { w.serve(call) })
	}
}

// serve writes the trusted headers as the agent does and calls the container.
func (w *worker) serve(call *relay.Call) {
	defer func() { <-w.slots }()
	_ = w.relay.Serve(w.ctx, call, func(ctx context.Context, out *relay.Writer, r *relay.Request) error {
		r.Header[invocation.HeaderRequestID] = []string{r.ID}
		for _, a := range r.Attributes {
			r.Header[a.Name] = []string{a.Value}
		}
		var rt http.RoundTripper = w.http1
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			rt = w.http2
		}
		return relay.Proxy(ctx, rt, w.target, out, r)
	})
}

// container is a function's HTTP server, over HTTP/1.1 and h2c.
func container(t testing.TB, h http.HandlerFunc) (target string) {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// deployed is a function with one version, a worker and a container.
func (s *site) deployed(t testing.TB, h http.HandlerFunc) (fid, vid string) {
	t.Helper()
	vid = uuid.NewString()
	fid = s.function(vid)
	s.worker(t, vid, container(t, h), 16)
	return fid, vid
}

// client follows no redirects and adds nothing.
func client(t testing.TB, h2c bool) *http.Client {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	tr.Protocols.SetHTTP1(!h2c)
	tr.Protocols.SetUnencryptedHTTP2(h2c)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport: tr, Timeout: 4 * patient, // of a request with tens of megabytes, too
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// request is one to the gateway; headers come in pairs, of which "Host" sets the host.
func request(t testing.TB, method, url string, body io.Reader, headers ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
			continue
		}
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

// reply is a response that was read to its end.
type reply struct {
	*http.Response
	body string
}

func do(t testing.TB, c *http.Client, r *http.Request) reply {
	t.Helper()
	resp, err := c.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return reply{resp, string(b)}
}

// refused requires a whole problem document.
func refused(t testing.TB, r reply, status int) problem.Document {
	t.Helper()
	require.Equal(t, status, r.StatusCode, r.body)
	if r.Request != nil && faceOf(r.Request.URL.Path) == inventoryFace {
		return refusedByInventory(t, r)
	}
	require.Equal(t, problem.ContentType, r.Header.Get("Content-Type"), r.body)
	var raw map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.body), &raw), r.body)
	require.InDelta(t, float64(status), raw["status"], 0, "an integer")
	var doc problem.Document
	require.NoError(t, json.Unmarshal([]byte(r.body), &doc))
	require.NotEmpty(t, doc.Type)
	require.NotEmpty(t, doc.Title)
	require.NotEmpty(t, doc.Detail)
	require.NotEmpty(t, doc.RequestID)
	require.Equal(t, doc.RequestID, r.Header.Get(invocation.HeaderRequestID))
	return doc
}

// refusedByInventory requires the error body of the cluster inventory.
func refusedByInventory(t testing.TB, r reply) problem.Document {
	t.Helper()
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
	var e inventoryError
	require.NoError(t, json.Unmarshal([]byte(r.body), &e), r.body)
	require.NotEmpty(t, e.Error)
	require.Equal(t, e.RequestID, r.Header.Get(invocation.HeaderRequestID))
	return problem.Document{
		Status: r.StatusCode, Code: e.Code, Detail: e.Error, RequestID: e.RequestID, Violations: e.Violations,
		RequiredScopes: e.RequiredScopes, RequiredResourceTypes: e.RequiredResourceTypes,
	}
}

func direct(fid string) string { return fid + ".invocation.localhost" }

// access1 is a resource entry for one function or version.
func access1(id string) access.Resource {
	return access.Resource{Type: string(access.Function), ID: id}
}

func auth(bearer string) string { return "Bearer " + bearer }
