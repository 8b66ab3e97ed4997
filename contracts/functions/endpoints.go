package functions

import (
	"encoding/json"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// CreateRequest is POST /v2/nvcf/functions and, with FunctionID, POST /v2/nvcf/functions/{functionId}/versions.
type CreateRequest struct {
	FunctionID string `json:"functionId,omitempty" path:"functionId"`
	// IdempotencyKey makes a repeated request answer what the first one did, for 24 hours.
	IdempotencyKey string `json:"idempotencyKey,omitempty" header:"Idempotency-Key"`
	// DryRun answers as if the version were created, and creates nothing.
	DryRun bool `json:"dryRun,omitempty" query:"dryRun"`
	Spec
	Secrets []Secret `json:"secrets,omitempty"`
	// UtilsContainerImage is GO, PYTHON or the image of a side-car; there is no side-car here, so it is checked and forgotten.
	UtilsContainerImage string `json:"utilsContainerImage,omitempty"`
}

// VersionRequest names one version.
type VersionRequest struct {
	FunctionID string `json:"functionId" path:"functionId"`
	VersionID  string `json:"versionId" path:"versionId"`
	// IncludeSecrets false leaves the secret names out (§3.6).
	IncludeSecrets *bool `json:"includeSecrets,omitempty" query:"includeSecrets"`
	// IfMatch makes a change happen only to the revision that an earlier answer had in its ETag.
	IfMatch string `json:"ifMatch,omitempty" header:"If-Match"`
}

// FunctionResponse holds one version.
type FunctionResponse struct {
	Function Function `json:"function"`
	// Public is told to other services only: the version is shared with everyone.
	Public bool `json:"public,omitempty"`
	// ETag names the revision of the version.
	ETag string `json:"etag,omitempty" header:"ETag"`
}

// MaxPage is the largest number of elements in one answer of a list.
const MaxPage = 1000

// ListRequest is GET /v2/nvcf/functions and /functions/ids (§3.3). All members but Visibility are opt-in: a client that
// gives none of them gets everything, which the gateway collects page by page.
type ListRequest struct {
	Visibility []string `json:"visibility,omitempty" query:"visibility"`
	// Limit is the number of elements in the answer; with it, nextCursor and total stand beside them.
	Limit  *int   `json:"limit,omitempty" query:"limit"`
	Offset int    `json:"offset,omitempty" query:"offset"`
	Cursor string `json:"cursor,omitempty" query:"cursor"`
	// Status and FunctionType take several values; Name is exact; an element must have every Tag.
	Status       []string `json:"status,omitempty" query:"status"`
	FunctionType []string `json:"functionType,omitempty" query:"functionType"`
	Name         string   `json:"name,omitempty" query:"name"`
	Tag          []string `json:"tag,omitempty" query:"tag"`
	// Sort is createdAt or name, with a minus in front for the other direction; -createdAt without it.
	Sort string `json:"sort,omitempty" query:"sort"`
}

// ListResponse holds one element per version. It is one page; NextCursor asks for the next.
type ListResponse struct {
	NextCursor string     `json:"nextCursor,omitempty"`
	Total      *int       `json:"total,omitempty"`
	Functions  []Function `json:"functions"`
}

// IDsResponse holds distinct function ids, one page of them.
type IDsResponse struct {
	NextCursor  string   `json:"nextCursor,omitempty"`
	Total       *int     `json:"total,omitempty"`
	FunctionIDs []string `json:"functionIds"`
}

// ListVersionsRequest is GET /v2/nvcf/functions/{functionId}/versions.
type ListVersionsRequest struct {
	FunctionID string `json:"functionId" path:"functionId"`
	ListRequest
}

// UpdateRequest is PUT /v2/nvcf/functions/{functionId}/versions/{versionId} (§3.7). A nil field is left as it is.
type UpdateRequest struct {
	FunctionID  string     `json:"functionId" path:"functionId"`
	VersionID   string     `json:"versionId" path:"versionId"`
	Tags        *[]string  `json:"tags"`
	Description *string    `json:"description"`
	RateLimit   *RateLimit `json:"rateLimit"`
	// ModelUpdates change models of an LLM function by name.
	ModelUpdates []ModelUpdate `json:"modelUpdates"`
	// LLMInvocationConfig replaces the priorities of an LLM function (§2.5.2), in all its versions.
	LLMInvocationConfig json.RawMessage `json:"llmInvocationConfig,omitempty"`
	IfMatch             string          `json:"ifMatch,omitempty" header:"If-Match"`
}

// MetadataRequest is PUT /v2/nvcf/metadata/functions/{functionId}/versions/{versionId}: an update in which an empty body
// clears the tags, because that is how one client asks for it.
type MetadataRequest struct{ UpdateRequest }

// ModelUpdate changes one model.
type ModelUpdate struct {
	ModelName string    `json:"modelName"`
	LLMConfig LLMConfig `json:"llmConfig"`
}

// InternalRequest names one version for another service; no caller and no account are involved. An empty FunctionID
// matches any.
type InternalRequest struct {
	FunctionID string `json:"functionId,omitempty"`
	VersionID  string `json:"versionId"`
}

// Launchable is a version with everything an instance of it needs, secret values included. It travels only between
// the functions service, the deployments service and the agent, and is never stored outside the first.
type Launchable struct {
	Function Function `json:"function"`
	Secrets  []Secret `json:"secrets,omitempty"`
	// Telemetries are the endpoints that the version names, each with its secret.
	Telemetries []LaunchTelemetry `json:"telemetries,omitempty"`
	// RegistryAuth opens the registry of the container image, when the account has a credential for it.
	RegistryAuth *RegistryAuth `json:"registryAuth,omitempty"`
}

// SetStatusRequest reports what the deployments service observed. Applying the same status twice changes nothing.
type SetStatusRequest struct {
	VersionID    string `json:"versionId"`
	DeploymentID string `json:"deploymentId"`
	Status       Status `json:"status"`
	// Reason says why, in a code and a sentence.
	Reason Reason `json:"reason"`
}

// Reason explains a state: a stable code, a sentence, and what to do next.
type Reason struct {
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	Action  string `json:"action,omitempty"`
}

// ResolveRequest asks which versions a caller of an account may invoke.
type ResolveRequest struct {
	Account    string `json:"account"`
	FunctionID string `json:"functionId"`
	// VersionID narrows the answer to one version when set.
	VersionID string `json:"versionId,omitempty"`
}

// Target is one version that may be invoked.
type Target struct {
	VersionID    string `json:"versionId"`
	Name         string `json:"name"`
	Status       Status `json:"status"`
	InferenceURL string `json:"inferenceUrl"`
	Type         Type   `json:"functionType"`
	// Public versions may be invoked whatever the resources of a key are.
	Public bool `json:"public,omitempty"`
}

// ResolveResponse lists the versions in states other than inactive; which of them take a request is decided by the
// gateway from their status.
type ResolveResponse struct {
	FunctionID string   `json:"functionId"`
	Owner      string   `json:"owner"`
	Targets    []Target `json:"targets"`
	// Public is set when everybody may invoke a version that was asked for, deployed or not.
	Public bool `json:"public,omitempty"`
}

// The endpoints.
var (
	Create          = rpc.Endpoint[CreateRequest, FunctionResponse]{Service: "functions", Resource: "function", Verb: "create", Doc: "Creates a function, or a version of one."}
	Get             = rpc.Endpoint[VersionRequest, FunctionResponse]{Service: "functions", Resource: "version", Verb: "get", Doc: "One version as its caller may see it."}
	List            = rpc.Endpoint[ListRequest, ListResponse]{Service: "functions", Resource: "function", Verb: "list", Doc: "Every version the caller may see."}
	ListIDs         = rpc.Endpoint[ListRequest, IDsResponse]{Service: "functions", Resource: "function", Verb: "ids", Doc: "The ids of the functions the caller may see."}
	ListVersions    = rpc.Endpoint[ListVersionsRequest, ListResponse]{Service: "functions", Resource: "version", Verb: "list", Doc: "The versions of one function."}
	Update          = rpc.Endpoint[UpdateRequest, FunctionResponse]{Service: "functions", Resource: "version", Verb: "update", Doc: "Changes tags, description, limits of a version."}
	UpdateMetadata  = rpc.Endpoint[MetadataRequest, FunctionResponse]{Service: "functions", Resource: "version", Verb: "update-metadata", Doc: "Changes a version like update; an empty body clears its tags."}
	RemoveRateLimit = rpc.Endpoint[VersionRequest, rpc.None]{Service: "functions", Resource: "version", Verb: "remove-ratelimit", Doc: "Removes the rate limit of a version."}
	Delete          = rpc.Endpoint[VersionRequest, rpc.None]{Service: "functions", Resource: "version", Verb: "delete", Doc: "Deletes a version in any state; its deployment is torn down."}
	Lookup          = rpc.Endpoint[InternalRequest, FunctionResponse]{Service: "functions", Resource: "version", Verb: "lookup", Doc: "One version, for another service."}
	Launch          = rpc.Endpoint[InternalRequest, Launchable]{Service: "functions", Resource: "version", Verb: "launch", Doc: "One version with its secrets, for the node that starts it."}
	SetStatus       = rpc.Endpoint[SetStatusRequest, rpc.None]{Service: "functions", Resource: "version", Verb: "set-status", Doc: "Reports the observed state of a deployed version."}
	Resolve         = rpc.Endpoint[ResolveRequest, ResolveResponse]{Service: "functions", Resource: "version", Verb: "resolve", Doc: "Which versions a caller may invoke."}
)

// Changed is the payload of the version events: the public object without secrets.
type Changed struct {
	Function Function `json:"function"`
}

// StatusChanged is the payload of status_changed.
type StatusChanged struct {
	FunctionID   string `json:"functionId"`
	VersionID    string `json:"versionId"`
	From         Status `json:"from"`
	To           Status `json:"to"`
	DeploymentID string `json:"deploymentId,omitempty"`
	Reason       Reason `json:"reason"`
}

// The events.
var (
	Created     = rpc.Event[Changed]{Domain: event.Functions, Entity: "version", Name: "created", Version: 1, Doc: "A version was created."}
	Updated     = rpc.Event[Changed]{Domain: event.Functions, Entity: "version", Name: "updated", Version: 1, Doc: "Tags, description or limits of a version changed."}
	Deleted     = rpc.Event[Changed]{Domain: event.Functions, Entity: "version", Name: "deleted", Version: 1, Doc: "A version was deleted; data is its last state."}
	StatusMoved = rpc.Event[StatusChanged]{Domain: event.Functions, Entity: "version", Name: "status_changed", Version: 1, Doc: "A version moved to another state."}
)
