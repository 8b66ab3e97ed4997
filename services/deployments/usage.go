package deployments

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// spot is an instance type on a cluster, where usage is counted.
type spot struct{ gpu, kind, region, cluster string }

func compareSpots(a, b spot) int {
	return cmp.Or(strings.Compare(a.gpu, b.gpu), strings.Compare(a.kind, b.kind), strings.Compare(a.region, b.region), strings.Compare(a.cluster, b.cluster))
}

func sortedSpots[V any](m map[spot]V) []spot {
	all := make([]spot, 0, len(m))
	for s := range m {
		all = append(all, s)
	}
	slices.SortFunc(all, compareSpots)
	return all
}

// last is the last element of a list when it is the one that is meant, else a new one after it.
func last[T any](list *[]T, meant func(*T) bool) *T {
	if n := len(*list); n == 0 || !meant(&(*list)[n-1]) {
		*list = append(*list, *new(T))
	}
	return &(*list)[len(*list)-1]
}

// atlas knows the clusters that an account may use.
type atlas struct {
	nodes  []clusters.Node
	byName map[string]clusters.Node
}

func (u *Deployments) atlas(ctx context.Context, account string) (atlas, error) {
	answer, err := bus.Call(ctx, u.conn, clusters.Nodes, clusters.NodesRequest{Account: account})
	a := atlas{nodes: answer.Nodes, byName: map[string]clusters.Node{}}
	for _, n := range answer.Nodes {
		a.byName[n.Cluster] = n
	}
	return a, err
}

// share is what the bounds of a specification come to on each of its places: where its instances are, else where it
// must go, else the first place that offers it.
func (a atlas) share(d *deployment, s *specification) map[spot][2]int {
	out := map[spot][2]int{}
	var places []spot
	count := map[spot]int{}
	for _, i := range d.of(s) {
		if !i.useful() {
			continue
		}
		at := spot{i.GPU, i.Type, i.Region, i.Cluster}
		if count[at]++; count[at] == 1 {
			places = append(places, at)
		}
	}
	if len(places) == 0 {
		for _, n := range a.nodes {
			for _, t := range n.Types {
				named := len(s.Clusters) == 0 || slices.ContainsFunc(s.Clusters, func(c string) bool { return strings.EqualFold(c, n.Cluster) })
				if named && (s.Backend == "" || strings.EqualFold(s.Backend, n.Cluster)) && strings.EqualFold(t.GPU, s.GPU) && strings.EqualFold(t.Name, s.InstanceType) {
					places = append(places, spot{t.GPU, t.Name, n.Facts.Region, n.Cluster})
				}
			}
		}
		places = places[:min(len(places), 1)]
	}
	low, high := s.minimum(), s.maximum()
	for n, at := range places {
		l, h := min(low, count[at]), min(high, count[at])
		if n == len(places)-1 {
			l, h = low, high
		}
		low, high = low-l, high-h
		out[at] = [2]int{l, h}
	}
	return out
}

// Usage answers with the sums of the minimums and maximums of an account's deployments.
func (u *Deployments) Usage(ctx context.Context, req contract.UsageRequest) (contract.Usage, error) {
	out := contract.Usage{GPUs: []contract.TypeUsage{}}
	account := cmp.Or(req.Account, access.CallerFrom(ctx).Account)
	all, err := u.store.list(ctx, u.store.pool, `WHERE account = $1 AND status <> $2`, account, functions.Inactive)
	if err != nil {
		return out, err
	}
	a, err := u.atlas(ctx, account)
	if err != nil {
		return out, err
	}
	total := map[spot][2]int{}
	for _, d := range all {
		for _, s := range d.Specs {
			for at, bounds := range a.share(d, s) {
				total[at] = [2]int{total[at][0] + bounds[0], total[at][1] + bounds[1]}
			}
		}
	}
	for _, at := range sortedSpots(total) {
		t := last(&out.GPUs, func(t *contract.TypeUsage) bool { return t.GPU == at.gpu && t.InstanceType == at.kind })
		t.GPU, t.InstanceType = at.gpu, at.kind
		t.CurrentMinUsage += total[at][0]
		t.CurrentMaxUsage += total[at][1]
		n := a.byName[at.cluster]
		t.Placements = append(t.Placements, contract.PlacementUsage{
			ClusterID: n.ClusterID, Cluster: at.cluster, ClusterGroupID: n.GroupID, ClusterGroup: at.cluster, CloudProvider: clusters.CloudProvider, Region: at.region,
			CurrentMinUsage: total[at][0], CurrentMaxUsage: total[at][1],
		})
	}
	return out, nil
}

// LiveUsage answers with the instances of an account, by place.
func (u *Deployments) LiveUsage(ctx context.Context, req clusters.ListingRequest) (contract.LiveUsage, error) {
	if err := req.Valid(); err != nil {
		return contract.LiveUsage{}, err
	}
	all, err := u.store.list(ctx, u.store.pool, `WHERE account = $1`, req.Account)
	if err != nil {
		return contract.LiveUsage{}, err
	}
	a, err := u.atlas(ctx, req.Account)
	if err != nil {
		return contract.LiveUsage{}, err
	}
	return contract.LiveUsage{GPUs: a.live(req.Filter, all...)}, nil
}

// DeploymentUsage answers with the instances of one deployment, by place.
func (u *Deployments) DeploymentUsage(ctx context.Context, req contract.DeploymentUsageRequest) (contract.DeploymentsUsage, error) {
	none := contract.DeploymentsUsage{}
	if err := validIDs(map[string]string{"deploymentId": req.DeploymentID}); err != nil {
		return none, err
	}
	if err := req.Valid(); err != nil {
		return none, err
	}
	d, err := u.store.find(ctx, u.store.pool, `WHERE id = $1 AND account = $2`, req.DeploymentID, req.Account)
	if err != nil {
		return none, err
	}
	if d == nil || !d.visible() {
		return none, problem.New(problem.NotFound, "Deployment id '%s': Deployment not found", req.DeploymentID)
	}
	a, err := u.atlas(ctx, req.Account)
	if err != nil {
		return none, err
	}
	return contract.DeploymentsUsage{Deployments: []contract.DeploymentUsage{{DeploymentID: d.ID, GPUs: a.live(req.Filter, d)}}}, nil
}

// live counts running and starting instances.
func (a atlas) live(f clusters.Filter, all ...*deployment) []contract.LiveGPU {
	counts := map[spot]contract.LiveCounts{}
	for _, d := range all {
		for _, i := range d.live() {
			at := spot{i.GPU, i.Type, i.Region, i.Cluster}
			node := a.byName[i.Cluster]
			node.Cluster, node.Facts.Region = i.Cluster, i.Region
			if !f.HasNode(node) || !f.HasType(clusters.InstanceType{Name: i.Type, GPU: i.GPU}) {
				continue
			}
			c := counts[at]
			if i.State == instances.Starting {
				c.PendingInstances++
			} else {
				c.ActiveInstances++
			}
			counts[at] = c
		}
	}
	out := []contract.LiveGPU{}
	for _, at := range sortedSpots(counts) {
		gpu := last(&out, func(g *contract.LiveGPU) bool { return g.GPUName == at.gpu })
		gpu.GPUName = at.gpu
		kind := last(&gpu.Instances, func(t *contract.LiveType) bool { return t.InstanceName == at.kind })
		kind.InstanceName = at.kind
		region := last(&kind.Regions, func(r *contract.LiveRegion) bool { return r.RegionName == at.region })
		region.RegionName = at.region
		region.Clusters = append(region.Clusters, contract.LiveCluster{ClusterID: a.byName[at.cluster].ClusterID, ClusterGroupName: at.cluster, Status: counts[at]})
	}
	return out
}

// capacityOf counts everything that the two capacity reads tell.
type capacityOf struct {
	kind   clusters.InstanceType
	node   clusters.Node
	counts contract.CapacityCounts
	// possible is how many instances fit on healthy devices, used ones included.
	possible int
}

func (u *Deployments) capacity(ctx context.Context, req contract.CapacityRequest) (map[spot]*capacityOf, error) {
	account := access.CallerFrom(ctx).Account
	a, err := u.atlas(ctx, account)
	if err != nil {
		return nil, err
	}
	all, err := u.store.list(ctx, u.store.pool, `WHERE account = $1`, account)
	if err != nil {
		return nil, err
	}
	out := a.capacity(clusters.Filter{GPUs: req.GPUs, Regions: req.Regions})
	for _, d := range all {
		for _, i := range d.live() {
			if c := out[spot{i.GPU, i.Type, i.Region, i.Cluster}]; c != nil {
				c.counts.ActiveInstances++
				c.counts.ActiveGPUs += len(i.Devices)
			}
		}
		if d.Status == functions.Inactive {
			continue
		}
		for _, s := range d.Specs {
			for at, bounds := range a.share(d, s) {
				if c := out[at]; c != nil {
					c.counts.MinInstances += bounds[0]
					c.counts.MaxInstances += bounds[1]
				}
			}
		}
	}
	return out, nil
}

// capacity counts what the ready nodes have and what of it is free.
func (a atlas) capacity(f clusters.Filter) map[spot]*capacityOf {
	out := map[spot]*capacityOf{}
	for _, n := range a.nodes {
		if n.State != clusters.NodeReady || !f.HasNode(n) {
			continue
		}
		for _, t := range n.Types {
			if !f.HasType(t) || t.GPUCount < 1 {
				continue
			}
			at := spot{t.GPU, t.Name, n.Facts.Region, n.Cluster}
			if out[at] == nil {
				out[at] = &capacityOf{kind: t, node: n}
			}
			free, healthy := len(n.FreeDevices(t.GPU)), 0
			for _, device := range n.Devices {
				if device.GPU == t.GPU && (device.State == clusters.Free || device.State == clusters.Allocated || device.State == clusters.Draining) {
					healthy++
				}
			}
			out[at].counts.AvailableInstances += free / t.GPUCount
			out[at].counts.AvailableGPUs += free
			out[at].possible += healthy / t.GPUCount
		}
	}
	return out
}

// Offers answers with the instance types that the caller's account can deploy.
func (u *Deployments) Offers(ctx context.Context, req contract.CapacityRequest) (map[string][]contract.OfferedType, error) {
	all, err := u.capacity(ctx, req)
	if err != nil {
		return nil, err
	}
	out := map[string][]contract.OfferedType{}
	for _, at := range sortedSpots(all) {
		c := all[at]
		list := out[at.gpu]
		o := last(&list, func(o *contract.OfferedType) bool { return o.Name == at.kind })
		if o.Name == "" {
			*o = contract.OfferedType{
				Name: c.kind.Name, Value: c.kind.Value, Description: c.kind.Description, CPUCores: c.kind.CPUCores, SystemMemory: c.kind.SystemMemory,
				GPUMemory: c.kind.GPUMemory, GPUCount: c.kind.GPUCount, ClusterGroupName: at.cluster, DriverVersion: c.kind.Driver, Storage: c.kind.Storage,
			}
		}
		o.CurrentInstances += c.counts.ActiveInstances
		o.MaxInstances += c.possible
		o.Clusters, o.Regions = sortedSet(append(o.Clusters, at.cluster)), sortedSet(append(o.Regions, at.region))
		o.Attributes = sortedSet(append(o.Attributes, c.node.Attributes...))
		out[at.gpu] = list
	}
	return out, nil
}

func sortedSet(names []string) []string {
	out := append([]string{}, names...)
	slices.Sort(out)
	return slices.Compact(out)
}

// Capacity answers with what is used and what is free.
func (u *Deployments) Capacity(ctx context.Context, req contract.CapacityRequest) (map[string][]contract.CapacityType, error) {
	all, err := u.capacity(ctx, req)
	if err != nil {
		return nil, err
	}
	out := map[string][]contract.CapacityType{}
	for _, at := range sortedSpots(all) {
		c := all[at]
		list := out[at.gpu]
		t := last(&list, func(t *contract.CapacityType) bool { return t.InstanceName == at.kind })
		t.InstanceName, t.Value = c.kind.Name, c.kind.Value
		region := last(&t.Regions, func(r *contract.CapacityRegion) bool { return r.RegionName == at.region })
		region.RegionName = at.region
		region.Clusters = append(region.Clusters, contract.CapacityCluster{ClusterID: c.node.ClusterID, ClusterName: at.cluster, Usage: c.counts})
		out[at.gpu] = list
	}
	return out, nil
}
