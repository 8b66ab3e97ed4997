// Package functions is the contract of the functions service: functions, their versions, and how the rest of the
// platform resolves what to run (spec functions-deployments §2, §3).
package functions

import (
	"encoding/json"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/instances"
)

// Status of a version (§2.2).
type Status string

// The states of a version.
const (
	Inactive  Status = "INACTIVE"
	Deploying Status = "DEPLOYING"
	Active    Status = "ACTIVE"
	Degrading Status = "DEGRADING"
	Degraded  Status = "DEGRADED"
	Error     Status = "ERROR"
)

// Busy reports whether a version in this state has a deployment that must be changed instead of made anew.
func (s Status) Busy() bool {
	return s == Active || s == Deploying || s == Degrading || s == Degraded
}

// Invocable reports whether a version in this state takes requests.
func (s Status) Invocable() bool { return s == Active || s == Degrading }

// Type of a function.
type Type string

// The types of function.
const (
	Default   Type = "DEFAULT"
	Streaming Type = "STREAMING"
	LLM       Type = "LLM"
)

// Health says how readiness of an instance is probed (§2.4). Timeout is an ISO-8601 duration, echoed as it was sent.
type Health struct {
	Protocol           string `json:"protocol"`
	URI                string `json:"uri"`
	Port               int    `json:"port"`
	Timeout            string `json:"timeout"`
	ExpectedStatusCode int    `json:"expectedStatusCode"`
}

// EnvironmentEntry is one variable of the container. Its value is public in answers, but people put keys there: a refusal
// does not repeat it.
type EnvironmentEntry struct {
	Key   string `json:"key"`
	Value string `json:"value" secret:"true"`
}

// Artifact is a model or a resource.
type Artifact struct {
	Name      string     `json:"name"`
	Version   string     `json:"version,omitempty"`
	URI       string     `json:"uri,omitempty"`
	LLMConfig *LLMConfig `json:"llmConfig,omitempty"`
}

// LLMConfig belongs to a model of an LLM function (§2.5.1).
type LLMConfig struct {
	URIs           []string `json:"uris,omitempty"`
	TokenRateLimit string   `json:"tokenRateLimit,omitempty"`
	Tokenizer      string   `json:"tokenizer,omitempty"`
	RoutingMethod  string   `json:"routingMethod,omitempty"`
}

// Secret is a name with a value; the value is a string or a JSON object. It never leaves the service in an answer. A value
// of null, which deletes, is not the same as none. The tag secret keeps it out of refusals, too.
type Secret struct {
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value,omitempty" secret:"true"`
}

// Telemetries names the sinks of a version.
type Telemetries struct {
	Logs    string `json:"logsTelemetryId,omitempty"`
	Metrics string `json:"metricsTelemetryId,omitempty"`
	Traces  string `json:"tracesTelemetryId,omitempty"`
}

// RateLimit is §2.6.
type RateLimit struct {
	RateLimit      string            `json:"rateLimit,omitempty"`
	ExemptedNCAIDs []string          `json:"exemptedNcaIds,omitempty"`
	PerNCAIDRate   map[string]string `json:"perNcaIdRate,omitempty"`
	PerUserRate    string            `json:"perUserRate,omitempty"`
	SyncCheck      bool              `json:"syncCheck,omitempty"`
}

// Spec is what a client may say about a version, and what is stored of it (§2.5).
type Spec struct {
	Name                 string             `json:"name"`
	InferenceURL         string             `json:"inferenceUrl,omitempty"`
	InferencePort        int                `json:"inferencePort,omitempty"`
	ContainerImage       string             `json:"containerImage,omitempty"`
	ContainerArgs        string             `json:"containerArgs,omitempty"`
	ContainerEnvironment []EnvironmentEntry `json:"containerEnvironment,omitempty"`
	Models               []Artifact         `json:"models,omitempty"`
	Resources            []Artifact         `json:"resources,omitempty"`
	HelmChart            string             `json:"helmChart,omitempty"`
	HelmChartServiceName string             `json:"helmChartServiceName,omitempty"`
	APIBodyFormat        string             `json:"apiBodyFormat,omitempty"`
	FunctionType         Type               `json:"functionType,omitempty"`
	HealthURI            string             `json:"healthUri,omitempty"`
	Health               *Health            `json:"health,omitempty"`
	Description          string             `json:"description,omitempty"`
	Tags                 []string           `json:"tags,omitempty"`
	Telemetries          *Telemetries       `json:"telemetries,omitempty"`
	RateLimit            *RateLimit         `json:"rateLimit,omitempty"`
	LLMInvocationConfig  json.RawMessage    `json:"llmInvocationConfig,omitempty"`
}

// Function is the response object of §2.1: one version.
type Function struct {
	ID        string `json:"id"`
	NCAID     string `json:"ncaId"`
	VersionID string `json:"versionId"`
	Status    Status `json:"status"`
	Spec
	// Secrets are names, never values.
	Secrets                 []string          `json:"secrets,omitempty"`
	ActiveInstances         []instances.Brief `json:"activeInstances,omitempty"`
	OwnedByDifferentAccount bool              `json:"ownedByDifferentAccount,omitempty"`
	CreatedAt               time.Time         `json:"createdAt"`
	// CreationTime repeats CreatedAt for nvcf-cli.
	CreationTime  time.Time  `json:"creationTime"`
	LastUpdatedAt *time.Time `json:"lastUpdatedAt,omitempty"`
}
