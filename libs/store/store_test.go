package store_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	schema = "books"
	// patience is for things that happen in milliseconds unless they are broken.
	patience = time.Minute
)

var migrations = fstest.MapFS{
	"0001_books.up.sql":     {Data: []byte("CREATE TABLE books (id int PRIMARY KEY, title text CONSTRAINT books_title_key UNIQUE);\n-- ends with a comment")},
	"0001_books.down.sql":   {Data: []byte(`DROP TABLE books`)},
	"0002_authors.up.sql":   {Data: []byte(`CREATE TABLE books.authors (name text); ALTER TABLE books.books ADD author text`)},
	"0002_authors.down.sql": {Data: []byte(`ALTER TABLE books.books DROP author; DROP TABLE books.authors`)},
}

func open(t *testing.T, address string) *pgxpool.Pool {
	t.Helper()
	pool, err := store.Open(t.Context(), address, store.Options{Application: "books", Schema: schema})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func one[T any](t *testing.T, pool *pgxpool.Pool, text string, arguments ...any) (value T) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), text, arguments...).Scan(&value))
	return value
}

func TestOpenDoesNotNeedARunningDatabase(t *testing.T) {
	t.Parallel()
	const closed = "127.0.0.1:1" // a port that nobody is given who asks for any
	pool := open(t, "postgres://books:hunter2@"+closed+"/library")
	err := store.Ping(t.Context(), pool)
	require.ErrorContains(t, err, "waiting for PostgreSQL at "+closed+", database library")
	require.NotContains(t, err.Error(), "hunter2")
}

func TestOpenAnswersOnceTheDatabaseIsThere(t *testing.T) {
	t.Parallel()
	pool := open(t, testkit.DatabaseURL(t))
	require.NoError(t, store.Ping(t.Context(), pool))
	require.EqualValues(t, 8, pool.Config().MaxConns)
	require.Equal(t, "books", one[string](t, pool, `SHOW application_name`))
	require.Equal(t, "books, public", one[string](t, pool, `SHOW search_path`))
}

func TestOpenRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	_, err := store.Open(t.Context(), "postgres://u:hunter2@host:port/db", store.Options{})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
	_, err = store.Open(t.Context(), "postgres://localhost/db", store.Options{Schema: `x"; DROP`})
	require.ErrorContains(t, err, "lower-case letter")
}

func TestPingGivesUpOnASilentServer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	pool := open(t, "postgres://books@"+listener.Addr().String()+"/library?sslmode=disable")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.Error(t, store.Ping(ctx, pool))
	require.NoError(t, ctx.Err(), "it gives up by itself")
}

func TestInTxCommitsOrRollsBack(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	require.NoError(t, store.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO books (id, title) VALUES (1, 'kept')`)
		return err
	}))
	refusal := errors.New("no")
	require.ErrorIs(t, store.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO books (id, title) VALUES (2, 'lost')`)
		require.NoError(t, err)
		return refusal
	}), refusal)
	require.Equal(t, 1, one[int](t, pool, `SELECT count(*) FROM books`))
}

func TestInTxRunsTheVictimOfADeadlockAgain(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	_, err := pool.Exec(t.Context(), `INSERT INTO books (id, title) VALUES (1, 'a'), (2, 'b')`)
	require.NoError(t, err)

	// Each holds its first row before either asks for its second.
	var runs atomic.Int32
	holding := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
	errs := make(chan error, 2)
	for i := range 2 {
		go func() {
			again := false
			errs <- store.InTx(t.Context(), pool, func(tx pgx.Tx) error {
				runs.Add(1)
				if _, err := tx.Exec(t.Context(), `UPDATE books SET title = title || 'x' WHERE id = $1`, i+1); err != nil {
					return err
				}
				if !again {
					again = true
					close(holding[i])
					<-holding[1-i]
				}
				_, err := tx.Exec(t.Context(), `UPDATE books SET title = title || 'y' WHERE id = $1`, 2-i)
				return err
			})
		}()
	}
	require.NoError(t, <-errs)
	require.NoError(t, <-errs)
	require.GreaterOrEqual(t, runs.Load(), int32(3), "both once, the victim once more; on a busy machine they may meet twice")
	require.Equal(t, 2, one[int](t, pool, `SELECT count(*) FROM books WHERE length(title) = 3`))
}

func TestInTxGivesUpAfterThreeRetries(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	runs := 0
	err := store.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		runs++
		return &pgconn.PgError{Code: "40001", Message: "conflict"}
	})
	require.ErrorContains(t, err, "40001")
	require.Equal(t, 4, runs)
}

func TestErrorsAreTold(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, migrations)
	insert := `INSERT INTO books (id, title) VALUES ($1, $2)`
	_, err := pool.Exec(t.Context(), insert, 1, "a")
	require.NoError(t, err)

	_, err = pool.Exec(t.Context(), insert, 2, "a")
	require.True(t, store.IsUnique(err, "books_title_key"))
	require.True(t, store.IsUnique(err, ""))
	require.False(t, store.IsUnique(err, "books_pkey"))
	require.False(t, store.IsUnique(nil, ""))

	var title string
	err = pool.QueryRow(t.Context(), `SELECT title FROM books WHERE id = 9`).Scan(&title)
	require.True(t, store.IsNotFound(err))
	require.False(t, store.IsNotFound(context.Canceled))
}
