package e2e

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestPoll follows a pexec call that outlives its window: 202, polls, its answer once, and nothing more (invocation §1.10).
func TestPoll(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("poll")
	admin.removeLater(v)
	admin.deploy(v, scale{min: 1})
	caller := admin.caller()
	second := header("NVCF-POLL-SECONDS", "1")

	a := caller.call("POST", "/v2/nvcf/pexec/functions/"+v.function, second, body(run{2600}))
	require.Equal(t, 202, a.status, a)
	require.Empty(t, a.body)
	require.Equal(t, "0", a.header.Get("Content-Length"))
	require.Equal(t, "in-progress", a.header.Get("NVCF-STATUS"))
	require.Greater(t, a.took, 900*time.Millisecond, "when the window ends")
	require.Less(t, a.took, lenient(time.Second), "when the window ends")
	id := a.header.Get("NVCF-REQID")
	status := "/v2/nvcf/pexec/status/" + id

	stranger, _ := admin.key([]string{"invoke_function"}, resource{"function", "11111111-2222-4333-8444-555555555555/*"})
	stranger.call("GET", status, second).refused(403)
	caller.with("").call("GET", status).refused(401)

	polls := 0
	for {
		polls++
		require.Less(t, polls, 20)
		a = caller.call("GET", status, second)
		require.Equal(t, id, a.header.Get("NVCF-REQID"))
		if a.status != 202 {
			break
		}
		require.Empty(t, a.body)
	}
	require.Equal(t, 200, a.status, a)
	require.Equal(t, "fulfilled", a.header.Get("NVCF-STATUS"))
	var r report
	a.into(&r)
	require.Equal(t, 1, r.Calls, "it was executed once")
	caller.call("GET", status, second).refused(404)
	caller.call("GET", "/v2/nvcf/pexec/status/11111111-2222-4333-8444-555555555555").refused(404)
	caller.call("GET", "/v2/nvcf/pexec/status/nonsense").refused(400)
}

// TestFinishedBetweenPolls asserts that an answer is kept for the next poll.
func TestFinishedBetweenPolls(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("between-polls")
	admin.removeLater(v)
	admin.deploy(v, scale{min: 1})
	caller := admin.caller()
	a := caller.call("POST", "/v2/nvcf/pexec/functions/"+v.function, header("NVCF-POLL-SECONDS", "1"), body(run{1500}))
	require.Equal(t, 202, a.status, a)
	pause(1500 * time.Millisecond)
	soon(t, time.Second, "the function is done", func() bool { return caller.report(v).Done == 1 })
	a = caller.call("GET", "/v2/nvcf/pexec/status/"+a.header.Get("NVCF-REQID"))
	require.Equal(t, 200, a.status, a)
	require.Less(t, a.took, lenient(time.Second))
}

// TestDirectWindow asserts that a direct call that does not begin to answer gets 504 two seconds after its window, and
// that the function is told.
func TestDirectWindow(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("window")
	admin.removeLater(v)
	admin.deploy(v, scale{min: 1})
	caller := admin.caller()
	a := caller.run(v, 20_000, header("NVCF-POLL-SECONDS", "1"))
	a.refused(504)
	require.Greater(t, a.took, 2*time.Second, "window and grace")
	require.Less(t, a.took, 15*time.Second, "before the function is done")
	require.Equal(t, "errored", a.header.Get("NVCF-STATUS"))
	require.NotEmpty(t, a.header.Get("NVCF-REQID"))
	soon(t, propagation, "the function's request is cancelled", func() bool { return caller.report(v).Cancelled == 1 })

	for _, bad := range []string{"3601", "soon", "1.5"} {
		caller.run(v, 0, header("NVCF-POLL-SECONDS", bad)).refused(400)
	}
	soon(t, time.Second, "a call without a window is answered at once or not at all", func() bool {
		return caller.run(v, 0, header("NVCF-POLL-SECONDS", "0")).status == 200
	})
}

// TestClientLeaves asserts that a function learns within a second that its caller is gone, and that the slot is free.
func TestClientLeaves(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("leaves")
	admin.removeLater(v)
	admin.deploy(v, scale{min: 1, slots: 2})
	caller := admin.caller()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	left := make(chan error, 1)
	go func() {
		resp, err := client.Do(caller.request(ctx, http.MethodPost, "/run", v.host(), body(run{20_000})))
		if err == nil {
			resp.Body.Close()
		}
		left <- err
	}()
	soon(t, 5*time.Second, "the function has the request", func() bool { return caller.report(v).Calls == 1 })
	leave()
	require.ErrorIs(t, <-left, context.Canceled)
	soon(t, propagation, "the function's request is cancelled", func() bool { return caller.report(v).Cancelled == 1 })
	caller.runs(v, 0)
}

// TestQueue asserts that calls beyond the concurrency of a version wait their turn, and that the function never sees
// two at once.
func TestQueue(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("queue")
	admin.removeLater(v)
	admin.deploy(v, scale{min: 1, max: 1, slots: 1})
	caller := admin.caller()
	began := time.Now()
	var calls []<-chan result
	for range 6 {
		calls = append(calls, caller.later("POST", "/run", v.host(), body(run{300})))
	}
	for _, c := range calls {
		r := take(t, c, 15*time.Second)
		require.NoError(t, r.err)
		require.Equal(t, 200, r.answer.status, r.answer)
	}
	took := time.Since(began)
	require.GreaterOrEqual(t, took, 1800*time.Millisecond)
	require.Less(t, took, lenient(6*time.Second))
	r := caller.report(v)
	require.Equal(t, 1, r.Most, "never two at once")
	require.Equal(t, 6, r.Calls, "each once")
}

// TestQueueLeft asserts that a call that waits in the queue and leaves is never executed.
func TestQueueLeft(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("queue-left")
	admin.removeLater(v)
	admin.deploy(v, scale{min: 1, max: 1, slots: 1})
	caller := admin.caller()
	watcher, _ := admin.key([]string{"queue_details"})
	depth := func() (all int) {
		var got struct {
			Queues []struct {
				Depth int `json:"queueDepth"`
			} `json:"queues"`
		}
		watcher.must("GET", "/v2/nvcf/queues/functions/"+v.function, &got)
		for _, q := range got.Queues {
			all += q.Depth
		}
		return all
	}
	var busy []<-chan result
	for range 2 {
		busy = append(busy, caller.later("POST", "/run", v.host(), body(run{4000})))
	}
	soon(t, 3*time.Second, "one call goes on and one waits", func() bool { return depth() == 1 })
	ctx, leave := context.WithTimeout(t.Context(), time.Second)
	defer leave()
	_, err := caller.try(ctx, "POST", "/run", v.host(), body(run{1}))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	for _, c := range busy {
		require.Equal(t, 200, take(t, c, 15*time.Second).status())
	}
	require.Equal(t, 3, caller.runs(v, 0).Calls, "the one that left was not executed")
	soon(t, propagation, "nothing waits any more", func() bool { return depth() == 0 })
}
