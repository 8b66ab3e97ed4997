package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
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
