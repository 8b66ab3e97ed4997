package bus_test

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/subject"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

const version = "0d2b9f0e-6e5b-4f53-8d0a-6f2f0a5c7c11"

// waits until n entries wait and none is taken: the server acknowledges an entry before its queue counts it.
func waits(t *testing.T, c *bus.Conn, n int64) {
	t.Helper()
	require.Eventually(t, func() bool {
		waiting, taken, err := c.Depth(t.Context(), version)
		require.NoError(t, err)
		return waiting == n && taken == 0
	}, patience, tick)
}

func TestQueueKeepsWorkUntilItIsDone(t *testing.T) {
	t.Parallel()
	c := connect(t, testkit.NATS(t))
	require.NoError(t, c.EnsureQueue(t.Context(), version))
	require.NoError(t, c.EnsureQueue(t.Context(), version), "ensuring twice is harmless")
	hints := make(chan struct{}, 16)
	stop, err := c.OnHint(version, func() { hints <- struct{}{} })
	require.NoError(t, err)
	t.Cleanup(stop)
	require.NoError(t, c.Flush(t.Context()))

	for _, id := range []string{"1", "2", "2", "3"} {
		_, err := c.Enqueue(t.Context(), version, id, []byte("offer "+id))
		require.NoError(t, err)
	}
	next(t, hints)
	waits(t, c, 3) // an id that is offered twice waits once

	q, err := c.OpenQueue(t.Context(), version)
	require.NoError(t, err)
	work, err := q.Take(2)
	require.NoError(t, err)
	require.Len(t, work, 2)
	require.Equal(t, "offer 1", string(work[0].Offer))
	waiting, taken, err := c.Depth(t.Context(), version)
	require.NoError(t, err)
	require.Equal(t, []int64{1, 2}, []int64{waiting, taken})
	require.NoError(t, work[0].Done())
	require.NoError(t, work[1].Return())

	var offers []string
	require.Eventually(t, func() bool {
		more, err := q.Take(8)
		require.NoError(t, err)
		for _, w := range more {
			offers = append(offers, string(w.Offer))
			require.NoError(t, w.Done())
		}
		return len(offers) == 2
	}, patience, tick)
	require.ElementsMatch(t, []string{"offer 2", "offer 3"}, offers)
	none, err := q.Take(1)
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestWithdrawnWorkIsNeverTaken(t *testing.T) {
	t.Parallel()
	c := connect(t, testkit.NATS(t))
	require.NoError(t, c.EnsureQueue(t.Context(), version))
	gone, err := c.Enqueue(t.Context(), version, "1", []byte("gone"))
	require.NoError(t, err)
	_, err = c.Enqueue(t.Context(), version, "2", []byte("stays"))
	require.NoError(t, err)
	require.NoError(t, c.Withdraw(t.Context(), gone))
	require.NoError(t, c.Withdraw(t.Context(), gone), "withdrawing twice is harmless")
	waits(t, c, 1)
	q, err := c.OpenQueue(t.Context(), version)
	require.NoError(t, err)
	work, err := q.Take(8)
	require.NoError(t, err)
	require.Len(t, work, 1)
	require.Equal(t, "stays", string(work[0].Offer))
}

func TestFullQueueSaysSo(t *testing.T) {
	t.Parallel()
	c := connect(t, testkit.NATS(t))
	require.NoError(t, c.EnsureQueue(t.Context(), version))
	stream, err := js(t, c).Stream(t.Context(), subject.QueueStream(version))
	require.NoError(t, err)
	cfg := stream.CachedInfo().Config
	require.EqualValues(t, invocation.QueueMaxMessages, cfg.MaxMsgs)
	cfg.MaxMsgs = 1
	_, err = js(t, c).UpdateStream(t.Context(), cfg)
	require.NoError(t, err)
	_, err = c.Enqueue(t.Context(), version, "1", nil)
	require.NoError(t, err)
	_, err = c.Enqueue(t.Context(), version, "2", nil)
	require.True(t, problem.HasCode(err, problem.QueueFull), "%v", err)
}

func TestFullMemoryStoreCountsAsAFullQueue(t *testing.T) {
	t.Parallel()
	s, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: t.TempDir(), JetStreamMaxMemory: 64 << 10, NoLog: true, NoSigs: true})
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	require.True(t, s.ReadyForConnections(patience))
	c := connect(t, s)
	require.NoError(t, c.EnsureQueue(t.Context(), version))
	for i := range 100 {
		if _, err = c.Enqueue(t.Context(), version, fmt.Sprint(i), make([]byte, 1<<10)); err != nil {
			break
		}
	}
	require.True(t, problem.HasCode(err, problem.QueueFull), "%v", err)
}

func TestManyVersionsHaveQueuesAtOnce(t *testing.T) {
	t.Parallel()
	c := connect(t, testkit.NATS(t))
	var want []string
	for i := range 50 {
		want = append(want, fmt.Sprint("version.", i))
		require.NoError(t, c.EnsureQueue(t.Context(), want[i]))
	}
	have, err := declared(t, c).Queues(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, want, have, "queues are found by their versions, and other streams are none")
}

func TestVersionWithoutQueue(t *testing.T) {
	t.Parallel()
	c := connect(t, testkit.NATS(t))
	_, err := c.Enqueue(t.Context(), version, "1", nil)
	require.ErrorIs(t, err, bus.ErrNoQueue)
	_, err = c.OpenQueue(t.Context(), version)
	require.ErrorIs(t, err, bus.ErrNoQueue)
	require.NoError(t, c.DeleteQueue(t.Context(), version))
	waiting, taken, err := c.Depth(t.Context(), version)
	require.NoError(t, err)
	require.Zero(t, waiting+taken)

	require.NoError(t, c.EnsureQueue(t.Context(), version))
	e, err := c.Enqueue(t.Context(), version, "1", nil)
	require.NoError(t, err)
	require.NoError(t, c.DeleteQueue(t.Context(), version))
	_, err = js(t, c).Stream(t.Context(), subject.QueueStream(version))
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
	require.NoError(t, c.Withdraw(t.Context(), e), "withdrawing from a queue that is gone is harmless")
}
