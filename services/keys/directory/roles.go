package directory

import (
	"context"
	"slices"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// systemAdministrator is the role that may manage people; it has every scope.
const systemAdministrator = 1

// The scopes of areas, which the roles of keys §9.5 are made of.
var (
	functionScopes = []access.Scope{
		access.RegisterFunction, access.ListFunctions, access.ListFunctionDetails, access.DeployFunction, access.UpdateFunction,
		access.UpdateSecrets, access.DeleteFunction, access.ManageTelemetries, access.ManageRegistries, access.AuthorizeClients,
		access.QueueDetails, access.InvokeFunction,
	}
	taskScopes = []access.Scope{
		access.LaunchTask, access.ListTasks, access.TaskDetails, access.CancelTask, access.DeleteTask, access.ListEvents, access.ListResults,
	}
	clusterScopes = []access.Scope{
		access.ClusterManagement, access.ListClusters, access.ListClusterGroups, access.GPUCapacity, access.ReadGPUQuotaRule,
	}
	platformScopes = []access.Scope{access.AccountSetup, access.ManageKeys, access.AuditRead, access.ManageAccess}
	// adminScopes have a form that reaches across accounts (keys §7.1).
	adminScopes = slices.Concat(functionScopes, taskScopes, []access.Scope{access.ListClusterGroups, "manage_registries"})
)

// roles of every install (keys §9.5), by id.
var roles = []contract.Role{
	role(systemAdministrator, "System administrator", "Everything, in every account.", everything()),
	role(2, "Function administrator", "Functions, deployments, secrets, registry credentials and telemetry endpoints.", functionScopes),
	role(3, "Function user", "Calls and lists functions, and sees their queues.",
		[]access.Scope{access.InvokeFunction, access.ListFunctions, access.QueueDetails}),
	role(4, "Task administrator", "Launches, reads, cancels and deletes tasks.", append([]access.Scope{access.UpdateSecrets}, taskScopes...)),
	role(5, "Cluster administrator", "Clusters, GPU capacity and quota.", clusterScopes),
	role(6, "Viewer", "Lists and details.", []access.Scope{
		access.ListFunctions, access.ListFunctionDetails, access.QueueDetails, access.ListTasks, access.TaskDetails, access.ListEvents,
		access.ListResults, access.ListClusters, access.ListClusterGroups,
	}),
	role(7, "Key administrator", "API keys of one's own.", []access.Scope{access.ManageKeys}),
}

func role(id int, name, description string, scopes []access.Scope) contract.Role {
	return contract.Role{ID: id, Name: name, Description: description, Enabled: true, ScopeType: systemScope, Permissions: scopes}
}

func everything() []access.Scope {
	all := slices.Concat(functionScopes, taskScopes, clusterScopes, platformScopes)
	for _, s := range adminScopes {
		all = append(all, access.AdminPrefix+s)
	}
	return all
}

// roleOf finds a role, nil when there is none with that id.
func roleOf(id int) *contract.Role {
	i := slices.IndexFunc(roles, func(r contract.Role) bool { return r.ID == id })
	if i < 0 {
		return nil
	}
	return &roles[i]
}

// scopesOf joins the scopes of several roles, in their order and each once.
func scopesOf(ids []int) []access.Scope {
	scopes := []access.Scope{}
	for _, r := range roles {
		if !slices.Contains(ids, r.ID) {
			continue
		}
		for _, s := range r.Permissions {
			if !slices.Contains(scopes, s) {
				scopes = append(scopes, s)
			}
		}
	}
	return scopes
}

// ListRoles lists the roles of the install.
func (d *Directory) ListRoles(ctx context.Context, _ rpc.None) ([]contract.Role, error) {
	if err := d.mayManage(ctx); err != nil {
		return nil, err
	}
	return roles, nil
}

// ListPermissions lists every scope that a role holds, with those roles.
func (d *Directory) ListPermissions(ctx context.Context, _ rpc.None) ([]contract.Permission, error) {
	if err := d.mayManage(ctx); err != nil {
		return nil, err
	}
	all := []contract.Permission{}
	for _, scope := range everything() {
		p := contract.Permission{Name: scope, Roles: []int{}}
		for _, r := range roles {
			if slices.Contains(r.Permissions, scope) {
				p.Roles = append(p.Roles, r.ID)
			}
		}
		all = append(all, p)
	}
	return all, nil
}
