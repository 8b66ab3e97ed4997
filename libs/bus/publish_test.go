package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func (s shop) relay(t *testing.T, c *bus.Conn) {
	t.Helper()
	r := store.NewRelay(s.pool, s.outbox, c.PublishBatch, store.RelayOptions{Poll: 50 * time.Millisecond, PublishTimeout: 2 * time.Second})
	require.NoError(t, r.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, r.Stop(context.Background())) })
}

// emptied waits until everything that was recorded is stored. Order holds per entity only: one message that arrived
// says nothing about those of others.
func (s shop) emptied(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		var left int
		require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM shop.outbox`).Scan(&left))
		return left == 0
	}, patience, tick, "the outbox empties itself")
}

// sell records items as one transaction.
func (s shop) sell(ctx context.Context, shelf string, items ...string) error {
	return store.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		for _, item := range items {
			f := bus.Fact{Account: "acct", Entity: shelf, Refs: event.Refs{FunctionID: "fn", VersionID: "v1"}}
			if err := bus.Record(ctx, tx, s.journal, itemSold, f, sold{item}); err != nil {
				return err
			}
		}
		return nil
	}, s.outbox)
}

func TestJournalReachesTheStreamInOrder(t *testing.T) {
	t.Parallel()
	db, c := newShop(t), declared(t, connect(t, testkit.NATS(t)))
	ctx := access.WithCaller(t.Context(), access.Caller{Account: "acct", Kind: access.Key, ID: "k1", RequestID: "r1"})
	ctx = bus.WithTraceParent(ctx, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	require.NoError(t, db.sell(ctx, "a", "1", "2"))
	require.NoError(t, db.sell(ctx, "b", "3"))
	require.NoError(t, db.sell(ctx, "a", "4"))
	err := store.InTx(ctx, db.pool, func(tx pgx.Tx) error {
		require.NoError(t, bus.Record(ctx, tx, db.journal, itemReturned, bus.Fact{Entity: "a"}, sold{"x"}))
		return errors.New("changed my mind")
	}, db.outbox)
	require.Error(t, err)
	err = store.InTx(ctx, db.pool, func(tx pgx.Tx) error {
		return bus.Order(ctx, tx, db.journal, start1, "here", "gpu.7", "command-1", text{"go"})
	}, db.outbox)
	require.NoError(t, err)
	db.relay(t, c)

	db.emptied(t)
	require.Len(t, stored(t, c, "CMD"), 1)
	require.Equal(t, []string{"1", "2", "4"}, storedItems(t, c, "a"))
	require.Equal(t, []string{"3"}, storedItems(t, c, "b"))
	all := stored(t, c, "EVT_tasks")
	require.Len(t, all, 4, "what was rolled back did not happen")
	first := slices.IndexFunc(all, func(m *jetstream.RawStreamMsg) bool { return m.Subject == itemSold.Subject("acct", "a") })
	var env event.Envelope
	require.NoError(t, json.Unmarshal(all[first].Data, &env))
	require.Equal(t, all[first].Header.Get("Nats-Msg-Id"), env.ID)
	require.Equal(t, "application/cloudevents+json", all[first].Header.Get("Content-Type"))
	require.WithinDuration(t, time.Now(), env.Time, time.Minute)
	env.ID, env.Time, env.Data = "", time.Time{}, nil
	require.Equal(t, event.Envelope{
		SpecVersion: "1.0", Source: "/shop", Type: "nvcf.tasks.item_sold.v1", Subject: "item/a", DataType: "application/json", Account: "acct",
		Actor: event.Actor{Type: "apikey", ID: "k1"}, ActorType: "apikey", ActorID: "k1", RequestID: "r1", CorrelationID: "fn",
		TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Refs: event.Refs{FunctionID: "fn", VersionID: "v1"},
	}, env)
	require.Equal(t, "command-1", stored(t, c, "CMD")[0].Header.Get("Nats-Msg-Id"))
}

func TestServerRestartInMidTrafficLosesNothingAndKeepsOrder(t *testing.T) {
	t.Parallel()
	nats, db := startTCP(t), newShop(t)
	c := declared(t, nats.connect())
	db.relay(t, c)

	const each = 150
	var want []string
	for i := range each {
		want = append(want, fmt.Sprint(i))
		require.NoError(t, db.sell(t.Context(), "a", want[i]))
		require.NoError(t, db.sell(t.Context(), "b", want[i]))
		if i == each/3 || i == 2*each/3 {
			nats.stop()
		}
		if i == each/3+20 || i == 2*each/3+20 {
			nats.start()
		}
	}
	db.emptied(t)
	require.Equal(t, want, storedItems(t, c, "a"))
	require.Equal(t, want, storedItems(t, c, "b"))
	require.Len(t, stored(t, c, "EVT_tasks"), 2*each, "each event is stored once")
}

func TestBatchStopsAnEntityAtItsFirstFailure(t *testing.T) {
	t.Parallel()
	c := declared(t, connect(t, testkit.NATS(t)))
	message := func(subject, id string) store.Message {
		return store.Message{Subject: subject, ID: id, Payload: []byte(`{}`)}
	}
	n, err := c.PublishBatch(t.Context(), []store.Message{
		message("evt.tasks.acct.a.sold", "1"),
		message("evt.nowhere.acct.b.sold", "2"), // no stream takes it
		message("evt.tasks.acct.a.sold", "3"),
	})
	require.Error(t, err)
	require.Equal(t, 1, n, "only what comes before the failure may be forgotten")
	require.Len(t, stored(t, c, "EVT_tasks"), 1)
}
