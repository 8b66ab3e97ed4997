package keys

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// Product strings of policies (keys §1). A policy that names no audience is for the services of its product.
const (
	functionsProduct = "nv-cloud-functions"
	tasksProduct     = "nv-cloud-tasks"
)

// authorizations are the client's document about what a key may do, compact, otherwise as it was sent.
type authorizations string

// readAuthorizations applies the lenient validation of keys §7.6: any JSON of at most limit characters; policies, if
// there are any, must have the shape that grants are read from. Null members count as absent.
func readAuthorizations(sent json.RawMessage, limit int) (authorizations, error) {
	if len(sent) == 0 || bytes.Equal(bytes.TrimSpace(sent), []byte("null")) {
		return "", invalid("authorizations", "must be present and not null")
	}
	var compact bytes.Buffer
	if !utf8.Valid(sent) || json.Compact(&compact, sent) != nil {
		return "", invalid("authorizations", "must be JSON in UTF-8")
	}
	text := unescapeHTML(compact.String())
	if n := utf8.RuneCountInString(text); n > limit {
		return "", invalid("authorizations", "must have at most %d characters as compact JSON, has %d", limit, n)
	}
	if text[0] == '{' {
		if err := checkPolicies([]byte(text)); err != nil {
			return "", err
		}
	}
	return authorizations(text), nil
}

// unescapeHTML undoes the escapes that Go's JSON encoder adds on the way between services, so that the size is counted,
// and the document kept, as the client wrote it.
func unescapeHTML(text string) string {
	if !strings.Contains(text, `\u`) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			b.WriteByte(text[i])
			continue
		}
		if plain, ok := htmlEscapes[text[i:min(i+6, len(text))]]; ok {
			b.WriteString(plain)
			i += 5
			continue
		}
		b.WriteString(text[i:min(i+2, len(text))]) // an escaped backslash must not start the next escape
		i++
	}
	return b.String()
}

var htmlEscapes = map[string]string{`\u003c`: "<", `\u003e`: ">", `\u0026`: "&", `\u2028`: "\u2028", `\u2029`: "\u2029"}

// object is a JSON object whose members are matched by their exact names. Go's decoder into structs ignores case, so
// that "Scopes" beside "scopes" would be granted without having been checked.
type object map[string]json.RawMessage

// into decodes a member; an absent or null one leaves v as it is.
func (o object) into(name string, v any) error {
	raw, ok := o[name]
	if !ok {
		return nil
	}
	return json.Unmarshal(raw, v)
}

func checkPolicies(text []byte) error {
	var document object
	if json.Unmarshal(text, &document) != nil {
		return invalid("authorizations", "must be JSON")
	}
	var policies []object
	if document.into("policies", &policies) != nil {
		return invalid("authorizations.policies", "must be an array of objects")
	}
	for _, p := range policies {
		if p == nil {
			return invalid("authorizations.policies", "must be an array of objects")
		}
		var scopes []*string
		if p.into("scopes", &scopes) != nil || hasNil(scopes) {
			return invalid("authorizations.policies.scopes", "must be an array of strings")
		}
		var entries []object
		if p.into("resources", &entries) != nil {
			return invalid("authorizations.policies.resources", "must be an array of objects with the strings id and type")
		}
		for _, e := range entries {
			if _, ok := e.resource(); !ok {
				return invalid("authorizations.policies.resources", "must be an array of objects with the strings id and type")
			}
		}
	}
	return nil
}

func hasNil(list []*string) bool {
	for _, s := range list {
		if s == nil {
			return true
		}
	}
	return false
}

func (o object) resource() (access.Resource, bool) {
	var id, typ *string
	if o.into("id", &id) != nil || o.into("type", &typ) != nil || id == nil || typ == nil {
		return access.Resource{}, false
	}
	return access.Resource{ID: *id, Type: *typ}, true
}

// policies reads what a document grants. What does not parse grants nothing and is never widened: a malformed entry is
// dropped, and so is a whole policy whose audience is malformed, because a policy without one is good for every
// audience of its key. Scopes of other accounts (admin:…) count only in tokens (keys §6.3).
func (a authorizations) policies() []access.Policy {
	var document object
	var entries []json.RawMessage
	if json.Unmarshal([]byte(a), &document) != nil || document.into("policies", &entries) != nil {
		return nil
	}
	var granted []access.Policy
	for _, entry := range entries {
		if p, ok := readPolicy(entry); ok {
			granted = append(granted, p)
		}
	}
	return granted
}

func readPolicy(entry json.RawMessage) (p access.Policy, ok bool) {
	var o object
	var audiences []*string
	var scopes, resources []json.RawMessage
	if json.Unmarshal(entry, &o) != nil || o == nil ||
		o.into("aud", &p.Audience) != nil || o.into("auds", &audiences) != nil || o.into("product", &p.Product) != nil ||
		hasNil(audiences) || o.into("scopes", &scopes) != nil || o.into("resources", &resources) != nil {
		return access.Policy{}, false
	}
	for _, a := range audiences {
		p.Audiences = append(p.Audiences, *a)
	}
	if p.Audience == "" && len(p.Audiences) == 0 && p.Product != "" {
		p.Audiences = audiencesOf(p.Product)
	}
	for _, raw := range scopes {
		var scope string
		if json.Unmarshal(raw, &scope) == nil && scope != "" && !strings.HasPrefix(scope, "admin:") {
			p.Scopes = append(p.Scopes, scope)
		}
	}
	for _, raw := range resources {
		var e object
		if json.Unmarshal(raw, &e) != nil {
			continue
		}
		if r, ok := e.resource(); ok {
			p.Resources = append(p.Resources, r)
		}
	}
	return p, true
}

// audiencesOf maps the product of a policy without audience to service ids; the event ledger takes any product.
func audiencesOf(product string) []string {
	switch product {
	case functionsProduct:
		return []string{access.FunctionsAudience, access.EventsAudience}
	case tasksProduct:
		return []string{access.TasksAudience, access.EventsAudience}
	}
	return []string{access.EventsAudience}
}

// invalid is the refusal of one member of a request.
func invalid(field, rule string, args ...any) error {
	check := problem.NewCheck("key")
	check.Require(false, field, rule, args...)
	return check.Err()
}
