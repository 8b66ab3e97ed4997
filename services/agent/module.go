package agent

import (
	"go.uber.org/fx"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/health"
)

// Module wires the agent. It needs the bus and no database.
var Module = fx.Module("agent", fx.Provide(app.Load[Config], New, fx.Private),
	fx.Invoke(func(lc fx.Lifecycle, a *Agent, h *health.Registry, _ *bus.Conn, _ *zap.Logger) {
		h.Add("agent", a.Check)
		lc.Append(fx.Hook{OnStart: a.Start, OnStop: a.Stop})
	}))
