package deployments

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/libs/app"
	libstore "github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// A process that is stopped, or whose host is frozen, keeps its connection and says nothing.
func TestALeaderThatIsSilentLosesItsOffice(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, app.Migrations(migrations))
	s := newStore(pool, func(ctx context.Context, fn func(tx) error) error { return libstore.InTx(ctx, pool, fn) })
	lead := func(poked func(string)) (elected chan bool, ended chan error, resign func()) {
		ctx, cancel := context.WithCancel(t.Context())
		elected, ended = make(chan bool, 1), make(chan error, 1)
		go func() {
			ended <- s.lead(ctx, poked, func(ctx context.Context) error {
				elected <- true
				<-ctx.Done()
				return nil
			})
		}()
		return elected, ended, cancel
	}
	frozen, thaw := make(chan string), make(chan bool)
	first, lost, _ := lead(func(id string) {
		frozen <- id
		<-thaw
	})
	<-first
	require.NoError(t, s.tx(t.Context(), func(tx tx) error { return s.poke(t.Context(), tx, "d") }))
	require.Equal(t, "d", <-frozen)
	second, ended, resign := lead(func(string) {})
	<-second
	close(thaw)
	require.Error(t, <-lost, "the first one learns that it does not lead any more")
	resign()
	require.NoError(t, <-ended)
}

func TestALeaderWithoutNewsStays(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, app.Migrations(migrations))
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), `LISTEN `+channel)
	require.NoError(t, err)
	n, err := hear(t.Context(), conn.Conn())
	require.NoError(t, err)
	require.Nil(t, n)
	_, err = pool.Exec(t.Context(), `SELECT pg_notify($1, 'd')`, channel)
	require.NoError(t, err)
	n, err = hear(t.Context(), conn.Conn())
	require.NoError(t, err)
	require.Equal(t, "d", n.Payload)
}
