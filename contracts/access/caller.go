package access

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sirocco-cloud/sirocco/contracts/event"
)

// Kind of credential.
type Kind string

// The kinds of credential.
const (
	JWT Kind = "jwt"
	Key Kind = "key"
)

// Service ids of a default install (keys §1). An opaque key is good only for its audiences.
const (
	FunctionsAudience = "nvidia-cloud-functions-ncp-service-id-aketm"
	TasksAudience     = "nvidia-cloud-tasks-ncp-service-id-nvcttasks"
	EventsAudience    = "nvidia-cloud-events-ncp-service-id-ckozoh6f"
)

// DefaultAccount is the account of a self-hosted install.
const DefaultAccount = "nvcf-default"

// Credential is what authentication learned about a bearer: everything a decision needs and nothing secret.
type Credential struct {
	Kind    Kind   `json:"kind"`
	Account string `json:"account"`
	// ID is the key id or the token's jti.
	ID string `json:"id"`
	// Subject is the owner of a key or the sub claim of a token.
	Subject string `json:"subject"`
	// Username is the e-mail of the user whose token it is; empty for keys, programs and administrator tokens.
	Username string `json:"username,omitempty"`
	// Scopes of a JWT.
	Scopes []Scope `json:"scopes,omitempty"`
	// Policies of a key.
	Policies  []Policy  `json:"policies,omitempty"`
	Audiences []string  `json:"audiences,omitempty"`
	ExpiresAt time.Time `json:"expiresAt"`
	// Version rises with every change of a key.
	Version int64 `json:"version,omitempty"`
	// IssuedAt and SigningKey of a token let a revocation name it; a key has none.
	IssuedAt   time.Time `json:"issuedAt,omitzero"`
	SigningKey string    `json:"signingKey,omitempty"`
	// Console is set for a token of the access API, which an install may take at that API alone.
	Console bool `json:"console,omitempty"`
	// RateLimit and AllowedCIDRs of a key; absent means unlimited and anywhere.
	RateLimit    *RateLimit `json:"rateLimit,omitempty"`
	AllowedCIDRs []string   `json:"allowedCidrs,omitempty"`
}

// RateLimit bounds what one key may do: requests per second, how many at once after a pause, and how many in flight.
// A zero member does not limit.
type RateLimit struct {
	RPS        float64 `json:"rps,omitempty"`
	Burst      int     `json:"burst,omitempty"`
	Concurrent int     `json:"concurrent,omitempty"`
}

// Policy pairs scopes with the resources they apply to.
type Policy struct {
	Audience  string     `json:"aud,omitempty"`
	Audiences []string   `json:"auds,omitempty"`
	Product   string     `json:"product,omitempty"`
	Resources []Resource `json:"resources,omitempty"`
	Scopes    []Scope    `json:"scopes,omitempty"`
}

// Resource is one entry of a policy.
type Resource struct {
	ID   string `json:"id"`
	Type string `json:"type"`
}

// Reach parses r; an entry that does not parse grants nothing and is never widened (keys §7.2).
func (r Resource) Reach() (Reach, bool) {
	switch ResourceType(r.Type) {
	case AllFunctions:
		return AF, r.ID == "*"
	case SharedFunctions:
		return SF, r.ID == "*"
	case AllClusters:
		return AC, r.ID == "*"
	case AllTasks:
		return AT, r.ID == "*"
	case AllEntity:
		return AE, r.ID == "*"
	case Cluster:
		return CL, isUUID(r.ID)
	case Task:
		return T, isUUID(r.ID)
	case Function:
		fn, version, ok := strings.Cut(r.ID, "/")
		switch {
		case !ok || !isUUID(fn):
			return "", false
		case version == "*":
			return F, true
		default:
			return V, isUUID(version)
		}
	}
	return "", false
}

func isUUID(s string) bool { return len(s) == 36 && uuid.Validate(s) == nil }

// Caller is an authenticated credential that a row of the matrix has let through, as services see it.
type Caller struct {
	Account string `json:"account"`
	Kind    Kind   `json:"kind"`
	// ID is the key id or the token's jti, Subject the owner or the sub claim.
	ID      string `json:"id"`
	Subject string `json:"subject"`
	// Scopes of a token; those of a key are in Grants, each with the resources it holds for.
	Scopes []Scope `json:"scopes,omitempty"`
	// Grants are the ways of the row that a key satisfies, one element per way; a token has none and is unrestricted.
	Grants []Grant `json:"grants,omitempty"`
	// CrossAccount is set when the path named the account (/accounts/{ncaId}/…), so that a super administrator acts.
	CrossAccount bool `json:"crossAccount,omitempty"`
	// Alias is set when the path began with an organisation (/v2/orgs/…), whose clients expect a little more patience.
	Alias bool `json:"alias,omitempty"`
	// Origin is the scheme and authority that the caller wrote, for answers that hold addresses.
	Origin    string `json:"origin,omitempty"`
	RequestID string `json:"requestId,omitempty"`
	Address   string `json:"address,omitempty"`
}

// Grant is one satisfied way of a row: for each of its scopes, the entries of the key that hold for that scope and are
// of a type that the way accepts. Scope and entry come from one policy; two scopes may come from two (keys §14.10).
type Grant map[Scope][]Resource

// Actor is the caller as events name it.
func (c Caller) Actor() event.Actor {
	switch c.Kind {
	case Key:
		return event.Actor{Type: "apikey", ID: c.ID}
	case JWT:
		return event.Actor{Type: "user", ID: c.Subject}
	}
	return event.Actor{Type: "system", ID: c.Subject}
}

// CoversFunction reports whether the caller may act on one version of a function that its own account owns (own) or
// that is shared with it. An empty version asks for the function as a whole.
func (c Caller) CoversFunction(own bool, functionID, versionID string) bool {
	return c.covers(func(reach Reach, id string) bool { return reach.overFunction(id, own, functionID, versionID) })
}

// CoversSomeOf reports whether the caller may act on the function as a whole or on some version of it.
func (c Caller) CoversSomeOf(own bool, functionID string) bool {
	return c.covers(func(reach Reach, id string) bool {
		return reach.overFunction(id, own, functionID, "") || reach == V && strings.HasPrefix(id, functionID+"/")
	})
}

// MayAlso reports whether the caller holds a scope that goes beyond what the row needs, for that same version: the
// details of a function are shown only to who may see them of this function.
func (c Caller) MayAlso(s Scope, own bool, functionID, versionID string) bool {
	if c.Kind != Key {
		return slices.Contains(c.Scopes, s)
	}
	return slices.ContainsFunc(c.Grants, func(g Grant) bool {
		return anyReach(g[s], func(reach Reach, id string) bool { return reach.overFunction(id, own, functionID, versionID) })
	})
}

// CoversTask reports whether the caller may act on a task of its own account; an empty id asks for all tasks.
func (c Caller) CoversTask(taskID string) bool {
	return c.covers(func(reach Reach, id string) bool { return reach == AT || reach == AE || reach == T && id == taskID })
}

// CoversCluster reports whether the caller may act on a cluster of its own account; an empty id asks for all clusters.
func (c Caller) CoversCluster(clusterID string) bool {
	return c.covers(func(reach Reach, id string) bool {
		return reach == AC || reach == AE || reach == AF || reach == CL && id == clusterID
	})
}

// covers reports whether, in one way, every scope has an entry that holds.
func (c Caller) covers(holds func(reach Reach, id string) bool) bool {
	if c.Kind != Key {
		return true
	}
	return slices.ContainsFunc(c.Grants, func(g Grant) bool {
		for _, entries := range g {
			if !anyReach(entries, holds) {
				return false
			}
		}
		return len(g) > 0
	})
}

func anyReach(entries []Resource, holds func(reach Reach, id string) bool) bool {
	return slices.ContainsFunc(entries, func(r Resource) bool {
		reach, ok := r.Reach()
		return ok && holds(reach, strings.ToLower(r.ID))
	})
}

// overFunction reports whether an entry of this reach with this id covers a version of a function.
func (r Reach) overFunction(id string, own bool, functionID, versionID string) bool {
	fn, version, _ := strings.Cut(id, "/")
	switch r {
	case AF, AE:
		return own
	case SF:
		return !own
	case F:
		return fn == functionID
	case V:
		return fn == functionID && version == versionID
	case AC, CL, AT, T: // say nothing about functions
	}
	return false
}
