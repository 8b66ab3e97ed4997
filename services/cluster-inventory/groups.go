package clusterinventory

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
)

// The states of a cluster (spec clusters-agents §3.6).
const (
	clusterNotReady  = "NOT_READY"
	clusterReady     = "READY"
	clusterUnhealthy = "UNHEALTHY"
)

// cluster is one row of the projection. A cluster registers itself by its first snapshot and gets a group of its own
// name; its ids derive from the name, so that a rebuilt projection has the same ones.
type cluster struct {
	ID, GroupID, Name, Account, Region, Status string

	// Authorized and Attributes are what an operator said.
	Authorized, Attributes []string
}

// groups renders clusters with their nodes as clients see them (spec clusters-agents §1.7). Names are sorted.
func groups(all []cluster, nodes []record) []clusters.Group {
	out := make([]clusters.Group, 0, len(all))
	for _, c := range all {
		mine := slices.DeleteFunc(slices.Clone(nodes), func(n record) bool { return n.Cluster != c.Name })
		out = append(out, clusters.Group{
			ID: c.GroupID, Name: c.Name, NCAID: c.Account, AuthorizedNCAIDs: present(c.Authorized), GPUs: groupGPUs(mine),
			Clusters: []clusters.GroupCluster{{ID: c.ID, Name: c.Name, K8sVersion: "none", Status: c.Status, Region: c.Region}},
		})
	}
	slices.SortFunc(out, func(a, b clusters.Group) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// groupGPUs counts devices on ready nodes; types stay listed, with nothing available, while a node is silent.
func groupGPUs(nodes []record) []clusters.GroupGPU {
	gpus := map[string]*clusters.GroupGPU{}
	types := map[string]*clusters.GroupInstanceType{}
	gpu := func(name string) *clusters.GroupGPU {
		if gpus[name] == nil {
			gpus[name] = &clusters.GroupGPU{Name: name, InstanceTypes: []clusters.GroupInstanceType{}}
		}
		return gpus[name]
	}
	gpuOf := map[string]string{}
	for _, n := range nodes {
		if n.State == clusters.NodeGone {
			continue
		}
		free := map[string]int{}
		for _, d := range n.Devices {
			g := gpu(d.GPU)
			if n.State != clusters.NodeReady {
				continue
			}
			switch d.State {
			case clusters.Free:
				free[d.GPU]++
				g.Capacity++
				g.Available++
			case clusters.Allocated, clusters.Draining:
				g.Capacity++
				g.Allocated++
			case clusters.Sick, clusters.Foreign: // cannot be given to anybody
			}
		}
		for _, t := range n.Types {
			gpu(t.GPU)
			have := types[t.Name]
			if have == nil {
				have = &clusters.GroupInstanceType{
					Name: t.Name, Value: t.Value, Description: t.Description, NodeType: t.NodeType, GPUCount: t.GPUCount,
				}
				types[t.Name], gpuOf[t.Name] = have, t.GPU
			}
			have.Default = have.Default || t.Default
			if t.GPUCount > 0 {
				have.Available += free[t.GPU] / t.GPUCount
			}
		}
	}
	for name, t := range types {
		g := gpus[gpuOf[name]]
		g.InstanceTypes = append(g.InstanceTypes, *t)
	}
	out := make([]clusters.GroupGPU, 0, len(gpus))
	for _, g := range gpus {
		oneDefault(g.InstanceTypes)
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b clusters.GroupGPU) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// oneDefault sorts the types of a GPU from small to large and leaves exactly one default: the first that a node calls
// so, else the first of all.
func oneDefault(types []clusters.GroupInstanceType) {
	slices.SortFunc(types, func(a, b clusters.GroupInstanceType) int {
		return cmp.Or(cmp.Compare(a.GPUCount, b.GPUCount), strings.Compare(a.Name, b.Name))
	})
	chosen := max(slices.IndexFunc(types, func(t clusters.GroupInstanceType) bool { return t.Default }), 0)
	for i := range types {
		types[i].Default = i == chosen
	}
}
