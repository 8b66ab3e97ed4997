package deployments

import (
	"github.com/google/uuid"

	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
)

// answer renders a deployment as clients see it (§11.3): specifications in the order and spelling of the request.
func answer(d *deployment) contract.Deployment {
	out := contract.Deployment{
		ID: d.ID, FunctionID: d.FunctionID, VersionID: d.VersionID, FunctionName: d.FunctionName, NCAID: d.Account,
		FunctionStatus: d.Status, Status: d.Status, HealthInfo: healthInfo(d), Instances: shownInstances(d),
		CreatedAt: d.CreatedAt.UTC(), CreationTime: d.CreatedAt.UTC(), LastUpdatedAt: d.UpdatedAt.UTC(),
		Specifications: make([]contract.Specification, len(d.Specs)),
	}
	for n, s := range d.Specs {
		out.Specifications[n] = s.Specification
	}
	if d.Status != functions.Active {
		reason := d.Reason
		out.Reason = &reason
	}
	return out
}

// healthInfo has one element for each specification that wants instances and has none that runs or starts (§11.9).
func healthInfo(d *deployment) []contract.HealthInfo {
	var out []contract.HealthInfo
	for _, s := range d.Specs {
		var failed *instance
		alive := false
		for _, i := range d.of(s) {
			alive = alive || i.useful() && (i.State == instances.Running || i.State == instances.Starting)
			if i.failed() && (failed == nil || !i.UpdatedAt.Before(failed.UpdatedAt)) {
				failed = i
			}
		}
		if alive {
			continue
		}
		h := contract.HealthInfo{
			ICMSRequestID: uuid.Nil.String(), SISRequestID: uuid.Nil.String(), GPU: s.GPU, Backend: s.Backend, InstanceType: s.InstanceType,
		}
		switch {
		case failed != nil:
			h.Backend, h.Error, h.Reason = failed.Cluster, failed.sentence(), string(failed.why())
			h.Status, h.InstanceID, h.Logs = errored, failed.ID, failed.Logs
		case s.UnplacedCode != "":
			h.Error, h.Reason = s.UnplacedCode+": "+s.Unplaced, s.UnplacedCode
		case d.Status == functions.Error, d.Status == functions.Degraded && s.Wanted > 0:
			h.Error = "no error reported"
		default:
			continue
		}
		h.Message = h.Error
		out = append(out, h)
	}
	return out
}

// The words of instanceStatus (§2.3).
const (
	starting   = "STARTING"
	running    = "RUNNING"
	errored    = "ERRORED"
	deleted    = "DELETED"
	terminated = "TERMINATED"
)

func (i *instance) word() string {
	switch {
	case i.failed() || i.State == instances.Unhealthy:
		return errored
	case !i.live():
		return terminated
	case !i.useful():
		return deleted
	case i.State == instances.Running:
		return running
	}
	return starting
}

// shownInstances are the live ones, and the last failed one of each specification.
func shownInstances(d *deployment) []instances.Brief {
	last := map[string]*instance{}
	for _, i := range d.Instances {
		if i.failed() {
			last[i.SpecID] = i
		}
	}
	var out []instances.Brief
	for _, i := range d.Instances {
		if i.live() || last[i.SpecID] == i {
			out = append(out, brief(d, i))
		}
	}
	return out
}

// brief renders an instance as functions-deployments §2.3 wants it. Each launch is a request of its own, so the
// request id is the instance's.
func brief(d *deployment, i *instance) instances.Brief {
	b := instances.Brief{
		InstanceID: i.ID, FunctionID: d.FunctionID, VersionID: d.VersionID, InstanceType: i.Type, InstanceStatus: i.word(), Status: i.word(),
		ICMSRequestID: i.ID, SISRequestID: i.ID, NCAID: d.Account, GPU: i.GPU, Backend: i.Cluster, Location: i.Cluster,
		ClusterName: i.Cluster, Region: i.Region, GPUSpecificationID: i.SpecID, CreatedAt: &i.CreatedAt, UpdatedAt: &i.UpdatedAt, ReadyAt: i.ReadyAt,
	}
	if i.failed() || i.State == instances.Unhealthy {
		b.LastError = i.sentence()
	}
	return b
}
