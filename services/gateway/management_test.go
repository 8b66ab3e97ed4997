package gateway

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/audit"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// filled is a path of the table of routes with a UUID for every parameter.
func filled(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if strings.HasPrefix(p, "{") {
			parts[i] = uuid.NewString()
		}
	}
	return strings.Join(parts, "/")
}

func takesBody(rt route) bool {
	return rt.method == "POST" || rt.method == "PUT" || rt.method == "PATCH"
}

// scopesOf are all that a row asks for, and one that leads out of the token's account.
func scopesOf(row *access.Row) []access.Scope {
	all := []access.Scope{access.AdminPrefix + "anything"}
	if row != nil {
		for _, way := range row.Ways {
			all = append(all, way.Scopes...)
		}
	}
	return all
}

func TestEveryRoute(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := client(t, false)
	for _, rt := range routes() {
		if rt.endpoint.Subject == "" || rt.face() == consoleFace { // the console has refusals of its own
			continue
		}
		token := auth(s.scoped(t, scopesOf(rt.row)...))
		name := rt.method + " " + rt.path
		send := func(method, path, body string, headers ...string) reply {
			return do(t, c, request(t, method, s.url+path, strings.NewReader(body), append([]string{"Authorization", token}, headers...)...))
		}
		want := rt.status
		got := send(rt.method, filled(rt.path), `{"unknown":{"a":[1,"x",null]}}`, "Content-Type", "application/json")
		require.Equal(t, want, got.StatusCode, "%s: %s", name, got.body)
		require.NoError(t, uuid.Validate(got.Header.Get("Nvcf-Reqid")), name)
		if want == http.StatusNoContent {
			require.Empty(t, got.body)
		} else {
			require.Equal(t, "application/json", got.Header.Get("Content-Type"), name)
			require.True(t, json.Valid([]byte(got.body)), name)
			require.NotContains(t, got.body, ": ", name)
		}
		asked := s.lastAsked(t)
		require.Equal(t, rt.endpoint.Subject, asked.subject, name)
		if accountIn(rt.path) == "" {
			require.Equal(t, access.DefaultAccount, asked.caller.Account, name)
		}
		require.Equal(t, got.Header.Get("Nvcf-Reqid"), asked.caller.RequestID, name)
		require.Equal(t, "127.0.0.1", asked.caller.Address, name)

		if rt.row != nil && !rt.trusted() {
			refused(t, do(t, c, request(t, rt.method, s.url+filled(rt.path), nil)), 401)
			nothing, _ := s.key(nil, allFunctions)
			refused(t, do(t, c, request(t, rt.method, s.url+filled(rt.path), nil, "Authorization", auth(nothing))), 403)
		}
		require.Equal(t, problem.MethodNotAllowed, refused(t, send("BREW", filled(rt.path), ""), 405).Code, name)
		require.Contains(t, send("BREW", filled(rt.path), "").Header.Get("Allow"), rt.method, name)
		for _, parameter := range []string{"{functionId}", "{versionId}", "{deploymentId}", "{gpuSpecificationId}"} {
			if strings.Contains(rt.path, parameter) {
				doc := refused(t, send(rt.method, filled(strings.Replace(rt.path, parameter, "not-a-uuid", 1)), "{}"), 400)
				require.Equal(t, strings.Trim(parameter, "{}"), doc.Violations[0].Field, name)
			}
		}
		if rt.method == "GET" {
			head := send("HEAD", filled(rt.path), "")
			require.Equal(t, http.StatusOK, head.StatusCode, name)
			require.Empty(t, head.body)
		}
		bind := bindingOf(rt.endpoint.Input)
		if !takesBody(rt) || !bind.hasBody {
			continue
		}
		require.Equal(t, problem.UnsupportedMedia, refused(t, send(rt.method, filled(rt.path), "{}", "Content-Type", "text/plain"), 415).Code, name)
		require.Equal(t, problem.TooLarge, refused(t, send(rt.method, filled(rt.path), `{"x":"`+strings.Repeat("x", int(rt.maxBody))+`"}`), 413).Code, name)
		for body, rule := range map[string]string{
			"": "empty", "\n": "empty", "[]": "object", "null": "object", `"x"`: "object", "7": "object", "{": "not valid JSON", `{"a":}`: "not valid JSON",
			`{"a":1}{"b":2}`: "after", `{"a":1,"a":2}`: "twice", `{"a":[{"b":{"c":1,"c":1}}]}`: "twice", "\xff": "not UTF-8",
			`{"a":"x\u0000y"}`: "U+0000", `{"a":["\u0000"]}`: "U+0000", `{"\u0000":1}`: "U+0000",
			`{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`:             "deeper",
			strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100):                   "deeper",
			`{"` + strings.Repeat("k", 1000) + `":1,"` + strings.Repeat("k", 1000) + `":1}`: "twice",
		} {
			if body == "" && bind.optional {
				require.Equal(t, want, send(rt.method, filled(rt.path), body).StatusCode, name)
				continue
			}
			doc := refused(t, send(rt.method, filled(rt.path), body), 400)
			require.Contains(t, doc.Detail, rule, "%s: %q", name, body)
			require.NotEmpty(t, doc.Violations, name)
			require.Less(t, len(doc.Detail), 1000)
		}
	}
}

func TestWrongTypesNameTheField(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := auth(s.token(t, nil))
	function := "/v2/nvcf/functions"
	deployment := "/v2/nvcf/deployments/functions/" + uuid.NewString() + "/versions/" + uuid.NewString()
	for _, tc := range []struct{ path, body, field, rule string }{
		{function, `{"name":7}`, "name", "must be a string, not number"},
		{function, `{"health":{"port":"80"}}`, "health.port", "must be a whole number, not string"},
		{function, `{"inferencePort":80.5}`, "inferencePort", "must be a whole number, not number 80.5"},
		{function, `{"tags":"a"}`, "tags", "must be an array"},
		{function, `{"health":[]}`, "health", "must be an object"},
		{function, `{"rateLimit":{"syncCheck":"yes"}}`, "rateLimit.syncCheck", "must be true or false"},
		{function, `{"models":[{"name":{}}]}`, "models[0].name", "must be a string"},
		{deployment, `{"deploymentSpecifications":[{"gpu":1}]}`, "deploymentSpecifications[0].gpu", "must be a string"},
		{deployment, `{"deploymentSpecifications":[{"minInstances":"1"}]}`, "deploymentSpecifications[0].minInstances", "must be a whole number"},
		{"/v1/keys", `{"description":[]}`, "description", "must be a string"},
	} {
		doc := refused(t, do(t, client(t, false), request(t, "POST", s.url+tc.path, strings.NewReader(tc.body), "Authorization", token)), 400)
		require.Equal(t, tc.field, doc.Violations[0].Field, tc.body)
		require.Contains(t, doc.Violations[0].Rule, tc.rule, tc.body)
		require.Contains(t, doc.Detail, tc.field)
	}
}

func TestPathQueryAndHeaderWinOverTheBody(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := auth(s.token(t, nil))
	c := client(t, false)
	ask := func(method, path, body string, headers ...string) (got map[string]any) {
		r := do(t, c, request(t, method, s.url+path, strings.NewReader(body), append([]string{"Authorization", token}, headers...)...))
		require.Less(t, r.StatusCode, 300, r.body)
		require.NoError(t, json.Unmarshal([]byte(s.lastAsked(t).body), &got))
		return got
	}
	fid, vid := uuid.NewString(), uuid.NewString()
	got := ask("PUT", "/v2/nvcf/functions/"+strings.ToUpper(fid)+"/versions/"+vid, `{"functionId":"other","versionId":"other","description":"d"}`)
	require.Equal(t, []any{fid, vid, "d"}, []any{got["functionId"], got["versionId"], got["description"]})
	got = ask("POST", "/v2/nvcf/functions", `{"functionId":"other","name":"n"}`)
	require.Nil(t, got["functionId"], "a new function's id is not the client's to choose")
	require.Equal(t, "n", got["name"])
	got = ask("POST", "/v1/keys", `{"keyOwnerId":"forged","description":"d"}`, "Key-Issuer-Service", "nvcf-api", "Key-Issuer-Id", "i", "Key-Owner-Id", "o")
	require.Equal(t, []any{"o", "i", "nvcf-api"}, []any{got["keyOwnerId"], got["keyIssuerId"], got["keyIssuerService"]})
	for _, query := range []string{"visibility=private&visibility=public", "visibility=private,public", "visibility=+private+,,public,"} {
		require.Equal(t, []any{"private", "public"}, ask("GET", "/v2/nvcf/functions?"+query, "")["visibility"])
	}
	version := "/v2/nvcf/functions/" + fid + "/versions/" + vid
	for text, want := range map[string]any{"TRUE": true, "on": true, "yes": true, "1": true, "false": false, "Off": false, "no": false, "0": false} {
		require.Equal(t, want, ask("GET", version+"?includeSecrets="+text, "")["includeSecrets"])
	}
	require.Nil(t, ask("GET", version, "")["includeSecrets"])
	for path, field := range map[string]string{version + "?includeSecrets=maybe": "includeSecrets", "/v1/audit/events?limit=many": "limit", "/v1/audit/events?entity=%00": "entity"} {
		require.Equal(t, field, refused(t, do(t, c, request(t, "GET", s.url+path, nil, "Authorization", token)), 400).Violations[0].Field)
	}
	for _, id := range []string{"a%00b", "%ff"} { // nothing has such a name, as it has none that is no UUID
		require.Equal(t, "Key: Not found", refused(t, do(t, c, request(t, "GET", s.url+"/v1/keys/"+id, nil)), 404).Detail)
	}
	latin := request(t, "GET", s.url+"/v1/keys", nil, "Key-Issuer-Id", "i", "Key-Owner-Id", "caf\xe9")
	require.Equal(t, "Key-Owner-Id", refused(t, do(t, c, latin), 400).Violations[0].Field, "two owners must not become one")
	require.InDelta(t, 7, ask("GET", "/v1/audit/events?limit=7&after=9", "")["limit"], 0)
}

func TestAliases(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := client(t, false)
	token := auth(s.token(t, nil))
	for _, prefix := range []string{"/v2/orgs/o/nvcf", "/v2/orgs//nvcf", "/v2/orgs/o/teams/t/nvcf", "/v2/orgs//teams//nvcf"} {
		got := do(t, c, request(t, "GET", s.url+prefix+"/functions", nil, "Authorization", token))
		require.Equal(t, http.StatusOK, got.StatusCode, "%s: %s", prefix, got.body)
		got = do(t, c, request(t, "GET", s.url+prefix+"/functions/x%20/versions/y", nil, "Authorization", token))
		doc := refused(t, got, 400)
		require.NotNil(t, doc.RequestStatus, prefix)
		require.Equal(t, doc.Detail, doc.RequestStatus.StatusDescription)
		require.Equal(t, "BAD_REQUEST", doc.RequestStatus.StatusCode)
		require.Equal(t, doc.RequestID, doc.RequestStatus.RequestID)
		require.Equal(t, prefix+"/functions/x%20/versions/y", doc.Instance, "as the client wrote it")
	}
	require.Nil(t, refused(t, do(t, c, request(t, "GET", s.url+"/v2/nvcf/functions/x/versions/y", nil, "Authorization", token)), 400).RequestStatus)
}

func TestUnknownRoutes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := client(t, false)
	for _, path := range []string{"/", "/nope", "/v1/keys/", "/v1//keys", "/v1/./keys", "/v1/../v1/keys", "/v2/orgs/o", "/v2/orgs/o/nvcf", "/v2/orgs/o/teams/t", "/v1/keys/a/b", "/%2e%2e/v1/keys"} {
		for _, method := range []string{"GET", "POST", "HEAD", "OPTIONS"} {
			r := request(t, method, s.url, nil)
			r.URL.Opaque = path
			got := do(t, c, r)
			require.Equal(t, http.StatusNotFound, got.StatusCode, "%s %s", method, path)
			if method != "HEAD" {
				require.Contains(t, refused(t, got, 404).Detail, "Not found")
			}
		}
	}
	require.Contains(t, refusedAllow(t, do(t, c, request(t, "OPTIONS", s.url+"/v1/keys", nil))), "POST")
	for _, method := range []string{"GET", "HEAD"} {
		require.Equal(t, http.StatusMethodNotAllowed, do(t, c, request(t, method, s.url+"/v1/admin/keys", nil)).StatusCode)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for host, want := range map[string]string{"127.0.0.1:8080": `{"status":"UP"}`, "api.localhost": `{"status":"UP"}`, "invocation.localhost:80": `{"status":"OK"}`} {
		got := do(t, client(t, false), request(t, "GET", s.url+"/health", nil, "Host", host))
		require.Equal(t, http.StatusOK, got.StatusCode)
		require.Equal(t, want, got.body)
	}
	require.Equal(t, "ok\n", do(t, client(t, false), request(t, "GET", s.url+"/livez", nil)).body)
	require.Equal(t, http.StatusOK, do(t, client(t, false), request(t, "GET", s.url+"/readyz?verbose", nil)).StatusCode)
	g, url, _ := s.gateway(t, func(*Config) {})
	g.conn.Close()
	got := do(t, client(t, false), request(t, "GET", url+"/health", nil))
	require.Equal(t, http.StatusServiceUnavailable, got.StatusCode)
	require.JSONEq(t, `{"status":"DOWN"}`, got.body)
}

func TestAdminTokensAreMintedForAdministratorsNetworksOnly(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, body := range []io.Reader{nil, strings.NewReader("{}"), strings.NewReader("not JSON at all")} {
		got := do(t, client(t, false), request(t, "POST", s.url+"/v1/admin/keys", body, "Host", "api-keys.localhost"))
		require.Equal(t, http.StatusOK, got.StatusCode, got.body)
		require.Equal(t, 1, strings.Count(got.body, `"value":"`))
		require.NotContains(t, got.body, ": ")
		var key struct{ Value, Expires string }
		require.NoError(t, json.Unmarshal([]byte(got.body), &key))
		require.Contains(t, got.body, `"expires_at":"`)
		require.Equal(t, http.StatusOK, list(t, s, auth(key.Value)).StatusCode)
	}
	_, url, _ := s.gateway(t, func(c *Config) { c.AdminNetworks = []string{"10.0.0.0/8", "fe80::/10"} })
	for _, path := range []string{"POST /v1/admin/keys", "GET /metrics"} {
		method, path, _ := strings.Cut(path, " ")
		refused(t, do(t, client(t, false), request(t, method, url+path, nil, "X-Forwarded-For", "10.0.0.1", "Forwarded", "for=10.0.0.1")), 403)
	}
	require.True(t, s.gw.fromAdminNetwork(&http.Request{RemoteAddr: "[::ffff:127.0.0.1]:80"}))
	require.False(t, s.gw.fromAdminNetwork(&http.Request{RemoteAddr: "@"}))
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	got := do(t, client(t, false), request(t, "GET", s.url+"/.well-known/openid-configuration", nil, "Host", "api.localhost:8080"))
	require.Equal(t, "application/json", got.Header.Get("Content-Type"))
	var doc map[string]any
	require.NoError(t, json.Unmarshal([]byte(got.body), &doc))
	require.Equal(t, "http://api.nvcf.svc.cluster.local", doc["issuer"])
	require.Equal(t, "http://api.localhost:8080/.well-known/jwks.json", doc["jwks_uri"])
	set := do(t, client(t, false), request(t, "GET", s.url+"/.well-known/jwks.json", nil))
	require.Equal(t, http.StatusOK, set.StatusCode)
	require.Contains(t, set.body, testKid)
	require.NotContains(t, set.body, `"d":`)
}

func TestAServiceThatIsAwayIsA503(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	url := s.url
	s.answers[audit.Verify.Subject()] = func([]byte) any { return map[string]any{"checked": "not a number"} }
	refused(t, do(t, client(t, false), request(t, "POST", url+"/v1/audit/verify", strings.NewReader("{}"), "Authorization", auth(s.token(t, nil)))), 500)
	got := do(t, client(t, false), request(t, "GET", url+"/readyz?verbose", nil))
	require.Equal(t, http.StatusOK, got.StatusCode)
}

func TestTheAuditStreamGoesOn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	asked := make(chan audit.EventsRequest, 16)
	s.mu.Lock()
	s.answers[audit.Events.Subject()] = func(body []byte) any {
		var q audit.EventsRequest
		_ = json.Unmarshal(body, &q)
		select {
		case asked <- q:
		default: // the test has seen enough
		}
		return audit.EventsResponse{Events: []audit.Record{{Sequence: q.After + 1}}, Next: q.After + 1}
	}
	s.mu.Unlock()
	g, url, _ := s.gateway(t, func(*Config) {})
	token := auth(s.token(t, nil))
	refused(t, do(t, client(t, false), request(t, "GET", url+"/v1/audit/stream", nil)), 401)
	refused(t, do(t, client(t, false), request(t, "GET", url+"/v1/audit/stream?after=x", nil, "Authorization", token)), 400)
	require.Equal(t, "text/event-stream", do(t, client(t, false), request(t, "HEAD", url+"/v1/audit/stream", nil, "Authorization", token)).Header.Get("Content-Type"))
	<-asked

	resp, err := client(t, false).Do(request(t, "GET", url+"/v1/audit/stream?after=1&domain=keys", nil, "Last-Event-ID", "40", "Authorization", token))
	require.NoError(t, err)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for want := 41; want < 44; want++ {
		q := <-asked
		require.Equal(t, "keys", q.Domain)
		require.Equal(t, int64(want-1), q.After)
		require.True(t, lines.Scan())
		require.Equal(t, fmt.Sprintf("id: %d", want), lines.Text())
		for lines.Scan() && lines.Text() != "" {
			continue
		}
	}
	stopped := make(chan struct{})
	go func() { stopGateway(t, g); close(stopped) }()
	for lines.Scan() {
		continue
	}
	select {
	case <-stopped:
	case <-time.After(patient):
		require.FailNow(t, "a stream keeps the gateway from stopping")
	}
}

// TestTheAuditStreamEndsWithItsKey: whoever listens loses the stream with the right to it.
func TestTheAuditStreamEndsWithItsKey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bearer, c := s.key([]string{access.AuditRead}, access.Resource{Type: string(access.AllEntity), ID: "*"})
	c.Audiences, c.Policies[0].Audience = []string{access.EventsAudience}, access.EventsAudience
	s.register(bearer, c)
	resp, err := client(t, false).Do(request(t, "GET", s.url+"/v1/audit/stream", nil, "Authorization", auth(bearer)))
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	lines := bufio.NewScanner(resp.Body)
	require.True(t, lines.Scan())
	require.Equal(t, ": waiting", lines.Text())
	s.unregister(bearer)
	announced(t, s, keys.Revoked, keys.Changed{KeyID: c.ID})
	for lines.Scan() { // the ledger of this test answers at once, so that the stream is never silent
		continue
	}
	require.NoError(t, lines.Err(), "it ends as a whole answer does")
}

func TestAnAliasedOrStrangeRequestNeverPanics(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, line := range []string{"CONNECT example:80", "CONNECT " + direct(uuid.NewString()) + ":80", "GET *", "OPTIONS *", "PRI /", "GET http://", "GET /%"} {
		conn := dial(t, s.url)
		_, err := fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", line)
		require.NoError(t, err)
		got := read(t, conn)
		require.NotZero(t, got.StatusCode, line)
	}
	w := httptest.NewRecorder()
	writeProblem(w, &http.Request{URL: request(t, "GET", "/x", nil).URL}, "id", problem.New(problem.Internal, "x"))
	require.Equal(t, 500, w.Code)
}
