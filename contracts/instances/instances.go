// Package instances is the contract between the control plane and the agents: the commands that start and stop an
// instance, and the facts an agent reports about it (spec clusters-agents §3).
package instances

import (
	"encoding/json"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// State of an instance (clusters-agents §3.11). No transition leaves Terminated.
type State string

// The states of an instance.
const (
	Starting     State = "starting"
	Running      State = "running"
	Unhealthy    State = "unhealthy"
	ShuttingDown State = "shutting-down"
	Terminated   State = "terminated"
)

// Live reports whether an instance in this state holds its devices.
func (s State) Live() bool { return s != Terminated }

// Phase is what a starting instance is doing.
type Phase string

// The phases of a start, in order.
const (
	Reserved     Phase = "reserved"
	PullingImage Phase = "pulling-image"
	Creating     Phase = "creating"
	WaitingReady Phase = "waiting-ready"
)

// Cause says why an instance ended (clusters-agents §3.11).
type Cause string

// The causes.
const (
	CauseNone     Cause = ""
	ImagePull     Cause = "image-pull-issues"
	CreateError   Cause = "create-container-error"
	Failed        Cause = "failed"
	RestartLoop   Cause = "container-restart-loop"
	NotReady      Cause = "degraded-worker"
	NotFound      Cause = "instance-not-found"
	NoCapacity    Cause = "instance-terminated-no-capacity"
	TerminalError Cause = "instance-terminated-terminal-error"
	ByUser        Cause = "instance-terminated-by-user"
	ByService     Cause = "instance-terminated-by-service"
	OutOfMemory   Cause = "oom-killed"
	GPUFault      Cause = "gpu-fault"
	NodeLost      Cause = "node-lost"
	AgentShutdown Cause = "instance-terminated-service-maintenance"
	CommandFailed Cause = "command-failed"
)

// Brief is the activeInstances element of functions-deployments §2.3.
type Brief struct {
	InstanceID         string     `json:"instanceId"`
	FunctionID         string     `json:"functionId"`
	VersionID          string     `json:"functionVersionId"`
	InstanceType       string     `json:"instanceType"`
	InstanceStatus     string     `json:"instanceStatus"`
	Status             string     `json:"status"`
	ICMSRequestID      string     `json:"icmsRequestId"`
	SISRequestID       string     `json:"sisRequestId"`
	NCAID              string     `json:"ncaId"`
	GPU                string     `json:"gpu"`
	Backend            string     `json:"backend,omitempty"`
	Location           string     `json:"location,omitempty"`
	ClusterName        string     `json:"clusterName,omitempty"`
	Region             string     `json:"region,omitempty"`
	GPUSpecificationID string     `json:"gpuSpecificationId,omitempty"`
	LastError          string     `json:"lastError,omitempty"`
	CreatedAt          *time.Time `json:"instanceCreatedAt,omitempty"`
	UpdatedAt          *time.Time `json:"instanceUpdatedAt,omitempty"`
	ReadyAt            *time.Time `json:"readyAt,omitempty"`
}

// LaunchOrder asks a node to start one instance. Executing it twice starts one instance: InstanceID is its identity.
// Image, environment and secrets are not in it; the agent asks the functions service for them when it starts.
type LaunchOrder struct {
	CommandID          string `json:"commandId"`
	InstanceID         string `json:"instanceId"`
	Account            string `json:"account"`
	FunctionID         string `json:"functionId"`
	VersionID          string `json:"versionId"`
	DeploymentID       string `json:"deploymentId"`
	GPUSpecificationID string `json:"gpuSpecificationId"`
	GPU                string `json:"gpu"`
	InstanceType       string `json:"instanceType"`
	// Devices are the exact uuids reserved for the instance.
	Devices        []string        `json:"devices"`
	CPUMilli       int64           `json:"cpuMilli"`
	MemoryMiB      int64           `json:"memoryMiB"`
	MaxConcurrency int             `json:"maxRequestConcurrency"`
	Configuration  json.RawMessage `json:"configuration,omitempty"`
	// IdleSeconds without a request make the node say that the instance idles; 0 means never.
	IdleSeconds int `json:"idleSeconds,omitempty"`
	// Deadline after which the order must not be carried out any more.
	Deadline time.Time `json:"deadline"`
}

// TerminateOrder asks a node to stop one instance. A node that does not know the instance reports it terminated.
type TerminateOrder struct {
	CommandID  string `json:"commandId"`
	InstanceID string `json:"instanceId"`
	Account    string `json:"account"`
	VersionID  string `json:"versionId"`
	Cause      Cause  `json:"cause"`
	// DrainSeconds is how long requests in flight may still take; 0 drops them at once.
	DrainSeconds int `json:"drainSeconds"`
	// FinishQueue makes the instance also take what waits in the version's queue, within the same time: a graceful
	// undeploy.
	FinishQueue bool `json:"finishQueue,omitempty"`
	// IfIdle has the order carried out only if the instance has no request at that moment; else the instance goes on, and
	// the node says that it keeps it.
	IfIdle bool `json:"ifIdle,omitempty"`
}

// SecretsOrder asks a node to write the secrets of an instance anew. The values are not in it; the agent asks the functions
// service for them.
type SecretsOrder struct {
	CommandID  string `json:"commandId"`
	InstanceID string `json:"instanceId"`
	Account    string `json:"account"`
	VersionID  string `json:"versionId"`
}

// The commands.
var (
	Launch    = rpc.Command[LaunchOrder]{Verb: "launch", Doc: "Start one instance on a node."}
	Terminate = rpc.Command[TerminateOrder]{Verb: "terminate", Doc: "Drain and stop one instance."}

	UpdateSecrets = rpc.Command[SecretsOrder]{Verb: "update-secrets", Doc: "Write the secrets of one instance anew."}
)

// Activity is what an agent says about the work of a running instance.
type Activity string

// The activities. Idle is said once, after the time without a request that the order names; Busy with the first request
// after that; Kept when an order to end an idle instance came too late, because it has a request again.
const (
	Idle Activity = "idle"
	Busy Activity = "busy"
	Kept Activity = "kept"
)

// Report is what an agent says about an instance, whenever its state, its phase or its activity changes. A higher Sequence
// wins.
type Report struct {
	InstanceID         string `json:"instanceId"`
	Account            string `json:"account"`
	FunctionID         string `json:"functionId"`
	VersionID          string `json:"versionId"`
	DeploymentID       string `json:"deploymentId"`
	GPUSpecificationID string `json:"gpuSpecificationId"`
	Cluster            string `json:"cluster"`
	Node               string `json:"node"`
	State              State  `json:"state"`
	Phase              Phase  `json:"phase,omitempty"`
	Driver             string `json:"driver,omitempty"`
	Cause              Cause  `json:"cause,omitempty"`
	ExitCode           *int   `json:"exitCode,omitempty"`
	// Message is a sentence for people; Logs are the last lines the instance wrote, at most 16 KiB.
	Message string   `json:"message,omitempty"`
	Logs    []string `json:"logs,omitempty"`
	Devices []string `json:"devices,omitempty"`
	// Activity is empty when the report is about something else; IdleSeconds is how long an idle instance had no request.
	Activity    Activity `json:"activity,omitempty"`
	IdleSeconds int      `json:"idleSeconds,omitempty"`

	Sequence int64     `json:"sequence"`
	At       time.Time `json:"at"`
}

// The events, one per state and one per activity, so that a consumer can choose by subject.
var (
	Started  = report("started", "The node took the order; the report says in which phase the start is.")
	Ready    = report("running", "The instance passed its health check and takes work.")
	Sickened = report("unhealthy", "The instance fails its health check and takes no work.")
	Stopping = report("shutting_down", "The instance drains.")
	Ended    = report("terminated", "The instance is gone; cause and last log lines say why.")
	Rested   = report("idle", "The instance has had no request for a while.")
	Resumed  = report("busy", "The instance that idled has a request.")
	Retained = report("kept", "An order to end the idle instance was not carried out: it has a request.")
)

// ReportEvents are the events of reports.
var ReportEvents = []rpc.Event[Report]{Started, Ready, Sickened, Stopping, Ended, Rested, Resumed, Retained}

// Event is the one that tells a report.
func (r Report) Event() rpc.Event[Report] {
	switch r.Activity {
	case Idle:
		return Rested
	case Busy:
		return Resumed
	case Kept:
		return Retained
	}
	switch r.State {
	case Starting:
		return Started
	case Unhealthy:
		return Sickened
	case ShuttingDown:
		return Stopping
	case Terminated:
		return Ended
	default:
		return Ready
	}
}

func report(name, doc string) rpc.Event[Report] {
	return rpc.Event[Report]{Domain: event.Instances, Entity: "instance", Name: name, Version: 1, Doc: doc}
}
