package functions

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

func telemetryRequest(name string, types ...string) contract.CreateTelemetryRequest {
	return contract.CreateTelemetryRequest{
		Endpoint: "https://otlp.example.net/otlp", Protocol: "http", Provider: "grafana_cloud", Types: types,
		Secret: &contract.Secret{Name: name, Value: json.RawMessage(`{"token":"` + telemetryCanary + `"}`)},
	}
}

const telemetryCanary = "canary-telemetry-51ce"

func (w *world) telemetry(name string, types ...string) contract.Telemetry {
	w.t.Helper()
	answer, err := call(w, admin(), contract.CreateTelemetry, telemetryRequest(name, types...))
	require.NoError(w.t, err)
	return answer.Telemetry
}

func TestTelemetries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)

	made := w.telemetry("grafana-key", "logs", "METRICS", "LOGS")
	require.Equal(t, contract.Telemetry{
		TelemetryID: made.TelemetryID, Name: "grafana-key", Endpoint: "https://otlp.example.net/otlp", Protocol: "HTTP",
		Provider: "GRAFANA_CLOUD", Types: []string{"LOGS", "METRICS"}, CreatedAt: made.CreatedAt,
	}, made)
	require.Equal(t, w.clock.Now().UTC().Truncate(time.Millisecond), made.CreatedAt)
	second := w.telemetry("traces", "TRACES")

	list, err := call(w, admin(), contract.ListTelemetries, rpc.None{})
	require.NoError(t, err)
	require.Equal(t, []contract.Telemetry{second, made}, list.Telemetries)
	got, err := call(w, admin(), contract.GetTelemetry, contract.TelemetryRequest{TelemetryID: strings.ToUpper(made.TelemetryID)})
	require.NoError(t, err)
	require.Equal(t, made, got.Telemetry)

	elsewhere, err := call(w, adminOf("other"), contract.ListTelemetries, rpc.None{})
	require.NoError(t, err)
	require.NotNil(t, elsewhere.Telemetries)
	require.Empty(t, elsewhere.Telemetries)
	foreign := contract.TelemetryRequest{TelemetryID: made.TelemetryID}
	missing := fmt.Sprintf("Account 'other' Telemetry '%s': Not found", made.TelemetryID)
	_, err = call(w, adminOf("other"), contract.GetTelemetry, foreign)
	requireProblem(t, err, problem.NotFound, missing)
	_, err = call(w, adminOf("other"), contract.DeleteTelemetry, foreign)
	requireProblem(t, err, problem.NotFound, missing)
	_, err = call(w, adminOf("other"), contract.SetTelemetrySecret, contract.TelemetrySecretRequest{
		TelemetryID: made.TelemetryID, Secret: &contract.Secret{Name: "n", Value: json.RawMessage(`"v"`)},
	})
	requireProblem(t, err, problem.NotFound, missing)

	_, err = call(w, admin(), contract.DeleteTelemetry, contract.TelemetryRequest{TelemetryID: second.TelemetryID})
	require.NoError(t, err)
	_, err = call(w, admin(), contract.DeleteTelemetry, contract.TelemetryRequest{TelemetryID: second.TelemetryID})
	requireProblem(t, err, problem.NotFound, "Not found")
	types, _ := w.facts(second.TelemetryID, 2)
	require.Equal(t, []string{"nvcf.functions.telemetry_attached.v1", "nvcf.functions.telemetry_detached.v1"}, types)
}

func TestTelemetryRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		field  string
		change func(*contract.CreateTelemetryRequest)
	}{
		{"endpoint", func(r *contract.CreateTelemetryRequest) { r.Endpoint = "  " }},
		{"endpoint", func(r *contract.CreateTelemetryRequest) { r.Endpoint = "https://a b" }},
		{"endpoint", func(r *contract.CreateTelemetryRequest) { r.Endpoint = strings.Repeat("x", maxEndpoint+1) }},
		{"protocol", func(r *contract.CreateTelemetryRequest) { r.Protocol = "" }},
		{"protocol", func(r *contract.CreateTelemetryRequest) { r.Protocol = "UDP" }},
		{"provider", func(r *contract.CreateTelemetryRequest) { r.Provider = "" }},
		{"provider", func(r *contract.CreateTelemetryRequest) { r.Provider = "ELSE" }},
		{"types", func(r *contract.CreateTelemetryRequest) { r.Types = nil }},
		{"types[1]", func(r *contract.CreateTelemetryRequest) { r.Types = []string{"LOGS", "PROFILES"} }},
		{"secret", func(r *contract.CreateTelemetryRequest) { r.Secret = nil }},
		{"secret.name", func(r *contract.CreateTelemetryRequest) { r.Secret.Name = "" }},
		{"secret.name", func(r *contract.CreateTelemetryRequest) { r.Secret.Name = strings.Repeat("n", 49) }},
		{"secret.value", func(r *contract.CreateTelemetryRequest) { r.Secret.Value = json.RawMessage(`""`) }},
		{"secret.value", func(r *contract.CreateTelemetryRequest) { r.Secret.Value = json.RawMessage(`[1]`) }},
		{"secret.value", func(r *contract.CreateTelemetryRequest) {
			r.Secret.Value = json.RawMessage(`"` + strings.Repeat("v", maxSecret+1) + `"`)
		}},
	} {
		r := telemetryRequest("name", "LOGS")
		c.change(&r)
		_, err := call(w, admin(), contract.CreateTelemetry, r)
		requireProblem(t, err, problem.Validation, "field: "+c.field+",")
	}
	for _, provider := range contract.TelemetryProviders {
		for _, protocol := range contract.TelemetryProtocols {
			r := telemetryRequest(provider, contract.TelemetryTypes...)
			r.Provider, r.Protocol = strings.ToLower(provider), protocol
			_, err := newTelemetry(r)
			require.NoError(t, err)
		}
	}
	_, err := call(w, admin(), contract.GetTelemetry, contract.TelemetryRequest{TelemetryID: "x"})
	requireProblem(t, err, problem.Validation, "telemetryId")
}

func TestTelemetryNamesAndLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	small := adminOf("small")
	for _, name := range []string{"one", "two"} {
		_, err := call(w, small, contract.CreateTelemetry, telemetryRequest(name, "LOGS"))
		require.NoError(t, err)
	}
	_, err := call(w, small, contract.CreateTelemetry, telemetryRequest("two", "LOGS"))
	requireProblem(t, err, problem.Validation, "secret.name", "'two'")
	_, err = call(w, small, contract.CreateTelemetry, telemetryRequest("three", "LOGS"))
	requireProblem(t, err, problem.BadRequest, "maxTelemetriesAllowed")
	_, err = call(w, adminOf("nobody"), contract.CreateTelemetry, telemetryRequest("one", "LOGS"))
	requireProblem(t, err, problem.NotFound, "Account with ncaId 'nobody' not found")
}

func TestTelemetrySecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made, other := w.telemetry("mine", "LOGS"), w.telemetry("other", "LOGS")
	set := func(id string, s *contract.Secret) error {
		_, err := call(w, admin(), contract.SetTelemetrySecret, contract.TelemetrySecretRequest{TelemetryID: id, Secret: s})
		return err
	}
	require.NoError(t, set(made.TelemetryID, &contract.Secret{Name: "mine", Value: json.RawMessage(`"` + telemetryCanary + `-2"`)}))
	require.NoError(t, set(made.TelemetryID, &contract.Secret{Name: "renamed", Value: json.RawMessage(`"` + telemetryCanary + `-3"`)}))
	got, err := call(w, admin(), contract.GetTelemetry, contract.TelemetryRequest{TelemetryID: made.TelemetryID})
	require.NoError(t, err)
	require.Equal(t, "renamed", got.Telemetry.Name)

	requireProblem(t, set(made.TelemetryID, nil), problem.Validation, "field: secret,")
	requireProblem(t, set(made.TelemetryID, &contract.Secret{Name: "-", Value: json.RawMessage(`"` + telemetryCanary + `"`)}), problem.Validation, "secret.name")
	requireProblem(t, set(made.TelemetryID, &contract.Secret{Name: other.Name, Value: json.RawMessage(`"v"`)}), problem.Validation, "secret.name")
	requireProblem(t, set(uuid.NewString(), &contract.Secret{Name: "n", Value: json.RawMessage(`"v"`)}), problem.NotFound, "Not found")
	requireProblem(t, set("x", &contract.Secret{Name: "n", Value: json.RawMessage(`"v"`)}), problem.Validation, "telemetryId")

	_, events := w.facts(made.TelemetryID, 3)
	for _, e := range events {
		require.NotContains(t, string(e.Data), "canary")
	}
	for _, line := range w.logs.All() {
		require.NotContains(t, fmt.Sprint(line.Message, line.ContextMap()), "canary")
	}
	require.NotContains(t, w.dump(), "canary-telemetry", "nothing in the database is in the clear")
}

func TestTelemetriesOfAVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	logs, traces := w.telemetry("logs", "LOGS"), w.telemetry("traces", "TRACES", "METRICS")
	create := func(telemetries contract.Telemetries) (contract.Function, error) {
		spec := minimal()
		spec.Telemetries = &telemetries
		answer, err := call(w, admin(), contract.Create, contract.CreateRequest{Spec: spec})
		return answer.Function, err
	}
	unknown := uuid.NewString()
	_, err := create(contract.Telemetries{Logs: unknown})
	requireProblem(t, err, problem.NotFound, fmt.Sprintf("Account '%s' Telemetry '%s': Not found", account, unknown))
	_, err = create(contract.Telemetries{Logs: traces.TelemetryID})
	requireProblem(t, err, problem.Validation, "telemetries.logsTelemetryId", "LOGS")
	_, err = create(contract.Telemetries{Logs: logs.TelemetryID, Metrics: logs.TelemetryID, Traces: logs.TelemetryID})
	requireProblem(t, err, problem.Validation, "metricsTelemetryId", "tracesTelemetryId")

	uses := contract.Telemetries{Logs: strings.ToUpper(logs.TelemetryID), Metrics: traces.TelemetryID, Traces: traces.TelemetryID}
	fn, err := create(uses)
	require.NoError(t, err)
	require.Equal(t, &uses, fn.Telemetries)
	for _, id := range []string{logs.TelemetryID, traces.TelemetryID} {
		_, err = call(w, admin(), contract.DeleteTelemetry, contract.TelemetryRequest{TelemetryID: id})
		requireProblem(t, err, problem.IllegalState, fn.ID, fn.VersionID)
	}
	_, err = call(w, admin(), contract.Delete, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
	require.NoError(t, err)
	_, err = call(w, admin(), contract.DeleteTelemetry, contract.TelemetryRequest{TelemetryID: logs.TelemetryID})
	require.NoError(t, err)

	check := func(account string, telemetries contract.Telemetries) error {
		_, err := asService(w, contract.CheckTelemetries, contract.TelemetrySlots{Account: account, Telemetries: telemetries})
		return err
	}
	require.NoError(t, check(account, contract.Telemetries{Traces: traces.TelemetryID}))
	requireProblem(t, check(account, contract.Telemetries{Logs: traces.TelemetryID}), problem.Validation, "logsTelemetryId")
	requireProblem(t, check("other", contract.Telemetries{Traces: traces.TelemetryID}), problem.NotFound, "Not found")
	requireProblem(t, check(account, contract.Telemetries{Traces: "x"}), problem.Validation, "tracesTelemetryId")
}

func TestUsersOfATelemetryAreListedUpToABound(t *testing.T) {
	t.Parallel()
	users := slices.Repeat([]pair{{"f", "v"}}, maxUsers+1)
	require.Contains(t, listed(users), "and others")
	require.NotContains(t, listed(users[:maxUsers]), "and others")
}
