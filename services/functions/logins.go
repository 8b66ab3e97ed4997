package functions

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// login is the secret of a registry credential.
type login struct{ user, password string }

// readLogin takes a secret's value apart. No refusal repeats any of it.
func readLogin(c *checker, host string, s *contract.Secret) login {
	before := c.found
	checkSecret(c, s)
	if c.found > before {
		return login{}
	}
	secret, rule := parseLogin(s.Value)
	if rule == "" && isNGC(host) && secret.user != "$oauthtoken" {
		rule = "must have the user $oauthtoken for a registry of NGC"
	}
	if rule != "" {
		c.refuse("secret.value", rule)
		return login{}
	}
	return secret
}

// parseLogin reads base64 of user:password from a JSON string; the rule is what it breaks, empty when it breaks none.
func parseLogin(value json.RawMessage) (secret login, rule string) {
	var text string
	if json.Unmarshal(value, &text) != nil {
		return login{}, "must be a string: base64 of user:password"
	}
	text = strings.TrimSpace(text)
	plain, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		plain, err = base64.RawStdEncoding.DecodeString(text)
	}
	if err != nil {
		return login{}, "must be base64 of user:password"
	}
	user, password, ok := strings.Cut(strings.TrimRight(string(plain), "\r\n"), ":")
	if !ok || user == "" || password == "" || strings.ContainsAny(user+password, "\x00\r\n") {
		return login{}, "must have user:password inside of the base64"
	}
	return login{user, password}, ""
}

func isNGC(host string) bool { return under(host, "nvcr.io") || under(host, "ngc.nvidia.com") }

// keyType marks the older kind of NGC key.
func keyType(host string, secret login) string {
	if isNGC(host) && secret.password != "" && !strings.HasPrefix(secret.password, "nvapi-") {
		return contract.LegacyKey
	}
	return ""
}

// loginFor returns the secret of the account's credential that serves a type at a host: the one of the nearest host,
// and of those the newest.
func (f *Functions) loginFor(ctx context.Context, account string, kind contract.ArtifactType, host string) (secret login, found bool, err error) {
	all, err := f.store.credentials(ctx, account)
	if err != nil {
		return login{}, false, err
	}
	var best contract.RegistryCredential
	for _, cred := range all {
		if slices.Contains(cred.ArtifactTypes, kind) && under(host, cred.RegistryHostname) && len(cred.RegistryHostname) > len(best.RegistryHostname) {
			best = cred
		}
	}
	if best.RegistryCredentialID == "" {
		return login{}, false, nil
	}
	sealed, err := f.store.credentialSecret(ctx, best.RegistryCredentialID)
	if err != nil {
		return login{}, false, err
	}
	value, err := f.vault.Open(ctx, registryPlace(best.RegistryCredentialID), sealed)
	if err != nil {
		return login{}, false, err
	}
	secret, rule := parseLogin(value)
	if rule != "" {
		return login{}, false, fmt.Errorf("the secret of registry credential %s %s", best.RegistryCredentialID, rule)
	}
	return secret, true, nil
}

// registryAuth is the credential that opens the registry of an image, nil when the account has none for it.
func (f *Functions) registryAuth(ctx context.Context, account, image string) (*contract.RegistryAuth, error) {
	host, ok := imageHost(image)
	if !ok {
		return nil, nil
	}
	secret, found, err := f.loginFor(ctx, account, contract.ContainerArtifact, host)
	if err != nil || !found {
		return nil, err
	}
	return &contract.RegistryAuth{Hostname: host, Username: secret.user, Password: secret.password}, nil
}

// LookupRegistryAuth is for a node that pulls an image which no version names. Like Launch it refuses to act for a client.
func (f *Functions) LookupRegistryAuth(ctx context.Context, r contract.RegistryAuthRequest) (contract.RegistryAuthResponse, error) {
	if access.CallerFrom(ctx).Kind != "" {
		return contract.RegistryAuthResponse{}, problem.New(problem.Forbidden, "registry credentials are for the platform's own services")
	}
	auth, err := f.registryAuth(ctx, r.Account, r.Image)
	return contract.RegistryAuthResponse{RegistryAuth: auth}, err
}
