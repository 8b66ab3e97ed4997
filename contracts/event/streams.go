package event

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/subject"
)

// Domains, one stream each. The owner is the only service that may publish there.
const (
	Keys        = "keys"
	Access      = "access"
	Functions   = "functions"
	Deployments = "deployments"
	Clusters    = "clusters"
	Nodes       = "nodes"
	Instances   = "instances"
	Invocations = "invocations"
	Tasks       = "tasks"
)

// Stream describes a JetStream stream. Every limit is written down; unlimited would be a choice to explain.
type Stream struct {
	Name        string
	Owner       string
	Description string
	Subjects    []string
	WorkQueue   bool
	MaxAge      time.Duration
	MaxBytes    int64
	// Duplicates is how long a message id is remembered; longer than any relay outage that shall not make duplicates.
	Duplicates time.Duration
}

const (
	day = 24 * time.Hour
	gib = int64(1) << 30
)

// Streams is every stream but the per-version invocation queues.
var Streams = []Stream{
	domain(Keys, "keys", "keys, tokens, owners and access changes", 400*day),
	domain(Access, "gateway", "decisions about credentials, folded per second", 30*day),
	domain(Functions, "functions", "functions, versions and what belongs to them", 400*day),
	domain(Deployments, "deployments", "deployments, scale decisions, placements", 400*day),
	domain(Clusters, "cluster-inventory", "clusters and their state", 400*day),
	domain(Nodes, "agent", "capacity snapshots and deltas of GPU nodes", 7*day),
	domain(Instances, "agent", "states of function instances, as the node saw them", 90*day),
	domain(Invocations, "invocation", "detached requests", 7*day),
	domain(Tasks, "tasks", "tasks, their progress and results", 400*day),
	{
		Name: "CMD", Owner: "deployments", Description: "orders to GPU nodes, each executed once",
		Subjects: []string{subject.AllCommands()}, WorkQueue: true, MaxAge: 4 * day, MaxBytes: gib, Duplicates: day,
	},
	{
		Name: "DLQ", Owner: "ledger", Description: "messages that failed their last try, for people to look at",
		Subjects: []string{subject.AllDeadLetters()}, MaxAge: 30 * day, MaxBytes: gib, Duplicates: day,
	},
}

// StreamOf names the stream of a domain.
func StreamOf(domain string) string { return "EVT_" + domain }

func domain(name, owner, description string, age time.Duration) Stream {
	return Stream{
		Name: StreamOf(name), Owner: owner, Description: description, Subjects: []string{subject.EventsOf(name)},
		MaxAge: age, MaxBytes: gib, Duplicates: day,
	}
}

// Domains lists every event domain in a fixed order.
func Domains() []string {
	return []string{Keys, Access, Functions, Deployments, Clusters, Nodes, Instances, Invocations, Tasks}
}
