package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/fx"

	"github.com/sirocco-cloud/sirocco/libs/app"
)

// Module wires the gateway.
var Module = fx.Module("gateway", fx.Provide(app.Load[Config], fx.Private), fx.Invoke(func(lc fx.Lifecycle, p app.Platform, cfg Config) error {
	g, err := New(cfg, p.Conn, p.Health, p.Metrics, p.Log)
	if err != nil {
		return err
	}
	p.Health.Add("gateway", g.Check)
	p.Health.Add("services", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		var missing []error
		for _, service := range []string{"keys", "functions", "deployments", "cluster-inventory", "invocation", "ledger", "tasks"} {
			if !p.Conn.Serves(ctx, service) {
				missing = append(missing, fmt.Errorf("no %s service answers", service))
			}
		}
		return errors.Join(missing...)
	})
	lc.Append(fx.Hook{OnStart: g.Start, OnStop: g.Stop})
	return nil
}))
