package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/fx"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/health"
)

// Module wires the gateway. It needs the bus and no database.
var Module = fx.Module("gateway", fx.Provide(app.Load[Config], fx.Private), fx.Invoke(
	func(lc fx.Lifecycle, cfg Config, conn *bus.Conn, h *health.Registry, metrics *prometheus.Registry, log *zap.Logger) error {
		g, err := New(cfg, conn, h, metrics, log)
		if err != nil {
			return err
		}
		h.Add("gateway", g.Check)
		h.Add("trust mode "+string(g.mode), func(context.Context) error { return nil }) // shows in /readyz?verbose which one is on
		h.Add("services", func(ctx context.Context) error { return missing(ctx, conn) })
		lc.Append(fx.Hook{OnStart: g.Start, OnStop: g.Stop})
		return nil
	}))

// needed are the services without which a function cannot be called, be its credential and its route known or not. The
// others serve their own APIs only; a gateway stays in service when one of them is away.
var needed = []string{"keys", "functions", "deployments", "invocation"}

// missing names the needed services that do not answer.
func missing(ctx context.Context, conn *bus.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var silent []error
	for _, service := range needed {
		if !conn.Serves(ctx, service) {
			silent = append(silent, fmt.Errorf("no %s service answers", service))
		}
	}
	return errors.Join(silent...)
}
