package keys

import (
	"encoding/json"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// EvaluateRequest is POST /v1/namespaces/{namespace}/evaluations/{rule}: what a service asks about a key (keys §4.9).
type EvaluateRequest struct {
	Namespace string        `json:"namespace" path:"namespace"`
	Rule      string        `json:"rule" path:"rule"`
	Input     EvaluateInput `json:"input"`
}

// EvaluateInput holds the key asked about.
type EvaluateInput struct {
	APIKey string `json:"apiKey" secret:"true"`
}

// EvaluateResponse answers EvaluateRequest; a key that is no good is not an error.
type EvaluateResponse struct {
	Namespace    string     `json:"namespace"`
	RuleName     string     `json:"rule_name"`
	Result       Evaluation `json:"result"`
	CacheControl string     `json:"cacheControl,omitempty" header:"Cache-Control"`
}

// Evaluation is what a key may do in a namespace. Policy is the first of Policies; both are as the client wrote them.
type Evaluation struct {
	Allowed   bool              `json:"allowed"`
	NCAID     string            `json:"ncaId,omitempty"`
	OwnerID   string            `json:"ownerId,omitempty"`
	Policy    json.RawMessage   `json:"policy,omitempty"`
	Policies  []json.RawMessage `json:"policies,omitempty"`
	KeyID     string            `json:"keyId,omitempty"`
	Version   int64             `json:"version,omitempty"`
	ExpiresAt *time.Time        `json:"expiresAt,omitempty"`
	// AsOf is when the store was read; every cache counts its time to live from here.
	AsOf *time.Time `json:"asOf,omitempty"`
}

// OwnersKeysRequest asks a service's administrator's questions about the keys of one owner (keys §4.10).
type OwnersKeysRequest struct {
	ServiceID string `json:"keyIssuerId" header:"Key-Issuer-Id"`
	OwnerID   string `json:"ownerId" path:"owner"`
	Page
}

// OwnersKeyRequest names one of those keys.
type OwnersKeyRequest struct {
	ServiceID string `json:"keyIssuerId" header:"Key-Issuer-Id"`
	OwnerID   string `json:"ownerId" path:"owner"`
	ID        string `json:"keyId" path:"id" object:"Key"`
}

// KeyStatusRequest suspends a key or lets it work again.
type KeyStatusRequest struct {
	OwnersKeyRequest
	Status string `json:"status"`
}

// LookupRequest holds a key value, to find its record or to report that it has leaked.
type LookupRequest struct {
	Key string `json:"key" secret:"true"`
}

// Owner is somebody who has, or had, keys (keys §4.11).
type Owner struct {
	OwnerType       string    `json:"owner_type"`
	OwnerID         string    `json:"owner_id"`
	Status          Status    `json:"status"`
	StatusUpdatedAt time.Time `json:"status_updated_at"`
}

// OwnerRequest names an owner.
type OwnerRequest struct {
	OwnerID string `json:"ownerId" path:"owner"`
}

// OwnerKeysRequest asks for the keys of an owner across all services.
type OwnerKeysRequest struct {
	OwnerRequest
	Page
}

// OwnerStatusRequest suspends an owner with all keys, or lets them work again.
type OwnerStatusRequest struct {
	OwnerRequest
	Status string `json:"status"`
}

// HostedKeyRequest is POST /v3/orgs/{org}/keys/type/{type}: the key that the hosted command line asks for when it
// registers a cluster (keys §4.13).
type HostedKeyRequest struct {
	Org               string          `json:"org" path:"org"`
	KeyType           string          `json:"keyType" path:"type"`
	Name              string          `json:"name"`
	ExpiryDate        string          `json:"expiryDate"`
	Type              string          `json:"type"`
	MembershipOrgName string          `json:"membershipOrgName"`
	Policies          json.RawMessage `json:"policies"`
}

// HostedKeyResponse answers HostedKeyRequest.
type HostedKeyResponse struct {
	APIKey HostedKey `json:"apiKey"`
}

// HostedKey is a new key as hosted clients read it.
type HostedKey struct {
	KeyID      string    `json:"keyId"`
	Name       string    `json:"name"`
	Type       string    `json:"type"`
	Value      string    `json:"value"`
	ExpiryDate time.Time `json:"expiryDate"`
}

// DecisionsRequest is GET /v1/admin/audit; empty members do not restrict (keys §10).
type DecisionsRequest struct {
	KeyID    string `json:"keyId" query:"key_id"`
	OwnerID  string `json:"ownerId" query:"owner_id"`
	Decision string `json:"decision" query:"decision"`
	Since    string `json:"since" query:"since"`
	Until    string `json:"until" query:"until"`
	Page
}

// DecisionsResponse holds decisions, the newest first. NextCursor is there when older ones follow.
type DecisionsResponse struct {
	Decisions  []RecordedDecision `json:"decisions"`
	NextCursor string             `json:"next_cursor,omitempty"`
}

// RecordedDecision is a decision with the id of its event.
type RecordedDecision struct {
	EventID string `json:"event_id"`
	access.Decision
}

// The endpoints of administrators.
var (
	Evaluate        = rpc.Endpoint[EvaluateRequest, EvaluateResponse]{Service: "keys", Resource: "key", Verb: "evaluate", Doc: "What a key may do in a namespace."}
	OwnersKeys      = rpc.Endpoint[OwnersKeysRequest, ListResponse]{Service: "keys", Resource: "owned-key", Verb: "list", Doc: "The keys of an owner at one service, for the service's administrator."}
	OwnersKey       = rpc.Endpoint[OwnersKeyRequest, Key]{Service: "keys", Resource: "owned-key", Verb: "get", Doc: "One key of an owner at one service, for the service's administrator."}
	DeleteOwnersKey = rpc.Endpoint[OwnersKeyRequest, Revocation]{Service: "keys", Resource: "owned-key", Verb: "delete", Doc: "Deletes a key for the service's administrator."}
	SetKeyStatus    = rpc.Endpoint[KeyStatusRequest, Key]{Service: "keys", Resource: "owned-key", Verb: "set-status", Doc: "Suspends a key or lets it work again."}
	SuspendKeys     = rpc.Endpoint[OwnersKeysRequest, ListResponse]{Service: "keys", Resource: "owned-key", Verb: "suspend", Doc: "Suspends every active key of an owner at one service."}
	Lookup          = rpc.Endpoint[LookupRequest, Key]{Service: "keys", Resource: "key", Verb: "lookup", Doc: "The record of a key value, in any state."}
	ReportLeak      = rpc.Endpoint[LookupRequest, rpc.None]{Service: "keys", Resource: "key", Verb: "report-leak", Doc: "Suspends a key that was found in public, and tells nothing about it."}
	GetOwner        = rpc.Endpoint[OwnerRequest, Owner]{Service: "keys", Resource: "owner", Verb: "get", Doc: "An owner and whether it is suspended."}
	SetOwnerStatus  = rpc.Endpoint[OwnerStatusRequest, Owner]{Service: "keys", Resource: "owner", Verb: "set-status", Doc: "Suspends an owner with all keys, or lets them work again."}
	OwnerKeys       = rpc.Endpoint[OwnerKeysRequest, ListResponse]{Service: "keys", Resource: "owner", Verb: "list-keys", Doc: "The keys of an owner at every service."}
	DeleteOwnerKeys = rpc.Endpoint[OwnerRequest, Revocation]{Service: "keys", Resource: "owner", Verb: "delete-keys", Doc: "Deletes every key of an owner."}
	CreateHosted    = rpc.Endpoint[HostedKeyRequest, HostedKeyResponse]{Service: "keys", Resource: "key", Verb: "create-hosted", Doc: "Creates the key of a cluster's registration in the hosted shape."}
	Decisions       = rpc.Endpoint[DecisionsRequest, DecisionsResponse]{Service: "keys", Resource: "decision", Verb: "list", Doc: "The decisions about credentials, newest first."}
)
