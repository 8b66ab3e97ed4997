package main

import (
	"net/http"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/access"
)

// newQuota is how many GPUs the account may use (functions-deployments §12).
func newQuota(s *session) *cobra.Command {
	v := verb{
		use: "quota", short: "Show how many GPUs the account may use, and how many it does",
		method: http.MethodGet, path: "/v2/nvcf/quotas/gpus", needs: &loan{scopes: []access.Scope{access.ReadGPUQuotaRule}, resource: everything},
		table: table{member: "quotas", columns: columns("Account", "ncaId|account", "GPU", "gpu|gpuName|name", "Limit", "limit|maxGpus|quota", "Used", "used|usedGpus|currentUsage", "Free", "free|available", "Rule", "id|ruleId")},
	}
	return v.command(s)
}

// capacityVerbs are the looks at clusters beside their list.
func capacityVerbs() []verb {
	return []verb{
		{
			use: "groups", short: "List cluster groups with their clusters", method: http.MethodGet, path: "/v2/nvcf/clusterGroups",
			table: table{member: "clusterGroups", columns: columns("Group", "name", "ID", "id", "Account", "ncaId", "Clusters", "clusters", "GPUs", "gpus")},
		},
		{
			use: "gpus", short: "List the GPUs that functions can be deployed on", method: http.MethodGet, path: "/v2/nvcf/supportedGpus",
			table: table{columns: columns("GPU", "gpu", "Backend", "backend")},
		},
		{
			use: "capacity", short: "Show how many GPUs there are and how many are free", method: http.MethodGet, path: "/v2/nvcf/capacity/gpus",
			needs: &loan{scopes: []access.Scope{access.GPUCapacity}, resource: everything},
			table: table{member: "gpus", columns: columns("GPU", "gpu|gpuName|name", "Instance type", "instanceType", "Capacity", "capacity|total", "Free", "available|free", "In use", "used|allocated")},
		},
	}
}
