package functions

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	oci "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// house is a real registry that wants a login, in one of the two ways that registries have.
type house struct {
	t    *testing.T
	host string
	// answers is the status that the registry gives instead of an answer; 0 lets it answer.
	answers atomic.Int32
	// asked counts the requests.
	asked atomic.Int32
}

const (
	houseUser     = "me"
	housePassword = "canary-house-93bd"
	houseToken    = "a-token"
)

func newHouse(t *testing.T, withTokens bool) *house {
	t.Helper()
	h := &house{t: t}
	inner := oci.New()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.asked.Add(1)
		if status := int(h.answers.Load()); status != 0 {
			w.WriteHeader(status)
			return
		}
		user, password, _ := r.BasicAuth()
		known := user == houseUser && password == housePassword
		switch {
		case withTokens && r.URL.Path == "/token":
			if !known {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]string{"token": houseToken})
			return
		case withTokens:
			known = r.Header.Get("Authorization") == "Bearer "+houseToken
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="house"`)
		default:
			w.Header().Set("WWW-Authenticate", `Basic realm="house"`)
		}
		if !known {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	h.host = strings.TrimPrefix(server.URL, "http://")
	return h
}

// push puts an image there.
func (h *house) push(reference string) {
	h.t.Helper()
	ref, err := name.ParseReference(h.host + "/" + reference)
	require.NoError(h.t, err)
	require.NoError(h.t, remote.Write(ref, empty.Image, remote.WithAuth(&authn.Basic{Username: houseUser, Password: housePassword}),
		remote.WithTransport(oneShot()), remote.WithContext(h.t.Context())))
}

func (h *house) world(mode validationMode) *world {
	cfg := recognizing(h.t, "CONTAINER+HELM@"+h.host+"=House")
	cfg.Registries.Validation = mode
	return newWorldWith(h.t, cfg)
}

func (h *house) login(w *world, password string) {
	h.t.Helper()
	_, err := asService(w, contract.AddRegistryCredential, contract.AddRegistryCredentialRequest{
		Account: account, NewRegistryCredential: contract.NewRegistryCredential{
			RegistryHostname: h.host, Secret: loginSecret("credentials", houseUser, password), ArtifactTypes: []contract.ArtifactType{"CONTAINER", "HELM"},
		},
	})
	require.NoError(h.t, err)
}

func (h *house) image(reference string) contract.Spec {
	spec := minimal()
	spec.ContainerImage = h.host + "/" + reference
	return spec
}

func (h *house) chart(path string) contract.Spec {
	return contract.Spec{Name: "chart", InferenceURL: "/", HelmChart: "oci://" + h.host + "/" + path, HelmChartServiceName: "echo"}
}

func TestArtifactsAreHeldAgainstTheirRegistry(t *testing.T) {
	t.Parallel()
	for _, withTokens := range []bool{false, true} {
		t.Run(fmt.Sprintf("tokens %t", withTokens), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, withTokens)
			h.push("team/echo:1")
			h.push("charts/echo:1.2.3_build")
			w := h.world(throwMode)
			create := func(spec contract.Spec) error {
				_, err := call(w, admin(), contract.Create, contract.CreateRequest{Spec: spec})
				return err
			}
			requireProblem(t, create(h.image("team/echo:1")), problem.Unauthorized, "refused the credential")
			h.login(w, housePassword)
			require.NoError(t, create(h.image("team/echo:1")))
			require.NoError(t, create(h.chart("charts/echo:1.2.3+build")))
			require.NoError(t, create(h.chart("charts/echo-1.2.3+build.tgz")))
			requireProblem(t, create(h.image("team/echo:2")), problem.NotFound, "Account 'nvcf-default', function id '", "CONTAINER", "Not found", h.host)
			requireProblem(t, create(h.chart("charts/other:1")), problem.NotFound, "HELM", "Not found")
			for status, code := range map[int]problem.Code{403: problem.Forbidden, 429: problem.TooManyRequests, 500: problem.Upstream, 503: problem.Upstream} {
				h.answers.Store(int32(status))
				requireProblem(t, create(h.image("team/echo:1")), code, h.host)
			}
			for _, line := range w.logs.All() {
				require.NotContains(t, fmt.Sprint(line.Message, line.ContextMap()), "canary")
			}
		})
	}
}

func TestArtifactsThatNeedNoQuestion(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, Config{Registries: RegistryConfig{
		Validation: throwMode, declared: registryList{{"CONTAINER", registry{"Away", "registry.invalid", declared}}},
	}})
	create := func(change func(*contract.Spec)) error {
		spec := minimal()
		change(&spec)
		_, err := call(w, admin(), contract.Create, contract.CreateRequest{Spec: spec})
		return err
	}
	require.NoError(t, create(func(s *contract.Spec) { s.ContainerImage = "registry.invalid/echo:1" }), "as in the reference, nobody asks it")
	requireProblem(t, create(func(s *contract.Spec) { s.ContainerImage = "registry.unknown.example/echo:1" }), problem.BadRequest,
		"Account 'nvcf-default', function id '", "not a recognized registry", "CONTAINER", "registry.unknown.example")
	requireProblem(t, create(func(s *contract.Spec) { s.ContainerImage = "echo:1" }), problem.BadRequest,
		"Account 'nvcf-default', function id '", "no registry credential", "CONTAINER", "docker.io")
	models := func(s *contract.Spec) {
		s.ContainerImage = "registry.invalid/echo:1"
		s.Models = []contract.Artifact{{Name: "m", Version: "1", URI: "https://api.ngc.nvidia.com/v2/models/m/versions/1/files"}}
	}
	requireProblem(t, create(models), problem.BadRequest, "MODEL", "api.ngc.nvidia.com")
	w.credential(credentialRequest("api.ngc.nvidia.com", contract.ModelArtifact))
	require.NoError(t, create(models))

	away := func(s *contract.Spec) { s.ContainerImage = "registry.invalid/echo:1" }
	_, err := call(w, admin(), contract.Create, contract.CreateRequest{FunctionID: "5e0c2a5c-7f0e-4f5d-9f1c-2c6f3c3a1b10", Spec: func() contract.Spec {
		s := minimal()
		away(&s)
		s.ContainerImage = "registry.unknown.example/echo:1"
		return s
	}()})
	requireProblem(t, err, problem.NotFound, "Function id '5e0c2a5c-7f0e-4f5d-9f1c-2c6f3c3a1b10': Not found")
}

func TestARegistryThatIsAway(t *testing.T) {
	t.Parallel()
	h := newHouse(t, false)
	w := h.world(throwMode)
	h.login(w, housePassword)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	cfg := recognizing(t, "CONTAINER@"+strings.TrimPrefix(gone.URL, "http://"))
	cfg.Registries.Validation = throwMode
	away := newWorldWith(t, cfg)
	spec := minimal()
	spec.ContainerImage = strings.TrimPrefix(gone.URL, "http://") + "/echo:1"
	_, err := call(away, admin(), contract.Create, contract.CreateRequest{Spec: spec})
	requireProblem(t, err, problem.Upstream, "cannot be asked about the CONTAINER artifact: it refuses the connection")
}

func TestCredentialsAreTried(t *testing.T) {
	t.Parallel()
	for _, withTokens := range []bool{false, true} {
		t.Run(fmt.Sprintf("tokens %t", withTokens), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, withTokens)
			w := h.world(throwMode)
			request := contract.NewRegistryCredential{RegistryHostname: h.host, ArtifactTypes: []contract.ArtifactType{"CONTAINER"}}
			create := func(password string) (contract.RegistryCredentialResponse, error) {
				request.Secret = loginSecret("credentials", houseUser, password)
				return call(w, admin(), contract.CreateRegistryCredential, contract.CreateRegistryCredentialRequest{NewRegistryCredential: request})
			}
			_, err := create("wrong-canary")
			requireProblem(t, err, problem.Unauthorized, h.host)
			require.NotContains(t, err.Error(), "canary")
			made, err := create(housePassword)
			require.NoError(t, err)
			asked := h.asked.Load()
			_, err = create(housePassword)
			requireProblem(t, err, problem.Conflict)
			require.Equal(t, asked, h.asked.Load(), "what is refused anyway costs no question")
			_, err = call(w, admin(), contract.UpdateRegistryCredential, contract.UpdateRegistryCredentialRequest{
				RegistryCredentialID: made.RegistryCredential.RegistryCredentialID, Secret: loginSecret("credentials", houseUser, "wrong-canary"),
			})
			requireProblem(t, err, problem.Unauthorized, h.host)
			for status, code := range map[int]problem.Code{400: problem.BadRequest, 403: problem.Forbidden, 500: problem.Upstream} {
				h.answers.Store(int32(status))
				request.Secret = loginSecret("another", houseUser, housePassword)
				_, err = call(w, admin(), contract.CreateRegistryCredential, contract.CreateRegistryCredentialRequest{NewRegistryCredential: request})
				requireProblem(t, err, code, h.host)
			}
		})
	}
}

func TestLogModeLetsPassAndWritesDown(t *testing.T) {
	t.Parallel()
	h := newHouse(t, true)
	w := h.world(logMode)
	h.login(w, housePassword)
	fn := w.create("", h.image("team/none:1"))
	require.Eventually(t, func() bool {
		for _, line := range w.logs.FilterMessage("registry would make throw mode refuse this").All() {
			if strings.Contains(fmt.Sprint(line.ContextMap()), "team/none:1") {
				return true
			}
		}
		return false
	}, patience, 2*time.Millisecond)
	_, err := asService(w, contract.CheckArtifacts, contract.InternalRequest{VersionID: fn.VersionID})
	require.NoError(t, err)
	w.create("", minimal())
}

func TestOffModeAsksNobody(t *testing.T) {
	t.Parallel()
	h := newHouse(t, false)
	w := h.world(offMode)
	h.login(w, "whatever")
	w.create("", h.image("team/none:1"))
	require.Zero(t, h.asked.Load())
}

func TestArtifactsAreCheckedAgainBeforeADeployment(t *testing.T) {
	t.Parallel()
	h := newHouse(t, false)
	h.push("team/echo:1")
	w := h.world(throwMode)
	h.login(w, housePassword)
	fn := w.create("", h.image("team/echo:1"))
	check := func() error {
		_, err := asService(w, contract.CheckArtifacts, contract.InternalRequest{VersionID: fn.VersionID})
		return err
	}
	require.NoError(t, check())
	h.answers.Store(http.StatusNotFound)
	requireProblem(t, check(), problem.NotFound, fn.VersionID, "Not found")
}

func TestChartsOutsideOfRegistries(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != houseUser || password != housePassword {
			w.WriteHeader(http.StatusUnauthorized)
		} else if r.URL.Path != "/charts/echo-1.0.tgz" || r.Method != http.MethodHead {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	at := func(path string, secret login) error {
		a := artifact{kind: contract.HelmArtifact, host: "h", address: server.URL + path}
		return verdict("p", a, look(context.Background(), a, secret))
	}
	require.NoError(t, at("/charts/echo-1.0.tgz", login{houseUser, housePassword}))
	requireProblem(t, at("/charts/echo-2.0.tgz", login{houseUser, housePassword}), problem.NotFound, "echo-2.0.tgz")
	requireProblem(t, at("/charts/echo-1.0.tgz", login{}), problem.Unauthorized)
}

func TestArtifactsOfAVersion(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]artifact{
		"oci://h.example/charts/echo:1.0":             {kind: "HELM", host: "h.example", image: "h.example/charts/echo:1.0"},
		"oci://h.example:5000/charts/echo-1.0+x.tgz":  {kind: "HELM", host: "h.example:5000", image: "h.example:5000/charts/echo:1.0_x"},
		"https://h.example/charts/my-echo-1.0-rc.tgz": {kind: "HELM", host: "h.example", address: "https://h.example/charts/my-echo-1.0-rc.tgz"},
	} {
		require.Equal(t, want, chart(uri), uri)
	}
	spec := contract.Spec{
		ContainerImage: "echo", Models: []contract.Artifact{{URI: "v2/org/models/m/files"}, {URI: "https://api.ngc.nvidia.com/v2/m"}},
		Resources: []contract.Artifact{{URI: "https://api.ngc.nvidia.com/v2/r"}},
	}
	require.Equal(t, []artifact{
		{kind: "CONTAINER", host: "docker.io", image: "echo"}, {kind: "MODEL", host: "api.ngc.nvidia.com"}, {kind: "RESOURCE", host: "api.ngc.nvidia.com"},
	}, artifactsOf(spec))
}
