// Package driverstest is the conformance suite of the drivers: what the agent
// relies on, checked from outside with real instances. A driver's own test
// calls [Run].
package driverstest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

// Behaviour is what the instance of a test does.
type Behaviour string

// The behaviours. Exits ends with code 3 at once.
const (
	Serves       Behaviour = "serve"
	Exits        Behaviour = "exit"
	NeverListens Behaviour = "silent"
	IgnoresTerm  Behaviour = "stubborn"
)

// Harness tells the suite about one driver.
type Harness struct {
	// New makes a driver value of the same agent each time, as a restarted
	// agent would. It must not close it.
	New func(t *testing.T) drivers.Driver
	// Image runs the probe, MissingImage does not exist.
	Image, MissingImage string
	// Behave makes a spec behave. Nil passes the behaviour to the probe.
	Behave func(spec *drivers.Spec, b Behaviour)
	// Missing makes a spec whose image is missing. Nil uses MissingImage.
	Missing func(spec *drivers.Spec)
	// Program says that a program runs, which sees arguments and environment.
	Program bool
}

// patience bounds each wait of the suite; machines that run tests can be slow.
const patience = 2 * time.Minute

// Probe builds the probe once per test binary and returns its path. It is
// static, so that it runs in an empty image.
func Probe(t *testing.T) string {
	t.Helper()
	path, err := probe()
	require.NoError(t, err)
	return path
}

var probe = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "driverstest")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "probe")
	build := exec.Command("go", "build", "-o", path, "github.com/sirocco-cloud/sirocco/services/agent/drivers/driverstest/cmd/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", errors.New(string(out))
	}
	return path, nil
})

// Cleanup deletes the probe; call it in TestMain after the tests.
func Cleanup() {
	if path, err := probe(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
}

// Instance is one instance under test.
type Instance struct {
	drivers.Handle
	Driver drivers.Driver
	t      *testing.T
	client *http.Client
}

// Spec returns a valid spec of a new instance.
func (h Harness) Spec(t *testing.T, b Behaviour, args ...string) drivers.Spec {
	t.Helper()
	id := uuid.NewString()
	spec := drivers.Spec{
		InstanceID: id, Generation: 7, Image: h.Image, InferencePort: 8000, HealthPath: "/health",
		Dir: filepath.Join(t.TempDir(), id),
	}
	require.NoError(t, os.MkdirAll(spec.Dir, 0o755)) //nolint:gosec // an instance may be another user
	switch {
	case h.Behave != nil:
		h.Behave(&spec, b)
	case b == Exits:
		spec.Args = []string{"exit", "3"}
	case b != Serves || len(args) > 0:
		spec.Args = append([]string{string(b)}, args...)
	}
	return spec
}

// Driver makes a driver that is closed at the end of the test.
func (h Harness) Driver(t *testing.T) drivers.Driver {
	t.Helper()
	d := h.New(t)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// Start starts an instance and removes it at the end of the test.
func (h Harness) Start(t *testing.T, d drivers.Driver, spec drivers.Spec) *Instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, d.Prepare(ctx, spec))
	handle, err := d.Start(ctx, spec)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cleaner := h.New(t)
		require.NoError(t, cleaner.Remove(ctx, handle))
		require.NoError(t, cleaner.Close())
	})
	return With(t, d, handle)
}

// With is the instance of a handle as a driver value sees it.
func With(t *testing.T, d drivers.Driver, handle drivers.Handle) *Instance {
	t.Helper()
	transport := d.Transport(handle)
	t.Cleanup(transport.CloseIdleConnections)
	return &Instance{Handle: handle, Driver: d, t: t, client: &http.Client{Transport: transport}}
}

// Call sends a request to the instance.
func (i *Instance) Call(method, path, body string) (int, string, error) {
	ctx, cancel := context.WithTimeout(i.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://127.0.0.1:8000"+path, strings.NewReader(body))
	require.NoError(i.t, err)
	resp, err := i.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// Healthy waits until the instance answers its health check.
func (i *Instance) Healthy() {
	i.t.Helper()
	require.Eventually(i.t, func() bool {
		code, _, err := i.Call(http.MethodGet, "/health", "")
		return err == nil && code == http.StatusOK
	}, patience, 20*time.Millisecond, "the instance never became healthy")
}

// Echo checks that the instance answers calls.
func (i *Instance) Echo() {
	i.t.Helper()
	code, text, err := i.Call(http.MethodPost, "/echo", `{"message":"hey-","repeats":2}`)
	require.NoError(i.t, err)
	require.Equal(i.t, http.StatusOK, code)
	require.Equal(i.t, "hey-hey-", text)
}

// Status is the status that the driver tells.
func (i *Instance) Status() drivers.Status {
	i.t.Helper()
	s, err := i.Driver.Status(i.t.Context(), i.Handle)
	require.NoError(i.t, err)
	return s
}

// Ended waits for the end.
func (i *Instance) Ended() drivers.Status {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(i.t.Context(), patience)
	defer cancel()
	s, err := i.Driver.Wait(ctx, i.Handle)
	require.NoError(i.t, err)
	require.False(i.t, s.Running)
	return s
}

// Listed says whether List knows the instance, and returns it as listed.
func (i *Instance) Listed() (drivers.Handle, bool) {
	i.t.Helper()
	all, err := i.Driver.List(i.t.Context())
	require.NoError(i.t, err)
	var found []drivers.Handle
	for _, h := range all {
		if h.InstanceID == i.InstanceID {
			found = append(found, h)
		}
	}
	require.LessOrEqual(i.t, len(found), 1, "the instance is listed twice")
	if len(found) == 0 {
		return drivers.Handle{}, false
	}
	return found[0], true
}

// Probe asks the program about itself.
func (i *Instance) Probe() (p struct {
	Args     []string `json:"args"`
	Env      []string `json:"env"`
	Dir      string   `json:"dir"`
	Children []int    `json:"children"`
	Secrets  string   `json:"secrets"`
},
) {
	i.t.Helper()
	code, text, err := i.Call(http.MethodGet, "/probe", "")
	require.NoError(i.t, err)
	require.Equal(i.t, http.StatusOK, code)
	require.NoError(i.t, json.Unmarshal([]byte(text), &p))
	return p
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	t.Helper()
	for _, c := range []struct {
		name    string
		test    func(*testing.T, Harness)
		program bool
	}{
		{"starts, answers, stops", lifeCycle, false},
		{"streams both ways", pingPong, false},
		{"speaks HTTP/2 without TLS", h2c, false},
		{"an unknown port is an error", unknownPort, false},
		{"starting twice makes one instance", startTwice, false},
		{"starting at once makes one instance", startAtOnce, false},
		{"an ended instance is not started again", endedStaysEnded, false},
		{"a new driver takes over by handle", takeOver, false},
		{"a new driver sees the end", takeOverEnd, false},
		{"List finds what nobody remembers", orphan, false},
		{"the exit code is seen", exitCode, false},
		{"one that never listens refuses calls and stops", neverListens, false},
		{"one that ignores SIGTERM is killed", stubborn, false},
		{"stopping and removing are idempotent", idempotent, false},
		{"an unknown instance is not found", unknown, false},
		{"a missing image says so", missing, false},
		{"a bad spec names the field", badSpec, false},
		{"Wait obeys its context", waitCancelled, false},
		{"arguments arrive as they are", arguments, true},
		{"the environment arrives and nothing leaks in", environment, true},
		{"secrets arrive", secrets, true},
		{"log lines are kept", logs, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.program && !h.Program {
				t.Skip("this driver runs no program that could see it")
			}
			t.Parallel()
			c.test(t, h)
		})
	}
}

func lifeCycle(t *testing.T, h Harness) {
	i := h.Start(t, h.Driver(t), h.Spec(t, Serves))
	i.Healthy()
	i.Echo()
	require.True(t, i.Status().Running)
	require.Equal(t, i.Driver.Name(), i.Handle.Driver)
	require.Equal(t, int64(7), i.Generation)
	require.NoError(t, i.Driver.Stop(t.Context(), i.Handle, patience))
	s := i.Ended()
	require.NotEmpty(t, s.Reason)
	_, _, err := i.Call(http.MethodGet, "/health", "")
	require.Error(t, err, "a stopped instance answered")
	require.NoError(t, i.Driver.Remove(t.Context(), i.Handle))
	_, listed := i.Listed()
	require.False(t, listed, "a removed instance is still listed")
	require.NoDirExists(t, i.Dir)
}

func pingPong(t *testing.T, h Harness) {
	i := h.Start(t, h.Driver(t), h.Spec(t, Serves))
	i.Healthy()
	body, lines := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:8000/ping-pong", body)
	require.NoError(t, err)
	resp, err := i.client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	answers := bufio.NewReader(resp.Body)
	for range 3 {
		_, err = io.WriteString(lines, "ping\n")
		require.NoError(t, err)
		answer, err := answers.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "pong\n", answer)
	}
	require.NoError(t, lines.Close())
	_, err = answers.ReadByte()
	require.ErrorIs(t, err, io.EOF)
}

func h2c(t *testing.T, h Harness) {
	i := h.Start(t, h.Driver(t), h.Spec(t, Serves))
	i.Healthy()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:8000/health", nil)
	require.NoError(t, err)
	req.ProtoMajor, req.ProtoMinor = 2, 0
	resp, err := i.client.Transport.RoundTrip(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 2, resp.ProtoMajor)
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

func unknownPort(t *testing.T, h Harness) {
	i := h.Start(t, h.Driver(t), h.Spec(t, Serves))
	i.Healthy()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:9/health", nil)
	require.NoError(t, err)
	_, err = i.client.Transport.RoundTrip(req) //nolint:bodyclose // there is no response
	require.ErrorContains(t, err, "no port 9")
}

func startTwice(t *testing.T, h Harness) {
	d := h.Driver(t)
	spec := h.Spec(t, Serves)
	i := h.Start(t, d, spec)
	again, err := d.Start(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, i.Ref, again.Ref)
	// A restarted agent that did not get to persist the handle.
	later, err := h.Driver(t).Start(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, i.Ref, later.Ref)
	require.Equal(t, i.Ports, later.Ports)
	_, listed := i.Listed()
	require.True(t, listed)
}

func startAtOnce(t *testing.T, h Harness) {
	d := h.Driver(t)
	spec := h.Spec(t, Serves)
	refs := make([]string, 4)
	var group sync.WaitGroup
	for n := range refs {
		group.Go(func() {
			handle, err := d.Start(t.Context(), spec)
			if err == nil {
				refs[n] = handle.Ref
			}
		})
	}
	group.Wait()
	i := h.Start(t, d, spec)
	for _, ref := range refs {
		require.Equal(t, i.Ref, ref)
	}
	i.Healthy()
}

func endedStaysEnded(t *testing.T, h Harness) {
	d := h.Driver(t)
	spec := h.Spec(t, Exits)
	i := h.Start(t, d, spec)
	i.Ended()
	for _, d := range []drivers.Driver{d, h.Driver(t)} {
		again, err := d.Start(t.Context(), spec)
		require.NoError(t, err)
		require.Equal(t, i.Ref, again.Ref)
		s, err := d.Status(t.Context(), again)
		require.NoError(t, err)
		require.False(t, s.Running, "an ended instance was started again")
	}
}

// roundTrip is what persisting does to a handle.
func roundTrip(t *testing.T, handle drivers.Handle) drivers.Handle {
	t.Helper()
	text, err := json.Marshal(handle)
	require.NoError(t, err)
	var out drivers.Handle
	require.NoError(t, json.Unmarshal(text, &out))
	return out
}

func takeOver(t *testing.T, h Harness) {
	first := h.New(t)
	i := h.Start(t, first, h.Spec(t, Serves))
	i.Healthy()
	require.NoError(t, first.Close())

	second := With(t, h.Driver(t), roundTrip(t, i.Handle))
	require.True(t, second.Status().Running, "the instance did not survive its agent")
	second.Echo()
	require.Eventually(t, func() bool { // an engine writes what it reads a moment later
		lines, err := second.Driver.Logs(t.Context(), second.Handle, 10)
		return err == nil && len(lines) > 0
	}, patience, 20*time.Millisecond)
	require.NoError(t, second.Driver.Stop(t.Context(), second.Handle, patience))
	require.False(t, second.Ended().Running)
}

func takeOverEnd(t *testing.T, h Harness) {
	first := h.New(t)
	i := h.Start(t, first, h.Spec(t, Exits))
	i.Ended()
	require.NoError(t, first.Close())
	s := With(t, h.Driver(t), roundTrip(t, i.Handle)).Ended()
	require.NotNil(t, s.ExitCode)
	require.Equal(t, 3, *s.ExitCode)
}

func orphan(t *testing.T, h Harness) {
	first := h.New(t)
	i := h.Start(t, first, h.Spec(t, Serves))
	i.Healthy()
	require.NoError(t, first.Close())

	finder := &Instance{Handle: drivers.Handle{InstanceID: i.InstanceID}, Driver: h.Driver(t), t: t}
	handle, listed := finder.Listed()
	require.True(t, listed)
	require.Equal(t, i.Ref, handle.Ref)
	require.Equal(t, i.Ports, handle.Ports)
	require.Equal(t, i.Generation, handle.Generation)
	require.Equal(t, i.Image, handle.Image)
	require.Equal(t, i.Dir, handle.Dir)
	require.WithinDuration(t, i.StartedAt, handle.StartedAt, time.Second)
	adopted := With(t, finder.Driver, handle)
	adopted.Echo()
	require.NoError(t, adopted.Driver.Remove(t.Context(), handle))
	_, listed = finder.Listed()
	require.False(t, listed)
}

func exitCode(t *testing.T, h Harness) {
	i := h.Start(t, h.Driver(t), h.Spec(t, Exits))
	s := i.Ended()
	require.NotNil(t, s.ExitCode)
	require.Equal(t, 3, *s.ExitCode)
	require.Contains(t, s.Reason, "3")
	require.Equal(t, s, i.Status())
}

func neverListens(t *testing.T, h Harness) {
	i := h.Start(t, h.Driver(t), h.Spec(t, NeverListens))
	_, _, err := i.Call(http.MethodGet, "/health", "")
	require.Error(t, err)
	require.True(t, i.Status().Running)
	require.NoError(t, i.Driver.Stop(t.Context(), i.Handle, patience))
	require.False(t, i.Status().Running)
}

func stubborn(t *testing.T, h Harness) {
	i := h.Start(t, h.Driver(t), h.Spec(t, IgnoresTerm))
	i.Healthy()
	require.NoError(t, i.Driver.Stop(t.Context(), i.Handle, time.Second))
	s := i.Ended()
	require.NotNil(t, s.ExitCode)
	require.Equal(t, 137, *s.ExitCode)
}

func idempotent(t *testing.T, h Harness) {
	i := h.Start(t, h.Driver(t), h.Spec(t, Serves))
	i.Healthy()
	for range 2 {
		require.NoError(t, i.Driver.Stop(t.Context(), i.Handle, patience))
	}
	for range 2 {
		require.NoError(t, i.Driver.Remove(t.Context(), i.Handle))
	}
	require.NoError(t, i.Driver.Stop(t.Context(), i.Handle, patience))
	_, err := i.Driver.Status(t.Context(), i.Handle)
	require.ErrorIs(t, err, drivers.ErrInstanceNotFound)
}

func unknown(t *testing.T, h Harness) {
	d := h.Driver(t)
	id := uuid.NewString()
	handle := drivers.Handle{Driver: d.Name(), InstanceID: id, Ref: "1:2:3", Dir: filepath.Join(t.TempDir(), id)}
	_, err := d.Status(t.Context(), handle)
	require.ErrorIs(t, err, drivers.ErrInstanceNotFound)
	_, err = d.Wait(t.Context(), handle)
	require.ErrorIs(t, err, drivers.ErrInstanceNotFound)
	_, err = d.Logs(t.Context(), handle, 10)
	require.ErrorIs(t, err, drivers.ErrInstanceNotFound)
	require.NoError(t, d.Stop(t.Context(), handle, time.Second))
	require.NoError(t, d.Remove(t.Context(), handle))
}

func missing(t *testing.T, h Harness) {
	spec := h.Spec(t, Serves)
	if h.Missing != nil {
		h.Missing(&spec)
	} else {
		spec.Image = h.MissingImage
	}
	err := h.Driver(t).Prepare(t.Context(), spec)
	require.ErrorIs(t, err, drivers.ErrImageNotFound)
	require.ErrorContains(t, err, spec.Image)
	require.EqualValues(t, "image-pull-issues", drivers.CauseOf(err))
}

func badSpec(t *testing.T, h Harness) {
	d := h.Driver(t)
	for field, spoil := range map[string]func(*drivers.Spec){
		"instanceId":    func(s *drivers.Spec) { s.InstanceID = "../x" },
		"image":         func(s *drivers.Spec) { s.Image = "" },
		"inferencePort": func(s *drivers.Spec) { s.InferencePort = 0 },
		"healthPort":    func(s *drivers.Spec) { s.HealthPort = 65536 },
		"dir":           func(s *drivers.Spec) { s.Dir = "relative" },
		"env":           func(s *drivers.Spec) { s.Env = []string{"NOVALUE"} },
		"args":          func(s *drivers.Spec) { s.Args = []string{"a\x00b"} },
	} {
		spec := h.Spec(t, Serves)
		spoil(&spec)
		_, err := d.Start(t.Context(), spec)
		require.ErrorIs(t, err, drivers.ErrInvalidSpec)
		require.ErrorContains(t, err, field)
	}
}

func waitCancelled(t *testing.T, h Harness) {
	i := h.Start(t, h.Driver(t), h.Spec(t, Serves))
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { _, err := i.Driver.Wait(ctx, i.Handle); result <- err }()
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
	require.True(t, i.Status().Running)
}

func arguments(t *testing.T, h Harness) {
	args := []string{"two words", "", "'quoted' \"twice\"", "$HOME", "a=b", "ü\n"}
	i := h.Start(t, h.Driver(t), h.Spec(t, Serves, args...))
	i.Healthy()
	require.Equal(t, append([]string{"serve"}, args...), i.Probe().Args)
}

func environment(t *testing.T, h Harness) {
	// The agent's own environment, credentials included, is not the instance's.
	require.NoError(t, os.Setenv("SIROCCO_TEST_CREDENTIAL", "agent-only")) //nolint:usetesting // the test is parallel
	spec := h.Spec(t, Serves)
	spec.Env = []string{"A=first", "GREETING=hello world=1", "A=second", "NVIDIA_VISIBLE_DEVICES=all"}
	spec.Devices = []drivers.Device{{UUID: "GPU-1", Simulated: true}}
	i := h.Start(t, h.Driver(t), spec)
	i.Healthy()
	env := i.Probe().Env
	require.Contains(t, env, "A=second")
	require.NotContains(t, env, "A=first")
	require.Contains(t, env, "GREETING=hello world=1")
	require.Contains(t, env, "NVIDIA_VISIBLE_DEVICES=void")
	require.NotContains(t, strings.Join(env, "\n"), "agent-only")
}

func secrets(t *testing.T, h Harness) {
	spec := h.Spec(t, Serves)
	require.NoError(t, os.MkdirAll(filepath.Join(spec.Dir, "secrets"), 0o755)) //nolint:gosec // the same
	file := filepath.Join(spec.Dir, "secrets", "secrets.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"a":"1"}`), 0o644)) //nolint:gosec // the same
	i := h.Start(t, h.Driver(t), spec)
	i.Healthy()
	require.JSONEq(t, `{"a":"1"}`, i.Probe().Secrets)
	// Rotation replaces the file in one step; the instance sees the new one.
	require.NoError(t, os.WriteFile(file+".new", []byte(`{"a":"2"}`), 0o644)) //nolint:gosec // the same
	require.NoError(t, os.Rename(file+".new", file))
	require.JSONEq(t, `{"a":"2"}`, i.Probe().Secrets)
}

func logs(t *testing.T, h Harness) {
	i := h.Start(t, h.Driver(t), h.Spec(t, "chatter", "20480"))
	i.Healthy()
	require.Eventually(t, func() bool {
		lines, err := i.Driver.Logs(t.Context(), i.Handle, 3)
		return err == nil && len(lines) == 3 && lines[2] == "probe: listening" && len(lines[1]) == 1023
	}, patience, 20*time.Millisecond)
}
