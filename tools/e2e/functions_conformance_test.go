package e2e

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// member is the object of an answer that holds one, such as {"function":{…}}.
func (a answer) member(name string) map[string]any {
	a.t.Helper()
	var all map[string]any
	a.into(&all)
	found, ok := all[name].(map[string]any)
	require.True(a.t, ok, "no object %s in %s", name, a)
	return found
}

// altered returns a request with other members; nil removes one.
func altered(request map[string]any, changes map[string]any) map[string]any {
	out := maps.Clone(request)
	for name, value := range changes {
		if out[name] = value; value == nil {
			delete(out, name)
		}
	}
	return out
}

// TestEchoOfAFunction asserts that a client which compares what it sent with what it reads finds it unchanged, and finds
// the defaults of functions-deployments §2.4 and §2.5 where it sent nothing, in every answer that shows the function.
func TestEchoOfAFunction(t *testing.T) {
	admin := common(t).administrator(t)
	health := func(protocol, uri string, port int, timeout string) map[string]any {
		return map[string]any{"protocol": protocol, "uri": uri, "port": float64(port), "timeout": timeout, "expectedStatusCode": float64(200)}
	}
	least := map[string]any{"name": "Echo-1_a", "inferenceUrl": "/echo", "containerImage": "e2e/echo:1"}
	model := map[string]any{"name": "m", "llmConfig": map[string]any{"uris": []any{"/v1/chat/completions"}}}
	for _, c := range []struct {
		name    string
		changes map[string]any
		want    map[string]any
	}{
		{"nothing given", nil, map[string]any{
			"status": "INACTIVE", "description": "Echo-1_a", "apiBodyFormat": "CUSTOM", "functionType": "DEFAULT", "inferencePort": nil,
			"healthUri": "/v2/health/ready", "health": health("HTTP", "/v2/health/ready", 8000, "PT10S"), "tags": nil, "secrets": nil, "ncaId": "nvcf-default",
		}},
		{"absent in every spelling", map[string]any{
			"inferencePort": 0, "containerArgs": " ", "containerEnvironment": []any{}, "models": []any{}, "resources": []any{}, "helmChart": "",
			"helmChartServiceName": "", "healthUri": "", "description": "", "tags": []any{}, "secrets": []any{}, "functionType": "", "apiBodyFormat": "",
		}, map[string]any{
			"inferencePort": nil, "containerArgs": nil, "containerEnvironment": nil, "models": nil, "resources": nil, "helmChart": nil, "description": "Echo-1_a",
		}},
		{"gRPC", map[string]any{"inferenceUrl": "/grpc", "inferencePort": 50051}, map[string]any{"health": health("gRPC", "/v2/health/ready", 50051, "PT10S")}},
		{"not quite gRPC", map[string]any{"inferenceUrl": "/grpc/"}, map[string]any{"health": health("HTTP", "/v2/health/ready", 8000, "PT10S")}},
		{"old health", map[string]any{"healthUri": "/h", "inferencePort": 9}, map[string]any{"healthUri": "/h", "health": health("HTTP", "/h", 9, "PT10S")}},
		{"duration as it was sent", map[string]any{"health": health("HTTP", "/h", 1, "PT60S")}, map[string]any{"healthUri": "/h", "health": health("HTTP", "/h", 1, "PT60S")}},
		{"order of tags", map[string]any{"tags": []any{"z", "a", "m:=_-"}}, map[string]any{"tags": []any{"z", "a", "m:=_-"}}},
		{"lower case", map[string]any{"functionType": "streaming", "apiBodyFormat": "predict_v2"}, map[string]any{"functionType": "STREAMING", "apiBodyFormat": "PREDICT_V2"}},
		{"unknown members", map[string]any{"instanceCount": 4, "creationTime": "", "clusters": []any{}, "status": "ACTIVE", "id": "x"}, map[string]any{"status": "INACTIVE"}},
		{"LLM", map[string]any{"functionType": "LLM", "apiBodyFormat": "OPENAI_CHAT", "models": []any{model}}, map[string]any{"apiBodyFormat": "OPENAI_CHAT", "models": []any{model}}},
	} {
		made := admin.must("POST", "/v2/nvcf/functions", nil, body(altered(least, c.changes))).member("function")
		v := version{function: made["id"].(string), id: made["versionId"].(string)}
		admin.removeLater(v)
		read := admin.must("GET", v.path(), nil).member("function")
		require.Equal(t, made, read, c.name)
		for name, want := range c.want {
			if got, present := made[name]; want == nil {
				require.False(t, present, "%s: %s is %v", c.name, name, got)
			} else {
				require.Equal(t, want, got, "%s: %s", c.name, name)
			}
		}
		for _, path := range []string{"/v2/nvcf/functions?name=Echo-1_a", "/v2/nvcf/functions/" + v.function + "/versions"} {
			require.Contains(t, string(admin.must("GET", path, nil).body), v.id, c.name)
		}
	}
}

// TestEdgesOfAFunction asserts each limit of functions-deployments §2.5 and §2.6 at both of its sides.
func TestEdgesOfAFunction(t *testing.T) {
	admin := common(t).administrator(t)
	list := func(n int, element func(int) any) (all []any) {
		for i := range n {
			all = append(all, element(i))
		}
		return all
	}
	tag := func(i int) any { return fmt.Sprintf("t%d", i) }
	secret := func(name string, value any) []any { return []any{map[string]any{"name": name, "value": value}} }
	rate := func(member string, value any) map[string]any {
		return map[string]any{"rateLimit": "1-S", member: value}
	}
	accounts := func(n int) (all map[string]any) {
		all = map[string]any{}
		for i := range n {
			all[fmt.Sprintf("a%d", i)] = "1-S"
		}
		return all
	}
	llm := func(config map[string]any) map[string]any {
		config["uris"] = []any{"/v1/x"}
		return map[string]any{"functionType": "LLM", "models": []any{map[string]any{"name": "m", "llmConfig": config}}}
	}
	one := func(member string, value any) map[string]any { return map[string]any{member: value} }
	for _, c := range []struct {
		field        string
		inside, over map[string]any
	}{
		{"name", one("name", strings.Repeat("n", 128)), one("name", strings.Repeat("n", 129))},
		{"inferencePort", one("inferencePort", 65535), one("inferencePort", 65536)},
		{"description", one("description", strings.Repeat("é", 256)), one("description", strings.Repeat("d", 257))},
		{"tags", one("tags", list(64, tag)), one("tags", list(65, tag))},
		{"tags[0]", one("tags", []any{strings.Repeat("t", 128)}), one("tags", []any{strings.Repeat("t", 129)})},
		{"secrets[0].name", one("secrets", secret(strings.Repeat("s", 48), "v")), one("secrets", secret(strings.Repeat("s", 49), "v"))},
		{"secrets[0].value", one("secrets", secret("s", strings.Repeat("v", 32768)+"  ")), one("secrets", secret("s", strings.Repeat("v", 32769)))},
		{"rateLimit.rateLimit", one("rateLimit", rate("rateLimit", "1-S, 2-M,3-H,4-D")), one("rateLimit", rate("rateLimit", "1-S,2-S"))},
		{"rateLimit.exemptedNcaIds", one("rateLimit", rate("exemptedNcaIds", list(32, tag))), one("rateLimit", rate("exemptedNcaIds", list(33, tag)))},
		{"rateLimit.perNcaIdRate", one("rateLimit", rate("perNcaIdRate", accounts(32))), one("rateLimit", rate("perNcaIdRate", accounts(33)))},
		{"models[0].llmConfig.tokenRateLimit", llm(map[string]any{"tokenRateLimit": "1-S,2-W"}), llm(map[string]any{"tokenRateLimit": "1-W,2-W"})},
		{"models[0].llmConfig.routingMethod", llm(map[string]any{"routingMethod": "Power_Of_Two"}), llm(map[string]any{"routingMethod": "least"})},
	} {
		request := functionBody("edges", "e2e/edges:1")
		admin.removeLater(admin.createFrom(altered(request, c.inside)))
		p := admin.call("POST", "/v2/nvcf/functions", body(altered(request, c.over))).refused(400)
		require.Contains(t, p.Detail, "Validation failed: ", c.field)
		var fields []string
		for _, e := range p.Errors {
			fields = append(fields, e.Field)
		}
		require.Contains(t, fields, c.field, p.Detail)
	}
}

// TestSharingBetweenAccounts asserts with real keys of two accounts what an authorized party may see and do (§2.1, §5).
func TestSharingBetweenAccounts(t *testing.T) {
	p := common(t)
	admin, nobody := p.administrator(t), user{t: t, url: p.URL, dir: p.Dir}
	remember(firstPassword)
	root := nobody.with(nobody.signedIn(passwordGrant(firstAdmin, firstPassword)).AccessToken)
	tenant, neighbour := "/v2/nvcf/accounts/neighbour", keyRef{owner: nextOwner()}
	root.must("POST", tenant, nil, body(map[string]any{"name": "neighbour", "adminClientId": neighbour.owner}))
	t.Cleanup(func() { require.Equal(t, 204, root.call("DELETE", tenant).status) })
	sharer, _ := admin.key([]string{"authorize_clients"})
	scopes := []string{"list_functions", "list_functions_details", "invoke_function", "update_function", "delete_function", "deploy_function", "update_secrets", "register_function"}
	var made struct {
		ID    string `json:"id"`
		Value string `json:"value"`
	}
	nobody.must("POST", "/v1/keys", &made, body(keyBody(scopes, []resource{{"account-functions", "*"}, {"authorized-functions", "*"}})), issuer(neighbour.owner))
	other := nobody.with(remember(made.Value))

	admin.image("e2e/shared:1", healthy)
	v := admin.createFrom(altered(functionBody("shared", "e2e/shared:1"), map[string]any{
		"secrets": []any{map[string]any{"name": "S", "value": remember("the value of a shared function's secret")}}, "tags": []any{"seen"},
		"containerEnvironment": []any{map[string]any{"key": "K", "value": "v"}}, "rateLimit": map[string]any{"rateLimit": "1000-S"},
	}))
	admin.removeLater(v)
	admin.deploy(v, scale{min: 1})
	require.Contains(t, other.call("GET", v.path()).refused(404).Detail, "Not found")
	other.run(v, 0).refused(404)

	parties := "/v2/nvcf/authorizations/functions/" + v.function
	with := func(account string) asked {
		return body(map[string]any{"authorizedParties": []any{map[string]any{"ncaId": account}}})
	}
	party := body(map[string]any{"authorizedParty": map[string]any{"ncaId": "neighbour"}})
	sharer.call("PATCH", parties+"/add", party).refused(404)
	for _, account := range []string{"nvcf-default", "nobody-there", "*"} {
		sharer.call("POST", parties, with(account)).refused(400)
	}
	sharer.must("POST", parties, nil, with("neighbour"))
	sharer.call("PATCH", parties+"/add", party).refused(409)

	shown := other.must("GET", v.path(), nil).member("function")
	require.Equal(t, true, shown["ownedByDifferentAccount"])
	require.Equal(t, []any{"seen"}, shown["tags"])
	for _, hidden := range []string{"inferenceUrl", "inferencePort", "containerImage", "containerArgs", "containerEnvironment", "rateLimit", "secrets", "activeInstances"} {
		require.NotContains(t, shown, hidden)
	}
	ids := func(query string) string { return string(other.must("GET", "/v2/nvcf/functions/ids"+query, nil).body) }
	require.Contains(t, ids(""), v.function)
	require.Contains(t, ids("?visibility=private,AUTHORIZED"), v.function)
	require.NotContains(t, ids("?visibility=private&visibility=public"), v.function)
	soon(t, propagation, "who may see it may invoke it", func() bool { return other.run(v, 0).status == 200 })
	for _, a := range []answer{
		other.call("DELETE", v.path()),
		other.call("PUT", v.path(), body(map[string]any{"tags": []string{"mine"}})),
		other.call("POST", "/v2/nvcf/functions/"+v.function+"/versions", body(functionBody("mine", "e2e/shared:1"))),
		other.call("DELETE", v.deploymentPath()),
		other.call("GET", v.deploymentPath()),
		other.call("PUT", "/v2/nvcf/secrets/functions/"+v.function+"/versions/"+v.id, body(map[string]any{"secrets": []any{map[string]any{"name": "S", "value": "x"}}})),
	} {
		a.refused(404)
	}
	root.call("DELETE", tenant).refused(400) // it is an authorized party

	sharer.must("PATCH", parties+"/remove", nil, party)
	sharer.call("PATCH", parties+"/remove", party).refused(404)
	other.call("GET", v.path()).refused(404)
	soon(t, propagation, "who may no longer see it may no longer invoke it", func() bool { return other.run(v, 0).status == 404 })
}

// TestTrapsOfDeployments asserts the answers that published clients act upon (§1.2, §11.4–§11.8, §13).
func TestTrapsOfDeployments(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("traps")
	admin.removeLater(v)
	alias := func(path string) string {
		return strings.Replace(path, "/v2/nvcf/", "/v2/orgs/corp/teams/vision/nvcf/", 1)
	}

	detail := admin.call("GET", v.deploymentPath()).refused(404).Detail
	require.Contains(t, detail, fmt.Sprintf("Function version '%s': Deployment not found", v.id))
	require.Contains(t, detail, "failed to find function deployment", "what terraform takes for a missing deployment")
	admin.call("DELETE", v.deploymentPath()).refused(404)
	require.Equal(t, "INACTIVE", admin.must("DELETE", alias(v.deploymentPath()), nil).member("function")["status"], "terraform undeploys what is not deployed")
	missing := admin.call("GET", alias(v.path())+"0")
	detail = missing.refused(400).Detail
	require.Equal(t, detail, missing.member("requestStatus")["statusDescription"])

	// What terraform sends for members it does not have.
	specification := map[string]any{
		"gpu": "H100", "instanceType": "NCP.GPU.H100_1x", "minInstances": 0, "maxInstances": 1,
		"backend": "", "configuration": nil, "clusters": nil, "regions": nil, "instanceCount": 1, "preferredOrder": 99,
	}
	made := admin.must("POST", alias(v.deploymentPath()), nil, body(map[string]any{"deploymentSpecifications": []any{specification}})).member("deployment")
	require.Equal(t, "ACTIVE", made["functionStatus"], "a minimum of zero is reached at once")
	stored := made["deploymentSpecifications"].([]any)[0].(map[string]any)
	for _, invented := range []string{"backend", "configuration", "clusters", "regions"} {
		require.NotContains(t, stored, invented)
	}
	detail = admin.call("POST", v.deploymentPath(), scale{min: 1}.request()).refused(400).Detail
	require.Contains(t, detail, ": Status ACTIVE, use PATCH endpoint")

	path := fmt.Sprintf("/v2/nvcf/deployments/%s/gpu-specifications/%s", made["deploymentId"], stored["gpuSpecificationId"])
	admin.call("PATCH", path, body(map[string]any{"minInstances": 2})).refused(400) // against the stored maximum
	admin.call("PATCH", path, body(map[string]any{"gpu": "H100"})).refused(400)
	raised := admin.must("PATCH", path, nil, body(map[string]any{"minInstances": 1, "maxInstances": 2})).member("gpuSpecification")
	require.InEpsilon(t, 1, raised["minInstances"], 0)
	require.Equal(t, "ACTIVE", admin.look(v).Status, "a raised minimum takes nothing away")
	admin.awaitInstances(v, 1, 10*time.Second)
	replacement := func(changes map[string]any) asked {
		return body(map[string]any{"deploymentSpecifications": []any{altered(map[string]any{"minInstances": 1, "maxInstances": 2}, changes)}})
	}
	admin.must("PUT", v.deploymentPath(), nil, replacement(map[string]any{"gpu": "other", "backend": ""}))
	admin.call("PUT", v.deploymentPath(), replacement(map[string]any{"backend": "other"})).refused(400)

	require.Equal(t, 204, admin.call("DELETE", v.path()).status)
	require.Contains(t, admin.call("DELETE", v.path()).refused(404).Detail, "Not found")
	for _, gone := range []string{v.path(), v.deploymentPath(), fmt.Sprintf("/v2/nvcf/deployments/%s", made["deploymentId"])} {
		admin.call("GET", gone).refused(404)
	}
}

// TestChartWithoutKubernetes asserts that a chart is taken and its deployment refused with what to do instead.
func TestChartWithoutKubernetes(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.createFrom(map[string]any{"name": "chart", "inferenceUrl": "/run", "helmChart": "oci://docker.io/corp/chart:1", "helmChartServiceName": "web"})
	admin.removeLater(v)
	detail := admin.call("POST", v.deploymentPath(), scale{min: 1}.request()).refused(400).Detail
	require.Contains(t, detail, "Kubernetes")
	require.Contains(t, detail, "create a version with the containerImage")
}
