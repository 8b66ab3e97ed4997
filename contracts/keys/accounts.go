package keys

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/event"
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

// LookupAccount is how other services learn of an account and its limits. An unknown one is a not_found problem with
// the text "Account with ncaId '<id>' not found".
var LookupAccount = rpc.Endpoint[AccountRequest, AccountResponse]{Service: "keys", Resource: "account", Verb: "lookup", Doc: "An account with its limits, for another service."}

// The account events.
var (
	AccountCreated = rpc.Event[AccountResponse]{Domain: event.Keys, Entity: "account", Name: "opened", Version: 1, Doc: "An account was created."}
	AccountUpdated = rpc.Event[AccountResponse]{Domain: event.Keys, Entity: "account", Name: "changed", Version: 1, Doc: "An account changed its name, limits or clients."}
	AccountDeleted = rpc.Event[AccountResponse]{Domain: event.Keys, Entity: "account", Name: "closed", Version: 1, Doc: "An account was deleted; its keys stop working."}
)
