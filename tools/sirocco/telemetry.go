package main

import (
	"net/http"

	"github.com/spf13/cobra"
)

var telemetryTable = columns("ID", "telemetryId", "Name", "name", "Provider", "provider", "Protocol", "protocol", "Types", "types", "Endpoint", "endpoint", "Created", "createdAt")

// newTelemetry is telemetry endpoints (functions-deployments §6).
func newTelemetry(s *session) *cobra.Command {
	const one, all = "/v2/nvcf/telemetries/{ID}", "/v2/nvcf/telemetries"
	secret := member{flag: "secret", name: "secret", kind: secretFrom, required: true, usage: "name of the credential and the file that holds it: NAME=@FILE, or NAME=@- for standard input"}
	return noun(s, "telemetry", "Telemetry endpoints: where logs, metrics and traces of functions go",
		"A function names telemetry endpoints by their ids; its instances then send there.", []verb{
			{
				use: "create ENDPOINT", short: "Add a telemetry endpoint",
				example: "  sirocco telemetry create https://otlp.example.net/otlp --provider GRAFANA_CLOUD --type LOGS,METRICS --secret grafana-key=@key-file",
				method:  http.MethodPost, path: all, argument: "endpoint", table: table{member: "telemetry", columns: telemetryTable},
				members: []member{
					{flag: "provider", name: "provider", required: true, usage: "PROMETHEUS, GRAFANA_CLOUD, SPLUNK, DATADOG, OTEL_COLLECTOR, …"},
					{flag: "protocol", name: "protocol", usage: "HTTP (default) or GRPC"},
					{flag: "type", name: "types", kind: inCapitals, required: true, usage: "LOGS, METRICS, TRACES; repeat for several"},
					secret,
				},
				complete: func(body map[string]any) error {
					if body["protocol"] == nil {
						body["protocol"] = "HTTP"
					}
					return nil
				},
			},
			{use: "list", short: "List telemetry endpoints", method: http.MethodGet, path: all, table: table{member: "telemetries", columns: telemetryTable}},
			{use: "show ID", aliases: []string{"get"}, short: "Show one", method: http.MethodGet, path: one, table: table{member: "telemetry", columns: telemetryTable}},
			{
				use: "set-secret ID", short: "Replace its credential", method: http.MethodPut, path: "/v2/nvcf/secrets/telemetries/{ID}",
				members: []member{secret}, done: "the credential of %s is replaced",
			},
			{use: "delete ID", short: "Delete one that no function uses", method: http.MethodDelete, path: one, done: "deleted %s"},
		})
}
