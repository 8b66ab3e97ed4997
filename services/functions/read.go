package functions

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
)

// instancesPatience is how long a reader of details waits for the deployments service; a version without its
// instances is more use than none.
const instancesPatience = time.Second

// Get returns one version; instances and secret names only to who may see details (§3.6).
func (f *Functions) Get(ctx context.Context, r contract.VersionRequest) (contract.FunctionResponse, error) {
	none := contract.FunctionResponse{}
	caller, want, err := named(ctx, r.FunctionID, r.VersionID)
	if err != nil {
		return none, err
	}
	v, found, err := f.store.find(ctx, want.versionID)
	if err != nil {
		return none, err
	}
	if found && v.functionID == want.functionID && v.account != caller.Account && v.sharedWith(caller.Account) &&
		caller.CoversFunction(false, v.functionID, v.id) {
		return contract.FunctionResponse{Function: v.sharedView(), ETag: v.etag()}, nil
	}
	if err := permit(access.ReadFunctions, caller, want, v, found); err != nil {
		return none, err
	}
	response := v.answer()
	answer := &response.Function
	if !seesDetails(caller, v) {
		return response, nil
	}
	if r.IncludeSecrets == nil || *r.IncludeSecrets {
		sealed, err := f.store.secrets(ctx, v.id)
		if err != nil {
			return none, err
		}
		for _, s := range sealed {
			answer.Secrets = append(answer.Secrets, s.name)
		}
	}
	answer.ActiveInstances = f.live(ctx, v.id)
	return response, nil
}

// seesDetails reports whether the caller may see the instances and the names of the secrets of a version of its account.
func seesDetails(caller access.Caller, v version) bool {
	if caller.CrossAccount {
		return slices.Contains(caller.Scopes, access.AdminPrefix+access.ListFunctionDetails)
	}
	return caller.MayAlso(access.ListFunctionDetails, true, v.functionID, v.id)
}

// live returns the instances of a version, none when the deployments service does not answer.
func (f *Functions) live(ctx context.Context, versionID string) []instances.Brief {
	ctx, cancel := context.WithTimeout(ctx, instancesPatience)
	defer cancel()
	found, err := f.instances(ctx, versionID)
	if err != nil {
		f.log.Warn("instances left out of an answer", zap.String("version", versionID), zap.Error(err))
		return nil
	}
	return found
}
