package bus_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/subject"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func write(ctx context.Context, tx pgx.Tx, what string) error {
	_, err := tx.Exec(ctx, `INSERT INTO shop.effects (what) VALUES ($1)`, what)
	return err
}

func start(t *testing.T, s *bus.Subscriber) {
	t.Helper()
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(s.Stop)
}

func TestEventPublishedTwiceTakesEffectOnce(t *testing.T) {
	t.Parallel()
	db, c := newShop(t), declared(t, connect(t, testkit.NATS(t)))
	announce(t, c, "pear")
	first := stored(t, c, "EVT_tasks")[0]
	// Another message with the same event in it, as after an outage longer than the stream's duplicate window.
	_, err := c.PublishBatch(t.Context(), []store.Message{{Subject: first.Subject, ID: "another", Payload: first.Data}})
	require.NoError(t, err)
	announce(t, c, "plum")

	s := db.subscriber(c)
	bus.On(s, itemSold, func(ctx context.Context, tx pgx.Tx, _ event.Envelope, p sold) error { return write(ctx, tx, p.Item) })
	start(t, s)
	db.eventually(t, "pear", "plum")
}

func TestCrashBetweenEffectAndAckRepeatsNothingAndKeepsTheOrder(t *testing.T) {
	t.Parallel()
	nats, db := testkit.NATS(t), newShop(t)
	c := declared(t, connect(t, nats))
	announce(t, c, "1", "2", "3", "4", "5")

	doomed := connect(t, nats)
	s := db.subscriber(doomed)
	bus.On(s, itemSold, func(ctx context.Context, tx pgx.Tx, _ event.Envelope, p sold) error {
		if p.Item == "2" {
			doomed.NATS().Close() // the effect will be committed, the acknowledgement never sent
		}
		return write(ctx, tx, p.Item)
	})
	start(t, s)
	db.eventually(t, "1", "2")
	s.Stop()

	again := db.subscriber(connect(t, nats))
	bus.On(again, itemSold, func(ctx context.Context, tx pgx.Tx, _ event.Envelope, p sold) error { return write(ctx, tx, p.Item) })
	start(t, again)
	db.eventually(t, "1", "2", "3", "4", "5")
}

func TestReplicasApplyInOrder(t *testing.T) {
	t.Parallel()
	nats, db := testkit.NATS(t), newShop(t)
	c := declared(t, connect(t, nats))
	for range 3 {
		s := db.subscriber(connect(t, nats))
		bus.On(s, itemSold, func(ctx context.Context, tx pgx.Tx, _ event.Envelope, p sold) error { return write(ctx, tx, p.Item) })
		start(t, s)
	}
	want := make([]string, 50)
	for i := range want {
		want[i] = uuid.NewString()
	}
	announce(t, c, want...)
	db.eventually(t, want...)
}

func TestFailingDatabaseIsRetriedInOrder(t *testing.T) {
	t.Parallel()
	db, c := newShop(t), declared(t, connect(t, testkit.NATS(t)))
	tries := 0
	s := db.subscriber(c)
	bus.On(s, itemSold, func(ctx context.Context, tx pgx.Tx, _ event.Envelope, p sold) error {
		if tries++; p.Item == "1" && tries < 4 {
			require.NoError(t, write(ctx, tx, "never committed"))
			return errors.New("the disk is on fire")
		}
		return write(ctx, tx, p.Item)
	})
	start(t, s)
	announce(t, c, "1", "2", "3")
	db.eventually(t, "1", "2", "3")
}

func TestPoisonBecomesADeadLetterAndBlocksNobody(t *testing.T) {
	t.Parallel()
	db, c := newShop(t), declared(t, connect(t, testkit.NATS(t)))
	s := db.subscriber(c)
	bus.On(s, itemSold, func(ctx context.Context, tx pgx.Tx, _ event.Envelope, p sold) error {
		switch p.Item {
		case "poison":
			return problem.New(problem.BadRequest, "cannot sell\npoison")
		case "bomb":
			panic("tick tock")
		}
		return write(ctx, tx, p.Item)
	})
	start(t, s)
	_, err := c.PublishBatch(t.Context(), []store.Message{{Subject: itemSold.Subject("acct", "shelf"), ID: "junk", Payload: []byte("not JSON")}})
	require.NoError(t, err)
	_, err = c.PublishBatch(t.Context(), []store.Message{{Subject: itemSold.Subject("acct", "shelf"), ID: "nameless", Payload: []byte(`{"type":"nvcf.tasks.item_sold.v1"}`)}})
	require.NoError(t, err)
	announce(t, c, "1", "poison", "bomb", "2")
	db.eventually(t, "1", "2")

	dead := stored(t, c, "DLQ")
	require.Len(t, dead, 4)
	require.Equal(t, subject.DeadLetter(itemSold.Subject("acct", "shelf")), dead[0].Subject)
	require.Contains(t, dead[0].Header.Get("Sirocco-Reason"), "not an event")
	require.Equal(t, "bad_request: cannot sell poison", dead[2].Header.Get("Sirocco-Reason"))
	require.Contains(t, dead[3].Header.Get("Sirocco-Reason"), "tick tock")
	require.JSONEq(t, string(stored(t, c, "EVT_tasks")[3].Data), string(dead[2].Data), "the letter holds the event as it was")
}

func TestOnAnyTakesTheWholeDomainAndNothingElse(t *testing.T) {
	t.Parallel()
	db, c := newShop(t), declared(t, connect(t, testkit.NATS(t)))
	require.NoError(t, c.Declare(t.Context(), "keys"))
	s := db.subscriber(c)
	bus.OnAny(s, func(ctx context.Context, tx pgx.Tx, raw bus.Raw) error {
		return write(ctx, tx, raw.Envelope.Type+" "+raw.Subject)
	})
	start(t, s)
	foreign, unknown := itemSold, itemSold
	foreign.Domain, unknown.Name, unknown.Version = event.Keys, "polished", 7
	fact := bus.Fact{Account: "acct", Entity: "shelf"}
	require.NoError(t, bus.Announce(t.Context(), c, "shop", uuid.NewString(), foreign, fact, sold{"x"}))
	require.NoError(t, bus.Announce(t.Context(), c, "shop", uuid.NewString(), itemSold, fact, sold{"x"}))
	require.NoError(t, bus.Announce(t.Context(), c, "shop", uuid.NewString(), unknown, fact, sold{"x"}))
	db.eventually(t, "nvcf.tasks.item_sold.v1 evt.tasks.acct.shelf.sold", "nvcf.tasks.item_polished.v7 evt.tasks.acct.shelf.polished")
}

func TestTwoEntitiesWithEventsOfOneName(t *testing.T) {
	t.Parallel()
	db, c := newShop(t), declared(t, connect(t, testkit.NATS(t)))
	shelfSold := itemSold
	shelfSold.Entity = "shelf"
	s := db.subscriber(c)
	bus.On(s, itemSold, func(ctx context.Context, tx pgx.Tx, _ event.Envelope, p sold) error {
		return write(ctx, tx, "item "+p.Item)
	})
	bus.On(s, shelfSold, func(ctx context.Context, tx pgx.Tx, _ event.Envelope, p sold) error {
		return write(ctx, tx, "shelf "+p.Item)
	})
	start(t, s)
	announce(t, c, "pear")
	require.NoError(t, bus.Announce(t.Context(), c, "shop", uuid.NewString(), shelfSold, bus.Fact{Entity: "1"}, sold{"oak"}))
	db.eventually(t, "item pear", "shelf oak")
}

func TestSubscriberSurvivesTheServer(t *testing.T) {
	t.Parallel()
	nats, db := startTCP(t), newShop(t)
	c := declared(t, nats.connect())
	s := db.subscriber(nats.connect())
	bus.On(s, itemSold, func(ctx context.Context, tx pgx.Tx, _ event.Envelope, p sold) error { return write(ctx, tx, p.Item) })
	start(t, s)
	announce(t, c, "before")
	db.eventually(t, "before")
	nats.stop()
	nats.start()
	require.Eventually(t, func() bool { return c.Check(t.Context()) == nil }, patience, tick)
	announce(t, c, "after")
	db.eventually(t, "before", "after")

	// Even a consumer that is lost with the server's disk comes back; the inbox knows what was applied.
	require.NoError(t, js(t, c).DeleteConsumer(t.Context(), "EVT_tasks", "shop-tasks"))
	announce(t, c, "anew")
	db.eventually(t, "before", "after", "anew")
}
