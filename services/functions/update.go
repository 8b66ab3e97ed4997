package functions

import (
	"context"
	"reflect"
	"slices"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Update changes the tags, description or limits of a version in any state (§3.7). An update that changes nothing
// writes nothing.
func (f *Functions) Update(ctx context.Context, r contract.UpdateRequest) (contract.FunctionResponse, error) {
	none := contract.FunctionResponse{}
	caller, want, err := named(ctx, r.FunctionID, r.VersionID)
	if err != nil {
		return none, err
	}
	if r.Description != nil && unblank(*r.Description) == "" {
		r.Description = nil
	}
	r.RateLimit, r.LLMInvocationConfig = normaliseRate(r.RateLimit), compact(r.LLMInvocationConfig)
	if err := validateUpdate(r); err != nil {
		return none, err
	}
	before, err := f.store.findFor(ctx, access.WriteFunction, caller, want)
	if err != nil {
		return none, err
	}
	var updated version
	touchesFamily := len(r.ModelUpdates) > 0 || r.LLMInvocationConfig != nil
	err = f.store.change(ctx, func(u unit) error {
		var family []version
		if touchesFamily {
			// Locked before the version itself, so that all who change a family wait in one order.
			if family, err = u.lockFamily(ctx, caller.Account, want.functionID); err != nil {
				return err
			}
		}
		v, err := u.lockFor(ctx, access.WriteFunction, caller, want, r.IfMatch)
		if err != nil {
			return err
		}
		spec, err := apart(v.spec, r)
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(spec, v.spec) && !reflect.DeepEqual(before.spec, v.spec) {
			return problem.New(problem.Conflict, "another request changed version '%s' at the same time; read it and try again", v.id)
		}
		others := slices.DeleteFunc(family, func(s version) bool { return s.id == v.id })
		if err := f.spread(ctx, u, others, sharedByUpdate(r)); err != nil {
			return err
		}
		updated, err = f.keep(ctx, u, v, spec)
		return err
	})
	return updated.answer(), err
}

// UpdateMetadata is Update for a client that leaves empty lists out: nothing at all means no tags (§3.8).
func (f *Functions) UpdateMetadata(ctx context.Context, r contract.MetadataRequest) (contract.FunctionResponse, error) {
	if changesNothing(r.UpdateRequest) {
		r.Tags = &[]string{}
	}
	return f.Update(ctx, r.UpdateRequest)
}

// RemoveRateLimit takes the limit of a version away (§4).
func (f *Functions) RemoveRateLimit(ctx context.Context, r contract.VersionRequest) (rpc.None, error) {
	caller, want, err := named(ctx, r.FunctionID, r.VersionID)
	if err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, f.store.change(ctx, func(u unit) error {
		v, err := u.lockFor(ctx, access.WriteFunction, caller, want, r.IfMatch)
		if err != nil {
			return err
		}
		spec := v.spec
		spec.RateLimit = nil
		_, err = f.keep(ctx, u, v, spec)
		return err
	})
}

// apart returns spec with the update applied.
func apart(spec contract.Spec, r contract.UpdateRequest) (contract.Spec, error) {
	if r.Tags != nil {
		spec.Tags = distinct(*r.Tags)
	}
	if r.Description != nil {
		spec.Description = *r.Description
	}
	if r.RateLimit != nil {
		spec.RateLimit = r.RateLimit
	}
	if len(r.ModelUpdates) == 0 && r.LLMInvocationConfig == nil {
		return spec, nil
	}
	if spec.FunctionType != contract.LLM {
		return spec, problem.New(problem.BadRequest, "modelUpdates and llmInvocationConfig are for LLM functions, and this is not one")
	}
	for _, u := range r.ModelUpdates {
		if model(spec, u.ModelName) == nil {
			return spec, problem.New(problem.NotFound, "Model '%s': Not found in this version", short(u.ModelName))
		}
	}
	spec, _ = takes(spec, sharedByUpdate(r))
	return spec, nil
}

// keep stores another specification of a locked version and tells of it; an equal one changes nothing.
func (f *Functions) keep(ctx context.Context, u unit, v version, spec contract.Spec) (version, error) {
	if reflect.DeepEqual(spec, v.spec) {
		return v, nil
	}
	limited := !reflect.DeepEqual(spec.RateLimit, v.spec.RateLimit)
	v.spec = spec
	v, err := f.rewrite(ctx, u, v)
	if err != nil || !limited {
		return v, err
	}
	return v, tell(ctx, u, contract.RateLimitUpdated, v, contract.RateLimitChanged{
		FunctionID: v.functionID, VersionID: v.id, RateLimit: v.spec.RateLimit,
	})
}

// rewrite stores a changed specification and tells of it.
func (f *Functions) rewrite(ctx context.Context, u unit, v version) (version, error) {
	v.updatedAt = f.moment()
	if err := u.save(ctx, v); err != nil {
		return v, err
	}
	v.revision++
	return v, tell(ctx, u, contract.Updated, v, contract.Changed{Function: v.view()})
}

// spread gives the locked versions of a family what one of them shares.
func (f *Functions) spread(ctx context.Context, u unit, family []version, s kinship) error {
	for _, sibling := range family {
		spec, changed := takes(sibling.spec, s)
		if !changed {
			continue
		}
		sibling.spec = spec
		if _, err := f.rewrite(ctx, u, sibling); err != nil {
			return err
		}
	}
	return nil
}
