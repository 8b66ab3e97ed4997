package functions

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// loginSecret is the secret of a credential.
func loginSecret(name, user, password string) *contract.Secret {
	value, _ := json.Marshal(base64.StdEncoding.EncodeToString([]byte(user + ":" + password)))
	return &contract.Secret{Name: name, Value: value}
}

const loginCanary = "canary-login-88aa"

func credentialRequest(host string, kinds ...contract.ArtifactType) contract.NewRegistryCredential {
	return contract.NewRegistryCredential{RegistryHostname: host, Secret: loginSecret("credentials", "$oauthtoken", loginCanary), ArtifactTypes: kinds}
}

func (w *world) credential(r contract.NewRegistryCredential) contract.RegistryCredential {
	w.t.Helper()
	answer, err := call(w, admin(), contract.CreateRegistryCredential, contract.CreateRegistryCredentialRequest{NewRegistryCredential: r})
	require.NoError(w.t, err)
	return answer.RegistryCredential
}

func recognizing(t *testing.T, list string) Config {
	t.Helper()
	var cfg Config
	require.NoError(t, cfg.Registries.Recognized.UnmarshalText([]byte(list)))
	return cfg
}

func TestRegistryCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := credentialRequest("stg.nvcr.io", "container", "CONTAINER")
	r.Tags, r.Description = []string{"a:b", "a:b"}, "for images"
	made := w.credential(r)
	require.Equal(t, contract.RegistryCredential{
		RegistryCredentialID: made.RegistryCredentialID, NCAID: account, RegistryCredentialName: "credentials", RegistryName: "NGC",
		RegistryHostname: "stg.nvcr.io", ArtifactTypes: []contract.ArtifactType{"CONTAINER"}, Tags: []string{"a:b"}, Description: "for images",
		ProvisionedBy: "USER", KeyType: "LEGACY", CreatedAt: made.CreatedAt, LastUpdatedAt: made.CreatedAt,
	}, made)
	modern := credentialRequest("api.ngc.nvidia.com", contract.ModelArtifact, contract.ResourceArtifact)
	modern.Secret = loginSecret("models", "$oauthtoken", "nvapi-"+loginCanary)
	second := w.credential(modern)
	require.Empty(t, second.KeyType)

	list := func(r contract.ListRegistryCredentialsRequest) []contract.RegistryCredential {
		answer, err := call(w, admin(), contract.ListRegistryCredentials, r)
		require.NoError(t, err)
		require.NotNil(t, answer.RegistryCredentials)
		return answer.RegistryCredentials
	}
	require.Equal(t, []contract.RegistryCredential{second, made}, list(contract.ListRegistryCredentialsRequest{}))
	require.Equal(t, []contract.RegistryCredential{made}, list(contract.ListRegistryCredentialsRequest{ArtifactTypes: []string{"container"}}))
	require.Len(t, list(contract.ListRegistryCredentialsRequest{ArtifactTypes: []string{"CONTAINER,MODEL"}, ProvisionedBy: "user"}), 2)
	require.Empty(t, list(contract.ListRegistryCredentialsRequest{ProvisionedBy: "SYSTEM"}))
	_, err := call(w, admin(), contract.ListRegistryCredentials, contract.ListRegistryCredentialsRequest{ArtifactTypes: []string{"ELSE"}, ProvisionedBy: "me"})
	requireProblem(t, err, problem.Validation, "artifactType", "provisionedBy")

	one := contract.RegistryCredentialRequest{RegistryCredentialID: made.RegistryCredentialID}
	got, err := call(w, admin(), contract.GetRegistryCredential, one)
	require.NoError(t, err)
	require.Equal(t, made, got.RegistryCredential)
	missing := fmt.Sprintf("Registry Credential '%s': Not found in account 'other'", made.RegistryCredentialID)
	_, err = call(w, adminOf("other"), contract.GetRegistryCredential, one)
	requireProblem(t, err, problem.NotFound, missing)
	_, err = call(w, adminOf("other"), contract.DeleteRegistryCredential, one)
	requireProblem(t, err, problem.NotFound, missing)
	_, err = call(w, adminOf("other"), contract.UpdateRegistryCredential, contract.UpdateRegistryCredentialRequest{
		RegistryCredentialID: made.RegistryCredentialID, ArtifactTypes: []contract.ArtifactType{"HELM"},
	})
	requireProblem(t, err, problem.NotFound, missing)

	_, err = call(w, admin(), contract.DeleteRegistryCredential, one)
	require.NoError(t, err)
	_, err = call(w, admin(), contract.DeleteRegistryCredential, one)
	requireProblem(t, err, problem.NotFound, "Not found")
	types, events := w.facts(made.RegistryCredentialID, 2)
	require.Equal(t, []string{"nvcf.functions.registry-credential_granted.v1", "nvcf.functions.registry-credential_withdrawn.v1"}, types)
	for _, e := range events {
		require.NotContains(t, string(e.Data), "canary")
	}
	require.NotContains(t, w.dump(), loginCanary)
	require.NotContains(t, w.dump(), base64.StdEncoding.EncodeToString([]byte("$oauthtoken:" + loginCanary))[:20])
}

func TestRegistryCredentialRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := func(s string) json.RawMessage { b, _ := json.Marshal(s); return b }
	for _, c := range []struct {
		field  string
		change func(*contract.NewRegistryCredential)
	}{
		{"registryHostname", func(r *contract.NewRegistryCredential) { r.RegistryHostname = "" }},
		{"registryHostname", func(r *contract.NewRegistryCredential) { r.RegistryHostname = "https://nvcr.io" }},
		{"registryHostname", func(r *contract.NewRegistryCredential) { r.RegistryHostname = "nvcr.io:443" }},
		{"registryHostname", func(r *contract.NewRegistryCredential) { r.RegistryHostname = "localhost" }},
		{"registryHostname", func(r *contract.NewRegistryCredential) { r.RegistryHostname = "localhost:5000" }},
		{"registryHostname", func(r *contract.NewRegistryCredential) { r.RegistryHostname = "nvcr.io/team" }},
		{"registryHostname", func(r *contract.NewRegistryCredential) { r.RegistryHostname = "-x.nvcr.io" }},
		{"registryHostname", func(r *contract.NewRegistryCredential) { r.RegistryHostname = "evilnvcr.io" }},
		{"registryHostname", func(r *contract.NewRegistryCredential) { r.RegistryHostname = "quay.io" }},
		{"registryHostname", func(r *contract.NewRegistryCredential) { r.RegistryHostname = strings.Repeat("a.", 130) + "nvcr.io" }},
		{"registryHostname", func(r *contract.NewRegistryCredential) {
			r.ArtifactTypes = []contract.ArtifactType{"CONTAINER", "MODEL"}
		}},
		{"artifactTypes", func(r *contract.NewRegistryCredential) { r.ArtifactTypes = nil }},
		{"artifactTypes[0]", func(r *contract.NewRegistryCredential) { r.ArtifactTypes = []contract.ArtifactType{"IMAGE"} }},
		{"secret", func(r *contract.NewRegistryCredential) { r.Secret = nil }},
		{"secret.name", func(r *contract.NewRegistryCredential) { r.Secret.Name = " " }},
		{"secret.value", func(r *contract.NewRegistryCredential) { r.Secret.Value = nil }},
		{"secret.value", func(r *contract.NewRegistryCredential) {
			r.Secret.Value = json.RawMessage(`{"user":"` + loginCanary + `"}`)
		}},
		{"secret.value", func(r *contract.NewRegistryCredential) { r.Secret.Value = text("user:" + loginCanary) }},
		{"secret.value", func(r *contract.NewRegistryCredential) { r.Secret = loginSecret("credentials", "", loginCanary) }},
		{"secret.value", func(r *contract.NewRegistryCredential) { r.Secret = loginSecret("credentials", "$oauthtoken", "") }},
		{"secret.value", func(r *contract.NewRegistryCredential) {
			r.Secret.Value = text(base64.StdEncoding.EncodeToString([]byte(loginCanary)))
		}},
		{"secret.value", func(r *contract.NewRegistryCredential) { r.Secret = loginSecret("credentials", "me", loginCanary) }},
		{"tags[0]", func(r *contract.NewRegistryCredential) { r.Tags = []string{"a b"} }},
		{"tags", func(r *contract.NewRegistryCredential) {
			for i := range 65 {
				r.Tags = append(r.Tags, fmt.Sprint("t", i))
			}
		}},
		{"description", func(r *contract.NewRegistryCredential) { r.Description = strings.Repeat("d", 257) }},
	} {
		r := credentialRequest("nvcr.io", contract.ContainerArtifact)
		c.change(&r)
		_, err := call(w, admin(), contract.CreateRegistryCredential, contract.CreateRegistryCredentialRequest{NewRegistryCredential: r})
		requireProblem(t, err, problem.Validation, "field: "+c.field+",")
		require.NotContains(t, err.Error(), "canary")
	}
	_, err := call(w, admin(), contract.GetRegistryCredential, contract.RegistryCredentialRequest{RegistryCredentialID: "x"})
	requireProblem(t, err, problem.Validation, "registryCredentialId")
}

func TestRegistryCredentialConflictsAndLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	create := func(account, host, name string) error {
		r := credentialRequest(host, contract.ContainerArtifact)
		r.Secret = loginSecret(name, "me", loginCanary)
		_, err := call(w, adminOf(account), contract.CreateRegistryCredential, contract.CreateRegistryCredentialRequest{NewRegistryCredential: r})
		return err
	}
	require.NoError(t, create("small", "docker.io", "credentials"))
	requireProblem(t, create("small", "Docker.io", "credentials"), problem.Conflict, "already exists")
	require.NoError(t, create("small", "docker.io", "further"))
	requireProblem(t, create("small", "x.azurecr.io", "credentials"), problem.BadRequest, "maxRegistryCredentialsAllowed")
	require.NoError(t, create("other", "docker.io", "credentials"))
	requireProblem(t, create("nobody", "docker.io", "credentials"), problem.NotFound, "not found")
}

func TestUpdateRegistryCredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.credential(credentialRequest("docker.io", contract.ContainerArtifact))
	w.clock.Advance(1e9)
	update := func(secret *contract.Secret, kinds ...contract.ArtifactType) (contract.RegistryCredential, error) {
		answer, err := call(w, admin(), contract.UpdateRegistryCredential, contract.UpdateRegistryCredentialRequest{
			RegistryCredentialID: made.RegistryCredentialID, Secret: secret, ArtifactTypes: kinds,
		})
		return answer.RegistryCredential, err
	}
	changed, err := update(nil, "helm")
	require.NoError(t, err)
	require.Equal(t, []contract.ArtifactType{"CONTAINER", "HELM"}, changed.ArtifactTypes)
	require.True(t, changed.LastUpdatedAt.After(changed.CreatedAt))
	_, err = update(nil, "HELM")
	requireProblem(t, err, problem.Validation, "artifactTypeEnums", "already")
	_, err = update(nil, "MODEL")
	requireProblem(t, err, problem.Validation, "recognized")
	_, err = update(nil, "ELSE")
	requireProblem(t, err, problem.Validation, "artifactTypeEnums[0]")
	_, err = update(nil)
	requireProblem(t, err, problem.Validation, "secret", "artifactTypeEnums")
	_, err = update(&contract.Secret{Name: "credentials", Value: json.RawMessage(`"` + loginCanary + `"`)})
	requireProblem(t, err, problem.Validation, "secret.value")
	require.NotContains(t, err.Error(), "canary")

	_, err = update(loginSecret("credentials", "you", "next-"+loginCanary))
	require.NoError(t, err)
	auth, err := asService(w, contract.LookupRegistryAuth, contract.RegistryAuthRequest{Account: account, Image: "echo:1"})
	require.NoError(t, err)
	require.Equal(t, &contract.RegistryAuth{Hostname: "docker.io", Username: "you", Password: "next-" + loginCanary}, auth.RegistryAuth)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", *auth.RegistryAuth, auth.RegistryAuth, auth.RegistryAuth), "canary")

	other := credentialRequest("docker.io", contract.ContainerArtifact)
	other.Secret = loginSecret("other", "me", loginCanary)
	w.credential(other)
	_, err = update(loginSecret("other", "me", loginCanary))
	requireProblem(t, err, problem.Conflict, "already exists")
}

func TestRegistryCredentialsInUse(t *testing.T) {
	t.Parallel()
	cfg := recognizing(t, "CONTAINER+HELM@registry.corp.example:5000=Corp, MODEL@models.corp.example")
	w := newWorldWith(t, cfg)
	hub := w.credential(credentialRequest("docker.io", contract.ContainerArtifact))
	corp := w.credential(credentialRequest("registry.corp.example:5000", contract.HelmArtifact))
	require.Equal(t, "Corp", corp.RegistryName)
	models := w.credential(credentialRequest("models.corp.example", contract.ModelArtifact))

	image := minimal()
	image.ContainerImage = "echo:1"
	chart := contract.Spec{Name: "chart", InferenceURL: "/", HelmChart: "oci://registry.corp.example:5000/charts/echo:1.0", HelmChartServiceName: "echo"}
	model := contract.Spec{Name: "model", InferenceURL: "/", Models: []contract.Artifact{{Name: "m", Version: "1", URI: "https://models.corp.example/m/files"}}}
	for credential, spec := range map[string]contract.Spec{hub.RegistryCredentialID: image, corp.RegistryCredentialID: chart, models.RegistryCredentialID: model} {
		fn := w.create("", spec)
		request := contract.RegistryCredentialRequest{RegistryCredentialID: credential}
		_, err := call(w, admin(), contract.DeleteRegistryCredential, request)
		requireProblem(t, err, problem.IllegalState, fn.ID, fn.VersionID)
		_, err = call(w, admin(), contract.Delete, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
		require.NoError(t, err)
		_, err = call(w, admin(), contract.DeleteRegistryCredential, request)
		require.NoError(t, err)
	}
}

func TestLaunchBringsTheCredentialOfTheImage(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, recognizing(t, "CONTAINER@registry.local:5000"))
	for host, password := range map[string]string{"registry.local:5000": "local", "nvcr.io": "wide", "stg.nvcr.io": "near"} {
		r := credentialRequest(host, contract.ContainerArtifact)
		r.Secret = loginSecret("credentials", "$oauthtoken", password)
		w.credential(r)
	}
	for image, want := range map[string]string{
		"registry.local:5000/demo/echo:1": "local", "nvcr.io/team/echo:1": "wide", "a.stg.nvcr.io/echo@sha256:" + strings.Repeat("a", 64): "near",
		"echo:1": "", "registry.local/demo/echo:1": "", "evilnvcr.io/echo:1": "",
	} {
		spec := minimal()
		spec.ContainerImage = image
		fn := w.create("", spec)
		launchable, err := asService(w, contract.Launch, contract.InternalRequest{VersionID: fn.VersionID})
		require.NoError(t, err)
		if want == "" {
			require.Nil(t, launchable.RegistryAuth, image)
			continue
		}
		require.NotNil(t, launchable.RegistryAuth, image)
		require.Equal(t, want, launchable.RegistryAuth.Password, image)
	}
	_, err := call(w, admin(), contract.LookupRegistryAuth, contract.RegistryAuthRequest{Account: account, Image: "nvcr.io/x"})
	requireProblem(t, err, problem.Forbidden)
}

func TestRecognizedRegistries(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, recognizing(t, "CONTAINER+HELM@harbor.corp.example=A harbour,CONTAINER@localhost:5000"))
	answer, err := call(w, admin(), contract.RecognizedRegistries, rpc.None{})
	require.NoError(t, err)
	hosts := func(kind contract.ArtifactType) (hosts []string) {
		for _, r := range answer.RecognizedRegistries[kind] {
			require.NotEmpty(t, r.Name)
			hosts = append(hosts, r.Hostname)
		}
		return hosts
	}
	require.Equal(t, []string{
		"harbor.corp.example", "dkr.ecr.amazonaws.com", "public.ecr.aws", "azurecr.io", "docker.io", "localhost:5000", "nvcr.io", "cr.volces.com",
	}, hosts("CONTAINER"))
	require.Contains(t, hosts("HELM"), "helm.ngc.nvidia.com")
	require.NotContains(t, hosts("HELM"), "nvcr.io")
	require.Equal(t, []string{"api.ngc.nvidia.com"}, hosts("MODEL"))
	require.Equal(t, []string{"api.ngc.nvidia.com"}, hosts("RESOURCE"))
}

func TestHostsBelongToRegistries(t *testing.T) {
	t.Parallel()
	r := newRecognized(RegistryConfig{})
	for host, want := range map[string]string{
		"123.dkr.ecr.us-west-2.amazonaws.com": hostECR, "123.dkr.ecr.cn-north-1.amazonaws.com.cn": hostECR, "dkr.ecr.amazonaws.com": hostECR,
		"x.azurecr.io": "azurecr.io", "team-cn-beijing.cr.volces.com": "cr.volces.com", "public.ecr.aws": "public.ecr.aws",
		"index.docker.io": "docker.io", "NVCR.io": "nvcr.io",
		"evilazurecr.io": "", "dkr.ecr.evil.com": "", "123.dkr.ecr.us-west-2.amazonaws.com.evil.com": "", "ghcr.io": "", "": "",
	} {
		found, ok := r.find(contract.ContainerArtifact, host)
		require.Equal(t, want != "", ok, host)
		require.Equal(t, want, found.hostname, host)
	}
}

func TestRegistrySettings(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"registry.local", "IMAGE@registry.local", "CONTAINER@", "CONTAINER@a b", "CONTAINER@host:99999", "CONTAINER@http://x", "@host"} {
		var l registryList
		require.Error(t, l.UnmarshalText([]byte(bad)), bad)
	}
	list, err := declaredRegistries([]string{
		"NVCF_REGISTRIES_RECOGNIZED_CONTAINER_HARBOR_NAME=Harbor", "NVCF_REGISTRIES_RECOGNIZED_CONTAINER_HARBOR_HOSTNAME=Harbor.corp.example:8443",
		"NVCF_REGISTRIES_RECOGNIZED_HELM_MY_KEY_HOSTNAME=charts.corp.example", "NVCF_REGISTRIES_RECOGNIZED_MODEL_X_NAME=only a name", "PATH=/bin",
	})
	require.NoError(t, err)
	require.ElementsMatch(t, registryList{
		{"CONTAINER", registry{"Harbor", "harbor.corp.example:8443", declared}}, {"HELM", registry{"MY_KEY", "charts.corp.example", declared}},
	}, list)
	_, err = declaredRegistries([]string{"NVCF_REGISTRIES_RECOGNIZED_CONTAINER_HARBOR_HOSTNAME=http://x"})
	require.ErrorContains(t, err, "NVCF_REGISTRIES_RECOGNIZED_CONTAINER_HARBOR_HOSTNAME")
	var mode validationMode
	require.ErrorContains(t, mode.UnmarshalText([]byte("perhaps")), "throw, log or off")
}

func TestAccountUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	none, err := asService(w, contract.AccountUse, contract.AccountUseRequest{Account: "empty"})
	require.NoError(t, err)
	require.Equal(t, contract.AccountUseResponse{Account: "empty", Telemetries: []contract.Telemetry{}, RegistryCredentials: []contract.RegistryCredential{}}, none)
	_, err = asService(w, contract.AccountUse, contract.AccountUseRequest{})
	requireProblem(t, err, problem.BadRequest, "account")

	fn := w.create("", minimal())
	w.create(fn.ID, minimal())
	w.create("", minimal())
	telemetry := w.telemetry("logs", "LOGS")
	add := func(r contract.AddRegistryCredentialRequest) (contract.RegistryCredential, error) {
		answer, err := asService(w, contract.AddRegistryCredential, r)
		return answer.RegistryCredential, err
	}
	request := contract.AddRegistryCredentialRequest{
		Account: account, ProvisionedBy: contract.BySystem, CheckOnly: true, NewRegistryCredential: credentialRequest("nvcr.io", contract.ContainerArtifact),
	}
	checked, err := add(request)
	require.NoError(t, err)
	require.Equal(t, "SYSTEM", checked.ProvisionedBy)
	request.CheckOnly = false
	added, err := add(request)
	require.NoError(t, err)
	use, err := asService(w, contract.AccountUse, contract.AccountUseRequest{Account: account})
	require.NoError(t, err)
	require.Equal(t, contract.AccountUseResponse{
		Account: account, Functions: 2, Versions: 3, Telemetries: []contract.Telemetry{telemetry}, RegistryCredentials: []contract.RegistryCredential{added},
	}, use)

	_, err = call(w, admin(), contract.DeleteRegistryCredential, contract.RegistryCredentialRequest{RegistryCredentialID: added.RegistryCredentialID})
	requireProblem(t, err, problem.IllegalState, "system")
	request.Account, request.ProvisionedBy = "", "ME"
	_, err = add(request)
	requireProblem(t, err, problem.Validation, "account", "provisionedBy")
	request.Account, request.ProvisionedBy, request.CheckOnly, request.RegistryHostname = "new-account", "", true, "quay.io"
	_, err = add(request)
	requireProblem(t, err, problem.Validation, "registryHostname")
	_, err = call(w, admin(), contract.GetRegistryCredential, contract.RegistryCredentialRequest{RegistryCredentialID: uuid.NewString()})
	requireProblem(t, err, problem.NotFound, "Not found")
}

// FuzzLogin reads whatever a client may put into the secret of a credential.
func FuzzLogin(f *testing.F) {
	f.Add([]byte(`"dXNlcjpwYXNz"`))
	f.Add([]byte(`{"a":1}`))
	f.Add([]byte(`"Og=="`))
	f.Fuzz(func(t *testing.T, value []byte) {
		secret, rule := parseLogin(value)
		require.Equal(t, rule == "", secret.user != "" && secret.password != "")
		require.NotContains(t, secret.user, ":")
	})
}

// FuzzRegistries reads whatever an operator or a client may write for a host.
func FuzzRegistries(f *testing.F) {
	f.Add("CONTAINER+HELM@registry.corp.example:5000=Corp registry, MODEL@x", "nvcr.io")
	f.Add("@", "::")
	f.Fuzz(func(t *testing.T, list, host string) {
		var l registryList
		if l.UnmarshalText([]byte(list)) == nil {
			r := newRecognized(RegistryConfig{Recognized: l})
			for _, entry := range l {
				require.True(t, r.lists(entry.hostname))
			}
		}
		if isHostname(host) {
			require.True(t, isListable(host))
		}
		_, _ = imageHost(host)
		_ = chart(host)
	})
}
