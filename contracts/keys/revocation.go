package keys

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// TokenRevocation refuses tokens before they expire. Exactly one of JTI, SigningKey and Subject is set.
type TokenRevocation struct {
	// JTI names one token.
	JTI string `json:"jti,omitempty"`
	// SigningKey refuses every token that a dropped key signed.
	SigningKey string `json:"kid,omitempty"`
	// Subject refuses every token of a user or application that was issued before IssuedBefore.
	Subject      string    `json:"subject,omitempty"`
	IssuedBefore time.Time `json:"issuedBefore,omitzero"`
	// ExpiresAt is when every token that this refuses has expired by itself, so that it may be forgotten.
	ExpiresAt time.Time `json:"expiresAt"`
	Reason    string    `json:"reason,omitempty"`
}

// RevocationsResponse is every revocation that has not expired.
type RevocationsResponse struct {
	Revocations []TokenRevocation `json:"revocations"`
}

// OwnerStatus is the payload of an owner's change: ACTIVE or SUSPENDED. Every cached key of the owner is to be dropped.
type OwnerStatus struct {
	OwnerType string `json:"ownerType"`
	OwnerID   string `json:"ownerId"`
	Status    Status `json:"status"`
}

// Revocations is asked when a gateway starts to follow the events, so that it misses none.
var Revocations = rpc.Endpoint[rpc.None, RevocationsResponse]{Service: "keys", Resource: "token", Verb: "revocations", Doc: "The revocations of tokens that have not expired."}

// The events that end or restore credentials, beside [Revoked].
var (
	Restored     = rpc.Event[Changed]{Domain: event.Keys, Entity: "key", Name: "restored", Version: 1, Doc: "A suspended key works again."}
	TokenRevoked = rpc.Event[TokenRevocation]{Domain: event.Keys, Entity: "token", Name: "withdrawn", Version: 1, Doc: "Tokens are refused before they expire."}
	OwnerMoved   = rpc.Event[OwnerStatus]{Domain: event.Keys, Entity: "owner", Name: "status_changed", Version: 1, Doc: "An owner was suspended or activated; so were its keys."}
	KeysRotated  = rpc.Event[JWKS]{Domain: event.Keys, Entity: "signing-key", Name: "rotated", Version: 1, Doc: "The signing keys changed; verifiers read them anew."}
)
