package functions

import (
	"context"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
)

// Resolve returns the deployed versions of a function, or one of them, that an account may invoke.
func (f *Functions) Resolve(ctx context.Context, r contract.ResolveRequest) (contract.ResolveResponse, error) {
	none := contract.ResolveResponse{}
	functionID, err := id("functionId", r.FunctionID)
	if err != nil {
		return none, err
	}
	answer := contract.ResolveResponse{FunctionID: functionID, Owner: r.Account, Targets: []contract.Target{}}
	if r.VersionID != "" {
		versionID, err := id("versionId", r.VersionID)
		if err != nil {
			return none, err
		}
		v, found, err := f.store.find(ctx, versionID)
		if err != nil {
			return none, err
		}
		if !found || v.functionID != functionID || v.account != r.Account && !v.sharedWith(r.Account) {
			return none, versionNotFound(r.Account, pair{functionID, versionID})
		}
		answer.Owner, answer.Public = v.account, v.public()
		if v.status != contract.Inactive {
			answer.Targets = append(answer.Targets, target(v))
		}
		return answer, nil
	}
	deployed, err := f.store.invocable(ctx, r.Account, functionID)
	if err != nil {
		return none, err
	}
	if len(deployed) == 0 {
		if answer.Owner, answer.Public, err = f.store.owner(ctx, r.Account, functionID); err != nil {
			return none, err
		}
		if answer.Owner == "" {
			return none, functionNotFound(r.Account, functionID)
		}
	}
	for _, v := range deployed {
		answer.Owner, answer.Public = v.account, answer.Public || v.public()
		answer.Targets = append(answer.Targets, target(v))
	}
	return answer, nil
}

func target(v version) contract.Target {
	return contract.Target{VersionID: v.id, Name: v.spec.Name, Status: v.status, InferenceURL: v.spec.InferenceURL, Type: v.spec.FunctionType, Public: v.public()}
}
