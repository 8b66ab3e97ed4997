package e2e

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
)

// madeKey is what the API Keys service says of a key.
type madeKey struct {
	ID             string          `json:"id"`
	Value          string          `json:"value"`
	Status         string          `json:"status"`
	ExpiresAt      time.Time       `json:"expires_at"`
	RotatedFrom    string          `json:"rotated_from"`
	Authorizations json.RawMessage `json:"authorizations"`
}

// anonymous asks the keys host as the published recipes do, without a credential.
func anonymous(t *testing.T) user { return common(t).administrator(t).with("") }

// newKey makes a key of an owner; change edits the request first.
func (u user) newKey(owner string, change func(map[string]any), how ...asked) answer {
	u.t.Helper()
	request := keyBody([]string{"list_functions"}, everyFunction)
	if change != nil {
		change(request)
	}
	return u.call("POST", "/v1/keys", append([]asked{body(request), issuer(owner)}, how...)...)
}

func (a answer) key() (k madeKey) {
	a.t.Helper()
	require.Equal(a.t, 200, a.status, a)
	a.into(&k)
	remember(k.Value)
	return k
}

func ownedBy(owner, service string) asked {
	return func(r *http.Request) {
		r.Header.Set("Key-Owner-Id", owner)
		r.Header.Set("Key-Issuer-Id", service)
	}
}

// listsWith is how the functions API answers the holder of a key.
func (u user) listsWith(key string) int { return u.with(key).call("GET", "/v2/nvcf/functions").status }

// TestRecipeOfTheAdministrator is the published recipe: whatever the body, the token is cut out of the text of the answer.
func TestRecipeOfTheAdministrator(t *testing.T) {
	u := anonymous(t)
	for name, how := range map[string][]asked{
		"no body": nil, "an empty object": {text("{}")}, "no JSON": {text("[1")}, "an empty bearer": {header("Authorization", "Bearer ")},
		"a port": {host("api-keys.gw.example:8080")}, "capitals": {host("API-KEYS.gw.example")}, "another bearer": {header("Authorization", "Bearer x.y.z")},
	} {
		a := u.call("POST", "/v1/admin/keys", how...)
		require.Equal(t, 200, a.status, name)
		require.Equal(t, 1, strings.Count(string(a.body), `"value":"`), name)
		token := remember(regexp.MustCompile(`"value":"([^"]*)"`).FindStringSubmatch(string(a.body))[1])
		require.Less(t, len(token), 1024)
		payload, err := base64.RawStdEncoding.DecodeString(strings.Split(token, ".")[1])
		require.NoError(t, err, "a published client decodes with the standard alphabet")
		var claims struct {
			Issued  int64    `json:"iat"`
			Expires int64    `json:"exp"`
			Scopes  []string `json:"scopes"`
		}
		require.NoError(t, json.Unmarshal(payload, &claims))
		require.Equal(t, int64(12*time.Hour/time.Second), claims.Expires-claims.Issued)
		require.Len(t, claims.Scopes, 10)
	}
	alive := u.call("GET", "/healthz", host("api-keys.gw.example"))
	require.Equal(t, "200 OK", alive.String())
	for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		a := u.call(method, "/v1/admin/keys", host("api-keys.gw.example"))
		require.Equal(t, 405, a.status, method)
		require.Equal(t, "POST", a.header.Get("Allow"), method)
	}
}

// TestForgedTokens asserts that no token but the platform's own is taken, on every host.
func TestForgedTokens(t *testing.T) {
	admin := common(t).administrator(t)
	parts := strings.Split(admin.credential, ".")
	encode := func(v any) string {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	var head, claims map[string]any
	for i, into := range []*map[string]any{&head, &claims} {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, into))
	}
	with := func(m map[string]any, name string, value any) map[string]any {
		c := map[string]any{name: value}
		for k, v := range m {
			if k != name {
				c[k] = v
			}
		}
		return c
	}
	for name, forged := range map[string]string{
		"no signature":      parts[0] + "." + parts[1] + ".",
		"no algorithm":      encode(with(head, "alg", "none")) + "." + parts[1] + ".",
		"algorithm of MACs": encode(with(head, "alg", "HS256")) + "." + parts[1] + "." + parts[2],
		"another key":       encode(with(head, "kid", strings.Repeat("A", 27))) + "." + parts[1] + "." + parts[2],
		"more scopes":       parts[0] + "." + encode(with(claims, "scopes", []string{"account_setup"})) + "." + parts[2],
		"longer life":       parts[0] + "." + encode(with(claims, "exp", 4102444800)) + "." + parts[2],
		"another issuer":    parts[0] + "." + encode(with(claims, "iss", "http://elsewhere")) + "." + parts[2],
		"another audience":  parts[0] + "." + encode(with(claims, "aud", []string{"s:other"})) + "." + parts[2],
		"four parts":        admin.credential + ".x",
		"two parts":         parts[0] + "." + parts[1],
		"a word":            "nonsense",
		"a long word":       strings.Repeat("a", 9000),
	} {
		a := admin.with(forged).call("GET", "/v2/nvcf/functions", host("api.gw.example"))
		require.Equal(t, 401, a.status, name)
		require.True(t, strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer"), name)
		require.NotContains(t, string(a.body), forged, name)
	}
	for _, scheme := range []string{"bearer", "BEARER"} {
		require.Equal(t, 200, admin.with("").call("GET", "/v2/nvcf/functions", header("Authorization", scheme+" "+admin.credential)).status, scheme)
	}
}

// TestKeyRequests holds the creation of a key against each of its rules (keys §4.1); nothing is made by a refused one.
func TestKeyRequests(t *testing.T) {
	u := anonymous(t)
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
	sized := func(n int) map[string]any {
		empty := len(`{"p":""}`)
		return map[string]any{"p": strings.Repeat("x", n-empty)}
	}
	refused := nextOwner()
	for i, c := range []struct {
		member string
		value  any
		status int
	}{
		{"description", nil, 400},
		{"description", "", 400},
		{"description", strings.Repeat("a", 65), 400},
		{"description", strings.Repeat("a", 64), 200},
		{"description", "a.b", 400},
		{"description", "größe", 400},
		{"expires_at", nil, 400},
		{"expires_at", "", 400},
		{"expires_at", "2031-05-02", 400},
		{"expires_at", in(-time.Minute), 400},
		{"expires_at", in(366 * 24 * time.Hour), 400},
		{"expires_at", in(364 * 24 * time.Hour), 200},
		{"expires_at", strings.TrimSuffix(in(time.Hour), "Z") + ".000Z", 200},
		{"audience_service_ids", []string{}, 400},
		{"audience_service_ids", []string{access.TasksAudience}, 400},
		{"audience_service_ids", "x", 400},
		{"audience_service_ids", nil, 200},
		{"authorizations", nil, 400},
		{"authorizations", map[string]any{"policies": 1}, 400},
		{"authorizations", map[string]any{"policies": []any{map[string]any{"scopes": "all"}}}, 400},
		{"authorizations", map[string]any{"policies": []any{map[string]any{"resources": []string{"*"}}}}, 400},
		{"authorizations", sized(2048), 200},
		{"authorizations", sized(2049), 400},
	} {
		owner := refused
		if c.status == 200 {
			owner = nextOwner()
		}
		a := u.newKey(owner, func(m map[string]any) { m[c.member] = c.value })
		require.Equal(t, c.status, a.status, "%d: %s %.80v: %s", i, c.member, c.value, a)
		if c.status == 200 {
			a.key()
		}
	}
	require.JSONEq(t, `{"keys":[]}`, string(u.call("GET", "/v1/keys", issuer(refused)).body))
	require.Equal(t, 413, u.newKey(refused, func(m map[string]any) { m["more"] = strings.Repeat("x", 4<<10) }).status)
	for _, how := range []asked{ownedBy("", access.FunctionsAudience), ownedBy(" ", access.FunctionsAudience), ownedBy(refused, ""), ownedBy(refused, "unknown")} {
		for method, path := range map[string]string{"GET": "/v1/keys", "DELETE": "/v1/keys/" + uuid.NewString()} {
			u.call(method, path, how).refused(400)
		}
	}
}

// TestNinthKey asserts the limit, what counts, and that a race does not pass it.
func TestNinthKey(t *testing.T) {
	u := anonymous(t)
	owner := nextOwner()
	answers := make([]<-chan result, 16)
	for i := range answers {
		answers[i] = u.later("POST", "/v1/keys", body(keyBody([]string{"list_functions"}, everyFunction)), issuer(owner))
	}
	codes := make([]int, len(answers))
	for i, c := range answers {
		codes[i] = take(t, c, time.Minute).status()
	}
	list := func() (keys []madeKey) {
		var all struct{ Keys []madeKey }
		u.must("GET", "/v1/keys", &all, issuer(owner))
		return all.Keys
	}
	made := 0
	for _, code := range codes {
		require.Contains(t, []int{200, 400, 429}, code)
		if code == 200 {
			made++
		}
	}
	require.Len(t, list(), made)
	for ; made < 8; made++ {
		u.newKey(owner, nil).key()
	}
	u.newKey(owner, nil).refused(400)
	rotated := u.call("POST", "/v1/keys/"+list()[0].ID+"/rotate", text(`{"grace_seconds":60}`), issuer(owner)).key()
	require.NotEmpty(t, rotated.RotatedFrom, "a rotation needs no free slot")
	u.call("POST", "/v1/keys/"+rotated.RotatedFrom+"/rotate", text(`{}`), issuer(owner)).refused(409)
	u.newKey(owner, nil).refused(400)
	require.Equal(t, 204, u.call("DELETE", "/v1/keys/"+rotated.ID, issuer(owner)).status)
	u.newKey(owner, nil).key()
	require.Equal(t, 200, u.newKey(nextOwner(), nil).status, "another owner has a limit of its own")
}

// TestIntrospection asserts which keys are malformed and which are not known, and that evaluations never fail because
// of a key (keys §4.8 and §4.9).
func TestIntrospection(t *testing.T) {
	u := anonymous(t)
	owner := nextOwner()
	k := u.newKey(owner, nil).key()
	introspect := func(key, audience string) int {
		a := u.call("POST", "/v1/introspect", body(map[string]string{"key": key, "audience_service_id": audience}))
		require.NotContains(t, string(a.body), k.Value)
		return a.status
	}
	evaluate := func(namespace, rule, key string) answer {
		return u.call("POST", "/v1/namespaces/"+namespace+"/evaluations/"+rule, body(map[string]any{"input": map[string]string{"apiKey": key}}))
	}
	allowed := func(a answer) bool {
		require.Equal(t, 200, a.status, a)
		var e struct {
			Result struct{ Allowed bool }
		}
		a.into(&e)
		return e.Result.Allowed
	}
	require.Equal(t, 200, introspect(k.Value, access.FunctionsAudience))
	require.Equal(t, 400, introspect(k.Value, access.TasksAudience))
	require.True(t, allowed(evaluate("nvcf", "apikey.allow", k.Value)))
	require.False(t, allowed(evaluate("nvct", "apikey.allow", k.Value)))
	for i := strings.LastIndex(k.Value[:len(k.Value)-64], "-") + 1; i < len(k.Value); i += 9 {
		flipped := k.Value[:i] + map[bool]string{true: "B", false: "A"}[k.Value[i] == 'A'] + k.Value[i+1:]
		require.Equal(t, 400, introspect(flipped, access.FunctionsAudience), i)
		require.False(t, allowed(evaluate("nvcf", "apikey.allow", flipped)))
	}
	evaluate("nvcf", "apikey.deny", k.Value).refused(400)
	evaluate("elsewhere", "apikey.allow", k.Value).refused(400)
	u.call("POST", "/v1/namespaces/nvcf/evaluations/apikey.allow", text(`{"input":{}}`)).refused(400)

	u.call("DELETE", "/v1/keys/"+k.ID, ownedBy(owner, access.TasksAudience)).refused(404)
	require.Equal(t, 204, u.call("DELETE", "/v1/keys/"+k.ID, issuer(owner)).status)
	u.call("DELETE", "/v1/keys/"+k.ID, issuer(owner)).refused(404)
	u.call("DELETE", "/v1/keys/no-uuid", issuer(owner)).refused(404)
	require.Equal(t, 404, introspect(k.Value, access.FunctionsAudience))
	require.False(t, allowed(evaluate("nvcf", "apikey.allow", k.Value)))
}

// TestPolicies asserts which policies of a key count, and that a scope never borrows the resources of another policy.
func TestPolicies(t *testing.T) {
	u := anonymous(t)
	all := []resource{{"account-functions", "*"}}
	policy := func(aud string, more map[string]any, resources []resource, scopes ...string) map[string]any {
		p := map[string]any{"scopes": scopes, "resources": resources}
		if aud != "" {
			p["aud"] = aud
		}
		maps.Copy(p, more)
		return p
	}
	for name, c := range map[string]struct {
		policies []any
		status   int
	}{
		"aud":                       {[]any{policy(access.FunctionsAudience, nil, all, "list_functions")}, 200},
		"auds":                      {[]any{policy("other", map[string]any{"auds": []string{"x", access.FunctionsAudience}}, all, "list_functions")}, 200},
		"product alone":             {[]any{policy("", map[string]any{"product": "nv-cloud-functions"}, all, "list_functions")}, 200},
		"another product":           {[]any{policy("", map[string]any{"product": "nv-cloud-tasks"}, all, "list_functions")}, 403},
		"another aud":               {[]any{policy(access.TasksAudience, map[string]any{"product": "nv-cloud-functions"}, all, "list_functions")}, 403},
		"the second":                {[]any{policy("other", nil, all, "x"), policy(access.FunctionsAudience, nil, all, "list_functions")}, 200},
		"resources of another":      {[]any{policy(access.FunctionsAudience, nil, nil, "list_functions"), policy(access.FunctionsAudience, nil, all, "queue_details")}, 403},
		"no policy":                 {[]any{}, 403},
		"admin scope in a key":      {[]any{policy(access.FunctionsAudience, nil, all, "admin:list_functions")}, 403},
		"all entities":              {[]any{policy(access.FunctionsAudience, nil, []resource{{"*", "*"}}, "list_functions")}, 200},
		"an entry that is no entry": {[]any{policy(access.FunctionsAudience, nil, []resource{{"function", "*"}, {"function", uuid.NewString()}, {"account-functions", "x"}, {"*", "x"}, {"functions", "*"}}, "list_functions")}, 403},
	} {
		k := u.newKey(nextOwner(), func(m map[string]any) { m["authorizations"] = map[string]any{"policies": c.policies} }).key()
		require.Equal(t, c.status, u.listsWith(k.Value), name)
	}
}

// TestSuspendedOwner asserts that everything of a suspended owner stops, and comes back unchanged (keys §4.11).
func TestSuspendedOwner(t *testing.T) {
	u := anonymous(t)
	owner := nextOwner()
	k := u.newKey(owner, nil).key()
	require.Equal(t, 200, u.listsWith(k.Value))
	set := func(status string) answer {
		return u.call("PUT", "/v1/admin/users/"+owner+"/status", body(map[string]string{"status": status}))
	}
	require.Equal(t, 200, set("SUSPENDED").status)
	for _, request := range []struct{ method, path, body string }{
		{"POST", "/v1/keys", `{}`},
		{"GET", "/v1/keys", ""},
		{"GET", "/v1/keys/" + k.ID, ""},
		{"DELETE", "/v1/keys/" + k.ID, ""},
		{"PATCH", "/v1/keys/" + k.ID, `{"description":"x"}`},
		{"POST", "/v1/keys/" + k.ID + "/rotate", `{}`},
		{"PUT", "/v1/keys/" + k.ID + "/authorizations", `{"authorizations":{}}`},
	} {
		how := []asked{issuer(owner)}
		if request.body != "" {
			how = append(how, text(request.body))
		}
		u.call(request.method, request.path, how...).refused(403)
	}
	introspection := body(map[string]string{"key": k.Value, "audience_service_id": access.FunctionsAudience})
	u.call("POST", "/v1/introspect", introspection).refused(404)
	soon(t, propagation, "keys of a suspended owner are refused", func() bool { return u.listsWith(k.Value) == 403 })
	require.Equal(t, 200, u.call("GET", "/v1/admin/users/"+owner+"/keys").status)
	require.Equal(t, 200, u.call("POST", "/v1/admin/lookup", body(map[string]string{"key": k.Value})).status)
	set("GONE").refused(400)
	require.Equal(t, 200, set("ACTIVE").status)
	soon(t, propagation, "they come back", func() bool { return u.listsWith(k.Value) == 200 })
	require.Equal(t, 200, u.call("POST", "/v1/introspect", introspection).status)
	require.Equal(t, 204, u.call("DELETE", "/v1/admin/users/"+owner+"/keys").status)
	soon(t, propagation, "deleted keys are refused", func() bool { return u.listsWith(k.Value) == 403 })
}

// TestNothingOfWhatIsNotCovered asserts that a key learns of a function of its account that it does not cover only that
// it may not, deployed or not, and that what does not exist is not found for it (keys §7.5 rule 3, §14 rulings 2 and 4).
func TestNothingOfWhatIsNotCovered(t *testing.T) {
	admin := common(t).administrator(t)
	mine, other := admin.create("covered"), admin.create("not-covered")
	admin.removeLater(mine)
	admin.removeLater(other)
	holder, _ := admin.key([]string{"deploy_function", "list_functions", "invoke_function", "queue_details"}, resource{"function", mine.function + "/*"})
	absent := version{function: uuid.NewString(), id: uuid.NewString()}
	deployment := scale{min: 0}.request()
	ask := func(v version) []answer {
		return []answer{
			holder.call("GET", v.path()), holder.call("GET", v.deploymentPath()), holder.call("DELETE", v.deploymentPath()),
			holder.call("POST", v.deploymentPath(), deployment), holder.call("PUT", v.deploymentPath(), deployment),
			holder.call("GET", "/v2/nvcf/queues/functions/"+v.function), holder.call("GET", "/v2/nvcf/queues/functions/"+v.function+"/versions/"+v.id),
			holder.call("POST", "/v2/nvcf/pexec/functions/"+v.function, body(run{})),
		}
	}
	for i, a := range ask(other) {
		require.Equal(t, "resource_not_covered", a.refused(403).Code, i)
	}
	for _, a := range ask(absent) {
		a.refused(404)
	}
	holder.call("GET", mine.deploymentPath()).refused(404)
	holder.call("GET", "/v2/nvcf/queues/functions/"+mine.function).refused(404)
}

// TestAccountsAreReadByKeys asserts that a key never changes an account (keys §14, ruling 6).
func TestAccountsAreReadByKeys(t *testing.T) {
	admin := common(t).administrator(t)
	holder, _ := admin.key([]string{"account_setup"}, resource{"*", "*"})
	account := "/v2/nvcf/accounts/" + access.DefaultAccount
	require.Equal(t, 200, holder.call("GET", account).status)
	for _, request := range [][2]string{{"POST", account}, {"PATCH", account}, {"DELETE", account}, {"PATCH", account + "/clients/associate"}, {"PATCH", account + "/clients/disassociate"}} {
		holder.call(request[0], request[1], text(`{"maxFunctionsAllowed":100000,"adminClientId":"mallory"}`)).refused(403)
	}
}

// TestExplainIsTrue makes the requests that it asks about.
func TestExplainIsTrue(t *testing.T) {
	admin := common(t).administrator(t)
	one, two := admin.create("explained"), admin.create("explained-too")
	admin.removeLater(one)
	admin.removeLater(two)
	absent := version{function: uuid.NewString(), id: uuid.NewString()}
	scopes := [][]string{{"list_functions"}, {"deploy_function", "queue_details"}, {"invoke_function", "manage_telemetries"}, {"account_setup", "list_clusters"}}
	resources := [][]resource{
		{{"account-functions", "*"}},
		{{"authorized-functions", "*"}},
		{{"*", "*"}},
		{{"function", one.function + "/*"}},
		{{"function", one.function + "/" + one.id}, {"account-clusters", "*"}},
		{{"function", absent.function + "/*"}},
	}
	paths := []string{
		"/v2/nvcf/functions", one.path(), two.path(), "/v2/nvcf/functions/" + two.function + "/versions", one.deploymentPath(), two.deploymentPath(),
		"/v2/nvcf/queues/functions/" + two.function, "/v2/nvcf/telemetries", "/v2/nvcf/clusterGroups", "/v2/nvcf/accounts", "/v2/nvcf/assets",
		"/v2/nvcf/accounts/nvcf-default/functions", "/v2/nvcf/accounts/other/functions", "/v2/orgs/acme/nvcf/functions", "/v2/nvcf/recognized-registries",
	}
	for _, s := range scopes {
		for _, r := range resources {
			holder, _ := admin.key(s, r...)
			for _, path := range paths {
				var said struct {
					Allowed bool
					Reason  string
				}
				admin.must("POST", "/v1/keys/explain", &said, body(map[string]string{"key": holder.credential, "method": "GET", "path": path}))
				a := holder.call("GET", path)
				require.Equal(t, a.status != 403, said.Allowed, "%s with %v on %v: explained as %s, answered %s", path, s, r, said.Reason, a)
				if a.status == 403 && a.problem().Code != "forbidden" { // that one has no reason of its own in the audit record
					require.Equal(t, said.Reason, a.problem().Code, "%s with %v on %v", path, s, r)
				}
			}
		}
	}
}

// TestTheAudienceDecides: a key opens the service that it was made for and no other, under whatever host (keys §14,
// ruling 11).
func TestTheAudienceDecides(t *testing.T) {
	u := anonymous(t)
	owner := nextOwner()
	request := keyBody([]string{"list_tasks", "list_functions"}, []resource{{"account-tasks", "*"}, {"account-functions", "*"}})
	policy := request["authorizations"].(map[string]any)["policies"].([]any)[0].(map[string]any)
	policy["aud"], policy["product"] = access.TasksAudience, "nv-cloud-tasks"
	task := u.with(u.call("POST", "/v1/keys", body(request), ownedBy(owner, access.TasksAudience)).key().Value)
	function, _ := u.key([]string{"list_tasks", "list_functions"}, resource{"account-tasks", "*"}, resource{"account-functions", "*"})

	for _, at := range []asked{host("tasks.corp.example"), host("api.corp.example"), host("nowhere.example")} {
		var listed struct{ Tasks []any }
		task.must("GET", "/v1/nvct/tasks", &listed, at)
		require.NotNil(t, listed.Tasks)
		require.Equal(t, "audience_mismatch", function.call("GET", "/v1/nvct/tasks", at).refused(403).Code)
		require.Equal(t, "audience_mismatch", task.call("GET", "/v2/nvcf/functions", at).refused(403).Code)
	}
	require.Equal(t, 200, task.call("GET", "/v2/orgs/some-org/nvct/tasks").status)
}
