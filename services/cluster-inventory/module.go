// Package clusterinventory is the service that knows which clusters, nodes and GPUs there are.
//
// Agents publish facts (snapshots and deltas of capacity, in the nodes domain) and renew a lease by heartbeats. The
// inventory folds the facts into a projection and watches the leases: a silent node becomes suspect, then lost. It
// decides nothing about instances; whoever places them asks for [clusters.Nodes] and reserves devices itself.
//
// The projection (clusters, nodes) can be dropped at any time: the stream fills it again, and a node about which
// something was missed is asked for a snapshot in the answer to its next heartbeat.
package clusterinventory

import (
	"embed"

	"go.uber.org/fx"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schema is the service's own in Postgres.
const schema = "cluster_inventory"

// Module wires the service.
var Module = fx.Module("cluster-inventory", fx.Invoke(func(lc fx.Lifecycle, p app.Platform) {
	app.Attach(lc, NewService(p))
}))

// NewService assembles the service on a platform; starting it is the caller's.
func NewService(p app.Platform) *app.Service {
	s := app.NewService(p, "cluster-inventory", schema, app.Migrations(migrations))
	store := newStore(p.Pool, s.Tx)
	inventory := NewInventory(store, s.Journal, p.Clock, s.Log)
	catalogue := NewCatalogue(store, s.Journal, p.Clock)

	bus.Serve(s.Server, clusters.Heartbeat, inventory.Heartbeat)
	bus.Serve(s.Server, clusters.Nodes, inventory.Nodes)
	bus.Serve(s.Server, clusters.Groups, inventory.Groups)
	bus.Serve(s.Server, clusters.SupportedGPUs, inventory.SupportedGPUs)
	bus.Serve(s.Server, clusters.ListGPUs, inventory.ListGPUs)
	bus.Serve(s.Server, clusters.ListRegions, inventory.ListRegions)
	bus.Serve(s.Server, clusters.ListClusters, inventory.ListClusters)
	bus.Serve(s.Server, clusters.ListAttributes, inventory.ListAttributes)
	bus.Serve(s.Server, clusters.ListTypes, inventory.ListTypes)
	bus.Serve(s.Server, clusters.ListAvailable, inventory.ListAvailable)
	bus.Serve(s.Server, clusters.ListGroups, inventory.ListGroups)
	bus.Serve(s.Server, clusters.Configure, inventory.Configure)
	bus.Serve(s.Server, clusters.PutQuotaRule, inventory.PutQuotaRule)
	bus.Serve(s.Server, clusters.GetQuotaRule, inventory.QuotaRule)
	bus.Serve(s.Server, clusters.DeleteQuotaRule, inventory.DeleteQuotaRule)
	bus.Serve(s.Server, clusters.GetQuotaRules, inventory.QuotaRules)
	bus.Serve(s.Server, clusters.FindQuotaRules, inventory.FindQuotaRules)
	bus.Serve(s.Server, clusters.PutImage, catalogue.Put)
	bus.Serve(s.Server, clusters.DeleteImage, catalogue.Delete)
	bus.Serve(s.Server, clusters.ListImages, catalogue.List)
	bus.Serve(s.Server, clusters.FindImage, catalogue.Find)

	nodes := s.Subscribe(event.Nodes)
	bus.On(nodes, clusters.CapacitySnapshot, inventory.OnSnapshot)
	bus.On(nodes, clusters.CapacityDelta, inventory.OnDelta)
	bus.On(nodes, clusters.NodeLeft, inventory.OnBye)

	s.Loop("lease sweep", inventory.Watch(p.Conn.Check))
	return s
}
