package gateway

import (
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
		to(post, "/v1/introspect", open, ok, keys.Introspect),
		to(get, "/v1/services", open, ok, keys.Services),
		to(get, "/v1/services/{service_id}", open, ok, keys.Service),
		to(get, "/v1/admin/signing-keys", &access.AdminKeys, ok, keys.SigningKeys),
		to(post, "/v1/admin/signing-keys/rotate", &access.AdminKeys, ok, keys.RotateSigningKeys),
		to(post, "/v1/admin/tokens/revoke", &access.AdminKeys, ok, keys.RevokeToken),
		to(get, "/v1/admin/encryption/keys", &access.AdminKeys, ok, keys.GetEncryption),
		to(post, "/v1/admin/encryption/keys/rotate", &access.AdminKeys, ok, keys.RotateEncryption),
		to(get, "/v1/admin/encryption/functions", &access.AdminKeys, ok, functions.GetEncryption),
		to(post, "/v1/admin/encryption/functions/rotate", &access.AdminKeys, ok, functions.RotateEncryption),
	}
}
