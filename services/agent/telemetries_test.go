package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
)

func TestAnInstanceKnowsWhereItsTelemetryGoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent(nil)
	collector, splunk := uuid.NewString(), uuid.NewString()
	sink := func(id, name, provider, protocol, value string) functions.LaunchTelemetry {
		return functions.LaunchTelemetry{
			Telemetry: functions.Telemetry{TelemetryID: id, Name: name, Endpoint: "https://" + name + ".example.net/otlp", Provider: provider, Protocol: protocol},
			Secret:    functions.Secret{Name: name, Value: json.RawMessage(value)},
		}
	}
	v := w.version(func(l *functions.Launchable) {
		secret(l)
		l.Function.Telemetries = &functions.Telemetries{Logs: splunk, Metrics: collector, Traces: strings.ToUpper(collector)}
		l.Telemetries = []functions.LaunchTelemetry{
			sink(splunk, "hec", "SPLUNK", "HTTP", `"`+canary+`-hec"`), sink(collector, "collector", "OTEL_COLLECTOR", "GRPC", `{"token":"`+canary+`-otel"}`),
		}
		knob("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json")(l)
	})
	id := w.launch(v, nil)
	w.state(id, instances.Running)
	env := w.self(v).Env
	for _, want := range []string{
		"NVCF_LOGS_TELEMETRY_ID=" + splunk, "NVCF_METRICS_TELEMETRY_ID=" + collector, "NVCF_TRACES_TELEMETRY_ID=" + strings.ToUpper(collector),
		"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=https://collector.example.net/otlp", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL=http/json",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://collector.example.net/otlp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc",
	} {
		require.Contains(t, env, want)
	}
	all := strings.Join(env, "\n")
	require.NotContains(t, all, "OTLP_LOGS", "the sink does not speak it")
	require.NotContains(t, all, "OTLP_METRICS_PROTOCOL=grpc", "the function has the last word")
	require.NotContains(t, all, canary)

	dir := filepath.Join(w.dir, "agent", "instances", id)
	holds := func(want string) bool {
		b, err := os.ReadFile(accountSecretsPath(dir))
		require.NoError(t, err)
		return string(b) == want
	}
	require.True(t, holds(`{"collector":{"token":"`+canary+`-otel"},"hec":"`+canary+`-hec"}`))
	w.mu.Lock()
	l := w.versions[v]
	l.Telemetries = []functions.LaunchTelemetry{sink(splunk, "hec", "SPLUNK", "HTTP", `"rotated"`)}
	w.versions[v] = l
	w.mu.Unlock()
	w.renewSecrets(id)
	require.Eventually(t, func() bool { return holds(`{"hec":"rotated"}`) }, patience, 10*time.Millisecond)
	e := end{Message: "old " + canary + "-hec, new rotated"}
	e.hideSecrets(dir)
	require.Equal(t, "old [secret], new [secret]", e.Message)
}
