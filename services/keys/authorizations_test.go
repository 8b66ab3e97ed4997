package keys

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
)

func TestAuthorizationsAreValidatedLeniently(t *testing.T) {
	t.Parallel()
	for sent, field := range map[string]string{
		// Accepted.
		cliPolicies:                              "",
		`{}`:                                     "",
		`{"policies":[]}`:                        "",
		`{"policies":null}`:                      "",
		`{"policies":[{}]}`:                      "",
		`{"policies":[{"scopes":null}]}`:         "",
		`{"policies":[{"scopes":["no_such"]}]}`:  "",
		`{"policies":[{"aud":7}]}`:               "", // stored, grants nothing
		`{"Policies":7}`:                         "", // another member
		`{"other":{"deep":[1,2.50,{"x":null}]}}`: "",
		`[1,2]`:                                  "",
		`"text"`:                                 "",
		`7`:                                      "",
		`true`:                                   "",
		// Refused.
		``:                                   "authorizations",
		`null`:                               "authorizations",
		"\tnull\n":                           "authorizations",
		`{"policies":{}}`:                    "authorizations.policies",
		`{"policies":"x"}`:                   "authorizations.policies",
		`{"policies":[1]}`:                   "authorizations.policies",
		`{"policies":[null]}`:                "authorizations.policies",
		`{"policies":[[]]}`:                  "authorizations.policies",
		`{"policies":[{"scopes":"x"}]}`:      "authorizations.policies.scopes",
		`{"policies":[{"scopes":[1]}]}`:      "authorizations.policies.scopes",
		`{"policies":[{"scopes":[null]}]}`:   "authorizations.policies.scopes",
		`{"policies":[{"resources":{}}]}`:    "authorizations.policies.resources",
		`{"policies":[{"resources":["*"]}]}`: "authorizations.policies.resources",
		`{"policies":[{"resources":[{"id":"*"}]}]}`:                 "authorizations.policies.resources",
		`{"policies":[{"resources":[{"id":1,"type":"function"}]}]}`: "authorizations.policies.resources",
		`{"policies":[{"resources":[null]}]}`:                       "authorizations.policies.resources",
		"{\"x\":\"\xff\"}":                                          "authorizations",
		`{"x":`:                                                     "authorizations",
	} {
		got, err := readAuthorizations(json.RawMessage(sent), 2048)
		if field == "" {
			require.NoError(t, err, sent)
			require.Equal(t, authorizations(sent), got)
		} else {
			require.ErrorContains(t, err, "field: "+field+",", sent)
		}
	}
}

func TestAuthorizationsKeepOrderAndUnknownMembers(t *testing.T) {
	t.Parallel()
	const sent = " { \"z\" : 1.50 ,\n \"a\" : [ ] , \"policies\" : [ { \"x\" : {\"b\":1,\"a\":2} } ] } "
	got, err := readAuthorizations(json.RawMessage(sent), 2048)
	require.NoError(t, err)
	require.Equal(t, authorizations(strings.Join(strings.Fields(sent), "")), got)
}

func TestAuthorizationsSizeIsCountedAsTheClientWroteIt(t *testing.T) {
	t.Parallel()
	fit := `{"x": "` + strings.Repeat("<&é", 680) + `"}` // 8 + 3*680 = 2048 characters when compact
	// The bus carries it with Go's escapes for HTML, six characters for one.
	carried, err := json.Marshal(json.RawMessage(fit))
	require.NoError(t, err)
	require.Greater(t, len(carried), 4096)
	for _, form := range []string{fit, string(carried)} {
		got, err := readAuthorizations(json.RawMessage(form), 2048)
		require.NoError(t, err)
		require.Equal(t, strings.Replace(fit, ": ", ":", 1), string(got))
	}
	_, err = readAuthorizations(json.RawMessage(strings.Replace(fit, `"x"`, `"xy"`, 1)), 2048)
	require.ErrorContains(t, err, "at most 2048 characters as compact JSON, has 2049")
}

func TestUnescapeLeavesEscapedBackslashesAlone(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`"\u003c"`:       `"<"`,
		`"\\u003c"`:      `"\\u003c"`,
		`"\\\u003c"`:     `"\\<"`,
		`"\u00e9\u003f"`: `"\u00e9\u003f"`,
		`"\u003"`:        `"\u003"`,
		`\`:              `\`,
	} {
		require.Equal(t, want, unescapeHTML(in))
	}
}

func TestPoliciesGrantOnlyWhatParses(t *testing.T) {
	t.Parallel()
	all := access.Resource{ID: "*", Type: "account-functions"}
	for name, c := range map[string]struct {
		document string
		want     []access.Policy
	}{
		"a CLI key": {cliPolicies, []access.Policy{{
			Audience: access.FunctionsAudience, Audiences: []string{access.FunctionsAudience}, Product: "nv-cloud-functions",
			Resources: []access.Resource{all}, Scopes: []access.Scope{"deploy_function", "list_functions"},
		}}},
		"not an object":     {`[1]`, nil},
		"no policies":       {`{"x":1}`, nil},
		"members by case":   {`{"policies":[{"Scopes":["invoke_function"],"RESOURCES":[{"id":"*","type":"account-functions"}]}]}`, []access.Policy{{}}},
		"entry by case":     {`{"policies":[{"resources":[{"ID":"*","id":"x","type":"function"}]}]}`, []access.Policy{{Resources: []access.Resource{{ID: "x", Type: "function"}}}}},
		"audience no text":  {`{"policies":[{"aud":7,"scopes":["a"]},{"scopes":["b"]}]}`, []access.Policy{{Scopes: []access.Scope{"b"}}}},
		"audiences no list": {`{"policies":[{"auds":"x","scopes":["a"]}]}`, nil},
		"audiences of null": {`{"policies":[{"auds":[null],"scopes":["a"]}]}`, nil},
		"product no text":   {`{"policies":[{"product":[],"scopes":["a"]}]}`, nil},
		"broken entries": {
			`{"policies":[7,null,{"scopes":["a",1,null,""],"resources":[1,{"id":"*"},{"id":"*","type":"account-functions"}]}]}`,
			[]access.Policy{{Scopes: []access.Scope{"a"}, Resources: []access.Resource{all}}},
		},
		"scopes of other accounts": {`{"policies":[{"scopes":["admin:invoke_function","invoke_function"]}]}`, []access.Policy{{Scopes: []access.Scope{"invoke_function"}}}},
		"audience by product": {`{"policies":[{"product":"nv-cloud-tasks"}]}`, []access.Policy{{
			Product: "nv-cloud-tasks", Audiences: []string{access.TasksAudience, access.EventsAudience},
		}}},
		"another product": {`{"policies":[{"product":"artifact-catalog"}]}`, []access.Policy{{
			Product: "artifact-catalog", Audiences: []string{access.EventsAudience},
		}}},
	} {
		require.Equal(t, c.want, authorizations(c.document).policies(), name)
	}
}

// FuzzAuthorizations: nothing panics; what is accepted is valid JSON within the limit that says the same when read again.
func FuzzAuthorizations(f *testing.F) {
	f.Add([]byte(cliPolicies))
	f.Add([]byte(`{"policies":[{"scopes":["a",null],"resources":[{}]}]}`))
	f.Add([]byte(`"\\\u003c\u2028\ud800"`))
	f.Add([]byte("\xff{}"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		_ = authorizations(sent).policies()
		got, err := readAuthorizations(sent, 256)
		if err != nil {
			return
		}
		require.True(t, json.Valid([]byte(got)))
		require.LessOrEqual(t, utf8.RuneCountInString(string(got)), 256)
		var before, after any
		require.NoError(t, json.Unmarshal(sent, &before))
		require.NoError(t, json.Unmarshal([]byte(got), &after))
		require.Equal(t, before, after)
		again, err := readAuthorizations(json.RawMessage(got), 256)
		require.NoError(t, err)
		require.Equal(t, got, again)
		for _, p := range got.policies() {
			for _, s := range p.Scopes {
				require.NotEmpty(t, s)
			}
		}
	})
}
