package gateway

import (
	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
)

// resourceRoutes is what an account has beside its functions: telemetry endpoints, registry credentials and assets
// (functions-deployments §4, §6–§8).
func resourceRoutes() []route {
	const (
		telemetry  = "/v2/nvcf/telemetries/{telemetryId}"
		credential = "/v2/nvcf/registry-credentials/{registryCredentialId}"
		asset      = "/v2/nvcf/assets/{assetId}"
	)
	return []route{
		to(post, "/v2/nvcf/telemetries", &access.ManageTelemetry, ok, functions.CreateTelemetry),
		to(get, "/v2/nvcf/telemetries", &access.ManageTelemetry, ok, functions.ListTelemetries),
		to(get, telemetry, &access.ManageTelemetry, ok, functions.GetTelemetry),
		to(remove, telemetry, &access.ManageTelemetry, nothing, functions.DeleteTelemetry),
		to(put, "/v2/nvcf/secrets/telemetries/{telemetryId}", &access.TelemetrySecrets, nothing, functions.SetTelemetrySecret),

		to(post, "/v2/nvcf/registry-credentials", &access.ManageRegistry, ok, functions.CreateRegistryCredential),
		to(get, "/v2/nvcf/registry-credentials", &access.ManageRegistry, ok, functions.ListRegistryCredentials),
		to(get, credential, &access.ManageRegistry, ok, functions.GetRegistryCredential),
		to(patch, credential, &access.ManageRegistry, ok, functions.UpdateRegistryCredential),
		to(remove, credential, &access.ManageRegistry, nothing, functions.DeleteRegistryCredential),
		to(get, "/v2/nvcf/recognized-registries", &access.ManageRegistry, ok, functions.RecognizedRegistries),

		to(post, "/v2/nvcf/assets", &access.ManageAssets, ok, functions.CreateAsset),
		to(get, "/v2/nvcf/assets", &access.ManageAssets, ok, functions.ListAssets),
		to(get, asset, &access.ManageAssets, ok, functions.GetAsset),
		to(get, asset+"/content-redirect", &access.ManageAssets, ok, functions.ContentRedirect),
		to(remove, asset, &access.ManageAssets, nothing, functions.DeleteAsset),
	}
}
