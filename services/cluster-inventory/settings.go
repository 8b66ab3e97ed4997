package clusterinventory

import (
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// Bounds on what a client may make us keep.
const (
	maxEntries = 256
	maxEntry   = 256
	maxLimit   = 1_000_000
	// maxPriority is the highest rank among accounts that wait.
	maxPriority = 1000
)

// Configure sets who else may use a cluster of the caller's account, or of nobody, and what it can do.
func (i *Inventory) Configure(ctx context.Context, req clusters.SettingsRequest) (clusters.Settings, error) {
	check := problem.NewCheck("cluster")
	check.Require(uuid.Validate(req.ClusterID) == nil, "clusterId", "must be a UUID")
	account := access.CallerFrom(ctx).Account
	entries(check, "authorizedNcaIds", req.AuthorizedNCAIDs)
	check.Require(!slices.Contains(req.AuthorizedNCAIDs, account), "authorizedNcaIds", "must not name the cluster's own account")
	check.Require(!slices.Contains(req.AuthorizedNCAIDs, clusters.Everyone) || len(req.AuthorizedNCAIDs) == 1, "authorizedNcaIds", "must name nobody else beside '*'")
	entries(check, "attributes", req.Attributes)
	if err := check.Err(); err != nil {
		return clusters.Settings{}, err
	}
	var out clusters.Settings
	err := i.store.tx(ctx, func(t tx) error {
		c, found, err := i.store.clusterByID(ctx, t, req.ClusterID)
		if err != nil {
			return err
		}
		if !found || c.Account != account && c.Account != "" {
			return problem.New(problem.NotFound, "Cluster '%s': Not found in account '%s'", req.ClusterID, account)
		}
		c.Authorized, c.Attributes = present(req.AuthorizedNCAIDs), present(req.Attributes)
		if err := i.store.configure(ctx, t, c); err != nil {
			return err
		}
		out = clusters.Settings{ClusterID: c.ID, ClusterName: c.Name, AuthorizedNCAIDs: c.Authorized, Attributes: c.Attributes}
		return bus.Record(ctx, t, i.journal, clusters.Configured, clusterFact(c), out)
	})
	return out, err
}

func entries(check *problem.Check, field string, names []string) {
	check.Require(len(names) <= maxEntries, field, "must have at most %d entries", maxEntries)
	for _, name := range names[:min(len(names), maxEntries)] {
		check.Require(strings.TrimSpace(name) != "" && sane(name) && len(name) <= maxEntry, field, "must hold names of 1 to %d bytes", maxEntry)
	}
}

// present is a list without what is in it twice, never null.
func present(names []string) []string {
	sorted := append([]string{}, names...)
	slices.Sort(sorted)
	return slices.Compact(sorted)
}

// PutQuotaRule makes a rule of the caller's account, or replaces it when the id is given.
func (i *Inventory) PutQuotaRule(ctx context.Context, req clusters.QuotaRuleRequest) (clusters.QuotaRule, error) {
	account := access.CallerFrom(ctx).Account
	check := problem.NewCheck("quota rule")
	check.Require(req.RuleID == "" || len(req.RuleID) == 36 && uuid.Validate(req.RuleID) == nil, "ruleId", "must be a UUID")
	check.Require(strings.TrimSpace(req.GPU) != "" && sane(req.GPU), "gpu", "must be a GPU name, or '*'")
	entries(check, "clusters", req.Clusters)
	entries(check, "regions", req.Regions)
	check.Require(req.Limit != nil && *req.Limit >= 0 && *req.Limit <= maxLimit, "limit", "must be given, between 0 and %d", maxLimit)
	for _, bound := range []struct {
		field       string
		value, most int
	}{
		{"maxInstances", req.MaxInstances, maxLimit}, {"reserved", req.Reserved, maxLimit}, {"burst", req.Burst, maxLimit}, {"priority", req.Priority, maxPriority},
	} {
		check.Require(bound.value >= 0 && bound.value <= bound.most, bound.field, "must be between 0 and %d", bound.most)
	}
	check.Require(req.Limit == nil || req.Reserved <= *req.Limit, "reserved", "must not be greater than limit")
	if err := check.Err(); err != nil {
		return clusters.QuotaRule{}, err
	}
	r := clusters.QuotaRule{
		ID: strings.ToLower(req.RuleID), NCAID: account, GPU: strings.TrimSpace(req.GPU), Clusters: anywhere(req.Clusters), Regions: anywhere(req.Regions),
		Limit: *req.Limit, MaxInstances: req.MaxInstances, Reserved: req.Reserved, Burst: req.Burst, Priority: req.Priority,
	}
	if r.ID == "" {
		r.ID = uuid.NewString()
	}
	err := i.store.tx(ctx, func(t tx) error {
		stored, err := i.store.putRule(ctx, t, r)
		if err != nil {
			return err
		}
		if !stored {
			return ruleNotFound(r.ID, account)
		}
		return bus.Record(ctx, t, i.journal, clusters.QuotaRulePut, ruleFact(r), r)
	})
	return r, err
}

// anywhere is a list of names in which '*' stands for all, as does an empty list.
func anywhere(names []string) []string {
	if slices.Contains(names, clusters.Everyone) {
		return []string{}
	}
	return present(names)
}

// QuotaRule answers with one rule of the caller's account.
func (i *Inventory) QuotaRule(ctx context.Context, req clusters.QuotaRuleQuery) (clusters.QuotaRule, error) {
	if err := validRuleID(req.RuleID); err != nil {
		return clusters.QuotaRule{}, err
	}
	account := access.CallerFrom(ctx).Account
	rules, err := i.store.rules(ctx, account)
	if err != nil {
		return clusters.QuotaRule{}, err
	}
	at := slices.IndexFunc(rules, func(r clusters.QuotaRule) bool { return strings.EqualFold(r.ID, req.RuleID) })
	if at < 0 {
		return clusters.QuotaRule{}, ruleNotFound(req.RuleID, account)
	}
	return rules[at], nil
}

func validRuleID(id string) error {
	check := problem.NewCheck("quota rule")
	check.Require(len(id) == 36 && uuid.Validate(id) == nil, "ruleId", "must be a UUID")
	return check.Err()
}

// DeleteQuotaRule removes a rule of the caller's account.
func (i *Inventory) DeleteQuotaRule(ctx context.Context, req clusters.QuotaRuleQuery) (rpc.None, error) {
	account := access.CallerFrom(ctx).Account
	if err := validRuleID(req.RuleID); err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, i.store.tx(ctx, func(t tx) error {
		r, found, err := i.store.deleteRule(ctx, t, account, req.RuleID)
		if err != nil {
			return err
		}
		if !found {
			return ruleNotFound(req.RuleID, account)
		}
		return bus.Record(ctx, t, i.journal, clusters.QuotaRuleRemoved, ruleFact(r), r)
	})
}

func ruleNotFound(id, account string) error {
	return problem.New(problem.NotFound, "Quota rule '%s': Not found in account '%s'", id, account)
}

func ruleFact(r clusters.QuotaRule) bus.Fact {
	return bus.Fact{Account: r.NCAID, Entity: r.ID, CorrelationID: r.ID}
}

// QuotaRules answers with the rules of the caller's account.
func (i *Inventory) QuotaRules(ctx context.Context, _ rpc.None) (clusters.QuotaRules, error) {
	return i.FindQuotaRules(ctx, clusters.QuotaQuery{Account: access.CallerFrom(ctx).Account})
}

// FindQuotaRules answers with the rules of an account, also in the form of the hosted clients.
func (i *Inventory) FindQuotaRules(ctx context.Context, req clusters.QuotaQuery) (clusters.QuotaRules, error) {
	out := clusters.QuotaRules{GPUs: []clusters.QuotaGPU{}, Rules: []clusters.QuotaRule{}}
	rules, err := i.store.rules(ctx, req.Account)
	if err != nil {
		return out, err
	}
	for _, r := range rules {
		out.Rules = append(out.Rules, r)
		names := strings.Join(r.Clusters, ",")
		if names == "" {
			names = clusters.Everyone
		}
		at := slices.IndexFunc(out.GPUs, func(g clusters.QuotaGPU) bool { return g.Name == r.GPU })
		if at < 0 {
			at = len(out.GPUs)
			out.GPUs = append(out.GPUs, clusters.QuotaGPU{Name: r.GPU})
		}
		out.GPUs[at].Clusters = append(out.GPUs[at].Clusters, clusters.QuotaCluster{Names: names, Limit: r.Limit})
	}
	return out, nil
}
