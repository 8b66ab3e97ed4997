package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func kill(t *testing.T, pid int) {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
}

// patch changes the bounds of a deployment's only specification.
func (u user) patch(d deployment, low, high int) {
	u.t.Helper()
	path := fmt.Sprintf("/v2/nvcf/deployments/%s/gpu-specifications/%s", d.ID, d.Specifications[0].ID)
	var got struct {
		Specification struct {
			Min int `json:"minInstances"`
			Max int `json:"maxInstances"`
		} `json:"gpuSpecification"`
	}
	u.must("PATCH", path, &got, body(map[string]int{"minInstances": low, "maxInstances": high}))
	require.Equal(u.t, low, got.Specification.Min)
	require.Equal(u.t, high, got.Specification.Max)
}

// TestScale counts processes while the bounds of a deployment change.
func TestScale(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("scale")
	admin.removeLater(v)
	d := admin.deploy(v, scale{min: 1, max: 3})
	caller := admin.caller()
	first := admin.awaitInstances(v, 1, time.Second)

	admin.patch(d, 3, 3)
	soon(t, 10*time.Second, "three instances serve", func() bool {
		look := admin.look(v)
		require.Equal(t, "ACTIVE", look.Status, "a raised minimum does not hurt a healthy version")
		return len(look.ActiveInstances) == 3 && len(instancesOf(admin.dir, v.id)) == 3
	})
	admin.patch(d, 1, 3)
	left := admin.awaitInstances(v, 1, 10*time.Second)
	require.Equal(t, first, left, "the oldest stays")
	require.Equal(t, "ACTIVE", admin.look(v).Status)

	admin.patch(d, 0, 3)
	admin.awaitInstances(v, 0, 10*time.Second)
	require.Equal(t, "ACTIVE", admin.look(v).Status, "scaled to zero is active")
	began := time.Now()
	caller.runs(v, 0)
	t.Logf("woken from zero and answered after %s", time.Since(began).Round(time.Millisecond))
	admin.awaitInstances(v, 1, time.Second)
}

// TestFromZero asserts that a version deployed with no minimum is active without a process, and woken by its first calls.
func TestFromZero(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("zero")
	admin.removeLater(v)
	admin.startDeploy(v, scale{min: 0, max: 2})
	require.Equal(t, "ACTIVE", admin.look(v).Status, "at once")
	require.Empty(t, instancesOf(admin.dir, v.id))
	caller := admin.caller()
	var calls []<-chan result
	for range 5 {
		calls = append(calls, caller.later("POST", "/run", v.host(), body(run{10})))
	}
	for _, c := range calls {
		r := take(t, c, 15*time.Second)
		require.NoError(t, r.err)
		require.Equal(t, 200, r.answer.status, r.answer)
	}
	require.Len(t, instancesOf(admin.dir, v.id), 1)
}

// TestToZero asserts that an instance that nobody calls ends, never one with a request in flight, and that a call which
// comes at the moment of its end is answered.
func TestToZero(t *testing.T) {
	t.Parallel()
	p := up(t, []string{"--no-sample"}, "SIROCCO_IDLE_AFTER=1s")
	admin := p.administrator(t)
	v := admin.create("to-zero")
	admin.startDeploy(v, scale{min: 0, max: 2})
	caller := admin.caller()
	for n := range 2 {
		r := take(t, caller.later("POST", "/run", v.host(), body(run{3000})), time.Minute)
		require.NoError(t, r.err)
		require.Equal(t, 200, r.answer.status, "call %d, which takes longer than an instance may idle: %s", n, r.answer)
		admin.awaitInstances(v, 0, time.Minute)
		require.Equal(t, "ACTIVE", admin.look(v).Status)
	}
	for n := range 8 {
		pause(time.Second + time.Duration(n-2)*20*time.Millisecond)
		r := take(t, caller.later("POST", "/run", v.host(), body(run{0})), time.Minute)
		require.NoError(t, r.err)
		require.Equal(t, 200, r.answer.status, "call %d, about the time of the end: %s", n, r.answer)
	}
}

// TestUndeployGraceful asserts that a request in flight is finished before its instance goes.
func TestUndeployGraceful(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("graceful")
	admin.removeLater(v)
	admin.deploy(v, scale{min: 1})
	caller := admin.caller()
	slow := inFlight(caller, v, 2000)
	var gone struct {
		Function details `json:"function"`
	}
	admin.must("DELETE", v.deploymentPath()+"?graceful=true", &gone)
	require.Equal(t, "INACTIVE", gone.Function.Status)
	soon(t, propagation, "nothing new is let in", func() bool { return caller.run(v, 0).status == 404 })
	r := take(t, slow, 10*time.Second)
	require.NoError(t, r.err)
	require.Equal(t, 200, r.answer.status, "the request in flight is finished: %s", r.answer)
	admin.awaitInstances(v, 0, 5*time.Second)
	soon(t, 5*time.Second, "the deployment is gone", func() bool { return admin.call("GET", v.deploymentPath()).status == 404 })
	admin.deploy(v, scale{min: 1})
	caller.runs(v, 0)
}

// TestUndeployForced asserts that a forced undeploy drops what is in flight.
func TestUndeployForced(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("forced")
	admin.removeLater(v)
	admin.deploy(v, scale{min: 1})
	slow := inFlight(admin.caller(), v, 20_000)
	began := time.Now()
	admin.must("DELETE", v.deploymentPath(), nil)
	r := take(t, slow, 10*time.Second)
	require.NotEqual(t, 200, r.status())
	admin.awaitInstances(v, 0, 5*time.Second)
	t.Logf("dropped and gone after %s", time.Since(began).Round(10*time.Millisecond))
}

// TestDeleteActive asserts that deleting a function in use leaves no process behind.
func TestDeleteActive(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("delete-active")
	admin.deploy(v, scale{min: 2, max: 2})
	caller := admin.caller()
	admin.awaitInstances(v, 2, time.Second)
	require.Equal(t, 204, admin.call("DELETE", v.path()).status)
	require.Contains(t, admin.call("GET", v.path()).refused(404).Detail, "Not found")
	admin.call("DELETE", v.path()).refused(404)
	soon(t, propagation, "the deployment is gone too", func() bool { return admin.call("GET", v.deploymentPath()).status == 404 })
	admin.awaitInstances(v, 0, 10*time.Second)
	caller.run(v, 0).refused(404)
}

// inFlight starts a slow call and waits until the function has it.
func inFlight(u user, v version, milliseconds int) <-chan result {
	u.t.Helper()
	before := u.report(v).Calls
	slow := u.later("POST", "/run", v.host(), body(run{milliseconds}))
	soon(u.t, 5*time.Second, "the function has the request", func() bool { return u.report(v).Calls > before })
	return slow
}
