package access

import "slices"

// Row is one line of the matrix of keys §7.4: what a route asks of a credential.
type Row struct {
	// Name identifies the row in routes and documentation.
	Name string
	// What completes the sentence "this credential may …".
	What string
	// Ways lists alternatives; a credential needs one of them.
	Ways []Way
	// Audience is the service id a key must be made for.
	Audience string
}

// Way is one alternative of a row.
type Way struct {
	// Scopes are all needed.
	Scopes []Scope
	// Reaches are the resource entries of a key that are compatible; none means tokens only.
	Reaches []Reach
	// Own ways lead only to the account of the credential, although the path could name another.
	Own bool
}

// Matrix is every row, by name.
var Matrix = map[string]Row{}

func row(audience, name, what string, ways ...Way) Row {
	r := Row{Name: name, What: what, Ways: ways, Audience: audience}
	Matrix[name] = r
	return r
}

// by is a way that keys may go, with resources of these types; tokens may go every way.
func by(reaches []Reach, scopes ...Scope) Way { return Way{Scopes: scopes, Reaches: reaches} }

// byToken is a way for tokens only.
func byToken(scopes ...Scope) Way { return Way{Scopes: scopes} }

var (
	created   = []Reach{AF, AE}
	managed   = []Reach{AF, F, V, AE}
	invokable = []Reach{AF, SF, F, V}
	visible   = []Reach{AF, SF, F, V, AE}
	entity    = []Reach{AE}
	clustered = []Reach{AC, AE}
	anyTask   = []Reach{AT, T, AE}
)

// The rows of functions (1–16).
var (
	CreateFunction = row(FunctionsAudience, "function.create", "create a function", by(created, RegisterFunction))
	CreateVersion  = row(FunctionsAudience, "version.create", "create a version", by([]Reach{AF, F, AE}, RegisterFunction))
	SupportedGPUs  = row(FunctionsAudience, "gpu.read", "list supported GPUs",
		byToken("admin:"+RegisterFunction), by(entity, GPUCapacity), by(managed, RegisterFunction))
	ReadFunctions    = row(FunctionsAudience, "function.read", "read functions", by(visible, ListFunctionDetails), by(visible, ListFunctions))
	Deploy           = row(FunctionsAudience, "deployment.write", "deploy a function", by(managed, DeployFunction, ListFunctions))
	ReadDeployment   = row(FunctionsAudience, "deployment.read", "read or remove a deployment", by(managed, DeployFunction))
	WriteFunction    = row(FunctionsAudience, "function.update", "update a function", by(managed, UpdateFunction))
	RemoveFunction   = row(FunctionsAudience, "function.delete", "delete a function", by(managed, DeleteFunction))
	WriteSecrets     = row(FunctionsAudience, "secret.update", "update the secrets of a function", by(managed, UpdateSecrets))
	TelemetrySecrets = row(FunctionsAudience, "telemetry.secret", "update the secret of a telemetry endpoint", by(entity, UpdateSecrets))
	ShareFunction    = row(FunctionsAudience, "function.share", "share a function", by([]Reach{AF}, AuthorizeClients))
	Invoke           = row(FunctionsAudience, "function.invoke", "invoke a function", by(invokable, InvokeFunction))
	ManageAssets     = row(FunctionsAudience, "asset.manage", "use assets", by(invokable, InvokeFunction))
	ManageTelemetry  = row(FunctionsAudience, "telemetry.manage", "manage telemetry endpoints", by(entity, ManageTelemetries))
	ManageRegistry   = row(FunctionsAudience, "registry.manage", "manage registry credentials", by(entity, ManageRegistries))
	ReadQueues       = row(FunctionsAudience, "queue.read", "read queues", by(visible, QueueDetails))
)

// The rows of clusters, capacity and quota (17–20, 29).
var (
	// A token that manages clusters may list them too: the administrator's default scopes have no other one for it.
	ReadGroups = row(FunctionsAudience, "clustergroup.read", "list cluster groups",
		by([]Reach{AC, AE, AF}, ListClusterGroups), by(clustered, "nvcf:listClusters"), by(clustered, "nvcf:getCluster"),
		byToken(ClusterManagement), by(clustered, ListClusters))
	ListOrgClusters = row(FunctionsAudience, "cluster.list", "list clusters",
		by([]Reach{AC, AE, CL}, ListClusterGroups), by([]Reach{AC, AE, CL}, "nvcf:listClusters"), by([]Reach{AC, AE, CL}, "nvcf:getCluster"),
		byToken(ClusterManagement), by([]Reach{AC, AE, CL}, ListClusters))
	WriteOrgCluster = row(FunctionsAudience, "cluster.register", "register a cluster",
		by([]Reach{AC, AE, CL}, "nvcf:writeCluster"), byToken(ClusterManagement))
	DeleteOrgCluster = row(FunctionsAudience, "cluster.delete", "delete a cluster",
		by([]Reach{AC, AE, CL}, "nvcf:deleteCluster"), byToken(ClusterManagement))
	ReadQuota      = row(FunctionsAudience, "quota.read", "read GPU quota rules", by(entity, ReadGPUQuotaRule))
	ReadCapacity   = row(FunctionsAudience, "capacity.read", "read GPU capacity", by(entity, GPUCapacity))
	ManageClusters = row(FunctionsAudience, "cluster.manage", "manage clusters", byToken(ClusterManagement))
)

// The rows of accounts (21), of what only a super administrator does beside the mirrors (22), and of the audit record.
var (
	ReadAccounts   = row(FunctionsAudience, "account.read", "read accounts", by(entity, AccountSetup))
	WriteAccounts  = row(FunctionsAudience, "account.write", "change accounts", byToken(AccountSetup))
	ReadUsage      = row(FunctionsAudience, "usage.read", "read the GPU usage of an account", byToken("admin:"+DeployFunction))
	RollOver       = row(FunctionsAudience, "instance.rollover", "replace the instances of a function", byToken("admin:"+DeployFunction))
	ReadSidecars   = row(FunctionsAudience, "sidecar.read", "read side-car images", byToken("admin:"+DeployFunction))
	RemoveInstance = row(FunctionsAudience, "instance.delete", "remove an instance", byToken("admin:"+DeleteFunction))
	// The administrator's default scopes have none of their own for the audit record; who manages clusters may read it.
	ReadAudit = row(EventsAudience, "audit.read", "read the audit record", byToken(AccountSetup), byToken(ClusterManagement), by(entity, AuditRead))
)

// The rows of tasks (24–28).
var (
	LaunchTasks     = row(TasksAudience, "task.create", "launch a task", by([]Reach{AT, AE}, LaunchTask))
	ReadTasks       = row(TasksAudience, "task.list", "list tasks", by(anyTask, ListTasks))
	ReadTask        = row(TasksAudience, "task.read", "read a task", by(anyTask, TaskDetails))
	RemoveTask      = row(TasksAudience, "task.delete", "delete a task", by(anyTask, DeleteTask))
	CancelTasks     = row(TasksAudience, "task.cancel", "cancel a task", by(anyTask, CancelTask))
	ReadTaskEvents  = row(TasksAudience, "task.events", "read the events of a task", by(anyTask, ListEvents))
	ReadTaskResults = row(TasksAudience, "task.results", "read the results of a task", by(anyTask, ListResults))
	TaskSecrets     = row(TasksAudience, "task.secrets", "update the secrets of a task", by(anyTask, UpdateSecrets))
)

// The rows of the keys host in secured mode and of the access API (32, keys §3 and §9.5).
var (
	ManageKey = row(FunctionsAudience, "key.manage", "manage keys", byToken(AccountSetup), byToken(ManageKeys))
	Evaluate  = row(FunctionsAudience, "key.evaluate", "evaluate keys", byToken(AccountSetup), byToken(PDPEvaluate))
	// HostedKey mints the keys that the hosted command line asks for when it registers a cluster (keys §4.13).
	HostedKey = row(FunctionsAudience, "key.hosted", "create service keys", byToken(ClusterManagement), byToken(ManageKeys))
	AdminKeys = row(FunctionsAudience, "key.admin", "administer keys and owners", byToken(AccountSetup))
	// ManagePeople and SignedIn are for tokens of the access API; the second needs nothing but a valid one.
	ManagePeople = row(FunctionsAudience, "access.manage", "manage users, applications and access rules", byToken(ManageAccess))
	SignedIn     = row(FunctionsAudience, "access.self", "act for itself", byToken())
	ExplainKey   = row(FunctionsAudience, "key.explain", "explain decisions", byToken(AccountSetup), byToken(ManageKeys), byToken(ClusterManagement))
)

// The rows of the inventory's listings (31), for services and consoles.
var (
	ListGPUs       = row(FunctionsAudience, "listing.gpus", "list GPU names", byToken("gpu_listing"))
	ListRegions    = row(FunctionsAudience, "listing.regions", "list regions", byToken("regions_listing"))
	ListNames      = row(FunctionsAudience, "listing.clusters", "list cluster names", byToken("clusters_listing"))
	ListAttributes = row(FunctionsAudience, "listing.attributes", "list cluster attributes", byToken("attributes_listing"))
	ListTypes      = row(FunctionsAudience, "listing.types", "list instance types", byToken("instance_types"))
	ListGroups     = row(FunctionsAudience, "listing.groups", "list the cluster groups of an account", byToken("cluster_listing"))
	ReadGPUUsage   = row(FunctionsAudience, "listing.usage", "read GPU usage", byToken("gpu-usage"), byToken("spot-gpu-usage"))
	WriteQuota     = row(FunctionsAudience, "quota.write", "change GPU quota rules", byToken("admin:manage_gpu_quota_rule"), byToken(ClusterManagement))
)

// ForAccount is the row of the same operation under /accounts/{ncaId}: the admin form of each scope, tokens only (row 22).
// Clients with a plain token use these paths for their own account too, so the plain scopes lead there and no further.
func (r Row) ForAccount() Row {
	mirror := Row{Name: "account." + r.Name, What: r.What + " in any account", Audience: r.Audience}
	for _, w := range r.Ways {
		if !slices.ContainsFunc(w.Scopes, isAdmin) {
			mirror.Ways = append(mirror.Ways, Way{Scopes: w.Scopes, Own: true})
		}
	}
	for _, w := range r.Ways {
		if slices.ContainsFunc(w.Scopes, isAdmin) {
			mirror.Ways = append(mirror.Ways, byToken(w.Scopes...))
			continue
		}
		var scopes []Scope
		for _, s := range w.Scopes {
			scopes = append(scopes, AdminPrefix+s)
		}
		mirror.Ways = append(mirror.Ways, byToken(scopes...))
	}
	return mirror
}

// Takes reports whether entries of this reach are compatible with some way of the row.
func (r Row) Takes(reach Reach) bool {
	return slices.ContainsFunc(r.Ways, func(w Way) bool { return slices.Contains(w.Reaches, reach) })
}

// CrossesAccounts reports whether these scopes of a token lead beyond its own account.
func (r Row) CrossesAccounts(scopes []Scope) bool {
	return slices.ContainsFunc(r.Ways, func(w Way) bool { return !w.Own && containsAll(scopes, w.Scopes) })
}
