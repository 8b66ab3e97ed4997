package keys

import (
	"context"
	"testing"

	"github.com/coder/quartz"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/fx"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/health"
	"github.com/sirocco-cloud/sirocco/libs/seal"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

func TestGraphIsComplete(t *testing.T) {
	t.Parallel()
	require.NoError(t, fx.ValidateApp(app.Base("keys"), Module))
}

// process is the module in a process whose connections are the test's.
func (s *site) process() (*fx.App, *health.Registry) {
	checks := health.NewRegistry()
	return fx.New(Module, fx.NopLogger, fx.Supply(app.Config{}, s.log, s.conn, s.pool, checks, prometheus.NewRegistry()),
		fx.Provide(func() quartz.Clock { return s.clock })), checks
}

func TestModuleServesUntilItIsStopped(t *testing.T) {
	s := newSite(t)
	t.Setenv("SIROCCO_DATA_DIR", t.TempDir())
	t.Setenv("SIROCCO_KEYS_REAP_INTERVAL", "1000000h")
	process, checks := s.process()
	require.NoError(t, process.Start(t.Context()))
	require.Eventually(t, func() bool { _, ready := checks.Results(t.Context()); return ready }, waitUp, poll)
	require.Len(t, call(t, s, contract.PublicKeys, rpc.None{}).Keys, 1)
	ctx, cancel := context.WithTimeout(context.Background(), waitUp)
	defer cancel()
	require.NoError(t, process.Stop(ctx))
	require.Equal(t, "the keys service does not answer; try again", refused(t, s, 503, contract.PublicKeys, rpc.None{}).Detail)
}

func TestProcessRefusesASecretOfTheWrongLength(t *testing.T) {
	s := newSite(t)
	t.Setenv("SIROCCO_KEYS_DOMAIN_KEY", encode(1, seal.KeySize))
	process, _ := s.process()
	require.ErrorContains(t, process.Err(), "SIROCCO_KEYS_DOMAIN_KEY: want 136 bytes in base64, got 32 bytes")
}

func TestMigrationsCanBeUndone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.NoError(t, store.MigrateDown(t.Context(), s.pool, "keys", app.Migrations(migrations)))
	require.NoError(t, store.Migrate(t.Context(), s.pool, "keys", app.Migrations(migrations)))
}
