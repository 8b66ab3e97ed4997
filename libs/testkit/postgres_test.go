package testkit_test

import (
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var shelf = fstest.MapFS{
	"0001_books.up.sql":   {Data: []byte(`CREATE TABLE books (title text PRIMARY KEY); INSERT INTO books VALUES ('first')`)},
	"0001_books.down.sql": {Data: []byte(`DROP TABLE books`)},
}

func TestEveryTestHasItsOwnMigratedDatabase(t *testing.T) {
	t.Parallel()
	one := testkit.Database(t, "shelf", shelf)
	other := testkit.Database(t, "shelf", shelf)

	_, err := one.Exec(t.Context(), `INSERT INTO books VALUES ('second')`)
	require.NoError(t, err)
	var here, there int
	require.NoError(t, one.QueryRow(t.Context(), `SELECT count(*) FROM shelf.books`).Scan(&here))
	require.NoError(t, other.QueryRow(t.Context(), `SELECT count(*) FROM books`).Scan(&there))
	require.Equal(t, 2, here)
	require.Equal(t, 1, there)
}

func TestDatabaseIsGoneAfterItsTest(t *testing.T) {
	t.Parallel()
	var address string
	t.Run("its test", func(t *testing.T) { //nolint:paralleltest // its end is what the rest waits for
		pool := testkit.Database(t, "shelf", shelf)
		address = pool.Config().ConnString()
		require.NoError(t, pool.Ping(t.Context()))
	})
	_, err := pgx.Connect(t.Context(), address)
	require.ErrorContains(t, err, "does not exist")
}

func TestDatabaseURLIsAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), testkit.DatabaseURL(t))
	require.NoError(t, err)
	var tables int
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`).Scan(&tables))
	require.Zero(t, tables)
	require.NoError(t, conn.Close(t.Context()))
}

func TestDumpShowsWhatLiesInBytes(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, "vault", fstest.MapFS{
		"0001_values.up.sql": {Data: []byte(`CREATE TABLE sealed (value bytea); INSERT INTO sealed VALUES ('hush')`)},
	})
	require.Contains(t, testkit.Dump(t, pool, "vault"), "hush")
}
