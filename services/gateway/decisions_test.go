package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/health"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// measured is the sum of a metric over its labels; of a histogram, how often something was observed.
func measured(t testing.TB, g *Gateway, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := g.metrics.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			var have []string
			for _, l := range m.GetLabel() {
				have = append(have, l.GetValue())
			}
			if strings.HasPrefix(strings.Join(have, ","), strings.Join(labels, ",")) {
				sum += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// record is the audit record as it grows.
type record struct {
	mu  sync.Mutex
	all []event.Envelope
}

// recorded follows the decisions of every gateway of a site.
func (s *site) recorded(t testing.TB) *record {
	t.Helper()
	rec := &record{}
	stop, err := s.conn.Watch(t.Context(), event.Access, func(env event.Envelope) {
		rec.mu.Lock()
		defer rec.mu.Unlock()
		rec.all = append(rec.all, env)
	})
	require.NoError(t, err)
	t.Cleanup(stop)
	return rec
}

// counted sums the decisions that want accepts, and returns one of them.
func (r *record) counted(want func(access.Decision) bool) (n int, env event.Envelope, one access.Decision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.all {
		if d, ok := bus.As[access.Decision](e, access.Decided); ok && want(d) {
			n, env, one = n+d.Count, e, d
		}
	}
	return n, env, one
}

func TestEveryDecisionIsRecorded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	rec := s.recorded(t)
	fid, vid := s.deployed(t, tell)
	bearer, c := s.key([]string{access.InvokeFunction, access.ListFunctions}, allFunctions)
	narrow, narrowed := s.key([]string{access.InvokeFunction}, access1(fid+"/"+uuid.NewString()))
	typed, _ := s.key([]string{access.InvokeFunction}, access.Resource{Type: "*", ID: "*"})
	tasks, foreign := s.key([]string{access.InvokeFunction}, allFunctions)
	foreign.Audiences = []string{access.TasksAudience}
	s.register(tasks, foreign)
	barred := s.limited(nil, "10.0.0.0/8")
	slow := s.limited(&access.RateLimit{RPS: 0.001, Burst: 1})
	suspended, hung := s.key([]string{access.InvokeFunction}, allFunctions)
	s.dead[hung.ID] = access.ReasonSuspended
	token := s.token(t, nil)
	call := func(bearer string, headers ...string) *http.Request {
		return request(t, "GET", s.url+"/x/"+uuid.NewString(), nil, append(headers, "Host", direct(fid), "Authorization", auth(bearer))...)
	}
	ask := func(r *http.Request) int { return do(t, client(t, false), r).StatusCode }
	const trace = "0af7651916cd43dd8448eb211c80319c"
	for range 5 {
		require.Equal(t, 200, ask(call(bearer, "Traceparent", "00-"+trace+"-b7ad6b7169203331-01")))
	}
	require.Equal(t, 200, list(t, s, auth(token)).StatusCode)
	require.Equal(t, 401, list(t, s).StatusCode)
	require.Equal(t, 403, list(t, s, auth("nvapi-unknown")).StatusCode)
	require.Equal(t, 401, list(t, s, auth("not.a.token")).StatusCode)
	require.Equal(t, 403, ask(request(t, "POST", s.url+"/v2/nvcf/functions", strings.NewReader("{}"), "Authorization", auth(bearer))))
	require.Equal(t, 401, ask(call(suspended)))
	require.Equal(t, 403, ask(call(typed)))
	require.Equal(t, 403, ask(call(narrow)))
	require.Equal(t, 403, ask(call(tasks)))
	require.Equal(t, 403, ask(call(barred)))
	require.Equal(t, []int{200, 429}, []int{ask(call(slow)), ask(call(slow))})
	require.Equal(t, 403, ask(request(t, "POST", s.url+"/v2/nvcf/pexec/functions/"+fid, nil, "Authorization", auth(narrow))))
	require.Equal(t, 403, ask(request(t, "GET", s.url+"/v2/nvcf/accounts/other/functions", nil, "Authorization", auth(bearer))))
	require.Equal(t, 403, list(t, s, auth(s.scoped(t))).StatusCode)
	// A service that refuses the object is a decision too.
	refusing := problem.New(problem.ResourceNotCovered, "no resource of this credential covers it")
	s.refuses(t, functions.Get.Subject(), refusing)
	require.Equal(t, 403, ask(request(t, "GET", s.url+"/v2/nvcf/functions/"+fid+"/versions/"+vid, nil, "Authorization", auth(bearer))))

	eventually := func(what string, n int, want func(access.Decision) bool) (event.Envelope, access.Decision) {
		require.Eventually(t, func() bool { got, _, _ := rec.counted(want); return got >= n }, patient, tick, what)
		got, env, one := rec.counted(want)
		require.Equal(t, n, got, what)
		return env, one
	}
	env, one := eventually("five equal calls", 5, func(d access.Decision) bool {
		return d.Credential.KeyID == c.ID && d.Decision == "allow" && d.Service == "invocation"
	})
	require.Equal(t, access.ReasonOK, one.Reason)
	require.Equal(t, access.Asker{Kind: access.Key, KeyID: c.ID, OwnerID: c.Subject, NCAID: c.Account, Version: 1}, one.Credential)
	require.Equal(t, []access.Scope{access.InvokeFunction}, one.RequiredScopes)
	require.Equal(t, []string{"127.0.0.1", trace}, []string{one.ClientIP, one.TraceID})
	require.Equal(t, "apikey", env.Actor.Type)
	require.Equal(t, c.ID, env.KeyID)
	require.NotEmpty(t, one.RequestID)
	require.NotContains(t, one.Route, fid)
	_, one = eventually("a token", 1, func(d access.Decision) bool {
		return d.Credential.Kind == access.JWT && d.Decision == "allow" && d.Route == "/v2/nvcf/functions"
	})
	require.Equal(t, keys.TokenSubject, one.Credential.OwnerID)
	for reason, n := range map[access.Reason]int{
		access.ReasonNoCredential: 1, access.ReasonUnknownKey: 1, access.ReasonMalformed: 1, access.ReasonScopeMissing: 2, access.ReasonResourceType: 1,
		access.ReasonResourceNotCovered: 3, access.ReasonAudience: 1, access.ReasonCIDR: 1, access.ReasonRateLimited: 1,
		access.ReasonAccount: 1,
	} {
		_, one := eventually(string(reason), n, func(d access.Decision) bool { return d.Decision == "deny" && d.Reason == reason })
		require.NotContains(t, one.Route, fid)
		require.GreaterOrEqual(t, measured(t, s.gw, "authz_decisions_total", "deny", string(reason)), float64(n))
	}
	_, one = eventually("a covered function's refusal names it", 1, func(d access.Decision) bool { return d.Target.Type == "version" && d.Target.ID == vid })
	require.Equal(t, "/v2/nvcf/functions/{functionId}/versions/{versionId}", one.Route)
	eventually("pexec", 1, func(d access.Decision) bool {
		return d.Route == "/v2/nvcf/pexec/functions/{functionId}" && d.Target.ID == fid && d.Credential.KeyID == narrowed.ID
	})
	_, one = eventually("a suspended key is named", 1, func(d access.Decision) bool { return d.Reason == access.ReasonSuspended })
	require.Equal(t, hung.ID, one.Credential.KeyID)
	eventually("a mirror", 1, func(d access.Decision) bool { return d.Route == "/v2/nvcf/accounts/{ncaId}/functions" })
	require.Positive(t, measured(t, s.gw, "key_cache_lookups_total", "hit"))
	require.Positive(t, measured(t, s.gw, "key_cache_lookups_total", "miss"))
}

// refuses makes a subject answer with a problem.
func (s *site) refuses(t testing.TB, subject string, p *problem.Problem) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems[subject] = p
}

func TestDecisionsNeverHoldUpRequests(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	d := s.gw.decisions
	other := newDecisions(s.conn, s.gw.clock, zap.NewNop())
	r := request(t, "GET", s.url+"/", nil)
	at := &station{service: "x", route: "/x"}
	for range 3 * tallyShards * maxTallies { // every one different
		e := &entry{credential: access.Credential{Kind: access.Key, ID: uuid.NewString()}}
		other.note(at, e, access.ReasonOK, r, "id")
	}
	other.fold()
	require.Len(t, other.unsent, maxUnsent, "bounded")
	require.NotNil(t, d)
	kept := 0
	for i := range other.shards {
		kept += len(other.shards[i].all)
	}
	require.Zero(t, kept)
}

// TestNoCredentialAppearsAnywhere asks in many ways with credentials that would be recognised, and then looks for them
// in everything that is left behind.
func TestNoCredentialAppearsAnywhere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	rec := s.recorded(t)
	core, logs := observer.New(zapcore.DebugLevel)
	cfg := Config{HTTPAddr: "127.0.0.1:0", GRPCAddr: "127.0.0.1:0", AdminNetworks: []string{"127.0.0.0/8"}, BootstrapSecret: "canary-bootstrap", TrustMode: Secured}
	g, err := New(cfg, testkit.Conn(t, s.nats), health.NewRegistry(), prometheus.NewRegistry(), zap.New(core))
	require.NoError(t, err)
	require.NoError(t, g.Start(t.Context()))
	t.Cleanup(func() { stopGateway(t, g) })
	require.Eventually(t, func() bool { return g.Check(t.Context()) == nil }, patient, tick)
	url := "http://" + g.doors[0].listener.Addr().String()
	const canary = "nvapi-nvcf-stg-CANARYCANARY"
	known, c := s.key([]string{access.InvokeFunction}, allFunctions)
	s.unregister(known)
	known = canary + "known"
	s.register(known, c)
	token := s.token(t, nil)
	_, payload, _ := strings.Cut(token, ".")
	bearers := []string{known, canary + "unknown", token, token[:len(token)-4] + "AAAA", "canary-bootstrap", "canary-bootstraP"}
	var answers strings.Builder
	fid, _ := s.deployed(t, tell)
	for _, bearer := range bearers {
		for _, line := range routes() {
			answers.WriteString(do(t, client(t, false), request(t, line.method, url+filled(line.path), strings.NewReader("{broken"), "Authorization", auth(bearer))).body)
		}
		for _, r := range []*http.Request{
			request(t, "POST", url+"/v2/nvcf/pexec/functions/"+fid, nil, "Authorization", auth(bearer)),
			request(t, "GET", url+"/headers", nil, "Host", direct(fid), "Authorization", auth(bearer)),
			request(t, "POST", url+"/v1/keys/explain", strings.NewReader(`{"method":"GET","path":"/v2/nvcf/functions","key":"`+bearer+`"}`), "Authorization", auth(s.scoped(t, access.ManageKeys))),
		} {
			answers.WriteString(do(t, client(t, false), r).body)
		}
	}
	seen := func(d access.Decision) bool { return d.Credential.KeyID == c.ID }
	require.Eventually(t, func() bool { n, _, _ := rec.counted(seen); return n > 0 }, patient, tick)
	families, err := g.metrics.Gather()
	require.NoError(t, err)
	left := map[string]string{"answers": answers.String()}
	for _, f := range families {
		left["metrics"] += f.String()
	}
	for _, entry := range logs.All() {
		b, err := json.Marshal(entry.ContextMap())
		require.NoError(t, err)
		left["logs"] += entry.Message + string(b)
	}
	rec.mu.Lock()
	for _, env := range rec.all {
		b, err := json.Marshal(env)
		require.NoError(t, err)
		left["events"] += string(b)
	}
	rec.mu.Unlock()
	require.NotEmpty(t, left["events"])
	for place, text := range left {
		for _, secret := range []string{"CANARY", "canary", "bootstraP", payload} {
			require.NotContains(t, text, secret, place)
		}
	}
}

func BenchmarkDecisionNote(b *testing.B) {
	d := newDecisions(nil, realClock, zap.NewNop())
	e := &entry{credential: access.Credential{Kind: access.Key, ID: uuid.NewString()}}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://x/", nil)
	require.NoError(b, err)
	stop := make(chan struct{})
	var folding sync.WaitGroup
	folding.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(foldEvery):
				d.fold()
			}
		}
	})
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			d.note(directCall, e, access.ReasonOK, r, "id")
		}
	})
	close(stop)
	folding.Wait()
}
