package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"go.uber.org/fx"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/audit"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	libstore "github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	patience = 2 * time.Minute
	tick     = 10 * time.Millisecond
)

func TestModuleIsComplete(t *testing.T) {
	t.Parallel()
	require.NoError(t, fx.ValidateApp(app.Base("ledger"), Module))
}

// bench is a NATS server and a database with any number of ledgers on them.
type bench struct {
	nats *server.Server
	pool *pgxpool.Pool
	conn *bus.Conn
}

func newBench(t *testing.T) bench {
	t.Helper()
	nats := testkit.NATS(t)
	conn := testkit.Conn(t, nats)
	for _, s := range event.Streams { // every owner's
		require.NoError(t, conn.Declare(t.Context(), s.Owner))
	}
	return bench{nats: nats, conn: conn, pool: testkit.Database(t, "ledger", app.Migrations(migrations))}
}

func (b bench) ledger(t *testing.T) *app.Service {
	t.Helper()
	return b.ledgerAt(t, quartz.NewReal())
}

func (b bench) ledgerAt(t *testing.T, clock quartz.Clock) *app.Service {
	t.Helper()
	s := newService(testkit.Platform(t, testkit.Conn(t, b.nats), b.pool, clock))
	testkit.Run(t, s)
	testkit.Ready(t, s)
	return s
}

func announce[P any](t *testing.T, b bench, e rpc.Event[P], f bus.Fact, payload P) (id string) {
	t.Helper()
	id = uuid.NewString()
	require.NoError(t, bus.Announce(t.Context(), b.conn, "test", id, e, f, payload))
	return id
}

func (b bench) version(t *testing.T, account, function, version string) string {
	t.Helper()
	return announce(t, b, functions.Created, bus.Fact{Account: account, Entity: version, Refs: event.Refs{FunctionID: function}},
		functions.Changed{Function: functions.Function{ID: function, VersionID: version}})
}

func (b bench) events(t *testing.T, caller access.Caller, req audit.EventsRequest) audit.EventsResponse {
	t.Helper()
	answer, err := bus.Call(access.WithCaller(t.Context(), caller), b.conn, audit.Events, req)
	require.NoError(t, err)
	return answer
}

func (b bench) verify(t *testing.T, caller access.Caller) audit.VerifyResponse {
	t.Helper()
	answer, err := bus.Call(access.WithCaller(t.Context(), caller), b.conn, audit.Verify, audit.VerifyRequest{})
	require.NoError(t, err)
	return answer
}

// wait returns when n events are recorded.
func (b bench) wait(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return b.count(t) >= n }, patience, tick)
	require.Equal(t, n, b.count(t))
}

func (b bench) count(t *testing.T) (n int) {
	t.Helper()
	require.NoError(t, b.pool.QueryRow(context.Background(), `SELECT count(*) FROM ledger.events`).Scan(&n))
	return n
}

func ids(records []audit.Record) []string {
	out := []string{}
	for _, r := range records {
		out = append(out, r.Event.ID)
	}
	return out
}

var (
	platform = access.Caller{}
	alice    = access.Caller{Kind: access.JWT, Account: "alice", Subject: "alice"}
)

func TestEveryEventIsRecordedOnceAndFoundByWhatItNames(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.ledger(t)
	one := b.version(t, "alice", "fn-1", "v-1")
	other := b.version(t, "bob", "fn-2", "v-2")
	key := announce(t, b, keys.Created, bus.Fact{Account: "alice", Entity: "k-1", Refs: event.Refs{KeyID: "k-1"}}, keys.Changed{KeyID: "k-1"})
	cluster := announce(t, b, rpc.Event[map[string]any]{Domain: event.Clusters, Entity: "cluster", Name: "invented_later", Version: 9},
		bus.Fact{Entity: "c.1", Refs: event.Refs{ClusterID: "c.1"}}, map[string]any{"n": 1})
	b.wait(t, 4)

	all := b.events(t, platform, audit.EventsRequest{})
	require.ElementsMatch(t, []string{one, other, key, cluster}, ids(all.Events))
	require.False(t, all.More)
	require.Equal(t, all.Events[3].Sequence, all.Next)
	for i, r := range all.Events {
		require.EqualValues(t, i+1, r.Sequence)
		require.NotEmpty(t, r.Hash)
		require.WithinDuration(t, time.Now(), r.StoredAt, time.Minute)
	}

	find := func(caller access.Caller, req audit.EventsRequest) []string {
		return ids(b.events(t, caller, req).Events)
	}
	require.Equal(t, []string{one}, find(platform, audit.EventsRequest{Entity: "fn-1"}), "by a reference")
	require.Equal(t, []string{one}, find(platform, audit.EventsRequest{Entity: "v-1"}), "by the entity of the subject")
	require.Equal(t, []string{cluster}, find(platform, audit.EventsRequest{Entity: "c.1"}), "by an entity whose token is encoded")
	require.Equal(t, []string{key}, find(platform, audit.EventsRequest{Domain: event.Keys}))
	require.ElementsMatch(t, []string{one, key, cluster}, find(alice, audit.EventsRequest{}), "own events and the platform's")
	require.Empty(t, find(alice, audit.EventsRequest{Entity: "fn-2"}))
	require.Len(t, find(platform, audit.EventsRequest{Since: "1m"}), 4)
	require.Empty(t, find(platform, audit.EventsRequest{Until: "1m"}))
	require.Empty(t, find(platform, audit.EventsRequest{Since: time.Now().Add(time.Minute).Format(time.RFC3339)}))
	require.Len(t, find(platform, audit.EventsRequest{Until: time.Now().Add(time.Minute).Format(time.RFC3339)}), 4)

	var got functions.Changed
	record := b.events(t, platform, audit.EventsRequest{Entity: "fn-1"}).Events[0]
	require.Equal(t, functions.Created.Subject("alice", "v-1"), record.Subject)
	require.NoError(t, json.Unmarshal(record.Event.Data, &got))
	require.Equal(t, "v-1", got.Function.VersionID)
}

func TestPagesFollowOneAnother(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.ledger(t)
	var want []string
	for i := range 7 {
		want = append(want, b.version(t, "alice", "fn", fmt.Sprint("v", i)))
	}
	b.wait(t, 7)
	var got []string
	after, pages := int64(0), 0
	for more := true; more; pages++ {
		page := b.events(t, alice, audit.EventsRequest{After: after, Limit: 3})
		got, after, more = append(got, ids(page.Events)...), page.Next, page.More
	}
	require.Equal(t, want, got)
	require.Equal(t, 3, pages)
	end := b.events(t, alice, audit.EventsRequest{After: after})
	require.Empty(t, end.Events)
	require.Equal(t, after, end.Next, "an empty page keeps the place")
}

func TestPageIsCutByItsSize(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.ledger(t)
	for i := range 2 { // two of them are more than a page
		announce(t, b, functions.Created, bus.Fact{Account: "alice", Entity: fmt.Sprint("v", i)},
			functions.Changed{Function: functions.Function{Spec: functions.Spec{Description: strings.Repeat("x", pageBytes*3/4)}}})
	}
	b.wait(t, 2)
	page := b.events(t, alice, audit.EventsRequest{})
	require.Len(t, page.Events, 1)
	require.True(t, page.More)
}

func TestLongPollEndsWithTheFirstEventThatFits(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	clock := quartz.NewMock(t) // no poll ends because its time is over
	b.ledgerAt(t, clock)
	b.ledgerAt(t, clock) // either replica may record the event, and either may hold the poll
	answers := make(chan audit.EventsResponse, 4)
	for range 4 {
		go func() {
			answer, err := bus.Call(access.WithCaller(t.Context(), alice), b.conn, audit.Events, audit.EventsRequest{Entity: "wanted", WaitSeconds: 20})
			if err == nil {
				answers <- answer
			}
		}()
	}
	b.version(t, "alice", "fn", "other")
	b.wait(t, 1)
	require.Empty(t, answers)
	id := b.version(t, "alice", "fn", "wanted")
	for range 4 {
		select {
		case a := <-answers:
			require.Equal(t, []string{id}, ids(a.Events))
		case <-time.After(patience):
			require.FailNow(t, "a poll did not end")
		}
	}
}

func TestLongPollEndsEmpty(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	clock := quartz.NewMock(t)
	trap := clock.Trap().NewTimer("events")
	defer trap.Close()
	l := New(newStore(b.pool), newBell(), clock)
	answer := make(chan audit.EventsResponse, 1)
	go func() {
		a, err := l.Events(context.Background(), audit.EventsRequest{WaitSeconds: 20, After: 7})
		if err == nil {
			answer <- a
		}
	}()
	trap.MustWait(t.Context()).MustRelease(t.Context())
	clock.Advance(20 * time.Second).MustWait(t.Context())
	select {
	case a := <-answer:
		require.Equal(t, audit.EventsResponse{Events: []audit.Record{}, Next: 7}, a)
	case <-time.After(patience):
		require.FailNow(t, "the poll did not end")
	}
}

func TestBadQuestionsNameTheField(t *testing.T) {
	t.Parallel()
	l := New(nil, newBell(), quartz.NewReal())
	for field, req := range map[string]audit.EventsRequest{
		"since":  {Since: "yesterday"},
		"until":  {Until: "-10m"},
		"entity": {Entity: strings.Repeat("x", 300)},
		"domain": {Domain: "weather"},
		"after":  {After: -1},
		"limit":  {Limit: 1001},
		"wait":   {WaitSeconds: 21},
	} {
		_, err := l.Events(t.Context(), req)
		var p *problem.Problem
		require.ErrorAs(t, err, &p, field)
		require.Len(t, p.Violations, 1)
		require.Equal(t, field, p.Violations[0].Field)
	}
	_, err := l.Events(t.Context(), audit.EventsRequest{Since: "1m", Until: "2m"})
	require.ErrorContains(t, err, "later than since")
}

func TestVerifyFindsWhatWasTamperedWith(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tamper string
		bad    int64
	}{
		"content changed": {`UPDATE ledger.events SET envelope = convert_to(replace(convert_from(envelope, 'UTF8'), 'fn', 'xx'), 'UTF8') WHERE sequence = 3`, 3},
		"record removed":  {`DELETE FROM ledger.events WHERE sequence = 3`, 5},
		"newest removed":  {`DELETE FROM ledger.events WHERE sequence = 5`, 5},
		"hash recomputed": {`UPDATE ledger.events SET hash = repeat('a', 64) WHERE sequence = 3`, 3},
		"moved to other":  {`UPDATE ledger.events SET account = 'bob' WHERE sequence = 3`, 3},
		"chain wiped":     {`DELETE FROM ledger.events WHERE account = 'alice'`, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.ledger(t)
			for i, account := range []string{"alice", "bob", "alice", "bob", "alice"} {
				b.version(t, account, "fn", fmt.Sprint("v", i))
				b.wait(t, i+1)
			}
			require.Equal(t, audit.VerifyResponse{Checked: 5, Intact: true}, b.verify(t, platform))
			require.Equal(t, audit.VerifyResponse{Checked: 3, Intact: true}, b.verify(t, alice))
			_, err := b.pool.Exec(t.Context(), c.tamper)
			require.NoError(t, err)
			answer := b.verify(t, platform)
			require.False(t, answer.Intact)
			require.Equal(t, c.bad, answer.FirstBad)
		})
	}
}

func TestReplicasKeepOneChain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.ledger(t)
	b.ledger(t)
	const each = 60
	for i := range each {
		b.version(t, "alice", "fn", fmt.Sprint("v", i))
		announce(t, b, keys.Created, bus.Fact{Account: "alice", Entity: fmt.Sprint("k", i)}, keys.Changed{})
	}
	b.wait(t, 2*each)
	require.Equal(t, audit.VerifyResponse{Checked: 2 * each, Intact: true}, b.verify(t, alice))
	for _, domain := range []string{event.Functions, event.Keys} {
		for i, r := range b.events(t, alice, audit.EventsRequest{Domain: domain}).Events {
			require.Equal(t, fmt.Sprint(i), r.Event.Subject[len(r.Event.Subject)-len(fmt.Sprint(i)):], "a domain keeps its order")
		}
	}
}

func TestEventThatComesAgainIsNotRecordedTwice(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := b.version(t, "alice", "fn", "v")
	b.ledger(t)
	b.wait(t, 1)
	// The inbox is lost, and the stream is delivered from its beginning.
	_, err := b.pool.Exec(t.Context(), `TRUNCATE ledger.inbox`)
	require.NoError(t, err)
	env, err := json.Marshal(b.events(t, platform, audit.EventsRequest{}).Events[0].Event)
	require.NoError(t, err)
	_, err = b.conn.PublishBatch(t.Context(), []libstore.Message{{Subject: functions.Created.Subject("alice", "v"), ID: "again", Payload: env}})
	require.NoError(t, err)
	next := b.version(t, "alice", "fn", "w")
	b.wait(t, 2)
	require.Equal(t, []string{id, next}, ids(b.events(t, platform, audit.EventsRequest{}).Events))
	require.True(t, b.verify(t, platform).Intact)
}

func TestHostileTextsAreRecorded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.ledger(t)
	long := strings.Repeat("é", 5000)
	announce(t, b, functions.Created, bus.Fact{Account: "alice", Entity: "v", Refs: event.Refs{FunctionID: "zero\x00byte", VersionID: long}, Actor: event.Actor{Type: "user", ID: long}}, functions.Changed{})
	raw := `{"specversion":"1.0","id":"raw","type":"x","time":"2031-04-02T08:00:00Z","later":{"b":1e400,"a":"` + "\xff" + `"},"ncaid":"alice","data":null}`
	_, err := b.conn.PublishBatch(t.Context(), []libstore.Message{{Subject: "evt.functions.alice.v.odd.and.long", ID: "raw", Payload: []byte(raw)}})
	require.NoError(t, err)
	b.wait(t, 2)
	require.True(t, b.verify(t, platform).Intact)
	require.Len(t, b.events(t, platform, audit.EventsRequest{Entity: "zero\x00byte"}).Events, 1)
	require.Empty(t, b.events(t, platform, audit.EventsRequest{Entity: long[:256]}).Events)
	var kept []byte
	require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT envelope FROM ledger.events WHERE event_id = 'raw'`).Scan(&kept))
	require.Equal(t, raw, string(kept), "as it was sent, byte for byte")
}

func TestCanonicalFormDoesNotDependOnTheWriter(t *testing.T) {
	t.Parallel()
	a, err := canonical([]byte(`{"b": [1.50, "<&>"], "a":{"d":null,"c":true}}`))
	require.NoError(t, err)
	b, err := canonical([]byte("{\"a\":{\"c\":true,\n\"d\":null},\"b\":[1.50,\"\\u003c\\u0026>\"]}"))
	require.NoError(t, err)
	require.Equal(t, a, b)
	other, err := canonical([]byte(`{"a":{"c":true,"d":null},"b":[1.50,"<&"]}`))
	require.NoError(t, err)
	require.NotEqual(t, a, other)
}

func TestMigrationsGoBack(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, "ledger", app.Migrations(migrations))
	require.NoError(t, libstore.MigrateDown(t.Context(), pool, "ledger", app.Migrations(migrations)))
	require.NoError(t, libstore.Migrate(t.Context(), pool, "ledger", app.Migrations(migrations)))
}
