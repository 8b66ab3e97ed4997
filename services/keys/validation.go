package keys

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/access"
)

// Validation is how closely the authorizations of a key are looked at (keys §7.6).
type Validation string

// The validations. Lenient stores what it does not understand, and warns; Strict refuses it.
const (
	Lenient Validation = "lenient"
	Strict  Validation = "strict"
)

// beyondMatrix are the scopes that keys may carry and that no row of the matrix asks for: those of node agents and of
// chart validation. Their reaches are what a registration pairs them with.
var beyondMatrix = map[access.Scope][]access.Reach{
	access.NodeAgent:          {access.CL},
	"instance_request_update": {access.CL},
	"helmreval:validate":      nil,
	"helmreval:render":        nil,
}

// matrix is every row by which keys are judged, as the operator's settings have it.
type matrix map[string]access.Row

// reachesOf are the reaches with which a scope can ever hold for one of these audiences; known is false for a scope that
// nothing asks for.
func (m matrix) reachesOf(scope access.Scope, audiences []string) (reaches []access.Reach, known bool) {
	reaches, known = slices.Clone(beyondMatrix[scope]), hasKey(beyondMatrix, scope)
	for _, row := range m {
		for _, way := range row.Ways {
			if !slices.Contains(way.Scopes, scope) {
				continue
			}
			known = true
			if !slices.Contains(audiences, row.Audience) {
				continue
			}
			for _, reach := range way.Reaches {
				if !slices.Contains(reaches, reach) {
					reaches = append(reaches, reach)
				}
			}
		}
	}
	slices.Sort(reaches)
	return reaches, known
}

func hasKey[V any](m map[string]V, key string) bool {
	_, ok := m[key]
	return ok
}

// audiencesOf a policy are those it names, or those of its key.
func policyAudiences(p access.Policy, ofKey []string) []string {
	named := slices.Clone(p.Audiences)
	if p.Audience != "" {
		named = append(named, p.Audience)
	}
	if len(named) == 0 {
		return ofKey
	}
	return named
}

// idle are the scopes of a policy that none of its resources can satisfy, each with the reaches that could.
func (m matrix) idle(p access.Policy, ofKey []string) (scopes []access.Scope, needed map[access.Scope][]access.Reach) {
	needed = map[access.Scope][]access.Reach{}
	var have []access.Reach
	for _, r := range p.Resources {
		if reach, ok := r.Reach(); ok {
			have = append(have, reach)
		}
	}
	for _, scope := range p.Scopes {
		reaches, known := m.reachesOf(scope, policyAudiences(p, ofKey))
		if known && len(reaches) == 0 && hasKey(beyondMatrix, scope) {
			continue
		}
		if !slices.ContainsFunc(reaches, func(r access.Reach) bool { return slices.Contains(have, r) }) && !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
			needed[scope] = reaches
		}
	}
	return scopes, needed
}

const (
	// maxWarned bounds the scopes that one warning names.
	maxWarned = 8
	// warnCode is the miscellaneous persistent warning of RFC 7234.
	warnCode = 299
)

// headerSafe is what may be repeated from a client inside a header.
var headerSafe = regexp.MustCompile(`^[A-Za-z0-9_:.-]{1,64}$`)

// warning is the text of a Warning header for scopes that can never hold; empty when there is nothing to warn of.
func (m matrix) warning(a authorizations, audiences []string) string {
	var names []string
	for _, p := range a.policies() {
		scopes, _ := m.idle(p, audiences)
		for _, s := range scopes {
			if headerSafe.MatchString(s) && !slices.Contains(names, s) && len(names) < maxWarned {
				names = append(names, s)
			}
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf(`%d sirocco "no resource of the policy can satisfy: %s"`, warnCode, strings.Join(names, ", "))
}

// readAuthorizations reads and checks the document of a creation or an update.
func (k *Keys) readAuthorizations(sent json.RawMessage, limit int, audiences []string) (authorizations, error) {
	granted, err := readAuthorizations(sent, limit)
	if err != nil || !k.strict {
		return granted, err
	}
	return granted, k.matrix.checkStrictly(granted, audiences)
}

// checkStrictly refuses whatever a key could carry in vain.
func (m matrix) checkStrictly(a authorizations, audiences []string) error {
	var document access.Object
	var entries []json.RawMessage
	if json.Unmarshal([]byte(a), &document) != nil || document.Into("policies", &entries) != nil {
		return invalid("authorizations", "must be an object with the array policies")
	}
	for _, entry := range entries {
		p, ok := access.ReadPolicy(entry)
		if !ok {
			return invalid("authorizations.policies", "must be objects with the members aud, auds, product, resources and scopes")
		}
		var o struct {
			Scopes []string `json:"scopes"`
		}
		if err := json.Unmarshal(entry, &o); err != nil {
			return invalid("authorizations.policies.scopes", "must be an array of strings")
		}
		if err := m.checkPolicyStrictly(p, o.Scopes, audiences); err != nil {
			return err
		}
	}
	return nil
}

func (m matrix) checkPolicyStrictly(p access.Policy, scopes, audiences []string) error {
	if p.Audience != "" && !slices.Contains(audiences, p.Audience) {
		return invalid("authorizations.policies.aud", "must be among the audiences of the key: %s", strings.Join(audiences, ", "))
	}
	for _, r := range p.Resources {
		if _, ok := r.Reach(); !ok {
			return invalid("authorizations.policies.resources", "must be of a known type with an id of its form, not %s", shown(r.Type+"/"+r.ID))
		}
	}
	for _, scope := range scopes {
		_, known := m.reachesOf(scope, audiences)
		switch {
		case strings.HasPrefix(scope, access.AdminPrefix):
			return invalid("authorizations.policies.scopes", "must not hold %s: scopes that reach across accounts are for tokens", shown(scope))
		case !known:
			return invalid("authorizations.policies.scopes", "must be known scopes, not %s", shown(scope))
		}
	}
	never, needed := m.idle(p, audiences)
	if len(never) == 0 {
		return nil
	}
	var types []string
	for _, r := range p.Resources {
		types = append(types, shown(r.Type+"/"+r.ID))
	}
	if len(types) == 0 {
		types = []string{"none"}
	}
	var wires []string
	for _, reach := range needed[never[0]] {
		wires = append(wires, reach.Wire())
	}
	if len(wires) == 0 {
		return invalid("authorizations.policies.scopes", "%s is for tokens, no resource of a key can satisfy it", shown(never[0]))
	}
	return invalid("authorizations.policies.scopes", "%s needs a resource of type %s, the policy has %s",
		shown(never[0]), strings.Join(wires, " or "), strings.Join(types, ", "))
}

// maxShown bounds what is repeated of a client's text in a refusal.
const maxShown = 128

func shown(text string) string {
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "") + "…"
	}
	return "'" + text + "'"
}
