package keys

import (
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
)

// hostedProducts are the products that a hosted registration asks for and that this platform has, with the scopes that
// are honoured. Everything else is stored and grants nothing, so that whoever may register clusters cannot make itself
// a key for more.
var hostedProducts = map[string][]access.Scope{
	"nvcf-cluster-management": {access.NodeAgent},
	access.FunctionsProduct:   {"nvcf:listClusters", "nvcf:writeCluster", "nvcf:getCluster", "nvcf:deleteCluster"},
	"helm-reval":              {"helmreval:validate", "helmreval:render"},
}

// hostedGrants keeps of the policies of a hosted key what is honoured. They are for the functions service: it stands for
// the whole API host.
func hostedGrants(asked []access.Policy) []access.Policy {
	var granted []access.Policy
	for _, p := range asked {
		honoured := hostedProducts[p.Product]
		p.Scopes = slices.DeleteFunc(slices.Clone(p.Scopes), func(s access.Scope) bool { return !slices.Contains(honoured, s) })
		if len(p.Scopes) == 0 {
			continue
		}
		p.Audience, p.Audiences = access.FunctionsAudience, []string{access.FunctionsAudience}
		granted = append(granted, p)
	}
	return granted
}

var keyTypeShape = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)

// CreateHosted makes the key of a cluster's registration (keys §4.13). It is a key like any other, of the owner
// org:<org>; its limit is counted per cluster.
func (k *Keys) CreateHosted(ctx context.Context, req contract.HostedKeyRequest) (contract.HostedKeyResponse, error) {
	now := k.now()
	owner := "org:" + req.Org
	if !storable(owner) {
		return contract.HostedKeyResponse{}, invalid("org", "must be the name of an organisation")
	}
	if !keyTypeShape.MatchString(req.KeyType) {
		return contract.HostedKeyResponse{}, invalid("type", "must be a type of key such as CLUSTER_SERVICE_KEY")
	}
	if req.Type != "" && req.Type != req.KeyType {
		return contract.HostedKeyResponse{}, invalid("type", "must be %s, as in the path", req.KeyType)
	}
	document, cluster, err := hostedDocument(req.Policies)
	if err != nil {
		return contract.HostedKeyResponse{}, err
	}
	st, err := k.store.standing(ctx, owner, access.FunctionsAudience, cluster, now)
	switch {
	case err != nil:
		return contract.HostedKeyResponse{}, err
	case st.service == nil:
		return contract.HostedKeyResponse{}, badIssuer()
	case st.ownerSuspended:
		return contract.HostedKeyResponse{}, suspended()
	case !storable(req.Name):
		return contract.HostedKeyResponse{}, invalid("name", "must be present, at most %d characters and none of them a control character", maxName)
	}
	expires, err := expiry("expiryDate", req.ExpiryDate, now, st.service.MaxKeyTTLDays)
	if err != nil {
		return contract.HostedKeyResponse{}, err
	}
	granted, err := readAuthorizations(document, st.service.MaxAuthzChars)
	if err != nil {
		return contract.HostedKeyResponse{}, err
	}
	r := record{
		id: uuid.NewString(), account: accountFor(ctx), ownerID: owner, serviceID: access.FunctionsAudience,
		description: req.Name, audiences: []string{access.FunctionsAudience}, authorizations: granted, version: 1,
		createdAt: now, updatedAt: now, expiresAt: expires, deletesAt: expires.Add(k.retention), keyType: req.KeyType, clusterID: cluster,
	}
	d := &drawing{format: k.format, random: k.random}
	err = k.store.tx(ctx, func(tx pgx.Tx) error { return k.store.create(ctx, tx, &r, st.service.MaxKeysPerUser, d.draw) })
	if err != nil {
		return contract.HostedKeyResponse{}, refusal(err, *st.service)
	}
	return contract.HostedKeyResponse{APIKey: contract.HostedKey{
		KeyID: r.id, Name: req.Name, Type: req.KeyType, Value: d.value, ExpiryDate: r.expiresAt,
	}}, nil
}

// hostedDocument wraps the policies as other keys have them, and finds the cluster that they are about.
func hostedDocument(policies json.RawMessage) (document json.RawMessage, cluster string, err error) {
	var entries []access.Object
	if json.Unmarshal(policies, &entries) != nil || len(entries) == 0 {
		return nil, "", invalid("policies", "must be an array of at least one policy")
	}
	for _, p := range entries {
		var product string
		if p == nil || p.Into("product", &product) != nil || product == "" {
			return nil, "", invalid("policies.product", "must be present in each policy")
		}
		var resources []access.Object
		if p.Into("resources", &resources) != nil {
			return nil, "", invalid("policies.resources", "must be an array of objects with the strings id and type")
		}
		for _, e := range resources {
			r, _ := e.Resource()
			if reach, ok := r.Reach(); ok && reach == access.CL && cluster == "" {
				cluster = strings.ToLower(r.ID)
			}
		}
	}
	document, err = json.Marshal(map[string]json.RawMessage{"policies": policies})
	return document, cluster, err
}
