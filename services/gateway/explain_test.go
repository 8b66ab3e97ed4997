package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := uuid.NewString()
	policies := func(audience, scopes string, resources ...access.Resource) string {
		b, err := json.Marshal(map[string]any{"policies": []access.Policy{{Audience: audience, Scopes: strings.Fields(scopes), Resources: resources}}})
		require.NoError(t, err)
		return string(b)
	}
	everything := access.Resource{Type: "*", ID: "*"}
	explain := func(body string) access.Explanation {
		got := do(t, client(t, false), request(t, "POST", s.url+"/v1/keys/explain", strings.NewReader(body)))
		require.Equal(t, 200, got.StatusCode, got.body)
		var answer access.Explanation
		require.NoError(t, json.Unmarshal([]byte(got.body), &answer))
		require.NotEmpty(t, answer.Detail, body)
		require.NotContains(t, got.body, "null")
		require.Equal(t, answer.Allowed, answer.Reason == access.ReasonOK)
		return answer
	}
	const functionsKey, tasksKey = access.FunctionsAudience, access.TasksAudience
	deployment := "/v2/nvcf/deployments/functions/" + fid + "/versions/" + vid
	for _, tc := range []struct {
		authorizations, method, host, path string
		reason                             access.Reason
		rule                               string
	}{
		{policies(functionsKey, "deploy_function list_functions", allFunctions), "POST", "", deployment, access.ReasonOK, "deployment.write"},
		{policies(functionsKey, "deploy_function", allFunctions), "POST", "", deployment, access.ReasonScopeMissing, "deployment.write"},
		{policies(functionsKey, "deploy_function", allFunctions), "GET", "", deployment, access.ReasonOK, "deployment.read"},
		{policies(functionsKey, "deploy_function list_functions", access1(fid+"/*")), "put", "", deployment, access.ReasonOK, "deployment.write"},
		{policies(functionsKey, "deploy_function list_functions", access1(other+"/*")), "POST", "", deployment, access.ReasonResourceNotCovered, "deployment.write"},
		{policies(functionsKey, "deploy_function list_functions", everything), "POST", "", "/v2/orgs/o/teams/t" + strings.TrimPrefix(deployment, "/v2"), access.ReasonOK, "deployment.write"},
		{policies(functionsKey, "register_function", access1(fid+"/*")), "POST", "", "/v2/nvcf/functions?x=y", access.ReasonResourceType, "function.create"},
		{policies(functionsKey, "invoke_function", allFunctions), "GET", direct(fid), "/any/thing", access.ReasonOK, "function.invoke"},
		{policies(functionsKey, "invoke_function", everything), "GET", direct(fid), "/any/thing", access.ReasonResourceType, "function.invoke"},
		{policies(functionsKey, "invoke_function", access1(fid+"/"+vid)), "POST", "", "/v2/nvcf/pexec/functions/" + fid, access.ReasonOK, "function.invoke"},
		{policies(functionsKey, "invoke_function", access1(fid+"/"+vid)), "POST", vid + "." + direct(fid), "/", access.ReasonOK, "function.invoke"},
		{policies(functionsKey, "invoke_function", access1(fid+"/"+vid)), "POST", other + "." + direct(fid), "/", access.ReasonResourceNotCovered, "function.invoke"},
		{policies(functionsKey, "invoke_function", access1(fid+"/*")), "POST", "", "/v2/nvcf/pexec/functions/" + other + "/versions/" + vid, access.ReasonResourceNotCovered, "function.invoke"},
		{policies(tasksKey, "invoke_function", allFunctions), "POST", "", "/v2/nvcf/pexec/functions/" + fid, access.ReasonAudience, "function.invoke"},
		{policies(functionsKey, "list_functions", allFunctions), "GET", "", "/v2/nvcf/accounts/other/functions", access.ReasonAccount, "account.function.read"},
		{policies(functionsKey, "cluster-management", everything), "PUT", "", "/v2/nvcf/images", access.ReasonResourceType, "cluster.manage"},
		{policies("", "list_functions", allFunctions), "GET", "", "/v1/services", access.ReasonOK, ""},
		{policies("", "list_functions", allFunctions), "GET", "", "/nowhere", access.ReasonMalformed, ""},
		{policies("", "list_functions", allFunctions), "GET", "", "/v2/nvcf/functions/x/versions/y", access.ReasonMalformed, ""},
		{`{}`, "GET", "", "/v2/nvcf/functions", access.ReasonScopeMissing, "function.read"},
	} {
		got := explain(fmt.Sprintf(`{"authorizations":%s,"method":%q,"host":%q,"path":%q}`, tc.authorizations, tc.method, tc.host, tc.path))
		require.Equal(t, tc.reason, got.Reason, "%+v: %+v", tc, got)
		require.Equal(t, tc.rule, got.Rule, "%+v", tc)
		if tc.reason == access.ReasonScopeMissing {
			require.NotEmpty(t, got.RequiredScopes)
			require.NotEmpty(t, got.CompatibleResourceTypes)
		}
	}

	key, _ := s.key([]string{access.ListFunctions}, allFunctions)
	for bearer, reason := range map[string]access.Reason{
		key: access.ReasonOK, "nvapi-unknown": access.ReasonUnknownKey, s.token(t, nil): access.ReasonOK, s.scoped(t): access.ReasonScopeMissing, "x.y.z": access.ReasonMalformed,
	} {
		require.Equal(t, reason, explain(fmt.Sprintf(`{"key":%q,"method":"GET","path":"/v2/nvcf/functions"}`, bearer)).Reason)
	}
	for _, bad := range []string{
		`{"method":"GET","path":"/x"}`, `{"key":"k","authorizations":{},"method":"GET","path":"/x"}`, `{"key":"k","path":"/x"}`, `{"key":"k","method":"GET"}`,
		`{"key":"k","method":"G T","path":"/x"}`, `{"key":"k","method":"GET","path":"x"}`, `{"key":"k","method":"GET","path":"http://x/"}`, `{"authorizations":[],"method":"GET","path":"/x"}`,
		`{"authorizations":{"policies":{}},"method":"GET","path":"/x"}`, `{"authorizations":{"policies":[7]},"method":"GET","path":"/x"}`,
	} {
		doc := refused(t, do(t, client(t, false), request(t, "POST", s.url+"/v1/keys/explain", strings.NewReader(bad))), 400)
		require.NotEmpty(t, doc.Violations, bad)
	}
}

// TestEveryRouteCanBeExplained: what is explained is what happens.
func TestEveryRouteCanBeExplained(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g, _, _ := s.gateway(t, func(c *Config) { c.TrustMode = Secured })
	r := request(t, "POST", "/", nil)
	for _, line := range withMirrors(routes()) {
		prepared := g.router.lines[line.method+" "+line.path]
		if prepared == nil || prepared.row == nil || len(prepared.row.Ways) == 0 {
			continue
		}
		for _, scopes := range [][]access.Scope{{}, scopesOf(prepared.row)} {
			got, err := g.explain(r, access.Caller{}, access.ExplainRequest{Key: s.scoped(t, scopes...), Method: line.method, Path: filled(line.path)})
			require.NoError(t, err, line.path)
			require.Equal(t, prepared.row.Name, got.Rule, line.path)
			bare := len(scopes) > 0 || len(prepared.row.Ways[0].Scopes) == 0
			require.Equal(t, bare, got.Allowed, "%s %s: %+v", line.method, line.path, got)
		}
	}
}

// ask explains what a credential may do, of a gateway.
func ask(t testing.TB, url string, req access.ExplainRequest) access.Explanation {
	t.Helper()
	b, err := json.Marshal(req)
	require.NoError(t, err)
	got := do(t, client(t, false), request(t, "POST", url+"/v1/keys/explain", strings.NewReader(string(b))))
	require.Equal(t, 200, got.StatusCode, got.body)
	var answer access.Explanation
	require.NoError(t, json.Unmarshal([]byte(got.body), &answer))
	return answer
}

func TestExplainKnowsWhatThePathNames(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	version := uuid.NewString()
	own, shared, public, absent := s.function(version), s.function(version), s.function(version), uuid.NewString()
	s.mu.Lock()
	for id, change := range map[string]func(*functions.ResolveResponse){
		shared: func(f *functions.ResolveResponse) { f.Owner = "other" },
		public: func(f *functions.ResolveResponse) { f.Targets[0].Public = true },
	} {
		f := s.functions[id]
		change(&f)
		s.functions[id] = f
	}
	s.mu.Unlock()
	sharedFunctions := access.Resource{Type: string(access.SharedFunctions), ID: "*"}
	scopes := []string{access.ListFunctions, access.UpdateFunction, access.InvokeFunction, access.DeployFunction}
	key := func(resources ...access.Resource) string {
		bearer, _ := s.key(scopes, resources...)
		return bearer
	}
	read, write, invoke := "GET /v2/nvcf/functions/%s/versions/"+version, "PUT /v2/nvcf/functions/%s/versions/"+version, "POST /v2/nvcf/pexec/functions/%s"
	for _, tc := range []struct {
		key, call, function string
		allowed             bool
		status              int
	}{
		{key(allFunctions), read, own, true, 200},
		{key(allFunctions), write, own, true, 200},
		{key(access1(own + "/*")), write, own, true, 200},
		{key(access1(own + "/" + version)), read, own, true, 200},
		{key(access1(absent + "/*")), read, own, false, 403},
		{key(sharedFunctions), read, own, false, 403},
		{key(access1(absent + "/*")), invoke, own, false, 403},
		{key(access1(absent + "/*")), invoke, public, true, 200},
		{key(sharedFunctions), read, shared, true, 200},
		{key(sharedFunctions), invoke, shared, true, 200},
		{key(allFunctions), invoke, shared, true, 404},
		{key(access1(own + "/*")), invoke, shared, false, 404},
		{key(access1(shared + "/*")), write, shared, true, 404},
		{key(allFunctions), read, absent, true, 404},
		{key(access1(own + "/*")), read, absent, false, 404},
		{key(access1(own + "/*")), write, absent, false, 404},
		{s.token(t, nil), read, absent, true, 404},
		{s.token(t, nil), read, own, true, 200},
	} {
		method, path, _ := strings.Cut(fmt.Sprintf(tc.call, tc.function), " ")
		got := ask(t, s.url, access.ExplainRequest{Key: tc.key, Method: method, Path: path})
		require.Equal(t, tc.allowed, got.Allowed, "%s: %+v", tc.call, got)
		require.Equal(t, tc.status, got.Status, "%s: %+v", tc.call, got)
		want := access.ReasonOK
		if !tc.allowed {
			want = access.ReasonResourceNotCovered
		}
		require.Equal(t, want, got.Reason)
		if tc.status != 200 {
			require.Contains(t, got.Detail, tc.function)
		}
	}

	deployment := "/v2/nvcf/deployments/" + uuid.NewString()
	for code, want := range map[problem.Code]struct {
		allowed bool
		status  int
	}{problem.ResourceNotCovered: {false, 403}, problem.NotFound: {true, 404}, "": {true, 200}} {
		s.mu.Lock()
		delete(s.problems, deployments.GetByID.Subject())
		if code != "" {
			s.problems[deployments.GetByID.Subject()] = problem.New(code, "so it is")
		}
		s.mu.Unlock()
		got := ask(t, s.url, access.ExplainRequest{Key: key(allFunctions), Method: "GET", Path: deployment})
		require.Equal(t, want.allowed, got.Allowed, "%s: %+v", code, got)
		require.Equal(t, want.status, got.Status)
	}
}

func TestExplainTellsWhyACredentialDoesNotCount(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, secured, _ := s.gateway(t, func(c *Config) { c.TrustMode, c.BootstrapSecret = Secured, "only-once" })
	dead := func(reason access.Reason) string {
		bearer, c := s.key([]string{access.ListFunctions}, allFunctions)
		s.mu.Lock()
		s.dead[c.ID] = reason
		s.mu.Unlock()
		return bearer
	}
	local, c := s.key([]string{access.ListFunctions, access.InvokeFunction}, allFunctions)
	c.AllowedCIDRs = []string{"10.0.0.0/8"}
	s.register(local, c)
	slow, c := s.key([]string{access.ListFunctions}, allFunctions)
	c.RateLimit = &access.RateLimit{RPS: 0.001, Burst: 1}
	s.register(slow, c)
	fid := s.function(uuid.NewString())
	bound := s.token(t, func(_ *jwt.Token, c jwt.MapClaims) {
		c["iss"], c["sub"], c["scopes"] = keys.ConsoleIssuer(keys.ConsoleDomain), "ann", []string{access.ManageKeys}
	})
	plain := s.invoker()
	const list = "GET /v2/nvcf/functions"
	for _, tc := range []struct {
		url, key, call, ip string
		reason             access.Reason
		status             int
	}{
		{s.url, dead(access.ReasonExpired), list, "", access.ReasonExpired, 403},
		{s.url, dead(access.ReasonSuspended), list, "", access.ReasonSuspended, 403},
		{s.url, dead(access.ReasonOwnerSuspended), list, "", access.ReasonOwnerSuspended, 403},
		{s.url, "nvapi-unknown", list, "", access.ReasonUnknownKey, 403},
		{s.url, dead(access.ReasonExpired), "POST /v2/nvcf/pexec/functions/" + fid, "", access.ReasonExpired, 401},
		{s.url, dead(access.ReasonExpired), "GET /v1/si/accounts/a/gpus", "", access.ReasonExpired, 401},
		{s.url, s.token(t, func(_ *jwt.Token, c jwt.MapClaims) { c["exp"] = 1 }), list, "", access.ReasonJWTExpired, 401},
		{s.url, s.token(t, func(_ *jwt.Token, c jwt.MapClaims) { c["aud"] = "x" }), list, "", access.ReasonJWTAudience, 401},
		{s.url, s.token(t, func(_ *jwt.Token, c jwt.MapClaims) { c["iss"] = "x" }), list, "", access.ReasonJWTIssuer, 401},

		{s.url, local, list, "", access.ReasonCIDR, 403},
		{s.url, local, list, "10.1.2.3", access.ReasonOK, 200},
		{s.url, local, list, "::ffff:10.1.2.3", access.ReasonOK, 200},
		{s.url, local, list, "2001:db8::1", access.ReasonCIDR, 403},
		{s.url, local, "POST /v2/nvcf/pexec/functions/" + fid, "", access.ReasonCIDR, 403},
		{s.url, slow, list, "", access.ReasonOK, 200},
		{s.url, slow, list, "", access.ReasonOK, 200}, // to explain costs nothing

		// What a network or another secret opens (keys §3).
		{s.url, plain, "POST /v1/admin/lookup", "", access.ReasonOK, 200},
		{s.url, plain, "POST /v1/admin/lookup", "8.8.8.8", access.ReasonResourceType, 403},
		{s.url, "nvapi-unknown", "POST /v1/admin/lookup", "8.8.8.8", access.ReasonUnknownKey, 401},
		{s.url, "nvapi-unknown", "GET /v1/keys", "8.8.8.8", access.ReasonOK, 200},
		{s.url, "nvapi-unknown", "POST /v1/admin/keys", "", access.ReasonOK, 200},
		{s.url, "nvapi-unknown", "POST /v1/admin/keys", "8.8.8.8", access.ReasonCIDR, 403},
		{s.url, "x", "GET /metrics", "8.8.8.8", access.ReasonCIDR, 403},
		{secured, "x", "POST /v1/admin/keys", "", access.ReasonNoCredential, 401},
		{secured, "only-once", "POST /v1/admin/keys", "", access.ReasonOK, 200},
		{secured, bound, "GET /v1/keys", "", access.ReasonOK, 200},
		{secured, plain, "GET /v1/keys", "", access.ReasonResourceType, 403},
		{secured, s.scoped(t), "GET /v1/keys", "", access.ReasonScopeMissing, 403},
	} {
		method, path, _ := strings.Cut(tc.call, " ")
		url := tc.url
		var got access.Explanation
		if url == secured {
			b, err := json.Marshal(access.ExplainRequest{Key: tc.key, Method: method, Path: path, ClientIP: tc.ip})
			require.NoError(t, err)
			r := do(t, client(t, false), request(t, "POST", url+"/v1/keys/explain", strings.NewReader(string(b)), "Authorization", auth(s.scoped(t, access.AccountSetup))))
			require.NoError(t, json.Unmarshal([]byte(r.body), &got), r.body)
		} else {
			got = ask(t, url, access.ExplainRequest{Key: tc.key, Method: method, Path: path, ClientIP: tc.ip})
		}
		require.Equal(t, tc.reason, got.Reason, "%s %.12s from %q: %+v", tc.call, tc.key, tc.ip, got)
		require.Equal(t, tc.status, got.Status, "%s %.12s from %q: %+v", tc.call, tc.key, tc.ip, got)
		require.NotContains(t, got.Detail, deadKey, "who explains is told why")
	}
	require.Equal(t, 200, do(t, client(t, false), request(t, "GET", s.url+"/v2/nvcf/functions", nil, "Authorization", auth(slow))).StatusCode)
	got := ask(t, s.url, access.ExplainRequest{Key: slow, Method: "GET", Path: "/v2/nvcf/functions"})
	require.Equal(t, access.ReasonRateLimited, got.Reason)
	require.Equal(t, 429, got.Status)

	bad := request(t, "POST", s.url+"/v1/keys/explain", strings.NewReader(`{"key":"k","method":"GET","path":"/x","client_ip":"10.0.0.0/8"}`))
	require.Equal(t, "client_ip", refused(t, do(t, client(t, false), bad), 400).Violations[0].Field)
}

// TestAPolicyIsExplainedAsItWillBeRead: members by their exact names, audiences by product.
func TestAPolicyIsExplainedAsItWillBeRead(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for document, reason := range map[string]access.Reason{
		`{"policies":[{"product":"nv-cloud-functions","scopes":["list_functions"],"resources":[{"type":"account-functions","id":"*"}]}]}`: access.ReasonOK,
		`{"policies":[{"product":"nv-cloud-tasks","scopes":["list_functions"],"resources":[{"type":"account-functions","id":"*"}]}]}`:     access.ReasonAudience,
		`{"policies":[{"Scopes":["list_functions"],"resources":[{"type":"account-functions","id":"*"}]}]}`:                                access.ReasonScopeMissing,
		`{"policies":[{"scopes":["list_functions"],"resources":[{"type":"account-functions","id":"*"}]}]}`:                                access.ReasonOK,
	} {
		got := ask(t, s.url, access.ExplainRequest{Authorizations: json.RawMessage(document), Method: "GET", Path: "/v2/nvcf/functions"})
		require.Equal(t, reason, got.Reason, document)
	}
}

// TestTheNetworksOfAKeyHoldEverywhere: also where a request is no line of the table.
func TestTheNetworksOfAKeyHoldEverywhere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bearer, c := s.key([]string{access.InvokeFunction, access.AuditRead, access.ListFunctions}, allFunctions, access.Resource{Type: "*", ID: "*"})
	c.AllowedCIDRs, c.Audiences, c.Policies[0].Audience = []string{"10.0.0.0/8"}, []string{access.FunctionsAudience, access.EventsAudience}, ""
	s.register(bearer, c)
	for _, path := range []string{"/v2/nvcf/functions", "/v2/nvcf/pexec/status/" + uuid.NewString(), "/v1/audit/stream", "/v1/audit/events"} {
		doc := refused(t, do(t, client(t, false), request(t, "GET", s.url+path, nil, "Authorization", auth(bearer))), 403)
		require.Equal(t, problem.CIDRDenied, doc.Code, path)
	}
}
