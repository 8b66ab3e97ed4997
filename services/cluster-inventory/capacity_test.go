package clusterinventory

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func devices(states ...clusters.DeviceState) []clusters.Device {
	out := make([]clusters.Device, len(states))
	for i, s := range states {
		out[i] = clusters.Device{UUID: "GPU-" + string(rune('a'+i)), Index: i, GPU: "H100", State: s, Health: "ok"}
	}
	return out
}

func held(epoch, seq int64, state clusters.NodeState, d ...clusters.Device) record {
	return record{Node: clusters.Node{Cluster: "lab", Node: "n1", Epoch: epoch, Sequence: seq, State: state, Devices: d}}
}

func TestSnapshotOnlyWhatIsNewerCounts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		epoch, seq int64
		want       outcome
	}{
		{"first message of a newer epoch", 4, 1, applied},
		{"next sequence", 3, 11, applied},
		{"sequences may be skipped", 3, 90, applied},
		{"the same again", 3, 10, ignored},
		{"older sequence", 3, 9, ignored},
		{"older epoch", 2, 99, ignored},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, what := held(3, 10, clusters.NodeLost).snapshot(clusters.Snapshot{Epoch: c.epoch, Sequence: c.seq, State: clusters.NodeReady}, noon)
			require.Equal(t, c.want, what)
			if what == applied {
				require.Equal(t, clusters.NodeReady, got.State, "a snapshot brings a silent node back")
				require.Equal(t, c.seq, got.Sequence)
			} else {
				require.Equal(t, clusters.NodeLost, got.State)
			}
		})
	}
}

func TestDeltaMustContinueWhatIsThere(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		d    clusters.Delta
		want outcome
	}{
		{"continues", clusters.Delta{Epoch: 3, Sequence: 11, BasedOn: 10}, applied},
		{"gap", clusters.Delta{Epoch: 3, Sequence: 12, BasedOn: 11}, gapped},
		{"newer epoch without its snapshot", clusters.Delta{Epoch: 4, Sequence: 2, BasedOn: 1}, gapped},
		{"duplicate", clusters.Delta{Epoch: 3, Sequence: 10, BasedOn: 9}, ignored},
		{"fenced epoch", clusters.Delta{Epoch: 2, Sequence: 50, BasedOn: 49}, ignored},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			before := held(3, 10, clusters.NodeReady, devices(clusters.Free, clusters.Free, clusters.Free)...)
			c.d.Changed = []clusters.Device{{UUID: "GPU-b", GPU: "H100", State: clusters.Allocated}, {UUID: "GPU-new", GPU: "H100", State: clusters.Free}}
			c.d.Removed = []string{"GPU-a"}
			got, what := before.delta(c.d, noon)
			require.Equal(t, c.want, what)
			if c.want == gapped {
				require.True(t, got.wantSnapshot)
			} else {
				require.False(t, got.wantSnapshot)
			}
			require.Len(t, before.Devices, 3, "the record before is not touched")
			if what != applied {
				require.Equal(t, before.Devices, got.Devices)
				return
			}
			states := map[string]clusters.DeviceState{}
			for _, d := range got.Devices {
				states[d.UUID] = d.State
			}
			require.Equal(t, map[string]clusters.DeviceState{"GPU-b": clusters.Allocated, "GPU-c": clusters.Free, "GPU-new": clusters.Free}, states)
		})
	}
}

func TestDeltaDoesNotReviveALostNode(t *testing.T) {
	t.Parallel()
	got, what := held(3, 10, clusters.NodeLost).delta(clusters.Delta{Epoch: 3, Sequence: 11, BasedOn: 10, State: clusters.NodeReady}, noon)
	require.Equal(t, applied, what)
	require.Equal(t, clusters.NodeLost, got.State)
	require.True(t, got.wantSnapshot)
}

func TestByeOfAnOlderLifeChangesNothing(t *testing.T) {
	t.Parallel()
	_, what := held(3, 10, clusters.NodeReady).bye(clusters.Bye{Epoch: 2, Sequence: 99}, noon)
	require.Equal(t, ignored, what)
	got, what := held(3, 10, clusters.NodeReady).bye(clusters.Bye{Epoch: 3, Sequence: 11}, noon)
	require.Equal(t, applied, what)
	require.Equal(t, clusters.NodeGone, got.State)
}

func gpuTypes() []clusters.InstanceType {
	return []clusters.InstanceType{
		{Name: "NCP.GPU.H100_2x", Value: "NCP.GPU.H100", GPU: "H100", GPUCount: 2, NodeType: "SINGLE"},
		{Name: "NCP.GPU.H100_1x", Value: "NCP.GPU.H100", GPU: "H100", GPUCount: 1, NodeType: "SINGLE", Default: true},
	}
}

func TestGroupsCountPerNode(t *testing.T) {
	t.Parallel()
	node := func(name string, state clusters.NodeState, d ...clusters.DeviceState) record {
		r := held(1, 1, state, devices(d...)...)
		r.Node.Node, r.Types = name, gpuTypes()
		return r
	}
	nodes := []record{
		node("n1", clusters.NodeReady, clusters.Free, clusters.Free, clusters.Free),
		node("n2", clusters.NodeReady, clusters.Free, clusters.Allocated, clusters.Sick, clusters.Foreign),
		node("n3", clusters.NodeSuspect, clusters.Free, clusters.Free),
		node("n4", clusters.NodeCordoned, clusters.Free, clusters.Free),
		node("n5", clusters.NodeGone, clusters.Free, clusters.Free),
	}
	got := groups([]cluster{{ID: "c", GroupID: "g", Name: "lab", Account: "a", Region: "eu", Status: clusterReady}}, nodes)
	require.Equal(t, []clusters.Group{{
		ID: "g", Name: "lab", NCAID: "a", AuthorizedNCAIDs: []string{},
		GPUs: []clusters.GroupGPU{{
			Name: "H100", Capacity: 5, Allocated: 1, Available: 4,
			InstanceTypes: []clusters.GroupInstanceType{
				{Name: "NCP.GPU.H100_1x", Value: "NCP.GPU.H100", Default: true, NodeType: "SINGLE", GPUCount: 1, Available: 4},
				// Three free devices on one node and one on another make one pair, not two.
				{Name: "NCP.GPU.H100_2x", Value: "NCP.GPU.H100", NodeType: "SINGLE", GPUCount: 2, Available: 1},
			},
		}},
		Clusters: []clusters.GroupCluster{{ID: "c", Name: "lab", K8sVersion: "none", Status: "READY", Region: "eu"}},
	}}, got)
}

func TestAClusterWithoutNodesHasNoGPUs(t *testing.T) {
	t.Parallel()
	got := groups([]cluster{{Name: "lab"}}, nil)
	require.Equal(t, []clusters.GroupGPU{}, got[0].GPUs, "an empty array, never null")
}
