package bus_test

import (
	"context"
	"encoding/json"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/contracts/subject"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	schema = "shop"
	// patience is for things that happen in milliseconds unless they are broken, and in seconds after an outage.
	patience = time.Minute
	tick     = 10 * time.Millisecond
)

// sold is the event that the tests speak of.
type sold struct {
	Item string `json:"item"`
}

var (
	itemSold     = rpc.Event[sold]{Domain: event.Tasks, Entity: "item", Name: "sold", Version: 1}
	itemReturned = rpc.Event[sold]{Domain: event.Tasks, Entity: "item", Name: "returned", Version: 1}
)

// shop is a service's database: the effects table has one row per applied event, in the order of the effects.
type shop struct {
	pool    *pgxpool.Pool
	inbox   *store.Inbox
	outbox  *store.Outbox
	journal *bus.Journal
}

func newShop(t *testing.T) shop {
	t.Helper()
	pool := testkit.Database(t, schema, fstest.MapFS{
		"0001_shop.up.sql":   {Data: []byte(`CREATE TABLE shop.effects (n bigserial, what text)`)},
		"0001_shop.down.sql": {Data: []byte(`DROP TABLE shop.effects`)},
	})
	outbox := store.NewOutbox(schema)
	return shop{pool: pool, inbox: store.NewInbox(schema), outbox: outbox, journal: bus.NewJournal("shop", outbox, time.Now)}
}

func (s shop) subscriber(c *bus.Conn) *bus.Subscriber {
	return bus.NewSubscriber(c, s.pool, "shop", event.Tasks, s.inbox, s.outbox)
}

// effects are read with a query of their own, so only committed ones are seen.
func (s shop) effects(t *testing.T) []string {
	t.Helper()
	var all []string
	err := s.pool.QueryRow(context.Background(), `SELECT coalesce(array_agg(what ORDER BY n), '{}') FROM shop.effects`).Scan(&all)
	require.NoError(t, err)
	return all
}

func (s shop) eventually(t *testing.T, want ...string) {
	t.Helper()
	require.Eventually(t, func() bool { return len(s.effects(t)) >= len(want) }, patience, tick)
	require.Equal(t, want, s.effects(t))
}

// natsOnTCP is a server that can be stopped and started again with the same address and files.
type natsOnTCP struct {
	t      *testing.T
	dir    string
	port   int
	server *server.Server
}

func startTCP(t *testing.T) *natsOnTCP {
	t.Helper()
	n := &natsOnTCP{t: t, dir: t.TempDir(), port: testkit.Port(t)}
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *natsOnTCP) start() {
	n.t.Helper()
	s, err := bus.StartEmbedded(bus.EmbeddedOptions{Dir: n.dir, Host: "127.0.0.1", Port: n.port, Log: quiet(n.t)})
	require.NoError(n.t, err)
	n.server = s
}

func (n *natsOnTCP) stop() {
	n.server.Shutdown()
	n.server.WaitForShutdown()
}

func (n *natsOnTCP) connect() *bus.Conn {
	n.t.Helper()
	c, err := bus.Connect(bus.Config{URL: n.server.ClientURL(), Name: n.t.Name(), Log: quiet(n.t)})
	require.NoError(n.t, err)
	n.t.Cleanup(c.Close)
	return c
}

func quiet(t *testing.T) *zap.Logger { return zaptest.NewLogger(t, zaptest.Level(zap.DPanicLevel)) }

// connect is a quiet connection to an embedded server; these tests provoke errors on purpose.
func connect(t *testing.T, s *server.Server) *bus.Conn {
	t.Helper()
	c, err := bus.Connect(bus.Config{Embedded: s, Name: t.Name(), Log: quiet(t)})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// declared is a connection whose server has the stream of the tests' domain.
func declared(t *testing.T, c *bus.Conn) *bus.Conn {
	t.Helper()
	require.NoError(t, c.Declare(t.Context(), "tasks", "CMD"))
	return c
}

func announce(t *testing.T, c *bus.Conn, items ...string) {
	t.Helper()
	for _, item := range items {
		err := bus.Announce(t.Context(), c, "shop", uuid.NewString(), itemSold, bus.Fact{Account: "acct", Entity: "shelf"}, sold{item})
		require.NoError(t, err)
	}
}

func js(t *testing.T, c *bus.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(c.NATS())
	require.NoError(t, err)
	return js
}

// stored reads everything in a stream, oldest first.
func stored(t *testing.T, c *bus.Conn, stream string) []*jetstream.RawStreamMsg {
	t.Helper()
	s, err := js(t, c).Stream(t.Context(), stream)
	require.NoError(t, err)
	state := s.CachedInfo().State
	var msgs []*jetstream.RawStreamMsg
	for seq := state.FirstSeq; state.Msgs > 0 && seq <= state.LastSeq; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		require.NoError(t, err)
		msgs = append(msgs, m)
	}
	return msgs
}

// emptied waits until a queue has nothing left: what was taken from it is acknowledged a moment later.
func emptied(t *testing.T, c *bus.Conn, stream string) {
	t.Helper()
	require.Eventually(t, func() bool {
		s, err := js(t, c).Stream(t.Context(), stream)
		return err == nil && s.CachedInfo().State.Msgs == 0
	}, patience, tick)
}

func storedItems(t *testing.T, c *bus.Conn, entity string) []string {
	t.Helper()
	var items []string
	for _, m := range stored(t, c, event.StreamOf(event.Tasks)) {
		var env event.Envelope
		require.NoError(t, json.Unmarshal(m.Data, &env))
		if _, _, e, _, _ := subject.ParseEvent(m.Subject); e == entity {
			p, ok := bus.As[sold](env, itemSold)
			require.True(t, ok)
			items = append(items, p.Item)
		}
	}
	return items
}

// next waits for one value.
func next[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		require.FailNow(t, "nothing came")
		panic("unreachable")
	}
}
