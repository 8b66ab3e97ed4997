package gateway

import (
	"context"
	"net"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/fx"

	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/health"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestGraphIsComplete(t *testing.T) {
	t.Parallel()
	require.NoError(t, fx.ValidateApp(app.Node("gateway"), Module))
	require.NoError(t, fx.ValidateApp(app.Base("gateway"), Module))
}

// process is the module in a process whose connection is the test's.
func (s *site) process(t testing.TB) (*fx.App, *health.Registry) {
	t.Helper()
	checks := health.NewRegistry()
	return fx.New(Module, fx.NopLogger, fx.Supply(logger(t), testkit.Conn(t, s.nats), checks, prometheus.NewRegistry())), checks
}

func TestModuleServesUntilItIsStopped(t *testing.T) {
	s := newSite(t)
	t.Setenv("SIROCCO_HTTP_ADDR", "127.0.0.1:0")
	t.Setenv("SIROCCO_GRPC_ADDR", "127.0.0.1:0")
	process, checks := s.process(t)
	require.NoError(t, process.Start(t.Context()))
	require.Eventually(t, func() bool { _, ready := checks.Results(t.Context()); return ready }, patient, tick)
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	require.NoError(t, s.keys.Stop(ctx))
	results, ready := checks.Results(t.Context())
	require.False(t, ready)
	require.ErrorContains(t, results[len(results)-1].Err, "no keys service answers")
	require.NoError(t, process.Stop(ctx))
}

func TestAProcessSaysWhichSettingIsWrong(t *testing.T) {
	s := newSite(t)
	t.Setenv("SIROCCO_HTTP_ADDR", "127.0.0.1:0")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	t.Setenv("SIROCCO_GRPC_ADDR", taken.Addr().String())
	process, _ := s.process(t)
	require.ErrorContains(t, process.Start(t.Context()), "SIROCCO_GRPC_ADDR")
	t.Setenv("SIROCCO_ADMIN_NETWORKS", "10.0.0.0/8,office")
	process, _ = s.process(t)
	require.ErrorContains(t, process.Err(), `SIROCCO_ADMIN_NETWORKS: "office" is not a network`)
}
