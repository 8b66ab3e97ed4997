package functions

import (
	"encoding/json"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// CreateRequest is POST /v2/nvcf/functions and, with FunctionID, POST /v2/nvcf/functions/{functionId}/versions.
type CreateRequest struct {
	FunctionID string `json:"functionId,omitempty" path:"functionId"`
	Spec
	Secrets []Secret `json:"secrets,omitempty"`
}

// VersionRequest names one version.
type VersionRequest struct {
	FunctionID string `json:"functionId" path:"functionId"`
	VersionID  string `json:"versionId" path:"versionId"`
	// IncludeSecrets false leaves the secret names out (§3.6).
	IncludeSecrets *bool `json:"includeSecrets,omitempty" query:"includeSecrets"`
}

// FunctionResponse holds one version.
type FunctionResponse struct {
	Function Function `json:"function"`
}

// ListRequest is GET /v2/nvcf/functions and /functions/ids.
type ListRequest struct {
	Visibility []string `json:"visibility,omitempty" query:"visibility"`
}

// ListResponse holds one element per version.
type ListResponse struct {
	Functions []Function `json:"functions"`
}

// IDsResponse holds distinct function ids.
type IDsResponse struct {
	FunctionIDs []string `json:"functionIds"`
}

// ListVersionsRequest is GET /v2/nvcf/functions/{functionId}/versions.
type ListVersionsRequest struct {
	FunctionID string `json:"functionId" path:"functionId"`
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
}

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
}

// ResolveResponse lists the versions in states other than inactive; which of them take a request is decided by the
// gateway from their status.
type ResolveResponse struct {
	FunctionID string   `json:"functionId"`
	Owner      string   `json:"owner"`
	Targets    []Target `json:"targets"`
}

// The endpoints.
var (
	Create       = rpc.Endpoint[CreateRequest, FunctionResponse]{Service: "functions", Resource: "function", Verb: "create", Doc: "Creates a function, or a version of one."}
	Get          = rpc.Endpoint[VersionRequest, FunctionResponse]{Service: "functions", Resource: "version", Verb: "get", Doc: "One version as its caller may see it."}
	List         = rpc.Endpoint[ListRequest, ListResponse]{Service: "functions", Resource: "function", Verb: "list", Doc: "Every version the caller may see."}
	ListIDs      = rpc.Endpoint[ListRequest, IDsResponse]{Service: "functions", Resource: "function", Verb: "ids", Doc: "The ids of the functions the caller may see."}
	ListVersions = rpc.Endpoint[ListVersionsRequest, ListResponse]{Service: "functions", Resource: "version", Verb: "list", Doc: "The versions of one function."}
	Update       = rpc.Endpoint[UpdateRequest, FunctionResponse]{Service: "functions", Resource: "version", Verb: "update", Doc: "Changes tags, description, limits of a version."}
	Delete       = rpc.Endpoint[VersionRequest, rpc.None]{Service: "functions", Resource: "version", Verb: "delete", Doc: "Deletes a version in any state; its deployment is torn down."}
	Lookup       = rpc.Endpoint[InternalRequest, FunctionResponse]{Service: "functions", Resource: "version", Verb: "lookup", Doc: "One version, for another service."}
	Launch       = rpc.Endpoint[InternalRequest, Launchable]{Service: "functions", Resource: "version", Verb: "launch", Doc: "One version with its secrets, for the node that starts it."}
	SetStatus    = rpc.Endpoint[SetStatusRequest, rpc.None]{Service: "functions", Resource: "version", Verb: "set-status", Doc: "Reports the observed state of a deployed version."}
	Resolve      = rpc.Endpoint[ResolveRequest, ResolveResponse]{Service: "functions", Resource: "version", Verb: "resolve", Doc: "Which versions a caller may invoke."}
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
