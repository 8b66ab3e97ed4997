package deployments

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/services/deployments/placement"
)

// quotaRules asks for the rules of an account.
func (u *Deployments) quotaRules(ctx context.Context, account string) ([]clusters.QuotaRule, error) {
	answer, err := bus.Call(ctx, u.conn, clusters.FindQuotaRules, clusters.QuotaQuery{Account: account})
	return answer.Rules, err
}

// admit refuses a deployment whose minimums, together with those of the account's other ones, need more GPUs than a rule
// allows. Deployments of one account are admitted one after another, so that two cannot use the same rest.
func (u *Deployments) admit(ctx context.Context, t tx, d *deployment, rules []clusters.QuotaRule) error {
	if len(rules) == 0 {
		return nil
	}
	if err := u.store.lockQuota(ctx, t, d.Account); err != nil {
		return err
	}
	others, err := u.store.list(ctx, t, `WHERE account = $1 AND id <> $2 AND status <> $3`, d.Account, d.ID, functions.Inactive)
	if err != nil {
		return err
	}
	requested, used := demand(rules, d), demand(rules, others...)
	for _, r := range rules {
		if requested[r.ID] > 0 && requested[r.ID]+used[r.ID] > r.Limit {
			return problem.New(problem.Forbidden, "GPU quota of account '%s' for %s exceeded: requested %d, used %d, limit %d (rule %s)",
				d.Account, ruleName(r), requested[r.ID], used[r.ID], r.Limit, r.ID)
		}
	}
	return nil
}

// limited says why the next instance of a specification has to wait: the live instances of the account have used up what a
// rule allows. A deployment is admitted by its minimums, so this is what holds back everything beyond them.
func (r *Reconciler) limited(ctx context.Context, t tx, d *deployment, s *specification, all []clusters.QuotaRule) (*placement.Refusal, error) {
	rules := slices.DeleteFunc(slices.Clone(all), func(r clusters.QuotaRule) bool { return r.NCAID != d.Account })
	rule := ruleFor(rules, s)
	if rule == nil {
		return nil, nil
	}
	others, err := r.store.list(ctx, t, `WHERE account = $1 AND id <> $2`, d.Account, d.ID)
	if err != nil {
		return nil, err
	}
	used := 0
	for _, o := range append(others, d) {
		for _, i := range o.live() {
			if owner := o.spec(i.SpecID); owner != nil && i.useful() && ruleFor(rules, owner) == rule {
				used += owner.GPUs
			}
		}
	}
	if used+s.GPUs <= rule.Limit {
		return nil, nil
	}
	return &placement.Refusal{
		Code:    "quota-limited",
		Message: fmt.Sprintf("the GPU quota of the account for %s is used up: requested %d, used %d, limit %d (rule %s)", ruleName(*rule), s.GPUs, used, rule.Limit, rule.ID),
	}, nil
}

func ruleName(r clusters.QuotaRule) string {
	name := "GPU " + r.GPU
	if r.GPU == clusters.Everyone {
		name = "every GPU"
	}
	if len(r.Clusters) > 0 {
		name += " on " + strings.Join(r.Clusters, ", ")
	}
	return name
}

// demand counts, per rule, the GPUs that the minimums of deployments need.
func demand(rules []clusters.QuotaRule, all ...*deployment) map[string]int {
	out := map[string]int{}
	for _, d := range all {
		for _, s := range d.Specs {
			if r := ruleFor(rules, s); r != nil {
				out[r.ID] += s.minimum() * s.GPUs
			}
		}
	}
	return out
}

// ruleFor is the most specific rule for a specification: one that names its clusters before one that names none, then
// one that names its GPU. A rule about clusters is for specifications that cannot go elsewhere.
func ruleFor(rules []clusters.QuotaRule, s *specification) *clusters.QuotaRule {
	where := s.Clusters
	if s.Backend != "" {
		where = []string{s.Backend}
	}
	var best *clusters.QuotaRule
	rank := -1
	for n, r := range rules {
		within := len(r.Clusters) == 0 || len(where) > 0 && !slices.ContainsFunc(where, func(c string) bool {
			return !slices.ContainsFunc(r.Clusters, func(name string) bool { return strings.EqualFold(name, c) })
		})
		named := strings.EqualFold(r.GPU, s.GPU)
		if !within || !named && r.GPU != clusters.Everyone {
			continue
		}
		specific := 0
		if len(r.Clusters) > 0 {
			specific += 2
		}
		if named {
			specific++
		}
		if specific > rank {
			best, rank = &rules[n], specific
		}
	}
	return best
}
