package access

import (
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// Decide applies a row to a credential (keys §7.3, steps 4 and 5) and returns the caller that the route's service
// will see, or the problem that names the missing scope or resource type. Whether the named object is covered is
// decided where the object is known, with [Caller.CoversFunction] and its siblings.
func Decide(r Row, c Credential) (Caller, *problem.Problem) {
	caller := Caller{Account: c.Account, Kind: c.Kind, ID: c.ID, Subject: c.Subject}
	if c.Kind == JWT {
		if !slices.ContainsFunc(r.Ways, func(w Way) bool { return containsAll(c.Scopes, w.Scopes) }) {
			return Caller{}, missingScope(r, r.narrowest())
		}
		caller.Scopes = c.Scopes
		return caller, nil
	}
	if !slices.Contains(c.Audiences, r.Audience) {
		return Caller{}, problem.New(problem.AudienceMismatch, "this key was not made for this service")
	}
	if !r.forKeys() {
		p := problem.New(problem.Forbidden, "a key cannot %s; use an administrator token", r.What)
		p.RequiredScopes = r.narrowest().Scopes
		return Caller{}, p
	}
	scoped := Way{}
	for _, w := range r.Ways {
		if len(w.Reaches) == 0 {
			continue
		}
		grant, held := w.grant(r.Audience, c.Policies)
		switch {
		case grant != nil:
			caller.Grants = append(caller.Grants, grant)
		case held:
			scoped = w
		}
	}
	switch {
	case len(caller.Grants) > 0:
		return caller, nil
	case scoped.Scopes != nil:
		p := problem.New(problem.ResourceType, "no resource of this credential is of a type that may %s", r.What)
		p.RequiredResourceTypes = wires(scoped.Reaches)
		return Caller{}, p
	}
	return Caller{}, missingScope(r, r.narrowestForKeys())
}

// grant collects, for each scope of the way, the compatible entries of the policies that hold the scope. It is nil when
// a scope is left without one; held tells that every scope is there, so that only the types are wrong.
func (w Way) grant(audience string, policies []Policy) (g Grant, held bool) {
	g = make(Grant, len(w.Scopes))
	held = true
	for _, s := range w.Scopes {
		var entries []Resource
		found := false
		for _, p := range policies {
			if !p.isFor(audience) || !slices.Contains(p.Scopes, s) {
				continue
			}
			found = true
			for _, res := range p.Resources {
				if reach, ok := res.Reach(); ok && slices.Contains(w.Reaches, reach) {
					entries = append(entries, res)
				}
			}
		}
		held = held && found
		if len(entries) == 0 {
			g = nil
		}
		if g != nil {
			g[s] = entries
		}
	}
	return g, held
}

// forKeys reports whether a key can satisfy the row at all.
func (r Row) forKeys() bool {
	return slices.ContainsFunc(r.Ways, func(w Way) bool { return len(w.Reaches) > 0 })
}

// isFor reports whether the policy was written for an audience; one without an audience serves every audience of
// its key (keys §4.9).
func (p Policy) isFor(audience string) bool {
	if p.Audience == "" && len(p.Audiences) == 0 {
		return true
	}
	return p.Audience == audience || slices.Contains(p.Audiences, audience)
}

func containsAll(have, want []Scope) bool {
	return !slices.ContainsFunc(want, func(s Scope) bool { return !slices.Contains(have, s) })
}

// narrowest is the last way, which is the one to ask for.
func (r Row) narrowest() Way { return r.Ways[len(r.Ways)-1] }

// narrowestForKeys is the last way that a key can go, so that nobody is sent for a scope which keys cannot have.
func (r Row) narrowestForKeys() Way {
	for _, w := range slices.Backward(r.Ways) {
		if len(w.Reaches) > 0 {
			return w
		}
	}
	return r.narrowest()
}

// Asks is what the row asks of a credential, to be told to people: the scopes of its narrowest way, and the types of
// resource that are accepted with them, as policies spell them. A row for tokens only has no types.
func (r Row) Asks() (scopes []Scope, types []string) {
	return r.narrowest().Scopes, wires(r.narrowest().Reaches)
}

func missingScope(r Row, w Way) *problem.Problem {
	need := w.Scopes
	what := "only with " + need[0]
	if len(need) == 2 {
		what = "only with both " + need[0] + " and " + need[1]
	}
	p := problem.New(problem.ScopeMissing, "this credential may %s %s", r.What, what)
	p.RequiredScopes = need
	return p
}

// NotCovered is the answer for an object that exists in the caller's account but lies outside its key's resources.
func NotCovered(r Row, what string) *problem.Problem {
	p := problem.New(problem.ResourceNotCovered, "no resource of this credential covers %s", what)
	for _, w := range r.Ways {
		for _, wire := range wires(w.Reaches) {
			if !slices.Contains(p.RequiredResourceTypes, wire) {
				p.RequiredResourceTypes = append(p.RequiredResourceTypes, wire)
			}
		}
	}
	return p
}

func wires(reaches []Reach) []string {
	var all []string
	for _, reach := range reaches {
		all = append(all, reach.Wire())
	}
	return all
}

func isAdmin(s Scope) bool { return strings.HasPrefix(s, AdminPrefix) }
