package functions

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
)

// The defaults of §2.4 and §2.5.
const (
	defaultHealthURI     = "/v2/health/ready"
	defaultHealthPort    = 8000
	defaultHealthTimeout = "PT10S"
	defaultHealthStatus  = 200
	grpcURL              = "/grpc"

	formatCustom  = "CUSTOM"
	formatPredict = "PREDICT_V2"
	formatOpenAI  = "OPENAI_CHAT"
)

// tritonArgs serve the models of a version that brings neither an image nor a chart.
const tritonArgs = "tritonserver --model-repository=/config/models --model-control-mode=none" +
	" --allow-metrics=true --allow-gpu-metrics=true --allow-cpu-metrics=true --metrics-interval-ms=500" +
	" --strict-readiness=true --log-error=true --log-warning=true --log-info=true"

// normalise brings the ways of saying one thing to one way, before the rules look at it: blank is absent, an empty
// collection is absent, an enumeration is in upper case, a set has each element once and in the order of the request.
func normalise(s contract.Spec) contract.Spec {
	for _, text := range []*string{
		&s.InferenceURL, &s.ContainerImage, &s.ContainerArgs, &s.HelmChart, &s.HelmChartServiceName, &s.HealthURI, &s.Description,
	} {
		*text = unblank(*text)
	}
	s.APIBodyFormat = strings.ToUpper(unblank(s.APIBodyFormat))
	s.FunctionType = contract.Type(strings.ToUpper(unblank(string(s.FunctionType))))
	s.Tags = distinct(s.Tags)
	s.Resources = distinctArtifacts(s.Resources)
	s.Models = absentIfEmpty(s.Models)
	s.ContainerEnvironment = absentIfEmpty(s.ContainerEnvironment)
	s.RateLimit = normaliseRate(s.RateLimit)
	if t := s.Telemetries; t != nil {
		s.Telemetries = &contract.Telemetries{Logs: unblank(t.Logs), Metrics: unblank(t.Metrics), Traces: unblank(t.Traces)}
	}
	s.LLMInvocationConfig = compact(s.LLMInvocationConfig)
	return s
}

// compact drops the spaces of a JSON text, so that equal texts are equal bytes; null is absent.
func compact(text json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	if len(text) == 0 || json.Compact(&b, text) != nil || b.String() == "null" {
		return nil
	}
	return b.Bytes()
}

func normaliseRate(r *contract.RateLimit) *contract.RateLimit {
	if r == nil {
		return nil
	}
	n := *r
	n.RateLimit, n.PerUserRate, n.ExemptedNCAIDs = unblank(r.RateLimit), unblank(r.PerUserRate), distinct(r.ExemptedNCAIDs)
	if len(n.PerNCAIDRate) == 0 {
		n.PerNCAIDRate = nil
	}
	return &n
}

// complete fills in what a valid specification leaves open. Nothing else is invented: a client that compares the
// answer with its request must find it whole.
func complete(s contract.Spec) contract.Spec {
	if s.FunctionType == "" {
		s.FunctionType = contract.Default
	}
	if s.APIBodyFormat == "" {
		s.APIBodyFormat = formatCustom
	}
	if s.Description == "" {
		s.Description = s.Name
	}
	if s.ContainerImage == "" && s.HelmChart == "" && s.ContainerArgs == "" {
		s.ContainerArgs = tritonArgs
	}
	if s.Health == nil {
		s.Health = defaultHealth(s)
	}
	s.HealthURI = s.Health.URI
	return s
}

func defaultHealth(s contract.Spec) *contract.Health {
	h := contract.Health{
		Protocol: "HTTP", URI: defaultHealthURI, Port: defaultHealthPort,
		Timeout: defaultHealthTimeout, ExpectedStatusCode: defaultHealthStatus,
	}
	if s.InferenceURL == grpcURL {
		h.Protocol = "gRPC"
	}
	if s.HealthURI != "" {
		h.URI = s.HealthURI
	}
	if s.InferencePort != 0 {
		h.Port = s.InferencePort
	}
	return &h
}

func unblank(s string) string {
	if strings.TrimSpace(s) == "" {
		return ""
	}
	return s
}

func absentIfEmpty[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}

func distinct(list []string) []string {
	seen := make(map[string]bool, len(list))
	return absentIfEmpty(slices.DeleteFunc(slices.Clone(list), func(s string) bool {
		again := seen[s]
		seen[s] = true
		return again
	}))
}

func distinctArtifacts(list []contract.Artifact) []contract.Artifact {
	type identity struct{ name, version, uri string }
	seen := make(map[identity]bool, len(list))
	return absentIfEmpty(slices.DeleteFunc(slices.Clone(list), func(a contract.Artifact) bool {
		id := identity{a.Name, a.Version, a.URI}
		again := seen[id]
		seen[id] = true
		return again
	}))
}
