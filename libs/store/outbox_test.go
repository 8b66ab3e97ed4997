package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// broker records what it acknowledged, in order, and can be told to fail.
type broker struct {
	mu       sync.Mutex
	taken    []store.Message
	arrived  chan string
	active   int
	overlaps int
	refuse   func(batch []store.Message) (int, error)
}

func newBroker() *broker { return &broker{arrived: make(chan string, 10_000)} }

func (b *broker) publish(_ context.Context, batch []store.Message) (int, error) {
	b.mu.Lock()
	b.active++
	if b.active > 1 {
		b.overlaps++
	}
	refuse := b.refuse
	b.mu.Unlock()
	n, err := len(batch), error(nil)
	if refuse != nil {
		n, err = refuse(batch)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.active--
	for _, m := range batch[:n] {
		b.taken = append(b.taken, m)
		b.arrived <- m.ID
	}
	return n, err
}

func (b *broker) ids() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	ids := make([]string, len(b.taken))
	for i, m := range b.taken {
		ids[i] = m.ID
	}
	return ids
}

func (b *broker) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, id := range want {
		select {
		case got := <-b.arrived:
			require.Equal(t, id, got)
		case <-time.After(patience):
			require.FailNow(t, "not published", id)
		}
	}
}

func startRelay(t *testing.T, pool *pgxpool.Pool, outbox *store.Outbox, publish store.Publish, opts store.RelayOptions) *store.Relay {
	t.Helper()
	relay := store.NewRelay(pool, outbox, publish, opts)
	require.NoError(t, relay.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, relay.Stop(ctx))
	})
	return relay
}

func enqueue(t *testing.T, pool *pgxpool.Pool, outbox *store.Outbox, ids ...string) {
	t.Helper()
	require.NoError(t, store.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		for _, id := range ids {
			if err := outbox.Enqueue(t.Context(), tx, store.Message{Subject: "evt." + id, ID: id}); err != nil {
				return err
			}
		}
		return nil
	}, outbox))
}

// never is a poll so slow that only Wake can explain a publication within a test.
const never = time.Hour

func drained(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	require.Eventually(t, func() bool { return one[int](t, pool, `SELECT count(*) FROM outbox`) == 0 }, patience, 5*time.Millisecond)
}

func TestOutboxPublishesInOrderAndWhole(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	outbox, b := store.NewOutbox(schema), newBroker()
	relay := startRelay(t, pool, outbox, b.publish, store.RelayOptions{Poll: never, Batch: 7})

	full := store.Message{Subject: "evt.books.added", ID: "0", Headers: map[string]string{"Traceparent": `a"b\`, "Ünï": "ö"}, Payload: []byte{0, 1, 0xff}}
	require.NoError(t, store.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		var many []store.Message
		for i := 1; i < 100; i++ {
			many = append(many, store.Message{Subject: "evt.books.added", ID: fmt.Sprint(i), Payload: []byte("x")})
		}
		return errors.Join(outbox.Enqueue(t.Context(), tx, full), outbox.Enqueue(t.Context(), tx, many...))
	}, outbox))
	for i := range 100 {
		b.expect(t, fmt.Sprint(i))
	}
	require.Equal(t, full, b.taken[0])
	drained(t, pool)
	age, err := relay.Oldest(t.Context())
	require.NoError(t, err)
	require.Zero(t, age)
}

func TestOutboxPublishesNothingThatWasRolledBack(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	outbox, b := store.NewOutbox(schema), newBroker()
	startRelay(t, pool, outbox, b.publish, store.RelayOptions{Poll: never})
	require.Error(t, store.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		require.NoError(t, outbox.Enqueue(t.Context(), tx, store.Message{Subject: "s", ID: "lost"}))
		return errors.New("no")
	}, outbox))
	enqueue(t, pool, outbox, "kept")
	b.expect(t, "kept")
	require.ErrorContains(t, outbox.Enqueue(t.Context(), nil, store.Message{Subject: "s"}), "needs a subject and an id")
}

func TestPublisherThatDiesBeforeTheDeletePublishesAgainWithTheSameIDs(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	door := newDoor(t, pool.Config().ConnString())
	door.open()
	behind := open(t, door.address)
	outbox, b := store.NewOutbox(schema), newBroker()
	// The broker has the messages, and the connection to Postgres breaks before the rows are deleted.
	var once sync.Once
	b.refuse = func(batch []store.Message) (int, error) {
		once.Do(door.shut)
		return len(batch), nil
	}
	enqueue(t, pool, outbox, "1", "2", "3")
	startRelay(t, behind, outbox, b.publish, store.RelayOptions{Poll: 10 * time.Millisecond})
	b.expect(t, "1", "2", "3")
	<-door.refused
	require.Equal(t, 3, one[int](t, pool, `SELECT count(*) FROM outbox`), "not deleted, so not lost")

	door.open()
	b.expect(t, "1", "2", "3")
	drained(t, pool)
	enqueue(t, pool, outbox, "4")
	b.expect(t, "4")
}

func TestRefusedMessagesStayAndKeepTheirPlace(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	outbox, b := store.NewOutbox(schema), newBroker()
	refused := make(chan struct{}, 1000)
	var mu sync.Mutex
	down := true
	b.refuse = func(batch []store.Message) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		if !down {
			return len(batch), nil
		}
		refused <- struct{}{}
		// The broker takes what comes before 3.
		for i, m := range batch {
			if m.ID == "3" {
				return i, errors.New("stream is full")
			}
		}
		return len(batch), nil
	}
	relay := startRelay(t, pool, outbox, b.publish, store.RelayOptions{Poll: never})
	enqueue(t, pool, outbox, "1", "2", "3", "4")
	b.expect(t, "1", "2")
	<-refused
	<-refused
	age, err := relay.Oldest(t.Context())
	require.NoError(t, err)
	require.Positive(t, age)
	require.ErrorContains(t, relay.Check(t.Context(), 0), "messages of books have been waiting")
	require.NoError(t, relay.Check(t.Context(), time.Hour))

	mu.Lock()
	down = false
	mu.Unlock()
	b.expect(t, "3", "4")
	drained(t, pool)
	require.Equal(t, []string{"1", "2", "3", "4"}, b.ids())
}

func TestTransactionThatCommitsLateIsNotSkipped(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	outbox, b := store.NewOutbox(schema), newBroker()
	startRelay(t, pool, outbox, b.publish, store.RelayOptions{Poll: never})

	slow, err := pool.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, outbox.Enqueue(t.Context(), slow, store.Message{Subject: "s", ID: "slow, with the lower number"}))
	enqueue(t, pool, outbox, "quick")
	b.expect(t, "quick")
	drained(t, pool)

	require.NoError(t, slow.Commit(t.Context()))
	outbox.Wake()
	b.expect(t, "slow, with the lower number")
	drained(t, pool)
}

func TestTwoRelaysDoNotDrainTwice(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	b := newBroker()
	// Two replicas: each has an outbox, hence a wake-up, of its own.
	outboxes := []*store.Outbox{store.NewOutbox(schema), store.NewOutbox(schema)}
	for _, outbox := range outboxes {
		startRelay(t, pool, outbox, b.publish, store.RelayOptions{Poll: never, Batch: 3})
	}
	var want []string
	for i := range 300 {
		want = append(want, fmt.Sprint(i))
		enqueue(t, pool, outboxes[i%2], fmt.Sprint(i))
	}
	b.expect(t, want...)
	drained(t, pool)
	require.Equal(t, want, b.ids(), "each once, in order")
	require.Zero(t, b.overlaps)
}

func TestRelayFindsWhatAnotherProcessLeft(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	b := newBroker()
	startRelay(t, pool, store.NewOutbox(schema), b.publish, store.RelayOptions{Poll: 20 * time.Millisecond})
	enqueue(t, pool, store.NewOutbox(schema), "no wake-up reaches the relay")
	b.expect(t, "no wake-up reaches the relay")
}

func TestRelayStopsAndStartsAgain(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	outbox, b := store.NewOutbox(schema), newBroker()
	relay := store.NewRelay(pool, outbox, b.publish, store.RelayOptions{Poll: never})
	require.NoError(t, relay.Stop(t.Context()), "never started")
	require.NoError(t, relay.Start(t.Context()))
	require.Error(t, relay.Start(t.Context()))
	require.NoError(t, relay.Stop(t.Context()))
	enqueue(t, pool, outbox, "while stopped")
	require.Empty(t, b.ids())
	require.NoError(t, relay.Start(t.Context()))
	b.expect(t, "while stopped")
	require.NoError(t, relay.Stop(t.Context()))
}

func TestStopGivesUpAHangingPublisher(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	outbox := store.NewOutbox(schema)
	hanging := make(chan struct{})
	relay := store.NewRelay(pool, outbox, func(ctx context.Context, _ []store.Message) (int, error) {
		close(hanging)
		<-ctx.Done()
		return 0, ctx.Err()
	}, store.RelayOptions{Poll: never})
	require.NoError(t, relay.Start(t.Context()))
	enqueue(t, pool, outbox, "kept")
	<-hanging
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.NoError(t, relay.Stop(ctx))
	require.Equal(t, 1, one[int](t, pool, `SELECT count(*) FROM outbox`))
}

func TestInboxLetsAnEventThroughOnce(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	inbox := store.NewInbox(schema)
	apply := func(consumer, event string, fail error) (first bool) {
		err := store.InTx(t.Context(), pool, func(tx pgx.Tx) (err error) {
			if first, err = inbox.Once(t.Context(), tx, consumer, event); err != nil {
				return err
			}
			return fail
		})
		require.ErrorIs(t, err, fail)
		return first
	}
	require.True(t, apply("shelves", "e1", errors.New("the effect failed")))
	require.True(t, apply("shelves", "e1", nil), "a failed effect does not count")
	require.False(t, apply("shelves", "e1", nil))
	require.True(t, apply("readers", "e1", nil), "consumers are independent")
	require.True(t, apply("shelves", "e2", nil))

	// Ten deliveries at once: one takes effect.
	firsts := make(chan bool, 10)
	for range 10 {
		go func() {
			var first bool
			err := store.InTx(t.Context(), pool, func(tx pgx.Tx) (err error) {
				first, err = inbox.Once(t.Context(), tx, "shelves", "e3")
				return err
			})
			firsts <- first && err == nil
		}()
	}
	count := 0
	for range 10 {
		if <-firsts {
			count++
		}
	}
	require.Equal(t, 1, count)
}

func TestInboxForgetsOldEventsABatchAtATime(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	inbox := store.NewInbox(schema)
	_, err := pool.Exec(t.Context(), `INSERT INTO inbox SELECT 'c', n::text, now() - interval '2 hours' FROM generate_series(1, 12345) n`)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `INSERT INTO inbox SELECT 'c', 'young' || n FROM generate_series(1, 5) n`)
	require.NoError(t, err)
	for _, want := range []int64{10_000, 2345, 0} {
		forgotten, err := inbox.Prune(t.Context(), pool, time.Hour)
		require.NoError(t, err)
		require.Equal(t, want, forgotten)
	}
	require.Equal(t, 5, one[int](t, pool, `SELECT count(*) FROM inbox`))
}
