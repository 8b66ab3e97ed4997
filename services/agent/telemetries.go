package agent

import (
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
)

// telemetrySlot is one kind of telemetry: the word that its variables have, and the endpoint that a version names for it.
type telemetrySlot struct{ word, id string }

func telemetrySlots(t *functions.Telemetries) []telemetrySlot {
	if t == nil {
		return nil
	}
	slots := []telemetrySlot{{"LOGS", t.Logs}, {"METRICS", t.Metrics}, {"TRACES", t.Traces}}
	return slices.DeleteFunc(slots, func(s telemetrySlot) bool { return s.id == "" })
}

// exporters are the standard variables that point an OpenTelemetry exporter at the endpoints of a version. They are for
// endpoints that speak the protocol themselves, and come before the function's own environment, which may say otherwise.
// What opens an endpoint is not here but in accounts-secrets.json.
func exporters(l functions.Launchable) []string {
	var env []string
	for _, slot := range telemetrySlots(l.Function.Telemetries) {
		i := slices.IndexFunc(l.Telemetries, func(t functions.LaunchTelemetry) bool { return strings.EqualFold(t.TelemetryID, slot.id) })
		if i < 0 || !l.Telemetries[i].SpeaksOTLP() {
			continue
		}
		protocol := "http/protobuf"
		if l.Telemetries[i].Protocol == "GRPC" {
			protocol = "grpc"
		}
		name := "OTEL_EXPORTER_OTLP_" + slot.word
		env = append(env, name+"_ENDPOINT="+l.Telemetries[i].Endpoint, name+"_PROTOCOL="+protocol)
	}
	return env
}

// telemetryIDs name the telemetry endpoints of a version to its instances.
func telemetryIDs(t *functions.Telemetries) []string {
	var env []string
	for _, slot := range telemetrySlots(t) {
		env = append(env, "NVCF_"+slot.word+"_TELEMETRY_ID="+slot.id)
	}
	return env
}
