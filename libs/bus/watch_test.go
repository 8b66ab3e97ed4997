package bus_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

func watcher(t *testing.T) (seen chan string, fn func(event.Envelope)) {
	t.Helper()
	seen = make(chan string, 64)
	return seen, func(env event.Envelope) {
		if p, ok := bus.As[sold](env, itemSold); ok {
			seen <- p.Item
		}
	}
}

func TestWatchSeesNewEventsAcrossARestart(t *testing.T) {
	t.Parallel()
	nats := startTCP(t)
	c := declared(t, nats.connect())
	announce(t, c, "old")

	seen, fn := watcher(t)
	stop, err := nats.connect().Watch(t.Context(), event.Tasks, fn)
	require.NoError(t, err)
	t.Cleanup(stop)
	// A second one has seen nothing when the server goes away; what comes before it is back must not pass it by.
	idleSeen, idleFn := watcher(t)
	stopIdle, err := nats.connect().Watch(t.Context(), event.Tasks, idleFn)
	require.NoError(t, err)
	t.Cleanup(stopIdle)

	nats.stop()
	nats.start()
	require.Eventually(t, func() bool { return c.Check(t.Context()) == nil }, patience, tick)
	announce(t, c, "1", "2")
	for _, ch := range []chan string{seen, idleSeen} {
		require.Equal(t, "1", next(t, ch))
		require.Equal(t, "2", next(t, ch))
	}
	nats.stop()
	nats.start()
	require.Eventually(t, func() bool { return c.Check(t.Context()) == nil }, patience, tick)
	announce(t, c, "3")
	require.Equal(t, "3", next(t, seen))
	require.Empty(t, seen, "nothing comes twice")
}

func TestWatchLatestBeginsWithTheLastEventOfEachSubject(t *testing.T) {
	t.Parallel()
	nats := startTCP(t)
	c := declared(t, nats.connect())
	announce(t, c, "superseded", "latest")
	require.NoError(t, bus.Announce(t.Context(), c, "shop", uuid.NewString(), itemSold, bus.Fact{Entity: "other shelf"}, sold{"other"}))

	seen, fn := watcher(t)
	stop, err := nats.connect().WatchLatest(t.Context(), event.Tasks, fn)
	require.NoError(t, err)
	t.Cleanup(stop)
	require.Equal(t, "latest", next(t, seen))
	require.Equal(t, "other", next(t, seen))

	nats.stop()
	nats.start()
	require.Eventually(t, func() bool { return c.Check(t.Context()) == nil }, patience, tick)
	announce(t, c, "new")
	require.Equal(t, "new", next(t, seen))
	require.Empty(t, seen)
}
