package e2e

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// propagation is how long a change of a key may take to hold everywhere.
const propagation = time.Second

// TestDeletedKey asserts that a deleted key opens nothing a second later.
func TestDeletedKey(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("deleted-key")
	admin.removeLater(v)
	admin.deploy(v, scale{min: 1})
	holder, ref := admin.key([]string{"invoke_function", "list_functions"})
	other := admin.caller()
	holder.runs(v, 0)
	require.Equal(t, 200, holder.call("GET", "/v2/nvcf/functions").status)

	admin.revoke(ref)
	deleted := time.Now()
	soon(t, propagation, "the deleted key is refused", func() bool { return holder.run(v, 0).status != 200 })
	t.Logf("refused after %s", time.Since(deleted).Round(time.Millisecond))
	holder.run(v, 0).refused(401)
	holder.call("POST", "/v2/nvcf/pexec/functions/"+v.function, body(run{})).refused(401)
	generic := holder.call("GET", "/v2/nvcf/functions").refused(403)
	require.Empty(t, generic.RequiredScopes, "a dead key is told nothing")
	admin.with("").call("DELETE", "/v1/keys/"+ref.id, issuer(ref.owner)).refused(404)
	other.runs(v, 0)
}

// TestUndeployedVersion asserts that an undeployed version is not invocable a second later.
func TestUndeployedVersion(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("undeployed")
	admin.removeLater(v)
	admin.deploy(v, scale{min: 1})
	caller := admin.caller()
	caller.runs(v, 0)
	admin.must("DELETE", v.deploymentPath(), nil)
	soon(t, propagation, "the undeployed version is refused", func() bool { return caller.run(v, 0).status == 404 })
	caller.run(v, 0).refused(404)
}

// TestRefusals asserts that every 403 names what is missing, and that nothing happens because of it.
func TestRefusals(t *testing.T) {
	admin := common(t).administrator(t)
	one, two := admin.create("refusal-one"), admin.create("refusal-two")
	admin.removeLater(one)
	admin.removeLater(two)
	deployment := scale{min: 0}.request()

	registrar, _ := admin.key([]string{"register_function"})
	p := registrar.call("POST", one.deploymentPath(), deployment).refused(403)
	require.Equal(t, "scope_missing", p.Code)
	require.ElementsMatch(t, []string{"deploy_function", "list_functions"}, p.RequiredScopes)

	for _, half := range [][]string{{"deploy_function"}, {"list_functions"}, {"deploy_function", "list_functions_details"}} {
		u, _ := admin.key(half)
		p = u.call("POST", one.deploymentPath(), deployment).refused(403)
		require.Equal(t, "scope_missing", p.Code, half)
	}

	narrow, _ := admin.key([]string{"register_function"}, resource{"function", one.function + "/*"})
	p = narrow.call("POST", "/v2/nvcf/functions", body(functionBody("narrow", "e2e/refusal-one:1"))).refused(403)
	require.Equal(t, "resource_type_incompatible", p.Code)
	require.Contains(t, strings.Join(p.RequiredResourceTypes, " "), "account-functions")

	everything, _ := admin.key([]string{"invoke_function"}, resource{"*", "*"})
	p = everything.run(one, 0).refused(403)
	require.Equal(t, "resource_type_incompatible", p.Code, "all entities is not all functions (keys §7.5 rule 8)")

	require.Equal(t, "INACTIVE", admin.look(one).Status, "nothing was deployed by those who may not")
	admin.call("GET", one.deploymentPath()).refused(404)

	deployer, _ := admin.key([]string{"deploy_function", "list_functions"}, resource{"function", one.function + "/*"})
	p = deployer.call("POST", two.deploymentPath(), deployment).refused(403)
	require.Equal(t, "resource_not_covered", p.Code)
	require.Equal(t, 200, deployer.call("POST", one.deploymentPath(), deployment).status)
	require.Equal(t, 200, deployer.call("DELETE", one.deploymentPath()).status)
}

// TestNarrowKeys asserts that a key for one function or version reaches no other, and that lists are cut to it.
func TestNarrowKeys(t *testing.T) {
	admin := common(t).administrator(t)
	one, two := admin.create("narrow-one"), admin.create("narrow-two")
	var made struct {
		Function details `json:"function"`
	}
	admin.must("POST", "/v2/nvcf/functions/"+one.function+"/versions", &made, body(functionBody("narrow-one", "e2e/narrow-one:1")))
	second := version{function: one.function, id: made.Function.VersionID}
	for _, v := range []version{one, two, second} {
		admin.removeLater(v)
		admin.deploy(v, scale{min: 1})
	}
	scopes := []string{"invoke_function", "list_functions", "delete_function", "update_function"}
	ids := func(u user) (got []string) {
		var list struct {
			IDs []string `json:"functionIds"`
		}
		u.must("GET", "/v2/nvcf/functions/ids", &list)
		return list.IDs
	}
	versions := func(u user, path string) (got []string) {
		var list struct {
			Functions []details `json:"functions"`
		}
		u.must("GET", path, &list)
		for _, f := range list.Functions {
			got = append(got, f.VersionID)
		}
		return got
	}

	u, _ := admin.key(scopes, resource{"function", one.function + "/*"})
	u.runs(one, 0)
	require.Equal(t, []string{one.function}, ids(u))
	require.ElementsMatch(t, []string{one.id, second.id}, versions(u, "/v2/nvcf/functions"))
	for _, a := range []answer{
		u.run(two, 0),
		u.call("POST", "/v2/nvcf/pexec/functions/"+two.function, body(run{})),
		u.call("GET", two.path()),
		u.call("GET", "/v2/nvcf/functions/"+two.function+"/versions"),
		u.call("PUT", two.path(), body(map[string]any{"tags": []string{"mine"}})),
		u.call("DELETE", two.path()),
	} {
		require.Equal(t, "resource_not_covered", a.refused(403).Code, a)
	}
	u.call("GET", "/v2/nvcf/functions/11111111-2222-4333-8444-555555555555/versions/11111111-2222-4333-8444-555555555555").refused(404)
	require.Equal(t, "ACTIVE", admin.look(two).Status, "nothing happened to the other function")

	// A key for one version runs only that one, also when it calls without naming it (keys §7.5 rule 10).
	narrow, _ := admin.key(scopes, resource{"function", second.function + "/" + second.id})
	require.Equal(t, []string{second.id}, versions(narrow, "/v2/nvcf/functions/"+second.function+"/versions"))
	pid := admin.dirInstances(second)
	for range 5 {
		require.Contains(t, pid, narrow.runs(second, 0).PID)
	}
	narrow.call("POST", "/run", host(one.id+"."+one.function+".invocation.localhost"), body(run{})).refused(403)
}

func (u user) dirInstances(v version) []int { return sortedValues(instancesOf(u.dir, v.id)) }

// TestSecrets asserts that a secret's value reaches the instance and nobody else.
func TestSecrets(t *testing.T) {
	p := common(t)
	admin := p.administrator(t)
	value := remember("s3cr3t-e2e-value-that-nobody-may-read")
	admin.image("e2e/secrets:1", healthy)
	request := functionBody("secrets", "e2e/secrets:1")
	request["secrets"] = []any{map[string]any{"name": "API_TOKEN", "value": value}}
	v := admin.createFrom(request)
	admin.removeLater(v)
	admin.deploy(v, scale{min: 1})
	require.Equal(t, map[string]any{"API_TOKEN": value}, admin.caller().report(v).Secrets)

	require.Equal(t, []string{"API_TOKEN"}, admin.look(v).Secrets, "administrators see names")
	for _, path := range []string{v.path(), v.deploymentPath(), "/v2/nvcf/functions", "/v2/nvcf/deployments", "/v1/audit/events?entity=" + v.function} {
		require.NotContains(t, string(admin.call("GET", path).body), value, path)
	}
	for _, proc := range scan(p.Dir) {
		for name, v := range proc.environment {
			require.NotContains(t, v, value, "%s of %s", name, proc.line)
		}
	}
}

// TestSecretsOfARunningInstance asserts that what changes while an instance runs is what it reads next, with no restart.
func TestSecretsOfARunningInstance(t *testing.T) {
	admin := common(t).administrator(t)
	one := func(name string, value any) map[string]any { return map[string]any{"name": name, "value": value} }
	var made struct {
		Telemetry struct{ TelemetryID string }
	}
	admin.must("POST", "/v2/nvcf/telemetries", &made, body(map[string]any{
		"endpoint": "https://otlp.example.net", "protocol": "HTTP", "provider": "OTEL_COLLECTOR", "types": []string{"TRACES"},
		"secret": one("e2e-sink", remember("s3cr3t-of-a-sink-1")),
	}))
	telemetry := "/v2/nvcf/telemetries/" + made.Telemetry.TelemetryID
	t.Cleanup(func() { admin.call("DELETE", telemetry) })
	admin.image("e2e/rotating:1", healthy)
	request := functionBody("rotating", "e2e/rotating:1")
	request["secrets"] = []any{one("KEPT", remember("s3cr3t-kept")), one("TURNED", remember("s3cr3t-old")), one("DROPPED", remember("s3cr3t-dropped")), one("GONE", remember("s3cr3t-gone"))}
	request["telemetries"] = map[string]string{"tracesTelemetryId": made.Telemetry.TelemetryID}
	v := admin.createFrom(request)
	admin.removeLater(v)
	admin.deploy(v, scale{min: 1})
	caller := admin.caller()
	before := caller.report(v)
	require.Equal(t, map[string]any{"KEPT": "s3cr3t-kept", "TURNED": "s3cr3t-old", "DROPPED": "s3cr3t-dropped", "GONE": "s3cr3t-gone"}, before.Secrets)
	require.Equal(t, map[string]any{"e2e-sink": "s3cr3t-of-a-sink-1"}, before.Accounts)
	require.Equal(t, "https://otlp.example.net", before.Exporter)

	secrets := "/v2/nvcf/secrets/functions/" + v.function + "/versions/" + v.id
	admin.must("PUT", secrets, nil, body(map[string]any{"secrets": []any{one("TURNED", map[string]any{"user": "u", "password": remember("s3cr3t-new")}), one("DROPPED", nil)}}))
	admin.must("DELETE", secrets+"/GONE", nil)
	admin.must("PUT", "/v2/nvcf/secrets/telemetries/"+made.Telemetry.TelemetryID, nil, body(map[string]any{"secret": one("e2e-sink", remember("s3cr3t-of-a-sink-2"))}))
	want := map[string]any{"KEPT": "s3cr3t-kept", "TURNED": map[string]any{"user": "u", "password": "s3cr3t-new"}}
	var after report
	soon(t, patience, "the instance reads the new secrets", func() bool {
		after = caller.report(v)
		return reflect.DeepEqual(want, after.Secrets) && after.Accounts["e2e-sink"] == "s3cr3t-of-a-sink-2"
	}, func() string { return fmt.Sprint(after.Secrets, after.Accounts) })
	require.Equal(t, before.PID, after.PID, "the instance was not restarted")

	var listed struct {
		Secrets []struct {
			Name          string
			LastUpdatedAt time.Time
		}
	}
	admin.must("GET", secrets, &listed)
	require.Len(t, listed.Secrets, 2)
	require.Equal(t, []string{"KEPT", "TURNED"}, []string{listed.Secrets[0].Name, listed.Secrets[1].Name})
	require.True(t, listed.Secrets[1].LastUpdatedAt.After(listed.Secrets[0].LastUpdatedAt))
	require.Contains(t, admin.call("DELETE", secrets+"/GONE").refused(404).Detail, "Not found")
	require.Contains(t, admin.call("DELETE", telemetry).refused(400).Detail, v.id, "it is in use")
}

// TestContainerHeaders asserts what a function sees of its caller, and what a caller cannot forge.
func TestContainerHeaders(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("headers")
	admin.removeLater(v)
	admin.deploy(v, scale{min: 1})
	caller := admin.caller()
	a := caller.call("PATCH", "/report?a=%2F&b", v.host(), header("NVCF-SUB", "forged"), header("nvcf-function-id", "forged"), header("X-Mine", "kept"))
	var r report
	a.into(&r)
	require.Equal(t, "PATCH", r.Method)
	require.Equal(t, "/report?a=%2F&b", r.URI)
	require.Equal(t, "kept", r.Header.Get("X-Mine"))
	require.Empty(t, r.Header.Get("Authorization"), "a function never sees the credential")
	require.Equal(t, []string{v.function}, r.Header.Values("NVCF-FUNCTION-ID"))
	require.Equal(t, []string{v.id}, r.Header.Values("NVCF-FUNCTION-VERSION-ID"))
	require.Equal(t, []string{"nvcf-default"}, r.Header.Values("NVCF-NCAID"))
	require.Equal(t, []string{a.header.Get("NVCF-REQID")}, r.Header.Values("NVCF-REQID"))
	require.NotEqual(t, "forged", r.Header.Get("NVCF-SUB"))

	for _, code := range []string{"201", "302", "404", "418", "503"} {
		a := caller.call("GET", "/status/"+code, v.host())
		require.Equal(t, "container says "+code, string(a.body), "direct calls pass %s through", code)
		require.NotEqual(t, "forged", a.header.Get("NVCF-REQID"))
		want := "errored"
		if code < "400" {
			want = "fulfilled"
		}
		require.Equal(t, want, a.header.Get("NVCF-STATUS"), code)
	}
	p := caller.call("POST", "/v2/nvcf/pexec/functions/"+v.function, text(`{"ms":"soon"}`)).refused(400)
	require.Contains(t, p.Type, "urn:inference-service:problem-details:")
}
