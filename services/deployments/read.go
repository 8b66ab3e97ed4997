package deployments

import (
	"context"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
)

// Get answers with the deployment of a version.
func (u *Deployments) Get(ctx context.Context, req contract.VersionRequest) (contract.Response, error) {
	if err := validIDs(map[string]string{"functionId": req.FunctionID, "versionId": req.VersionID}); err != nil {
		return contract.Response{}, err
	}
	d, err := u.ofVersion(ctx, access.ReadDeployment, req.FunctionID, req.VersionID)
	if err != nil {
		return contract.Response{}, err
	}
	return respond(d), nil
}

// GetByID answers with one deployment.
func (u *Deployments) GetByID(ctx context.Context, req contract.IDRequest) (contract.Response, error) {
	if err := validIDs(map[string]string{"deploymentId": req.ID}); err != nil {
		return contract.Response{}, err
	}
	d, err := u.byID(ctx, access.ReadDeployment, req.ID)
	if err != nil {
		return contract.Response{}, err
	}
	return respond(d), nil
}

// Instances answers with the live instances of a version, for other services.
func (u *Deployments) Instances(ctx context.Context, req contract.InstancesRequest) (contract.InstancesResponse, error) {
	out := contract.InstancesResponse{Instances: []instances.Brief{}}
	if err := validIDs(map[string]string{"versionId": req.VersionID}); err != nil {
		return out, err
	}
	d, err := u.store.find(ctx, u.store.pool, `WHERE version_id = $1`, req.VersionID)
	if err != nil || d == nil {
		return out, err
	}
	for _, i := range d.live() {
		out.Instances = append(out.Instances, brief(d, i))
	}
	return out, nil
}
