package sim_test

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/quartz"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers/driverstest"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers/sim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func harness(t *testing.T, clock quartz.Clock) driverstest.Harness {
	t.Helper()
	state := t.TempDir()
	return driverstest.Harness{
		New: func(*testing.T) drivers.Driver {
			return sim.New(sim.Options{AgentID: "agent", StateDir: state, Clock: clock})
		},
		Image:   "registry.example/anything:1",
		Missing: func(s *drivers.Spec) { s.Env = append(s.Env, "SIM_FAIL_PREPARE=not-found") },
		Behave: func(s *drivers.Spec, b driverstest.Behaviour) {
			switch b {
			case driverstest.Exits:
				s.Env = append(s.Env, "SIM_EXIT_AFTER=0s", "SIM_EXIT_CODE=3")
			case driverstest.NeverListens:
				s.Env = append(s.Env, "SIM_NEVER_LISTENS=true")
			case driverstest.IgnoresTerm:
				s.Env = append(s.Env, "SIM_STOP_DELAY=1h")
			case driverstest.Serves:
			}
		},
	}
}

// The drivers of the suite share a state directory but not memory, which is how
// an agent and its successor share it: one at a time. The suite's cleaner runs
// when the driver under test has done its work.
func TestConformance(t *testing.T) {
	t.Parallel()
	driverstest.Run(t, harness(t, nil))
}

func with(spec drivers.Spec, knobs ...string) drivers.Spec {
	spec.Env = append(spec.Env, knobs...)
	return spec
}

func TestAnInstanceFollowsTheClock(t *testing.T) {
	t.Parallel()
	clock := quartz.NewMock(t)
	h := harness(t, clock)
	d := h.Driver(t)
	i := h.Start(t, d, with(h.Spec(t, driverstest.Serves), "SIM_START_DELAY=10s", "SIM_UNHEALTHY_AFTER=20s", "SIM_EXIT_AFTER=30s", "SIM_EXIT_CODE=9", "SIM_OOM=true"))

	_, _, err := i.Call(http.MethodGet, "/health", "")
	require.ErrorContains(t, err, "connection refused")
	clock.Advance(10 * time.Second).MustWait(t.Context())
	i.Healthy()
	i.Echo()
	clock.Advance(10 * time.Second).MustWait(t.Context())
	code, _, err := i.Call(http.MethodGet, "/health", "")
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, code)

	trap := clock.Trap().NewTimer("sim", "wait")
	defer trap.Close()
	ended := make(chan drivers.Status, 1)
	go func() {
		s, err := d.Wait(t.Context(), i.Handle)
		if err == nil {
			ended <- s
		}
	}()
	trap.MustWait(t.Context()).MustRelease(t.Context())
	clock.Advance(10 * time.Second).MustWait(t.Context())
	s := <-ended
	require.Equal(t, 9, *s.ExitCode)
	require.True(t, s.OOM)
	require.EqualValues(t, "oom-killed", drivers.CauseOfExit(s))
	require.Equal(t, s, driverstest.With(t, h.Driver(t), i.Handle).Status(), "a restarted agent sees the same end")
}

// A gateway keeps request targets byte for byte, which net/http does by URL.Opaque.
func TestOpaqueTargetsAreServed(t *testing.T) {
	t.Parallel()
	h := harness(t, quartz.NewReal())
	i := h.Start(t, h.Driver(t), h.Spec(t, driverstest.Serves))
	i.Healthy()
	transport := i.Driver.Transport(i.Handle)
	defer transport.CloseIdleConnections()
	req := (&http.Request{
		Method: http.MethodPost, URL: &url.URL{Scheme: "http", Host: "127.0.0.1:8000", Opaque: "/echo?a=%2F"}, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(`{"message":"x","repeats":1}`)), ContentLength: -1,
	}).WithContext(t.Context())
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

func TestStoppingCutsCallsInFlight(t *testing.T) {
	t.Parallel()
	clock := quartz.NewMock(t)
	h := harness(t, clock)
	i := h.Start(t, h.Driver(t), with(h.Spec(t, driverstest.Serves), "SIM_LATENCY=1h"))
	trap := clock.Trap().NewTimer("sim", "latency")
	defer trap.Close()
	result := make(chan error, 1)
	go func() { _, _, err := i.Call(http.MethodPost, "/echo", `{"message":"x"}`); result <- err }()
	trap.MustWait(t.Context()).MustRelease(t.Context())
	require.NoError(t, i.Driver.Stop(t.Context(), i.Handle, time.Second))
	require.ErrorContains(t, <-result, "connection reset")
}

func TestKnobsAreChecked(t *testing.T) {
	t.Parallel()
	h := harness(t, nil)
	d := h.Driver(t)
	for _, knob := range []string{"SIM_LATENCY=soon", "SIM_LATENCY=-1s", "SIM_EXIT_CODE=x", "SIM_UNHEALTHY=maybe", "SIM_TYPO=1", "SIM_FAIL_PREPARE=other"} {
		_, err := d.Start(t.Context(), with(h.Spec(t, driverstest.Serves), knob))
		require.ErrorIs(t, err, drivers.ErrInvalidSpec)
		name, _, _ := strings.Cut(knob, "=")
		require.ErrorContains(t, err, name)
	}
	_, err := d.Start(t.Context(), with(h.Spec(t, driverstest.Serves), "SIM_FAIL_START=no space left"))
	require.ErrorIs(t, err, drivers.ErrCreate)
	require.ErrorContains(t, err, "no space left")
	for knob, kind := range map[string]error{"unauthorized": drivers.ErrUnauthorized, "unreachable": drivers.ErrRegistryUnreachable} {
		require.ErrorIs(t, d.Prepare(t.Context(), with(h.Spec(t, driverstest.Serves), "SIM_FAIL_PREPARE="+knob)), kind)
	}
}

func TestSecretsStayOutOfTheStateFile(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	h := harness(t, nil)
	h.New = func(*testing.T) drivers.Driver { return sim.New(sim.Options{AgentID: "a", StateDir: state}) }
	i := h.Start(t, h.Driver(t), with(h.Spec(t, driverstest.Serves), "API_KEY=hush-hush"))
	text, err := os.ReadFile(state + "/sim-a/" + i.InstanceID + ".json")
	require.NoError(t, err)
	require.NotContains(t, string(text), "hush-hush")
}

func TestThousandsOfInstances(t *testing.T) {
	t.Parallel()
	h := harness(t, nil)
	d := h.Driver(t)
	spec := h.Spec(t, driverstest.Serves)
	dir := strings.TrimSuffix(spec.Dir, spec.InstanceID)
	const many = 2000
	for n := range many {
		id := "i-" + strconv.Itoa(n)
		spec.InstanceID, spec.Dir = id, dir+id
		_, err := d.Start(t.Context(), spec)
		require.NoError(t, err)
	}
	handles, err := h.Driver(t).List(t.Context())
	require.NoError(t, err)
	require.Len(t, handles, many)
}
