package functions

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Everyone is the account that stands for all accounts: a function shared with it is public.
const Everyone = "*"

// Party is an account that a function or a version is shared with (§5). The client id is deprecated and only echoed.
type Party struct {
	NCAID    string `json:"ncaId"`
	ClientID string `json:"clientId,omitempty"`
}

// ShareTarget names what is shared: a version, or without a version id the function with all its versions.
type ShareTarget struct {
	FunctionID string `json:"functionId" path:"functionId"`
	VersionID  string `json:"versionId,omitempty" path:"versionId"`
}

// ShareRequest is POST /v2/nvcf/authorizations/functions/{functionId}[/versions/{versionId}]: it replaces the parties of
// that level.
type ShareRequest struct {
	ShareTarget
	AuthorizedParties []Party `json:"authorizedParties"`
}

// SharePartyRequest is PATCH …/add and …/remove.
type SharePartyRequest struct {
	ShareTarget
	AuthorizedParty *Party `json:"authorizedParty"`
}

// Shared is a function or a version with the parties of a level, or of both levels merged.
type Shared struct {
	ID                string  `json:"id"`
	NCAID             string  `json:"ncaId"`
	VersionID         string  `json:"versionId,omitempty"`
	AuthorizedParties []Party `json:"authorizedParties"`
}

// SharedResponse holds one of them.
type SharedResponse struct {
	Function Shared `json:"function"`
}

// SharedVersionsResponse holds one element per version.
type SharedVersionsResponse struct {
	Functions []Shared `json:"functions"`
}

// Unshared is what is left to say of a level without parties.
type Unshared struct {
	ID        string `json:"id"`
	NCAID     string `json:"ncaId"`
	VersionID string `json:"versionId,omitempty"`
}

// UnsharedResponse is the answer of DELETE.
type UnsharedResponse struct {
	Function Unshared `json:"function"`
}

// SecretsRequest is PUT /v2/nvcf/secrets/functions/{functionId}/versions/{versionId} (§4): secrets are merged by name, and a
// null value deletes.
type SecretsRequest struct {
	FunctionID string   `json:"functionId" path:"functionId"`
	VersionID  string   `json:"versionId" path:"versionId"`
	IfMatch    string   `json:"ifMatch,omitempty" header:"If-Match"`
	Secrets    []Secret `json:"secrets"`
}

// SecretRequest names one secret of a version.
type SecretRequest struct {
	FunctionID string `json:"functionId" path:"functionId"`
	VersionID  string `json:"versionId" path:"versionId"`
	Name       string `json:"name" path:"name"`
	IfMatch    string `json:"ifMatch,omitempty" header:"If-Match"`
}

// SecretName is a secret without its value.
type SecretName struct {
	Name          string    `json:"name"`
	LastUpdatedAt time.Time `json:"lastUpdatedAt"`
}

// SecretNamesResponse lists the secrets of a version.
type SecretNamesResponse struct {
	Secrets []SecretName `json:"secrets"`
}

// The endpoints of sharing and of secrets.
var (
	Share        = rpc.Endpoint[ShareRequest, SharedResponse]{Service: "functions", Resource: "share", Verb: "set", Doc: "Replaces the accounts that a function or a version is shared with."}
	AddParty     = rpc.Endpoint[SharePartyRequest, SharedResponse]{Service: "functions", Resource: "share", Verb: "add", Doc: "Shares a function or a version with one more account."}
	RemoveParty  = rpc.Endpoint[SharePartyRequest, SharedResponse]{Service: "functions", Resource: "share", Verb: "remove", Doc: "Stops sharing a function or a version with one account."}
	Unshare      = rpc.Endpoint[ShareTarget, UnsharedResponse]{Service: "functions", Resource: "share", Verb: "clear", Doc: "Stops sharing a function or a version."}
	GetShared    = rpc.Endpoint[ShareTarget, SharedResponse]{Service: "functions", Resource: "share", Verb: "get", Doc: "Whom a version is shared with, by itself or through its function."}
	ListShared   = rpc.Endpoint[ShareTarget, SharedVersionsResponse]{Service: "functions", Resource: "share", Verb: "list", Doc: "Whom the versions of a function are shared with."}
	PutSecrets   = rpc.Endpoint[SecretsRequest, rpc.None]{Service: "functions", Resource: "secret", Verb: "put", Doc: "Merges secrets into a version; a null value deletes."}
	DeleteSecret = rpc.Endpoint[SecretRequest, rpc.None]{Service: "functions", Resource: "secret", Verb: "delete", Doc: "Deletes one secret of a version."}
	ListSecrets  = rpc.Endpoint[VersionRequest, SecretNamesResponse]{Service: "functions", Resource: "secret", Verb: "list", Doc: "The names of a version's secrets and when each changed."}
)

// AuthorizationsChanged is the payload of authz_updated: everyone that a version is shared with from now on.
type AuthorizationsChanged struct {
	FunctionID string   `json:"functionId"`
	VersionID  string   `json:"versionId"`
	Accounts   []string `json:"accounts"`
	Public     bool     `json:"public"`
}

// SecretsChanged is the payload of secrets_updated: names, never values. Whoever runs the version asks for the values
// with [Launch].
type SecretsChanged struct {
	FunctionID string `json:"functionId"`
	VersionID  string `json:"versionId"`
	// Changed and Deleted are secrets of the version itself.
	Changed []string `json:"changed,omitempty"`
	Deleted []string `json:"deleted,omitempty"`
	// Telemetries are the telemetry endpoints of the version whose secrets changed, by name.
	Telemetries []string `json:"telemetries,omitempty"`
}

// RateLimitChanged is the payload of ratelimit_updated; a nil limit was removed.
type RateLimitChanged struct {
	FunctionID string     `json:"functionId"`
	VersionID  string     `json:"versionId"`
	RateLimit  *RateLimit `json:"rateLimit,omitempty"`
}

// The events of sharing, secrets and limits.
var (
	AuthorizationsUpdated = rpc.Event[AuthorizationsChanged]{Domain: event.Functions, Entity: "version", Name: "authz_updated", Version: 1, Doc: "A version is shared with other accounts than before."}
	SecretsUpdated        = rpc.Event[SecretsChanged]{Domain: event.Functions, Entity: "version", Name: "secrets_updated", Version: 1, Doc: "Secrets of a version changed; running instances must see the new values."}
	RateLimitUpdated      = rpc.Event[RateLimitChanged]{Domain: event.Functions, Entity: "version", Name: "ratelimit_updated", Version: 1, Doc: "The rate limit of a version changed or was removed."}
)
