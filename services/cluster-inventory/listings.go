package clusterinventory

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
)

// offer is one instance type on one ready node that passed a filter.
type offer struct {
	node clusters.Node
	kind clusters.InstanceType
	// fits is how many instances of the type fit now.
	fits int
}

// offers lists what an account may use, after the filter of its request.
func (i *Inventory) offers(ctx context.Context, req clusters.ListingRequest) ([]offer, error) {
	if err := req.Valid(); err != nil {
		return nil, err
	}
	nodes, err := i.store.nodes(ctx, req.Account)
	if err != nil {
		return nil, err
	}
	var out []offer
	for _, n := range nodes {
		if n.State != clusters.NodeReady || !req.HasNode(n.Node) {
			continue
		}
		for _, t := range n.Types {
			if !req.HasType(t) {
				continue
			}
			o := offer{node: n.Node, kind: t}
			if t.GPUCount > 0 {
				o.fits = len(n.FreeDevices(t.GPU)) / t.GPUCount
			}
			if o.fits > 0 || !req.Capacity() {
				out = append(out, o)
			}
		}
	}
	return out, nil
}

// names collects what the offers of a listing have, sorted and each once.
func (i *Inventory) names(ctx context.Context, req clusters.ListingRequest, of func(offer) []string) ([]string, error) {
	all, err := i.offers(ctx, req)
	if err != nil {
		return nil, err
	}
	out := []string{}
	for _, o := range all {
		out = append(out, of(o)...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// ListGPUs answers with GPU names.
func (i *Inventory) ListGPUs(ctx context.Context, req clusters.ListingRequest) (clusters.GPUNames, error) {
	all, err := i.names(ctx, req, func(o offer) []string { return []string{o.kind.GPU} })
	return clusters.GPUNames{GPUs: all}, err
}

// ListRegions answers with regions.
func (i *Inventory) ListRegions(ctx context.Context, req clusters.ListingRequest) (clusters.RegionNames, error) {
	all, err := i.names(ctx, req, func(o offer) []string { return []string{o.node.Facts.Region} })
	return clusters.RegionNames{Regions: all}, err
}

// ListClusters answers with names of clusters.
func (i *Inventory) ListClusters(ctx context.Context, req clusters.ListingRequest) (clusters.ClusterNames, error) {
	all, err := i.names(ctx, req, func(o offer) []string { return []string{o.node.Cluster} })
	return clusters.ClusterNames{ClusterNames: all}, err
}

// ListAttributes answers with what clusters can do.
func (i *Inventory) ListAttributes(ctx context.Context, req clusters.ListingRequest) (clusters.AttributeNames, error) {
	all, err := i.names(ctx, req, func(o offer) []string { return o.node.Attributes })
	return clusters.AttributeNames{Attributes: all}, err
}

// ListTypes answers with instance types by GPU name, each with where it is offered.
func (i *Inventory) ListTypes(ctx context.Context, req clusters.ListingRequest) (map[string][]clusters.TypeDetails, error) {
	all, err := i.offers(ctx, req)
	if err != nil {
		return nil, err
	}
	types := map[string]*clusters.TypeDetails{}
	for _, o := range all {
		t := types[o.kind.GPU+"/"+o.kind.Name]
		if t == nil {
			k := o.kind
			t = &clusters.TypeDetails{
				Name: k.Name, Value: k.Value, Description: k.Description, GPUName: k.GPU, GPUCount: k.GPUCount, CPUCores: k.CPUCores,
				CPUArch: k.CPUArch, OS: k.OS, DriverVersion: k.Driver, Storage: k.Storage, SystemMemory: k.SystemMemory,
				GPUMemory: k.GPUMemory, NodeType: k.NodeType,
			}
			types[o.kind.GPU+"/"+o.kind.Name] = t
		}
		t.AvailableCapacity += o.fits
		t.Defaultable = t.Defaultable || o.kind.Default
		t.Clusters, t.Regions = append(t.Clusters, o.node.Cluster), append(t.Regions, o.node.Facts.Region)
		t.Attributes = append(t.Attributes, o.node.Attributes...)
	}
	out := map[string][]clusters.TypeDetails{}
	for _, key := range slices.Sorted(maps.Keys(types)) {
		t := types[key]
		t.Clusters, t.Regions, t.Attributes = present(t.Clusters), present(t.Regions), present(t.Attributes)
		out[t.GPUName] = append(out[t.GPUName], *t)
	}
	for _, of := range out {
		slices.SortFunc(of, func(a, b clusters.TypeDetails) int {
			return cmp.Or(cmp.Compare(a.GPUCount, b.GPUCount), strings.Compare(a.Name, b.Name))
		})
	}
	return out, nil
}

// ListAvailable answers with the tree of what fits where.
func (i *Inventory) ListAvailable(ctx context.Context, req clusters.ListingRequest) (clusters.Availability, error) {
	out := clusters.Availability{GPUs: []clusters.AvailableGPU{}}
	all, err := i.offers(ctx, req)
	if err != nil {
		return out, err
	}
	slices.SortStableFunc(all, func(a, b offer) int {
		return cmp.Or(strings.Compare(a.kind.GPU, b.kind.GPU), cmp.Compare(a.kind.GPUCount, b.kind.GPUCount),
			strings.Compare(a.kind.Name, b.kind.Name), strings.Compare(a.node.Facts.Region, b.node.Facts.Region), strings.Compare(a.node.Cluster, b.node.Cluster))
	})
	for _, o := range all {
		gpu := last(&out.GPUs, func(g *clusters.AvailableGPU) bool { return g.GPUName == o.kind.GPU })
		gpu.GPUName = o.kind.GPU
		kind := last(&gpu.InstanceTypes, func(t *clusters.AvailableType) bool { return t.InstanceName == o.kind.Name })
		if kind.InstanceName == "" {
			k := o.kind
			*kind = clusters.AvailableType{
				InstanceName: k.Name, Value: k.Value, Description: k.Description, GPUCount: k.GPUCount, CPUCores: k.CPUCores, CPUArch: k.CPUArch,
				SystemMemory: k.SystemMemory, GPUMemory: k.GPUMemory, Storage: k.Storage, OS: k.OS, DriverVersion: k.Driver, NodeType: k.NodeType,
			}
		}
		kind.Defaultable = kind.Defaultable || o.kind.Default
		region := last(&kind.Regions, func(r *clusters.AvailableRegion) bool { return r.RegionName == o.node.Facts.Region })
		region.RegionName = o.node.Facts.Region
		c := last(&region.Clusters, func(c *clusters.AvailableCluster) bool { return c.ClusterName == o.node.Cluster })
		c.ClusterID, c.ClusterName, c.ClusterGroup, c.CloudProvider = o.node.ClusterID, o.node.Cluster, o.node.Cluster, clusters.CloudProviderName
		c.IsDefaultInstanceType = c.IsDefaultInstanceType || o.kind.Default
		c.MaxClusterAvailableCapacity += o.fits
		c.Attributes = present(o.node.Attributes)
	}
	return out, nil
}

// last is the last element of a list when it is the one that is meant, else a new one after it.
func last[T any](list *[]T, meant func(*T) bool) *T {
	if n := len(*list); n == 0 || !meant(&(*list)[n-1]) {
		*list = append(*list, *new(T))
	}
	return &(*list)[len(*list)-1]
}

// ListGroups answers with cluster groups, narrowed by a filter; health does not matter here.
func (i *Inventory) ListGroups(ctx context.Context, req clusters.ListingRequest) (clusters.GroupsResponse, error) {
	if err := req.Valid(); err != nil {
		return clusters.GroupsResponse{}, err
	}
	return i.groupsOf(ctx, req.Account, req.Filter)
}
