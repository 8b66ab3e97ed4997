package gateway

import (
	"net/http"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
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

// TestATokenSpeaksForItsOwnOwner is keys §11.24: in secured mode the owner is bound to the caller, and the header may
// only narrow.
func TestATokenSpeaksForItsOwnOwner(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, secured, _ := s.gateway(t, func(c *Config) { c.TrustMode, c.BareDelete = Secured, []string{"127.0.0.0/8"} })
	ann, bob := uuid.NewString(), uuid.NewString()
	of := func(subject, name string, scopes ...access.Scope) string {
		return auth(s.token(t, func(_ *jwt.Token, c jwt.MapClaims) {
			c["iss"], c["sub"], c["preferred_username"], c["scopes"] = keys.ConsoleIssuer(keys.ConsoleDomain), subject, name, scopes
		}))
	}
	user := of(ann, "ann@corp.example", access.ManageKeys)
	program := of(bob, "bob", access.ManageKeys)
	administrator := of(uuid.NewString(), "root@corp.example", access.ManageKeys, access.AccountSetup)
	installs := auth(s.scoped(t, access.ManageKeys))
	for _, tc := range []struct {
		who, owner string
		status     int // 0: what success is
	}{
		{user, ann, 0},
		{user, "ann@corp.example", 0},
		{user, " ann@corp.example ", 0},
		{user, bob, 403},
		{user, "bob@corp.example", 403},
		{user, "Ann@corp.example", 403},
		{user, "ann@corp.example,", 403},
		{user, "svc@nvcf-api.local", 403},
		{program, bob, 0},
		{program, "bob", 403},
		{program, ann, 403},
		{administrator, ann, 0},
		{administrator, "svc@nvcf-api.local", 0},
		{installs, ann, 0},
		{installs, "svc@nvcf-api.local", 0},
		{of(ann, "ann@corp.example", access.ListFunctions), ann, 403},
		{user, "", 0}, // which the keys service refuses
	} {
		for _, call := range []string{
			"POST /v1/keys", "GET /v1/keys", "GET /v1/keys/{id}", "DELETE /v1/keys/{id}", "PUT /v1/keys/{id}/authorizations", "PATCH /v1/keys/{id}", "POST /v1/keys/{id}/rotate",
		} {
			method, path, _ := strings.Cut(strings.ReplaceAll(call, "{id}", uuid.NewString()), " ")
			ask := func(url, authorization string) reply {
				r := request(t, method, url+path, strings.NewReader("{}"), keys.HeaderOwner, tc.owner)
				if authorization != "" {
					r.Header.Set("Authorization", authorization)
				}
				return do(t, client(t, false), r)
			}
			success := 200
			if method == "DELETE" {
				success = 204
			}
			require.Equal(t, success, ask(s.url, tc.who).StatusCode, "in compat mode the keys of everybody are open: %s of %q", call, tc.owner)
			if tc.status == 0 {
				require.Equal(t, success, ask(secured, tc.who).StatusCode, "%s of %q", call, tc.owner)
				continue
			}
			doc := refused(t, ask(secured, tc.who), tc.status)
			require.NotEmpty(t, doc.RequiredScopes, call)
			if method == "DELETE" {
				require.Equal(t, 204, ask(secured, "").StatusCode, "the listed networks stand for anybody")
			}
		}
	}
	r := request(t, "GET", secured+"/v1/keys", nil, "Authorization", user, keys.HeaderOwner, bob)
	doc := refused(t, do(t, client(t, false), r), 403)
	require.Equal(t, "resource_not_covered", string(doc.Code))
	require.Contains(t, doc.Detail, "ann@corp.example or "+ann)
	require.Equal(t, []string{access.AccountSetup}, doc.RequiredScopes)
}

// TestNoHeaderThatDecidesMayComeTwice: of two values one hop may believe the first and the next the last.
func TestNoHeaderThatDecidesMayComeTwice(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, _ := s.deployed(t, func(http.ResponseWriter, *http.Request) { t.Error("it was called") })
	good := auth(s.token(t, nil))
	const mine, issuer = "ann@corp.example", access.FunctionsAudience
	for _, tc := range []struct {
		call, header string
		values       []string
	}{
		{"GET /v2/nvcf/functions", "Authorization", []string{good, good}},
		{"GET /v2/nvcf/functions", "Authorization", []string{good, "Bearer x.y.z"}},
		{"GET /v2/nvcf/functions", "Authorization", []string{"", good}},
		{"GET /v2/nvcf/functions", "Authorization", []string{good + ", Bearer x.y.z"}},
		{"GET /v2/nvcf/functions", "Authorization", []string{good + ",x.y.z"}},
		{"POST /v2/nvcf/pexec/functions/" + fid, "Authorization", []string{good, good}},
		{"GET /v1/keys", "Authorization", []string{good, good}},
		{"POST /v1/introspect", "Authorization", []string{good + ", " + good}},
		{"POST /v1/admin/keys", "Authorization", []string{"Bearer a", "Bearer b"}},
		{"GET /api/v1/users", "Authorization", []string{good, good}},
		{"POST /api/v2/token", "Authorization", []string{"Basic YTpi", "Basic YTpi"}},
		{"GET /v1/si/accounts/a/gpus", "Authorization", []string{good, good}},
		{"GET /anything", "Function-Id", []string{fid, uuid.NewString()}},
		{"GET /anything", "Function-Id", []string{fid, fid}},
		{"GET /anything", "Function-Id", []string{fid + "," + fid}},
		{"GET /anything", "Function-Version-Id", []string{fid, fid}},
		{"GET /v1/keys", "Key-Owner-Id", []string{mine, "bob@corp.example"}},
		{"GET /v1/keys", "Key-Issuer-Id", []string{issuer, access.TasksAudience}},
		{"DELETE /v1/keys/" + uuid.NewString(), "Key-Owner-Id", []string{mine, mine}},
		{"GET /v1/service-admin/users/a/keys", "Key-Issuer-Id", []string{issuer, issuer}},
	} {
		method, path, _ := strings.Cut(tc.call, " ")
		r := request(t, method, s.url+path, strings.NewReader("{}"))
		r.Header["Function-Id"] = []string{fid}
		if tc.header != "Function-Id" && tc.header != "Function-Version-Id" {
			r.Header.Del("Function-Id")
		}
		r.Header["Authorization"] = []string{good}
		r.Header[tc.header] = tc.values
		got := do(t, client(t, false), r)
		require.Equal(t, 400, got.StatusCode, "%s %q: %s", tc.call, tc.header, got.body)
		require.Contains(t, strings.ToLower(got.body), strings.ToLower(tc.header), "the header is named")
		require.NotContains(t, got.body, good[20:60], "and no credential repeated")
	}
	r := request(t, "POST", s.url+tokenPath, strings.NewReader(`{"grantType":"password","username":"a","password":"b"}`), "Authorization", "Bearer a", "Authorization", "Bearer b")
	require.NotEqual(t, 400, do(t, client(t, false), r).StatusCode, "a grant ignores whatever credential comes with it")
	grpc := request(t, "POST", "http://"+s.grpc+"/a.B/C", nil, "Content-Type", "application/grpc", "Authorization", good, "function-id", fid, "function-id", uuid.NewString())
	require.Equal(t, "3", do(t, client(t, true), grpc).Header.Get("Grpc-Status"))
	doc := refused(t, do(t, client(t, false), request(t, "GET", s.url+"/v1/keys", nil, keys.HeaderOwner, mine, keys.HeaderOwner, mine)), 400)
	require.Equal(t, keys.HeaderOwner, doc.Violations[0].Field)

	_, err := New(Config{BootstrapSecret: "a, b"}, s.conn, nil, nil, logger(t))
	require.ErrorContains(t, err, "SIROCCO_BOOTSTRAP_SECRET")
}

// TestOperatorsChooseHowTheMatrixIsRead: what All Functions and All Entity open beyond the strict reading (keys §7.4, §12).
func TestOperatorsChooseHowTheMatrixIsRead(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, loose, _ := s.gateway(t, func(c *Config) {
		c.Compat = access.Compat{AccountWide: true, InvokeWithEntity: true}
	})
	fid := s.function(uuid.NewString())
	everything := access.Resource{Type: string(access.AllEntity), ID: "*"}
	wide, _ := s.key([]string{access.ManageTelemetries, access.ManageRegistries, access.UpdateSecrets}, allFunctions)
	entity, _ := s.key([]string{access.InvokeFunction}, everything)
	narrow, _ := s.key([]string{access.RegisterFunction}, access.Resource{Type: "function", ID: fid + "/*"})
	for _, tc := range []struct {
		key, call     string
		strict, loose bool
	}{
		{wide, "GET /v2/nvcf/telemetries", false, true},
		{wide, "PUT /v2/nvcf/secrets/telemetries/" + uuid.NewString(), false, true},
		{wide, "POST /v2/nvcf/registry-credentials", false, true},
		{entity, "POST /v2/nvcf/pexec/functions/" + fid, false, true},
		{narrow, "POST /v2/nvcf/functions/" + fid + "/versions", true, false},
	} {
		method, path, _ := strings.Cut(tc.call, " ")
		for url, allowed := range map[string]bool{s.url: tc.strict, loose: tc.loose} {
			got := ask(t, url, access.ExplainRequest{Key: tc.key, Method: method, Path: path})
			require.Equal(t, allowed, got.Allowed, "%s: %+v", tc.call, got)
		}
	}
	caller := func(compat access.Compat) *problem.Problem {
		_, p := newCredentials(compat.Row(access.Invoke)).invoker(&entry{rights: &rights{}, credential: access.Credential{
			Kind: access.Key, Audiences: []string{access.FunctionsAudience},
			Policies: []access.Policy{{Scopes: []access.Scope{access.InvokeFunction}, Resources: []access.Resource{everything}}},
		}})
		return p
	}
	require.Equal(t, problem.ResourceType, caller(access.DefaultCompat).Code)
	require.Nil(t, caller(access.Compat{InvokeWithEntity: true}))
}
