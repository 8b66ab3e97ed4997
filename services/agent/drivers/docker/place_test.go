package docker

import (
	"errors"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/system"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

func TestPathsAreTranslatedInsideAContainer(t *testing.T) {
	t.Parallel()
	inside := placeOf("", &self{networks: []string{"host", "none", "stack_default"}, mounts: []container.MountPoint{
		{Source: "/var/lib/docker/volumes/agent/_data", Destination: "/data"},
		{Source: "/srv/big", Destination: "/data/instances"},
		{Source: "", Destination: "/tmp"},
	}})
	require.Equal(t, "stack_default", inside.network)
	require.Equal(t, "mine", placeOf("mine", inside.inside).network)
	for path, want := range map[string]string{
		"/data/x":           "/var/lib/docker/volumes/agent/_data/x",
		"/data/instances/i": "/srv/big/i",
		"/data":             "/var/lib/docker/volumes/agent/_data",
		"/database":         "",
		"/tmp/x":            "",
	} {
		got, ok := inside.hostPath(path)
		require.Equal(t, want, got, path)
		require.Equal(t, want != "", ok, path)
	}
	got, ok := place{}.hostPath("/anything")
	require.True(t, ok)
	require.Equal(t, "/anything", got)
}

func TestRealDevicesAreRequestedByName(t *testing.T) {
	t.Parallel()
	devices := []drivers.Device{{UUID: "GPU-a"}, {UUID: "GPU-b"}}
	knows := &system.Info{DiscoveredDevices: []system.DeviceInfo{{ID: "nvidia.com/gpu=GPU-a"}, {ID: "nvidia.com/gpu=GPU-b"}}}
	knowsOne := &system.Info{DiscoveredDevices: knows.DiscoveredDevices[:1]}
	cdi := []container.DeviceRequest{{Driver: "cdi", DeviceIDs: []string{"nvidia.com/gpu=GPU-a", "nvidia.com/gpu=GPU-b"}}}
	classic := []container.DeviceRequest{{Driver: "nvidia", DeviceIDs: []string{"GPU-a", "GPU-b"}, Capabilities: [][]string{{"gpu", "compute", "utility"}}}}
	for _, c := range []struct {
		mode string
		info *system.Info
		want []container.DeviceRequest
	}{
		{GPUAuto, knows, cdi},
		{GPUAuto, knowsOne, classic},
		{GPUAuto, &system.Info{}, classic},
		{GPUCDI, &system.Info{}, cdi},
		{GPUNvidia, knows, classic},
	} {
		d := &Driver{options: Options{GPU: c.mode}}
		require.Equal(t, c.want, d.deviceRequests(devices, c.info))
	}
	d := &Driver{options: Options{GPU: GPUCDI}}
	require.Empty(t, d.deviceRequests([]drivers.Device{{UUID: "GPU-a", Simulated: true}}, knows))
	require.Equal(t, []string{"NVIDIA_VISIBLE_DEVICES=GPU-a,GPU-b"}, visibleDevices(devices))
}

func TestPullFailuresAreTold(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text        string
		credentials bool
		want        error
	}{
		{"pull access denied for x, repository does not exist or may require 'docker login': denied", false, drivers.ErrImageNotFound},
		{"pull access denied for x, repository does not exist or may require 'docker login': denied", true, drivers.ErrUnauthorized},
		{"unauthorized: authentication required", true, drivers.ErrUnauthorized},
		{"Head \"https://nvcr.io/v2/x\": denied: Forbidden", true, drivers.ErrUnauthorized},
		{"manifest for x:1 not found: manifest unknown: OCI index found", false, drivers.ErrImageNotFound},
		{"no matching manifest for linux/arm64/v8 in the manifest list entries", false, drivers.ErrImageNotFound},
		{"Get \"https://r.example/v2/\": dial tcp: lookup r.example: no such host", false, drivers.ErrRegistryUnreachable},
		{"Get \"https://r.example/v2/\": net/http: TLS handshake timeout", false, drivers.ErrRegistryUnreachable},
		{"received unexpected HTTP status: 503 Service Unavailable", true, drivers.ErrRegistryUnreachable},
		{"unexpected EOF", true, drivers.ErrRegistryUnreachable},
	} {
		require.Equal(t, c.want, pullKind(errors.New(c.text), c.credentials), c.text)
	}
}
