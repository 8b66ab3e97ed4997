package functions

import (
	"context"
	"fmt"
	"slices"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// states are those of §2.2 that a version can be in.
var states = []contract.Status{contract.Inactive, contract.Deploying, contract.Active, contract.Degrading, contract.Degraded, contract.Error}

// SetStatus takes over what the deployments service observed. Repeating a report changes nothing. The end of a
// deployment that is no longer the current one changes nothing either: a late report must not stop its successor.
func (f *Functions) SetStatus(ctx context.Context, r contract.SetStatusRequest) (rpc.None, error) {
	versionID, err := id("versionId", r.VersionID)
	if err != nil {
		return rpc.None{}, err
	}
	if !slices.Contains(states, r.Status) {
		c := newChecker("request")
		c.refuse("status", fmt.Sprintf("must be one of %v", states))
		return rpc.None{}, c.Err()
	}
	return rpc.None{}, f.store.change(ctx, func(u unit) error {
		v, found, err := u.lock(ctx, versionID)
		if err != nil {
			return err
		}
		if !found {
			return problem.New(problem.NotFound, "Function version '%s': Not found", versionID)
		}
		moved := v
		moved.status, moved.deploymentID, moved.reason = r.Status, r.DeploymentID, r.Reason
		if r.Status == contract.Inactive {
			if v.deploymentID != "" && r.DeploymentID != "" && v.deploymentID != r.DeploymentID {
				return nil
			}
			moved.deploymentID = ""
		}
		if moved.status == v.status && moved.deploymentID == v.deploymentID && moved.reason == v.reason {
			return nil
		}
		moved.updatedAt = f.moment()
		if err := u.move(ctx, moved); err != nil {
			return err
		}
		if moved.status == v.status {
			return nil
		}
		moved.deploymentID = r.DeploymentID // the event names the deployment that ended, too
		return tell(ctx, u, contract.StatusMoved, moved, contract.StatusChanged{
			FunctionID: v.functionID, VersionID: v.id, From: v.status, To: moved.status, DeploymentID: r.DeploymentID, Reason: r.Reason,
		})
	})
}
