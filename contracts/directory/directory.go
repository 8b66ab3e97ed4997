// Package directory is the contract of people and programs: the local users and applications of the access API, the
// rules that give them roles, and the tokens they sign in for (spec keys §9).
//
// A subject is a user or an application. What a subject may do follows from its access rules alone: each rule gives it
// one role, and a role is a set of the scopes of package access, so one evaluator serves every API. A token carries the
// scopes that its subject had when it was issued.
//
// The keys service answers for this package. Passwords, secrets, temporary passwords and tokens appear in the answers
// that hand them out and in the requests that prove them, and nowhere else.
package directory

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// TenantID is the one tenant of an install; the access API numbers tenants.
const TenantID = 1

// The grants of POST /api/v1/token by their wire names.
const (
	PasswordGrant      = "password"
	ClientGrant        = "client_credentials"
	RefreshGrant       = "refresh_token"
	AppTokenGrant      = "app_token"
	ExchangeGrant      = "exchange_token"
	ExternalTokenGrant = "external_token_exchange"
)

// GrantRequest asks for tokens. Both token endpoints make it from their own spelling of the members.
type GrantRequest struct {
	GrantType    string `json:"grantType"`
	Username     string `json:"username,omitempty"`
	Password     string `json:"password,omitempty"`
	ClientID     string `json:"clientID,omitempty"`
	ClientSecret string `json:"clientSecret,omitempty"`
	RefreshToken string `json:"refreshToken,omitempty"`
	// Scopes narrow the token to those that the subject has; nil asks for all of them, and unknown ones are ignored.
	Scopes []string `json:"scopes,omitempty"`
}

// Tokens answer a grant.
type Tokens struct {
	AccessToken  string `json:"accessToken"`
	IDToken      string `json:"idToken"`
	RefreshToken string `json:"refreshToken"`
	// ExternalToken is always there and empty: no external identity provider took part.
	ExternalToken string `json:"externalToken"`
	// ExpiresIn is the life of the access token in seconds.
	ExpiresIn int `json:"expiresIn"`
}

// GrantResponse is the answer to a grant with the scopes that were granted.
type GrantResponse struct {
	Tokens
	Scopes []string `json:"scopes"`
}

// StandingRequest asks what a subject may do now.
type StandingRequest struct {
	Subject string `json:"subject"`
}

// StandingResponse answers StandingRequest. A subject that is not here, or disabled, is Known false.
type StandingResponse struct {
	Known   bool     `json:"known"`
	Account string   `json:"account,omitempty"`
	Scopes  []string `json:"scopes,omitempty"`
}

// Page is one part of a long list. The bounds of Limit are the endpoint's.
type Page struct {
	Offset *int `json:"offset,omitempty" query:"offset"`
	Limit  *int `json:"limit,omitempty" query:"limit"`
	// SortBy names a member of the listed objects, SortOrder is asc or desc.
	SortBy    string `json:"sortBy,omitempty" query:"sortBy"`
	SortOrder string `json:"sortOrder,omitempty" query:"sortOrder"`
}

// Grant gives tokens for a proof of identity. A refusal of a client is an unauthorized problem, that of a person or of
// a refresh token a bad_request one, with the same text for every reason; a validation_failed problem names the member.
var Grant = rpc.Endpoint[GrantRequest, GrantResponse]{Service: "keys", Resource: "grant", Verb: "make", Doc: "Gives tokens for a password, a client secret or a refresh token."}

// Standing is what a subject may do by the access rules of this moment, for verifiers that want more than a token says.
var Standing = rpc.Endpoint[StandingRequest, StandingResponse]{Service: "keys", Resource: "subject", Verb: "standing", Doc: "The account and the scopes that a user or an application has now."}

// Moment is a time as the access API writes it: UTC, and null when it never came.
type Moment = *time.Time
