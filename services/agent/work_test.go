package agent

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/libs/relay"
)

// soon is a deadline that passes during the test, and yet leaves a busy machine the time to start an instance.
func soon(o *instances.LaunchOrder) { o.Deadline = time.Now().Add(8 * time.Second) }

func slots(n int) func(*instances.LaunchOrder) {
	return func(o *instances.LaunchOrder) { o.MaxConcurrency = n }
}

// offer offers a call once.
func (w *world) offer(ex *relay.Exchange, version string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return ex.Offer(ctx, direct(version))
}

// place offers a call until it is taken: for a moment after a look into the queue direct offers are refused.
func (w *world) place(ex *relay.Exchange, version string) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.offer(ex, version) == nil }, patience, 5*time.Millisecond)
}

// ready waits until a version takes direct work.
func (w *world) ready(version string) {
	w.t.Helper()
	require.Equal(w.t, 200, w.call(version, "/health").status)
}

func TestDirectWorkFillsTheSlotsAndNoMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(nil)
	v := w.version(nil)
	id := w.launch(v, slots(3))
	w.state(id, instances.Running)
	w.ready(v)
	var taken []*relay.Exchange
	for range 3 {
		ex := w.open("/work?hold", nil)
		w.place(ex, v)
		taken = append(taken, ex)
	}
	require.ErrorIs(t, w.offer(w.open("/work", nil), v), relay.ErrBusy)
	n.holds(id, 3)
	n.release(id)
	for _, ex := range taken {
		require.Equal(t, id, read(ex).body)
	}
	w.ready(v)
	require.Equal(t, 3, w.stats(v).Max)
}

func TestQueuedWorkGoesFirstAndInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(nil)
	v := w.version(nil)
	id := w.launch(v, slots(1))
	w.state(id, instances.Running)
	w.ready(v)
	n.work.mu.Lock()
	p := n.work.versions[v]
	n.work.mu.Unlock()
	holder := w.open("/work?hold&name=0", nil)
	w.place(holder, v)
	var queued []*relay.Exchange
	for n := 1; n <= 5; n++ {
		ex, _ := w.enqueue(v, "/work?ms=20&name="+strconv.Itoa(n))
		queued = append(queued, ex)
	}
	require.Eventually(t, p.queued.Load, patience, 5*time.Millisecond, "no hint was heard")
	var jumpers sync.WaitGroup
	for range 4 { // try to jump the queue all the time
		jumpers.Go(func() {
			for {
				ex := w.open("/work?name=late", nil)
				if w.offer(ex, v) == nil {
					_ = read(ex)
					return
				}
			}
		})
	}
	n.release(id)
	for _, ex := range append(queued, holder) {
		require.Equal(t, id, read(ex).body)
	}
	jumpers.Wait()
	s := w.stats(v)
	require.Equal(t, []string{"0", "1", "2", "3", "4", "5", "late", "late", "late", "late"}, s.Served)
	require.Equal(t, 1, s.Max)

	// Between a hint and the look that it causes the slot is free, and yet nobody may take it.
	require.Eventually(t, func() bool { // a look that goes on just now takes the mark away
		p.queued.Store(true)
		return errors.Is(w.offer(w.open("/work", nil), v), relay.ErrBusy)
	}, patience, 5*time.Millisecond)
	p.look()
	w.ready(v)
}

func TestWhatWaitedForAnInstanceIsServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent(nil)
	v := w.version(nil)
	ex, _ := w.enqueue(v, "/work")
	id := w.launch(v, nil)
	require.Equal(t, id, read(ex).body, "the first look needs no hint")
}

func TestALostHintIsMadeUpFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := quick
	p.lookEvery = 100 * time.Millisecond
	n := w.agent(nil, p)
	v := w.version(nil)
	id := w.launch(v, slots(2))
	w.state(id, instances.Running)
	w.ready(v)
	n.work.mu.Lock()
	n.work.versions[v].stops[1]() // no hint arrives any more
	n.work.mu.Unlock()
	ex, _ := w.enqueue(v, "/work")
	require.Equal(t, id, read(ex).body)
	// A queue that goes away and comes back is found again.
	require.NoError(t, w.conn.DeleteQueue(t.Context(), v))
	require.Eventually(t, func() bool { return w.offer(w.open("/health", nil), v) == nil }, patience, 5*time.Millisecond)
	require.NoError(t, w.conn.EnsureQueue(t.Context(), v))
	ex, _ = w.enqueue(v, "/work")
	require.Equal(t, id, read(ex).body)
}

func TestTwoInstancesShareAndNeverExceedTheirSlots(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(nil)
	v := w.version(nil)
	both := []string{w.launch(v, slots(2)), w.launch(v, slots(2))}
	for _, id := range both {
		w.state(id, instances.Running)
	}
	w.ready(v)
	var held []*relay.Exchange
	for range 4 {
		ex := w.open("/work?hold", nil)
		w.place(ex, v)
		held = append(held, ex)
	}
	require.ErrorIs(t, w.offer(w.open("/work", nil), v), relay.ErrBusy)
	for _, id := range both {
		n.holds(id, 2)
		n.release(id)
	}
	for _, ex := range held {
		require.NoError(t, read(ex).err)
	}
	var mu sync.Mutex
	counts := map[string]int{}
	var group sync.WaitGroup
	for n := range 60 {
		group.Go(func() {
			ex := w.open("/work?ms=20", nil)
			if n%2 == 0 || w.offer(ex, v) != nil { // both doors at once
				if _, err := w.conn.Enqueue(context.Background(), v, "r"+strconv.Itoa(n), ex.Payload()); err != nil {
					t.Error(err)
				}
			}
			r := read(ex)
			mu.Lock()
			defer mu.Unlock()
			counts[r.body]++
		})
	}
	group.Wait()
	all := 0
	for _, id := range both {
		s := n.stats(id)
		require.Equal(t, 2, s.Max)
		require.Equal(t, s.All, counts[id]+2)
		all += s.All
	}
	require.Equal(t, 60+len(held), all)
}

func TestAClientThatLeftIsNeverExecuted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(nil)
	v := w.version(nil)
	id := w.launch(v, slots(1))
	w.state(id, instances.Running)
	w.ready(v)
	holder := w.open("/work?hold&name=holder", nil)
	w.place(holder, v)
	for range 3 {
		gone, _ := w.enqueue(v, "/work?name=gone")
		gone.Cancel()
	}
	next, _ := w.enqueue(v, "/work?name=next")
	n.holds(id, 1)
	n.release(id)
	require.Equal(t, id, read(next).body, "the slots of those who left are free")
	require.Equal(t, []string{"holder", "next"}, w.stats(v).Served)
	require.Eventually(t, func() bool {
		waiting, taken, err := w.conn.Depth(t.Context(), v)
		return err == nil && waiting+taken == 0
	}, patience, 5*time.Millisecond)

	// One that leaves in the middle frees its slot within a second.
	within(t, time.Second, func() time.Duration {
		long := w.open("/work?ms=600000", nil)
		w.place(long, v)
		long.Cancel()
		began := time.Now()
		w.ready(v)
		return time.Since(began)
	})
}

func TestTheLastInstanceClosesTheDoor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(nil)
	v := w.version(nil)
	first, second := w.launch(v, nil), w.launch(v, nil)
	w.state(first, instances.Running)
	w.state(second, instances.Running)
	w.ready(v)
	w.terminate(first, 1)
	w.state(first, instances.Terminated)
	require.Equal(t, second, w.call(v, "/work").body)
	w.terminate(second, 1)
	w.state(second, instances.Terminated)
	require.ErrorIs(t, w.offer(w.open("/work", nil), v), relay.ErrNoResponders)
	n.work.mu.Lock()
	defer n.work.mu.Unlock()
	require.Empty(t, n.work.versions)
}

func TestNoOfferIsLostWhileInstancesComeAndGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent(nil)
	v := w.version(nil)
	stop, lost := make(chan struct{}), make(chan string, 1000)
	var group sync.WaitGroup
	call := func() {
		ex := w.open("/work", nil)
		defer ex.Cancel()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := ex.Offer(ctx, direct(v)); err != nil {
			if ctx.Err() != nil {
				lost <- err.Error()
			}
		} else if r := read(ex); r.err != nil {
			lost <- r.err.Error()
		}
	}
	for range 8 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					call()
				}
			}
		})
	}
	for range 5 {
		id := w.launch(v, slots(4))
		w.state(id, instances.Running)
		w.terminate(id, 5)
		w.state(id, instances.Terminated)
	}
	close(stop)
	group.Wait()
	close(lost)
	for why := range lost {
		t.Error(why)
	}
}

func TestContainersSeeTrustedHeadersInTheirSpelling(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent(nil)
	v := w.version(nil)
	w.state(w.launch(v, nil), instances.Running)
	r := w.callWith(v, "/head", http.Header{
		"Nvcf-Sub": {"mallory"}, "NVCF-NCAID": {"other"}, "nvcf-reqid": {"forged"}, "Nvcf-Instancetype": {"free"}, "NVCF-Asset-Dir": {"/etc"},
		"X-Custom": {"kept"},
	})
	require.NoError(t, r.err)
	lines := strings.Split(r.body, "\r\n")
	count := map[string]int{}
	for _, line := range lines[1:] {
		name, _, _ := strings.Cut(line, ":")
		count[strings.ToUpper(name)]++
	}
	for _, want := range []string{"NVCF-SUB: alice", "NVCF-NCAID: acme", "NVCF-INSTANCETYPE: NCP.GPU.H100_1x", "NVCF-BACKEND: lab", "X-Custom: kept"} {
		require.Contains(t, lines, want)
		name, _, _ := strings.Cut(want, ":")
		require.Equal(t, 1, count[strings.ToUpper(name)], name)
	}
	require.NotContains(t, r.body, "forged")
	require.NotContains(t, r.body, "mallory")
	require.Zero(t, count["NVCF-ASSET-DIR"])
	require.Regexp(t, `\r\nNVCF-REQID: [0-9a-f-]{36}\r\n`, r.body)
	require.Regexp(t, `\r\nNVCF-POLL-SECONDS: (20|1?[0-9])\r\n`, r.body, "what is left of the client's 22 seconds")
	require.Equal(t, 1, count["NVCF-POLL-SECONDS"])
}

func TestGRPCHealth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent(nil)
	grpc := func(protocol string) func(*functions.Launchable) {
		return func(l *functions.Launchable) {
			l.Function.ContainerArgs = "grpc"
			l.Function.Health = &functions.Health{Protocol: protocol, URI: "/", Port: 8000, Timeout: "PT2S"}
		}
	}
	mistaken := w.launch(w.version(func(l *functions.Launchable) { grpc("GRPC")(l); l.Function.ContainerArgs = "serve" }), soon)
	w.state(w.launch(w.version(grpc("gRPC")), nil), instances.Running)
	last := w.state(mistaken, instances.Terminated)
	require.Contains(t, last.Message, "gRPC health check")
}

// A graceful undeploy lets what waits in the queue be answered too, but nothing new.
func TestTerminateFinishesTheQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(nil)
	v := w.version(nil)
	id := w.launch(v, slots(1))
	w.state(id, instances.Running)
	w.ready(v)
	holder := w.open("/work?hold&name=0", nil)
	w.place(holder, v)
	var waiting []*relay.Exchange
	for n := 1; n <= 4; n++ {
		ex, _ := w.enqueue(v, "/work?ms=30&name="+strconv.Itoa(n))
		waiting = append(waiting, ex)
	}
	w.terminate(id, 3600, func(o *instances.TerminateOrder) { o.FinishQueue = true })
	w.state(id, instances.ShuttingDown)
	require.Error(t, w.offer(w.open("/work?name=new", nil), v), "nothing new is taken")
	n.release(id)
	for _, ex := range append(waiting, holder) {
		r := read(ex)
		require.NoError(t, r.err)
		require.Equal(t, id, r.body)
	}
	w.state(id, instances.Terminated)
}
