// Package clusters is the contract of the cluster inventory: nodes and their GPUs as agents report them, clusters and
// groups as clients see them, and the catalogue of images that run as local processes (spec clusters-agents §1–§3).
package clusters

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// DeviceState says whether a device can be given to an instance.
type DeviceState string

// The device states (clusters-agents §3.3).
const (
	Free      DeviceState = "free"
	Allocated DeviceState = "allocated"
	Draining  DeviceState = "draining"
	Sick      DeviceState = "unhealthy"
	// Foreign devices are used by a process that the agent did not start.
	Foreign DeviceState = "foreign"
)

// Device is one GPU, or one MIG slice.
type Device struct {
	UUID string `json:"uuid"`
	// Index is for display only; devices are addressed by UUID.
	Index      int         `json:"index"`
	GPU        string      `json:"gpu"`
	Product    string      `json:"product"`
	MemoryMiB  int64       `json:"memMiB"`
	State      DeviceState `json:"state"`
	InstanceID string      `json:"instanceId,omitempty"`
	// Health is "ok" or a sentence that says what is wrong.
	Health    string `json:"health"`
	Simulated bool   `json:"simulated,omitempty"`
}

// InstanceType is a share of a node that can be asked for by name (clusters-agents §3.2). Quantities are Kubernetes
// quantity texts.
type InstanceType struct {
	Name         string `json:"name"`
	Value        string `json:"value"`
	Description  string `json:"description"`
	Default      bool   `json:"default"`
	GPU          string `json:"gpuName"`
	GPUCount     int    `json:"gpuCount"`
	CPUCores     int    `json:"cpuCores"`
	CPUMilli     int64  `json:"cpuMilli"`
	MemoryMiB    int64  `json:"memoryMiB"`
	SystemMemory string `json:"systemMemory"`
	GPUMemory    string `json:"gpuMemory"`
	Storage      string `json:"storage"`
	CPUArch      string `json:"cpuArch"`
	OS           string `json:"os"`
	Driver       string `json:"driverVersion"`
	NodeType     string `json:"nodeType"`
}

// NodeFacts are the slow-moving facts of a node.
type NodeFacts struct {
	Hostname string `json:"hostname"`
	Arch     string `json:"arch"`
	OS       string `json:"os"`
	Driver   string `json:"driver"`
	// Drivers are the ways this node can run an instance: docker, process, sim.
	Drivers      []string `json:"runtime"`
	Region       string   `json:"region"`
	AgentVersion string   `json:"agentVersion"`
	CPUMilli     int64    `json:"cpuMilli"`
	MemoryMiB    int64    `json:"memMiB"`
	DiskMiB      int64    `json:"diskMiB"`
}

// Snapshot is the whole capacity of a node: published at start, every minute and on request. Epoch rises with every
// start of the agent and Sequence with every message; a reader applies only what is newer than what it has.
type Snapshot struct {
	Cluster  string         `json:"cluster"`
	Node     string         `json:"node"`
	Account  string         `json:"account"`
	Epoch    int64          `json:"epoch"`
	Sequence int64          `json:"seq"`
	At       time.Time      `json:"ts"`
	State    NodeState      `json:"state"`
	Facts    NodeFacts      `json:"facts"`
	Devices  []Device       `json:"devices"`
	Types    []InstanceType `json:"types"`
}

// Delta reports the devices that changed since the last message, within 100 ms of the change.
type Delta struct {
	Cluster  string    `json:"cluster"`
	Node     string    `json:"node"`
	Account  string    `json:"account"`
	Epoch    int64     `json:"epoch"`
	Sequence int64     `json:"seq"`
	At       time.Time `json:"ts"`
	// BasedOn is the sequence this delta applies to; a gap makes the reader ask for a snapshot.
	BasedOn int64     `json:"basedOn"`
	State   NodeState `json:"state"`
	Changed []Device  `json:"changed"`
	Removed []string  `json:"removed,omitempty"`
}

// Bye is published by an orderly stop of an agent.
type Bye struct {
	Cluster  string    `json:"cluster"`
	Node     string    `json:"node"`
	Account  string    `json:"account"`
	Epoch    int64     `json:"epoch"`
	Sequence int64     `json:"seq"`
	At       time.Time `json:"ts"`
	Reason   string    `json:"reason"`
}

// NodeState is what a node says of itself, or the inventory of a silent node.
type NodeState string

// The node states.
const (
	NodeReady    NodeState = "ready"
	NodeCordoned NodeState = "cordoned"
	NodeDraining NodeState = "draining"
	// NodeSuspect has been silent for 15 s and gets no new instance; NodeLost for 45 s.
	NodeSuspect NodeState = "suspect"
	NodeLost    NodeState = "lost"
	NodeGone    NodeState = "gone"
)

// Times after which a silent node changes state.
const (
	HeartbeatEvery = 5 * time.Second
	SuspectAfter   = 15 * time.Second
	LostAfter      = 45 * time.Second
	SnapshotEvery  = time.Minute
)

// HeartbeatRequest renews a node's lease.
type HeartbeatRequest struct {
	Cluster  string `json:"cluster"`
	Node     string `json:"node"`
	Epoch    int64  `json:"epoch"`
	Sequence int64  `json:"seq"`
}

// HeartbeatResponse tells the agent what the inventory needs from it.
type HeartbeatResponse struct {
	// WantSnapshot is set when the inventory missed something.
	WantSnapshot bool `json:"wantSnapshot"`
	// Fenced is set when a newer epoch of the same node exists; the agent must stop acting.
	Fenced bool `json:"fenced"`
}

// Node is a node in the inventory's projection.
type Node struct {
	ClusterID string         `json:"clusterId"`
	GroupID   string         `json:"clusterGroupId"`
	Cluster   string         `json:"cluster"`
	Node      string         `json:"node"`
	Account   string         `json:"account"`
	Epoch     int64          `json:"epoch"`
	Sequence  int64          `json:"seq"`
	State     NodeState      `json:"state"`
	SeenAt    time.Time      `json:"seenAt"`
	Facts     NodeFacts      `json:"facts"`
	Devices   []Device       `json:"devices"`
	Types     []InstanceType `json:"types"`
	// Authorized are the accounts that may use the cluster beside its own, Attributes what the cluster can do.
	Authorized []string `json:"authorized,omitempty"`
	Attributes []string `json:"attributes,omitempty"`
}

// FreeDevices lists the healthy free devices of one GPU name.
func (n Node) FreeDevices(gpu string) []Device {
	var free []Device
	for _, d := range n.Devices {
		if d.GPU == gpu && d.State == Free {
			free = append(free, d)
		}
	}
	return free
}

// NodesRequest asks for the nodes that an account may use; an empty account means all.
type NodesRequest struct {
	Account string `json:"account"`
}

// NodesResponse answers NodesRequest.
type NodesResponse struct {
	Nodes []Node `json:"nodes"`
}

// Group is a cluster group as GET /v2/nvcf/clusterGroups shows it.
type Group struct {
	ID               string         `json:"id"`
	Name             string         `json:"name"`
	NCAID            string         `json:"ncaId"`
	AuthorizedNCAIDs []string       `json:"authorizedNcaIds"`
	GPUs             []GroupGPU     `json:"gpus"`
	Clusters         []GroupCluster `json:"clusters"`
}

// GroupGPU is one GPU name of a group.
type GroupGPU struct {
	Name          string              `json:"name"`
	InstanceTypes []GroupInstanceType `json:"instanceTypes"`
	// Capacity, Allocated and Available count devices on ready nodes, as of the last capacity event.
	Capacity  int `json:"capacity"`
	Allocated int `json:"allocated"`
	Available int `json:"available"`
}

// GroupInstanceType is one instance type of a group.
type GroupInstanceType struct {
	Name        string `json:"name"`
	Value       string `json:"value"`
	Description string `json:"description"`
	Default     bool   `json:"default"`
	NodeType    string `json:"nodeType"`
	GPUCount    int    `json:"gpuCount"`
	// Available is how many instances of the type fit now: the sum over nodes of floor(free/gpuCount).
	Available int `json:"available"`
}

// GroupCluster is one cluster of a group.
type GroupCluster struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	K8sVersion string `json:"k8sVersion"`
	Status     string `json:"status"`
	Region     string `json:"region"`
}

// GroupsRequest is GET /v2/nvcf/clusterGroups; the account is the caller's.
type GroupsRequest struct{}

// GroupsResponse answers GroupsRequest.
type GroupsResponse struct {
	ClusterGroups []Group `json:"clusterGroups"`
}

// SupportedGPU is one element of the deprecated GET /v2/nvcf/supportedGpus.
type SupportedGPU struct {
	GPU     string `json:"gpu"`
	Backend string `json:"backend"`
}

// Image maps an image reference to a command that the process driver runs in its place.
type Image struct {
	Reference string    `json:"reference"`
	Command   []string  `json:"command"`
	Directory string    `json:"directory,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
}

// ImageRequest adds or replaces an image of the catalogue (PUT /v2/nvcf/images).
type ImageRequest struct {
	Reference string   `json:"reference"`
	Command   []string `json:"command"`
	Directory string   `json:"directory,omitempty"`
}

// ImageQuery names one image.
type ImageQuery struct {
	Reference string `json:"reference" query:"reference"`
}

// ImageResponse holds one image; Found is false when the catalogue does not have it.
type ImageResponse struct {
	Found bool  `json:"found"`
	Image Image `json:"image"`
}

// ImagesResponse lists the catalogue.
type ImagesResponse struct {
	Images []Image `json:"images"`
}

// The endpoints.
var (
	Heartbeat     = rpc.Endpoint[HeartbeatRequest, HeartbeatResponse]{Service: "cluster-inventory", Resource: "node", Verb: "heartbeat", Doc: "Renews a node's lease."}
	Nodes         = rpc.Endpoint[NodesRequest, NodesResponse]{Service: "cluster-inventory", Resource: "node", Verb: "list", Doc: "Nodes with devices, for placement."}
	Groups        = rpc.Endpoint[GroupsRequest, GroupsResponse]{Service: "cluster-inventory", Resource: "group", Verb: "list", Doc: "Cluster groups with GPUs, types and free counts."}
	SupportedGPUs = rpc.Endpoint[rpc.None, []SupportedGPU]{Service: "cluster-inventory", Resource: "gpu", Verb: "list", Doc: "GPU names and backends (deprecated)."}
	PutImage      = rpc.Endpoint[ImageRequest, Image]{Service: "cluster-inventory", Resource: "image", Verb: "put", Doc: "Adds or replaces an image of the process catalogue."}
	DeleteImage   = rpc.Endpoint[ImageQuery, rpc.None]{Service: "cluster-inventory", Resource: "image", Verb: "delete", Doc: "Removes an image of the process catalogue."}
	ListImages    = rpc.Endpoint[rpc.None, ImagesResponse]{Service: "cluster-inventory", Resource: "image", Verb: "list", Doc: "The process catalogue."}
	FindImage     = rpc.Endpoint[ImageQuery, ImageResponse]{Service: "cluster-inventory", Resource: "image", Verb: "find", Doc: "The command behind an image reference, for an agent."}
)

// ClusterChanged is the payload of the cluster events.
type ClusterChanged struct {
	ClusterID string `json:"clusterId"`
	Name      string `json:"name"`
	Group     string `json:"group"`
	Region    string `json:"region"`
	From      string `json:"from,omitempty"`
	To        string `json:"to,omitempty"`
	Reason    string `json:"reason,omitempty"`
}

// NodeChanged reports that the inventory sees a node in another state.
type NodeChanged struct {
	ClusterID string    `json:"clusterId"`
	Cluster   string    `json:"cluster"`
	Node      string    `json:"node"`
	Epoch     int64     `json:"epoch"`
	From      NodeState `json:"from"`
	To        NodeState `json:"to"`
	Reason    string    `json:"reason"`
}

// ImageChanged is the payload of the image events.
type ImageChanged struct {
	Image Image `json:"image"`
}

// The events. Capacity is published by the agents themselves, everything else by the inventory.
var (
	CapacitySnapshot  = rpc.Event[Snapshot]{Domain: event.Nodes, Entity: "node", Name: "snapshot_taken", Version: 1, Doc: "The whole capacity of a node."}
	CapacityDelta     = rpc.Event[Delta]{Domain: event.Nodes, Entity: "node", Name: "capacity_changed", Version: 1, Doc: "Devices of a node changed."}
	NodeLeft          = rpc.Event[Bye]{Domain: event.Nodes, Entity: "node", Name: "left", Version: 1, Doc: "An agent stopped in an orderly way."}
	ClusterRegistered = rpc.Event[ClusterChanged]{Domain: event.Clusters, Entity: "cluster", Name: "registered", Version: 1, Doc: "A cluster became known."}
	ClusterMoved      = rpc.Event[ClusterChanged]{Domain: event.Clusters, Entity: "cluster", Name: "status_changed", Version: 1, Doc: "A cluster moved to another state."}
	NodeMoved         = rpc.Event[NodeChanged]{Domain: event.Clusters, Entity: "node", Name: "state_changed", Version: 1, Doc: "The inventory sees a node in another state."}
	ImagePut          = rpc.Event[ImageChanged]{Domain: event.Clusters, Entity: "image", Name: "catalogued", Version: 1, Doc: "An image was added to the process catalogue."}
	ImageRemoved      = rpc.Event[ImageChanged]{Domain: event.Clusters, Entity: "image", Name: "removed", Version: 1, Doc: "An image was removed from the process catalogue."}
)
