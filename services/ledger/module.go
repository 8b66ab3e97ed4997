// Package ledger is the audit record: every event of every domain, in one order, hash-chained per account, readable by
// time and by entity for as long as the database keeps it.
//
// It consumes all event streams durably and does nothing else with what it reads. A record, the chain it extends and the
// note that its event was seen are one transaction, so a crash at any point leaves neither a gap nor a repetition.
package ledger

import (
	"context"
	"embed"

	"go.uber.org/fx"

	"github.com/sirocco-cloud/sirocco/contracts/audit"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Module wires the service.
var Module = fx.Module("ledger", fx.Invoke(func(lc fx.Lifecycle, p app.Platform) { app.Attach(lc, newService(p)) }))

func newService(p app.Platform) *app.Service {
	s := app.NewService(p, "ledger", "ledger", app.Migrations(migrations))
	records := newStore(p.Pool)
	news := newBell()
	ledger := New(records, news, p.Clock)
	for _, domain := range event.Domains() {
		bus.OnAny(s.Subscribe(domain), records.append(domain))
	}
	s.Loop("news", func(ctx context.Context) error { return records.listen(ctx, news.ring) })
	bus.Serve(s.Server, audit.Events, ledger.Events)
	bus.Serve(s.Server, audit.Verify, ledger.Verify)
	return s
}
