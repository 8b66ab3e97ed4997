package client_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var start = time.Date(2031, 4, 2, 8, 0, 0, 0, time.UTC)

// gateway mints numbered tokens and accepts only the last one.
type gateway struct {
	*httptest.Server

	mu     sync.Mutex
	minted int
	valid  string
	bodies []string
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/admin/keys", func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if r.Header.Get("Authorization") != "" {
			http.Error(w, "minting needs no credential", http.StatusBadRequest)
			return
		}
		g.minted++
		g.valid = fmt.Sprintf("token-%d", g.minted)
		fmt.Fprintf(w, `{"value":%q,"expires_at":%q}`, g.valid, start.Add(time.Duration(g.minted)*time.Hour).Format(time.RFC3339))
	})
	mux.HandleFunc("POST /thing", func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		g.bodies = append(g.bodies, string(body))
		if r.Header.Get("Authorization") != "Bearer "+g.valid {
			w.Header().Set("Content-Type", problem.ContentType)
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"status":401,"detail":"unknown token","code":"unauthorized"}`)
			return
		}
		fmt.Fprint(w, `{"done":true}`)
	})
	mux.HandleFunc("GET /proxy", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		http.Error(w, "<html>", http.StatusBadGateway)
	})
	g.Server = httptest.NewServer(mux)
	t.Cleanup(g.Close)
	return g
}

func (g *gateway) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.valid = "none"
}

func connect(t *testing.T, url string, o client.Options) *client.Client {
	t.Helper()
	c, err := client.New(url, o)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

var thing = client.Request{Method: http.MethodPost, Path: "/thing", Body: []byte(`{"a":1}`)}

func TestATokenIsMintedOnceAndKeptForTheNextRun(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	dir := filepath.Join(t.TempDir(), "sirocco")
	now := start
	o := client.Options{CacheDir: dir, Now: func() time.Time { return now }}
	for range 3 {
		c := connect(t, g.URL, o)
		for range 2 {
			body, err := c.Answer(t.Context(), thing)
			require.NoError(t, err)
			require.JSONEq(t, `{"done":true}`, string(body))
		}
	}
	require.Equal(t, 1, g.minted)
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 1)
	info, err := files[0].Info()
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "only its owner may read a token")

	now = start.Add(time.Hour - 59*time.Second)
	_, err = connect(t, g.URL, o).Answer(t.Context(), thing)
	require.NoError(t, err)
	require.Equal(t, 2, g.minted, "a token is not used in the last minute before its expiry")
}

func TestARefusedTokenIsReplacedOnce(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	o := client.Options{CacheDir: t.TempDir(), Now: func() time.Time { return start }}
	c := connect(t, g.URL, o)
	_, err := c.Answer(t.Context(), thing)
	require.NoError(t, err)
	g.forget() // as a gateway does whose signing keys are new
	_, err = c.Answer(t.Context(), thing)
	require.NoError(t, err)
	require.Equal(t, 2, g.minted)
	require.Equal(t, []string{`{"a":1}`, `{"a":1}`, `{"a":1}`}, g.bodies, "the repeated call carries its body again")
	_, err = connect(t, g.URL, o).Answer(t.Context(), thing)
	require.NoError(t, err)
	require.Equal(t, 2, g.minted, "the replacement is kept, too")
}

func TestAGivenTokenIsNeverReplaced(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := connect(t, g.URL, client.Options{Token: "mine", CacheDir: t.TempDir()})
	_, err := c.Answer(t.Context(), thing)
	var refusal *client.Refusal
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, http.StatusUnauthorized, refusal.Status)
	require.Equal(t, problem.Unauthorized, refusal.Problem.Code)
	require.Equal(t, "unknown token", err.Error())
	require.Zero(t, g.minted)
}

func TestADamagedCacheCostsOneMintOnly(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	dir := t.TempDir()
	o := client.Options{CacheDir: dir, Now: func() time.Time { return start }}
	_, err := connect(t, g.URL, o).Answer(t.Context(), thing)
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(dir, "token-*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.NoError(t, os.WriteFile(files[0], []byte(`{"token":`), 0o600))
	_, err = connect(t, g.URL, o).Answer(t.Context(), thing)
	require.NoError(t, err)
	require.Equal(t, 2, g.minted)
}

func TestSomethingElseThanAGatewayIsToldApart(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := connect(t, g.URL, client.Options{Token: "x"})
	_, err := c.Answer(t.Context(), client.Request{Method: http.MethodGet, Path: "/proxy"})
	var refusal *client.Refusal
	require.ErrorAs(t, err, &refusal)
	require.Empty(t, refusal.Problem.Code)
	require.Equal(t, 7, refusal.RetryAfter)
	require.Equal(t, "GET /proxy was answered with 502 Bad Gateway", err.Error())
}

func TestNobodyThereIsUnreachable(t *testing.T) {
	t.Parallel()
	const nobody = "http://127.0.0.1:1" // a port that nobody is given who asks for any
	_, err := connect(t, nobody, client.Options{}).Answer(t.Context(), thing)
	var unreachable *client.Unreachable
	require.ErrorAs(t, err, &unreachable)
	require.Contains(t, err.Error(), nobody)
	require.Contains(t, err.Error(), "refused")
	require.NotContains(t, err.Error(), "Post", "the sentence is for people")
}

func TestACallerWhoLeavesIsNoTrouble(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := connect(t, g.URL, client.Options{}).Answer(ctx, thing)
	require.ErrorIs(t, err, context.Canceled)
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"127.0.0.1:8080": "http://127.0.0.1:8080", "https://gw.example/": "https://gw.example", "http://gw.example/base": "http://gw.example/base",
		"http://[::1]:8080": "http://[::1]:8080",
	} {
		c, err := client.New(given, client.Options{})
		require.NoError(t, err, given)
		require.Equal(t, want, c.URL())
	}
	for _, given := range []string{"ftp://gw", "http://", "http://gw?x=1", "http://me:secret@gw", "http://gw\x00"} {
		_, err := client.New(given, client.Options{})
		require.Error(t, err, given)
		require.NotContains(t, err.Error(), "secret", "an address is shown without its password")
	}
}
