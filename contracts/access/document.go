package access

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// Product strings of policies (keys §1). A policy that names no audience is for the services of its product.
const (
	FunctionsProduct = "nv-cloud-functions"
	TasksProduct     = "nv-cloud-tasks"
)

// Object is a JSON object whose members are matched by their exact names. Go's decoder into structs ignores case, so that
// "Scopes" beside "scopes" would be granted without having been checked.
type Object map[string]json.RawMessage

// Into decodes a member; an absent or null one leaves v as it is.
func (o Object) Into(name string, v any) error {
	raw, ok := o[name]
	if !ok {
		return nil
	}
	return json.Unmarshal(raw, v)
}

// Resource reads an entry of a policy; ok is false when id and type are not both texts.
func (o Object) Resource() (r Resource, ok bool) {
	var id, typ *string
	if o.Into("id", &id) != nil || o.Into("type", &typ) != nil || id == nil || typ == nil {
		return Resource{}, false
	}
	return Resource{ID: *id, Type: *typ}, true
}

// Policies reads what the authorizations of a key grant. What does not parse grants nothing and is never widened: a
// malformed entry is dropped, and so is a whole policy whose audience is malformed, because a policy without one is good
// for every audience of its key. Scopes of other accounts (admin:…) count only in tokens (keys §6.3).
func Policies(authorizations []byte) []Policy {
	var granted []Policy
	for _, entry := range policyEntries(authorizations) {
		if p, ok := ReadPolicy(entry); ok {
			granted = append(granted, p)
		}
	}
	return granted
}

// PoliciesFor are the policies of authorizations that hold for an audience, as the client wrote them: those that name it,
// and those that name none and are of a product for it, or of no product.
func PoliciesFor(audience string, authorizations []byte) []json.RawMessage {
	return slices.DeleteFunc(policyEntries(authorizations), func(entry json.RawMessage) bool {
		p, ok := ReadPolicy(entry)
		return !ok || !p.isFor(audience)
	})
}

func policyEntries(authorizations []byte) (entries []json.RawMessage) {
	var document Object
	if json.Unmarshal(authorizations, &document) != nil || document.Into("policies", &entries) != nil {
		return nil
	}
	return entries
}

// ReadPolicy reads one policy; ok is false for one that grants nothing because its shape is wrong.
func ReadPolicy(entry json.RawMessage) (p Policy, ok bool) {
	var o Object
	var audiences []*string
	var scopes, resources []json.RawMessage
	if json.Unmarshal(entry, &o) != nil || o == nil ||
		o.Into("aud", &p.Audience) != nil || o.Into("auds", &audiences) != nil || o.Into("product", &p.Product) != nil ||
		slices.Contains(audiences, nil) || o.Into("scopes", &scopes) != nil || o.Into("resources", &resources) != nil {
		return Policy{}, false
	}
	for _, a := range audiences {
		p.Audiences = append(p.Audiences, *a)
	}
	if p.Audience == "" && len(p.Audiences) == 0 && p.Product != "" {
		p.Audiences = audiencesOf(p.Product)
	}
	for _, raw := range scopes {
		var scope string
		if json.Unmarshal(raw, &scope) == nil && scope != "" && !strings.HasPrefix(scope, AdminPrefix) {
			p.Scopes = append(p.Scopes, scope)
		}
	}
	for _, raw := range resources {
		var e Object
		if json.Unmarshal(raw, &e) != nil {
			continue
		}
		if r, ok := e.Resource(); ok {
			p.Resources = append(p.Resources, r)
		}
	}
	return p, true
}

// audiencesOf maps the product of a policy without audience to service ids; the event ledger takes any product.
func audiencesOf(product string) []string {
	switch product {
	case FunctionsProduct:
		return []string{FunctionsAudience, EventsAudience}
	case TasksProduct:
		return []string{TasksAudience, EventsAudience}
	}
	return []string{EventsAudience}
}

// CheckPolicies applies the lenient validation of keys §7.6 to authorizations that are a JSON object: policies, if there are
// any, must have the shape that grants are read from. Null members count as absent.
func CheckPolicies(authorizations []byte) error {
	var document Object
	if json.Unmarshal(authorizations, &document) != nil {
		return misshapen("authorizations", "must be JSON")
	}
	var policies []Object
	if document.Into("policies", &policies) != nil {
		return misshapen("authorizations.policies", "must be an array of objects")
	}
	for _, p := range policies {
		if p == nil {
			return misshapen("authorizations.policies", "must be an array of objects")
		}
		var scopes []*string
		if p.Into("scopes", &scopes) != nil || slices.Contains(scopes, nil) {
			return misshapen("authorizations.policies.scopes", "must be an array of strings")
		}
		var entries []Object
		if p.Into("resources", &entries) != nil {
			return misshapen("authorizations.policies.resources", "must be an array of objects with the strings id and type")
		}
		for _, e := range entries {
			if _, ok := e.Resource(); !ok {
				return misshapen("authorizations.policies.resources", "must be an array of objects with the strings id and type")
			}
		}
	}
	return nil
}

func misshapen(field, rule string) error {
	check := problem.NewCheck("key")
	check.Require(false, field, "%s", rule)
	return check.Err()
}
