package keys

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// document is the authorizations with one policy of these scopes on these resources (type/id).
func document(scopes string, resources ...string) json.RawMessage {
	var entries []string
	for _, r := range resources {
		typ, id, _ := strings.Cut(r, "/")
		entries = append(entries, fmt.Sprintf(`{"type":%q,"id":%q}`, typ, id))
	}
	quoted, _ := json.Marshal(strings.Fields(scopes))
	return json.RawMessage(`{"policies":[{"scopes":` + string(quoted) + `,"resources":[` + strings.Join(entries, ",") + `]}]}`)
}

var written = matrix(access.DefaultCompat.Matrix())

func TestWarningNamesScopesThatCanNeverHold(t *testing.T) {
	t.Parallel()
	functions := []string{access.FunctionsAudience}
	for _, tc := range []struct {
		document  json.RawMessage
		audiences []string
		warned    []string
	}{
		{document("invoke_function deploy_function list_functions", "account-functions/*"), functions, nil},
		{document("invoke_function", "*/*"), functions, []string{"invoke_function"}},
		{document("manage_telemetries manage_registry_credentials", "account-functions/*"), functions, []string{"manage_telemetries", "manage_registry_credentials"}},
		{document("manage_telemetries", "account-functions/*", "*/*"), functions, nil},
		{document("authorize_clients", "function/6d7f0d58-9f44-44b1-8ad1-1f60aa9e8b5d/*"), functions, []string{"authorize_clients"}},
		{document("list_functions", "function/6d7f0d58-9f44-44b1-8ad1-1f60aa9e8b5d"), functions, []string{"list_functions"}},
		{document("launch_task", "account-tasks/*"), []string{access.TasksAudience}, nil},
		{document("launch_task", "account-tasks/*"), functions, []string{"launch_task"}},
		{document("update_secrets", "account-tasks/*"), functions, []string{"update_secrets"}},
		{document("update_secrets", "account-tasks/*"), []string{access.TasksAudience}, nil},
		{document("from_the_future", "account-functions/*"), functions, []string{"from_the_future"}},
		{document("nvca-cluster", "cluster/6d7f0d58-9f44-44b1-8ad1-1f60aa9e8b5d"), functions, nil},
		{document("invoke_function invoke_function"), functions, []string{"invoke_function"}},
		{json.RawMessage(`{}`), functions, nil},
		{json.RawMessage(`7`), functions, nil},
	} {
		want := ""
		if tc.warned != nil {
			want = `299 sirocco "no resource of the policy can satisfy: ` + strings.Join(tc.warned, ", ") + `"`
		}
		require.Equal(t, want, written.warning(authorizations(tc.document), tc.audiences), "%s", tc.document)
	}
	require.Empty(t, written.warning(authorizations(`{"policies":[{"scopes":["a\r\nSet-Cookie: x","\"","é"],"resources":[]}]}`), functions), "nothing of a client's that is unsafe in a header")
}

func TestLenientWarnsAndStrictRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cfg := config(t)
	testkit.Ready(t, s.replica(t, cfg))
	req := s.wanted()
	req.Authorizations = document("manage_telemetries", "account-functions/*")
	made := call(t, s, contract.Create, req)
	require.Contains(t, made.Warning, "manage_telemetries")
	s.clock.Advance(time.Minute)
	update := contract.AuthorizeRequest{KeyRequest: keyRequest(made.ID), Authorizations: document("invoke_function", "*/*")}
	require.Contains(t, call(t, s, contract.Authorize, update).Warning, "invoke_function")

	strictSite := newSite(t)
	cfg.PolicyValidation = Strict
	cfg.DataDir = t.TempDir()
	testkit.Ready(t, strictSite.replica(t, cfg))
	p := refused(t, strictSite, 400, contract.Create, req)
	require.Equal(t, problem.Validation, p.Code)
	require.Contains(t, p.Detail, "'manage_telemetries' needs a resource of type */*, the policy has 'account-functions/*'")
	req.Authorizations = json.RawMessage(cliPolicies)
	made = call(t, strictSite, contract.Create, req)
	strictSite.clock.Advance(time.Minute)
	update.ID = made.ID
	require.Contains(t, refused(t, strictSite, 400, contract.Authorize, update).Detail, "invoke_function")
}

func TestStrictRules(t *testing.T) {
	t.Parallel()
	functions := []string{access.FunctionsAudience}
	for name, tc := range map[string]struct {
		document json.RawMessage
		field    string
		says     string
	}{
		"unknown scope":          {document("fly", "account-functions/*"), "authorizations.policies.scopes", "'fly'"},
		"scope across accounts":  {document("admin:list_functions", "account-functions/*"), "authorizations.policies.scopes", "tokens"},
		"unknown type":           {document("list_functions", "planet/*"), "authorizations.policies.resources", "'planet/*'"},
		"bare function":          {document("list_functions", "function/6d7f0d58-9f44-44b1-8ad1-1f60aa9e8b5d"), "authorizations.policies.resources", "id of its form"},
		"all functions with id":  {document("list_functions", "account-functions/x"), "authorizations.policies.resources", "id of its form"},
		"foreign audience":       {json.RawMessage(`{"policies":[{"aud":"x","scopes":[]}]}`), "authorizations.policies.aud", access.FunctionsAudience},
		"incompatible type":      {document("authorize_clients", "*/*"), "authorizations.policies.scopes", "account-functions/*"},
		"no resource":            {document("list_functions"), "authorizations.policies.scopes", "none"},
		"scope of tokens":        {document("cluster-management", "*/*"), "authorizations.policies.scopes", "for tokens"},
		"policies not an array":  {json.RawMessage(`{"policies":{}}`), "authorizations", "policies"},
		"not an object":          {json.RawMessage(`7`), "authorizations", "object"},
		"audiences of no string": {json.RawMessage(`{"policies":[{"auds":7}]}`), "authorizations.policies", "auds"},
	} {
		err := written.checkStrictly(authorizations(tc.document), functions)
		var p *problem.Problem
		require.ErrorAs(t, err, &p, name)
		require.Equal(t, tc.field, p.Violations[0].Field, name)
		require.Contains(t, p.Detail, tc.says, name)
	}
	require.NoError(t, written.checkStrictly(authorizations(cliPolicies), functions))
	require.NoError(t, written.checkStrictly(authorizations(`{}`), functions))
}

func FuzzStrict(f *testing.F) {
	f.Add(cliPolicies)
	f.Add(`{"policies":[{"scopes":[""],"resources":[{"id":"","type":""}]}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		granted, err := readAuthorizations(json.RawMessage(text), 2048)
		if err != nil {
			return
		}
		audiences := []string{access.FunctionsAudience}
		warning := written.warning(granted, audiences)
		require.NotContains(t, warning, "\n")
		require.Less(t, len(warning), 1024)
		if written.checkStrictly(granted, audiences) == nil {
			require.Empty(t, warning, "strict refuses whatever lenient warns of")
		}
		_ = access.PoliciesFor(access.FunctionsAudience, []byte(granted))
		_ = hostedGrants(granted.policies())
	})
}
