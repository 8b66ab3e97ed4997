package clusterinventory

import (
	"encoding/json"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

func ask[Req, Resp any](w *world, e rpc.Endpoint[Req, Resp], req Req) Resp {
	w.t.Helper()
	r, err := bus.Call(w.ctx(), w.conn, e, req)
	require.NoError(w.t, err)
	return r
}

// refused asserts that a request is refused with 400 that names the field.
func refused[Req, Resp any](w *world, e rpc.Endpoint[Req, Resp], req Req, field string) {
	w.t.Helper()
	_, err := bus.Call(w.ctx(), w.conn, e, req)
	require.True(w.t, problem.HasCode(err, problem.Validation), "%s: %v", field, err)
	require.ErrorContains(w.t, err, "field: "+field)
}

func TestListingsTakeTheirFilters(t *testing.T) {
	w := newWorld(t)
	w.say(snapshot("n1", 1, 1, clusters.Free, clusters.Free, clusters.Free, clusters.Allocated))
	w.free(3)
	id := w.groups()[0].Clusters[0].ID
	ask(w, clusters.Configure, clusters.SettingsRequest{ClusterID: id, Attributes: []string{"CacheOptimized", "HostIsolation"}})
	all := clusters.ListingRequest{Account: account}
	with := func(f clusters.Filter) clusters.ListingRequest {
		return clusters.ListingRequest{Account: account, Filter: f}
	}

	require.Equal(t, []string{"H100"}, ask(w, clusters.ListGPUs, all).GPUs)
	require.Equal(t, []string{"eu-north-1"}, ask(w, clusters.ListRegions, all).Regions)
	require.Equal(t, []string{"lab"}, ask(w, clusters.ListClusters, all).ClusterNames)
	require.Equal(t, []string{"CacheOptimized", "HostIsolation"}, ask(w, clusters.ListAttributes, all).Attributes)
	for name, f := range map[string]clusters.Filter{
		"region":    {Regions: []string{"mars-1"}},
		"cluster":   {Clusters: []string{"other"}},
		"backend":   {Backends: []string{"other"}},
		"attribute": {Attributes: []string{"cacheoptimized", "KataRuntimeIsolation"}},
		"gpu":       {GPUs: []string{"B200"}},
	} {
		require.Equal(t, []string{}, ask(w, clusters.ListGPUs, with(f)).GPUs, name)
	}
	require.Equal(t, []string{"H100"}, ask(w, clusters.ListGPUs, with(clusters.Filter{
		Regions: []string{"x", "EU-north-1"}, Clusters: []string{"LAB"}, Backends: []string{"Lab"}, Attributes: []string{"cacheoptimized"}, GPUs: []string{"h100"}, InstanceTypeUsage: "container",
	})).GPUs, "names are compared without case")

	types := ask(w, clusters.ListTypes, all)["H100"]
	require.Len(t, types, 2)
	require.Equal(t, 3, types[0].AvailableCapacity)
	require.Equal(t, 1, types[1].AvailableCapacity, "three free devices make one pair")
	require.Equal(t, []string{"lab"}, types[0].Clusters)
	require.Equal(t, []string{"CacheOptimized", "HostIsolation"}, types[0].Attributes)
	require.True(t, types[0].Defaultable || types[1].Defaultable)
	one := ask(w, clusters.ListTypes, with(clusters.Filter{InstanceType: []string{types[1].Name}}))["H100"]
	require.Len(t, one, 1)

	tree := ask(w, clusters.ListAvailable, all)
	require.Equal(t, "H100", tree.GPUs[0].GPUName)
	require.Len(t, tree.GPUs[0].InstanceTypes, 2)
	c := tree.GPUs[0].InstanceTypes[0].Regions[0].Clusters[0]
	require.Equal(t, 3, c.MaxClusterAvailableCapacity)
	require.Equal(t, id, c.ClusterID)
	require.Equal(t, "ONPREM", c.CloudProvider)

	w.say(snapshot("n1", 1, 2, clusters.Allocated, clusters.Allocated, clusters.Allocated, clusters.Allocated))
	w.free(0)
	require.Empty(t, ask(w, clusters.ListGPUs, all).GPUs, "nothing is free")
	require.Equal(t, []string{"H100"}, ask(w, clusters.ListGPUs, with(clusters.Filter{CapacityValidation: new(false)})).GPUs)
	empty, err := json.Marshal(ask(w, clusters.ListAvailable, all))
	require.NoError(t, err)
	require.JSONEq(t, `{"gpus":[]}`, string(empty))
	require.Len(t, ask(w, clusters.ListGroups, with(clusters.Filter{InstanceTypeUsage: "CONTAINER"})).ClusterGroups, 1, "groups do not look at capacity")
	refused(w, clusters.ListTypes, with(clusters.Filter{InstanceTypeUsage: "ALL"}), "instanceTypeUsage")
	refused(w, clusters.ListGroups, with(clusters.Filter{InstanceTypeUsage: "ALL"}), "instanceTypeUsage")
}

func TestAClusterIsOpenedToOtherAccounts(t *testing.T) {
	w := newWorld(t)
	w.say(snapshot("n1", 1, 1, clusters.Free))
	w.free(1)
	id := w.groups()[0].Clusters[0].ID
	sees := func(who string) int {
		t.Helper()
		ctx := access.WithCaller(t.Context(), access.Caller{Account: who, Kind: access.JWT})
		groups, err := bus.Call(ctx, w.conn, clusters.Groups, clusters.GroupsRequest{})
		require.NoError(t, err)
		nodes, err := bus.Call(t.Context(), w.conn, clusters.Nodes, clusters.NodesRequest{Account: who})
		require.NoError(t, err)
		require.Len(t, nodes.Nodes, len(groups.ClusterGroups))
		for _, n := range nodes.Nodes {
			require.True(t, n.UsableBy(who))
		}
		return len(nodes.Nodes)
	}
	require.Zero(t, sees("friend"))
	got := ask(w, clusters.Configure, clusters.SettingsRequest{ClusterID: id, AuthorizedNCAIDs: []string{"friend", "friend"}})
	require.Equal(t, []string{"friend"}, got.AuthorizedNCAIDs)
	require.Equal(t, []string{"friend"}, w.groups()[0].AuthorizedNCAIDs)
	require.Equal(t, 1, sees("friend"))
	require.Zero(t, sees("stranger"))
	ask(w, clusters.Configure, clusters.SettingsRequest{ClusterID: id, AuthorizedNCAIDs: []string{"*"}})
	require.Equal(t, 1, sees("stranger"), "a public cluster")
	ask(w, clusters.Configure, clusters.SettingsRequest{ClusterID: id})
	require.Zero(t, sees("friend"))
	require.Equal(t, []string{}, w.groups()[0].AuthorizedNCAIDs)

	refused(w, clusters.Configure, clusters.SettingsRequest{ClusterID: "x"}, "clusterId")
	refused(w, clusters.Configure, clusters.SettingsRequest{ClusterID: id, AuthorizedNCAIDs: []string{account}}, "authorizedNcaIds")
	refused(w, clusters.Configure, clusters.SettingsRequest{ClusterID: id, AuthorizedNCAIDs: []string{"*", "friend"}}, "authorizedNcaIds")
	refused(w, clusters.Configure, clusters.SettingsRequest{ClusterID: id, AuthorizedNCAIDs: []string{""}}, "authorizedNcaIds")
	refused(w, clusters.Configure, clusters.SettingsRequest{ClusterID: id, Attributes: []string{"a\x00"}}, "attributes")
	_, err := bus.Call(access.WithCaller(t.Context(), access.Caller{Account: "friend", Kind: access.JWT}), w.conn, clusters.Configure, clusters.SettingsRequest{ClusterID: id})
	require.True(t, problem.HasCode(err, problem.NotFound))
}

func TestQuotaRules(t *testing.T) {
	w := newWorld(t)
	require.Equal(t, clusters.QuotaRules{GPUs: []clusters.QuotaGPU{}, Rules: []clusters.QuotaRule{}}, ask(w, clusters.GetQuotaRules, rpc.None{}))
	a := ask(w, clusters.PutQuotaRule, clusters.QuotaRuleRequest{GPU: "H100", Limit: new(8), Clusters: []string{"lab", "annex"}})
	require.Equal(t, clusters.QuotaRule{ID: a.ID, NCAID: account, GPU: "H100", Clusters: []string{"annex", "lab"}, Regions: []string{}, Limit: 8}, a)
	b := ask(w, clusters.PutQuotaRule, clusters.QuotaRuleRequest{RuleID: uuid.NewString(), GPU: "*", Limit: new(0), Clusters: []string{"*"}})
	require.Empty(t, b.Clusters)
	a.Limit = 9
	ask(w, clusters.PutQuotaRule, clusters.QuotaRuleRequest{RuleID: a.ID, GPU: "H100", Limit: new(9), Clusters: []string{"lab", "annex"}})
	got := ask(w, clusters.GetQuotaRules, rpc.None{})
	require.Equal(t, []clusters.QuotaRule{b, a}, got.Rules)
	wire, err := json.Marshal(got.GPUs)
	require.NoError(t, err)
	require.JSONEq(t, `[{"name":"*","clusters":[{"names":"*","limit":0}]},{"name":"H100","clusters":[{"names":"annex,lab","limit":9}]}]`, string(wire))
	found, err := bus.Call(t.Context(), w.conn, clusters.FindQuotaRules, clusters.QuotaQuery{Account: account})
	require.NoError(t, err)
	require.Equal(t, got, found)

	c := clusters.QuotaRuleRequest{GPU: "A100", Limit: new(4), Regions: []string{"eu-north-1"}, MaxInstances: 3, Reserved: 2, Burst: 1, Priority: 9}
	full := ask(w, clusters.PutQuotaRule, c)
	require.Equal(t, clusters.QuotaRule{
		ID: full.ID, NCAID: account, GPU: "A100", Clusters: []string{}, Regions: []string{"eu-north-1"}, Limit: 4, MaxInstances: 3, Reserved: 2, Burst: 1, Priority: 9,
	}, full)
	require.Equal(t, full, ask(w, clusters.GetQuotaRule, clusters.QuotaRuleQuery{RuleID: full.ID}))
	c.RuleID, c.Priority, c.Regions = full.ID, 0, []string{"*"}
	full = ask(w, clusters.PutQuotaRule, c)
	require.Equal(t, full, ask(w, clusters.GetQuotaRule, clusters.QuotaRuleQuery{RuleID: full.ID}))
	require.Empty(t, full.Regions, "anywhere")
	ask(w, clusters.DeleteQuotaRule, clusters.QuotaRuleQuery{RuleID: full.ID})
	_, err = bus.Call(w.ctx(), w.conn, clusters.GetQuotaRule, clusters.QuotaRuleQuery{RuleID: full.ID})
	require.ErrorContains(t, err, "Not found")
	refused(w, clusters.GetQuotaRule, clusters.QuotaRuleQuery{RuleID: "x"}, "ruleId")
	refused(w, clusters.PutQuotaRule, clusters.QuotaRuleRequest{GPU: "H100", Limit: new(1), Regions: []string{" "}}, "regions")
	refused(w, clusters.PutQuotaRule, clusters.QuotaRuleRequest{GPU: "H100", Limit: new(1), MaxInstances: -1}, "maxInstances")
	refused(w, clusters.PutQuotaRule, clusters.QuotaRuleRequest{GPU: "H100", Limit: new(1), Reserved: 2}, "reserved")
	refused(w, clusters.PutQuotaRule, clusters.QuotaRuleRequest{GPU: "H100", Limit: new(1), Burst: -1}, "burst")
	refused(w, clusters.PutQuotaRule, clusters.QuotaRuleRequest{GPU: "H100", Limit: new(1), Priority: 1001}, "priority")

	refused(w, clusters.PutQuotaRule, clusters.QuotaRuleRequest{Limit: new(1)}, "gpu")
	refused(w, clusters.PutQuotaRule, clusters.QuotaRuleRequest{GPU: "H100"}, "limit")
	refused(w, clusters.PutQuotaRule, clusters.QuotaRuleRequest{GPU: "H100", Limit: new(-1)}, "limit")
	refused(w, clusters.PutQuotaRule, clusters.QuotaRuleRequest{RuleID: "x", GPU: "H100", Limit: new(1)}, "ruleId")
	refused(w, clusters.PutQuotaRule, clusters.QuotaRuleRequest{GPU: "H100", Limit: new(1), Clusters: []string{" "}}, "clusters")
	refused(w, clusters.DeleteQuotaRule, clusters.QuotaRuleQuery{RuleID: "x"}, "ruleId")
	stranger := access.WithCaller(t.Context(), access.Caller{Account: "other", Kind: access.JWT})
	_, err = bus.Call(stranger, w.conn, clusters.PutQuotaRule, clusters.QuotaRuleRequest{RuleID: a.ID, GPU: "H100", Limit: new(1)})
	require.True(t, problem.HasCode(err, problem.NotFound), "a rule stays with its account")
	_, err = bus.Call(stranger, w.conn, clusters.DeleteQuotaRule, clusters.QuotaRuleQuery{RuleID: a.ID})
	require.True(t, problem.HasCode(err, problem.NotFound))
	ask(w, clusters.DeleteQuotaRule, clusters.QuotaRuleQuery{RuleID: a.ID})
	_, err = bus.Call(w.ctx(), w.conn, clusters.DeleteQuotaRule, clusters.QuotaRuleQuery{RuleID: a.ID})
	require.ErrorContains(t, err, "Not found")
}
