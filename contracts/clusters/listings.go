package clusters

import (
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// CloudProvider is what every cluster without another one is on, in the two spellings of clusters-agents §1.6.
const (
	CloudProvider     = "ON-PREM"
	CloudProviderName = "ONPREM"
)

// Uses of instance types that a listing may be narrowed to (functions-deployments §12).
const (
	UsageDefault   = "DEFAULT"
	UsageContainer = "CONTAINER"
)

// MultiNode is the node type of an instance type that spans nodes.
const MultiNode = "MULTI"

// Everyone is the account that stands for all: a cluster that authorizes it is public.
const Everyone = "*"

// UsableBy reports whether an account may deploy on a node: its own, one that belongs to nobody, one of a cluster that
// authorizes it.
func (n Node) UsableBy(account string) bool {
	return n.Account == account || n.Account == "" || slices.Contains(n.Authorized, account) || slices.Contains(n.Authorized, Everyone)
}

// Filter narrows a listing (functions-deployments §12). Names are compared without case; an empty list means any.
type Filter struct {
	Regions  []string `json:"regions,omitempty" query:"regions"`
	Clusters []string `json:"clusters,omitempty" query:"clusters"`
	// Attributes that a cluster must have, all of them.
	Attributes   []string `json:"attributes,omitempty" query:"attributes"`
	GPUs         []string `json:"gpus,omitempty" query:"gpus"`
	Backends     []string `json:"backends,omitempty" query:"backends"`
	InstanceType []string `json:"instanceType,omitempty" query:"instanceType"`
	// InstanceTypeUsage is DEFAULT or CONTAINER; the second keeps the types that fit one node.
	InstanceTypeUsage string `json:"instanceTypeUsage,omitempty" query:"instanceTypeUsage"`
	// CapacityValidation leaves out what has no free capacity now; it is on unless it is false.
	CapacityValidation *bool `json:"capacityValidation,omitempty" query:"capacityValidation"`
}

// HasNode reports whether a node passes the filter.
func (f Filter) HasNode(n Node) bool {
	for _, a := range f.Attributes {
		if !slices.ContainsFunc(n.Attributes, func(has string) bool { return strings.EqualFold(has, a) }) {
			return false
		}
	}
	return among(f.Regions, n.Facts.Region) && among(f.Clusters, n.Cluster) && among(f.Backends, n.Cluster)
}

// HasType reports whether an instance type passes the filter.
func (f Filter) HasType(t InstanceType) bool {
	return among(f.GPUs, t.GPU) && among(f.InstanceType, t.Name) &&
		(!strings.EqualFold(f.InstanceTypeUsage, UsageContainer) || t.NodeType != MultiNode)
}

// Valid refuses a use of instance types that there is not.
func (f Filter) Valid() error {
	check := problem.NewCheck("listing")
	known := f.InstanceTypeUsage == "" || strings.EqualFold(f.InstanceTypeUsage, UsageDefault) || strings.EqualFold(f.InstanceTypeUsage, UsageContainer)
	check.Require(known, "instanceTypeUsage", "must be %s or %s", UsageDefault, UsageContainer)
	return check.Err()
}

// Capacity reports whether only what has free capacity is listed.
func (f Filter) Capacity() bool { return f.CapacityValidation == nil || *f.CapacityValidation }

func among(names []string, name string) bool {
	return len(names) == 0 || slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}

// ListingRequest asks about what an account may use.
type ListingRequest struct {
	Account string `json:"account" path:"ncaId"`
	Filter
}

// GPUNames answers GET /v1/si/accounts/{ncaId}/gpus.
type GPUNames struct {
	GPUs []string `json:"gpus"`
}

// RegionNames answers GET …/regions.
type RegionNames struct {
	Regions []string `json:"regions"`
}

// ClusterNames answers GET …/clusterNames.
type ClusterNames struct {
	ClusterNames []string `json:"clusterNames"`
}

// AttributeNames answers GET …/attributes.
type AttributeNames struct {
	Attributes []string `json:"attributes"`
}

// TypeDetails is one instance type over all clusters that offer it.
type TypeDetails struct {
	Name              string   `json:"name"`
	Value             string   `json:"value"`
	Description       string   `json:"description"`
	GPUName           string   `json:"gpuName"`
	GPUCount          int      `json:"gpuCount"`
	CPUCores          int      `json:"cpuCores"`
	CPUArch           string   `json:"cpuArch"`
	OS                string   `json:"os"`
	DriverVersion     string   `json:"driverVersion"`
	Storage           string   `json:"storage"`
	SystemMemory      string   `json:"systemMemory"`
	GPUMemory         string   `json:"gpuMemory"`
	AvailableCapacity int      `json:"availableCapacity"`
	Clusters          []string `json:"clusters"`
	Regions           []string `json:"regions"`
	Attributes        []string `json:"attributes"`
	Defaultable       bool     `json:"defaultable"`
	NodeType          string   `json:"nodeType"`
}

// Availability is the tree of GET …/instanceTypes/availability: GPU, instance type, region, cluster.
type Availability struct {
	GPUs []AvailableGPU `json:"gpus"`
}

// AvailableGPU is one GPU name.
type AvailableGPU struct {
	GPUName       string          `json:"gpuName"`
	InstanceTypes []AvailableType `json:"instanceTypes"`
}

// AvailableType is one instance type with where it fits.
type AvailableType struct {
	InstanceName  string            `json:"instanceName"`
	Value         string            `json:"value"`
	Description   string            `json:"description"`
	GPUCount      int               `json:"gpuCount"`
	CPUCores      int               `json:"cpuCores"`
	CPUArch       string            `json:"cpuArch"`
	SystemMemory  string            `json:"systemMemory"`
	GPUMemory     string            `json:"gpuMemory"`
	Storage       string            `json:"storage"`
	OS            string            `json:"os"`
	DriverVersion string            `json:"driverVersion"`
	NodeType      string            `json:"nodeType"`
	Defaultable   bool              `json:"defaultable"`
	Regions       []AvailableRegion `json:"regions"`
}

// AvailableRegion is one region.
type AvailableRegion struct {
	RegionName string             `json:"regionName"`
	Clusters   []AvailableCluster `json:"clusters"`
}

// AvailableCluster is one cluster; MaxClusterAvailableCapacity counts instances of the type that fit now.
type AvailableCluster struct {
	ClusterID                   string   `json:"clusterId"`
	ClusterName                 string   `json:"clusterName"`
	CloudProvider               string   `json:"cloudProvider"`
	ClusterGroup                string   `json:"clusterGroup"`
	IsDefaultInstanceType       bool     `json:"isDefaultInstanceType"`
	MaxClusterAvailableCapacity int      `json:"maxClusterAvailableCapacity"`
	Attributes                  []string `json:"attributes"`
}

// SettingsRequest is PUT /v2/nvcf/clusters/{clusterId}/settings: who else may use a cluster, and what it can do.
type SettingsRequest struct {
	ClusterID        string   `json:"clusterId" path:"clusterId"`
	AuthorizedNCAIDs []string `json:"authorizedNcaIds"`
	Attributes       []string `json:"attributes"`
}

// Settings are those of a cluster.
type Settings struct {
	ClusterID        string   `json:"clusterId"`
	ClusterName      string   `json:"clusterName"`
	AuthorizedNCAIDs []string `json:"authorizedNcaIds"`
	Attributes       []string `json:"attributes"`
}

// QuotaRule bounds the GPUs of an account (clusters-agents §1.8). GPU "*" and no cluster mean any; the most specific rule
// counts.
type QuotaRule struct {
	ID       string   `json:"ruleId"`
	NCAID    string   `json:"ncaId"`
	GPU      string   `json:"gpu"`
	Clusters []string `json:"clusters"`
	Regions  []string `json:"regions"`
	// Limit counts GPUs, over the clusters and regions together; MaxInstances counts instances, and 0 means any number.
	Limit        int `json:"limit"`
	MaxInstances int `json:"maxInstances,omitempty"`
	// Reserved GPUs are kept free for the account while it does not use them.
	Reserved int `json:"reserved,omitempty"`
	// Burst is how many GPUs beyond the limit work may use while there is room; no minimum counts on it.
	Burst int `json:"burst,omitempty"`
	// Priority has the account's instances placed before those of accounts with a lower one.
	Priority int `json:"priority,omitempty"`
}

// QuotaRuleRequest is POST /v2/nvcf/gpu/quota/rules and PUT …/{ruleId}.
type QuotaRuleRequest struct {
	RuleID   string   `json:"ruleId,omitempty" path:"ruleId"`
	GPU      string   `json:"gpu"`
	Clusters []string `json:"clusters"`
	Regions  []string `json:"regions"`
	Limit    *int     `json:"limit"`

	MaxInstances int `json:"maxInstances,omitempty"`
	Reserved     int `json:"reserved,omitempty"`
	Burst        int `json:"burst,omitempty"`
	Priority     int `json:"priority,omitempty"`
}

// QuotaRuleQuery names one rule.
type QuotaRuleQuery struct {
	RuleID string `json:"ruleId" path:"ruleId"`
}

// QuotaRules answers the reads of quota: Rules as they were set, GPUs as the hosted clients read them.
type QuotaRules struct {
	GPUs  []QuotaGPU  `json:"gpus"`
	Rules []QuotaRule `json:"rules"`
}

// QuotaGPU is the quota of one GPU name.
type QuotaGPU struct {
	Name     string         `json:"name"`
	Clusters []QuotaCluster `json:"clusters"`
}

// QuotaCluster is one rule: the clusters it is about, with commas between, and its limit.
type QuotaCluster struct {
	Names string `json:"names"`
	Limit int    `json:"limit"`
}

// QuotaQuery asks for the rules of an account, for another service; without one, for those of all accounts.
type QuotaQuery struct {
	Account string `json:"account"`
}

// The endpoints of listings, settings and quota.
var (
	ListGPUs        = rpc.Endpoint[ListingRequest, GPUNames]{Service: "cluster-inventory", Resource: "listing", Verb: "gpus", Doc: "The GPU names that an account may use."}
	ListRegions     = rpc.Endpoint[ListingRequest, RegionNames]{Service: "cluster-inventory", Resource: "listing", Verb: "regions", Doc: "The regions that an account may use."}
	ListClusters    = rpc.Endpoint[ListingRequest, ClusterNames]{Service: "cluster-inventory", Resource: "listing", Verb: "clusters", Doc: "The names of the clusters that an account may use."}
	ListAttributes  = rpc.Endpoint[ListingRequest, AttributeNames]{Service: "cluster-inventory", Resource: "listing", Verb: "attributes", Doc: "The attributes of the clusters that an account may use."}
	ListTypes       = rpc.Endpoint[ListingRequest, map[string][]TypeDetails]{Service: "cluster-inventory", Resource: "listing", Verb: "types", Doc: "The instance types that an account may use, by GPU name."}
	ListAvailable   = rpc.Endpoint[ListingRequest, Availability]{Service: "cluster-inventory", Resource: "listing", Verb: "available", Doc: "Where instance types fit now."}
	ListGroups      = rpc.Endpoint[ListingRequest, GroupsResponse]{Service: "cluster-inventory", Resource: "listing", Verb: "groups", Doc: "The cluster groups that an account may use, narrowed by a filter."}
	Configure       = rpc.Endpoint[SettingsRequest, Settings]{Service: "cluster-inventory", Resource: "cluster", Verb: "configure", Doc: "Sets who else may use a cluster, and its attributes."}
	PutQuotaRule    = rpc.Endpoint[QuotaRuleRequest, QuotaRule]{Service: "cluster-inventory", Resource: "quota", Verb: "put", Doc: "Makes or replaces a quota rule of the account."}
	GetQuotaRule    = rpc.Endpoint[QuotaRuleQuery, QuotaRule]{Service: "cluster-inventory", Resource: "quota", Verb: "get", Doc: "One quota rule of the account."}
	DeleteQuotaRule = rpc.Endpoint[QuotaRuleQuery, rpc.None]{Service: "cluster-inventory", Resource: "quota", Verb: "delete", Doc: "Removes a quota rule of the account."}
	GetQuotaRules   = rpc.Endpoint[rpc.None, QuotaRules]{Service: "cluster-inventory", Resource: "quota", Verb: "list", Doc: "The quota rules of the caller's account."}
	FindQuotaRules  = rpc.Endpoint[QuotaQuery, QuotaRules]{Service: "cluster-inventory", Resource: "quota", Verb: "find", Doc: "The quota rules of an account, for another service."}
)

// The events of settings and quota.
var (
	Configured       = rpc.Event[Settings]{Domain: event.Clusters, Entity: "cluster", Name: "configured", Version: 1, Doc: "Who may use a cluster, or what it can do, changed."}
	QuotaRulePut     = rpc.Event[QuotaRule]{Domain: event.Clusters, Entity: "quota", Name: "rule_set", Version: 1, Doc: "A quota rule was made or replaced."}
	QuotaRuleRemoved = rpc.Event[QuotaRule]{Domain: event.Clusters, Entity: "quota", Name: "rule_removed", Version: 1, Doc: "A quota rule was removed."}
)
