package gateway

import (
	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
)

// clusterRoutes is cluster groups, GPUs and images (functions-deployments §12).
func clusterRoutes() []route {
	return []route{
		to(get, "/v2/nvcf/clusterGroups", &access.ReadGroups, ok, clusters.Groups),
		to(get, "/v2/nvcf/supportedGpus", &access.SupportedGPUs, ok, clusters.SupportedGPUs),
		to(get, "/v2/nvcf/images", &access.ManageClusters, ok, clusters.ListImages),
		to(put, "/v2/nvcf/images", &access.ManageClusters, ok, clusters.PutImage),
		to(remove, "/v2/nvcf/images", &access.ManageClusters, nothing, clusters.DeleteImage),
	}
}
