package access

import (
	"testing"
)

// TestWhichServiceAPolicyIsFor pins keys §4.9: by aud, by auds, else by product, else for whatever the key was made for.
func TestWhichServiceAPolicyIsFor(t *testing.T) {
	const mayInvoke = `"scopes":["invoke_function"],"resources":[{"type":"account-functions","id":"*"}]}]}`
	for _, tc := range []struct {
		policy                   string
		functions, tasks, events bool
	}{
		{`{"policies":[{"aud":"` + FunctionsAudience + `",`, true, false, false},
		{`{"policies":[{"aud":"` + TasksAudience + `",`, false, true, false},
		{`{"policies":[{"auds":["` + TasksAudience + `","` + FunctionsAudience + `"],`, true, true, false},
		{`{"policies":[{"aud":"` + TasksAudience + `","product":"nv-cloud-functions",`, false, true, false},
		{`{"policies":[{"product":"nv-cloud-functions",`, true, false, true},
		{`{"policies":[{"aud":"","auds":[],"product":"nv-cloud-functions",`, true, false, true},
		{`{"policies":[{"aud":null,"auds":null,"product":"nv-cloud-tasks",`, false, true, true},
		{`{"policies":[{"product":"something-else",`, false, false, true},
		{`{"policies":[{"product":"",`, true, true, true},
		{`{"policies":[{`, true, true, true},
		{`{"policies":[{"aud":7,`, false, false, false},
		{`{"policies":[{"auds":[null],`, false, false, false},
		{`{"policies":[{"product":{},`, false, false, false},
	} {
		document := []byte(tc.policy + mayInvoke)
		for audience, want := range map[string]bool{FunctionsAudience: tc.functions, TasksAudience: tc.tasks, EventsAudience: tc.events} {
			row := Invoke
			row.Audience = audience
			_, p := Decide(row, Credential{Kind: Key, Audiences: []string{audience}, Policies: Policies(document)})
			if (p == nil) != want {
				t.Errorf("%s for %s: %v", document, audience, p)
			}
			if found := PoliciesFor(audience, document); (len(found) == 1) != want {
				t.Errorf("%s for %s: %s", document, audience, found)
			}
			if _, p := Decide(row, Credential{Kind: Key, Audiences: []string{"other"}, Policies: Policies(document)}); p == nil {
				t.Errorf("%s: a key is good for no other service than those that it was made for", document)
			}
		}
	}
}
