package gpus_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/quartz"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/services/agent/gpus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// smi is an nvidia-smi that says what a test sets.
type smi struct {
	mu  sync.Mutex
	out string
	err error
}

func (s *smi) set(out string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out, s.err = out, err
}

func (s *smi) query(context.Context, ...string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []byte(s.out), s.err
}

const (
	first  = "0, GPU-aaaa, NVIDIA H100 80GB HBM3, 81559, 4, 570.86.15, 00000000:19:00.0, Disabled\n"
	second = "1, GPU-bbbb, NVIDIA H100 80GB HBM3, 81559, 4, 570.86.15, 00000000:3B:00.0, Disabled\n"
)

func TestSimulatedLists(t *testing.T) {
	t.Parallel()
	d := gpus.Discoverer{Node: "node-1"}
	found, err := d.Discover(t.Context(), " H100:3, L40S:5 ")
	require.NoError(t, err)
	require.True(t, found.Simulated)
	require.Len(t, found.Devices, 8)
	seen := map[string]bool{}
	for n, device := range found.Devices {
		require.Equal(t, n, device.Index)
		require.Regexp(t, `^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`, device.UUID)
		require.True(t, device.Simulated)
		require.Equal(t, clusters.Free, device.State)
		require.Equal(t, "ok", device.Health)
		seen[device.UUID] = true
	}
	require.Len(t, seen, 8)
	require.Equal(t, int64(81559), found.Devices[0].MemoryMiB)
	require.Equal(t, "L40S", found.Devices[7].GPU)
	require.Equal(t, int64(46068), found.Devices[7].MemoryMiB)

	again, err := d.Discover(t.Context(), "H100:3,L40S:5")
	require.NoError(t, err)
	require.Equal(t, found, again, "simulated devices must be the same after a restart")
	other, err := gpus.Discoverer{Node: "node-2"}.Discover(t.Context(), "H100:1")
	require.NoError(t, err)
	require.False(t, seen[other.Devices[0].UUID], "two nodes have the same device")
}

// What a simulated device claims to be has the name it was asked by.
func TestSimulatedProductsHaveTheirName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"H100", "H200", "GH200", "B200", "GB200", "B300", "A100", "A10", "A10G", "A16", "A30", "A40", "L4", "L40", "L40S", "T4", "V100", "P100", "RTX4090", "RTX5090", "RTXPRO6000"} {
		found, err := gpus.Discoverer{}.Discover(t.Context(), name+":1")
		require.NoError(t, err)
		got, err := gpus.Name(found.Devices[0].Product, nil)
		require.NoError(t, err)
		require.Equal(t, name, got)
		require.Greater(t, found.Devices[0].MemoryMiB, int64(10000))
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	none, err := gpus.Discoverer{}.Discover(t.Context(), "none")
	require.NoError(t, err)
	require.Empty(t, none.Devices)
	for setting, rule := range map[string]string{
		"H100":                         "has no count",
		"H100:":                        "positive whole count",
		"H100:0":                       "positive whole count",
		"H100:-1":                      "positive whole count",
		"H100:x":                       "positive whole count",
		"H100:99999":                   "exceeds",
		":8":                           "GPU name",
		"H 100:8":                      "GPU name",
		"H100:1,":                      "has no count",
		"H100:4000,L40S:4000":          "exceeds",
		strings.Repeat("X", 23) + ":1": "GPU name",
	} {
		_, err := gpus.Discoverer{}.Discover(t.Context(), setting)
		require.ErrorContains(t, err, rule, setting)
		require.ErrorContains(t, err, "SIROCCO_GPUS")
	}
}

func TestAutoTakesRealDevicesFirst(t *testing.T) {
	t.Parallel()
	tool := &smi{out: first + second}
	found, err := gpus.Discoverer{Query: tool.query}.Discover(t.Context(), "auto")
	require.NoError(t, err)
	require.False(t, found.Simulated)
	require.Equal(t, "570.86.15", found.Driver)
	require.Equal(t, clusters.Device{
		UUID: "GPU-bbbb", Index: 1, GPU: "H100", Product: "NVIDIA-H100-80GB-HBM3", MemoryMiB: 81559, State: clusters.Free, Health: "ok",
	}, found.Devices[1])

	for name, tool := range map[string]*smi{
		"not installed": {err: exec.ErrNotFound},
		"no device":     {out: "No devices were found\n"},
		"nothing":       {},
	} {
		found, err := gpus.Discoverer{Query: tool.query}.Discover(t.Context(), "auto")
		require.NoError(t, err, name)
		require.True(t, found.Simulated, name)
		require.Len(t, found.Devices, 8, name)
		require.Equal(t, "H100", found.Devices[0].GPU, name)
	}
	// A tool that breaks on a GPU machine must not turn it into a simulation.
	tool.set("", errors.New("exit status 9"))
	_, err = gpus.Discoverer{Query: tool.query}.Discover(t.Context(), "auto")
	require.ErrorContains(t, err, "exit status 9")
}

func TestOddLinesOfNvidiaSmi(t *testing.T) {
	t.Parallel()
	tool := &smi{out: strings.Join([]string{
		"0, GPU-a, NVIDIA GeForce RTX 4090, 24564, 600, 550.1, 00000000:01:00.0, [N/A]",
		"1, GPU-b, Tesla T4, [N/A], [N/A], [Not Supported], [N/A], [N/A]",
		"2, GPU-c, NVIDIA A100-SXM4-40GB, 40960, 0, 550.1, 00000000:02:00.0, Enabled",
		"3, GPU-d, NVIDIA, 1, 0, 550.1, 00000000:03:00.0, Disabled",
	}, "\n")}
	found, err := gpus.Discoverer{Query: tool.query}.Discover(t.Context(), "auto")
	require.NoError(t, err)
	require.Equal(t, clusters.Foreign, found.Devices[0].State)
	require.Contains(t, found.Devices[0].Health, "600 MiB")
	require.Equal(t, "T4", found.Devices[1].GPU)
	require.Equal(t, clusters.Free, found.Devices[1].State)
	require.Equal(t, int64(0), found.Devices[1].MemoryMiB)
	require.Equal(t, clusters.Sick, found.Devices[2].State)
	require.Contains(t, found.Devices[2].Health, "MIG")
	require.Equal(t, clusters.Sick, found.Devices[3].State)
	require.Contains(t, found.Devices[3].Health, "override")

	for _, bad := range []string{"0, GPU-a, X\n", "0, serial, NVIDIA L4, 1, 1, 1, 1, 1\n"} {
		tool.set(bad, nil)
		_, err := gpus.Discoverer{Query: tool.query}.Discover(t.Context(), "auto")
		require.ErrorContains(t, err, "nvidia-smi output")
	}
}

func TestTheRealToolIsRun(t *testing.T) {
	// Not parallel: it changes PATH.
	dir := t.TempDir()
	script := "#!/bin/sh\ncase \"$1\" in --query-gpu=index,uuid,name,memory.total,memory.used,driver_version,pci.bus_id,mig.mode.current) ;; *) exit 2;; esac\n" +
		"echo '" + strings.TrimSpace(first) + "'\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte(script), 0o755))
	t.Setenv("PATH", dir)
	found, err := gpus.Discoverer{}.Discover(t.Context(), "auto")
	require.NoError(t, err)
	require.Equal(t, "GPU-aaaa", found.Devices[0].UUID)

	script = "#!/bin/sh\necho \"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\"\nexit 9\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte(script), 0o755))
	found, err = gpus.Discoverer{}.Discover(t.Context(), "auto")
	require.NoError(t, err)
	require.True(t, found.Simulated)
}

// watch runs a watcher over two real devices and returns how to take one look.
func watch(t *testing.T, tool *smi, owned func(string) bool) (look func(), reports <-chan []clusters.Device) {
	t.Helper()
	clock := quartz.NewMock(t)
	d := gpus.Discoverer{Query: tool.query}
	found, err := d.Discover(t.Context(), "auto")
	require.NoError(t, err)
	out := make(chan []clusters.Device, 10)
	trap := clock.Trap().NewTicker("gpus", "watch")
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	looked := make(chan struct{}, 1)
	d.Query = func(ctx context.Context, args ...string) ([]byte, error) {
		b, err := tool.query(ctx, args...)
		looked <- struct{}{}
		return b, err
	}
	w := gpus.Watcher{Discoverer: d, Clock: clock, Owned: owned, Report: func(c []clusters.Device) { out <- c }}
	group.Go(func() { w.Run(ctx, found) })
	t.Cleanup(func() { cancel(); group.Wait() })
	trap.MustWait(t.Context()).MustRelease(t.Context())
	trap.Close()
	return func() {
		clock.Advance(10 * time.Second).MustWait(t.Context())
		<-looked
	}, out
}

func TestWatchReportsWhatChanged(t *testing.T) {
	t.Parallel()
	tool := &smi{out: first + second}
	look, reports := watch(t, tool, nil)

	tool.set(first, nil)
	look()
	changed := <-reports
	require.Len(t, changed, 1)
	require.Equal(t, "GPU-bbbb", changed[0].UUID)
	require.Equal(t, clusters.Sick, changed[0].State)
	require.Contains(t, changed[0].Health, "vanished")

	tool.set(first+strings.Replace(second, " 4,", " 9000,", 1), nil)
	look()
	changed = <-reports
	require.Equal(t, clusters.Foreign, changed[0].State)
	require.Contains(t, changed[0].Health, "9000 MiB")

	// Another amount is no news; the next report is that it is healthy again.
	tool.set(first+strings.Replace(second, " 4,", " 9001,", 1), nil)
	look()
	tool.set(first+second, nil)
	look()
	changed = <-reports
	require.Len(t, changed, 1)
	require.Equal(t, clusters.Free, changed[0].State)
	require.Equal(t, "ok", changed[0].Health)

	third := strings.NewReplacer("1, GPU-bbbb", "2, GPU-cccc").Replace(second)
	tool.set(first+second+third, nil)
	look()
	changed = <-reports
	require.Len(t, changed, 1)
	require.Equal(t, "GPU-cccc", changed[0].UUID)
}

func TestWatchIgnoresTheMemoryOfOwnInstances(t *testing.T) {
	t.Parallel()
	tool := &smi{out: first + second}
	look, reports := watch(t, tool, func(uuid string) bool { return uuid == "GPU-aaaa" })
	tool.set(strings.ReplaceAll(first+second, " 4,", " 70000,"), nil)
	look()
	changed := <-reports
	require.Len(t, changed, 1)
	require.Equal(t, "GPU-bbbb", changed[0].UUID)
}

func TestWatchForgivesOneFailure(t *testing.T) {
	t.Parallel()
	tool := &smi{out: first + second}
	look, reports := watch(t, tool, nil)
	tool.set("", errors.New("timed out"))
	look()
	look()
	changed := <-reports
	require.Len(t, changed, 2)
	require.Equal(t, clusters.Sick, changed[0].State)
	require.Contains(t, changed[0].Health, "timed out")
	tool.set(first+second, nil)
	look()
	changed = <-reports
	require.Len(t, changed, 2)
	require.Equal(t, clusters.Free, changed[0].State)
	require.Empty(t, reports)
}

func TestInstanceTypes(t *testing.T) {
	t.Parallel()
	found, err := gpus.Discoverer{}.Discover(t.Context(), "H100:8")
	require.NoError(t, err)
	node := clusters.NodeFacts{Arch: "amd64", OS: "linux", Driver: "570", CPUMilli: 224001, MemoryMiB: 2063839, DiskMiB: 28 << 20}
	types := gpus.Types("NCP", node, found.Devices)
	names := map[string]clusters.InstanceType{}
	for _, ty := range types {
		names[ty.Name] = ty
		require.Equal(t, "NCP.GPU.H100", ty.Value)
		require.Equal(t, "H100", ty.GPU)
		require.Contains(t, ty.Description, "NVIDIA-H100-80GB-HBM3")
		require.Equal(t, "SINGLE", ty.NodeType)
	}
	require.Len(t, names, 4)
	one, two, all := names["NCP.GPU.H100_1x"], names["NCP.GPU.H100_2x"], names["NCP.GPU.H100_8x"]
	require.True(t, one.Default)
	require.False(t, two.Default)
	require.Equal(t, "79Gi", one.GPUMemory)
	require.Equal(t, "159Gi", two.GPUMemory)
	require.Equal(t, int64(28000), one.CPUMilli)
	require.Equal(t, 28, one.CPUCores)
	require.Equal(t, int64(257979), one.MemoryMiB)
	require.Equal(t, int64(224001), all.CPUMilli, "the full node keeps its exact values")
	require.Equal(t, 225, all.CPUCores)
	require.Equal(t, node.MemoryMiB, all.MemoryMiB)
	require.Equal(t, "28Ti", all.Storage)
	require.Equal(t, "3584Gi", one.Storage)
	require.Equal(t, 8, all.GPUCount)
}

func TestInstanceTypesOfOddNodes(t *testing.T) {
	t.Parallel()
	node := clusters.NodeFacts{CPUMilli: 60000, MemoryMiB: 60000}
	names := func(setting string) (out []string) {
		found, err := gpus.Discoverer{}.Discover(t.Context(), setting)
		require.NoError(t, err)
		for _, ty := range gpus.Types("AWS", node, found.Devices) {
			out = append(out, ty.Name)
		}
		return out
	}
	require.Equal(t, []string{"AWS.GPU.L4_1x"}, names("L4:1"))
	require.Equal(t, []string{"AWS.GPU.L4_1x", "AWS.GPU.L4_2x", "AWS.GPU.L4_4x", "AWS.GPU.L4_6x"}, names("L4:6"))
	require.Equal(t, []string{"AWS.GPU.H100_1x", "AWS.GPU.H100_2x", "AWS.GPU.H100_3x", "AWS.GPU.L40S_1x", "AWS.GPU.L40S_2x"}, names("H100:3,L40S:2"))
	require.Equal(t, []string{"AWS.GPU.L4_1x", "AWS.GPU.L4_2x", "AWS.GPU.L4_4x", "AWS.GPU.L4_8x", "AWS.GPU.L4_16x"}, names("L4:16"), "by size, not by spelling")
	require.Empty(t, names("none"))

	// Devices of two names share one node.
	found, err := gpus.Discoverer{}.Discover(t.Context(), "H100:3,L40S:2")
	require.NoError(t, err)
	var sum int64
	for _, ty := range gpus.Types("AWS", node, found.Devices) {
		if ty.Name == "AWS.GPU.H100_3x" || ty.Name == "AWS.GPU.L40S_2x" {
			sum += ty.CPUMilli
		}
	}
	require.Equal(t, node.CPUMilli, sum, "the types of a mixed node promise more than it has")
}

func TestQuantities(t *testing.T) {
	t.Parallel()
	for want, bytes := range map[string]int64{
		"79Gi": 81559 << 20, "159Gi": 163118 << 20, "8Gi": 8 << 30, "9999Mi": 9999 << 20, "9Gi": 10000 << 20,
		"1": 1, "9999": 9999, "9Ki": 10001, "0": 0, "1Ti": 1 << 40, "15Gi": 15360 << 20,
	} {
		require.Equal(t, want, gpus.Quantity(bytes))
	}
}

func TestProviders(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"": "NCP", "aws": "AWS", "On-Prem": "ON-PREM"} {
		got, err := gpus.CheckProvider(in)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := gpus.CheckProvider("mars")
	require.ErrorContains(t, err, "must be one of")
}

func TestFactsOfThisMachine(t *testing.T) {
	t.Parallel()
	facts, err := gpus.Facts(t.TempDir(), "570")
	require.NoError(t, err)
	require.NotEmpty(t, facts.Hostname)
	require.Positive(t, facts.CPUMilli)
	require.Greater(t, facts.MemoryMiB, int64(100))
	require.Greater(t, facts.DiskMiB, int64(100))
	require.Equal(t, "570", facts.Driver)
	_, err = gpus.Facts("/nowhere", "")
	require.ErrorContains(t, err, "/nowhere")
}
