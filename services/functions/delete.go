package functions

import (
	"context"
	"slices"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Delete removes a version in any state (§3.9). The deployments service hears of it and tears down what runs.
func (f *Functions) Delete(ctx context.Context, r contract.VersionRequest) (rpc.None, error) {
	caller, want, err := named(ctx, r.FunctionID, r.VersionID)
	if err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, f.store.change(ctx, func(u unit) error {
		// Who else adds or deletes a version of the function must know whether this one is the last.
		family, err := u.lockFamily(ctx, caller.Account, want.functionID)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(family, func(v version) bool { return v.id == want.versionID })
		if at < 0 {
			return versionNotFound(caller.Account, want)
		}
		v := family[at]
		if err := permit(access.RemoveFunction, caller, want, v, true); err != nil {
			return err
		}
		if v.public() {
			return isPublic("delete")
		}
		if err := v.matches(r.IfMatch); err != nil {
			return err
		}
		if err := u.remove(ctx, v.id); err != nil {
			return err
		}
		if len(family) == 1 {
			if err := u.removeFunction(ctx, v.account); err != nil {
				return err
			}
		}
		return tell(ctx, u, contract.Deleted, v, contract.Changed{Function: v.view()})
	})
}
