// Package access decides who may do what. Scopes, resource types and the matrix of rows are data ([Matrix]); the
// decision is a pure function ([Decide]), used by the gateway on every request and by the documentation.
//
// A credential is either a JWT, which carries scopes and no resources, or an opaque key, whose policies pair scopes
// with resources. Scope and resource must come from the same policy (spec keys §7.3).
package access

// Scope is a permission by its wire name.
type Scope = string

// The scopes (keys §7.1).
const (
	InvokeFunction      Scope = "invoke_function"
	ListFunctions       Scope = "list_functions"
	ListFunctionDetails Scope = "list_functions_details"
	QueueDetails        Scope = "queue_details"
	RegisterFunction    Scope = "register_function"
	DeployFunction      Scope = "deploy_function"
	UpdateFunction      Scope = "update_function"
	DeleteFunction      Scope = "delete_function"
	AuthorizeClients    Scope = "authorize_clients"
	UpdateSecrets       Scope = "update_secrets"
	ManageRegistries    Scope = "manage_registry_credentials"
	ManageTelemetries   Scope = "manage_telemetries"
	ListClusters        Scope = "list_clusters"
	ListClusterGroups   Scope = "list_cluster_groups"
	ClusterManagement   Scope = "cluster-management"
	AccountSetup        Scope = "account_setup"
	AuditRead           Scope = "audit:read"
	LaunchTask          Scope = "launch_task"
	ListTasks           Scope = "list_tasks"
	TaskDetails         Scope = "task_details"
	CancelTask          Scope = "cancel_task"
	DeleteTask          Scope = "delete_task"
	ListEvents          Scope = "list_events"
	ListResults         Scope = "list_results"
	ReadGPUQuotaRule    Scope = "read_gpu_quota_rule"
	GPUCapacity         Scope = "gpu_capacity"
	ManageKeys          Scope = "manage_keys"
	PDPEvaluate         Scope = "pdp-evaluate"
	NodeAgent           Scope = "nvca-cluster"
	// ManageAccess is ours: the users, applications and access rules of the access API (keys §9).
	ManageAccess Scope = "access:manage"
)

// AdminPrefix starts the scopes that reach across accounts; they count in tokens only (keys §6.3).
const AdminPrefix = "admin:"

// AdminDefaults are the scopes of a token minted by POST /v1/admin/keys (keys §4.14). An operator may add more.
func AdminDefaults() []Scope {
	return []Scope{
		RegisterFunction, ListFunctions, ListFunctionDetails, DeployFunction, UpdateFunction, UpdateSecrets,
		DeleteFunction, ManageTelemetries, ManageRegistries, ClusterManagement,
	}
}

// ResourceType is the kind of thing that a key's policy names (keys §7.2).
type ResourceType string

// The resource types by their wire names.
const (
	AllFunctions    ResourceType = "account-functions"
	SharedFunctions ResourceType = "authorized-functions"
	Function        ResourceType = "function"
	AllClusters     ResourceType = "account-clusters"
	Cluster         ResourceType = "cluster"
	AllTasks        ResourceType = "account-tasks"
	Task            ResourceType = "task"
	AllEntity       ResourceType = "*"
)

// Reach is how far one resource entry goes; F and V of keys §7.2 share the wire type "function".
type Reach string

// The reaches, named as in the matrix of keys §7.4.
const (
	AF Reach = "AF"
	SF Reach = "SF"
	F  Reach = "F"
	V  Reach = "V"
	AC Reach = "AC"
	CL Reach = "CL"
	AE Reach = "AE"
	AT Reach = "AT"
	T  Reach = "T"
)

// Wire is the reach as a key's policy spells it: type and id.
func (r Reach) Wire() string { return reachWire[r] }

var reachWire = map[Reach]string{
	AF: "account-functions/*", SF: "authorized-functions/*", F: "function/<functionId>/*",
	V: "function/<functionId>/<versionId>", AC: "account-clusters/*", CL: "cluster/<clusterId>", AE: "*/*",
	AT: "account-tasks/*", T: "task/<taskId>",
}
