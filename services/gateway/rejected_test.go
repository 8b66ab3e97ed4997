package gateway

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

func TestARefusalRepeatsWhatWasSent(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 300)
	const body = `{"name":"a b","inferenceUrl":"","health":{"port":99999,"uri":null},"tags":["ok","no t"],"helmChart":7,"nobody":"hunter2",
		"models":[{"name":"m"},{"name":"n","uri":"x y"}],"rateLimit":{"perNcaIdRate":{"acme.com":"1-Y"}},"functionId":"mine",
		"llmInvocationConfig":{"priority":{"defaultPriority":-1}},"secrets":[{"name":"a","value":"hunter2","other":"hunter2"},{"name":"a","value":{"k":"hunter2"}}],
		"containerEnvironment":[{"key":"K","value":"hunter2"}],"resources":"hunter2 is not for here","description":"LONG"}`
	for field, want := range map[string]string{
		"name": "a b", "inferenceUrl": `""`, "health.port": "99999", "health.uri": "null", "health.timeout": "null", "health": `{"port":99999,"uri":null}`,
		"tags[1]": "no t", "tags": `["ok","no t"]`, "tags[7]": "null", "models[1].uri": "x y", "models": `[{"name":"m"},{"name":"n","uri":"x y"}]`,
		"rateLimit.perNcaIdRate[acme.com]": "1-Y", "rateLimit": `{"perNcaIdRate":{"acme.com":"1-Y"}}`, "helmChart": "7",
		"llmInvocationConfig.priority.defaultPriority": "-1", "telemetries.logsTelemetryId": "null", "missing": "null",
		"secrets":         `[{"name":"a","value":"[hidden]"},{"name":"a","value":"[hidden]"}]`,
		"secrets[0]":      `{"name":"a","value":"[hidden]"}`,
		"secrets[0].name": "a", "secrets[0].value": "[hidden]", "secrets[1].value.k": "[hidden]", "secrets[0].other": "[hidden]",
		"nobody": "[hidden]", "body": "[hidden]", "containerEnvironment": `[{"key":"K","value":"[hidden]"}]`,
		"description": "LONG", "functionId": uuid.Nil.String(), "Idempotency-Key": "again", "Authorization": "null",
	} {
		r := httptest.NewRequest(http.MethodPost, "/v2/nvcf/functions", strings.NewReader(body))
		r.SetPathValue("functionId", uuid.Nil.String())
		r.Header.Set("Idempotency-Key", "again")
		r.Header.Set("Authorization", "Bearer hunter2")
		p := &problem.Problem{Code: problem.Validation, Violations: []problem.Violation{{Field: field, Rule: "no"}}}
		got := quoting(withInput(r, reflect.TypeFor[functions.CreateRequest]()), p)
		require.Equal(t, want, got.Violations[0].Rejected, field)
	}
	r := withInput(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.ReplaceAll(body, "LONG", long))), reflect.TypeFor[functions.CreateRequest]())
	p := quoting(r, &problem.Problem{Violations: []problem.Violation{{Field: "description"}}})
	require.Equal(t, long[:512], p.Violations[0].Rejected, "256 characters")

	r = httptest.NewRequest(http.MethodGet, "/v2/nvcf/functions?visibility=all&visibility=none", nil)
	p = quoting(withInput(r, reflect.TypeFor[functions.ListRequest]()), &problem.Problem{Violations: []problem.Violation{{Field: "visibility"}, {Field: "limit"}}})
	require.Equal(t, []string{"all,none", "null"}, []string{p.Violations[0].Rejected, p.Violations[1].Rejected})
}

func TestNoSecretOfAnotherKindIsRepeated(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		input       reflect.Type
		body, field string
	}{
		"a telemetry's secret that is no object": {reflect.TypeFor[functions.CreateTelemetryRequest](), `{"secret":"hunter2"}`, "secret"},
		"its value":                              {reflect.TypeFor[functions.CreateTelemetryRequest](), `{"secret":{"name":"n","value":"hunter2"}}`, "secret.value"},
		"a list of another kind":                 {reflect.TypeFor[functions.SecretsRequest](), `{"secrets":{"name":"hunter2"}}`, "secrets"},
		"an element of another kind":             {reflect.TypeFor[functions.SecretsRequest](), `{"secrets":["hunter2"]}`, "secrets[0]"},
		"a registry's":                           {reflect.TypeFor[functions.CreateRegistryCredentialRequest](), `{"secret":{"name":"n","value":"hunter2"}}`, "secret.value"},
		"an account's registry's":                {reflect.TypeFor[keys.CreateAccountRequest](), `{"registryCredentials":[{"secret":{"value":"hunter2"}}]}`, "registryCredentials[0].secret"},
		"a password":                             {reflect.TypeFor[directory.ChangePasswordRequest](), `{"newPassword":"hunter2"}`, "newPassword"},
		"a key":                                  {reflect.TypeFor[keys.IntrospectRequest](), `{"key":"hunter2"}`, "key"},
		"a key asked about":                      {reflect.TypeFor[access.ExplainRequest](), `{"key":"hunter2"}`, "key"},
		"the whole body":                         {reflect.TypeFor[keys.IntrospectRequest](), `{"key":"hunter2"`, "body"},
	} {
		r := withInput(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(tc.body)), tc.input)
		got := quoting(r, &problem.Problem{Violations: []problem.Violation{{Field: tc.field}}}).Violations[0].Rejected
		require.NotContains(t, got, "hunter2", name)
		require.Contains(t, got, problem.Hidden, name)
	}
}

// Every member that sounds like a secret is marked as one, or is named here as harmless.
func TestSecretMembersAreMarked(t *testing.T) {
	t.Parallel()
	sounds := regexp.MustCompile(`(?i)secret|password|token|credential|key|value`)
	harmless := regexp.MustCompile(`^authorizations$|^containerEnvironment\[\]\.key$|\.llmConfig\.(tokenRateLimit|tokenizer)$`)
	var visit func(at string, typ reflect.Type)
	visit = func(at string, typ reflect.Type) {
		last := at[strings.LastIndexByte(at, '.')+1:]
		if readsItself(typ) || typ.Kind() == reflect.String {
			require.True(t, harmless.MatchString(at) || !sounds.MatchString(last), "%s holds a secret? then it needs the tag secret", at)
			return
		}
		switch typ.Kind() {
		case reflect.Pointer:
			visit(at, typ.Elem())
		case reflect.Slice:
			visit(at+"[]", typ.Elem())
		case reflect.Struct:
			for _, m := range bodyMembers(typ) {
				if !m.secret {
					visit(join(at, m.name), m.kind)
				}
			}
		default:
		}
	}
	for _, line := range withMirrors(routes()) {
		visit("", line.endpoint.Input)
	}
}

func TestMembersCountUnderTheirExactNames(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"name":"n","Name":7,"NAME":[]}`: `{"name":"n"}`, `{"Name":"n"}`: `{"name":""}`, `{"functionId":7,"idempotencyKey":{},"Idempotency-Key":[]}`: `{"name":""}`,
		`{"Spec":{"name":"n"}}`: `{"name":""}`, `{"health":{"Port":"x","port":3}}`: `{"name":"","health":{"protocol":"","uri":"","port":3,"timeout":"","expectedStatusCode":0}}`,
		`{"name":null,"tags":null,"health":null,"secrets":null}`: `{"name":""}`, `{"tags":["a",null]}`: `{"name":"","tags":["a",""]}`,
		`{"rateLimit":{"perNcaIdRate":{"A":"1-S","a":"2-S"}}}`: `{"name":"","rateLimit":{"perNcaIdRate":{"A":"1-S","a":"2-S"}}}`,
		`{"llmInvocationConfig":{"b":1.50,"a":[ ]}}`:           `{"name":"","llmInvocationConfig":{"b":1.50,"a":[]}}`,
		`{"secrets":[{"name":"a","value":null}]}`:              `{"name":"","secrets":[{"name":"a","value":null}]}`,
	} {
		var got functions.CreateRequest
		require.NoError(t, decode([]byte(body), &got), body)
		b, err := json.Marshal(got)
		require.NoError(t, err)
		require.Equal(t, want, string(b), body)
	}
}

func TestEveryMistakeOfABodyIsTold(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	body := `{"name":7,"health":{"port":"80","timeout":[]},"tags":["a",1],"models":[{"name":"m"},{"name":{}}],"secrets":[{"name":1,"value":"hunter2"}]}`
	r := do(t, client(t, false), request(t, "POST", s.url+"/v2/nvcf/functions", strings.NewReader(body), "Authorization", auth(s.token(t, nil))))
	doc := refused(t, r, 400)
	var fields, rejected []string
	for _, v := range doc.Violations {
		fields, rejected = append(fields, v.Field), append(rejected, v.Rejected)
	}
	require.Equal(t, []string{"name", "models[1].name", "health.port", "health.timeout", "tags[1]", "secrets[0].name"}, fields)
	require.Equal(t, []string{"7", "{}", "80", "[]", "1", "1"}, rejected)
	require.True(t, strings.HasPrefix(doc.Detail, "Validation failed: [object: request, field: name, rejected: 7, message: must be a string, not number] ["), doc.Detail)
	require.NotContains(t, r.body, "hunter2")
}

// TestListsAreBounded: an element of two bytes becomes a struct of hundreds.
func TestListsAreBounded(t *testing.T) {
	t.Parallel()
	list := func(n int) []byte { return []byte(`{"models":[` + strings.Repeat(`{},`, n-1) + `{}]}`) }
	var got functions.CreateRequest
	require.NoError(t, decode(list(maxElements), &got))
	require.Len(t, got.Models, maxElements)
	got = functions.CreateRequest{}
	err := decode(list(maxElements+1), &got)
	require.ErrorContains(t, err, "field: models")
	require.ErrorContains(t, err, "at most 10000 elements")
	require.Empty(t, got.Models)
}
