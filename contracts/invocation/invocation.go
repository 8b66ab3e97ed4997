// Package invocation is the contract of the data plane: the headers clients and containers see, the queues, and the
// record of requests that outlive their first answer (spec invocation §1–§5).
package invocation

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Headers on the wire. Go canonicalises none of these by itself: containers match them in exactly this case.
const (
	HeaderFunctionID        = "function-id"
	HeaderFunctionVersionID = "function-version-id"
	HeaderPollSeconds       = "NVCF-POLL-SECONDS"
	HeaderRequestID         = "NVCF-REQID"
	HeaderStatus            = "NVCF-STATUS"
	HeaderPercentComplete   = "NVCF-PERCENT-COMPLETE"
	HeaderSubject           = "NVCF-SUB"
	HeaderAccount           = "NVCF-NCAID"
	HeaderFunctionName      = "NVCF-FUNCTION-NAME"
	HeaderContainerFunction = "NVCF-FUNCTION-ID"
	HeaderContainerVersion  = "NVCF-FUNCTION-VERSION-ID"
	HeaderRegion            = "NVCF-INVOCATION-REGION"
	HeaderBackend           = "NVCF-BACKEND"
	HeaderInstanceType      = "NVCF-INSTANCETYPE"
	HeaderAssetDir          = "NVCF-ASSET-DIR"
	HeaderLargeOutputDir    = "NVCF-LARGE-OUTPUT-DIR"
	HeaderMaxResponseBytes  = "NVCF-MAX-RESPONSE-SIZE-BYTES"
)

// Values of NVCF-STATUS (invocation §1.7).
const (
	Fulfilled  = "fulfilled"
	InProgress = "in-progress"
	Errored    = "errored"
)

// Poll window limits (invocation §1.6, §1.10).
const (
	DefaultPoll    = 60 * time.Second
	DefaultPollSSE = 1200 * time.Second
	MinPoll        = time.Second
	MaxPoll        = 3600 * time.Second
	// Grace is added to the window before the gateway answers 504.
	Grace = 2 * time.Second
	// Longest is the hard limit of any exchange.
	Longest = time.Hour + 5*time.Second
	// Remembered is how long a detached request can be polled after its first 202.
	Remembered = time.Hour
)

// Queue limits of one version. A queue that is full answers 429.
const (
	QueueMaxMessages = 100_000
	QueueMaxMessage  = 1 << 20
)

// QueueRequest asks for the queue of a version to exist.
type QueueRequest struct {
	VersionID string `json:"versionId"`
}

// DetachRequest records that a request goes on after its client was told 202. It is durable before the 202 is sent.
type DetachRequest struct {
	RequestID  string `json:"requestId"`
	Account    string `json:"account"`
	Subject    string `json:"subject"`
	FunctionID string `json:"functionId"`
	VersionID  string `json:"versionId"`
	// Worker is where the exchange can be attached to again.
	Worker string    `json:"worker"`
	At     time.Time `json:"at"`
}

// RequestQuery names one request.
type RequestQuery struct {
	RequestID string `json:"requestId"`
}

// RequestRecord is what is known about a detached request.
type RequestRecord struct {
	DetachRequest
	State     string    `json:"state"`
	ExpiresAt time.Time `json:"expiresAt"`
}

// FinishRequest ends a detached request: its final answer was delivered.
type FinishRequest struct {
	RequestID string `json:"requestId"`
	Status    int    `json:"status"`
}

// DepthRequest is GET /v2/nvcf/queues/functions/{functionId}[/versions/{versionId}].
type DepthRequest struct {
	FunctionID string `json:"functionId" path:"functionId"`
	VersionID  string `json:"versionId,omitempty" path:"versionId"`
}

// Depth is one queue. Size repeats QueueDepth for nvcf-cli. EstimatedWaitTime, in seconds, is there when it is known: when
// nothing waits, or when the speed of the queue has been seen.
type Depth struct {
	FunctionID     string `json:"functionId"`
	VersionID      string `json:"functionVersionId"`
	FunctionName   string `json:"functionName"`
	FunctionStatus string `json:"functionStatus"`
	QueueDepth     int64  `json:"queueDepth"`
	Size           int64  `json:"size"`
	InFlight       int64  `json:"inFlight"`

	EstimatedWaitTime *int64 `json:"estimatedWaitTime,omitempty"`
}

// DepthResponse answers DepthRequest.
type DepthResponse struct {
	FunctionID string  `json:"functionId"`
	Queues     []Depth `json:"queues"`
}

// PositionRequest is GET /v2/nvcf/queues/{requestId}/position.
type PositionRequest struct {
	RequestID string `json:"requestId" path:"requestId"`
}

// Position is where a request stands: 0 means that it is being processed. Position repeats PositionInQueue for nvcf-cli.
type Position struct {
	FunctionID      string `json:"functionId"`
	VersionID       string `json:"functionVersionId"`
	PositionInQueue int64  `json:"positionInQueue"`
	Position        int64  `json:"position"`
}

// The endpoints.
var (
	EnsureQueue = rpc.Endpoint[QueueRequest, rpc.None]{Service: "invocation", Resource: "queue", Verb: "ensure", Doc: "Makes the queue of a deployed version exist."}
	QueueDepth  = rpc.Endpoint[DepthRequest, DepthResponse]{Service: "invocation", Resource: "queue", Verb: "depth", Doc: "How many requests wait, per version."}
	GetPosition = rpc.Endpoint[PositionRequest, Position]{Service: "invocation", Resource: "queue", Verb: "position", Doc: "Where a request stands in its queue."}
	Detach      = rpc.Endpoint[DetachRequest, rpc.None]{Service: "invocation", Resource: "request", Verb: "detach", Doc: "Records a request that goes on after a 202."}
	Find        = rpc.Endpoint[RequestQuery, RequestRecord]{Service: "invocation", Resource: "request", Verb: "find", Doc: "A detached request, for the gateway that is polled."}
	Finish      = rpc.Endpoint[FinishRequest, rpc.None]{Service: "invocation", Resource: "request", Verb: "finish", Doc: "The final answer of a detached request was delivered."}
)

// RequestChanged is the payload of the request events; it never holds content.
type RequestChanged struct {
	RequestID  string `json:"requestId"`
	FunctionID string `json:"functionId"`
	VersionID  string `json:"versionId"`
	Worker     string `json:"worker,omitempty"`
	Status     int    `json:"status,omitempty"`
}

// QueueChanged is the payload of the queue events.
type QueueChanged struct {
	VersionID string `json:"versionId"`
	Stream    string `json:"stream"`
}

// The events.
var (
	Detached      = rpc.Event[RequestChanged]{Domain: event.Invocations, Entity: "request", Name: "detached", Version: 1, Doc: "A request goes on after its client was told 202."}
	Finished      = rpc.Event[RequestChanged]{Domain: event.Invocations, Entity: "request", Name: "finished", Version: 1, Doc: "The final answer of a detached request was delivered."}
	QueueProvided = rpc.Event[QueueChanged]{Domain: event.Invocations, Entity: "queue", Name: "provisioned", Version: 1, Doc: "The queue of a version exists."}
	QueueRemoved  = rpc.Event[QueueChanged]{Domain: event.Invocations, Entity: "queue", Name: "removed", Version: 1, Doc: "The queue of a version is gone."}
)
