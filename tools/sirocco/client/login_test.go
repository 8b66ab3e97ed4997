package client_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

// door signs people in. Each refresh token is good once; a second use ends the login, as the access API has it.
type door struct {
	*httptest.Server

	mu      sync.Mutex
	issued  int
	ended   bool
	grants  []client.Grant
	bearers []string
}

func newDoor(t *testing.T) *door {
	t.Helper()
	d := &door{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/token", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		var g client.Grant
		if json.NewDecoder(r.Body).Decode(&g) != nil || r.Header.Get("Authorization") != "" {
			http.Error(w, "bad", http.StatusBadRequest)
			return
		}
		d.grants = append(d.grants, g)
		if g.GrantType == "refresh_token" && g.RefreshToken != fmt.Sprintf("refresh-%d", d.issued) {
			d.ended = true
		}
		if d.ended || g.Password == "wrong" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"code":400,"message":"wrong credentials"}`)
			return
		}
		d.issued++
		fmt.Fprintf(w, `{"accessToken":"access-%d","refreshToken":"refresh-%d","idToken":"","externalToken":"","expiresIn":3600}`, d.issued, d.issued)
	})
	mux.HandleFunc("GET /thing", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		bearer := r.Header.Get("Authorization")
		d.bearers = append(d.bearers, bearer)
		if bearer != fmt.Sprintf("Bearer access-%d", d.issued) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	d.Server = httptest.NewServer(mux)
	t.Cleanup(d.Close)
	return d
}

var (
	look   = client.Request{Method: http.MethodGet, Path: "/thing"}
	person = client.Grant{GrantType: "password", Username: "ann", Password: "right", ClientID: client.LoginClient}
)

func TestALoginIsKeptAndRenewed(t *testing.T) {
	t.Parallel()
	d, now := newDoor(t), start
	dir := filepath.Join(t.TempDir(), "sirocco")
	o := client.Options{CacheDir: dir, Now: func() time.Time { return now }}
	_, err := connect(t, d.URL, o).SignIn(t.Context(), person)
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(dir, "login-*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	info, err := os.Stat(files[0])
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "only its owner may read a login")
	kept, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.NotContains(t, string(kept), "right", "the password is not kept")

	c := connect(t, d.URL, o)
	require.False(t, c.Minting())
	_, err = c.Answer(t.Context(), look)
	require.NoError(t, err)
	now = now.Add(time.Hour - 59*time.Second)
	_, err = connect(t, d.URL, o).Answer(t.Context(), look)
	require.NoError(t, err)
	require.Equal(t, []string{"Bearer access-1", "Bearer access-2"}, d.bearers, "a token is not used in the last minute before its expiry")
	require.Equal(t, client.Grant{GrantType: "refresh_token", RefreshToken: "refresh-1", ClientID: client.LoginClient}, d.grants[1])

	fixed := connect(t, d.URL, client.Options{Token: "mine", CacheDir: dir})
	_, signedIn := fixed.SignedIn()
	require.False(t, signedIn, "a given token goes before the login")
	require.NoError(t, connect(t, d.URL, o).SignOut())
	require.True(t, connect(t, d.URL, o).Minting())
	require.NoError(t, connect(t, d.URL, o).SignOut(), "twice is no error")
}

// Commands that run side by side share one login, and a refresh token is good once.
func TestSideBySideALoginIsRenewedOnce(t *testing.T) {
	t.Parallel()
	d, now := newDoor(t), start
	o := client.Options{CacheDir: t.TempDir(), Now: func() time.Time { return now }}
	_, err := connect(t, d.URL, o).SignIn(t.Context(), person)
	require.NoError(t, err)
	now = now.Add(2 * time.Hour)
	var clients []*client.Client
	for range 8 {
		clients = append(clients, connect(t, d.URL, o))
	}
	errs := make(chan error, len(clients))
	for _, c := range clients {
		go func() {
			_, err := c.Answer(t.Context(), look)
			errs <- err
		}()
	}
	for range clients {
		require.NoError(t, <-errs)
	}
	require.Equal(t, 2, d.issued)
}

func TestALoginThatEndedIsSaid(t *testing.T) {
	t.Parallel()
	d, now := newDoor(t), start
	o := client.Options{CacheDir: t.TempDir(), Now: func() time.Time { return now }}
	c := connect(t, d.URL, o)
	_, err := c.SignIn(t.Context(), client.Grant{GrantType: "password", Username: "ann", Password: "wrong"})
	var refusal *client.Refusal
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, "wrong credentials", err.Error(), "the access API's own sentence")
	require.Equal(t, problem.BadRequest, refusal.Problem.Code)
	_, signedIn := c.SignedIn()
	require.False(t, signedIn)

	_, err = c.SignIn(t.Context(), person)
	require.NoError(t, err)
	d.mu.Lock()
	d.ended, d.issued = true, 7 // an administrator ended the login
	d.mu.Unlock()
	_, err = c.Answer(t.Context(), look)
	require.ErrorIs(t, err, client.ErrLoginEnded)
	require.True(t, d.ended)
}
