package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// A process that is stopped in the middle of a transaction must not hold its locks for ever.
func TestATransactionThatSaysNothingIsEnded(t *testing.T) {
	t.Parallel()
	base := testkit.Database(t, schema, migrations)
	address := base.Config().ConnString()
	require.Equal(t, "1min", one[string](t, open(t, address), `SHOW idle_in_transaction_session_timeout`))

	separator := "?"
	if strings.Contains(address, "?") {
		separator = "&"
	}
	pool := open(t, address+separator+"idle_in_transaction_session_timeout=50")
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	var pid int
	require.NoError(t, tx.QueryRow(t.Context(), `SELECT pg_backend_pid()`).Scan(&pid))
	require.Eventually(t, func() bool {
		return one[int](t, base, `SELECT count(*)::int FROM pg_stat_activity WHERE pid = $1`, pid) == 0
	}, patience, 10*time.Millisecond)
	_, err = tx.Exec(t.Context(), `SELECT 1`)
	require.Error(t, err)
	require.True(t, store.IsAway(err), "%v", err)
	_ = tx.Rollback(t.Context())
}
