package store_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMigrationsGoUpDownUp(t *testing.T) {
	t.Parallel()
	pool := open(t, testkit.DatabaseURL(t))
	tables := `SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'books'`
	for range 2 {
		require.NoError(t, store.Migrate(t.Context(), pool, schema, migrations))
		require.Equal(t, "authors books inbox outbox schema_migrations", one[string](t, pool, tables))
		require.Equal(t, 2, one[int](t, pool, `SELECT version FROM books.schema_migrations WHERE NOT dirty`))
		require.NoError(t, store.MigrateDown(t.Context(), pool, schema, migrations))
		require.Equal(t, "inbox outbox schema_migrations", one[string](t, pool, tables))
		require.Equal(t, 0, one[int](t, pool, `SELECT count(*) FROM books.schema_migrations`))
	}
}

func TestReplicasAndServicesMigrateAtOnce(t *testing.T) {
	t.Parallel()
	pool := open(t, testkit.DatabaseURL(t))
	errs := make(chan error)
	for i := range 10 {
		go func() {
			// Five services, two replicas each, over one pool smaller than their number.
			files := fstest.MapFS{"0001_x.up.sql": {Data: []byte(`CREATE TABLE x (n int); INSERT INTO x VALUES (1)`)}}
			errs <- store.Migrate(t.Context(), pool, fmt.Sprintf("service_%d", i%5), files)
		}()
	}
	for range 10 {
		require.NoError(t, <-errs)
	}
	for i := range 5 {
		require.Equal(t, 1, one[int](t, pool, fmt.Sprintf(`SELECT count(*) FROM service_%d.x`, i)))
	}
}

// Every start of every replica migrates, so what it asks of a database that is up to date is counted. How long that
// takes says more about the machine.
func TestMigratingAnExistingDatabaseIsQuick(t *testing.T) {
	t.Parallel()
	config := testkit.Database(t, schema, migrations).Config()
	asked := &statements{}
	config.ConnConfig.Tracer = asked
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, store.Migrate(t.Context(), pool, schema, migrations))
	require.Positive(t, asked.n.Load())
	require.LessOrEqual(t, asked.n.Load(), int64(10))
}

// statements counts what a database is asked.
type statements struct{ n atomic.Int64 }

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	s.n.Add(1)
	return ctx
}

func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestFailedMigrationLeavesThePreviousVersion(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	next := maps.Clone(migrations)
	next["0003_wrong.up.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE half ();\nINSERT INTO nowhere VALUES ('sesame')")}
	for i := range 20 { // more than the migrator reads ahead
		next[fmt.Sprintf("%04d_later.up.sql", 4+i)] = &fstest.MapFile{Data: []byte(`SELECT 1`)}
	}
	err := store.Migrate(t.Context(), pool, schema, next)
	require.ErrorContains(t, err, "migrate books: version 3: line 2: ")
	require.ErrorContains(t, err, `relation "nowhere" does not exist`)
	require.NotContains(t, err.Error(), "sesame", "the text of a migration stays out of logs")
	require.Equal(t, 2, one[int](t, pool, `SELECT version FROM schema_migrations WHERE NOT dirty`))

	next["0003_wrong.up.sql"] = &fstest.MapFile{Data: []byte(`CREATE TABLE half ()`)}
	require.NoError(t, store.Migrate(t.Context(), pool, schema, next), "repaired, it simply runs again")
	require.Equal(t, 23, one[int](t, pool, `SELECT version FROM schema_migrations`))

	require.NoError(t, store.Migrate(t.Context(), pool, schema, migrations), "the release before runs beside its successor")
	require.Equal(t, 23, one[int](t, pool, `SELECT version FROM schema_migrations`))
}

func TestDirtyVersionIsExplained(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	_, err := pool.Exec(t.Context(), `UPDATE schema_migrations SET dirty = true`)
	require.NoError(t, err)
	err = store.Migrate(t.Context(), pool, schema, migrations)
	require.ErrorContains(t, err, "migrate books: version 2 is marked dirty")
	require.ErrorContains(t, err, "by hand")
}

func TestServiceWithoutMigrationsGetsItsOutbox(t *testing.T) {
	t.Parallel()
	pool := open(t, testkit.DatabaseURL(t))
	require.NoError(t, store.Migrate(t.Context(), pool, schema, fstest.MapFS{}))
	require.Equal(t, 0, one[int](t, pool, `SELECT count(*) FROM books.outbox`))
	require.ErrorContains(t, store.Migrate(t.Context(), pool, "Bad-Name", fstest.MapFS{}), "lower-case letter")
}

func TestMigrateWaitsForPostgres(t *testing.T) {
	t.Parallel()
	target := testkit.DatabaseURL(t)
	door := newDoor(t, target)
	pool := open(t, door.address)

	migrated := make(chan error, 1)
	go func() { migrated <- store.Migrate(t.Context(), pool, schema, migrations) }()
	for range 2 {
		<-door.refused
	}
	door.open()
	require.NoError(t, <-migrated)

	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // the first of several attempts must begin by then
	defer cancel()
	nobody := open(t, "postgres://books:hunter2@127.0.0.1:1/library")
	err := store.Migrate(ctx, nobody, schema, migrations)
	require.ErrorContains(t, err, "gave up waiting for PostgreSQL at 127.0.0.1:1, database library")
	require.NotContains(t, err.Error(), "hunter2")
}

func TestMigrateDoesNotWaitForWhatNeverComes(t *testing.T) {
	t.Parallel()
	address, err := url.Parse(testkit.DatabaseURL(t))
	require.NoError(t, err)
	address.Path = "/no_such_database"
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.ErrorContains(t, store.Migrate(ctx, open(t, address.String()), schema, migrations), "does not exist")
	require.NoError(t, ctx.Err())
}

// door stands before a real server and can be shut, so that a test can have an outage of its own.
type door struct {
	address string
	refused chan struct{}
	control chan func(*doorState)
}

type doorState struct {
	shut  bool
	conns []net.Conn
}

// newDoor makes a door that is shut.
func newDoor(t *testing.T, target string) *door {
	t.Helper()
	behind, err := url.Parse(target)
	require.NoError(t, err)
	network, backend := "tcp", behind.Host
	query := behind.Query()
	if dir := query.Get("host"); dir != "" {
		network, backend = "unix", dir+"/.s.PGSQL."+query.Get("port")
		query.Del("host")
		query.Del("port")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	behind.Host = listener.Addr().String()
	query.Set("sslmode", "disable")
	behind.RawQuery = query.Encode()

	d := &door{address: behind.String(), refused: make(chan struct{}, 1000), control: make(chan func(*doorState))}
	arrivals := make(chan net.Conn)
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		for {
			conn, err := listener.Accept()
			if err != nil {
				close(arrivals)
				return
			}
			arrivals <- conn
		}
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		state := &doorState{shut: true}
		defer func() {
			for _, conn := range state.conns {
				_ = conn.Close()
			}
		}()
		for {
			select {
			case change := <-d.control:
				change(state)
			case conn, ok := <-arrivals:
				if !ok {
					return
				}
				through, err := net.Dial(network, backend)
				if state.shut || err != nil {
					_ = conn.Close()
					if err == nil {
						_ = through.Close()
					}
					d.refused <- struct{}{}
					continue
				}
				state.conns = append(state.conns, conn, through)
				go carry(conn, through)
				go carry(through, conn)
			}
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-listening; <-done })
	return d
}

func carry(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
	_ = from.Close()
}

func (d *door) open() { d.set(func(s *doorState) { s.shut = false }) }

// shut also cuts who is inside.
func (d *door) shut() {
	d.set(func(s *doorState) {
		s.shut = true
		for _, conn := range s.conns {
			_ = conn.Close()
		}
		s.conns = nil
	})
}

func (d *door) set(change func(*doorState)) {
	done := make(chan struct{})
	d.control <- func(s *doorState) { change(s); close(done) }
	<-done
}
