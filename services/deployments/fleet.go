package deployments

import (
	"context"
	"slices"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/services/deployments/placement"
)

// fleet is one view of the nodes and of the quota of all accounts; err says why there is none.
type fleet struct {
	nodes  []clusters.Node
	rules  []clusters.QuotaRule
	byName map[placement.Node]clusters.Node
	err    error
}

func (r *Reconciler) look(ctx context.Context) fleet {
	ctx, cancel := context.WithTimeout(ctx, askNodes)
	defer cancel()
	answer, err := bus.Call(ctx, r.conn, clusters.Nodes, clusters.NodesRequest{})
	quota := clusters.QuotaRules{}
	if err == nil {
		quota, err = bus.Call(ctx, r.conn, clusters.FindQuotaRules, clusters.QuotaQuery{})
	}
	f := fleet{nodes: answer.Nodes, rules: quota.Rules, byName: map[placement.Node]clusters.Node{}, err: err}
	for _, n := range answer.Nodes {
		f.byName[placement.Of(n)] = n
		if n.State != clusters.NodeGone {
			delete(r.absent, placement.Of(n))
		}
	}
	return f
}

// known reports whether there is a view at all.
func (f fleet) known() bool { return f.err == nil }

// usableBy are the nodes that an account may use.
func (f fleet) usableBy(account string) []clusters.Node {
	return slices.DeleteFunc(slices.Clone(f.nodes), func(n clusters.Node) bool { return !n.UsableBy(account) })
}

// lost reports whether the instances of a node count as ended: the inventory says so, or the node is gone and stays
// gone. An agent that stops may be back in a moment, with its instances untouched, and an inventory that does not know
// a node may just be rebuilding its projection; so absence counts from when this leader saw it first.
func (r *Reconciler) lost(f fleet, node placement.Node) bool {
	if f.err != nil {
		return false
	}
	n, known := f.byName[node]
	if known && n.State != clusters.NodeGone {
		return n.State == clusters.NodeLost
	}
	now := r.clock.Now()
	since, noted := r.absent[node]
	if !noted {
		r.absent[node] = now
		return false
	}
	return now.Sub(since) >= clusters.LostAfter
}
