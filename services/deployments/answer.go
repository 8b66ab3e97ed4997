package deployments

import (
	"fmt"
	"slices"
	"strings"

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

// maxErrors is how many different errors of one specification are shown.
const maxErrors = 5

// healthInfo tells, for each specification that wants instances and has none that runs or starts, what is wrong: every
// different error, the latest first (§11.9). It is computed from what is, so it goes when the specification recovers.
func healthInfo(d *deployment) []contract.HealthInfo {
	if d.Status == functions.Inactive {
		return nil
	}
	var out []contract.HealthInfo
	for _, s := range d.Specs {
		if d.Status != functions.Error && s.Wanted == 0 || d.alive(s) {
			continue
		}
		h := contract.HealthInfo{
			ICMSRequestID: uuid.Nil.String(), SISRequestID: uuid.Nil.String(), GPU: s.GPU, Backend: s.Backend, InstanceType: s.InstanceType,
		}
		ill := d.errorsOf(s)
		for _, i := range ill {
			h := h
			h.GPU, h.InstanceType, h.Backend, h.Error, h.Reason = i.GPU, i.Type, i.Cluster, i.sentence(), string(i.why())
			h.Status, h.InstanceID, h.Logs, h.Message = errored, i.ID, i.Logs, h.Error
			out = append(out, h)
		}
		switch {
		case s.UnplacedCode != "":
			h.Error, h.Reason = s.UnplacedCode+": "+s.Unplaced, s.UnplacedCode
		case len(ill) == 0 && (d.Status == functions.Error || d.Status == functions.Degraded):
			h.Error = "no error reported"
		default:
			continue
		}
		h.Message = h.Error
		out = append(out, h)
	}
	return out
}

// alive reports whether an instance of a specification runs or starts.
func (d *deployment) alive(s *specification) bool {
	return slices.ContainsFunc(d.of(s), func(i *instance) bool {
		return i.useful() && (i.State == instances.Running || i.State == instances.Starting)
	})
}

// errorsOf are the instances of a specification that failed or ail, one of each error, the latest first.
func (d *deployment) errorsOf(s *specification) []*instance {
	ill := slices.DeleteFunc(d.of(s), func(i *instance) bool { return !i.failed() && (i.State != instances.Unhealthy || !i.useful()) })
	slices.SortStableFunc(ill, func(a, b *instance) int { return b.UpdatedAt.Compare(a.UpdatedAt) })
	seen := map[string]bool{}
	different := slices.DeleteFunc(ill, func(i *instance) bool {
		again := seen[i.sentence()]
		seen[i.sentence()] = true
		return again
	})
	return different[:min(len(different), maxErrors)]
}

// inShort is what of healthInfo is worth an event when it changes.
func inShort(all []contract.HealthInfo) string {
	var b strings.Builder
	for _, h := range all {
		fmt.Fprintf(&b, "%s/%s/%s: %s\n", h.GPU, h.InstanceType, h.Backend, h.Error)
	}
	return b.String()
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
