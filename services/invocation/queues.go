package invocation

import (
	"context"
	"errors"
	"time"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	contract "github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// reconcileEvery is how long a queue may be missing that nobody calls; a caller who misses it asks for it at once.
const reconcileEvery = 5 * time.Second

// sideEffect bounds one change of a queue, because a transaction waits for it.
const sideEffect = 5 * time.Second

// Functions is what queues ask of the functions service.
type Functions struct {
	// Resolve lists the deployed versions that an account may invoke.
	Resolve func(context.Context, functions.ResolveRequest) (functions.ResolveResponse, error)
	// Lookup finds one version.
	Lookup func(ctx context.Context, version string) (functions.Function, error)
}

// Queues sees to it that exactly the deployed versions have a queue. What must be is a row; the queue follows it, in
// the same locked step, so two replicas or a crash cannot make them differ for long.
type Queues struct {
	store     *store
	bus       *bus.Conn
	functions Functions
	clock     quartz.Clock
	log       *zap.Logger
	speeds    speeds
}

// NewQueues makes the use cases.
func NewQueues(s *store, conn *bus.Conn, f Functions, clock quartz.Clock, log *zap.Logger) *Queues {
	return &Queues{store: s, bus: conn, functions: f, clock: clock, log: log}
}

// owned is a version that must have a queue.
type owned struct {
	version, function, account string
	at                         time.Time
}

// Ensure makes the queue of a deployed version exist. A gateway asks when it wants to queue a request and there is no
// queue: NATS restarted, or the version was deployed a moment ago.
func (q *Queues) Ensure(ctx context.Context, req contract.QueueRequest) (rpc.None, error) {
	check := problem.NewCheck("queue")
	check.Require(uuid.Validate(req.VersionID) == nil, "versionId", "must be a UUID")
	if err := check.Err(); err != nil {
		return rpc.None{}, err
	}
	if _, err := q.bus.OpenQueue(ctx, req.VersionID); err == nil {
		return rpc.None{}, nil // of many that ask at once, one does the work
	}
	known, err := q.store.queued(ctx, req.VersionID, q.provide)
	if known || err != nil {
		return rpc.None{}, err
	}
	// Asked for before the event of the deployment came here.
	fn, err := q.functions.Lookup(ctx, req.VersionID)
	if problem.HasCode(err, problem.NotFound) || err == nil && !fn.Status.Busy() {
		return rpc.None{}, noQueue()
	}
	if err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, q.store.addQueue(ctx, owned{fn.VersionID, fn.ID, fn.NCAID, q.clock.Now()}, q.provide)
}

// noQueue is the answer that clients know (invocation §4.4).
func noQueue() *problem.Problem {
	return problem.New(problem.NotFound, "Queue not found - Function is likely not deployed")
}

func (q *Queues) provide(ctx context.Context, version string) error {
	ctx, cancel := context.WithTimeout(ctx, sideEffect)
	defer cancel()
	return q.bus.EnsureQueue(ctx, version)
}

func (q *Queues) remove(ctx context.Context, version string) error {
	ctx, cancel := context.WithTimeout(ctx, sideEffect)
	defer cancel()
	return q.bus.DeleteQueue(ctx, version)
}

// Depth tells how many requests wait for a function, per deployed version that the caller may see (invocation §4.4).
func (q *Queues) Depth(ctx context.Context, req contract.DepthRequest) (contract.DepthResponse, error) {
	check := problem.NewCheck("queue")
	check.Require(uuid.Validate(req.FunctionID) == nil, "functionId", "must be a UUID")
	check.Require(req.VersionID == "" || uuid.Validate(req.VersionID) == nil, "versionId", "must be a UUID")
	if err := check.Err(); err != nil {
		return contract.DepthResponse{}, err
	}
	caller := access.CallerFrom(ctx)
	found, err := q.functions.Resolve(ctx, functions.ResolveRequest{Account: caller.Account, FunctionID: req.FunctionID, VersionID: req.VersionID})
	if problem.HasCode(err, problem.NotFound) {
		return contract.DepthResponse{}, noQueue()
	}
	if err != nil {
		return contract.DepthResponse{}, err
	}
	own := found.Owner == caller.Account
	if !own && !caller.CrossAccount && found.Public {
		return contract.DepthResponse{}, problem.New(problem.IllegalState, "Function id '%s': a public function shows its queues to its owner only", req.FunctionID)
	}
	answer := contract.DepthResponse{FunctionID: req.FunctionID}
	covered := caller.CoversFunction(own, req.FunctionID, req.VersionID) || req.VersionID == "" && caller.CoversSomeOf(own, req.FunctionID)
	for _, t := range found.Targets {
		if !t.Status.Busy() || !caller.CoversFunction(own, req.FunctionID, t.VersionID) {
			continue
		}
		waiting, taken, err := q.bus.Depth(ctx, t.VersionID)
		if err != nil {
			return contract.DepthResponse{}, err
		}
		answer.Queues = append(answer.Queues, contract.Depth{
			FunctionID: req.FunctionID, VersionID: t.VersionID, FunctionName: t.Name, FunctionStatus: string(t.Status),
			QueueDepth: waiting, Size: waiting, InFlight: taken, EstimatedWaitTime: q.speeds.wait(t.VersionID, waiting, q.clock.Now()),
		})
	}
	switch {
	case len(answer.Queues) > 0:
		return answer, nil
	case own && !covered: // deployed or not
		return contract.DepthResponse{}, access.NotCovered(access.ReadQueues, "function "+req.FunctionID)
	default:
		return contract.DepthResponse{}, noQueue()
	}
}

// Reconcile compares the rows with the queues that NATS has, until ctx ends: a restart of NATS empties its memory, and
// a crash between a queue and its row may leave one without the other.
func (q *Queues) Reconcile(ctx context.Context) error {
	tick := q.clock.NewTicker(reconcileEvery, "queues")
	defer tick.Stop()
	for {
		if err := q.reconcile(ctx); err != nil && ctx.Err() == nil {
			q.log.Warn("queues not compared, trying again", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (q *Queues) reconcile(ctx context.Context) error {
	listing, cancel := context.WithTimeout(ctx, sideEffect)
	defer cancel()
	have, err := q.bus.Queues(listing)
	if err != nil {
		return err
	}
	want, err := q.store.versions(ctx)
	if err != nil {
		return err
	}
	var failed error
	missing := without(want, have)
	for _, version := range missing {
		_, err := q.store.queued(ctx, version, q.provide)
		failed = errors.Join(failed, err)
	}
	for _, version := range without(have, want) {
		failed = errors.Join(failed, q.store.unqueued(ctx, version, q.remove))
	}
	if len(missing) > 0 && failed == nil {
		q.log.Info("queues made again", zap.Int("queues", len(missing)))
	}
	return failed
}

// without is what of a is not in b.
func without(a, b []string) []string {
	in := make(map[string]bool, len(b))
	for _, s := range b {
		in[s] = true
	}
	var rest []string
	for _, s := range a {
		if !in[s] {
			rest = append(rest, s)
		}
	}
	return rest
}
