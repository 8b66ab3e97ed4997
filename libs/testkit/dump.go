package testkit

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// Dump is everything that lies in the tables of a schema, as text, for tests of what must not lie there. A schema
// without tables fails the test, because nothing would be found in it.
func Dump(t testing.TB, pool *pgxpool.Pool, schema string) string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `SELECT tablename FROM pg_tables WHERE schemaname = $1`, schema)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.NotEmpty(t, tables)
	var all strings.Builder
	for _, table := range tables {
		rows, err := pool.Query(t.Context(), `SELECT x::text, x.* FROM `+pgx.Identifier{schema, table}.Sanitize()+` x`)
		require.NoError(t, err)
		for rows.Next() {
			values, err := rows.Values()
			require.NoError(t, err)
			for _, v := range values {
				if b, ok := v.([]byte); ok {
					v = string(b) // as text it is hexadecimal, in which nothing is found
				}
				fmt.Fprintln(&all, v)
			}
		}
		require.NoError(t, rows.Err())
	}
	return all.String()
}
