package functions

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// ArtifactType is what a registry holds.
type ArtifactType string

// The types of artifact.
const (
	ContainerArtifact ArtifactType = "CONTAINER"
	HelmArtifact      ArtifactType = "HELM"
	ModelArtifact     ArtifactType = "MODEL"
	ResourceArtifact  ArtifactType = "RESOURCE"
)

// ArtifactTypes is every type of artifact, in the order of answers.
var ArtifactTypes = []ArtifactType{ContainerArtifact, HelmArtifact, ModelArtifact, ResourceArtifact}

// Who brought a registry credential: the account, or the operator on its behalf.
const (
	BySystem = "SYSTEM"
	ByUser   = "USER"
)

// LegacyKey is the key type of an NGC key of the older kind.
const LegacyKey = "LEGACY"

// RegistryCredential lets the platform read artifacts of an account from a registry (§7). RegistryCredentialName is the
// name of its secret, whose value never leaves the service in an answer.
type RegistryCredential struct {
	RegistryCredentialID   string         `json:"registryCredentialId"`
	NCAID                  string         `json:"ncaId"`
	RegistryCredentialName string         `json:"registryCredentialName"`
	RegistryName           string         `json:"registryName"`
	RegistryHostname       string         `json:"registryHostname"`
	ArtifactTypes          []ArtifactType `json:"artifactTypes"`
	Tags                   []string       `json:"tags,omitempty"`
	Description            string         `json:"description,omitempty"`
	ProvisionedBy          string         `json:"provisionedBy"`
	KeyType                string         `json:"keyType,omitempty"`
	CreatedAt              time.Time      `json:"createdAt"`
	LastUpdatedAt          time.Time      `json:"lastUpdatedAt"`
}

// NewRegistryCredential is what a client says about a credential. The value of the secret is a JSON string: base64 of
// user:password.
type NewRegistryCredential struct {
	RegistryHostname string         `json:"registryHostname"`
	Secret           *Secret        `json:"secret"`
	ArtifactTypes    []ArtifactType `json:"artifactTypes"`
	Tags             []string       `json:"tags,omitempty"`
	Description      string         `json:"description,omitempty"`
}

// CreateRegistryCredentialRequest is POST /v2/nvcf/registry-credentials.
type CreateRegistryCredentialRequest struct {
	NewRegistryCredential
}

// RegistryCredentialRequest names one credential.
type RegistryCredentialRequest struct {
	RegistryCredentialID string `json:"registryCredentialId" path:"registryCredentialId"`
}

// ListRegistryCredentialsRequest is GET /v2/nvcf/registry-credentials.
type ListRegistryCredentialsRequest struct {
	// ArtifactTypes keeps the credentials that serve one of these; none keeps all.
	ArtifactTypes []string `json:"artifactType,omitempty" query:"artifactType"`
	ProvisionedBy string   `json:"provisionedBy,omitempty" query:"provisionedBy"`
}

// UpdateRegistryCredentialRequest is PATCH /v2/nvcf/registry-credentials/{id}: the types are added to those it has.
type UpdateRegistryCredentialRequest struct {
	RegistryCredentialID string         `json:"registryCredentialId" path:"registryCredentialId"`
	Secret               *Secret        `json:"secret,omitempty"`
	ArtifactTypes        []ArtifactType `json:"artifactTypeEnums,omitempty"`
}

// RegistryCredentialResponse holds one credential.
type RegistryCredentialResponse struct {
	RegistryCredential RegistryCredential `json:"registryCredential"`
}

// RegistryCredentialsResponse holds the credentials of an account.
type RegistryCredentialsResponse struct {
	RegistryCredentials []RegistryCredential `json:"registryCredentials"`
}

// RecognizedRegistry is a registry that functions may take artifacts of one type from.
type RecognizedRegistry struct {
	Name     string `json:"name"`
	Hostname string `json:"hostname"`
}

// RecognizedRegistriesResponse lists the recognised registries of each type by name.
type RecognizedRegistriesResponse struct {
	RecognizedRegistries map[ArtifactType][]RecognizedRegistry `json:"recognizedRegistries"`
}

// The endpoints for clients.
var (
	CreateRegistryCredential = rpc.Endpoint[CreateRegistryCredentialRequest, RegistryCredentialResponse]{Service: "functions", Resource: "registry-credential", Verb: "create", Doc: "Adds a registry credential to an account."}
	ListRegistryCredentials  = rpc.Endpoint[ListRegistryCredentialsRequest, RegistryCredentialsResponse]{Service: "functions", Resource: "registry-credential", Verb: "list", Doc: "The registry credentials of an account."}
	GetRegistryCredential    = rpc.Endpoint[RegistryCredentialRequest, RegistryCredentialResponse]{Service: "functions", Resource: "registry-credential", Verb: "get", Doc: "One registry credential."}
	UpdateRegistryCredential = rpc.Endpoint[UpdateRegistryCredentialRequest, RegistryCredentialResponse]{Service: "functions", Resource: "registry-credential", Verb: "update", Doc: "Replaces the secret of a registry credential or adds artifact types."}
	DeleteRegistryCredential = rpc.Endpoint[RegistryCredentialRequest, rpc.None]{Service: "functions", Resource: "registry-credential", Verb: "delete", Doc: "Deletes a registry credential that no function needs."}
	RecognizedRegistries     = rpc.Endpoint[rpc.None, RecognizedRegistriesResponse]{Service: "functions", Resource: "recognized-registry", Verb: "list", Doc: "The registries that functions may take artifacts from."}
)

// RegistryAuth is a user and a password for one registry. It travels only to the node that pulls, and is never stored
// outside the functions service.
type RegistryAuth struct {
	Hostname string `json:"hostname"`
	Username string `json:"username"`
	Password string `json:"password"`
}

// String hides the password from logs and error texts.
func (a RegistryAuth) String() string { return a.Hostname + " as " + a.Username }

// GoString hides the password from %#v.
func (a RegistryAuth) GoString() string { return a.String() }

// RegistryAuthRequest asks which credential of an account opens the registry of an image.
type RegistryAuthRequest struct {
	Account string `json:"account"`
	Image   string `json:"image"`
}

// RegistryAuthResponse holds the credential; none when the account has none for that registry.
type RegistryAuthResponse struct {
	RegistryAuth *RegistryAuth `json:"registryAuth,omitempty"`
}

// LookupRegistryAuth is for the node that pulls an image which no version names, such as that of a task.
var LookupRegistryAuth = rpc.Endpoint[RegistryAuthRequest, RegistryAuthResponse]{Service: "functions", Resource: "registry-credential", Verb: "lookup", Doc: "The credential that opens the registry of an image, for the node that pulls it."}

// CheckArtifacts holds what a version takes from registries against the account's credentials and the registries
// themselves, as the operator's mode of validation says (§2.7). The answer is empty; in the modes log and off there is
// no refusal.
var CheckArtifacts = rpc.Endpoint[InternalRequest, rpc.None]{Service: "functions", Resource: "version", Verb: "check-artifacts", Doc: "Whether the artifacts of a version can still be had, before it is deployed."}

// The credential events. They hold the public object; the secret is in none of them.
var (
	RegistryCredentialCreated = rpc.Event[RegistryCredentialResponse]{Domain: event.Functions, Entity: "registry-credential", Name: "granted", Version: 1, Doc: "A registry credential was added to an account."}
	RegistryCredentialUpdated = rpc.Event[RegistryCredentialResponse]{Domain: event.Functions, Entity: "registry-credential", Name: "amended", Version: 1, Doc: "A registry credential got another secret or further artifact types."}
	RegistryCredentialDeleted = rpc.Event[RegistryCredentialResponse]{Domain: event.Functions, Entity: "registry-credential", Name: "withdrawn", Version: 1, Doc: "A registry credential was deleted; data is its last state."}
)
