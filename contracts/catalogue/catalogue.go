// Package catalogue lists every message that is declared in contracts, without its type parameters. The reference under
// docs/reference and the permissions of each service are generated from it, and a test keeps it complete.
package catalogue

import (
	"github.com/sirocco-cloud/sirocco/contracts/audit"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/contracts/tasks"
)

// Entry is one message with the name that Go code knows it by: package.Variable.
type Entry struct {
	Name    string
	Message rpc.Described
}

// Entries lists every message, package by package: requests, then events, then commands.
var Entries = []Entry{
	{"audit.Events", audit.Events},
	{"audit.Verify", audit.Verify},
	{"clusters.Heartbeat", clusters.Heartbeat},
	{"clusters.Nodes", clusters.Nodes},
	{"clusters.Groups", clusters.Groups},
	{"clusters.SupportedGPUs", clusters.SupportedGPUs},
	{"clusters.PutImage", clusters.PutImage},
	{"clusters.DeleteImage", clusters.DeleteImage},
	{"clusters.ListImages", clusters.ListImages},
	{"clusters.FindImage", clusters.FindImage},
	{"clusters.CapacitySnapshot", clusters.CapacitySnapshot},
	{"clusters.CapacityDelta", clusters.CapacityDelta},
	{"clusters.NodeLeft", clusters.NodeLeft},
	{"clusters.ClusterRegistered", clusters.ClusterRegistered},
	{"clusters.ClusterMoved", clusters.ClusterMoved},
	{"clusters.NodeMoved", clusters.NodeMoved},
	{"clusters.ImagePut", clusters.ImagePut},
	{"clusters.ImageRemoved", clusters.ImageRemoved},
	{"deployments.Create", deployments.Create},
	{"deployments.Replace", deployments.Replace},
	{"deployments.Get", deployments.Get},
	{"deployments.GetByID", deployments.GetByID},
	{"deployments.List", deployments.List},
	{"deployments.Delete", deployments.Delete},
	{"deployments.Patch", deployments.Patch},
	{"deployments.Instances", deployments.Instances},
	{"deployments.Wake", deployments.Wake},
	{"deployments.Created", deployments.Created},
	{"deployments.Updated", deployments.Updated},
	{"deployments.DrainStarted", deployments.DrainStarted},
	{"deployments.Removed", deployments.Removed},
	{"deployments.ScaleChanged", deployments.ScaleChanged},
	{"deployments.InstancePlaced", deployments.InstancePlaced},
	{"deployments.InstanceUnplaced", deployments.InstanceUnplaced},
	{"functions.Create", functions.Create},
	{"functions.Get", functions.Get},
	{"functions.List", functions.List},
	{"functions.ListIDs", functions.ListIDs},
	{"functions.ListVersions", functions.ListVersions},
	{"functions.Update", functions.Update},
	{"functions.Delete", functions.Delete},
	{"functions.Lookup", functions.Lookup},
	{"functions.Launch", functions.Launch},
	{"functions.SetStatus", functions.SetStatus},
	{"functions.Resolve", functions.Resolve},
	{"functions.Created", functions.Created},
	{"functions.Updated", functions.Updated},
	{"functions.Deleted", functions.Deleted},
	{"functions.StatusMoved", functions.StatusMoved},
	{"instances.Started", instances.Started},
	{"instances.Ready", instances.Ready},
	{"instances.Sickened", instances.Sickened},
	{"instances.Stopping", instances.Stopping},
	{"instances.Ended", instances.Ended},
	{"instances.Launch", instances.Launch},
	{"instances.Terminate", instances.Terminate},
	{"invocation.EnsureQueue", invocation.EnsureQueue},
	{"invocation.QueueDepth", invocation.QueueDepth},
	{"invocation.Detach", invocation.Detach},
	{"invocation.Find", invocation.Find},
	{"invocation.Finish", invocation.Finish},
	{"invocation.Detached", invocation.Detached},
	{"invocation.Finished", invocation.Finished},
	{"invocation.QueueProvided", invocation.QueueProvided},
	{"invocation.QueueRemoved", invocation.QueueRemoved},
	{"keys.MintAdminToken", keys.MintAdminToken},
	{"keys.PublicKeys", keys.PublicKeys},
	{"keys.Client", keys.Client},
	{"keys.Create", keys.Create},
	{"keys.List", keys.List},
	{"keys.Get", keys.Get},
	{"keys.Delete", keys.Delete},
	{"keys.Introspect", keys.Introspect},
	{"keys.Resolve", keys.Resolve},
	{"keys.Services", keys.Services},
	{"keys.Service", keys.Service},
	{"keys.Created", keys.Created},
	{"keys.Updated", keys.Updated},
	{"keys.Revoked", keys.Revoked},
	{"keys.Issued", keys.Issued},
	{"tasks.List", tasks.List},
	{"tasks.Created", tasks.Created},
}

// All describes every message of [Entries], in the same order.
func All() []rpc.Description {
	all := make([]rpc.Description, len(Entries))
	for i, e := range Entries {
		all[i] = e.Message.Describe()
	}
	return all
}
