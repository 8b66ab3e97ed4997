package functions

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Telemetry is a sink of an account for the logs, metrics or traces of its versions (§6). Name is the name of its
// secret, whose value never leaves the service in an answer.
type Telemetry struct {
	TelemetryID string    `json:"telemetryId"`
	Name        string    `json:"name"`
	Endpoint    string    `json:"endpoint"`
	Protocol    string    `json:"protocol"`
	Provider    string    `json:"provider"`
	Types       []string  `json:"types"`
	CreatedAt   time.Time `json:"createdAt"`
}

// LaunchTelemetry is a telemetry endpoint as an instance gets it. Secret has its name and its value.
type LaunchTelemetry struct {
	Telemetry
	Secret Secret `json:"secret"`
}

// SpeaksOTLP reports whether the endpoint takes the OpenTelemetry protocol itself, so that an exporter can be pointed at it.
func (t Telemetry) SpeaksOTLP() bool {
	return t.Provider == "OTEL_COLLECTOR" || t.Provider == "GRAFANA_CLOUD"
}

// The values of [Telemetry] (§6).
var (
	TelemetryProtocols = []string{"HTTP", "GRPC"}
	TelemetryProviders = []string{
		"PROMETHEUS", "GRAFANA_CLOUD", "SPLUNK", "DATADOG", "SERVICENOW", "KRATOS", "KRATOS_THANOS", "TIMESTREAM",
		"VICTORIAMETRICS", "AZURE_MONITOR", "OTEL_COLLECTOR",
	}
	TelemetryTypes = []string{TelemetryLogs, TelemetryMetrics, TelemetryTraces}
)

// The types of telemetry.
const (
	TelemetryLogs    = "LOGS"
	TelemetryMetrics = "METRICS"
	TelemetryTraces  = "TRACES"
)

// CreateTelemetryRequest is POST /v2/nvcf/telemetries.
type CreateTelemetryRequest struct {
	Endpoint string   `json:"endpoint"`
	Protocol string   `json:"protocol"`
	Provider string   `json:"provider"`
	Types    []string `json:"types"`
	Secret   *Secret  `json:"secret"`
}

// TelemetryRequest names one telemetry endpoint.
type TelemetryRequest struct {
	TelemetryID string `json:"telemetryId" path:"telemetryId"`
}

// TelemetryResponse holds one telemetry endpoint.
type TelemetryResponse struct {
	Telemetry Telemetry `json:"telemetry"`
}

// TelemetriesResponse holds the telemetry endpoints of an account.
type TelemetriesResponse struct {
	Telemetries []Telemetry `json:"telemetries"`
}

// TelemetrySecretRequest is PUT /v2/nvcf/secrets/telemetries/{telemetryId} (§4).
type TelemetrySecretRequest struct {
	TelemetryID string  `json:"telemetryId" path:"telemetryId"`
	Secret      *Secret `json:"secret"`
}

// The endpoints for clients.
var (
	CreateTelemetry    = rpc.Endpoint[CreateTelemetryRequest, TelemetryResponse]{Service: "functions", Resource: "telemetry", Verb: "create", Doc: "Adds a telemetry endpoint to an account."}
	ListTelemetries    = rpc.Endpoint[rpc.None, TelemetriesResponse]{Service: "functions", Resource: "telemetry", Verb: "list", Doc: "The telemetry endpoints of an account."}
	GetTelemetry       = rpc.Endpoint[TelemetryRequest, TelemetryResponse]{Service: "functions", Resource: "telemetry", Verb: "get", Doc: "One telemetry endpoint."}
	DeleteTelemetry    = rpc.Endpoint[TelemetryRequest, rpc.None]{Service: "functions", Resource: "telemetry", Verb: "delete", Doc: "Deletes a telemetry endpoint that no version uses."}
	SetTelemetrySecret = rpc.Endpoint[TelemetrySecretRequest, rpc.None]{Service: "functions", Resource: "telemetry", Verb: "set-secret", Doc: "Replaces the secret of a telemetry endpoint."}
)

// TelemetrySlots asks, for another service, whether an account has the telemetry endpoints that a task or function
// names, and whether each is of the type of its slot. The answer is empty; a refusal is not_found or bad_request.
type TelemetrySlots struct {
	Account     string      `json:"account"`
	Telemetries Telemetries `json:"telemetries"`
}

// CheckTelemetries is how the tasks service holds a task's telemetries against the account's.
var CheckTelemetries = rpc.Endpoint[TelemetrySlots, rpc.None]{Service: "functions", Resource: "telemetry", Verb: "check", Doc: "Whether telemetry endpoints exist and fit their slots, for another service."}

// The telemetry events. They hold the public object; the secret is in none of them.
var (
	TelemetryCreated       = rpc.Event[TelemetryResponse]{Domain: event.Functions, Entity: "telemetry", Name: "attached", Version: 1, Doc: "A telemetry endpoint was added to an account."}
	TelemetrySecretChanged = rpc.Event[TelemetryResponse]{Domain: event.Functions, Entity: "telemetry", Name: "resealed", Version: 1, Doc: "The secret of a telemetry endpoint was replaced."}
	TelemetryDeleted       = rpc.Event[TelemetryResponse]{Domain: event.Functions, Entity: "telemetry", Name: "detached", Version: 1, Doc: "A telemetry endpoint was deleted; data is its last state."}
)
