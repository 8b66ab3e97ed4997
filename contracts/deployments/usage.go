package deployments

import (
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// UsageRequest is GET /v2/nvcf/accounts/{ncaId}/usage/gpus.
type UsageRequest struct {
	Account string `json:"account" path:"ncaId"`
}

// Usage is what the deployments of an account may use: the sums of their minimums and maximums.
type Usage struct {
	GPUs []TypeUsage `json:"gpus"`
}

// TypeUsage is the usage of one GPU name and instance type, in instances.
type TypeUsage struct {
	GPU             string           `json:"gpu"`
	InstanceType    string           `json:"instanceType"`
	CurrentMinUsage int              `json:"currentMinUsage"`
	CurrentMaxUsage int              `json:"currentMaxUsage"`
	Placements      []PlacementUsage `json:"placements"`
}

// PlacementUsage is the part of it that is on one cluster.
type PlacementUsage struct {
	ClusterID       string `json:"clusterId"`
	Cluster         string `json:"cluster"`
	ClusterGroupID  string `json:"clusterGroupId"`
	ClusterGroup    string `json:"clusterGroup"`
	CloudProvider   string `json:"cloudProvider"`
	Region          string `json:"region"`
	CurrentMinUsage int    `json:"currentMinUsage"`
	CurrentMaxUsage int    `json:"currentMaxUsage"`
}

// LiveUsage is GET /v1/si/accounts/{ncaId}/gpu/usage: what runs and what starts. The capital is what clients read.
type LiveUsage struct {
	GPUs []LiveGPU `json:"Gpus"` //nolint:tagliatelle // so it is on the wire
}

// DeploymentUsageRequest is GET /v1/si/accounts/{ncaId}/deployments/{deploymentId}/gpu/usage.
type DeploymentUsageRequest struct {
	Account      string `json:"account" path:"ncaId"`
	DeploymentID string `json:"deploymentId" path:"deploymentId"`
	clusters.Filter
}

// DeploymentsUsage answers it.
type DeploymentsUsage struct {
	Deployments []DeploymentUsage `json:"deployments"`
}

// DeploymentUsage is the live usage of one deployment.
type DeploymentUsage struct {
	DeploymentID string    `json:"deploymentId"`
	GPUs         []LiveGPU `json:"gpus"`
}

// LiveGPU is one GPU name.
type LiveGPU struct {
	GPUName   string     `json:"gpuName"`
	Instances []LiveType `json:"instances"`
}

// LiveType is one instance type.
type LiveType struct {
	InstanceName string       `json:"instanceName"`
	Regions      []LiveRegion `json:"regions"`
}

// LiveRegion is one region.
type LiveRegion struct {
	RegionName string        `json:"regionName"`
	Clusters   []LiveCluster `json:"clusters"`
}

// LiveCluster is one cluster.
type LiveCluster struct {
	ClusterID        string     `json:"clusterId"`
	ClusterGroupName string     `json:"clusterGroupName"`
	Status           LiveCounts `json:"status"`
}

// LiveCounts are instances that run and instances that start.
type LiveCounts struct {
	ActiveInstances  int `json:"activeInstances"`
	PendingInstances int `json:"pendingInstances"`
}

// CapacityRequest is what the hosted clients ask (clusters-agents §1.8), for the caller's account.
type CapacityRequest struct {
	GPUs    []string `json:"gpus,omitempty" query:"gpus"`
	Regions []string `json:"regions,omitempty" query:"regions"`
}

// OfferedType is one instance type that the account can deploy, with how many of its instances there are and could be.
type OfferedType struct {
	Name             string   `json:"name"`
	Value            string   `json:"value"`
	Description      string   `json:"description"`
	CurrentInstances int      `json:"currentInstances"`
	MaxInstances     int      `json:"maxInstances"`
	CPUCores         int      `json:"cpuCores"`
	SystemMemory     string   `json:"systemMemory"`
	GPUMemory        string   `json:"gpuMemory"`
	GPUCount         int      `json:"gpuCount"`
	ClusterGroupName string   `json:"clusterGroupName"`
	Clusters         []string `json:"clusters"`
	Regions          []string `json:"regions"`
	Attributes       []string `json:"attributes"`
	DriverVersion    string   `json:"driverVersion"`
	Storage          string   `json:"storage"`
}

// CapacityType is the use of one instance type by region and cluster.
type CapacityType struct {
	InstanceName string           `json:"instanceName"`
	Value        string           `json:"value"`
	Regions      []CapacityRegion `json:"regions"`
}

// CapacityRegion is one region.
type CapacityRegion struct {
	RegionName string            `json:"regionName"`
	Clusters   []CapacityCluster `json:"clusters"`
}

// CapacityCluster is one cluster.
type CapacityCluster struct {
	ClusterID   string         `json:"clusterId"`
	ClusterName string         `json:"clusterName"`
	Usage       CapacityCounts `json:"usage"`
}

// CapacityCounts are bounds of what is deployed there, what runs, and what is free.
type CapacityCounts struct {
	MinInstances       int `json:"minInstances"`
	MaxInstances       int `json:"maxInstances"`
	ActiveInstances    int `json:"activeInstances"`
	AvailableInstances int `json:"availableInstances"`
	ActiveGPUs         int `json:"activeGpus"`
	AvailableGPUs      int `json:"availableGpus"`
}

// RolloverRequest is PUT /v2/nvcf/accounts/{ncaId}/rolloverWorkers/functions/{functionId}/versions/{versionId}; without
// specifications every instance is replaced.
type RolloverRequest struct {
	Account        string     `json:"account" path:"ncaId"`
	FunctionID     string     `json:"functionId" path:"functionId"`
	VersionID      string     `json:"versionId" path:"versionId"`
	Specifications []Rollover `json:"rollOverSpecifications" body:"optional"`
}

// Rollover says how many instances of one GPU and instance type are replaced.
type Rollover struct {
	GPU          string `json:"gpu"`
	InstanceType string `json:"instanceType"`
	NumInstances *int   `json:"numInstances"`
}

// RolloverResponse names the requests of the instances that will go.
type RolloverResponse struct {
	ICMSRequestIDs []string `json:"icmsRequestIds"`
}

// InstanceRequest is DELETE /v2/nvcf/instances/{instanceId}.
type InstanceRequest struct {
	InstanceID string `json:"instanceId" path:"instanceId"`
}

// InstanceResponse is the instance that is ended; another one takes its place when the deployment wants it.
type InstanceResponse struct {
	InstanceID string `json:"instanceId"`
	Status     string `json:"status"`
}

// GoldenImages answers GET /v2/nvcf/sidecars/goldenimages. Sirocco runs no side-cars, so there is none.
type GoldenImages struct {
	GoldenImages []string `json:"goldenImages"`
}

// The endpoints of usage, capacity and operations.
var (
	GetUsage           = rpc.Endpoint[UsageRequest, Usage]{Service: "deployments", Resource: "usage", Verb: "get", Doc: "What the deployments of an account may use."}
	GetLiveUsage       = rpc.Endpoint[clusters.ListingRequest, LiveUsage]{Service: "deployments", Resource: "usage", Verb: "live", Doc: "The instances of an account that run or start, by place."}
	GetDeploymentUsage = rpc.Endpoint[DeploymentUsageRequest, DeploymentsUsage]{Service: "deployments", Resource: "usage", Verb: "deployment", Doc: "The instances of one deployment, by place."}
	GetOffers          = rpc.Endpoint[CapacityRequest, map[string][]OfferedType]{Service: "deployments", Resource: "capacity", Verb: "offers", Doc: "The instance types that the account can deploy, by GPU name."}
	GetCapacity        = rpc.Endpoint[CapacityRequest, map[string][]CapacityType]{Service: "deployments", Resource: "capacity", Verb: "get", Doc: "Used and free capacity by GPU name, instance type, region and cluster."}
	RollOver           = rpc.Endpoint[RolloverRequest, RolloverResponse]{Service: "deployments", Resource: "instance", Verb: "rollover", Doc: "Replaces instances of a version by new ones."}
	RemoveInstance     = rpc.Endpoint[InstanceRequest, InstanceResponse]{Service: "deployments", Resource: "instance", Verb: "remove", Doc: "Ends one instance."}
	ListGoldenImages   = rpc.Endpoint[rpc.None, GoldenImages]{Service: "deployments", Resource: "sidecar", Verb: "images", Doc: "The side-car images; there are none."}
)
