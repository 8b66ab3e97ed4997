package access

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Reason says why a request was let through or refused (keys §10).
type Reason string

// The reasons of a decision.
const (
	ReasonOK                 Reason = "ok"
	ReasonNoCredential       Reason = "no_credential"
	ReasonMalformed          Reason = "malformed"
	ReasonUnknownKey         Reason = "unknown_key"
	ReasonExpired            Reason = "expired"
	ReasonSuspended          Reason = "suspended"
	ReasonOwnerSuspended     Reason = "owner_suspended"
	ReasonAudience           Reason = "audience_mismatch"
	ReasonAccount            Reason = "account_mismatch"
	ReasonScopeMissing       Reason = "scope_missing"
	ReasonResourceType       Reason = "resource_type_incompatible"
	ReasonResourceNotCovered Reason = "resource_not_covered"
	ReasonRateLimited        Reason = "rate_limited"
	ReasonCIDR               Reason = "cidr_denied"
	ReasonJWTSignature       Reason = "jwt_signature"
	ReasonJWTIssuer          Reason = "jwt_issuer"
	ReasonJWTAudience        Reason = "jwt_audience"
	ReasonJWTExpired         Reason = "jwt_expired"
	ReasonBackend            Reason = "backend_unavailable"
)

// Decision is the audit record of one decision, or of Count equal ones within a second. It never holds a credential.
type Decision struct {
	At      time.Time `json:"at"`
	Service string    `json:"service"`
	Method  string    `json:"method"`
	// Route is a template, never a path with ids.
	Route  string `json:"route"`
	Target Target `json:"target,omitzero"`
	// Credential says who asked, as far as it is known.
	Credential     Asker   `json:"credential"`
	RequiredScopes []Scope `json:"required_scopes,omitempty"`
	// Decision is allow or deny.
	Decision    string `json:"decision"`
	Reason      Reason `json:"reason"`
	PolicyAgeMS int64  `json:"policy_age_ms"`
	// Source is cache or store.
	Source    string `json:"source"`
	ClientIP  string `json:"client_ip,omitempty"`
	TraceID   string `json:"trace_id,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	Count     int    `json:"count"`
}

// Target is what a decision was about.
type Target struct {
	Type string `json:"type,omitempty"`
	ID   string `json:"id,omitempty"`
}

// Asker names a credential without showing it.
type Asker struct {
	Kind    Kind   `json:"kind,omitempty"`
	KeyID   string `json:"key_id,omitempty"`
	OwnerID string `json:"owner_id,omitempty"`
	NCAID   string `json:"nca_id,omitempty"`
	Version int64  `json:"version,omitempty"`
}

// Decided is published by the gateway; the entity is the key id or the token's jti, or "none".
var Decided = rpc.Event[Decision]{Domain: event.Access, Entity: "decision", Name: "made", Version: 1, Doc: "A credential was let through or refused."}
