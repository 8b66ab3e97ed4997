package placement_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/services/deployments/placement"
)

func types() []clusters.InstanceType {
	var out []clusters.InstanceType
	for _, n := range []int{1, 2, 4, 8} {
		out = append(out, clusters.InstanceType{Name: fmt.Sprintf("NCP.GPU.H100_%dx", n), GPU: "H100", GPUCount: n, NodeType: "SINGLE"})
	}
	return append(out, clusters.InstanceType{Name: "NCP.GPU.H100_8x.x2", GPU: "H100", GPUCount: 16, NodeType: "MULTI"})
}

type option func(*clusters.Node)

func region(r string) option            { return func(n *clusters.Node) { n.Facts.Region = r } }
func state(s clusters.NodeState) option { return func(n *clusters.Node) { n.State = s } }
func device(i int, s clusters.DeviceState) option {
	return func(n *clusters.Node) { n.Devices[i].State = s }
}

func node(cluster, name string, gpus int, options ...option) clusters.Node {
	n := clusters.Node{Cluster: cluster, Node: name, State: clusters.NodeReady, Types: types(), Facts: clusters.NodeFacts{Region: "eu"}}
	for i := range gpus {
		n.Devices = append(n.Devices, clusters.Device{UUID: fmt.Sprintf("%s-%d", name, i), Index: i, GPU: "H100", State: clusters.Free, Simulated: true})
	}
	for _, o := range options {
		o(&n)
	}
	return n
}

func hold(n clusters.Node, indexes ...int) placement.Held {
	held := placement.Held{}
	for _, i := range indexes {
		held[placement.Device{Node: placement.Of(n), UUID: n.Devices[i].UUID}] = true
	}
	return held
}

func TestChoose(t *testing.T) {
	t.Parallel()
	one := placement.Request{GPU: "H100", InstanceType: "NCP.GPU.H100_1x"}
	with := func(change func(*placement.Request)) placement.Request {
		r := one
		change(&r)
		return r
	}
	busy := node("a", "n1", 4)
	for _, c := range []struct {
		name     string
		nodes    []clusters.Node
		held     placement.Held
		req      placement.Request
		node     string
		devices  []string
		rejected map[string]int
		code     string
		message  string
	}{
		{name: "lowest device of the only node", nodes: []clusters.Node{node("a", "n1", 2)}, req: one, node: "n1", devices: []string{"n1-0"}},
		{name: "names without case", nodes: []clusters.Node{node("a", "n1", 2)}, req: placement.Request{GPU: "h100", InstanceType: "ncp.gpu.h100_2X"}, node: "n1", devices: []string{"n1-0", "n1-1"}},
		{name: "the fullest node that fits", nodes: []clusters.Node{node("a", "n1", 8), node("a", "n2", 2), node("a", "n3", 4)}, req: one, node: "n2", devices: []string{"n2-0"}},
		{
			name: "spread beats packing", nodes: []clusters.Node{node("a", "n1", 8), node("a", "n2", 2)},
			req: with(func(r *placement.Request) {
				r.Spread, r.Peers = true, map[placement.Node]int{{Cluster: "a", Name: "n2"}: 1}
			}), node: "n1", devices: []string{"n1-0"},
		},
		{
			name: "a node that failed comes last", nodes: []clusters.Node{node("a", "n1", 8), node("a", "n2", 2)},
			req: with(func(r *placement.Request) { r.Failures = map[placement.Node]int{{Cluster: "a", Name: "n2"}: 1} }), node: "n1", devices: []string{"n1-0"},
		},
		{
			name: "but it is taken when there is no other", nodes: []clusters.Node{node("a", "n2", 2)},
			req: with(func(r *placement.Request) { r.Failures = map[placement.Node]int{{Cluster: "a", Name: "n2"}: 9} }), node: "n2", devices: []string{"n2-0"},
		},
		{name: "held devices are not free", nodes: []clusters.Node{busy}, held: hold(busy, 0, 2), req: with(func(r *placement.Request) { r.InstanceType = "NCP.GPU.H100_2x" }), node: "n1", devices: []string{"n1-1", "n1-3"}},
		{
			name: "sick and foreign devices are not free", nodes: []clusters.Node{node("a", "n1", 3, device(0, clusters.Sick), device(1, clusters.Foreign))},
			req: one, node: "n1", devices: []string{"n1-2"},
		},
		{
			name: "clusters narrow", nodes: []clusters.Node{node("a", "n1", 1), node("b", "n2", 1)},
			req: with(func(r *placement.Request) { r.Clusters = []string{"B"} }), node: "n2", devices: []string{"n2-0"}, rejected: map[string]int{placement.OtherCluster: 1},
		},
		{
			name: "a backend narrows", nodes: []clusters.Node{node("a", "n1", 1), node("b", "n2", 1)},
			req: with(func(r *placement.Request) { r.Backend = "b" }), node: "n2", devices: []string{"n2-0"}, rejected: map[string]int{placement.OtherCluster: 1},
		},
		{
			name: "regions narrow", nodes: []clusters.Node{node("a", "n1", 1), node("a", "n2", 1, region("us"))},
			req: with(func(r *placement.Request) { r.Regions = []string{"US"} }), node: "n2", devices: []string{"n2-0"}, rejected: map[string]int{placement.OtherRegion: 1},
		},
		{
			name: "a zone is a region or a cluster", nodes: []clusters.Node{node("a", "n1", 1), node("b", "n2", 2), node("c", "n3", 1, region("us"))},
			req: with(func(r *placement.Request) { r.Zones = []string{"b", "us"} }), node: "n3", devices: []string{"n3-0"}, rejected: map[string]int{placement.OtherCluster: 1},
		},
		{
			name: "silent nodes get nothing", nodes: []clusters.Node{node("a", "n1", 1, state(clusters.NodeSuspect)), node("a", "n2", 1, state(clusters.NodeCordoned)), node("a", "n3", 1, state(clusters.NodeLost))},
			req: one, rejected: map[string]int{placement.NodeNotReady: 3}, code: "no-ready-node-for-NCP.GPU.H100_1x", message: "3 nodes could run NCP.GPU.H100_1x, but none is ready",
		},
		{
			name: "no node is large enough", nodes: []clusters.Node{node("a", "n1", 3), node("a", "n2", 2), node("b", "n3", 1)},
			req: with(func(r *placement.Request) { r.InstanceType = "NCP.GPU.H100_4x" }), rejected: map[string]int{placement.TooFewDevices: 3},
			code: "no-node-with-4-free-H100", message: "no node with 4 free H100: 3 nodes, largest free group 3",
		},
		{name: "unknown GPU", nodes: []clusters.Node{node("a", "n1", 1)}, req: placement.Request{GPU: "B200", InstanceType: "x"}, rejected: map[string]int{placement.NoSuchGPU: 1}, code: "no-node-for-x", message: "no-such-gpu 1"},
		{name: "unknown type", nodes: []clusters.Node{node("a", "n1", 1)}, req: placement.Request{GPU: "H100", InstanceType: "x"}, rejected: map[string]int{placement.NoSuchType: 1}, code: "no-node-for-x", message: "no-such-instance-type 1"},
		{name: "types over several nodes are not offered yet", nodes: []clusters.Node{node("a", "n1", 16)}, req: placement.Request{GPU: "H100", InstanceType: "NCP.GPU.H100_8x.x2"}, rejected: map[string]int{placement.NoSuchType: 1}, code: "no-node-for-NCP.GPU.H100_8x.x2"},
		{name: "nothing has joined", req: one, code: "no-node", message: "no node has joined"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			place, rejected, refusal := placement.Choose(c.nodes, c.held, c.req)
			if c.rejected == nil {
				c.rejected = map[string]int{}
			}
			require.Equal(t, c.rejected, rejected)
			if c.code != "" {
				require.NotNil(t, refusal)
				require.Equal(t, c.code, refusal.Code)
				require.Contains(t, refusal.Message, c.message)
				return
			}
			require.Nil(t, refusal)
			require.Equal(t, c.node, place.Node.Node)
			require.Equal(t, c.devices, place.UUIDs())
			require.True(t, place.Simulated())
		})
	}
}

// Placing until nothing fits must use every device exactly once, whatever the sizes.
func TestFillingUpGivesEveryDeviceAwayOnce(t *testing.T) {
	t.Parallel()
	nodes := []clusters.Node{node("a", "n1", 8), node("a", "n2", 4), node("b", "n3", 3)}
	held := placement.Held{}
	for _, typ := range []string{"NCP.GPU.H100_4x", "NCP.GPU.H100_2x", "NCP.GPU.H100_1x"} {
		for {
			place, _, refusal := placement.Choose(nodes, held, placement.Request{GPU: "H100", InstanceType: typ})
			if refusal != nil {
				break
			}
			for _, d := range place.UUIDs() {
				key := placement.Device{Node: placement.Of(place.Node), UUID: d}
				require.False(t, held[key], "%s given away twice", d)
				held[key] = true
			}
		}
	}
	require.Len(t, held, 15)
}
