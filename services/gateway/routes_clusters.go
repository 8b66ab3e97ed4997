package gateway

import (
	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/deployments"
)

// clusterRoutes is cluster groups, GPUs, capacity, quota and images (functions-deployments §12, clusters-agents §1.6 to
// §1.8).
func clusterRoutes() []route {
	const (
		account = "/v1/si/accounts/{ncaId}"
		rules   = "/v2/nvcf/gpu/quota/rules"
	)
	table := []route{
		to(get, "/v2/nvcf/clusterGroups", &access.ReadGroups, ok, clusters.Groups),
		to(get, "/v2/nvcf/supportedGpus", &access.SupportedGPUs, ok, clusters.SupportedGPUs),
		to(get, "/v2/nvcf/accounts/{ncaId}/usage/gpus", &access.ReadUsage, ok, deployments.GetUsage),
		to(put, "/v2/nvcf/clusters/{clusterId}/settings", &access.ManageClusters, ok, clusters.Configure),

		to(get, "/v2/nvcf/gpus", &access.ReadCapacity, ok, deployments.GetOffers),
		to(get, "/v2/nvcf/gpu/capacity", &access.ReadCapacity, ok, deployments.GetCapacity),
		to(get, "/v2/nvcf/capacity/gpus", &access.ReadCapacity, ok, deployments.GetCapacity),
		to(get, "/v2/nvcf/quotas/gpus", &access.ReadQuota, ok, clusters.GetQuotaRules),
		to(get, rules, &access.ReadQuota, ok, clusters.GetQuotaRules),
		to(post, rules, &access.WriteQuota, ok, clusters.PutQuotaRule),
		to(put, rules+"/{ruleId}", &access.WriteQuota, ok, clusters.PutQuotaRule),
		to(get, rules+"/{ruleId}", &access.ReadQuota, ok, clusters.GetQuotaRule),
		to(remove, rules+"/{ruleId}", &access.WriteQuota, nothing, clusters.DeleteQuotaRule),

		to(get, account+"/gpus", &access.ListGPUs, ok, clusters.ListGPUs),
		to(get, account+"/regions", &access.ListRegions, ok, clusters.ListRegions),
		to(get, account+"/clusterNames", &access.ListNames, ok, clusters.ListClusters),
		to(get, account+"/attributes", &access.ListAttributes, ok, clusters.ListAttributes),
		to(get, account+"/instanceTypes", &access.ListTypes, ok, clusters.ListTypes),
		to(get, account+"/instanceTypes/availability", &access.ReadGPUUsage, ok, clusters.ListAvailable),
		to(get, account+"/gpu/usage", &access.ReadGPUUsage, ok, deployments.GetLiveUsage),
		to(get, account+"/deployments/{deploymentId}/gpu/usage", &access.ReadGPUUsage, ok, deployments.GetDeploymentUsage),
		to(get, account+"/clusterGroups", &access.ListGroups, ok, clusters.ListGroups),

		to(get, "/v2/nvcf/images", &access.ManageClusters, ok, clusters.ListImages),
		to(put, "/v2/nvcf/images", &access.ManageClusters, ok, clusters.PutImage),
		to(remove, "/v2/nvcf/images", &access.ManageClusters, nothing, clusters.DeleteImage),
	}
	for _, org := range []string{"/orgs/{org}", "/orgs/{org}/teams/{team}"} {
		table = append(table,
			to(get, "/v2"+org+"/ngc/nvcf/gpu/quota/rules", &access.ReadQuota, ok, clusters.GetQuotaRules),
			to(get, "/v2"+org+"/ngc/nvcf/deployments/instanceTypes", &access.ReadCapacity, ok, deployments.GetOffers),
			to(get, "/v2"+org+"/ngc/nvcf/deployments/available/instanceTypes", &access.ReadCapacity, ok, deployments.GetOffers),
			to(get, "/v3"+org+"/ngc/nvcf/deployments/available/instanceTypes", &access.ReadCapacity, ok, deployments.GetOffers),
			to(get, "/v3"+org+"/ngc/nvcf/deployments/instanceTypes", &access.ReadCapacity, ok, deployments.GetCapacity),
		)
	}
	return table
}
