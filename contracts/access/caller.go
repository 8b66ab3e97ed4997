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
	// Scopes of a JWT.
	Scopes []Scope `json:"scopes,omitempty"`
	// Policies of a key.
	Policies  []Policy  `json:"policies,omitempty"`
	Audiences []string  `json:"audiences,omitempty"`
	ExpiresAt time.Time `json:"expiresAt"`
	// Version rises with every change of a key.
	Version int64 `json:"version,omitempty"`
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
	ID      string  `json:"id"`
	Subject string  `json:"subject"`
	Scopes  []Scope `json:"scopes,omitempty"`
	// Resources are the entries of a key that are compatible with the row; a JWT has none and is unrestricted.
	Resources []Resource `json:"resources,omitempty"`
	RequestID string     `json:"requestId,omitempty"`
	Address   string     `json:"address,omitempty"`
}

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

// Has reports whether the credential carries the scope.
func (c Caller) Has(s Scope) bool {
	return slices.Contains(c.Scopes, s)
}

// CoversFunction reports whether the caller may act on one version of a function that its own account owns (own) or
// that is shared with it. An empty version asks for the function as a whole.
func (c Caller) CoversFunction(own bool, functionID, versionID string) bool {
	if c.Kind != Key {
		return true
	}
	for _, r := range c.Resources {
		reach, ok := r.Reach()
		if !ok {
			continue
		}
		fn, version, _ := strings.Cut(r.ID, "/")
		switch reach {
		case AF, AE:
			if own {
				return true
			}
		case SF:
			if !own {
				return true
			}
		case F:
			if fn == functionID {
				return true
			}
		case V:
			if fn == functionID && version == versionID {
				return true
			}
		case AC, CL, AT, T: // say nothing about functions
		}
	}
	return false
}
