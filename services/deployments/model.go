package deployments

import (
	"slices"
	"time"

	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/services/deployments/placement"
)

// teardown says how a deployment is being removed.
type teardown string

const (
	standing teardown = ""
	// graceful lets requests in flight finish; the deployment stays visible meanwhile.
	graceful teardown = "graceful"
	// forced drops them; for clients the deployment is gone at once.
	forced teardown = "forced"
)

// deployment is what is wanted of one version, with everything that hangs on it.
type deployment struct {
	ID, Account, FunctionID, VersionID, FunctionName string

	Status functions.Status
	Reason functions.Reason
	// ReportedStatus and ReportedCode are what the functions service has acknowledged.
	ReportedStatus functions.Status
	ReportedCode   string
	Teardown       teardown
	// Grace bounds a graceful teardown, in seconds.
	Grace int
	// Health is what was last told about healthInfo, in short.
	Health string
	// QueueReady is set once the invocation service has acknowledged the queue.
	QueueReady bool
	// StartingAt is since when it tries to start.
	StartingAt           time.Time
	CreatedAt, UpdatedAt time.Time

	// Specs are in the order of the request, Instances in the order of their creation.
	Specs     []*specification
	Instances []*instance
}

// specification is a GPU specification with how far it is.
type specification struct {
	contract.Specification
	Position int
	// Wanted is how many instances shall run now, between minimum and maximum.
	Wanted int
	// Proven is the minimum that has been met before. Until RaisedUntil only falling below it is a loss, so that
	// raising the minimum of a healthy version does not make it look ill while the new instances start (§11.7).
	Proven      int
	RaisedUntil time.Time
	// AskedAt is when work last asked for more instances than the minimum.
	AskedAt time.Time
	// Ran is set once an instance has been ready.
	Ran bool
	// GPUs that one instance has.
	GPUs int
	// Unplaced is a sentence while an instance has no place, UnplacedCode its stable part.
	Unplaced, UnplacedCode string
}

func (s *specification) minimum() int     { return *s.MinInstances }
func (s *specification) maximum() int     { return *s.MaxInstances }
func (s *specification) concurrency() int { return *s.MaxRequestConcurrency }
func (s *specification) order() int       { return *s.PreferredOrder }

// instance is one placed instance. Terminated is final.
type instance struct {
	ID, DeploymentID, SpecID string
	Cluster, Node, Region    string
	GPU, Type                string
	Devices                  []string
	State                    instances.State
	Phase                    instances.Phase
	Cause                    instances.Cause
	Message                  string
	Logs                     []string
	// Sequence of the last report that was applied.
	Sequence int64
	// StateAt is when the instance came into its state.
	CreatedAt, UpdatedAt, StateAt time.Time
	// Deadline is when the instance has to be ready.
	Deadline         time.Time
	ReadyAt, EndedAt *time.Time
	// StopCause is empty until the instance was ordered to end, at StopAt, with StopDrain seconds for its requests.
	StopCause instances.Cause
	StopDrain int
	StopAt    *time.Time
	// Rolling is set while another instance is to take the place of this one.
	Rolling bool
	// IdleSince is when the last request was over, once the node has told that there was none for a while.
	IdleSince *time.Time
	// StopIfIdle marks an order to end that the node carries out only while there is no request.
	StopIfIdle bool
}

func (i *instance) live() bool { return i.State.Live() }

// useful reports whether the instance counts towards what is wanted: it serves, or it will.
func (i *instance) useful() bool {
	return i.live() && i.StopCause == "" && i.State != instances.ShuttingDown
}

func (i *instance) place() placement.Node { return placement.Node{Cluster: i.Cluster, Name: i.Node} }

// failed reports whether the instance ended, or was given up, because of what it runs.
func (i *instance) failed() bool {
	if i.StopCause != "" {
		return fault(i.StopCause)
	}
	return !i.live() && fault(i.Cause)
}

// unasked is when the instance ended, or was given up, without anybody wanting it; zero when it was not so. Ends that
// come with the node do not count: another node is not to be waited for.
func (i *instance) unasked() time.Time {
	switch {
	case i.StopAt != nil && (fault(i.StopCause) || i.StopCause == instances.NoCapacity):
		return *i.StopAt
	case i.StopCause != "" || i.live() || i.EndedAt == nil || i.Cause == instances.NodeLost || i.Cause == instances.AgentShutdown:
		return time.Time{}
	}
	return *i.EndedAt
}

// fault reports whether a cause lies in what the instance runs, not in its surroundings or in an order.
func fault(c instances.Cause) bool {
	switch c {
	case instances.ByUser, instances.NodeLost, instances.AgentShutdown, instances.NoCapacity, instances.GPUFault:
		return false
	default:
		return true
	}
}

// of lists the instances of one specification.
func (d *deployment) of(s *specification) []*instance {
	return slices.DeleteFunc(slices.Clone(d.Instances), func(i *instance) bool { return i.SpecID != s.ID })
}

// usefulOf lists the instances of a specification that count towards what it wants.
func (d *deployment) usefulOf(s *specification) []*instance {
	return slices.DeleteFunc(d.of(s), func(i *instance) bool { return !i.useful() })
}

// live lists the instances that hold devices.
func (d *deployment) live() []*instance {
	return slices.DeleteFunc(slices.Clone(d.Instances), func(i *instance) bool { return !i.live() })
}

// spec finds a specification by id.
func (d *deployment) spec(id string) *specification {
	at := slices.IndexFunc(d.Specs, func(s *specification) bool { return s.ID == id })
	if at < 0 {
		return nil
	}
	return d.Specs[at]
}

// visible reports whether clients see the deployment.
func (d *deployment) visible() bool { return d.Teardown != forced }

// refs name what an event about the deployment is about.
func (d *deployment) refs() event.Refs {
	return event.Refs{FunctionID: d.FunctionID, VersionID: d.VersionID, DeploymentID: d.ID}
}

func (d *deployment) fact() bus.Fact {
	return bus.Fact{Account: d.Account, Entity: d.ID, Refs: d.refs(), CorrelationID: d.ID}
}

func (d *deployment) instanceFact(id string) bus.Fact {
	f := d.fact()
	f.Entity, f.Refs.InstanceID = id, id
	return f
}
