package gateway

import (
	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
)

// functionRoutes is functions and what belongs to them (functions-deployments §3–§8).
func functionRoutes() []route {
	const (
		function = "/v2/nvcf/functions/{functionId}"
		versions = "/versions/{versionId}"
		version  = function + versions
		limit    = "/v2/nvcf/ratelimit/functions/{functionId}" + versions
		secrets  = "/v2/nvcf/secrets/functions/{functionId}" + versions
		share    = "/v2/nvcf/authorizations/functions/{functionId}"
	)
	all := func(r *functions.ListRequest) *functions.ListRequest { return r }
	return []route{
		to(post, "/v2/nvcf/functions", &access.CreateFunction, ok, functions.Create),
		listing("/v2/nvcf/functions", &access.ReadFunctions, "functions", functions.List, all),
		listing("/v2/nvcf/functions/ids", &access.ReadFunctions, "functionIds", functions.ListIDs, all),
		to(post, function+"/versions", &access.CreateVersion, ok, functions.Create),
		listing(function+"/versions", &access.ReadFunctions, "functions", functions.ListVersions,
			func(r *functions.ListVersionsRequest) *functions.ListRequest { return &r.ListRequest }),
		to(get, version, &access.ReadFunctions, ok, functions.Get),
		to(put, version, &access.WriteFunction, ok, functions.Update),
		to(put, "/v2/nvcf/metadata/functions/{functionId}/versions/{versionId}", &access.WriteFunction, ok, functions.UpdateMetadata),
		to(remove, version, &access.RemoveFunction, nothing, functions.Delete),

		to(put, limit, &access.WriteFunction, nothing, functions.Update),
		to(remove, limit, &access.WriteFunction, nothing, functions.RemoveRateLimit),
		to(get, secrets, &access.WriteSecrets, ok, functions.ListSecrets),
		to(put, secrets, &access.WriteSecrets, nothing, functions.PutSecrets),
		to(remove, secrets+"/{name}", &access.WriteSecrets, nothing, functions.DeleteSecret),

		to(get, share, &access.ShareFunction, ok, functions.ListShared),
		to(post, share, &access.ShareFunction, ok, functions.Share),
		to(remove, share, &access.ShareFunction, ok, functions.Unshare),
		to(patch, share+"/add", &access.ShareFunction, ok, functions.AddParty),
		to(patch, share+"/remove", &access.ShareFunction, ok, functions.RemoveParty),
		to(get, share+versions, &access.ShareFunction, ok, functions.GetShared),
		to(post, share+versions, &access.ShareFunction, ok, functions.Share),
		to(remove, share+versions, &access.ShareFunction, ok, functions.Unshare),
		to(patch, share+versions+"/add", &access.ShareFunction, ok, functions.AddParty),
		to(patch, share+versions+"/remove", &access.ShareFunction, ok, functions.RemoveParty),
	}
}
