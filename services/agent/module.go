package agent

import (
	"go.uber.org/fx"

	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/health"
)

// Module wires the agent. It needs the bus and no database.
var Module = fx.Module("agent", fx.Provide(app.Load[Config], New, fx.Private),
	fx.Invoke(func(lc fx.Lifecycle, a *Agent, h *health.Registry) {
		h.Add("agent", a.Check)
		lc.Append(fx.Hook{OnStart: a.Start, OnStop: a.Stop})
	}))
