// Package invocation keeps what a call needs beyond the gateway that holds its client: the queue of each deployed
// version, and the record of requests that go on after their client was told 202.
//
// The calls themselves never pass through here. A gateway puts an offer into a queue, an agent takes it out, and any
// gateway that is polled finds in the record which worker has the answer.
package invocation

import (
	"context"
	"embed"

	"go.uber.org/fx"

	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	contract "github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schema is the service's own in Postgres.
const schema = "invocation"

// Module wires the service.
var Module = fx.Module("invocation", fx.Invoke(func(lc fx.Lifecycle, p app.Platform) { app.Attach(lc, NewService(p)) }))

// NewService assembles the service on a platform; starting it is the caller's.
func NewService(p app.Platform) *app.Service {
	s := app.NewService(p, "invocation", schema, app.Migrations(migrations))
	store := newStore(p.Pool, s.Tx, s.Journal)
	queues := NewQueues(store, p.Conn, functionsBy(p.Conn), p.Clock, s.Log)
	requests := NewRequests(store, p.Clock, s.Log)

	bus.Serve(s.Server, contract.EnsureQueue, queues.Ensure)
	bus.Serve(s.Server, contract.QueueDepth, queues.Depth)
	bus.Serve(s.Server, contract.GetPosition, requests.Position)
	bus.Serve(s.Server, contract.Detach, requests.Detach)
	bus.Serve(s.Server, contract.Find, requests.Find)
	bus.Serve(s.Server, contract.Finish, requests.Finish)

	deployed := s.Subscribe(event.Deployments)
	bus.On(deployed, deployments.Created, store.whenDeployed(queues))
	bus.On(deployed, deployments.Removed, store.whenUndeployed(queues))
	bus.On(s.Subscribe(event.Functions), functions.Deleted, store.whenDeleted(queues))

	s.Loop("queues", queues.Reconcile)
	s.Loop("requests", requests.Reap)
	return s
}

// functionsBy asks the functions service.
func functionsBy(conn *bus.Conn) Functions {
	return Functions{
		Resolve: func(ctx context.Context, r functions.ResolveRequest) (functions.ResolveResponse, error) {
			return bus.Call(ctx, conn, functions.Resolve, r)
		},
		Lookup: func(ctx context.Context, version string) (functions.Function, error) {
			answer, err := bus.Call(ctx, conn, functions.Lookup, functions.InternalRequest{VersionID: version})
			return answer.Function, err
		},
	}
}
