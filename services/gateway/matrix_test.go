package gateway

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// entries is one resource entry of every reach.
var entries = map[access.Reach]access.Resource{
	access.AF: allFunctions,
	access.SF: {Type: string(access.SharedFunctions), ID: "*"},
	access.F:  access1(fid + "/*"),
	access.V:  access1(fid + "/" + vid),
	access.AC: {Type: string(access.AllClusters), ID: "*"},
	access.CL: {Type: string(access.Cluster), ID: fid},
	access.AE: {Type: "*", ID: "*"},
	access.AT: {Type: string(access.AllTasks), ID: "*"},
	access.T:  {Type: string(access.Task), ID: fid},
}

// accepts is the rule of the matrix in its plainest form: some way has all its scopes, and accepts the reach.
func accepts(row access.Row, scopes []access.Scope, reach access.Reach) (scoped, allowed bool) {
	for _, way := range row.Ways {
		if slices.ContainsFunc(way.Scopes, func(s access.Scope) bool { return !slices.Contains(scopes, s) }) || len(way.Reaches) == 0 {
			continue
		}
		scoped = true
		allowed = allowed || slices.Contains(way.Reaches, reach)
	}
	return scoped, allowed
}

// TestEveryRowOfTheMatrix asks a route of every row with every kind of key and token, and expects each refusal to name
// what is missing.
func TestEveryRowOfTheMatrix(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g, url, _ := s.gateway(t, func(c *Config) { c.TrustMode = Secured })
	e := rpc.Endpoint[rpc.None, rpc.None]{Service: "tasks", Resource: "test", Verb: "matrix"}
	respond(t, s, e.Subject(), rpc.None{})
	c := client(t, false)
	asked := 0
	for _, name := range slices.Sorted(maps.Keys(access.Matrix)) {
		row := access.Matrix[name]
		mirror := row.ForAccount()
		path, mirrored := "/matrix/"+name, "/matrix/accounts/{ncaId}/"+name
		g.router.mux.HandleFunc("GET "+path, g.handle(g.prepared(to(get, path, &row, ok, e))))
		twin := to(get, mirrored, &mirror, ok, e)
		twin.mirror = true
		g.router.mux.HandleFunc("GET "+mirrored, g.handle(g.prepared(twin)))
		ask := func(path, bearer string) reply {
			asked++
			return do(t, c, request(t, "GET", url+path, nil, "Authorization", auth(bearer)))
		}
		key := func(scopes []access.Scope, reach access.Reach) string {
			bearer, credential := s.key(scopes, entries[reach])
			credential.Audiences = []string{row.Audience}
			credential.Policies[0].Audience = row.Audience
			s.register(bearer, credential)
			return bearer
		}
		forKeys := slices.ContainsFunc(row.Ways, func(w access.Way) bool { return len(w.Reaches) > 0 })
		for i, way := range row.Ways {
			what := fmt.Sprintf("%s, way %d", name, i)
			require.Equal(t, 200, ask(path, s.scoped(t, way.Scopes...)).StatusCode, "%s: a token", what)
			for _, missing := range way.Scopes {
				rest := slices.DeleteFunc(slices.Clone(way.Scopes), func(s access.Scope) bool { return s == missing })
				doc := refused(t, ask(path, s.scoped(t, rest...)), 403)
				require.Equal(t, problem.ScopeMissing, doc.Code, what)
				require.NotEmpty(t, doc.RequiredScopes, what)
				if !forKeys {
					continue
				}
				got := ask(path, key(rest, access.AE))
				doc = refused(t, got, 403)
				require.Equal(t, problem.ScopeMissing, doc.Code, what)
				require.Contains(t, got.Header.Get("WWW-Authenticate"), "insufficient_scope", what)
				require.Contains(t, got.Header.Get("WWW-Authenticate"), strings.Join(doc.RequiredScopes, " "), what)
			}
			for reach := range entries {
				got := ask(path, key(way.Scopes, reach))
				scoped, allowed := accepts(row, way.Scopes, reach)
				switch {
				case allowed:
					require.Equal(t, 200, got.StatusCode, "%s: a key with %s: %s", what, reach, got.body)
				case scoped:
					doc := refused(t, got, 403)
					require.Equal(t, problem.ResourceType, doc.Code, "%s: a key with %s", what, reach)
					require.NotEmpty(t, doc.RequiredResourceTypes, what)
					require.Contains(t, got.Header.Get("WWW-Authenticate"), "insufficient_scope", what)
				default:
					refused(t, got, 403)
				}
			}
			var admin []access.Scope
			for _, scope := range way.Scopes {
				admin = append(admin, access.AdminPrefix+strings.TrimPrefix(scope, access.AdminPrefix))
			}
			inAccount := strings.Replace(mirrored, "{ncaId}", "other", 1)
			require.Equal(t, 200, ask(inAccount, s.scoped(t, admin...)).StatusCode, "%s: the administrator of all", what)
			refused(t, ask(inAccount, key(admin, access.AE)), 403)
			if len(way.Scopes) > 0 && !strings.HasPrefix(way.Scopes[0], access.AdminPrefix) {
				refused(t, ask(inAccount, s.scoped(t, way.Scopes...)), 403)
			}
		}
		if !forKeys {
			continue
		}
		bearer, credential := s.key(row.Ways[len(row.Ways)-1].Scopes, allFunctions)
		credential.Audiences = []string{"somebody-else"}
		s.register(bearer, credential)
		require.Equal(t, problem.AudienceMismatch, refused(t, ask(path, bearer), 403).Code, name)
	}
	t.Logf("%d rows, %d requests", len(access.Matrix), asked)
}

// TestARefusalComesBeforeTheRequestIsRead: who may not learns nothing about paths and bodies (keys §14, ruling 2).
func TestARefusalComesBeforeTheRequestIsRead(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	narrow, _ := s.key([]string{access.RegisterFunction}, access1(fid+"/*"))
	scopeless, _ := s.key([]string{access.ListFunctions}, allFunctions)
	for _, tc := range []struct {
		bearer, path string
		code         problem.Code
	}{
		{scopeless, "/v2/nvcf/functions", problem.ScopeMissing},
		{narrow, "/v2/nvcf/functions", problem.ResourceType},
		{scopeless, "/v2/nvcf/deployments/functions/not-a-uuid/versions/neither", problem.ScopeMissing},
	} {
		doc := refused(t, do(t, client(t, false), request(t, "POST", s.url+tc.path, strings.NewReader("{broken"), "Authorization", auth(tc.bearer))), 403)
		require.Equal(t, tc.code, doc.Code)
	}
}

// TestDeadKeys: what is said about them depends on the API (keys §2.1 and §14, ruling 1), and never why.
func TestDeadKeys(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, secured, _ := s.gateway(t, func(c *Config) { c.TrustMode = Secured })
	inventory := ""
	for _, line := range routes() {
		if line.face() == inventoryFace && line.row != nil && line.method == get {
			inventory = filled(line.path)
		}
	}
	expired, c := s.key([]string{access.InvokeFunction}, allFunctions)
	c.ExpiresAt = c.ExpiresAt.AddDate(-1, 0, 0)
	s.register(expired, c)
	for _, bearer := range []string{"nvapi-never-made", expired} {
		ask := func(url, method, path string, headers ...string) reply {
			return do(t, client(t, false), request(t, method, url+path, nil, append(headers, "Authorization", auth(bearer))...))
		}
		for path, status := range map[string]int{"/v2/nvcf/functions": 403, "/v2/nvcf/clusterGroups": 403, inventory: 401} {
			if path != "" {
				require.Contains(t, refused(t, ask(s.url, "GET", path), status).Detail, deadKey, path)
			}
		}
		require.Equal(t, deadKey, refused(t, ask(secured, "GET", "/v1/keys"), 401).Detail)
		require.Equal(t, deadKey, refused(t, ask(s.url, "POST", "/v2/nvcf/pexec/functions/"+fid), 401).Detail)
		require.Equal(t, deadKey, refused(t, ask(s.url, "GET", "/", "Host", direct(fid)), 401).Detail)
	}
}

func TestHeadsThatAnAPIDoesNotTake(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	big := strings.Repeat("x", maxKeysHeader)
	for _, path := range []string{"GET /v1/keys", "POST /v1/admin/keys", "POST /v1/introspect"} {
		method, path, _ := strings.Cut(path, " ")
		doc := refused(t, do(t, client(t, false), request(t, method, s.url+path, nil, "X-Big", big)), 431)
		require.Equal(t, problem.HeadersTooLarge, doc.Code)
	}
	key, _ := s.key([]string{access.ListFunctions}, allFunctions)
	require.Equal(t, 200, do(t, client(t, false), request(t, "GET", s.url+"/v2/nvcf/functions", nil, "X-Big", big, "Authorization", auth(key))).StatusCode)
	for _, tree := range []string{"/v1/si/accounts/nvcf-default/clusterGroups", "/v1/accounts/a/clusters", "/v1/nvca/clusters/c/register"} {
		require.NotNil(t, faceOf(tree).tooLarge(map[string][]string{"Authorization": {auth(strings.Repeat("x", maxInventoryBearer+1))}}))
		require.Nil(t, faceOf(tree).tooLarge(map[string][]string{"Authorization": {auth(strings.Repeat("x", maxInventoryBearer))}}))
	}
	got := do(t, client(t, false), request(t, "GET", s.url+"/.well-known/openid-configuration", nil, "Host", "invocation.localhost"))
	refused(t, got, 404)
	for _, host := range []string{"api.localhost", "api-keys.localhost", "sis.localhost", "tasks.localhost", "console.localhost", "elsewhere"} {
		require.Equal(t, 200, do(t, client(t, false), request(t, "GET", s.url+"/.well-known/openid-configuration", nil, "Host", host)).StatusCode)
	}
}

// TestEveryFormOfQuotaAndCapacity: rows 19 and 20 of keys §7.4, by every path that clients of them use. Only All Entity opens them.
func TestEveryFormOfQuotaAndCapacity(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := client(t, false)
	var paths []string
	for _, org := range []string{"/orgs/acme", "/orgs/acme/teams/blue"} {
		paths = append(paths,
			"/v2"+org+"/ngc/nvcf/gpu/quota/rules", "/v2"+org+"/nvcf/gpu/quota/rules",
			"/v2"+org+"/ngc/nvcf/deployments/instanceTypes", "/v2"+org+"/ngc/nvcf/deployments/available/instanceTypes",
			"/v3"+org+"/ngc/nvcf/deployments/instanceTypes", "/v3"+org+"/ngc/nvcf/deployments/available/instanceTypes",
		)
	}
	paths = append(paths, "/v2/nvcf/gpu/quota/rules", "/v2/nvcf/quotas/gpus", "/v2/nvcf/gpus", "/v2/nvcf/gpu/capacity", "/v2/nvcf/capacity/gpus")
	both := []access.Scope{access.ReadGPUQuotaRule, access.GPUCapacity}
	key := func(kind access.ResourceType, id string) string {
		bearer, _ := s.key(both, access.Resource{Type: string(kind), ID: id})
		return auth(bearer)
	}
	entity := key(access.AllEntity, "*")
	narrow := []string{key(access.AllFunctions, "*"), key(access.Function, fid+"/*"), key(access.Function, fid+"/"+vid), key(access.AllClusters, "*")}
	for _, path := range paths {
		ask := func(authorization string) reply {
			return do(t, c, request(t, "GET", s.url+path, nil, "Authorization", authorization, "Accept", "application/json"))
		}
		require.Equal(t, 200, ask(entity).StatusCode, path)
		require.Equal(t, 200, ask(auth(s.scoped(t, both...))).StatusCode, path)
		for _, authorization := range narrow {
			doc := refused(t, ask(authorization), 403)
			require.Equal(t, problem.ResourceType, doc.Code, path)
			require.Equal(t, []string{"*/*"}, doc.RequiredResourceTypes, path)
		}
		require.Equal(t, problem.ScopeMissing, refused(t, ask(auth(s.scoped(t))), 403).Code, path)
	}
}
