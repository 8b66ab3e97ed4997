package functions

import "github.com/sirocco-cloud/sirocco/contracts/rpc"

// AccountUseRequest names an account for another service; no caller is involved.
type AccountUseRequest struct {
	Account string `json:"account"`
}

// AccountUseResponse is what an account has in the functions service: what its details show, and what keeps it from being
// deleted (§10).
type AccountUseResponse struct {
	Account string `json:"account"`
	// Functions counts distinct functions, Versions all their versions.
	Functions int `json:"functions"`
	Versions  int `json:"versions"`
	// AuthorizedParty is true while another account shares a function with this one by name.
	AuthorizedParty     bool                 `json:"authorizedParty"`
	Telemetries         []Telemetry          `json:"telemetries"`
	RegistryCredentials []RegistryCredential `json:"registryCredentials"`
}

// AddRegistryCredentialRequest gives a credential to an account on behalf of whoever administers it.
type AddRegistryCredentialRequest struct {
	Account string `json:"account"`
	// ProvisionedBy is [BySystem] or [ByUser], the default. An account cannot delete what the system brought.
	ProvisionedBy string `json:"provisionedBy,omitempty"`
	// CheckOnly holds the credential against the rules and stores nothing; the account need not exist yet.
	CheckOnly bool `json:"checkOnly,omitempty"`
	NewRegistryCredential
}

// The endpoints for the service that owns accounts.
var (
	AccountUse            = rpc.Endpoint[AccountUseRequest, AccountUseResponse]{Service: "functions", Resource: "account", Verb: "use", Doc: "What an account has in the functions service, for another service."}
	AddRegistryCredential = rpc.Endpoint[AddRegistryCredentialRequest, RegistryCredentialResponse]{Service: "functions", Resource: "registry-credential", Verb: "add", Doc: "Gives a registry credential to an account, for another service."}
)
