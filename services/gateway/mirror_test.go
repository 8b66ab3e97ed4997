package gateway

import (
	"net/http"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// scoped is a token with exactly these scopes.
func (s *site) scoped(t testing.TB, scopes ...access.Scope) string {
	t.Helper()
	return s.token(t, func(_ *jwt.Token, c jwt.MapClaims) { c["scopes"] = scopes })
}

func TestEveryOperationExistsForANamedAccount(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := client(t, false)
	key, _ := s.key([]string{access.ListFunctions}, allFunctions)
	mirrors := 0
	for _, line := range withMirrors(routes()) {
		if !line.mirror {
			continue
		}
		mirrors++
		name := line.method + " " + line.path
		ask := func(account, bearer string) reply {
			path := filled(strings.Replace(line.path, "{ncaId}", account, 1))
			return do(t, c, request(t, line.method, s.url+path, strings.NewReader("{}"), "Authorization", auth(bearer)))
		}
		scopes := line.row.Ways[len(line.row.Ways)-1].Scopes
		for _, scope := range scopes {
			require.True(t, strings.HasPrefix(scope, access.AdminPrefix), name)
		}
		plain := make([]access.Scope, len(scopes))
		for i, scope := range scopes {
			plain[i] = strings.TrimPrefix(scope, access.AdminPrefix)
		}
		refused(t, ask("other-account", key), 403)
		refused(t, ask("other-account", s.scoped(t, plain...)), 403)
		if line.row.Ways[0].Own { // a plain token reaches its own account by this path, as its own
			plainly := s.scoped(t, line.row.Ways[0].Scopes...)
			require.Less(t, ask(access.DefaultAccount, plainly).StatusCode, 300, name)
			require.False(t, s.lastAsked(t).caller.CrossAccount, name)
		}
		got := ask("other-account", s.scoped(t, scopes...))
		require.Less(t, got.StatusCode, 300, "%s: %s", name, got.body)
		caller := s.lastAsked(t).caller
		require.Equal(t, "other-account", caller.Account, name)
		require.True(t, caller.CrossAccount, name)
		doc := refused(t, ask("nobody", s.scoped(t, scopes...)), 404)
		require.Equal(t, "Account with ncaId 'nobody' not found", doc.Detail, name)
	}
	require.Greater(t, mirrors, 20)
}

func TestAKeyStaysInItsAccountAndATokenNeedsAnAdminScopeToLeaveIt(t *testing.T) {
	t.Parallel()
	line := &route{account: "ncaId", row: &access.ManageClusters}
	setup := &route{account: "ncaId", row: &access.ReadAccounts}
	mirrorRow := access.ReadFunctions.ForAccount()
	for _, tc := range []struct {
		name          string
		line          *route
		caller        access.Caller
		account, want string
		refused       bool
	}{
		{"own account", line, access.Caller{Kind: access.JWT, Account: "a"}, "a", "a", false},
		{"another one", line, access.Caller{Kind: access.JWT, Account: "a"}, "b", "", true},
		{"another one, as administrator", line, access.Caller{Kind: access.JWT, Account: "a", Scopes: []access.Scope{"admin:deploy_function"}}, "b", "b", false},
		{"a key elsewhere", setup, access.Caller{Kind: access.Key, Account: "a"}, "b", "", true},
		{"a key at home", setup, access.Caller{Kind: access.Key, Account: "a"}, "a", "a", false},
		{"setting up accounts", setup, access.Caller{Kind: access.JWT, Account: "a"}, "b", "a", false},
		{"a mirror", &route{account: "ncaId", row: &mirrorRow, mirror: true}, access.Caller{Kind: access.JWT, Account: "a", Scopes: []access.Scope{"admin:list_functions"}}, "b", "b", false},
		{"a mirror at home", &route{account: "ncaId", row: &mirrorRow, mirror: true}, access.Caller{Kind: access.JWT, Account: "a", Scopes: []access.Scope{"list_functions"}}, "a", "a", false},
		{"a mirror elsewhere", &route{account: "ncaId", row: &mirrorRow, mirror: true}, access.Caller{Kind: access.JWT, Account: "a", Scopes: []access.Scope{"list_functions"}}, "b", "", true},
		{"a row of its own", &route{account: "ncaId", row: &access.ReadUsage}, access.Caller{Kind: access.JWT, Account: "a"}, "b", "b", false},
	} {
		r := request(t, http.MethodGet, "/", nil)
		r.SetPathValue("ncaId", tc.account)
		got, p := ofAccount(tc.line, r, tc.caller)
		if tc.refused {
			require.Equal(t, problem.AccountMismatch, p.Code, tc.name)
			if tc.line.mirror {
				require.Equal(t, []string{"admin:list_functions"}, p.RequiredScopes, tc.name)
			}
			continue
		}
		require.Nil(t, p, tc.name)
		require.Equal(t, tc.want, got.Account, tc.name)
	}
}

func TestFieldsOfAnAnswerTravelAsHeaders(t *testing.T) {
	t.Parallel()
	type answer struct {
		Body    string   `json:"body"`
		ETag    string   `json:"etag,omitempty" header:"ETag"`
		Warning []string `json:"warning,omitempty" header:"Warning"`
		Retry   *int     `json:"retry,omitempty" header:"Retry-After"`
		Absent  string   `json:"absent,omitempty" header:"Absent"`
	}
	s := newSite(t)
	e := rpc.Endpoint[rpc.None, answer]{Service: "tasks", Resource: "test", Verb: "headers"}
	b := rpc.Endpoint[rpc.None, answer]{Service: "tasks", Resource: "test", Verb: "empty"}
	seven := 7
	for _, subject := range []string{e.Subject(), b.Subject()} {
		respond(t, s, subject, answer{"x", "v1", []string{"a", "b"}, &seven, ""})
	}
	s.gw.router.mux.HandleFunc("GET /headers", s.gw.handle(s.gw.prepared(to(get, "/headers", open, ok, e))))
	s.gw.router.mux.HandleFunc("GET /empty", s.gw.handle(s.gw.prepared(to(get, "/empty", open, nothing, b))))
	for path, body := range map[string]string{"/headers": `{"body":"x"}`, "/empty": ""} {
		got := do(t, client(t, false), request(t, "GET", s.url+path, nil))
		require.Equal(t, body, got.body)
		require.Equal(t, "v1", got.Header.Get("ETag"))
		require.Equal(t, []string{"a", "b"}, got.Header.Values("Warning"))
		require.Equal(t, "7", got.Header.Get("Retry-After"))
		require.Empty(t, got.Header.Values("Absent"))
	}
}

func TestAnOrganisationStandsForAnAccount(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, url, _ := s.gateway(t, func(c *Config) { c.Organisations = []string{"mine=" + access.DefaultAccount, "theirs=elsewhere"} })
	key, _ := s.key([]string{access.ListFunctions}, allFunctions)
	for org, status := range map[string]int{"mine": 200, "": 200, "unmapped": 200, "theirs": 403, "-": 200} {
		for _, path := range []string{"/v2/orgs/" + org + "/nvcf/functions", "/v2/orgs/" + org + "/teams/t/nvcf/functions"} {
			got := do(t, client(t, false), request(t, "GET", url+path, nil, "Authorization", auth(key)))
			require.Equal(t, status, got.StatusCode, "%s: %s", path, got.body)
			if status == 403 {
				require.Equal(t, problem.AccountMismatch, refused(t, got, 403).Code)
			}
		}
	}
	for given, want := range map[string]string{"/v3/orgs//x/y": "/v3/orgs/-/x/y", "/v2/orgs//sis/clusters": "/v2/orgs/-/sis/clusters", "/v3/orgs/o/nvcf/x": "/v3/orgs/o/nvcf/x"} {
		got, _, _ := canonicalPath(given)
		require.Equal(t, want, got)
	}
	for _, bad := range []string{"x", "=y", "x="} {
		_, err := organisations([]string{bad})
		require.ErrorContains(t, err, "SIROCCO_ORGS")
	}
}
