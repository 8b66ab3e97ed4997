package deployments

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// RollOver marks instances of a version to be replaced by new ones (§11.10). The reconciler starts a new one before it
// ends an old one where there is room, and after it where there is none.
func (u *Deployments) RollOver(ctx context.Context, req contract.RolloverRequest) (contract.RolloverResponse, error) {
	none := contract.RolloverResponse{}
	if err := validIDs(map[string]string{"functionId": req.FunctionID, "versionId": req.VersionID}); err != nil {
		return none, err
	}
	check := problem.NewCheck("rollover")
	check.Require(len(req.Specifications) <= maxSpecifications, "rollOverSpecifications", "must have at most %d elements", maxSpecifications)
	for n, r := range req.Specifications[:min(len(req.Specifications), maxSpecifications)] {
		at := fmt.Sprintf("rollOverSpecifications[%d].", n)
		validName(check, at+"gpu", r.GPU, true)
		validName(check, at+"instanceType", r.InstanceType, true)
		check.Require(r.NumInstances != nil && *r.NumInstances > 0, at+"numInstances", "must be given and greater than 0")
	}
	if err := check.Err(); err != nil {
		return none, err
	}
	found, err := u.ofVersion(ctx, access.RollOver, req.FunctionID, req.VersionID)
	if err != nil {
		return none, err
	}
	out := contract.RolloverResponse{ICMSRequestIDs: []string{}}
	err = u.change(ctx, found.ID, func(t tx, d *deployment) (bool, error) {
		counts, err := rolloverCounts(d, req.Specifications)
		if err != nil {
			return false, err
		}
		var rolled []instances.Brief
		for _, i := range d.Instances {
			s := d.spec(i.SpecID)
			if s == nil || !i.useful() || counts[s] == 0 {
				continue
			}
			counts[s]--
			out.ICMSRequestIDs = append(out.ICMSRequestIDs, i.ID)
			rolled = append(rolled, brief(d, i))
			if i.Rolling {
				continue
			}
			i.Rolling = true
			if err := u.store.putInstance(ctx, t, i); err != nil {
				return false, err
			}
		}
		if len(rolled) == 0 {
			return false, nil
		}
		return true, bus.Record(ctx, t, u.journal, contract.RolledOver, d.fact(), contract.InstancesOrdered{DeploymentID: d.ID, VersionID: d.VersionID, Instances: rolled})
	})
	return out, err
}

// rolloverCounts says how many instances of each specification are replaced.
func rolloverCounts(d *deployment, sent []contract.Rollover) (map[*specification]int, error) {
	counts := map[*specification]int{}
	for _, s := range d.Specs {
		if len(sent) == 0 {
			counts[s] = s.maximum()
		}
	}
	check := problem.NewCheck("rollover")
	for n, r := range sent {
		at := fmt.Sprintf("rollOverSpecifications[%d].", n)
		known := false
		for _, s := range d.Specs {
			if !strings.EqualFold(s.GPU, r.GPU) || !strings.EqualFold(s.InstanceType, r.InstanceType) {
				continue
			}
			known = true
			check.Require(*r.NumInstances <= s.maximum(), at+"numInstances", "must not be greater than maxInstances: %d > %d", *r.NumInstances, s.maximum())
			counts[s] = *r.NumInstances
			break
		}
		check.Require(known, at+"instanceType", "the deployment has no GPU specification with '%s' of '%s'", r.InstanceType, r.GPU)
	}
	return counts, check.Err()
}

// RemoveInstance ends one instance at once; when the deployment wants it, another one takes its place.
func (u *Deployments) RemoveInstance(ctx context.Context, req contract.InstanceRequest) (contract.InstanceResponse, error) {
	none := contract.InstanceResponse{}
	if err := validIDs(map[string]string{"instanceId": req.InstanceID}); err != nil {
		return none, err
	}
	id := strings.ToLower(req.InstanceID)
	return contract.InstanceResponse{InstanceID: id, Status: deleted}, u.store.tx(ctx, func(t tx) error {
		owner, err := u.store.idOf(ctx, t, "instances", "id", id)
		if err != nil {
			return err
		}
		if owner == "" {
			return instanceNotFound(req.InstanceID)
		}
		d, err := u.store.lock(ctx, t, owner)
		if err != nil {
			return err
		}
		caller := access.CallerFrom(ctx)
		if d == nil || caller.CrossAccount && d.Account != caller.Account {
			return instanceNotFound(req.InstanceID)
		}
		for _, i := range d.live() {
			if i.ID != id {
				continue
			}
			was := contract.InstancesOrdered{DeploymentID: d.ID, VersionID: d.VersionID, Instances: []instances.Brief{brief(d, i)}}
			if err := bus.Record(ctx, t, u.journal, contract.InstanceEnded, d.instanceFact(i.ID), was); err != nil {
				return err
			}
			if err := orderStop(ctx, t, u.store, u.journal, d, stop{instance: i, cause: instances.ByUser}, u.clock.Now().Truncate(time.Microsecond)); err != nil {
				return err
			}
			return u.store.poke(ctx, t, d.ID)
		}
		return instanceNotFound(req.InstanceID)
	})
}

func instanceNotFound(id string) error {
	return problem.New(problem.NotFound, "Instance id '%s': Not found", id)
}

// GoldenImages answers that there is no side-car image: the node agent is the worker.
func (u *Deployments) GoldenImages(context.Context, rpc.None) (contract.GoldenImages, error) {
	return contract.GoldenImages{GoldenImages: []string{}}, nil
}
