package keys

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

const edgeCluster = "6d7f0d58-9f44-44b1-8ad1-1f60aa9e8b5d"

func (s *site) registration(cluster string) contract.HostedKeyRequest {
	on := `"resources":[{"id":"` + cluster + `","type":"cluster"}]`
	return contract.HostedKeyRequest{
		Org: "acme", KeyType: "CLUSTER_SERVICE_KEY", Type: "CLUSTER_SERVICE_KEY", Name: "edge-7", MembershipOrgName: "acme",
		ExpiryDate: s.clock.Now().Add(12 * 7 * day).Format("2006-01-02T15:04:05.000000Z07:00"),
		Policies: json.RawMessage(`[{"product":"nvcf-cluster-management",` + on + `,"scopes":["nvca-cluster"]},` +
			`{"product":"nv-cloud-functions",` + on + `,"scopes":["nvcf:listClusters","nvcf:writeCluster","nvcf:getCluster","nvcf:deleteCluster","deploy_function"]},` +
			`{"product":"artifact-catalog","resources":[{"id":"nvidia/nvcf-byoc/*","type":"*"}],"scopes":["registry:getContainer"]},` +
			`{"product":"helm-reval","scopes":["helmreval:validate","helmreval:render"]}]`),
	}
}

func TestHostedKeyOfARegistration(t *testing.T) {
	t.Parallel()
	s := start(t)
	got := call(t, s, contract.CreateHosted, s.registration(edgeCluster)).APIKey
	require.Equal(t, "edge-7", got.Name)
	require.Equal(t, "CLUSTER_SERVICE_KEY", got.Type)
	require.True(t, strings.HasPrefix(got.Value, "nvapi-nvcf-stg-"))
	require.Equal(t, s.clock.Now().Add(12*7*day).UTC(), got.ExpiryDate)
	credential := s.grants(t, got.Value).Credential
	require.Equal(t, "org:acme", credential.Subject)
	require.Equal(t, []string{access.FunctionsAudience}, credential.Audiences)
	var scopes []access.Scope
	for _, p := range credential.Policies {
		require.Equal(t, access.FunctionsAudience, p.Audience)
		scopes = append(scopes, p.Scopes...)
	}
	require.Equal(t, []access.Scope{
		"nvca-cluster", "nvcf:listClusters", "nvcf:writeCluster", "nvcf:getCluster", "nvcf:deleteCluster",
		"helmreval:validate", "helmreval:render",
	}, scopes, "what is not for clusters is stored and not granted")
	_, p := access.Decide(access.ListOrgClusters, credential)
	require.Nil(t, p)
	_, p = access.Decide(access.Deploy, credential)
	require.NotNil(t, p)
	stored := call(t, s, contract.OwnersKey, contract.OwnersKeyRequest{ServiceID: access.FunctionsAudience, OwnerID: "org:acme", ID: got.KeyID})
	require.Contains(t, string(stored.Authorizations), "registry:getContainer")
}

func TestHostedLimitIsPerCluster(t *testing.T) {
	t.Parallel()
	s := start(t)
	for range 8 {
		call(t, s, contract.CreateHosted, s.registration(edgeCluster))
	}
	refused(t, s, 400, contract.CreateHosted, s.registration(edgeCluster))
	call(t, s, contract.CreateHosted, s.registration(strings.Replace(edgeCluster, "6", "7", 1)))
	refused(t, s, 400, contract.CreateHosted, s.registration(strings.ToUpper(edgeCluster)))
	require.Len(t, call(t, s, contract.OwnerKeys, contract.OwnerKeysRequest{OwnerRequest: contract.OwnerRequest{OwnerID: "org:acme"}}).Keys, 9)
}

func TestHostedRefusals(t *testing.T) {
	t.Parallel()
	s := start(t)
	for name, tc := range map[string]struct {
		field  string
		change func(*contract.HostedKeyRequest)
	}{
		"type of another case": {"type", func(r *contract.HostedKeyRequest) { r.KeyType = "cluster" }},
		"type differs":         {"type", func(r *contract.HostedKeyRequest) { r.Type = "OTHER" }},
		"name absent":          {"name", func(r *contract.HostedKeyRequest) { r.Name = "" }},
		"name blank":           {"name", func(r *contract.HostedKeyRequest) { r.Name = " " }},
		"name too long":        {"name", func(r *contract.HostedKeyRequest) { r.Name = strings.Repeat("n", 257) }},
		"name of control":      {"name", func(r *contract.HostedKeyRequest) { r.Name = "a\nb" }},
		"org of control":       {"org", func(r *contract.HostedKeyRequest) { r.Org = "a\nb" }},
		"expiry absent":        {"expiryDate", func(r *contract.HostedKeyRequest) { r.ExpiryDate = "" }},
		"expiry past":          {"expiryDate", func(r *contract.HostedKeyRequest) { r.ExpiryDate = "2020-01-01T00:00:00Z" }},
		"expiry too far":       {"expiryDate", func(r *contract.HostedKeyRequest) { r.ExpiryDate = "2040-01-01T00:00:00Z" }},
		"policies absent":      {"policies", func(r *contract.HostedKeyRequest) { r.Policies = nil }},
		"policies empty":       {"policies", func(r *contract.HostedKeyRequest) { r.Policies = json.RawMessage("[]") }},
		"policies an object":   {"policies", func(r *contract.HostedKeyRequest) { r.Policies = json.RawMessage("{}") }},
		"policy null":          {"policies.product", func(r *contract.HostedKeyRequest) { r.Policies = json.RawMessage("[null]") }},
		"product absent":       {"policies.product", func(r *contract.HostedKeyRequest) { r.Policies = json.RawMessage(`[{"scopes":[]}]`) }},
		"resources no array":   {"policies.resources", func(r *contract.HostedKeyRequest) { r.Policies = json.RawMessage(`[{"product":"a","resources":1}]`) }},
		"resource without id":  {"authorizations.policies.resources", func(r *contract.HostedKeyRequest) { r.Policies = json.RawMessage(`[{"product":"a","resources":[{}]}]`) }},
		"too long": {"authorizations", func(r *contract.HostedKeyRequest) {
			r.Policies = json.RawMessage(`[{"product":"` + strings.Repeat("p", 2048) + `"}]`)
		}},
	} {
		req := s.registration(edgeCluster)
		tc.change(&req)
		require.Equal(t, tc.field, refused(t, s, 400, contract.CreateHosted, req).Violations[0].Field, name)
	}
	call(t, s, contract.CreateHosted, s.registration(edgeCluster))
	call(t, s, contract.SetOwnerStatus, contract.OwnerStatusRequest{OwnerRequest: contract.OwnerRequest{OwnerID: "org:acme"}, Status: "SUSPENDED"})
	require.Equal(t, problem.Forbidden, refused(t, s, 403, contract.CreateHosted, s.registration(edgeCluster)).Code)
}

func FuzzHostedPolicies(f *testing.F) {
	f.Add(`[{"product":"nv-cloud-functions","resources":[{"id":"x","type":"cluster"}],"scopes":["a"]}]`)
	f.Add(`[null]`)
	f.Fuzz(func(t *testing.T, text string) {
		document, _, err := hostedDocument(json.RawMessage(text))
		if err == nil {
			require.True(t, json.Valid(document))
			_, _ = readAuthorizations(document, 2048)
		}
	})
}
