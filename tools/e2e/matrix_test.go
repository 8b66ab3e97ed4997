package e2e

import (
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/services/gateway"
)

// TestEveryRowOfTheMatrix asks every route that needs something with keys that have everything but that: no credential,
// every scope but the row's, the scopes on every type of resource but the compatible ones. Then, with each compatible
// type, the door lets the same request through to its checks of path and body.
func TestEveryRowOfTheMatrix(t *testing.T) {
	admin := common(t).administrator(t)
	keys := keyring{admin: admin, made: map[string]user{}}
	for _, op := range gateway.Operations() {
		if op.Row == nil || op.Row.Name == access.SignedIn.Name {
			continue
		}
		t.Run(op.Method+" "+op.Path, func(t *testing.T) {
			ask := func(u user) answer {
				u.t = t
				how := []asked{}
				if op.Method != http.MethodGet {
					how = append(how, text(`{}`))
				}
				return u.call(op.Method, someIDs(op.Path), how...)
			}
			if op.Trusted {
				return // open to this machine; services/gateway tests them in secured mode
			}
			require.Equal(t, "Bearer", strings.Fields(ask(admin.with("")).gone(t, 401))[0])
			forKeys := slices.ContainsFunc(op.Row.Ways, func(w access.Way) bool { return len(w.Reaches) > 0 })

			if op.RefusalMedia == "application/json" && op.Refusal.Name() == "consoleError" {
				require.Equal(t, 403, ask(keys.with(t, op.Row.Audience, allScopesBut(*op.Row), allReaches...)).status, "no key opens the access API")
				return
			}
			stripped := keys.with(t, op.Row.Audience, allScopesBut(*op.Row), allReaches...)
			p := ask(stripped).refusal(t)
			if !forKeys {
				require.Contains(t, []string{"forbidden", "account_mismatch", "scope_missing"}, p.Code)
				return
			}
			require.Equal(t, "scope_missing", p.Code, "a key without the scope")
			require.NotEmpty(t, p.RequiredScopes)

			for _, w := range op.Row.Ways {
				if len(w.Reaches) == 0 {
					continue
				}
				others := slices.DeleteFunc(slices.Clone(allReaches), func(r access.Reach) bool { return slices.Contains(w.Reaches, r) })
				if len(others) > 0 {
					p = ask(keys.with(t, op.Row.Audience, w.Scopes, others...)).refusal(t)
					require.Equal(t, "resource_type_incompatible", p.Code, "%v on %v", w.Scopes, others)
					require.NotEmpty(t, p.RequiredResourceTypes)
				}
				for _, reach := range w.Reaches {
					if op.Media == "text/event-stream" {
						continue // it never ends
					}
					a := ask(keys.with(t, op.Row.Audience, w.Scopes, reach))
					require.NotEqual(t, 401, a.status, a)
					if a.status == 403 {
						require.Equal(t, "resource_not_covered", a.refusal(t).Code, "%v on %s: %s", w.Scopes, reach, a)
					}
					require.Less(t, a.status, 500, a)
				}
			}
		})
	}
}

// gone asserts the status and returns how to authenticate.
func (a answer) gone(t *testing.T, status int) string {
	t.Helper()
	require.Equal(t, status, a.status, a)
	return a.header.Get("WWW-Authenticate")
}

// refusal is what every shape of a 403 has in common.
func (a answer) refusal(t *testing.T) (p problem) {
	t.Helper()
	require.Equal(t, 403, a.status, a)
	require.NoError(t, json.Unmarshal(a.body, &p), a)
	return p
}

var allReaches = []access.Reach{access.AF, access.SF, access.F, access.V, access.AC, access.CL, access.AE, access.AT, access.T}

// allScopesBut is every scope of the matrix that opens no way of the row.
func allScopesBut(row access.Row) []string {
	scopes := map[string]bool{}
	for _, r := range access.Matrix {
		for _, w := range r.Ways {
			for _, s := range w.Scopes {
				scopes[s] = true
			}
		}
	}
	for _, w := range row.Ways {
		for _, s := range w.Scopes {
			delete(scopes, s)
		}
	}
	return slices.Sorted(maps.Keys(scopes))
}

// keyring makes each key once.
type keyring struct {
	admin user
	made  map[string]user
}

func (k keyring) with(t *testing.T, audience string, scopes []string, reaches ...access.Reach) user {
	t.Helper()
	resources := []map[string]string{}
	for _, r := range reaches {
		kind, id, _ := strings.Cut(someIDs(strings.NewReplacer("<", "{", ">", "}").Replace(r.Wire())), "/")
		resources = append(resources, map[string]string{"type": kind, "id": id})
	}
	request := map[string]any{
		"description": "matrix", "expires_at": tomorrow(), "audience_service_ids": []string{audience},
		"authorizations": map[string]any{"policies": []any{map[string]any{"aud": audience, "scopes": scopes, "resources": resources}}},
	}
	b, err := json.Marshal([]any{audience, scopes, resources})
	require.NoError(t, err)
	if u, ok := k.made[string(b)]; ok {
		return u
	}
	var made struct {
		Value string `json:"value"`
	}
	k.admin.with("").must("POST", "/v1/keys", &made, body(request), header("Key-Owner-Id", nextOwner()), header("Key-Issuer-Id", audience))
	u := k.admin.with(remember(made.Value))
	k.made[string(b)] = u
	return u
}

var parameter = regexp.MustCompile(`\{([a-zA-Z_]+)\}`)

// someIDs fills the parameters of a path with ids that nothing has, the same ones every time.
func someIDs(path string) string {
	return parameter.ReplaceAllStringFunc(path, func(name string) string {
		if name == "{ncaId}" {
			return access.DefaultAccount
		}
		return uuid.NewSHA1(uuid.NameSpaceURL, []byte(strings.ToLower(name))).String()
	})
}
