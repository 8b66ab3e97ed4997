package functions

import (
	"context"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// Lookup returns one version to another service, whatever account it is in.
func (f *Functions) Lookup(ctx context.Context, r contract.InternalRequest) (contract.FunctionResponse, error) {
	v, err := f.internal(ctx, r)
	return contract.FunctionResponse{Function: v.view(), Public: v.public()}, err
}

// Launch returns one version with the values of its secrets, to the node that starts it. It refuses to act for a
// client: no route leads here, and none shall by mistake.
func (f *Functions) Launch(ctx context.Context, r contract.InternalRequest) (contract.Launchable, error) {
	if access.CallerFrom(ctx).Kind != "" {
		return contract.Launchable{}, problem.New(problem.Forbidden, "secrets are for the platform's own services")
	}
	v, err := f.internal(ctx, r)
	if err != nil {
		return contract.Launchable{}, err
	}
	sealed, err := f.store.secrets(ctx, v.id)
	if err != nil {
		return contract.Launchable{}, err
	}
	launchable := contract.Launchable{Function: v.view()}
	if launchable.RegistryAuth, err = f.registryAuth(ctx, v.account, v.spec.ContainerImage); err != nil {
		return contract.Launchable{}, err
	}
	if launchable.Telemetries, err = f.launchTelemetries(ctx, v); err != nil {
		return contract.Launchable{}, err
	}
	for _, s := range sealed {
		value, err := f.vault.Open(ctx, place(v.id, s.name), s.value)
		if err != nil {
			return contract.Launchable{}, err
		}
		launchable.Secrets = append(launchable.Secrets, contract.Secret{Name: s.name, Value: value})
	}
	return launchable, nil
}

func (f *Functions) internal(ctx context.Context, r contract.InternalRequest) (version, error) {
	versionID, err := id("versionId", r.VersionID)
	if err != nil {
		return version{}, err
	}
	functionID := ""
	if r.FunctionID != "" {
		if functionID, err = id("functionId", r.FunctionID); err != nil {
			return version{}, err
		}
	}
	v, found, err := f.store.find(ctx, versionID)
	if err != nil {
		return version{}, err
	}
	if !found || functionID != "" && functionID != v.functionID {
		return version{}, problem.New(problem.NotFound, "Function version '%s': Not found", versionID)
	}
	return v, nil
}
