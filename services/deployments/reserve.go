package deployments

import (
	"context"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/services/deployments/placement"
)

// reservation is how many GPUs a rule still keeps free for its account.
type reservation struct {
	rule clusters.QuotaRule
	left int
}

// reservations are those of the other accounts, as far as they do not use them.
func (r *Reconciler) reservations(ctx context.Context, t tx, account string, all []clusters.QuotaRule) (out []reservation, err error) {
	for n, rule := range all {
		if rule.Reserved == 0 || rule.NCAID == account {
			continue
		}
		theirs, err := r.store.list(ctx, t, `WHERE account = $1`, rule.NCAID)
		if err != nil {
			return nil, err
		}
		rules := slices.DeleteFunc(slices.Clone(all), func(other clusters.QuotaRule) bool { return other.NCAID != rule.NCAID })
		at := slices.IndexFunc(rules, func(other clusters.QuotaRule) bool { return other.ID == rule.ID })
		if left := rule.Reserved - using(rules, &rules[at], theirs).gpus; left > 0 {
			out = append(out, reservation{all[n], left})
		}
	}
	return out, nil
}

// covers reports whether a rule is about a GPU of a node.
func (v reservation) covers(n clusters.Node, gpu string) bool {
	return (v.rule.GPU == clusters.Everyone || strings.EqualFold(v.rule.GPU, gpu)) && n.UsableBy(v.rule.NCAID) &&
		(len(v.rule.Clusters) == 0 || among(v.rule.Clusters, n.Cluster)) && (len(v.rule.Regions) == 0 || among(v.rule.Regions, n.Facts.Region))
}

// unreserved leaves out of nodes those where one more instance would take what is kept free for others anywhere.
func (f fleet) unreserved(nodes []clusters.Node, held placement.Held, s *specification, kept []reservation) []clusters.Node {
	for _, v := range kept {
		free := 0
		for _, n := range f.nodes {
			if n.State != clusters.NodeReady {
				continue
			}
			for _, d := range n.Devices {
				if d.State == clusters.Free && v.covers(n, d.GPU) && !held[placement.Device{Node: placement.Of(n), UUID: d.UUID}] {
					free++
				}
			}
		}
		if free-s.GPUs < v.left {
			nodes = slices.DeleteFunc(slices.Clone(nodes), func(n clusters.Node) bool { return v.covers(n, s.GPU) })
		}
	}
	return nodes
}

// reserved explains a refusal that comes from what is kept free for others alone.
func reserved(nodes []clusters.Node, held placement.Held, request placement.Request) *placement.Refusal {
	if _, _, refusal := placement.Choose(nodes, held, request); refusal != nil {
		return nil
	}
	return &placement.Refusal{Code: "gpu-reserved", Message: "the GPUs that are free are reserved for other accounts"}
}

// urgent puts those deployments first whose account has the higher priority; among equals the order stays.
func (r *Reconciler) urgent(ctx context.Context, ids []string, rules []clusters.QuotaRule) ([]string, error) {
	priority := map[string]int{}
	for _, rule := range rules {
		priority[rule.NCAID] = max(priority[rule.NCAID], rule.Priority)
	}
	if len(ids) < 2 || !slices.ContainsFunc(rules, func(rule clusters.QuotaRule) bool { return rule.Priority > 0 }) {
		return ids, nil
	}
	owner, err := r.store.accounts(ctx, ids)
	if err != nil {
		return nil, err
	}
	sorted := slices.Clone(ids)
	slices.SortStableFunc(sorted, func(a, b string) int { return priority[owner[b]] - priority[owner[a]] })
	return sorted, nil
}
