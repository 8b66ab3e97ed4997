// Package tasks is the service of batch runs: a container that runs once on GPUs, reports progress and leaves results.
// This release gives it its room, its schema and its stream; what it can do so far is to list.
package tasks

import (
	"embed"

	"go.uber.org/fx"

	contract "github.com/sirocco-cloud/sirocco/contracts/tasks"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Module wires the service.
var Module = fx.Module("tasks", fx.Invoke(func(lc fx.Lifecycle, p app.Platform) {
	s := app.NewService(p, "tasks", "tasks", app.Migrations(migrations))
	tasks := New(p.Pool)
	bus.Serve(s.Server, contract.List, tasks.List)
	app.Attach(lc, s)
}))
