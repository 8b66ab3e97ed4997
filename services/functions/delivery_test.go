package functions

import (
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// A node that starts an instance gets the telemetry endpoints of its version with their secrets, and hears of new ones.
func TestTelemetrySecretsReachWhatRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sink := func(name string, types ...string) contract.Telemetry {
		answer, err := call(w, admin(), contract.CreateTelemetry, contract.CreateTelemetryRequest{
			Endpoint: "https://" + name + ".example.net", Protocol: "GRPC", Provider: "OTEL_COLLECTOR", Types: types,
			Secret: &contract.Secret{Name: name, Value: json.RawMessage(`"first of ` + name + `"`)},
		})
		require.NoError(t, err)
		return answer.Telemetry
	}
	logs, rest, other := sink("logs", "LOGS"), sink("rest", "METRICS", "TRACES"), sink("other", "LOGS")
	spec := minimal()
	spec.Telemetries = &contract.Telemetries{Logs: logs.TelemetryID, Metrics: rest.TelemetryID, Traces: rest.TelemetryID}
	running := w.create("", spec)
	w.create("", spec) // is not deployed, so nobody has to hear of it
	w.setStatus(running, "d", contract.Active)

	require.Equal(t, map[string]string{"logs": `"first of logs"`, "rest": `"first of rest"`}, launchNamed(t, w, running))

	change := func(tel contract.Telemetry, name string) {
		_, err := call(w, admin(), contract.SetTelemetrySecret, contract.TelemetrySecretRequest{
			TelemetryID: tel.TelemetryID, Secret: &contract.Secret{Name: name, Value: json.RawMessage(`"second"`)},
		})
		require.NoError(t, err)
	}
	change(other, "other")
	change(rest, "renamed")
	require.Equal(t, map[string]string{"logs": `"first of logs"`, "renamed": `"second"`}, launchNamed(t, w, running))
	_, events := w.story(running.VersionID, 3)
	require.Len(t, events, 3, "created, status, secrets: nothing about an endpoint that the version does not name")
	told, ok := bus.As[contract.SecretsChanged](events[2], contract.SecretsUpdated)
	require.True(t, ok)
	require.Equal(t, contract.SecretsChanged{FunctionID: running.ID, VersionID: running.VersionID, Telemetries: []string{"renamed"}}, told)
}

func launchNamed(t *testing.T, w *world, fn contract.Function) map[string]string {
	t.Helper()
	l, err := asService(w, contract.Launch, contract.InternalRequest{VersionID: fn.VersionID})
	require.NoError(t, err)
	values := map[string]string{}
	for _, lt := range l.Telemetries {
		values[lt.Name] = string(lt.Secret.Value)
	}
	return values
}

// Whatever is started after a credential was replaced is started with the new one: a replacement, a scale-up, a task.
func TestARotatedRegistryCredentialIsUsedFromThenOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	login := func(password string) *contract.Secret {
		value, err := json.Marshal(base64.StdEncoding.EncodeToString([]byte("$oauthtoken:" + password)))
		require.NoError(t, err)
		return &contract.Secret{Name: "credentials", Value: value}
	}
	made, err := call(w, admin(), contract.CreateRegistryCredential, contract.CreateRegistryCredentialRequest{NewRegistryCredential: contract.NewRegistryCredential{
		RegistryHostname: "nvcr.io", Secret: login("nvapi-first"), ArtifactTypes: []contract.ArtifactType{contract.ContainerArtifact},
	}})
	require.NoError(t, err)
	spec := minimal()
	spec.ContainerImage = "nvcr.io/team/image:1"
	fn := w.create("", spec)
	w.setStatus(fn, "d", contract.Active)
	opens := func(password string) {
		t.Helper()
		l, err := asService(w, contract.Launch, contract.InternalRequest{VersionID: fn.VersionID})
		require.NoError(t, err)
		require.Equal(t, &contract.RegistryAuth{Hostname: "nvcr.io", Username: "$oauthtoken", Password: password}, l.RegistryAuth)
		task, err := asService(w, contract.LookupRegistryAuth, contract.RegistryAuthRequest{Account: account, Image: spec.ContainerImage})
		require.NoError(t, err)
		require.Equal(t, password, task.RegistryAuth.Password)
	}
	opens("nvapi-first")
	w.clock.Advance(time.Minute)
	id := made.RegistryCredential.RegistryCredentialID
	_, err = call(w, admin(), contract.UpdateRegistryCredential, contract.UpdateRegistryCredentialRequest{RegistryCredentialID: id, Secret: login("nvapi-second")})
	require.NoError(t, err)
	opens("nvapi-second")
	types, events := w.facts(id, 2)
	require.Equal(t, []string{contract.RegistryCredentialCreated.Type(), contract.RegistryCredentialUpdated.Type()}, types)
	require.NotContains(t, string(events[1].Data), "nvapi-second")
}
