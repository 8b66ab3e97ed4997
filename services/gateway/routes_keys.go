package gateway

import (
	"net/http"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
)

// keyRoutes is the API Keys service (keys §4).
func keyRoutes() []route {
	return []route{
		to(post, "/v1/keys", open, ok, keys.Create),
		to(get, "/v1/keys", open, ok, keys.List),
		to(get, "/v1/keys/{id}", open, ok, keys.Get),
		to(remove, "/v1/keys/{id}", open, nothing, keys.Delete),
		to(put, "/v1/keys/{id}/authorizations", open, ok, keys.Authorize),
		to(patch, "/v1/keys/{id}", open, ok, keys.Change),
		to(post, "/v1/keys/{id}/rotate", open, ok, keys.Rotate),
		to(post, "/v1/introspect", open, ok, keys.Introspect),
		to(post, "/v1/namespaces/{namespace}/evaluations/{rule}", &access.Evaluate, ok, keys.Evaluate),
		to(get, "/v1/services", open, ok, keys.Services),
		to(get, "/v1/services/{service_id}", open, ok, keys.Service),
		to(get, "/v1/service-admin/users/{owner}/keys", &access.AdminKeys, ok, keys.OwnersKeys),
		to(get, "/v1/service-admin/users/{owner}/keys/{id}", &access.AdminKeys, ok, keys.OwnersKey),
		to(remove, "/v1/service-admin/users/{owner}/keys/{id}", &access.AdminKeys, nothing, keys.DeleteOwnersKey),
		to(put, "/v1/service-admin/users/{owner}/keys/{id}/status", &access.AdminKeys, ok, keys.SetKeyStatus),
		to(put, "/v1/service-admin/users/{owner}/suspend", &access.AdminKeys, ok, keys.SuspendKeys),
		to(post, "/v1/admin/lookup", &access.AdminKeys, ok, keys.Lookup),
		to(get, "/v1/admin/users/{owner}", &access.AdminKeys, ok, keys.GetOwner),
		to(put, "/v1/admin/users/{owner}/status", &access.AdminKeys, ok, keys.SetOwnerStatus),
		to(get, "/v1/admin/users/{owner}/keys", &access.AdminKeys, ok, keys.OwnerKeys),
		to(remove, "/v1/admin/users/{owner}/keys", &access.AdminKeys, nothing, keys.DeleteOwnerKeys),
		to(post, "/v1/admin/report-leak", &access.AdminKeys, http.StatusAccepted, keys.ReportLeak),
		to(get, "/v1/admin/audit", &access.AdminKeys, ok, keys.Decisions),
		to(post, "/v3/orgs/{org}/keys/type/{type}", &access.HostedKey, ok, keys.CreateHosted),
		to(get, "/v2/nvcf/accounts", &access.ReadAccounts, ok, keys.Accounts),
		to(get, "/v2/nvcf/accounts/{ncaId}", &access.ReadAccounts, ok, keys.GetAccount),
		to(post, "/v2/nvcf/accounts/{ncaId}", &access.WriteAccounts, ok, keys.CreateAccount),
		to(patch, "/v2/nvcf/accounts/{ncaId}", &access.WriteAccounts, ok, keys.UpdateAccount),
		to(remove, "/v2/nvcf/accounts/{ncaId}", &access.WriteAccounts, nothing, keys.DeleteAccount),
		to(patch, "/v2/nvcf/accounts/{ncaId}/clients/associate", &access.WriteAccounts, ok, keys.AssociateClient),
		to(patch, "/v2/nvcf/accounts/{ncaId}/clients/disassociate", &access.WriteAccounts, ok, keys.DisassociateClient),
		to(get, "/v2/nvcf/accounts/{ncaId}/clients/{clientId}", &access.ReadAccounts, ok, keys.ReadClient),
		to(get, "/v2/nvcf/clients/{clientId}", &access.ReadAccounts, ok, keys.ReadClient),
		to(get, "/v1/admin/signing-keys", &access.AdminKeys, ok, keys.SigningKeys),
		to(post, "/v1/admin/signing-keys/rotate", &access.AdminKeys, ok, keys.RotateSigningKeys),
		to(post, "/v1/admin/tokens/revoke", &access.AdminKeys, ok, keys.RevokeToken),
		to(get, "/v1/admin/encryption/keys", &access.AdminKeys, ok, keys.GetEncryption),
		to(post, "/v1/admin/encryption/keys/rotate", &access.AdminKeys, ok, keys.RotateEncryption),
		to(get, "/v1/admin/encryption/functions", &access.AdminKeys, ok, functions.GetEncryption),
		to(post, "/v1/admin/encryption/functions/rotate", &access.AdminKeys, ok, functions.RotateEncryption),
	}
}
