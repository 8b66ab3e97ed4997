package keys

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/encryption"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// SigningState is where a signing key is in its life: published and not used yet, in use, or still listed for the tokens
// that it signed (keys §6.4).
type SigningState string

// The states of a signing key.
const (
	SigningNext     SigningState = "next"
	SigningCurrent  SigningState = "current"
	SigningPrevious SigningState = "previous"
)

// SigningKey tells about a signing key, never its private half.
type SigningKey struct {
	ID        string       `json:"kid"`
	State     SigningState `json:"state"`
	CreatedAt time.Time    `json:"created_at"`
	// Since is when the key took its state, and Until when it is to leave it: the next one begins to sign, the current one
	// gets its successor, a previous one is listed no more.
	Since time.Time `json:"state_since"`
	Until time.Time `json:"state_until"`
}

// SigningKeysResponse lists the signing keys, the current one first.
type SigningKeysResponse struct {
	Keys []SigningKey `json:"keys"`
}

// RotateSigningKeysRequest is POST /v1/admin/signing-keys/rotate. Without members it publishes a successor now, which
// takes over when every verifier had time to learn of it. Compromised drops a key at once, with every token that it
// signed: the one named by ID, or the current one.
type RotateSigningKeysRequest struct {
	Compromised bool   `json:"compromised"`
	ID          string `json:"kid"`
}

// RevokeTokenRequest is POST /v1/admin/tokens/revoke.
type RevokeTokenRequest struct {
	JTI    string `json:"jti"`
	Reason string `json:"reason"`
}

// The endpoints of an operator who replaces keys.
var (
	SigningKeys       = rpc.Endpoint[rpc.None, SigningKeysResponse]{Service: "keys", Resource: "signing-key", Verb: "list", Doc: "The signing keys and their states."}
	RotateSigningKeys = rpc.Endpoint[RotateSigningKeysRequest, SigningKeysResponse]{Service: "keys", Resource: "signing-key", Verb: "rotate", Doc: "Replaces the signing key, in order or, when it is compromised, at once."}
	RevokeToken       = rpc.Endpoint[RevokeTokenRequest, TokenRevocation]{Service: "keys", Resource: "token", Verb: "revoke", Doc: "Refuses one token from now on."}
	GetEncryption     = rpc.Endpoint[rpc.None, encryption.Keys]{Service: "keys", Resource: "encryption", Verb: "get", Doc: "The key-encryption keys of the keys service."}
	RotateEncryption  = rpc.Endpoint[rpc.None, encryption.Keys]{Service: "keys", Resource: "encryption", Verb: "rotate", Doc: "Replaces the key-encryption key of the keys service; a call during a rotation goes on with it."}
)
