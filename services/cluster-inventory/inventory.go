package clusterinventory

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// Inventory folds what agents say into the projection, watches their leases and answers who asks.
type Inventory struct {
	store   *store
	journal *bus.Journal
	clock   quartz.Clock
	log     *zap.Logger

	mu     sync.Mutex
	leases map[nodeKey]lease
	// listening is since when this process has been able to hear heartbeats; no silence is counted from before it.
	listening time.Time
}

type nodeKey struct{ cluster, node string }

// NewInventory makes the use cases over a store whose schema is migrated.
func NewInventory(s *store, j *bus.Journal, clock quartz.Clock, log *zap.Logger) *Inventory {
	return &Inventory{store: s, journal: j, clock: clock, log: log, leases: map[nodeKey]lease{}, listening: clock.Now()}
}

// OnSnapshot applies a whole snapshot and registers its cluster at first sight.
func (i *Inventory) OnSnapshot(ctx context.Context, t tx, env event.Envelope, s clusters.Snapshot) error {
	if !sane(s.Cluster) || !sane(s.Node) || s.Cluster == "" || s.Node == "" || !sane(s.Account) || !sane(s.Facts.Region) {
		i.log.Warn("snapshot ignored: its names are empty or malformed", zap.String("event", env.ID))
		return nil
	}
	c, err := i.register(ctx, t, s)
	if err != nil {
		return err
	}
	if c.Account != s.Account {
		i.log.Warn("snapshot ignored: the cluster belongs to another account", zap.String("cluster", s.Cluster), zap.String("node", s.Node))
		return nil
	}
	return i.fold(ctx, t, c, s.Node, "the node published a snapshot", func(r record, now time.Time) (record, outcome) {
		return r.snapshot(s, now)
	})
}

// OnDelta applies changed devices, or notes that a snapshot is needed.
func (i *Inventory) OnDelta(ctx context.Context, t tx, _ event.Envelope, d clusters.Delta) error {
	if !sane(d.Cluster) || !sane(d.Node) {
		return nil
	}
	c, found, err := i.store.lockCluster(ctx, t, d.Cluster)
	if err != nil || !found || c.Account != d.Account {
		return err // an unknown node is asked for a snapshot when it next speaks
	}
	return i.fold(ctx, t, c, d.Node, "the node published a change", func(r record, now time.Time) (record, outcome) {
		return r.delta(d, now)
	})
}

// OnBye notes an orderly stop.
func (i *Inventory) OnBye(ctx context.Context, t tx, _ event.Envelope, b clusters.Bye) error {
	if !sane(b.Cluster) || !sane(b.Node) {
		return nil
	}
	c, found, err := i.store.lockCluster(ctx, t, b.Cluster)
	if err != nil || !found || c.Account != b.Account {
		return err
	}
	reason := b.Reason
	if reason == "" {
		reason = "the agent stopped"
	}
	return i.fold(ctx, t, c, b.Node, reason, func(r record, now time.Time) (record, outcome) { return r.bye(b, now) })
}

// fold changes one node under the lock of its cluster, and records what that means for node and cluster.
func (i *Inventory) fold(ctx context.Context, t tx, c cluster, node, reason string, change func(record, time.Time) (record, outcome)) error {
	before, found, err := i.store.lockNode(ctx, t, c.Name, node)
	if err != nil {
		return err
	}
	if !found {
		before = record{Node: clusters.Node{ClusterID: c.ID, Cluster: c.Name, Node: node}}
	}
	after, what := change(before, i.clock.Now())
	if what == ignored || !found && what == gapped {
		return nil
	}
	if !found && after.State == clusters.NodeGone {
		return nil // left before it was ever seen
	}
	if err := i.store.putNode(ctx, t, after); err != nil {
		return err
	}
	return i.moved(ctx, t, c, before.Node, after.Node, reason)
}

// register finds the cluster of a snapshot, or makes it known.
func (i *Inventory) register(ctx context.Context, t tx, s clusters.Snapshot) (cluster, error) {
	c := cluster{
		ID: derivedID("cluster", s.Cluster), GroupID: derivedID("group", s.Cluster), Name: s.Cluster,
		Account: s.Account, Region: s.Facts.Region, Status: clusterNotReady,
	}
	fresh, err := i.store.insertCluster(ctx, t, c, i.clock.Now())
	if err != nil {
		return c, err
	}
	if fresh {
		return c, bus.Record(ctx, t, i.journal, clusters.ClusterRegistered, clusterFact(c), clusters.ClusterChanged{
			ClusterID: c.ID, Name: c.Name, Group: c.Name, Region: c.Region, To: c.Status, Reason: "the first node of the cluster joined",
		})
	}
	known, _, err := i.store.lockCluster(ctx, t, s.Cluster)
	if err != nil || s.Facts.Region == "" || s.Facts.Region == known.Region || known.Account != s.Account {
		return known, err
	}
	known.Region = s.Facts.Region
	return known, i.store.setCluster(ctx, t, known)
}

// moved records a change of a node's state and what follows for its cluster, whose row the caller has locked.
func (i *Inventory) moved(ctx context.Context, t tx, c cluster, before, after clusters.Node, reason string) error {
	if before.State == after.State {
		return nil
	}
	fact := clusterFact(c)
	fact.Entity, fact.Refs.NodeID = after.Node, after.Node
	err := bus.Record(ctx, t, i.journal, clusters.NodeMoved, fact, clusters.NodeChanged{
		ClusterID: c.ID, Cluster: c.Name, Node: after.Node, Epoch: after.Epoch, From: before.State, To: after.State, Reason: reason,
	})
	if err != nil {
		return err
	}
	ready, err := i.store.countReady(ctx, t, c.Name)
	if err != nil {
		return err
	}
	from := c.Status
	c.Status = clusterUnhealthy
	if ready > 0 {
		c.Status = clusterReady
	}
	if c.Status == from {
		return nil
	}
	if err := i.store.setCluster(ctx, t, c); err != nil {
		return err
	}
	return bus.Record(ctx, t, i.journal, clusters.ClusterMoved, clusterFact(c), clusters.ClusterChanged{
		ClusterID: c.ID, Name: c.Name, Group: c.Name, Region: c.Region, From: from, To: c.Status,
		Reason: "node " + after.Node + " is " + string(after.State) + ": " + reason,
	})
}

// Nodes answers with every node that an account may use, in whatever state, sorted by name.
func (i *Inventory) Nodes(ctx context.Context, req clusters.NodesRequest) (clusters.NodesResponse, error) {
	records, err := i.store.nodes(ctx, req.Account)
	if err != nil {
		return clusters.NodesResponse{}, err
	}
	out := clusters.NodesResponse{Nodes: make([]clusters.Node, 0, len(records))}
	for _, r := range records {
		out.Nodes = append(out.Nodes, r.Node)
	}
	return out, nil
}

// Groups answers with the cluster groups of the caller's account.
func (i *Inventory) Groups(ctx context.Context, _ clusters.GroupsRequest) (clusters.GroupsResponse, error) {
	return i.groupsOf(ctx, access.CallerFrom(ctx).Account, clusters.Filter{})
}

func (i *Inventory) groupsOf(ctx context.Context, account string, f clusters.Filter) (clusters.GroupsResponse, error) {
	all, err := i.store.clusters(ctx, account)
	if err != nil {
		return clusters.GroupsResponse{}, err
	}
	nodes, err := i.store.nodes(ctx, account)
	if err != nil {
		return clusters.GroupsResponse{}, err
	}
	all = slices.DeleteFunc(all, func(c cluster) bool {
		return !f.HasNode(clusters.Node{Cluster: c.Name, Attributes: c.Attributes, Facts: clusters.NodeFacts{Region: c.Region}})
	})
	for n := range nodes {
		nodes[n].Types = slices.DeleteFunc(slices.Clone(nodes[n].Types), func(t clusters.InstanceType) bool { return !f.HasType(t) })
		nodes[n].Devices = slices.DeleteFunc(slices.Clone(nodes[n].Devices), func(d clusters.Device) bool {
			return !clusters.Filter{GPUs: f.GPUs}.HasType(clusters.InstanceType{GPU: d.GPU})
		})
	}
	return clusters.GroupsResponse{ClusterGroups: groups(all, nodes)}, nil
}

// SupportedGPUs answers with pairs of GPU name and backend.
func (i *Inventory) SupportedGPUs(ctx context.Context, _ rpc.None) ([]clusters.SupportedGPU, error) {
	answer, err := i.Groups(ctx, clusters.GroupsRequest{})
	if err != nil {
		return nil, err
	}
	out := []clusters.SupportedGPU{}
	for _, g := range answer.ClusterGroups {
		for _, gpu := range g.GPUs {
			out = append(out, clusters.SupportedGPU{GPU: gpu.Name, Backend: g.Name})
		}
	}
	return slices.Compact(out), nil
}

// sane reports whether a name from outside can be stored and shown.
func sane(name string) bool {
	return len(name) <= 253 && utf8.ValidString(name) && !strings.ContainsRune(name, 0)
}

// idSpace is the namespace of ids that derive from names.
var idSpace = uuid.MustParse("6c0d7c5e-2f7a-5d53-9a4e-51c1d0f2a7b3")

func derivedID(kind, name string) string {
	return uuid.NewSHA1(idSpace, []byte(kind+"/"+name)).String()
}

func clusterFact(c cluster) bus.Fact {
	return bus.Fact{Account: c.Account, Entity: c.ID, Refs: event.Refs{ClusterID: c.ID}, CorrelationID: c.ID}
}
