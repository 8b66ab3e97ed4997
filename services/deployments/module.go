// Package deployments is the service that makes versions run: it owns what is wanted (deployments and their GPU
// specifications), where it runs (instances and the devices they hold) and how that looks to clients (statuses and
// reasons).
//
// It has two halves that meet in Postgres. The use cases write what a client wants and answer at once. The
// [Reconciler], on one leader at a time, compares wanted with observed and orders nodes to start and stop instances.
// What agents report comes back as events and updates the rows. Everything is level-triggered: a lost wake-up, a
// restart or a second leader costs time, never an instance too many.
package deployments

import (
	"embed"
	"math"
	"time"

	"go.uber.org/fx"

	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schema is the service's own in Postgres.
const schema = "deployments"

// Config is what an operator may choose.
type Config struct {
	// StartTimeout bounds the time from the placement of an instance to its first good health check. Zero means 30
	// minutes on real devices and one minute on simulated ones.
	StartTimeout time.Duration `env:"SIROCCO_START_TIMEOUT" envDefault:"0s"`
	// ErrorKept is how long a deployment in ERROR stays before it is removed and its version is INACTIVE again. Zero
	// means seven days.
	ErrorKept time.Duration `env:"SIROCCO_ERROR_KEPT" envDefault:"168h"`
	// IdleAfter is how long an instance beyond the minimum may have no request before it ends; with a minimum of 0 the last
	// one ends, too, and the next request starts one again. It counts in whole seconds. Zero keeps such instances.
	IdleAfter time.Duration `env:"SIROCCO_IDLE_AFTER" envDefault:"5m"`
}

const (
	startReal      = 30 * time.Minute
	startSimulated = time.Minute
)

const errorKept = 7 * 24 * time.Hour

func (c Config) errorKept() time.Duration {
	if c.ErrorKept > 0 {
		return c.ErrorKept
	}
	return errorKept
}

// idleSeconds is after how long without a request an instance is heard of.
func (c Config) idleSeconds() int { return int(math.Ceil(c.IdleAfter.Seconds())) }

// startTimeout of an instance.
func (c Config) startTimeout(simulated bool) time.Duration {
	switch {
	case c.StartTimeout > 0:
		return c.StartTimeout
	case simulated:
		return startSimulated
	}
	return startReal
}

// Module wires the service.
var Module = fx.Module("deployments",
	fx.Provide(fx.Private, app.Load[Config]),
	fx.Invoke(func(lc fx.Lifecycle, p app.Platform, cfg Config) { app.Attach(lc, NewService(p, cfg)) }),
)

// NewService assembles the service on a platform; starting it is the caller's.
func NewService(p app.Platform, cfg Config) *app.Service {
	s := app.NewService(p, "deployments", schema, app.Migrations(migrations))
	store := newStore(p.Pool, s.Tx)
	meters := newMeters(p.Metrics)
	reporter := NewReporter(store, s.Journal, p.Conn, s.Log)
	reconciler := NewReconciler(store, s.Journal, p.Conn, p.Clock, s.Log, cfg, reporter, meters)
	deployments := New(store, s.Journal, p.Conn, p.Clock, s.Log, reporter, meters)
	observer := NewObserver(store, s.Journal, p.Clock, s.Log)

	bus.Serve(s.Server, contract.Create, deployments.Create)
	bus.Serve(s.Server, contract.Replace, deployments.Replace)
	bus.Serve(s.Server, contract.Patch, deployments.Patch)
	bus.Serve(s.Server, contract.Delete, deployments.Delete)
	bus.Serve(s.Server, contract.Get, deployments.Get)
	bus.Serve(s.Server, contract.GetByID, deployments.GetByID)
	bus.Serve(s.Server, contract.List, deployments.List)
	bus.Serve(s.Server, contract.Instances, deployments.Instances)
	bus.Serve(s.Server, contract.Wake, deployments.Wake)
	bus.Serve(s.Server, contract.Scale, deployments.Scale)

	bus.Serve(s.Server, contract.GetUsage, deployments.Usage)
	bus.Serve(s.Server, contract.GetLiveUsage, deployments.LiveUsage)
	bus.Serve(s.Server, contract.GetDeploymentUsage, deployments.DeploymentUsage)
	bus.Serve(s.Server, contract.GetOffers, deployments.Offers)
	bus.Serve(s.Server, contract.GetCapacity, deployments.Capacity)
	bus.Serve(s.Server, contract.RollOver, deployments.RollOver)
	bus.Serve(s.Server, contract.RemoveInstance, deployments.RemoveInstance)
	bus.Serve(s.Server, contract.ListGoldenImages, deployments.GoldenImages)

	reports := s.Subscribe(event.Instances)
	for _, e := range instances.ReportEvents {
		bus.On(reports, e, observer.OnReport)
	}
	versions := s.Subscribe(event.Functions)
	bus.On(versions, functions.Deleted, observer.OnDeleted)
	bus.On(versions, functions.SecretsUpdated, observer.OnSecrets)

	s.Uses(event.StreamOf(event.Nodes), event.StreamOf(event.Clusters))
	s.Loop("reconciler", reconciler.Run)
	s.Loop("reporter", reporter.Run)
	return s
}
