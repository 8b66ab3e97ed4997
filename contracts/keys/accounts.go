package keys

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Account is a tenant (functions-deployments §10). It owns functions, tasks and credentials.
type Account struct {
	NCAID                         string    `json:"ncaId"`
	Name                          string    `json:"name"`
	AdminClientIDs                []string  `json:"adminClientIds"`
	MaxFunctionsAllowed           int       `json:"maxFunctionsAllowed"`
	MaxTasksAllowed               int       `json:"maxTasksAllowed"`
	MaxTelemetriesAllowed         int       `json:"maxTelemetriesAllowed"`
	MaxRegistryCredentialsAllowed int       `json:"maxRegistryCredentialsAllowed"`
	LastUpdatedAt                 time.Time `json:"lastUpdatedAt"`
}

// AccountRequest names an account.
type AccountRequest struct {
	NCAID string `json:"ncaId" path:"ncaId"`
}

// AccountResponse holds an account.
type AccountResponse struct {
	Account Account `json:"account"`
}

// CreateAccountRequest is POST /v2/nvcf/accounts/{ncaId}. Limits that are left out are the operator's.
type CreateAccountRequest struct {
	NCAID               string                            `json:"ncaId" path:"ncaId"`
	Name                string                            `json:"name"`
	AdminClientID       string                            `json:"adminClientId,omitempty"`
	RegistryCredentials []functions.NewRegistryCredential `json:"registryCredentials,omitempty"`
	AccountLimits
}

// AccountLimits are the bounds of an account; absent members stay as they are.
type AccountLimits struct {
	MaxFunctionsAllowed           *int `json:"maxFunctionsAllowed,omitempty"`
	MaxTasksAllowed               *int `json:"maxTasksAllowed,omitempty"`
	MaxTelemetriesAllowed         *int `json:"maxTelemetriesAllowed,omitempty"`
	MaxRegistryCredentialsAllowed *int `json:"maxRegistryCredentialsAllowed,omitempty"`
}

// UpdateAccountRequest is PATCH /v2/nvcf/accounts/{ncaId}; at least one member must be there.
type UpdateAccountRequest struct {
	NCAID string  `json:"ncaId" path:"ncaId"`
	Name  *string `json:"name,omitempty"`
	AccountLimits
}

// AccountClientRequest binds a client to an account, or takes it away.
type AccountClientRequest struct {
	NCAID         string `json:"ncaId" path:"ncaId"`
	AdminClientID string `json:"adminClientId"`
}

// AccountDetails is an account with what it has in other services. Secrets are never part of it.
type AccountDetails struct {
	NCAID                         string                         `json:"ncaId"`
	ClientIDs                     []string                       `json:"clientIds"`
	Name                          string                         `json:"name"`
	Telemetries                   []functions.Telemetry          `json:"telemetries"`
	RegistryCredentials           []functions.RegistryCredential `json:"registryCredentials"`
	MaxFunctionsAllowed           int                            `json:"maxFunctionsAllowed"`
	MaxTasksAllowed               int                            `json:"maxTasksAllowed"`
	MaxTelemetriesAllowed         int                            `json:"maxTelemetriesAllowed"`
	MaxRegistryCredentialsAllowed int                            `json:"maxRegistryCredentialsAllowed"`
	CurrentNumberFunctions        int                            `json:"currentNumberFunctions"`
	LastUpdatedAt                 time.Time                      `json:"lastUpdatedAt"`
}

// AccountDetailsResponse holds the details of an account.
type AccountDetailsResponse struct {
	Account AccountDetails `json:"account"`
}

// AccountsRequest asks for the accounts, by id, in pages of at most Limit.
type AccountsRequest struct{ Page }

// AccountsResponse lists accounts. NextCursor is there when more follow.
type AccountsResponse struct {
	CloudAccounts []Account `json:"cloudAccounts"`
	NextCursor    string    `json:"nextCursor,omitempty"`
}

// AccountClient is a client with the account that it acts for.
type AccountClient struct {
	ClientID string `json:"clientId"`
	NCAID    string `json:"ncaId"`
	Name     string `json:"name"`
}

// AccountClientResponse holds a client.
type AccountClientResponse struct {
	Client AccountClient `json:"client"`
}

// ReadClientRequest names a client, and the account that it must be of when the path has one.
type ReadClientRequest struct {
	ClientID string `json:"clientId" path:"clientId"`
	NCAID    string `json:"ncaId" path:"ncaId"`
}

// The endpoints of accounts and clients.
var (
	CreateAccount      = rpc.Endpoint[CreateAccountRequest, AccountResponse]{Service: "keys", Resource: "account", Verb: "create", Doc: "Creates an account."}
	Accounts           = rpc.Endpoint[AccountsRequest, AccountsResponse]{Service: "keys", Resource: "account", Verb: "list", Doc: "The accounts; a key sees its own."}
	GetAccount         = rpc.Endpoint[AccountRequest, AccountDetailsResponse]{Service: "keys", Resource: "account", Verb: "get", Doc: "An account with its clients, telemetry endpoints and registry credentials."}
	UpdateAccount      = rpc.Endpoint[UpdateAccountRequest, AccountResponse]{Service: "keys", Resource: "account", Verb: "update", Doc: "Changes the name and limits of an account."}
	DeleteAccount      = rpc.Endpoint[AccountRequest, rpc.None]{Service: "keys", Resource: "account", Verb: "delete", Doc: "Deletes an account that owns nothing; its keys and the tokens of its clients stop working."}
	AssociateClient    = rpc.Endpoint[AccountClientRequest, AccountResponse]{Service: "keys", Resource: "account", Verb: "associate", Doc: "Binds a client to an account."}
	DisassociateClient = rpc.Endpoint[AccountClientRequest, AccountResponse]{Service: "keys", Resource: "account", Verb: "disassociate", Doc: "Takes a client away from an account; its tokens stop working."}
	ReadClient         = rpc.Endpoint[ReadClientRequest, AccountClientResponse]{Service: "keys", Resource: "client", Verb: "read", Doc: "A client and its account."}
)

// LookupAccount is how other services learn of an account and its limits. An unknown one is a not_found problem with
// the text "Account with ncaId '<id>' not found".
var LookupAccount = rpc.Endpoint[AccountRequest, AccountResponse]{Service: "keys", Resource: "account", Verb: "lookup", Doc: "An account with its limits, for another service."}

// The account events.
var (
	AccountCreated = rpc.Event[AccountResponse]{Domain: event.Keys, Entity: "account", Name: "opened", Version: 1, Doc: "An account was created."}
	AccountUpdated = rpc.Event[AccountResponse]{Domain: event.Keys, Entity: "account", Name: "changed", Version: 1, Doc: "An account changed its name, limits or clients."}
	AccountDeleted = rpc.Event[AccountResponse]{Domain: event.Keys, Entity: "account", Name: "closed", Version: 1, Doc: "An account was deleted; its keys stop working."}
)
