package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var start = time.Date(2031, 4, 2, 8, 0, 0, 0, time.UTC)

const (
	echoID      = "5e0c2a5c-7f0e-4f5d-9f1c-2c6f3c3a1b10"
	echoVersion = "c2b8a0b4-5b1f-4a57-8a35-0d3c1f6f9a77"
	oldVersion  = "1111a0b4-5b1f-4a57-8a35-0d3c1f6f9a77"
	otherID     = "77aa2a5c-7f0e-4f5d-9f1c-2c6f3c3a1b10"
	adminToken  = "admin-token-that-nobody-may-see"
)

// call is what the stand-in for a gateway was asked. What the real one does with it is the business of tools/e2e; the
// tests here are about what goes over the wire and what a person sees.
type call struct {
	method, path, bearer, body string
	header                     http.Header
}

// standIn answers with what a test put there and remembers what it was asked.
type standIn struct {
	*httptest.Server

	mu    sync.Mutex
	calls []call
}

func newStandIn(t *testing.T, routes map[string]http.HandlerFunc) *standIn {
	t.Helper()
	g := &standIn{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/admin/keys", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"value":%q,"expires_at":%q}`, adminToken, start.Add(12*time.Hour).Format(time.RFC3339))
	})
	for pattern, handler := range routes {
		mux.HandleFunc(pattern, handler)
	}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		g.mu.Lock()
		if r.URL.Path != "/v1/admin/keys" {
			g.calls = append(g.calls, call{r.Method, r.URL.RequestURI(), strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), string(body), r.Header.Clone()})
		}
		g.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *standIn) asked() []call {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]call(nil), g.calls...)
}

// outcome is what a person sees of one command line.
type outcome struct {
	code     int
	out, err string
}

type option func(*console)

func env(name, value string) option {
	return func(c *console) {
		before := c.getenv
		c.getenv = func(n string) string {
			if n == name {
				return value
			}
			return before(n)
		}
	}
}

func stdin(text string) option { return func(c *console) { c.in = strings.NewReader(text) } }

func sirocco(t *testing.T, g *standIn, line []string, options ...option) outcome {
	t.Helper()
	return siroccoWith(t.Context(), t, g, line, options...)
}

func siroccoWith(ctx context.Context, t *testing.T, g *standIn, line []string, options ...option) outcome {
	t.Helper()
	var out, err bytes.Buffer
	c := console{
		in: strings.NewReader(""), out: &out, err: &err, getenv: func(string) string { return "" },
		owner: "ann@desk", now: func() time.Time { return start },
	}
	for _, o := range options {
		o(&c)
	}
	code := execute(ctx, c, append([]string{"--url", g.URL}, line...))
	o := outcome{code, out.String(), err.String()}
	require.NotContains(t, o.out+o.err, adminToken, "a token is never printed")
	return o
}

func answer(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, body)
	}
}

func refuse(p *problem.Problem) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", problem.ContentType)
		w.WriteHeader(p.Status())
		b, err := json.Marshal(p.Document(r.URL.Path, "req-1"))
		if err == nil {
			_, _ = w.Write(b)
		}
	}
}

func version(name, id, versionID, status, createdAt string) string {
	return fmt.Sprintf(`{"id":%q,"versionId":%q,"name":%q,"status":%q,"inferenceUrl":"/echo","containerImage":"demo/echo:1","createdAt":%q}`,
		id, versionID, name, status, createdAt)
}

func list(versions ...string) http.HandlerFunc {
	return answer(`{"functions":[` + strings.Join(versions, ",") + `]}`)
}

func TestExitCodesAndWhatToDoNext(t *testing.T) {
	t.Parallel()
	scope := problem.New(problem.ScopeMissing, "this credential may read functions only with list_functions")
	scope.RequiredScopes = []string{"list_functions"}
	rules := problem.NewCheck("function")
	rules.Require(false, "health.port", "must be between 1 and 65535")
	var broken *problem.Problem
	require.ErrorAs(t, rules.Err(), &broken)
	cases := map[string]struct {
		line   []string
		answer http.HandlerFunc
		code   int
		says   []string
	}{
		"done":             {[]string{"function", "list"}, list(), exitOK, nil},
		"no such command":  {[]string{"functoin"}, nil, exitUsage, []string{"did you mean function?", "next: see sirocco --help"}},
		"no such verb":     {[]string{"key", "make"}, nil, exitUsage, []string{`no command "make"`, "next: see sirocco key --help"}},
		"missing argument": {[]string{"function", "get"}, nil, exitUsage, []string{"missing FUNCTION", "sirocco function show --help"}},
		"unknown flag":     {[]string{"function", "list", "--colour"}, nil, exitUsage, []string{"--colour", "sirocco function list --help"}},
		"unknown format":   {[]string{"function", "list", "-o", "xml"}, nil, exitUsage, []string{"table or json"}},
		"bad duration":     {[]string{"key", "create", "--ttl", "soon"}, nil, exitUsage, []string{"--ttl"}},
		"not authenticated": {
			[]string{"function", "list"},
			refuse(problem.New(problem.Unauthorized, "the token has expired")), exitRefused,
			[]string{"the token has expired", "SIROCCO_TOKEN"},
		},
		"not allowed": {[]string{"function", "list"}, refuse(scope), exitRefused, []string{"only with list_functions", "--scope"}},
		"not found": {
			[]string{"function", "list"},
			refuse(problem.New(problem.NotFound, "Account: Not found")), exitNotFound,
			[]string{"sirocco function list"},
		},
		"no such name": {[]string{"function", "get", "nope"}, list(), exitNotFound, []string{`"nope" was not found`, "sirocco function list"}},
		"broken rule":  {[]string{"function", "list"}, refuse(broken), exitFailed, []string{"breaks 1 rule", "health.port: must be between 1 and 65535"}},
		"unavailable": {
			[]string{"function", "list"},
			refuse(problem.New(problem.Unavailable, "functions does not answer")), exitFailed,
			[]string{"functions does not answer", "request req-1", "sirocco status"},
		},
		"not a gateway": {[]string{"function", "list"}, answer("<html>"), exitFailed, []string{"--url names a Sirocco gateway"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			routes := map[string]http.HandlerFunc{}
			if c.answer != nil {
				routes["GET /v2/nvcf/functions"] = c.answer
			}
			got := sirocco(t, newStandIn(t, routes), c.line)
			require.Equal(t, c.code, got.code, got.err)
			for _, text := range c.says {
				require.Contains(t, got.err, text)
			}
			if c.code != exitOK {
				require.Contains(t, got.err, "next: ", "every failure says what to do")
				require.Empty(t, got.out)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, nil)
	g.URL = "http://127.0.0.1:1" // a port that nobody is given who asks for any
	got := sirocco(t, g, []string{"cluster", "list"})
	require.Equal(t, exitUnreachable, got.code)
	require.Contains(t, got.err, "sirocco up")
}

func TestTheAddressOfTheGateway(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ flag, url, addr, want string }{
		{"", "", "", "http://127.0.0.1:8080"},
		{"", "", ":9000", "http://127.0.0.1:9000"},
		{"", "", "0.0.0.0:9000", "http://127.0.0.1:9000"},
		{"", "", "[::]:9000", "http://127.0.0.1:9000"},
		{"", "", "10.1.2.3:9000", "http://10.1.2.3:9000"},
		{"", "http://gw:1", ":9000", "http://gw:1"},
		{"http://flag:2", "http://gw:1", ":9000", "http://flag:2"},
	} {
		s := &session{url: c.flag, console: console{getenv: func(name string) string {
			return map[string]string{"SIROCCO_URL": c.url, "SIROCCO_HTTP_ADDR": c.addr}[name]
		}}}
		require.Equal(t, c.want, s.address())
	}
}

func TestATokenOfTheEnvironmentReplacesTheMintedOne(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{"GET /v2/nvcf/functions": list()})
	require.Zero(t, sirocco(t, g, []string{"function", "list"}, env("SIROCCO_TOKEN", "mine")).code)
	require.Zero(t, sirocco(t, g, []string{"function", "list"}).code)
	calls := g.asked()
	require.Equal(t, "mine", calls[0].bearer)
	require.Equal(t, adminToken, calls[1].bearer)
}

func TestJSONIsTheAnswerUnchanged(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{"GET /v2/nvcf/clusterGroups": answer(`{"clusterGroups":[],"memberOfTomorrow":1.50}`)})
	got := sirocco(t, g, []string{"cluster", "list", "-o", "json"})
	require.Contains(t, got.out, "\n  \"memberOfTomorrow\": 1.50\n}\n")
}

func TestWhatOthersWroteDoesNotSteerTheTerminal(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{
		"GET /v2/nvcf/images": answer(`{"images":[{"reference":"a\u001b]0;owned\u0007","command":["x\r\ny"]}]}`),
	})
	got := sirocco(t, g, []string{"image", "list"})
	require.NotContains(t, got.out, "\x1b")
	require.NotContains(t, got.out, "\r")
	require.Len(t, strings.Split(strings.TrimSpace(got.out), "\n"), 2)
}

func TestStatusOfAPlatformThatWaits(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{
		"GET /readyz": func(w http.ResponseWriter, r *http.Request) {
			require.True(t, r.URL.Query().Has("verbose"))
			require.Empty(t, r.Header.Get("Authorization"))
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, "[+] nats ok\n[-] postgres: dial tcp: connection refused\nnot ready\n")
		},
		"GET /v2/nvcf/functions":     refuse(problem.New(problem.Unavailable, "functions does not answer")),
		"GET /v2/nvcf/clusterGroups": answer(`{"clusterGroups":[]}`),
	})
	got := sirocco(t, g, []string{"status"})
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.out, "NOT READY")
	require.Regexp(t, `postgres +waiting +dial tcp: connection refused`, got.out)
	require.Contains(t, got.out, "functions: functions does not answer")
	require.Contains(t, got.err, "not ready: postgres")

	var st standing
	require.NoError(t, json.Unmarshal([]byte(sirocco(t, g, []string{"status", "-o", "json"}).out), &st))
	require.False(t, st.Ready)
	require.Equal(t, []checked{{Name: "nats", Ready: true}, {Name: "postgres", Waiting: "dial tcp: connection refused"}}, st.Checks)
}

func TestStatusOfSomethingElse(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{"GET /readyz": answer("welcome")})
	got := sirocco(t, g, []string{"status"})
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, "--url")
}
