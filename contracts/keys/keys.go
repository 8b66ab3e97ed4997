// Package keys is the contract of the keys service: opaque API keys, administrator tokens, signing keys and the
// services that issue keys (spec keys §4–§6).
package keys

import (
	"encoding/json"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Prefix starts every opaque key; a bearer that does not start with it is taken for a JWT.
const Prefix = "nvapi-"

// Status of a key.
type Status string

// The states of a key; Expired is computed when a key is read.
const (
	Active    Status = "ACTIVE"
	Expired   Status = "EXPIRED"
	Suspended Status = "SUSPENDED"
)

// Key is the key object of keys §4.0. Value is the whole key in the answer to a creation, masked elsewhere.
type Key struct {
	ID              string     `json:"id"`
	Value           string     `json:"value,omitempty"`
	Status          Status     `json:"status"`
	OwnerType       string     `json:"owner_type"`
	OwnerID         string     `json:"owner_id"`
	IssuerServiceID string     `json:"issuer_service_id"`
	Audiences       []string   `json:"audience_service_ids"`
	Description     string     `json:"description"`
	CreatedAt       time.Time  `json:"created_at"`
	ExpiresAt       time.Time  `json:"expires_at"`
	UpdatedAt       *time.Time `json:"updated_at,omitempty"`
	Version         int64      `json:"version,omitempty"`
	// RotatedFrom is the key that this one took over from.
	RotatedFrom string     `json:"rotated_from,omitempty"`
	NotBefore   *time.Time `json:"not_before,omitempty"`
	// LastUsedAt, from where and at which service: at most a minute behind, absent for a key that was never let through.
	LastUsedAt      *time.Time        `json:"last_used_at,omitempty"`
	LastUsedIP      string            `json:"last_used_ip,omitempty"`
	LastUsedService string            `json:"last_used_service,omitempty"`
	RateLimit       *access.RateLimit `json:"rate_limit,omitempty"`
	AllowedCIDRs    []string          `json:"allowed_cidrs,omitempty"`
	Authorizations  json.RawMessage   `json:"authorizations,omitempty"`
	// Warning names scopes that no resource of their policy can satisfy; it travels as a header.
	Warning string `json:"warning,omitempty" header:"Warning"`
}

// The headers of every /v1/keys call (keys §4).
const (
	HeaderOwner  = "Key-Owner-Id"
	HeaderIssuer = "Key-Issuer-Id"
)

// Issuer carries the headers that every /v1/keys call needs. As with every field that has a path, query or header
// tag, the gateway sets these from the request line and headers, whatever the body says.
type Issuer struct {
	OwnerID     string `json:"keyOwnerId" header:"Key-Owner-Id"`
	ServiceID   string `json:"keyIssuerId" header:"Key-Issuer-Id"`
	ServiceName string `json:"keyIssuerService" header:"Key-Issuer-Service"`
}

// CreateRequest is POST /v1/keys.
type CreateRequest struct {
	Issuer
	Description    string          `json:"description"`
	ExpiresAt      string          `json:"expires_at"`
	Authorizations json.RawMessage `json:"authorizations"`
	Audiences      []string        `json:"audience_service_ids"`
	NotBefore      string          `json:"not_before"`
	Limits
	// IdempotencyKey makes a repeated request return the first answer for a day, instead of a second key.
	IdempotencyKey string `json:"idempotencyKey" header:"Idempotency-Key"`
}

// Limits are how much, and from where, one key may be used. Absent members leave things as they are; a rate limit without
// members and an empty list of networks remove the limit.
type Limits struct {
	RateLimit    *access.RateLimit `json:"rate_limit"`
	AllowedCIDRs []string          `json:"allowed_cidrs"`
}

// Page asks for a part of a list. Cursor is the next_cursor of the answer before.
type Page struct {
	Limit  *int   `json:"limit" query:"limit"`
	Cursor string `json:"cursor" query:"cursor"`
}

// ListRequest is GET /v1/keys.
type ListRequest struct {
	Issuer
	Page
}

// ListResponse is a list of keys, masked and without their authorizations. NextCursor is there when the request had a
// limit and more keys follow.
type ListResponse struct {
	Keys       []Key  `json:"keys"`
	NextCursor string `json:"next_cursor,omitempty"`
}

// Revocation answers what ends keys. Pending is "pending" while the event that tells the rest of the platform is not in
// its stream yet; the caches of others forget the keys a minute later at most.
type Revocation struct {
	Pending string `json:"pending,omitempty" header:"Nvcf-Revocation"`
}

// AuthorizeRequest is PUT /v1/keys/{id}/authorizations: it replaces the whole document.
type AuthorizeRequest struct {
	KeyRequest
	Authorizations json.RawMessage `json:"authorizations"`
}

// ChangeRequest is PATCH /v1/keys/{id}; absent members stay as they are.
type ChangeRequest struct {
	KeyRequest
	Description *string `json:"description"`
	ExpiresAt   *string `json:"expires_at"`
	NotBefore   *string `json:"not_before"`
	Limits
}

// RotateRequest is POST /v1/keys/{id}/rotate. The new key expires when the old one was to, unless ExpiresAt says
// otherwise; the old one goes on for the grace.
type RotateRequest struct {
	KeyRequest
	GraceSeconds *int64  `json:"grace_seconds" body:"optional"`
	ExpiresAt    *string `json:"expires_at"`
	// IdempotencyKey makes a repeated request return the first answer for a day, so that a new key whose answer was lost is
	// not lost with it.
	IdempotencyKey string `json:"idempotencyKey" header:"Idempotency-Key"`
}

// KeyRequest names one key.
type KeyRequest struct {
	Issuer
	ID string `json:"keyId" path:"id" object:"Key"`
}

// IntrospectRequest is POST /v1/introspect.
type IntrospectRequest struct {
	AudienceServiceID string `json:"audience_service_id"`
	Key               string `json:"key" secret:"true"`
}

// IntrospectResponse answers IntrospectRequest.
type IntrospectResponse struct {
	OwnerType       string          `json:"owner_type"`
	OwnerID         string          `json:"owner_id"`
	KeyID           string          `json:"key_id"`
	IssuerServiceID string          `json:"issuer_service_id"`
	Authorizations  json.RawMessage `json:"authorizations"`
	CacheControl    string          `json:"cacheControl,omitempty" header:"Cache-Control"`
}

// IssuingService is a registered key product (keys §1).
type IssuingService struct {
	ID                      string   `json:"service_id"`
	Name                    string   `json:"service_name"`
	Audiences               []string `json:"audience_service_ids"`
	MaxKeysPerUser          int      `json:"max_api_keys_per_user"`
	MaxKeyTTLDays           int      `json:"max_api_key_ttl_days"`
	MaxAuthzChars           int      `json:"max_authz_size_chars"`
	MinAuthzUpdateIntervalS int      `json:"min_authz_update_interval_seconds"`
}

// ServicesResponse is GET /v1/services.
type ServicesResponse struct {
	Services []IssuingService `json:"services"`
}

// ServiceRequest is GET /v1/services/{service_id}.
type ServiceRequest struct {
	ID string `json:"serviceId" path:"service_id"`
}

// JWKS is the published half of the signing keys, the current one first (keys §6.4).
type JWKS struct {
	Keys []JWK `json:"keys"`
}

// JWK is one public P-256 key.
type JWK struct {
	KeyType   string `json:"kty"`
	Curve     string `json:"crv"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	ID        string `json:"kid"`
	X         string `json:"x"`
	Y         string `json:"y"`
}

// ResolveRequest asks what an opaque key is good for. Digest must not be logged either: it identifies the key.
type ResolveRequest struct {
	Bearer string `json:"bearer"`
}

// ResolveResponse answers ResolveRequest. An unknown, expired, suspended or malformed key is Known false, not an error.
type ResolveResponse struct {
	Known      bool              `json:"known"`
	Credential access.Credential `json:"credential"`
	// Reason says why a key is not known, for the audit record and never for the client. The credential of a key that
	// exists is then there without its rights.
	Reason access.Reason `json:"reason,omitempty"`
	// AsOf is when the store was read; every cache counts its time to live from here.
	AsOf time.Time `json:"asOf"`
}

// ClientRequest asks for the account behind the sub claim of a token.
type ClientRequest struct {
	ClientID string `json:"clientId"`
}

// ClientResponse answers ClientRequest; an unknown client is a not_found problem.
type ClientResponse struct {
	Account string `json:"account"`
}

// Issuer settings shared with the verifier in the gateway (keys §6.2).
const (
	TokenIssuer   = "http://api.nvcf.svc.cluster.local"
	TokenSubject  = "ncp"
	TokenAudience = "s:api"
	TokenLife     = 12 * time.Hour
	TokenLeeway   = time.Minute
)

// The endpoints.
var (
	MintAdminToken = rpc.Endpoint[rpc.None, Key]{Service: "keys", Resource: "token", Verb: "mint", Doc: "Mints an administrator token (ES256 JWT)."}
	PublicKeys     = rpc.Endpoint[rpc.None, JWKS]{Service: "keys", Resource: "jwks", Verb: "get", Doc: "The public signing keys, current one first."}
	Client         = rpc.Endpoint[ClientRequest, ClientResponse]{Service: "keys", Resource: "client", Verb: "get", Doc: "The account of a token's subject."}
	Create         = rpc.Endpoint[CreateRequest, Key]{Service: "keys", Resource: "key", Verb: "create", Doc: "Creates a key; the only answer that holds its value."}
	List           = rpc.Endpoint[ListRequest, ListResponse]{Service: "keys", Resource: "key", Verb: "list", Doc: "Lists the keys of an owner and issuing service."}
	Get            = rpc.Endpoint[KeyRequest, Key]{Service: "keys", Resource: "key", Verb: "get", Doc: "One key with its authorizations."}
	Delete         = rpc.Endpoint[KeyRequest, Revocation]{Service: "keys", Resource: "key", Verb: "delete", Doc: "Deletes a key; it stops working everywhere within a second."}
	Authorize      = rpc.Endpoint[AuthorizeRequest, Key]{Service: "keys", Resource: "key", Verb: "authorize", Doc: "Replaces what a key may do."}
	Change         = rpc.Endpoint[ChangeRequest, Key]{Service: "keys", Resource: "key", Verb: "change", Doc: "Changes the description, life and limits of a key."}
	Rotate         = rpc.Endpoint[RotateRequest, Key]{Service: "keys", Resource: "key", Verb: "rotate", Doc: "Makes a key that takes over from another one, which goes on for a grace."}
	Introspect     = rpc.Endpoint[IntrospectRequest, IntrospectResponse]{Service: "keys", Resource: "key", Verb: "introspect", Doc: "Tells whether a key is good for an audience."}
	Resolve        = rpc.Endpoint[ResolveRequest, ResolveResponse]{Service: "keys", Resource: "key", Verb: "resolve", Doc: "What a bearer is good for; the gateway caches the answer."}
	Services       = rpc.Endpoint[rpc.None, ServicesResponse]{Service: "keys", Resource: "service", Verb: "list", Doc: "The services that issue keys."}
	Service        = rpc.Endpoint[ServiceRequest, IssuingService]{Service: "keys", Resource: "service", Verb: "get", Doc: "One service that issues keys."}
)

// Changed is the payload of the key events. It never holds the key or anything made from it.
type Changed struct {
	KeyID     string          `json:"keyId"`
	OwnerID   string          `json:"ownerId"`
	ServiceID string          `json:"issuerServiceId"`
	Version   int64           `json:"version"`
	ExpiresAt time.Time       `json:"expiresAt"`
	Policies  []access.Policy `json:"policies,omitempty"`
	Reason    string          `json:"reason,omitempty"`
}

// TokenIssued is the payload of the token_issued event.
type TokenIssued struct {
	JTI       string    `json:"jti"`
	Subject   string    `json:"subject"`
	Scopes    []string  `json:"scopes"`
	ExpiresAt time.Time `json:"expiresAt"`
	KeyID     string    `json:"kid"`
}

// The events.
var (
	Created = rpc.Event[Changed]{Domain: event.Keys, Entity: "key", Name: "created", Version: 1, Doc: "A key was created."}
	Updated = rpc.Event[Changed]{Domain: event.Keys, Entity: "key", Name: "updated", Version: 1, Doc: "Authorizations, expiry or limits of a key changed."}
	Revoked = rpc.Event[Changed]{Domain: event.Keys, Entity: "key", Name: "revoked", Version: 1, Doc: "A key stopped being valid before its expiry."}
	Issued  = rpc.Event[TokenIssued]{Domain: event.Keys, Entity: "token", Name: "issued", Version: 1, Doc: "An administrator token was minted."}
)
