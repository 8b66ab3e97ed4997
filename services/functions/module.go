// Package functions is the service that knows what can be run: functions, their versions and the secrets of each
// (spec functions-deployments §2–§8).
//
// A version is the unit of everything. It is created once and stays as it is, tags, description and limits apart; a
// function is no more than the id that its versions share. What runs, where and how well is the business of the
// deployments service, which reports the state of a version back here ([Functions.SetStatus]), so that whoever reads a
// version sees one truth.
//
// The way of a request: endpoints.go receives it, defaults.go and validate.go turn it into a specification that is
// whole and right, functions.go decides who may do what, family.go keeps the versions of an LLM function alike,
// sharing.go says which other accounts may use a version, lists.go answers long lists by the page, revision.go compares
// what a client has seen with what there is, store.go writes the row and its event in one transaction, and sealing.go sees
// to it that a secret is at rest only as ciphertext.
package functions

import (
	"context"
	"embed"
	"time"

	"github.com/coder/quartz"
	"go.uber.org/fx"

	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schema is the service's own in Postgres.
const schema = "functions"

// Module wires the service.
var Module = fx.Module("functions",
	fx.Provide(loadConfig, fx.Private),
	fx.Invoke(func(lc fx.Lifecycle, p app.Platform, cfg Config) { app.Attach(lc, NewService(p, cfg)) }),
)

// NewService assembles the service on a platform; starting it is the caller's.
func NewService(p app.Platform, cfg Config) *app.Service {
	s := app.NewService(p, "functions", schema, app.Migrations(migrations))
	store := newStore(p.Pool, s.Tx, s.Journal)
	f := New(store, instancesOf(p.Conn), accountsOf(p.Conn), func() time.Time { return p.Clock.Now() }, s.Log)
	f.maxVersions = cfg.MaxVersions
	s.OnReady(func(ctx context.Context) error { return f.Unlock(ctx, cfg) })
	s.Loop("encryption", func(ctx context.Context) error { return f.vault.Run(ctx, s.Log) })
	s.Loop("idempotency", func(ctx context.Context) error { return f.forgetAnswers(ctx, p.Clock) })
	f.attachResources(s, cfg)
	f.serve(s.Server)
	return s
}

// forgetEvery is how often the answers to old idempotency keys are looked for.
const forgetEvery = 10 * time.Minute

// forgetAnswers deletes what idempotency keys no longer need, until ctx ends.
func (f *Functions) forgetAnswers(ctx context.Context, clock quartz.Clock) error {
	return clock.TickerFunc(ctx, forgetEvery, func() error {
		_, err := f.idempotency.Prune(ctx, f.store.pool, f.now())
		return err
	}, "idempotency").Wait()
}

// instancesOf asks the deployments service.
func instancesOf(conn *bus.Conn) Instances {
	return func(ctx context.Context, versionID string) ([]instances.Brief, error) {
		answer, err := bus.Call(ctx, conn, deployments.Instances, deployments.InstancesRequest{VersionID: versionID})
		return answer.Instances, err
	}
}
