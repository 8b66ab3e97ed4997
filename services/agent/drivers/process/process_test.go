package process_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers/driverstest"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers/process"
)

func TestMain(m *testing.M) {
	code := m.Run()
	driverstest.Cleanup()
	if err := goleak.Find(); code == 0 && err != nil {
		println(err.Error())
		code = 1
	}
	os.Exit(code)
}

// catalogue is a fixed one.
type catalogue map[string]process.Command

func (c catalogue) Lookup(_ context.Context, ref string) (process.Command, bool, error) {
	if ref == "broken" {
		return process.Command{}, false, errors.New("the bus is away")
	}
	command, ok := c[ref]
	return command, ok, nil
}

const image = "registry.example/probe:1"

func harness(t *testing.T, change ...func(*process.Options)) driverstest.Harness {
	t.Helper()
	probe := driverstest.Probe(t)
	options := process.Options{
		AgentID: uuid.NewString(),
		Catalogue: catalogue{
			image:        {Argv: []string{probe}},
			"elsewhere":  {Argv: []string{"./probe"}, Dir: filepath.Dir(probe), Env: []string{"FROM=catalogue", "A=catalogue"}},
			"no-program": {Argv: []string{"/nowhere/program"}},
			"shell":      {Argv: []string{"/bin/sh", "-c"}},
		},
	}
	for _, c := range change {
		c(&options)
	}
	return driverstest.Harness{
		New:   func(*testing.T) drivers.Driver { return process.New(options) },
		Image: image, MissingImage: "registry.example/missing:1", Program: true,
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	driverstest.Run(t, harness(t))
}

func alive(pid int) bool {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return err == nil && len(text) > 0 // a zombie has none
}

func TestStopEndsChildrenInWhateverSession(t *testing.T) {
	t.Parallel()
	h := harness(t)
	i := h.Start(t, h.Driver(t), h.Spec(t, "family"))
	i.Healthy()
	children := i.Probe().Children
	require.Len(t, children, 2)
	for _, pid := range children {
		require.True(t, alive(pid))
	}
	_, listed := i.Listed()
	require.True(t, listed)
	require.NoError(t, i.Driver.Stop(t.Context(), i.Handle, 10*time.Second))
	for _, pid := range children {
		require.False(t, alive(pid), "a child outlived its instance")
	}
}

func TestWhatAnInstanceLeftBehindIsListedAndRemoved(t *testing.T) {
	t.Parallel()
	h := harness(t)
	first := h.New(t)
	i := h.Start(t, first, h.Spec(t, "family"))
	i.Healthy()
	children := i.Probe().Children
	require.NoError(t, first.Close())
	// The instance itself dies while no agent is there.
	leader, err := os.FindProcess(pidOf(t, i.Handle))
	require.NoError(t, err)
	require.NoError(t, leader.Kill())

	second := driverstest.With(t, h.Driver(t), i.Handle)
	require.False(t, second.Ended().Running)
	_, listed := second.Listed()
	require.True(t, listed, "processes that run on are hidden")
	require.NoError(t, second.Driver.Remove(t.Context(), i.Handle))
	for _, pid := range children {
		require.False(t, alive(pid))
	}
}

func pidOf(t *testing.T, h drivers.Handle) int {
	t.Helper()
	for n, c := range h.Ref {
		if c == ':' {
			pid, err := strconv.Atoi(h.Ref[:n])
			require.NoError(t, err)
			return pid
		}
	}
	t.Fatalf("no process in %q", h.Ref)
	return 0
}

// An instance that a killed agent started is a child of init, not ours. A shell
// that starts it and ends stands for that agent.
func TestAdoptsAProcessThatIsNoChild(t *testing.T) {
	t.Parallel()
	h := harness(t)
	spec := h.Spec(t, driverstest.Serves)
	agent := uuid.NewString()
	h = harness(t, func(o *process.Options) { o.AgentID = agent })
	port := freePort(t)
	address := net.JoinHostPort("127.0.0.1", port)
	shell := exec.CommandContext(t.Context(), "/bin/sh", "-c", `setsid "$0" >"$1/log" 2>&1 & exit 0`, driverstest.Probe(t), spec.Dir)
	shell.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOST=127.0.0.1", "PORT=" + port,
		"SIROCCO_AGENT_ID=" + agent, "SIROCCO_INSTANCE_ID=" + spec.InstanceID, "SIROCCO_INSTANCE_DIR=" + spec.Dir,
		"SIROCCO_PORTS=8000=" + address, "SIROCCO_IMAGE=" + image, "SIROCCO_GENERATION=7", "SIROCCO_STARTED_AT=2026-01-02T03:04:05Z",
	}
	require.NoError(t, shell.Run())

	d := h.Driver(t)
	var found []drivers.Handle
	require.Eventually(t, func() bool {
		var err error
		found, err = d.List(t.Context())
		return err == nil && len(found) == 1 && found[0].Ref != "lost"
	}, time.Minute, 10*time.Millisecond)
	i := driverstest.With(t, d, found[0])
	require.Equal(t, map[int]string{8000: address}, i.Ports)
	i.Healthy()
	i.Echo()
	ended := make(chan drivers.Status, 1)
	go func() {
		if s, err := d.Wait(t.Context(), i.Handle); err == nil {
			ended <- s
		}
	}()
	require.NoError(t, d.Stop(t.Context(), i.Handle, 10*time.Second))
	s := <-ended
	require.Nil(t, s.ExitCode, "nobody but init knows the exit code")
	require.Contains(t, s.Reason, "unknown")
	require.NoError(t, d.Remove(t.Context(), i.Handle))
}

// freePort finds one that nobody takes before the instance does: it is none of those that the system gives to whoever
// asks for any and to connections that go out, nor of those that drivers give to instances.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := strconv.Itoa(10_000 + rand.N(9_000))
		if l, err := net.Listen("tcp", ":"+port); err == nil {
			require.NoError(t, l.Close())
			return port
		}
	}
	t.Fatal("no free port")
	return ""
}

func TestAnEndThatNobodySaw(t *testing.T) {
	t.Parallel()
	h := harness(t)
	d := h.Driver(t)
	id := uuid.NewString()
	dir := filepath.Join(t.TempDir(), id)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "log"), []byte("last words\n"), 0o600))
	// The number is alive — it is this test — but it is not the same process.
	handle := drivers.Handle{Driver: "process", InstanceID: id, Dir: dir, Ref: strconv.Itoa(os.Getpid()) + ":1:otherboot"}
	s, err := d.Status(t.Context(), handle)
	require.NoError(t, err)
	require.False(t, s.Running)
	require.Nil(t, s.ExitCode)
	lines, err := d.Logs(t.Context(), handle, 5)
	require.NoError(t, err)
	require.Equal(t, []string{"last words"}, lines)
	require.NoError(t, d.Stop(t.Context(), handle, time.Second), "a foreign process must not be stopped")
}

func TestPortsReachProgramsOfEveryKind(t *testing.T) {
	t.Parallel()
	h := harness(t)
	spec := h.Spec(t, driverstest.Serves, "--listen={{port}}", "$PORT", "${HEALTH_PORT}", "$PORTAL")
	spec.HealthPort = 9000
	i := h.Start(t, h.Driver(t), spec)
	i.Healthy()
	_, inference, err := net.SplitHostPort(i.Ports[8000])
	require.NoError(t, err)
	_, health, err := net.SplitHostPort(i.Ports[9000])
	require.NoError(t, err)
	require.NotEqual(t, inference, health)
	p := i.Probe()
	require.Equal(t, []string{"serve", "--listen=" + inference, inference, health, "$PORTAL"}, p.Args)
	require.Subset(t, p.Env, []string{
		"PORT=" + inference, "HEALTH_PORT=" + health, "HOST=127.0.0.1", "PORT_8000=" + inference, "PORT_9000=" + health,
		"SIROCCO_INSTANCE_ID=" + i.InstanceID, "CUDA_VISIBLE_DEVICES=",
	})
	require.Equal(t, spec.Dir, p.Dir)
}

func TestRealDevicesAreNamedExactly(t *testing.T) {
	t.Parallel()
	h := harness(t)
	spec := h.Spec(t, driverstest.Serves)
	spec.Env = []string{"CUDA_VISIBLE_DEVICES=0,1,2", "SIROCCO_AGENT_ID=forged"}
	spec.Devices = []drivers.Device{{UUID: "GPU-a"}, {UUID: "GPU-b"}}
	i := h.Start(t, h.Driver(t), spec)
	i.Healthy()
	env := i.Probe().Env
	require.Contains(t, env, "CUDA_VISIBLE_DEVICES=GPU-a,GPU-b")
	require.Contains(t, env, "NVIDIA_VISIBLE_DEVICES=GPU-a,GPU-b")
	require.NotContains(t, env, "SIROCCO_AGENT_ID=forged")
}

func TestTheCatalogueNamesDirectoryAndEnvironment(t *testing.T) {
	t.Parallel()
	h := harness(t)
	h.Image = "elsewhere"
	spec := h.Spec(t, driverstest.Serves)
	spec.Env = []string{"A=function"}
	i := h.Start(t, h.Driver(t), spec)
	i.Healthy()
	p := i.Probe()
	require.Equal(t, filepath.Dir(driverstest.Probe(t)), p.Dir)
	require.Contains(t, p.Env, "FROM=catalogue")
	require.Contains(t, p.Env, "A=function")
}

func TestPrepareSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	h := harness(t)
	d := h.Driver(t)
	require.NoError(t, d.Check(t.Context()))
	spec := h.Spec(t, driverstest.Serves)
	spec.Image = "no-program"
	err := d.Prepare(t.Context(), spec)
	require.ErrorIs(t, err, drivers.ErrImageNotFound)
	require.ErrorContains(t, err, "/nowhere/program")
	spec.Image = "broken"
	require.ErrorIs(t, d.Prepare(t.Context(), spec), drivers.ErrRegistryUnreachable)
	spec.Image = "absent:1"
	require.ErrorContains(t, d.Prepare(t.Context(), spec), "sirocco image add absent:1")
}

func TestAPortClashIsNamed(t *testing.T) {
	t.Parallel()
	h := harness(t, func(o *process.Options) { o.Clock = quartz.NewMock(t) }) // it is over at once, however long that takes
	h.Image = "shell"
	spec := h.Spec(t, driverstest.Serves)
	spec.Args = []string{`echo "listen tcp 127.0.0.1:$PORT: bind: address already in use" >&2; exit 1`}
	i := h.Start(t, h.Driver(t), spec)
	s := i.Ended()
	require.Equal(t, 1, *s.ExitCode)
	require.Contains(t, s.Reason, "port was taken")
	require.Contains(t, s.Reason, i.Ports[8000])
	require.Contains(t, s.Reason, "after its start")
}

func TestAnExitQuotesTheLastLine(t *testing.T) {
	t.Parallel()
	h := harness(t)
	h.Image = "shell"
	spec := h.Spec(t, driverstest.Serves)
	spec.Args = []string{`echo starting; echo "no CUDA device" >&2; exit 4`}
	s := h.Start(t, h.Driver(t), spec).Ended()
	require.Contains(t, s.Reason, "exit code 4")
	require.Contains(t, s.Reason, "no CUDA device")
}

func TestPortsRunOut(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	h := harness(t, func(o *process.Options) { o.FirstPort, o.LastPort = port, port })
	_, err = h.Driver(t).Start(t.Context(), h.Spec(t, driverstest.Serves))
	require.ErrorIs(t, err, drivers.ErrCreate)
	require.ErrorContains(t, err, "no free port")
}

func TestLogsAreBounded(t *testing.T) {
	t.Parallel()
	clock := quartz.NewMock(t)
	const limit = 64 << 10
	h := harness(t, func(o *process.Options) { o.Clock, o.LogBytes = clock, limit })
	trap := clock.Trap().NewTicker("process", "logs")
	defer trap.Close()
	i := h.Start(t, h.Driver(t), h.Spec(t, "chatter", "1048576"))
	trap.MustWait(t.Context()).MustRelease(t.Context())
	i.Healthy()
	size := func() (sum int64) {
		for _, name := range []string{"log", "log.1"} {
			if info, err := os.Stat(filepath.Join(i.Dir, name)); err == nil {
				sum += info.Size()
			}
		}
		return sum
	}
	require.Greater(t, size(), int64(limit))
	clock.Advance(5 * time.Second).MustWait(t.Context())
	require.Eventually(t, func() bool { return size() <= limit }, time.Minute, 10*time.Millisecond)
	lines, err := i.Driver.Logs(t.Context(), i.Handle, 2)
	require.NoError(t, err)
	require.Len(t, lines, 2)
	require.Equal(t, "probe: listening", lines[1])
}
