package gateway

import (
	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
)

// deploymentRoutes is deployments and queues (functions-deployments §9, §11).
func deploymentRoutes() []route {
	const (
		deployment = "/v2/nvcf/deployments/functions/{functionId}/versions/{versionId}"
		specs      = "/v2/nvcf/deployments/{deploymentId}/gpu-specifications/{gpuSpecificationId}"
		queues     = "/v2/nvcf/queues/functions/{functionId}"
	)
	return []route{
		to(post, deployment, &access.Deploy, ok, deployments.Create),
		to(put, deployment, &access.Deploy, ok, deployments.Replace),
		to(get, deployment, &access.ReadDeployment, ok, deployments.Get),
		to(remove, deployment, &access.ReadDeployment, ok, deployments.Delete),
		to(get, "/v2/nvcf/deployments", &access.ReadDeployment, ok, deployments.List),
		to(get, "/v2/nvcf/deployments/{deploymentId}", &access.ReadDeployment, ok, deployments.GetByID),
		to(patch, specs, &access.Deploy, ok, deployments.Patch),
		to(get, queues, &access.ReadQueues, ok, invocation.QueueDepth),
		to(get, queues+"/versions/{versionId}", &access.ReadQueues, ok, invocation.QueueDepth),
		to(get, "/v2/nvcf/queues/{requestId}/position", &access.ReadQueues, ok, invocation.GetPosition),
		to(put, "/v2/nvcf/accounts/{ncaId}/rolloverWorkers/functions/{functionId}/versions/{versionId}", &access.RollOver, ok, deployments.RollOver),
		to(remove, "/v2/nvcf/instances/{instanceId}", &access.RemoveInstance, ok, deployments.RemoveInstance),
		to(get, "/v2/nvcf/sidecars/goldenimages", &access.ReadSidecars, ok, deployments.ListGoldenImages),
	}
}
