package docker_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers/docker"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers/driverstest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if engineAnswers() == nil {
		driverstest.Cleanup()
		if c, err := client.New(client.FromEnv); err == nil {
			_, _ = c.ImageRemove(context.Background(), localImage, client.ImageRemoveOptions{Force: true})
			_ = c.Close()
		}
	}
	if err := goleak.Find(); code == 0 && err != nil {
		println(err.Error())
		code = 1
	}
	os.Exit(code)
}

func engineAnswers() error {
	d := docker.New(docker.Options{AgentID: "probe"})
	defer d.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return d.Check(ctx)
}

// engine is a client of the engine, or the end of the test where none answers.
func engine(t *testing.T) *client.Client {
	t.Helper()
	if err := engineAnswers(); err != nil {
		t.Skip("no Docker engine to test with: " + err.Error())
	}
	c, err := client.New(client.FromEnv)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// layer is a tar of the probe alone: an image from scratch.
func layer(t *testing.T) []byte {
	t.Helper()
	program, err := os.ReadFile(driverstest.Probe(t))
	require.NoError(t, err)
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "probe", Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg}))
	_, err = w.Write(program)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Bytes()
}

// localImage is an image that the engine has and no registry. Other processes that test with the same engine have theirs.
var localImage = "sirocco.test/probe:" + uuid.NewString()[:8]

var importOnce sync.Once

func importImage(t *testing.T, c *client.Client, ref, entrypoint string) {
	t.Helper()
	result, err := c.ImageImport(t.Context(), client.ImageImportSource{Source: bytes.NewReader(layer(t)), SourceName: "-"}, ref,
		client.ImageImportOptions{Changes: []string{`ENTRYPOINT ["` + entrypoint + `"]`}})
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, result)
	require.NoError(t, err)
	require.NoError(t, result.Close())
}

func forgetImage(t *testing.T, c *client.Client, ref string) {
	t.Helper()
	t.Cleanup(func() { _, _ = c.ImageRemove(context.Background(), ref, client.ImageRemoveOptions{Force: true}) })
}

func harness(t *testing.T, change ...func(*docker.Options)) (driverstest.Harness, *client.Client) {
	t.Helper()
	c := engine(t)
	importOnce.Do(func() { importImage(t, c, localImage, "/probe") })
	options := docker.Options{AgentID: uuid.NewString()}
	for _, f := range change {
		f(&options)
	}
	return driverstest.Harness{
		New:     func(*testing.T) drivers.Driver { return docker.New(options) },
		Image:   localImage,
		Program: true,
	}, c
}

func TestConformance(t *testing.T) {
	h, _ := harness(t)
	h.MissingImage = newRegistry(t, "").address + "/missing:1"
	t.Run("suite", func(t *testing.T) { driverstest.Run(t, h) })
}

func TestContainersAreConfined(t *testing.T) {
	h, c := harness(t)
	spec := h.Spec(t, driverstest.Serves)
	spec.CPUMilli, spec.MemoryMiB = 1_000_000, 256
	spec.Labels = map[string]string{"nvcf.request": "r-1", "sirocco.agent": "forged"}
	spec.Devices = []drivers.Device{{UUID: "GPU-1", Simulated: true}}
	i := h.Start(t, h.Driver(t), spec)
	result, err := c.ContainerInspect(t.Context(), i.Ref, client.ContainerInspectOptions{})
	require.NoError(t, err)
	host := result.Container.HostConfig
	require.Equal(t, int64(256<<20), host.Memory)
	require.Equal(t, int64(128<<20), host.ShmSize)
	require.Equal(t, int64(16384), *host.PidsLimit)
	require.Equal(t, []string{"ALL"}, host.CapDrop)
	require.Len(t, host.CapAdd, 1)
	require.Contains(t, host.CapAdd[0], "NET_BIND_SERVICE")
	require.Contains(t, host.SecurityOpt, "no-new-privileges")
	require.False(t, host.Privileged)
	require.Empty(t, host.DeviceRequests, "a simulated device was asked of the engine")
	require.Equal(t, "json-file", host.LogConfig.Type)
	require.NotEmpty(t, host.LogConfig.Config["max-size"])
	require.Equal(t, container.RestartPolicyDisabled, host.RestartPolicy.Name)
	labels := result.Container.Config.Labels
	require.Equal(t, i.InstanceID, labels["nvcf.instance"])
	require.Equal(t, "7", labels["nvcf.generation"])
	require.Equal(t, "r-1", labels["nvcf.request"])
	require.NotEqual(t, "forged", labels["sirocco.agent"])
	for _, address := range i.Ports {
		require.True(t, strings.HasPrefix(address, "127.0.0.1:"), "an instance is published beyond loopback")
	}
}

func TestInstancesOnANetworkAreCalledByTheirAddress(t *testing.T) {
	c := engine(t)
	name := "sirocco-test-" + uuid.NewString()[:8]
	created, err := c.NetworkCreate(t.Context(), name, client.NetworkCreateOptions{Driver: "bridge"})
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = c.NetworkRemove(context.Background(), created.ID, client.NetworkRemoveOptions{}) })
	h, _ := harness(t, func(o *docker.Options) { o.Network = name })
	i := h.Start(t, h.Driver(t), h.Spec(t, driverstest.Serves))
	host, port, err := net.SplitHostPort(i.Ports[8000])
	require.NoError(t, err)
	require.Equal(t, "8000", port)
	require.NotEqual(t, "127.0.0.1", host)
	i.Healthy()
	i.Echo()
	handle, listed := i.Listed()
	require.True(t, listed)
	require.Equal(t, i.Ports, handle.Ports)
	result, err := c.ContainerInspect(t.Context(), i.Ref, client.ContainerInspectOptions{})
	require.NoError(t, err)
	require.Empty(t, result.Container.NetworkSettings.Ports[network.MustParsePort("8000/tcp")])
}

func TestACommandThatCannotStartIsACreateErrorAndLeavesNothing(t *testing.T) {
	h, c := harness(t)
	ref := "sirocco.test/broken:" + uuid.NewString()[:8]
	importImage(t, c, ref, "/nowhere")
	forgetImage(t, c, ref)
	d := h.Driver(t)
	spec := h.Spec(t, driverstest.Serves)
	spec.Image = ref
	require.NoError(t, d.Prepare(t.Context(), spec))
	_, err := d.Start(t.Context(), spec)
	require.ErrorIs(t, err, drivers.ErrCreate)
	require.ErrorContains(t, err, "/nowhere")
	handles, err := d.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, handles)
}

func TestACrashBetweenCreateAndStartIsResumed(t *testing.T) {
	h, c := harness(t)
	d := h.Driver(t)
	spec := h.Spec(t, driverstest.Serves)
	i := h.Start(t, d, spec)
	// The same container as it was before it was started.
	before, err := c.ContainerInspect(t.Context(), i.Ref, client.ContainerInspectOptions{})
	require.NoError(t, err)
	_, err = c.ContainerRemove(t.Context(), i.Ref, client.ContainerRemoveOptions{Force: true})
	require.NoError(t, err)
	created, err := c.ContainerCreate(t.Context(), client.ContainerCreateOptions{
		Name: strings.TrimPrefix(before.Container.Name, "/"), Config: before.Container.Config, HostConfig: before.Container.HostConfig,
	})
	require.NoError(t, err)
	again, err := d.Start(t.Context(), spec)
	require.NoError(t, err)
	cleaner := h.Driver(t)
	t.Cleanup(func() { require.NoError(t, cleaner.Remove(context.Background(), again)) })
	require.Equal(t, created.ID, again.Ref)
	driverstest.With(t, d, again).Healthy()
}

func TestNoEngine(t *testing.T) {
	d := docker.New(docker.Options{AgentID: "a", Host: "unix:///nowhere/docker.sock"})
	defer d.Close()
	err := d.Check(t.Context())
	require.ErrorIs(t, err, drivers.ErrUnavailable)
	require.ErrorContains(t, err, "no Docker Engine answers")
	_, err = d.List(t.Context())
	require.ErrorIs(t, err, drivers.ErrUnavailable)
	bad := docker.New(docker.Options{AgentID: "a", Host: "nonsense"})
	defer bad.Close()
	require.ErrorIs(t, bad.Check(t.Context()), drivers.ErrUnavailable)
}

// registryServer is a registry with one image, optionally behind a password.
type registryServer struct{ address string }

func newRegistry(t *testing.T, password string) registryServer {
	t.Helper()
	raw := layer(t)
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	_, err := zip.Write(raw)
	require.NoError(t, err)
	require.NoError(t, zip.Close())
	digest := func(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Entrypoint": []string{"/probe"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(raw)}},
	})
	require.NoError(t, err)
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": map[string]any{"mediaType": "application/vnd.docker.container.image.v1+json", "size": len(config), "digest": digest(config)},
		"layers": []any{map[string]any{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": packed.Len(), "digest": digest(packed.Bytes())}},
	})
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) })
	mux.HandleFunc("/v2/{name}/manifests/{tag}", func(w http.ResponseWriter, req *http.Request) {
		if req.PathValue("name") != "probe" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`))
			return
		}
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Docker-Content-Digest", digest(manifest))
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(manifest))
	})
	mux.HandleFunc("/v2/probe/blobs/{digest}", func(w http.ResponseWriter, req *http.Request) {
		for _, blob := range [][]byte{config, packed.Bytes()} {
			if req.PathValue("digest") == digest(blob) {
				http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(blob))
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, given, _ := req.BasicAuth(); given != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`))
			return
		}
		mux.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	return registryServer{address: strings.TrimPrefix(server.URL, "http://")}
}

const manifestType = "application/vnd.docker.distribution.manifest.v2+json"

func TestPullsWithCredentials(t *testing.T) {
	h, c := harness(t)
	r := newRegistry(t, "hush-hush")
	d := h.Driver(t)
	spec := h.Spec(t, driverstest.Serves)
	spec.Image = r.address + "/probe:1"
	forgetImage(t, c, spec.Image)

	err := d.Prepare(t.Context(), spec)
	require.ErrorIs(t, err, drivers.ErrUnauthorized)
	require.ErrorContains(t, err, spec.Image)
	spec.RegistryAuth = &drivers.RegistryAuth{ServerAddress: r.address, Username: "me", Password: "wrong-secret"}
	err = d.Prepare(t.Context(), spec)
	require.ErrorIs(t, err, drivers.ErrUnauthorized)
	require.NotContains(t, err.Error(), "wrong-secret")
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", *spec.RegistryAuth, spec.RegistryAuth, spec.RegistryAuth), "wrong-secret")

	spec.RegistryAuth.Password = "hush-hush"
	i := h.Start(t, d, spec)
	i.Healthy()
	i.Echo()
}

func TestARegistryThatIsAwayIsTriedThreeTimes(t *testing.T) {
	clock := quartz.NewMock(t)
	h, _ := harness(t, func(o *docker.Options) { o.Clock = clock })
	spec := h.Spec(t, driverstest.Serves)
	spec.Image = "127.0.0.1:1/probe:1" // nobody listens there
	d := h.Driver(t)
	trap := clock.Trap().NewTimer("docker", "pull")
	defer trap.Close()
	result := make(chan error, 1)
	go func() { result <- d.Prepare(t.Context(), spec) }()
	for _, pause := range []time.Duration{3 * time.Second, 12 * time.Second} {
		trap.MustWait(t.Context()).MustRelease(t.Context())
		clock.Advance(pause).MustWait(t.Context())
	}
	err := <-result
	require.ErrorIs(t, err, drivers.ErrRegistryUnreachable)
	require.ErrorContains(t, err, "refused")
	require.EqualValues(t, "image-pull-issues", drivers.CauseOf(err))
}
