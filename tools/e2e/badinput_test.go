package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const nowhere = "11111111-2222-4333-8444-555555555555"

// TestBadInput sends what clients should not send and asserts that each is refused with a problem document that says
// what is wrong, and where.
func TestBadInput(t *testing.T) {
	p := common(t)
	admin := p.administrator(t)
	v := admin.create("bad-input")
	admin.removeLater(v)
	d := admin.deploy(v, scale{min: 0})
	specification := fmt.Sprintf("/v2/nvcf/deployments/%s/gpu-specifications/%s", d.ID, d.Specifications[0].ID)
	idle := admin.createOf("bad-input-idle", "e2e/bad-input:1")
	admin.removeLater(idle)
	const functions = "/v2/nvcf/functions"

	function := func(change string, value any) asked {
		b := functionBody("bad", "e2e/bad-input:1")
		if value == nil {
			delete(b, change)
		} else {
			b[change] = value
		}
		return body(b)
	}
	health := func(change string, value any) asked {
		h := map[string]any{"protocol": "HTTP", "uri": "/health", "port": 8000, "timeout": "PT2S", "expectedStatusCode": 200}
		if value == nil {
			delete(h, change)
		} else {
			h[change] = value
		}
		return function("health", h)
	}
	deploy := func(change string, value any) asked {
		s := map[string]any{"gpu": "H100", "instanceType": "NCP.GPU.H100_1x", "minInstances": 0, "maxInstances": 1}
		if value == nil {
			delete(s, change)
		} else {
			s[change] = value
		}
		return body(map[string]any{"deploymentSpecifications": []any{s}})
	}
	key := func(change string, value any) asked {
		b := keyBody([]string{"invoke_function"}, everyFunction)
		if value == nil {
			delete(b, change)
		} else {
			b[change] = value
		}
		return func(r *http.Request) { body(b)(r); issuer("bad@e2e.example")(r) }
	}

	cases := []struct {
		name, method, path string
		how                asked
		status             int
		field              string // in a violation, or else in the detail
	}{
		{"name missing", "POST", functions, function("name", nil), 400, "name"},
		{"name of a wrong type", "POST", functions, function("name", 7), 400, "name"},
		{"name with a space", "POST", functions, function("name", "a b"), 400, "name"},
		{"name too long", "POST", functions, function("name", strings.Repeat("a", 129)), 400, "name"},
		{"inferenceUrl missing", "POST", functions, function("inferenceUrl", nil), 400, "inferenceUrl"},
		{"inferenceUrl with a space", "POST", functions, function("inferenceUrl", "/a b"), 400, "inferenceUrl"},
		{"no image, model or chart", "POST", functions, function("containerImage", nil), 400, "containerImage"},
		{"port of a wrong type", "POST", functions, function("inferencePort", "8000"), 400, "inferencePort"},
		{"port out of range", "POST", functions, function("inferencePort", 70000), 400, "inferencePort"},
		{"unknown type", "POST", functions, function("functionType", "MAGIC"), 400, "functionType"},
		{"unknown body format", "POST", functions, function("apiBodyFormat", "XML"), 400, "apiBodyFormat"},
		{"health without uri", "POST", functions, health("uri", nil), 400, "health.uri"},
		{"health with unknown protocol", "POST", functions, health("protocol", "SMTP"), 400, "health.protocol"},
		{"health with a bad duration", "POST", functions, health("timeout", "10 seconds"), 400, "health.timeout"},
		{"health port of a wrong type", "POST", functions, health("port", "x"), 400, "health.port"},
		{"tag with a space", "POST", functions, function("tags", []string{"a b"}), 400, "tags"},
		{"too many tags", "POST", functions, function("tags", many(65)), 400, "tags"},
		{"environment without key", "POST", functions, function("containerEnvironment", []any{map[string]string{"value": "x"}}), 400, "containerEnvironment"},
		{"environment of the platform", "POST", functions, function("containerEnvironment", []any{map[string]string{"key": "NVCF_X", "value": "x"}}), 400, "containerEnvironment"},
		{"secret without value", "POST", functions, function("secrets", []any{map[string]string{"name": "a"}}), 400, "secrets"},
		{"secret twice", "POST", functions, function("secrets", []any{map[string]string{"name": "a", "value": "1"}, map[string]string{"name": "a", "value": "2"}}), 400, "secrets"},
		{"chart and image", "POST", functions, function("helmChart", "oci://example.com/chart:1"), 400, "helmChart"},
		{"description too long", "POST", functions, function("description", strings.Repeat("d", 257)), 400, "description"},
		{"member twice", "POST", functions, text(`{"name":"a","name":"b"}`), 400, "name"},
		{"version of no function", "POST", functions + "/" + nowhere + "/versions", function("x", 1), 404, ""},
		{"version of a bad id", "POST", functions + "/nonsense/versions", function("x", 1), 400, "functionId"},
		{"bad version id", "GET", functions + "/" + v.function + "/versions/nonsense", nil, 400, "versionId"},
		{"unknown version", "GET", functions + "/" + v.function + "/versions/" + nowhere, nil, 404, "Not found"},
		{"bad boolean", "GET", v.path() + "?includeSecrets=maybe", nil, 400, "includeSecrets"},
		{"update of a wrong type", "PUT", v.path(), text(`{"tags":"x"}`), 400, "tags"},
		{"delete of an unknown version", "DELETE", functions + "/" + v.function + "/versions/" + nowhere, nil, 404, "Not found"},

		{"no specification", "POST", idle.deploymentPath(), text(`{"deploymentSpecifications":[]}`), 400, "deploymentSpecifications"},
		{"specifications missing", "POST", idle.deploymentPath(), text(`{}`), 400, "deploymentSpecifications"},
		{"specifications of a wrong type", "POST", idle.deploymentPath(), text(`{"deploymentSpecifications":{}}`), 400, "deploymentSpecifications"},
		{"gpu missing", "POST", idle.deploymentPath(), deploy("gpu", nil), 400, "gpu"},
		{"unknown gpu", "POST", idle.deploymentPath(), deploy("gpu", "Z9000"), 400, "Z9000"},
		{"unknown instance type", "POST", idle.deploymentPath(), deploy("instanceType", "NCP.GPU.Z_1x"), 400, "NCP.GPU.Z_1x"},
		{"unknown cluster", "POST", idle.deploymentPath(), deploy("clusters", []string{"atlantis"}), 400, "atlantis"},
		{"min missing", "POST", idle.deploymentPath(), deploy("minInstances", nil), 400, "minInstances"},
		{"min negative", "POST", idle.deploymentPath(), deploy("minInstances", -1), 400, "minInstances"},
		{"min above max", "POST", idle.deploymentPath(), deploy("minInstances", 5), 400, "minInstances"},
		{"min a fraction", "POST", idle.deploymentPath(), deploy("minInstances", 0.5), 400, "minInstances"},
		{"max zero", "POST", idle.deploymentPath(), deploy("maxInstances", 0), 400, "maxInstances"},
		{"concurrency too large", "POST", idle.deploymentPath(), deploy("maxRequestConcurrency", 16385), 400, "maxRequestConcurrency"},
		{"configuration of a container", "POST", idle.deploymentPath(), deploy("configuration", map[string]any{}), 400, "configuration"},
		{"deploy what is deployed", "POST", v.deploymentPath(), deploy("x", 1), 400, ": Status ACTIVE, use P"},
		{"deploy an unknown version", "POST", version{v.function, nowhere}.deploymentPath(), deploy("x", 1), 404, "Not found"},
		{"deployment of a bad id", "GET", "/v2/nvcf/deployments/functions/x/versions/y", nil, 400, "functionId"},
		{"no deployment", "GET", idle.deploymentPath(), nil, 404, "Deployment not found"},
		{"undeploy what is not", "DELETE", idle.deploymentPath(), nil, 404, "not found"},
		{"undeploy with a bad boolean", "DELETE", v.deploymentPath() + "?graceful=perhaps", nil, 400, "graceful"},
		{"patch nothing", "PATCH", specification, text(`{}`), 400, "minInstances"},
		{"patch above max", "PATCH", specification, text(`{"minInstances":9}`), 400, "minInstances"},
		{"patch of a wrong type", "PATCH", specification, text(`{"minInstances":"two"}`), 400, "minInstances"},
		{"patch of an unknown specification", "PATCH", "/v2/nvcf/deployments/" + d.ID + "/gpu-specifications/" + nowhere, text(`{"minInstances":0}`), 404, ""},
		{"patch of an unknown deployment", "PATCH", "/v2/nvcf/deployments/" + nowhere + "/gpu-specifications/" + nowhere, text(`{"minInstances":0}`), 404, "not found"},
		{"replace with another count", "PUT", v.deploymentPath(), text(`{"deploymentSpecifications":[{"minInstances":0,"maxInstances":1},{"minInstances":0,"maxInstances":1}]}`), 400, "deploymentSpecifications"},

		{"key without owner", "POST", "/v1/keys", body(keyBody(nil, nil)), 400, "Key-Owner-Id"},
		{"key without description", "POST", "/v1/keys", key("description", nil), 400, "description"},
		{"key with a bad description", "POST", "/v1/keys", key("description", "<script>"), 400, "description"},
		{"key without expiry", "POST", "/v1/keys", key("expires_at", nil), 400, "expires_at"},
		{"key with a bad expiry", "POST", "/v1/keys", key("expires_at", "tomorrow"), 400, "expires_at"},
		{"key that has expired", "POST", "/v1/keys", key("expires_at", "2020-01-01T00:00:00Z"), 400, "expires_at"},
		{"key that expires too late", "POST", "/v1/keys", key("expires_at", "2999-01-01T00:00:00Z"), 400, "expires_at"},
		{"key without authorizations", "POST", "/v1/keys", key("authorizations", nil), 400, "authorizations"},
		{"key with bad policies", "POST", "/v1/keys", key("authorizations", map[string]any{"policies": "all"}), 400, "policies"},
		{"key for no audience", "POST", "/v1/keys", key("audience_service_ids", []string{}), 400, "audience_service_ids"},
		{"unknown key", "GET", "/v1/keys/" + nowhere, issuer("bad@e2e.example"), 404, ""},
		{"key of a bad id", "DELETE", "/v1/keys/nonsense", issuer("bad@e2e.example"), 404, ""},
		{"introspect nothing", "POST", "/v1/introspect", text(`{}`), 400, "key"},
		{"introspect nonsense", "POST", "/v1/introspect", text(`{"key":"x","audience_service_id":"y"}`), 400, ""},
		{"unknown service", "GET", "/v1/services/nonsense", nil, 404, ""},

		{"image without reference", "PUT", "/v2/nvcf/images", text(`{"command":["true"]}`), 400, "reference"},
		{"image without command", "PUT", "/v2/nvcf/images", text(`{"reference":"a/b:1"}`), 400, "command"},
		{"image with a command of a wrong type", "PUT", "/v2/nvcf/images", text(`{"reference":"a/b:1","command":"true"}`), 400, "command"},

		{"events since nonsense", "GET", "/v1/audit/events?since=yesterday", nil, 400, "since"},
		{"events with a bad limit", "GET", "/v1/audit/events?limit=all", nil, 400, "limit"},
		{"stream after nonsense", "GET", "/v1/audit/stream?after=x", nil, 400, "after"},
		{"queues of a bad id", "GET", "/v2/nvcf/queues/functions/x", func(r *http.Request) {}, 400, "functionId"},

		{"pexec of a bad id", "POST", "/v2/nvcf/pexec/functions/nonsense", text(`{}`), 400, "functionId"},
		{"pexec of an unknown function", "POST", "/v2/nvcf/pexec/functions/" + nowhere, text(`{}`), 404, "Not found"},

		{"unknown route", "GET", "/v2/nvcf/nonsense", nil, 404, ""},
		{"unknown route of another version", "GET", "/v9/x", nil, 404, ""},
		{"root", "GET", "/", nil, 404, ""},
		{"wrong method", "PATCH", functions, text(`{}`), 405, "PATCH"},
		{"invented method", "BREW", functions, nil, 405, "BREW"},
		{"wrong method of a special route", "DELETE", "/v1/admin/keys", nil, 405, "DELETE"},
		{"traversal", "GET", "/v2/nvcf/functions/../../../etc/passwd", nil, 404, ""},
	}
	invoker, _ := admin.key([]string{"invoke_function", "queue_details"})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			u := admin
			if strings.Contains(c.path, "/pexec/") || strings.Contains(c.path, "/queues/") {
				u = invoker
			}
			u.t = t
			var how []asked
			if c.how != nil {
				how = append(how, c.how)
			}
			problem := u.call(c.method, c.path, how...).refused(c.status)
			var fields []string
			for _, e := range problem.Errors {
				fields = append(fields, e.Field)
				require.NotEmpty(t, e.Rule)
			}
			require.Contains(t, strings.Join(fields, " ")+" "+problem.Detail, c.field)
		})
	}

	// What no endpoint takes.
	for _, route := range []struct{ method, path string }{
		{"POST", functions},
		{"POST", functions + "/" + v.function + "/versions"},
		{"PUT", v.path()},
		{"PUT", "/v2/nvcf/metadata/functions/" + v.function + "/versions/" + v.id},
		{"POST", idle.deploymentPath()},
		{"PUT", v.deploymentPath()},
		{"PATCH", specification},
		{"POST", "/v1/keys"},
		{"POST", "/v1/introspect"},
		{"PUT", "/v2/nvcf/images"},
	} {
		for _, c := range []struct {
			name, body string
			status     int
		}{
			{"nothing", "", 400},
			{"no JSON", "{", 400},
			{"text", "hello", 400},
			{"null", "null", 400},
			{"an array", "[]", 400},
			{"a string", `"{}"`, 400},
			{"two objects", "{}{}", 400},
			{"not UTF-8", "{\"name\":\"\xff\xfe\"}", 400},
			{"a NUL", `{"name":"a\u0000b","description":"a\u0000b"}`, 400},
			{"deep nesting", strings.Repeat(`{"a":`, 500) + "1" + strings.Repeat("}", 500), 400},
			{"a huge number", `{"minInstances":1e400,"inferencePort":1e400,"name":1e400,"key":1e400,"reference":1e400,"tags":1e400,"deploymentSpecifications":1e400}`, 400},
		} {
			t.Run(route.method+" "+route.path+" "+c.name, func(t *testing.T) {
				u := admin
				u.t = t
				a := u.call(route.method, route.path, text(c.body), issuer("bad@e2e.example"))
				a.problem()
				require.Equal(t, c.status, a.status, a)
			})
		}
		t.Run(route.method+" "+route.path+" form", func(t *testing.T) {
			u := admin
			u.t = t
			u.call(route.method, route.path, text("a=b"), issuer("bad@e2e.example"), header("Content-Type", "application/x-www-form-urlencoded")).refused(415)
		})
		t.Run(route.method+" "+route.path+" oversize", func(t *testing.T) {
			u := admin
			u.t = t
			u.call(route.method, route.path, text(`{"name":"`+strings.Repeat("a", 7<<20)+`"}`), issuer("bad@e2e.example")).refused(413)
		})
		t.Run(route.method+" "+route.path+" without credential", func(t *testing.T) {
			if strings.HasPrefix(route.path, "/v1/") {
				return // open on this host (keys §3)
			}
			u := admin.with("")
			u.t = t
			a := u.call(route.method, route.path, text("{}"))
			a.refused(401)
			require.Contains(t, a.header.Get("WWW-Authenticate"), "Bearer")
		})
	}
	require.Equal(t, "INACTIVE", admin.look(idle).Status)
	for _, credential := range []string{"nonsense", "nvapi-nonsense", "nvapi-nvcf-stg-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8smw43ECfcjhx8x1RQoDbg", "a.b.c", strings.Repeat("x", 5000)} {
		a := admin.with(credential).call("GET", functions)
		require.Contains(t, []int{401, 403}, a.status, credential)
		a.problem()
	}
}

// TestBrokenHTTP sends what is no HTTP, and asserts that the door stays open for others.
func TestBrokenHTTP(t *testing.T) {
	p := common(t)
	admin := p.administrator(t)
	for _, raw := range []string{
		"nonsense\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
		"GET / HTTP/1.1\r\n\r\n",
		"POST /v2/nvcf/functions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("y", 2<<20) + "\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: " + nowhere + "." + nowhere + ".invocation.x\r\nContent-Length: 10\r\n\r\nabc",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
		_, _ = conn.Write([]byte(raw)) // the other side may close before it has read all
		_ = conn.(*net.TCPConn).CloseWrite()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil {
			require.GreaterOrEqual(t, resp.StatusCode, 400, "%.60q", raw)
			require.Less(t, resp.StatusCode, 500, "%.60q", raw)
		}
		require.NoError(t, conn.Close())
	}
	require.Equal(t, 200, admin.call("GET", "/v2/nvcf/functions").status)
}

func many(n int) (tags []string) {
	for i := range n {
		tags = append(tags, fmt.Sprintf("tag-%d", i))
	}
	return tags
}
