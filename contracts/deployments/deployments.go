// Package deployments is the contract of the deployments service: what is wanted to run, where it was placed and how
// it is doing (spec functions-deployments §11).
package deployments

import (
	"encoding/json"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Specification is a GPU specification (§11.1): as a client sends it, and as it is stored and returned. Gpu and
// instanceType come back in the spelling that was sent, and specifications in the order that was sent.
type Specification struct {
	ID                    string          `json:"gpuSpecificationId,omitempty"`
	GPU                   string          `json:"gpu"`
	InstanceType          string          `json:"instanceType"`
	MinInstances          *int            `json:"minInstances"`
	MaxInstances          *int            `json:"maxInstances"`
	MaxRequestConcurrency *int            `json:"maxRequestConcurrency,omitempty"`
	Backend               string          `json:"backend,omitempty"`
	Clusters              []string        `json:"clusters,omitempty"`
	Regions               []string        `json:"regions,omitempty"`
	AvailabilityZones     []string        `json:"availabilityZones,omitempty"`
	Attributes            []string        `json:"attributes,omitempty"`
	PreferredOrder        *int            `json:"preferredOrder,omitempty"`
	Configuration         json.RawMessage `json:"configuration,omitempty"`
	Autoscaling           json.RawMessage `json:"autoscalingConfiguration,omitempty"`
	HelmValidationPolicy  json.RawMessage `json:"helmValidationPolicy,omitempty"`
	// What an instance of the type has; a client may send it, the inventory knows it better.
	CPUArch       string `json:"cpuArch,omitempty"`
	OS            string `json:"os,omitempty"`
	DriverVersion string `json:"driverVersion,omitempty"`
	Storage       string `json:"storage,omitempty"`
	SystemMemory  string `json:"systemMemory,omitempty"`
	GPUMemory     string `json:"gpuMemory,omitempty"`
}

// HealthInfo is one element of healthInfo (§11.3).
type HealthInfo struct {
	ICMSRequestID string   `json:"icmsRequestId"`
	SISRequestID  string   `json:"sisRequestId"`
	GPU           string   `json:"gpu"`
	Backend       string   `json:"backend,omitempty"`
	InstanceType  string   `json:"instanceType"`
	Error         string   `json:"error"`
	Status        string   `json:"status,omitempty"`
	Message       string   `json:"message,omitempty"`
	Reason        string   `json:"reason,omitempty"`
	InstanceID    string   `json:"instanceId,omitempty"`
	Logs          []string `json:"logs,omitempty"`
}

// Deployment is the response object of §11.3. Status and CreationTime repeat other members for nvcf-cli.
type Deployment struct {
	ID             string           `json:"deploymentId"`
	FunctionID     string           `json:"functionId"`
	VersionID      string           `json:"functionVersionId"`
	FunctionName   string           `json:"functionName"`
	NCAID          string           `json:"ncaId"`
	FunctionStatus functions.Status `json:"functionStatus"`
	Status         functions.Status `json:"status"`
	Specifications []Specification  `json:"deploymentSpecifications"`
	HealthInfo     []HealthInfo     `json:"healthInfo,omitempty"`
	// Reason explains a status that is not ACTIVE: what is waited for and what to do.
	Reason *functions.Reason `json:"reason,omitempty"`
	// Instances are the live ones, and the last failed one per specification.
	Instances     []instances.Brief `json:"instances,omitempty"`
	CreatedAt     time.Time         `json:"createdAt"`
	CreationTime  time.Time         `json:"creationTime"`
	LastUpdatedAt time.Time         `json:"lastUpdatedAt"`
}

// CreateRequest is POST and PUT /v2/nvcf/deployments/functions/{functionId}/versions/{versionId}.
type CreateRequest struct {
	FunctionID string `json:"functionId" path:"functionId"`
	VersionID  string `json:"versionId" path:"versionId"`
	// IdempotencyKey makes a repeated POST answer what the first one did, for 24 hours.
	IdempotencyKey string `json:"idempotencyKey,omitempty" header:"Idempotency-Key"`
	// IfMatch makes a PUT happen only to what an earlier answer had in its ETag.
	IfMatch        string          `json:"ifMatch,omitempty" header:"If-Match"`
	Specifications []Specification `json:"deploymentSpecifications"`
}

// VersionRequest names the deployment of a version.
type VersionRequest struct {
	FunctionID string `json:"functionId" path:"functionId"`
	VersionID  string `json:"versionId" path:"versionId"`
}

// DeleteRequest is DELETE of the same path.
type DeleteRequest struct {
	FunctionID string `json:"functionId" path:"functionId"`
	VersionID  string `json:"versionId" path:"versionId"`
	Graceful   bool   `json:"graceful" query:"graceful"`
	// GracePeriod bounds a graceful drain: an ISO-8601 duration or a number of seconds; PT0S is a forced undeploy.
	GracePeriod string `json:"gracePeriod,omitempty" query:"gracePeriod"`
	IfMatch     string `json:"ifMatch,omitempty" header:"If-Match"`
}

// IDRequest is GET /v2/nvcf/deployments/{deploymentId}.
type IDRequest struct {
	ID string `json:"deploymentId" path:"deploymentId"`
}

// ListRequest is GET /v2/nvcf/deployments; every filter is optional, and without a limit the answer is complete.
type ListRequest struct {
	Status     []string `json:"status,omitempty" query:"status"`
	FunctionID string   `json:"functionId,omitempty" query:"functionId"`
	Limit      *int     `json:"limit,omitempty" query:"limit"`
	// Cursor is that of the page before.
	Cursor string `json:"cursor,omitempty" query:"cursor"`
}

// PatchRequest is PATCH /v2/nvcf/deployments/{deploymentId}/gpu-specifications/{gpuSpecificationId} (§11.7).
type PatchRequest struct {
	DeploymentID      string          `json:"deploymentId" path:"deploymentId"`
	ID                string          `json:"gpuSpecificationId" path:"gpuSpecificationId"`
	MinInstances      *int            `json:"minInstances"`
	MaxInstances      *int            `json:"maxInstances"`
	Autoscaling       json.RawMessage `json:"autoscalingConfiguration"`
	AutoscalingPolicy string          `json:"autoscalingConfigurationPolicy"`
	IfMatch           string          `json:"ifMatch,omitempty" header:"If-Match"`
}

// Response holds one deployment.
type Response struct {
	Deployment Deployment `json:"deployment"`
	// ETag names what was asked for, for If-Match.
	ETag string `json:"etag,omitempty" header:"ETag"`
}

// ListResponse holds the deployments of the account that are busy or failed; NextCursor is there when more may follow.
type ListResponse struct {
	Deployments []Deployment `json:"deployments"`
	NextCursor  string       `json:"nextCursor,omitempty"`
}

// PatchResponse holds one specification.
type PatchResponse struct {
	Specification Specification `json:"gpuSpecification"`
	ETag          string        `json:"etag,omitempty" header:"ETag"`
}

// InstancesRequest asks for the instances of one version, for the details view of functions.
type InstancesRequest struct {
	VersionID string `json:"versionId"`
}

// InstancesResponse answers InstancesRequest with the live instances.
type InstancesResponse struct {
	Instances []instances.Brief `json:"instances"`
}

// WakeRequest says that work waits for a version that has no instance. Repeating it is harmless.
type WakeRequest struct {
	VersionID string `json:"versionId"`
}

// ScaleRequest sets how many instances a version shall have, or one of its specifications (§11.10).
type ScaleRequest struct {
	VersionID string `json:"versionId"`
	// DeploymentID and GPUSpecificationID, when they are given, must be of the version.
	DeploymentID       string `json:"deploymentId,omitempty"`
	GPUSpecificationID string `json:"gpuSpecificationId,omitempty"`
	Required           *int   `json:"requiredNumberOfInstances"`
	// Reason is a sentence for the record.
	Reason string `json:"reason,omitempty"`
}

// ScaleOutcome is what came of a ScaleRequest.
type ScaleOutcome string

// The outcomes: the version is not ACTIVE, it has what is required, more or less is wanted now, or it is at its limit.
const (
	NoOperation     ScaleOutcome = "NO_OPERATION"
	NoScalingNeeded ScaleOutcome = "NO_SCALING_NEEDED"
	ScalingUp       ScaleOutcome = "SCALING_UP"
	ScalingDown     ScaleOutcome = "SCALING_DOWN"
	NotAutoScalable ScaleOutcome = "NOT_AUTO_SCALABLE"
)

// ScaleResponse answers a ScaleRequest. Pending instances start, allocating ones have no place yet.
type ScaleResponse struct {
	Outcome              ScaleOutcome     `json:"scalingStatus"`
	Status               functions.Status `json:"functionStatus"`
	ActiveInstances      int              `json:"activeInstances"`
	PendingInstances     int              `json:"pendingInstances"`
	AllocatingInstances  int              `json:"allocatingInstances"`
	TerminatingInstances int              `json:"terminatingInstances"`
}

// The endpoints.
var (
	Create    = rpc.Endpoint[CreateRequest, Response]{Service: "deployments", Resource: "deployment", Verb: "create", Doc: "Deploys a version."}
	Replace   = rpc.Endpoint[CreateRequest, Response]{Service: "deployments", Resource: "deployment", Verb: "replace", Doc: "Changes instance counts and concurrency of every specification (deprecated PUT)."}
	Get       = rpc.Endpoint[VersionRequest, Response]{Service: "deployments", Resource: "deployment", Verb: "get", Doc: "The deployment of a version."}
	GetByID   = rpc.Endpoint[IDRequest, Response]{Service: "deployments", Resource: "deployment", Verb: "find", Doc: "One deployment by id."}
	List      = rpc.Endpoint[ListRequest, ListResponse]{Service: "deployments", Resource: "deployment", Verb: "list", Doc: "The deployments of the account."}
	Delete    = rpc.Endpoint[DeleteRequest, functions.FunctionResponse]{Service: "deployments", Resource: "deployment", Verb: "delete", Doc: "Undeploys a version."}
	Patch     = rpc.Endpoint[PatchRequest, PatchResponse]{Service: "deployments", Resource: "specification", Verb: "patch", Doc: "Changes one GPU specification."}
	Instances = rpc.Endpoint[InstancesRequest, InstancesResponse]{Service: "deployments", Resource: "instance", Verb: "list", Doc: "The live instances of a version."}
	Wake      = rpc.Endpoint[WakeRequest, rpc.None]{Service: "deployments", Resource: "version", Verb: "wake", Doc: "Work waits for a version without instances."}
	Scale     = rpc.Endpoint[ScaleRequest, ScaleResponse]{Service: "deployments", Resource: "version", Verb: "scale", Doc: "Sets how many instances an ACTIVE version shall have, within its bounds."}
)

// Changed is the payload of created, updated and removed; Before is the deployment as it was, where there was one.
type Changed struct {
	Deployment Deployment  `json:"deployment"`
	Before     *Deployment `json:"before,omitempty"`
	Graceful   bool        `json:"graceful,omitempty"`
}

// ScaleDecided says why the number of wanted instances changed.
type ScaleDecided struct {
	DeploymentID       string `json:"deploymentId"`
	VersionID          string `json:"versionId"`
	GPUSpecificationID string `json:"gpuSpecificationId"`
	From               int    `json:"fromDesired"`
	To                 int    `json:"toDesired"`
	// Cause is user, zero (work waits for a version that wants no instance), idle (no request for a while), busy (an
	// instance that was to end has a request again), autoscaler (a scale call), capacity (a better specification is full) or
	// drain; Reason says it in a sentence.
	Cause  string `json:"cause"`
	Reason string `json:"reason,omitempty"`
}

// InstancesOrdered says which instances an administrator had replaced or ended.
type InstancesOrdered struct {
	DeploymentID string            `json:"deploymentId"`
	VersionID    string            `json:"versionId"`
	Instances    []instances.Brief `json:"instances"`
}

// Placed says where an instance was put and why not elsewhere.
type Placed struct {
	Order   instances.LaunchOrder `json:"order"`
	Cluster string                `json:"cluster"`
	Node    string                `json:"node"`
	// Rejected counts the candidates per reason.
	Rejected map[string]int `json:"rejected,omitempty"`
}

// Unplaced says why no node could take an instance.
type Unplaced struct {
	DeploymentID       string         `json:"deploymentId"`
	VersionID          string         `json:"versionId"`
	GPUSpecificationID string         `json:"gpuSpecificationId"`
	Reason             string         `json:"reason"`
	Rejected           map[string]int `json:"rejected,omitempty"`
}

// Health says what is wrong with the instances of a deployment; without an element, nothing is any more.
type Health struct {
	DeploymentID string           `json:"deploymentId"`
	VersionID    string           `json:"versionId"`
	Status       functions.Status `json:"status"`
	HealthInfo   []HealthInfo     `json:"healthInfo"`
}

// The events.
var (
	Created          = rpc.Event[Changed]{Domain: event.Deployments, Entity: "deployment", Name: "created", Version: 1, Doc: "A version was deployed."}
	Updated          = rpc.Event[Changed]{Domain: event.Deployments, Entity: "deployment", Name: "updated", Version: 1, Doc: "A deployment's specifications changed."}
	DrainStarted     = rpc.Event[Changed]{Domain: event.Deployments, Entity: "deployment", Name: "drain_started", Version: 1, Doc: "A deployment is being removed; its instances drain."}
	Removed          = rpc.Event[Changed]{Domain: event.Deployments, Entity: "deployment", Name: "removed", Version: 1, Doc: "A deployment and its instances are gone."}
	ScaleChanged     = rpc.Event[ScaleDecided]{Domain: event.Deployments, Entity: "deployment", Name: "scale_decided", Version: 1, Doc: "The number of wanted instances changed."}
	HealthChanged    = rpc.Event[Health]{Domain: event.Deployments, Entity: "deployment", Name: "health_changed", Version: 1, Doc: "What is wrong with the instances of a deployment changed."}
	RolledOver       = rpc.Event[InstancesOrdered]{Domain: event.Deployments, Entity: "deployment", Name: "rollover_ordered", Version: 1, Doc: "An administrator has instances replaced by new ones."}
	InstanceEnded    = rpc.Event[InstancesOrdered]{Domain: event.Deployments, Entity: "instance", Name: "removal_ordered", Version: 1, Doc: "An administrator has one instance ended."}
	InstancePlaced   = rpc.Event[Placed]{Domain: event.Deployments, Entity: "instance", Name: "placed", Version: 1, Doc: "An instance was given devices on a node."}
	InstanceUnplaced = rpc.Event[Unplaced]{Domain: event.Deployments, Entity: "instance", Name: "unplaced", Version: 1, Doc: "No node can take an instance now."}
)
