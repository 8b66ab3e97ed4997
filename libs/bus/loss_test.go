package bus_test

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// forget is an outage after which the server has none of its files any more.
func (n *natsOnTCP) forget() {
	n.t.Helper()
	n.stop()
	require.NoError(n.t, os.RemoveAll(n.dir))
	n.start()
}

func TestAServerThatLostItsFilesIsGivenItsStreamsAgain(t *testing.T) {
	t.Parallel()
	nats, db := startTCP(t), newShop(t)
	c := declared(t, nats.connect())
	db.relay(t, c)
	s := db.subscriber(nats.connect())
	bus.On(s, itemSold, func(ctx context.Context, tx pgx.Tx, _ event.Envelope, p sold) error { return write(ctx, tx, p.Item) })
	start(t, s)
	require.NoError(t, db.sell(t.Context(), "shelf", "1"))
	db.eventually(t, "1")

	nats.forget()
	require.NoError(t, db.sell(t.Context(), "shelf", "2"))
	db.eventually(t, "1", "2")
	require.Equal(t, []string{"2"}, storedItems(t, c, "shelf"))
}

func TestAConsumerAloneMakesItsStreamAgain(t *testing.T) {
	t.Parallel()
	nats, db := startTCP(t), newShop(t)
	c := declared(t, nats.connect())
	s := db.subscriber(c)
	bus.On(s, itemSold, func(ctx context.Context, tx pgx.Tx, _ event.Envelope, p sold) error { return write(ctx, tx, p.Item) })
	start(t, s)
	announce(t, c, "1")
	db.eventually(t, "1")

	nats.forget()
	require.Eventually(t, func() bool {
		_, err := js(t, c).Stream(t.Context(), s.Stream())
		return err == nil
	}, patience, tick)
	announce(t, c, "2")
	db.eventually(t, "1", "2")
}

func TestAWatchBeginsAnewWithAnotherStreamAndSaysSo(t *testing.T) {
	t.Parallel()
	nats := startTCP(t)
	c := declared(t, nats.connect())
	announce(t, c, "1", "2", "3")
	seen, fn := watcher(t)
	gaps := make(chan bool, 16)
	stop, err := c.Watch(t.Context(), event.Tasks, fn, func() { gaps <- true })
	require.NoError(t, err)
	t.Cleanup(stop)
	announce(t, c, "4")
	require.Equal(t, "4", next(t, seen))
	require.Empty(t, gaps)

	nats.forget()
	next(t, gaps)
	announce(t, c, "5")
	require.Equal(t, "5", next(t, seen))

	nats.stop()
	nats.start()
	require.Eventually(t, func() bool { return c.Check(t.Context()) == nil }, patience, tick)
	announce(t, c, "6")
	require.Equal(t, "6", next(t, seen))
	require.Empty(t, gaps, "a restart alone loses nothing")
}

func TestASubjectOfNoStreamIsNoLostStream(t *testing.T) {
	t.Parallel()
	nats := startTCP(t)
	c := declared(t, nats.connect())
	n, err := c.PublishBatch(t.Context(), []store.Message{{Subject: "evt.nowhere.acct.b.sold", ID: uuid.NewString(), Payload: []byte(`{}`)}})
	require.Error(t, err)
	require.Zero(t, n)
	announce(t, c, "still there")
}

func TestALostBucketIsEmptyUntilItsOwnerMakesItAgain(t *testing.T) {
	t.Parallel()
	nats := startTCP(t)
	owner, guest := nats.connect().Objects("things", 1<<20), nats.connect().Objects("things", 0)
	require.NoError(t, owner.Declare(t.Context()))
	_, err := guest.Put(t.Context(), "a", strings.NewReader("what was"))
	require.NoError(t, err)
	require.NoError(t, owner.Restore(t.Context()), "nothing is lost")
	there, err := guest.Has(t.Context(), "a")
	require.NoError(t, err)
	require.True(t, there)

	nats.forget()
	require.Eventually(t, func() bool {
		there, err := guest.Has(t.Context(), "a")
		return err == nil && !there
	}, patience, tick)
	_, _, err = guest.Get(t.Context(), "a")
	require.ErrorIs(t, err, bus.ErrNoObject)
	require.NoError(t, owner.Delete(t.Context(), "a"))
	require.Eventually(t, func() bool { return owner.Restore(t.Context()) == nil }, patience, tick)
	_, err = guest.Put(t.Context(), "a", strings.NewReader("what is"))
	require.NoError(t, err)
	body, _, err := owner.Get(t.Context(), "a")
	require.NoError(t, err)
	b, err := io.ReadAll(body)
	require.NoError(t, err)
	require.NoError(t, body.Close())
	require.Equal(t, "what is", string(b))
}

func TestACallWithoutNATSIsRefusedAndNeverSentLater(t *testing.T) {
	t.Parallel()
	nats := startTCP(t)
	server, c := bus.NewServer(nats.connect(), "shop"), nats.connect()
	asked := make(chan string, 8)
	echo := rpc.Endpoint[sold, sold]{Service: "shop", Resource: "item", Verb: "echo"}
	bus.Serve(server, echo, func(_ context.Context, r sold) (sold, error) {
		asked <- r.Item
		return r, nil
	})
	require.NoError(t, server.Start(t.Context()))
	t.Cleanup(func() { _ = server.Stop(context.Background()) })
	nats.stop()
	require.Eventually(t, func() bool { return !c.Connected() }, patience, tick)
	_, err := bus.Call(t.Context(), c, echo, sold{"lost"})
	require.True(t, problem.HasCode(err, problem.Unavailable), "%v", err)

	nats.start()
	require.Eventually(t, func() bool {
		_, err := bus.Call(t.Context(), c, echo, sold{"again"})
		return err == nil
	}, patience, tick)
	require.Equal(t, "again", next(t, asked))
}
