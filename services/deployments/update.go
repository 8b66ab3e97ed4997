package deployments

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// Replace changes bounds and concurrency of every specification (§11.6).
func (u *Deployments) Replace(ctx context.Context, req contract.CreateRequest) (contract.Response, error) {
	none := contract.Response{}
	if err := validIDs(map[string]string{"functionId": req.FunctionID, "versionId": req.VersionID}); err != nil {
		return none, err
	}
	check := problem.NewCheck("deployment")
	check.Require(len(req.Specifications) > 0, "deploymentSpecifications", "must have at least one GPU specification")
	for n, s := range req.Specifications {
		at := fmt.Sprintf("deploymentSpecifications[%d].", n)
		validBounds(check, at, s.MinInstances, s.MaxInstances)
		validConcurrency(check, at, s.MaxRequestConcurrency)
	}
	if err := check.Err(); err != nil {
		return none, err
	}
	found, err := u.ofVersion(ctx, access.Deploy, req.FunctionID, req.VersionID)
	if err != nil {
		return none, err
	}
	rules, err := u.quotaRules(ctx, found.Account)
	if err != nil {
		return none, err
	}
	var d *deployment
	err = u.change(ctx, found.ID, func(t tx, locked *deployment) (bool, error) {
		d = locked
		if err := d.unchanged(req.IfMatch); err != nil {
			return false, err
		}
		pairs, err := paired(d, req.Specifications)
		if err != nil {
			return false, err
		}
		changed, raised := false, false
		for n, s := range pairs {
			sent := req.Specifications[n]
			raised = raised || *sent.MinInstances > s.minimum()
			moved, err := u.bounds(ctx, t, d, s, *sent.MinInstances, *sent.MaxInstances)
			if err != nil {
				return false, err
			}
			changed = changed || moved
			if sent.MaxRequestConcurrency != nil && *sent.MaxRequestConcurrency != s.concurrency() {
				s.MaxRequestConcurrency, changed = sent.MaxRequestConcurrency, true
			}
		}
		if raised {
			return changed, u.admit(ctx, t, d, rules)
		}
		return changed, nil
	})
	if err != nil {
		return none, err
	}
	return respond(d), nil
}

// paired finds the stored specification of each one sent.
func paired(d *deployment, sent []contract.Specification) ([]*specification, error) {
	if len(sent) != len(d.Specs) {
		return nil, problem.New(problem.Validation, "deploymentSpecifications: must have %d GPU specifications, as the deployment has, not %d", len(d.Specs), len(sent))
	}
	check := problem.NewCheck("deployment")
	out := make([]*specification, len(sent))
	taken := map[string]bool{}
	for n, s := range sent {
		at := fmt.Sprintf("deploymentSpecifications[%d].", n)
		id := strings.ToLower(strings.TrimSpace(s.ID))
		switch {
		case id != "":
			out[n] = d.spec(id)
			check.Require(out[n] != nil, at+"gpuSpecificationId", "unknown: '%s'", s.ID)
			check.Require(!taken[id], at+"gpuSpecificationId", "must not be named twice")
			taken[id] = true
		case len(sent) > 1:
			check.Require(false, at+"gpuSpecificationId", "must be given when there are several GPU specifications")
		default:
			out[n] = d.Specs[0]
		}
		if out[n] == nil {
			continue
		}
		backend := strings.TrimSpace(s.Backend)
		check.Require(backend == "" || strings.EqualFold(backend, out[n].Backend), at+"backend", "cannot be changed; undeploy and deploy again")
		check.Require(len(s.Clusters) == 0 || sameNames(s.Clusters, out[n].Clusters), at+"clusters", "cannot be changed; undeploy and deploy again")
	}
	return out, check.Err()
}

// sameNames compares sets of names without case.
func sameNames(a, b []string) bool {
	norm := func(names []string) []string {
		out := make([]string, len(names))
		for n, name := range names {
			out[n] = strings.ToLower(strings.TrimSpace(name))
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	return slices.Equal(norm(a), norm(b))
}

// Patch changes one specification (§11.7).
func (u *Deployments) Patch(ctx context.Context, req contract.PatchRequest) (contract.PatchResponse, error) {
	none := contract.PatchResponse{}
	if err := validIDs(map[string]string{"deploymentId": req.DeploymentID, "gpuSpecificationId": req.ID}); err != nil {
		return none, err
	}
	req.Autoscaling = present(req.Autoscaling)
	policy := strings.ToUpper(strings.TrimSpace(req.AutoscalingPolicy))
	if err := validPatch(req, policy); err != nil {
		return none, err
	}
	found, err := u.byID(ctx, access.Deploy, req.DeploymentID)
	if err != nil {
		return none, err
	}
	id := strings.ToLower(req.ID)
	if found.spec(id) == nil {
		return none, problem.New(problem.NotFound, "Deployment id '%s', GPU specification id '%s': Not found", req.DeploymentID, req.ID)
	}
	var rules []clusters.QuotaRule
	if req.MinInstances != nil {
		if rules, err = u.quotaRules(ctx, found.Account); err != nil {
			return none, err
		}
	}
	var patched *deployment
	var s *specification
	err = u.change(ctx, found.ID, func(t tx, d *deployment) (bool, error) {
		if err := d.unchanged(req.IfMatch); err != nil {
			return false, err
		}
		patched, s = d, d.spec(id)
		low, high, err := merged(s, req)
		if err != nil {
			return false, err
		}
		raised := low > s.minimum()
		changed, err := u.bounds(ctx, t, d, s, low, high)
		if err == nil && raised {
			err = u.admit(ctx, t, d, rules)
		}
		switch {
		case policy == platformConfiguration:
			changed = changed || s.Autoscaling != nil
			s.Autoscaling = nil
		case req.Autoscaling != nil && !bytes.Equal(s.Autoscaling, req.Autoscaling):
			s.Autoscaling, changed = req.Autoscaling, true
		}
		return changed, err
	})
	if err != nil {
		return none, err
	}
	return contract.PatchResponse{Specification: s.Specification, ETag: patched.etag()}, nil
}

// merged are the bounds that a patch leads to.
func merged(s *specification, req contract.PatchRequest) (low, high int, err error) {
	low, high = s.minimum(), s.maximum()
	if req.MinInstances != nil {
		low = *req.MinInstances
	}
	if req.MaxInstances != nil {
		high = *req.MaxInstances
	}
	check := problem.NewCheck("gpuSpecification")
	check.Require(low <= high, "minInstances", "must not be greater than maxInstances: %d > %d, after merging with what is stored", low, high)
	return low, high, check.Err()
}

func validPatch(req contract.PatchRequest, policy string) error {
	check := problem.NewCheck("gpuSpecification")
	check.Require(req.MinInstances != nil || req.MaxInstances != nil || req.Autoscaling != nil || policy != "", "minInstances",
		"at least one of minInstances, maxInstances, autoscalingConfiguration, autoscalingConfigurationPolicy must be given")
	check.Require(req.MinInstances == nil || *req.MinInstances >= 0 && *req.MinInstances <= maxInstances, "minInstances", "must be between 0 and %d", maxInstances)
	check.Require(req.MaxInstances == nil || *req.MaxInstances >= 1 && *req.MaxInstances <= maxInstances, "maxInstances", "must be between 1 and %d", maxInstances)
	check.Require(policy == "" || policy == customConfiguration || policy == platformConfiguration, "autoscalingConfigurationPolicy",
		"must be %s or %s", customConfiguration, platformConfiguration)
	validAutoscaling(check, "autoscalingConfiguration", req.Autoscaling)
	return check.Err()
}

// bounds sets minimum and maximum of a specification and moves what is wanted with them: a count that followed the
// minimum goes on following it, one that work had raised only stays within the bounds.
func (u *Deployments) bounds(ctx context.Context, t tx, d *deployment, s *specification, low, high int) (changed bool, err error) {
	if low == s.minimum() && high == s.maximum() {
		return false, nil
	}
	was := s.Wanted
	if s.Wanted == s.minimum() {
		s.Wanted = low
	}
	if low > s.minimum() {
		s.RaisedUntil = u.clock.Now().Add(raiseAllowance)
	}
	s.Wanted = min(max(s.Wanted, low), high)
	s.Proven = min(s.Proven, low)
	s.MinInstances, s.MaxInstances = &low, &high
	return true, scaled(ctx, t, u.journal, d, moved{s, was}, becauseUser)
}

// change runs fn on a busy deployment under its lock, and stores, tells and wakes when fn changed something.
func (u *Deployments) change(ctx context.Context, id string, fn func(tx, *deployment) (bool, error)) error {
	return u.store.tx(ctx, func(t tx) error {
		d, err := u.store.lock(ctx, t, id)
		if err != nil {
			return err
		}
		if d == nil || !d.visible() {
			return problem.New(problem.NotFound, "Deployment id '%s': Deployment not found", id)
		}
		if !d.Status.Busy() {
			return problem.New(problem.IllegalState, "Function id '%s', version '%s': Status %s, only a deployment that is active or on its way there can be changed", d.FunctionID, d.VersionID, d.Status)
		}
		before := answer(d)
		changed, err := fn(t, d)
		if err != nil || !changed {
			return err
		}
		d.UpdatedAt = u.clock.Now().Truncate(time.Microsecond)
		if err := u.store.put(ctx, t, d); err != nil {
			return err
		}
		if err := bus.Record(ctx, t, u.journal, contract.Updated, d.fact(), contract.Changed{Deployment: answer(d), Before: &before}); err != nil {
			return err
		}
		return u.store.poke(ctx, t, d.ID)
	})
}
