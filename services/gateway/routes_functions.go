package gateway

import (
	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
)

// functionRoutes is functions and what belongs to them (functions-deployments §3–§8).
func functionRoutes() []route {
	const (
		function = "/v2/nvcf/functions/{functionId}"
		version  = function + "/versions/{versionId}"
	)
	return []route{
		to(post, "/v2/nvcf/functions", &access.CreateFunction, ok, functions.Create),
		to(get, "/v2/nvcf/functions", &access.ReadFunctions, ok, functions.List),
		to(get, "/v2/nvcf/functions/ids", &access.ReadFunctions, ok, functions.ListIDs),
		to(post, function+"/versions", &access.CreateVersion, ok, functions.Create),
		to(get, function+"/versions", &access.ReadFunctions, ok, functions.ListVersions),
		to(get, version, &access.ReadFunctions, ok, functions.Get),
		to(put, version, &access.WriteFunction, ok, functions.Update),
		to(put, "/v2/nvcf/metadata/functions/{functionId}/versions/{versionId}", &access.WriteFunction, ok, functions.Update),
		to(remove, version, &access.RemoveFunction, nothing, functions.Delete),
	}
}
