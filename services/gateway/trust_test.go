package gateway

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// administration stands in for the routes that only the networks or an administrator may use.
func administration(s *site, g *Gateway, t testing.TB) {
	t.Helper()
	e := rpc.Endpoint[rpc.None, rpc.None]{Service: "tasks", Resource: "test", Verb: "administration"}
	respond(t, s, e.Subject(), rpc.None{})
	for path, row := range map[string]*access.Row{"/t/admin": &access.AdminKeys, "/t/evaluate": &access.Evaluate, "/t/explain": &access.ExplainKey, "/v1/admin/t": &access.ReadAudit, "/t/audit": &access.ReadAudit} {
		g.router.mux.HandleFunc("GET "+path, g.handle(g.prepared(to(get, path, row, ok, e))))
	}
}

// TestTrustModes is the table of keys §3.
func TestTrustModes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	manager := auth(s.scoped(t, access.ManageKeys))
	setup := auth(s.scoped(t, access.AccountSetup))
	evaluator := auth(s.scoped(t, access.PDPEvaluate))
	powerless := auth(s.scoped(t))
	const dead = "Bearer nvapi-dead"
	id := uuid.NewString()
	type column struct {
		mode TrustMode
		near bool // the client is in one of the administrators' networks
	}
	columns := []column{{Compat, true}, {Compat, false}, {Secured, true}, {Secured, false}}
	urls := map[column]string{}
	for _, c := range columns {
		g, url, _ := s.gateway(t, func(cfg *Config) {
			cfg.TrustMode, cfg.BootstrapSecret = c.mode, "only-once"
			cfg.AdminNetworks = []string{"10.0.0.0/8"}
			if c.near {
				cfg.AdminNetworks = []string{"127.0.0.0/8"}
			}
		})
		administration(s, g, t)
		urls[c] = url
	}
	for _, tc := range []struct {
		call, authorization string
		want                [4]int // in the order of columns
	}{
		{"POST /v1/admin/keys", "", [4]int{200, 403, 401, 401}},
		{"POST /v1/admin/keys", "Bearer only-once", [4]int{200, 403, 200, 200}},
		{"POST /v1/admin/keys", "Bearer only-oncE", [4]int{200, 403, 401, 401}},
		{"POST /v1/admin/keys", setup, [4]int{200, 403, 401, 401}},
		{"GET /v1/keys", "", [4]int{200, 200, 401, 401}},
		{"GET /v1/keys", "Bearer ", [4]int{200, 200, 401, 401}},
		{"GET /v1/keys", "Bearer expired", [4]int{200, 200, 401, 401}},
		{"GET /v1/keys", dead, [4]int{200, 200, 401, 401}},
		{"GET /v1/keys", powerless, [4]int{200, 200, 403, 403}},
		{"GET /v1/keys", manager, [4]int{200, 200, 200, 200}},
		{"POST /v1/keys", manager, [4]int{200, 200, 200, 200}},
		{"DELETE /v1/keys/" + id, "", [4]int{204, 204, 401, 401}},
		{"DELETE /v1/keys/" + id, manager, [4]int{204, 204, 204, 204}},
		{"POST /v1/introspect", "", [4]int{200, 200, 401, 401}},
		{"POST /v1/introspect", powerless, [4]int{200, 200, 200, 200}},
		{"GET /v1/services", "", [4]int{200, 200, 200, 200}},
		{"GET /t/admin", "", [4]int{200, 401, 401, 401}},
		{"GET /t/admin", powerless, [4]int{200, 403, 403, 403}},
		{"GET /t/admin", setup, [4]int{200, 200, 200, 200}},
		{"GET /t/evaluate", "", [4]int{200, 401, 401, 401}},
		{"GET /t/evaluate", evaluator, [4]int{200, 200, 200, 200}},
		{"GET /t/explain", "", [4]int{200, 401, 401, 401}},
		{"GET /t/explain", manager, [4]int{200, 200, 200, 200}},
		{"GET /v1/admin/t", "", [4]int{200, 401, 401, 401}},
		{"GET /t/audit", "", [4]int{401, 401, 401, 401}},
	} {
		method, path, _ := strings.Cut(tc.call, " ")
		for i, c := range columns {
			r := request(t, method, urls[c]+path, strings.NewReader("{}"))
			if tc.authorization != "" {
				r.Header.Set("Authorization", tc.authorization)
			}
			got := do(t, client(t, false), r)
			require.Equal(t, tc.want[i], got.StatusCode, "%s with %.12q, %+v: %s", tc.call, tc.authorization, c, got.body)
			if got.StatusCode == http.StatusUnauthorized {
				require.Equal(t, "Bearer", got.Header.Get("WWW-Authenticate"))
			}
		}
	}
}

func TestListedNetworksMayDeleteWithoutACredential(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, url, _ := s.gateway(t, func(c *Config) { c.TrustMode, c.BareDelete = Secured, []string{"127.0.0.0/8"} })
	ask := func(method string, headers ...string) int {
		return do(t, client(t, false), request(t, method, url+"/v1/keys/"+uuid.NewString(), nil, headers...)).StatusCode
	}
	require.Equal(t, 204, ask("DELETE"))
	require.Equal(t, 401, ask("DELETE", "Authorization", "Bearer broken"), "who shows a credential is judged by it")
	require.Equal(t, 401, ask("GET"))
}

func TestWhoIsLetInByItsNetworkIsStillNamed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.Equal(t, 200, do(t, client(t, false), request(t, "GET", s.url+"/v1/keys", nil, "Authorization", auth(s.token(t, nil)))).StatusCode)
	require.Equal(t, keys.TokenSubject, s.lastAsked(t).caller.Subject)
	_, err := New(Config{TrustMode: "lax"}, s.conn, nil, nil, logger(t))
	require.ErrorContains(t, err, `SIROCCO_TRUST_MODE: "lax" is neither compat nor secured`)
	_, err = New(Config{BareDelete: []string{"x"}}, s.conn, nil, nil, logger(t))
	require.ErrorContains(t, err, "SIROCCO_KEYS_ALLOW_BARE_DELETE")
}
