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
		want, have := requested[r.ID], used[r.ID]
		if want.gpus > 0 && want.gpus+have.gpus > r.Limit {
			return problem.New(problem.Forbidden, "GPU quota of account '%s' for %s exceeded: requested %d, used %d, limit %d (rule %s)",
				d.Account, ruleName(r), want.gpus, have.gpus, r.Limit, r.ID)
		}
		if r.MaxInstances > 0 && want.instances > 0 && want.instances+have.instances > r.MaxInstances {
			return problem.New(problem.Forbidden, "instance quota of account '%s' for %s exceeded: requested %d, used %d, limit %d (rule %s)",
				d.Account, ruleName(r), want.instances, have.instances, r.MaxInstances, r.ID)
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
	used := using(rules, rule, append(others, d))
	switch {
	case used.gpus+s.GPUs > rule.Limit+rule.Burst:
		return &placement.Refusal{Code: quotaLimited, Message: fmt.Sprintf("the GPU quota of the account for %s is used up: requested %d, used %d, limit %d (rule %s)",
			ruleName(*rule), s.GPUs, used.gpus, rule.Limit+rule.Burst, rule.ID)}, nil
	case rule.MaxInstances > 0 && used.instances+1 > rule.MaxInstances:
		return &placement.Refusal{Code: quotaLimited, Message: fmt.Sprintf("the instance quota of the account for %s is used up: used %d, limit %d (rule %s)",
			ruleName(*rule), used.instances, rule.MaxInstances, rule.ID)}, nil
	}
	return nil, nil
}

// quotaLimited is the code of an instance that waits for its account's quota.
const quotaLimited = "quota-limited"

// amount is what a quota rule counts.
type amount struct{ gpus, instances int }

// using counts what the live instances of deployments use of one rule among those of their account.
func using(rules []clusters.QuotaRule, rule *clusters.QuotaRule, all []*deployment) (used amount) {
	for _, d := range all {
		for _, i := range d.live() {
			if owner := d.spec(i.SpecID); owner != nil && i.useful() && ruleFor(rules, owner) == rule {
				used.gpus += owner.GPUs
				used.instances++
			}
		}
	}
	return used
}

func ruleName(r clusters.QuotaRule) string {
	name := "GPU " + r.GPU
	if r.GPU == clusters.Everyone {
		name = "every GPU"
	}
	if where := slices.Concat(r.Clusters, r.Regions); len(where) > 0 {
		name += " on " + strings.Join(where, ", ")
	}
	return name
}

// demand counts, per rule, what the minimums of deployments need.
func demand(rules []clusters.QuotaRule, all ...*deployment) map[string]amount {
	out := map[string]amount{}
	for _, d := range all {
		for _, s := range d.Specs {
			if r := ruleFor(rules, s); r != nil {
				sum := out[r.ID]
				out[r.ID] = amount{sum.gpus + s.minimum()*s.GPUs, sum.instances + s.minimum()}
			}
		}
	}
	return out
}

// ruleFor is the most specific rule for a specification: one that names its clusters before one that names none, then one
// that names its regions, then one that names its GPU. A rule about places is for specifications that cannot go elsewhere.
func ruleFor(rules []clusters.QuotaRule, s *specification) *clusters.QuotaRule {
	where := s.Clusters
	if s.Backend != "" {
		where = []string{s.Backend}
	}
	var best *clusters.QuotaRule
	rank := -1
	for n, r := range rules {
		named := strings.EqualFold(r.GPU, s.GPU)
		if !within(r.Clusters, where) || !within(r.Regions, s.Regions) || !named && r.GPU != clusters.Everyone {
			continue
		}
		specific := 0
		for n, says := range []bool{named, len(r.Regions) > 0, len(r.Clusters) > 0} {
			if says {
				specific += 1 << n
			}
		}
		if specific > rank {
			best, rank = &rules[n], specific
		}
	}
	return best
}

// within reports whether a rule about some places is about all that a specification may go to.
func within(rule, places []string) bool {
	return len(rule) == 0 || len(places) > 0 && !slices.ContainsFunc(places, func(place string) bool { return !among(rule, place) })
}

func among(names []string, name string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}
