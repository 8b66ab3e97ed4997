package invocation

import (
	"context"
	"time"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Detached is the state of a request that can be polled; a finished one is not found any more.
const Detached = "detached"

// reapEvery is how often expired records are deleted; nobody sees them meanwhile.
const reapEvery = time.Minute

// Requests is the record of detached requests.
type Requests struct {
	store *store
	clock quartz.Clock
	log   *zap.Logger
}

// NewRequests makes the use cases.
func NewRequests(s *store, clock quartz.Clock, log *zap.Logger) *Requests {
	return &Requests{store: s, clock: clock, log: log}
}

// Detach records that a request goes on; when it returns, the record survives any crash. Telling twice is harmless: the
// worker is brought up to date, the time to live counts from the first 202.
func (r *Requests) Detach(ctx context.Context, req contract.DetachRequest) (rpc.None, error) {
	check := problem.NewCheck("request")
	check.Require(uuid.Validate(req.RequestID) == nil, "requestId", "must be a UUID")
	check.Require(uuid.Validate(req.FunctionID) == nil, "functionId", "must be a UUID")
	check.Require(uuid.Validate(req.VersionID) == nil, "versionId", "must be a UUID")
	check.Require(req.Account != "", "account", "must not be empty")
	check.Require(req.Worker != "", "worker", "must not be empty")
	if err := check.Err(); err != nil {
		return rpc.None{}, err
	}
	now := r.clock.Now()
	if req.At.IsZero() {
		req.At = now
	}
	return rpc.None{}, r.store.detach(ctx, contract.RequestRecord{DetachRequest: req, State: Detached, ExpiresAt: now.Add(contract.Remembered)})
}

// Find returns a request of the caller's account that can still be polled.
func (r *Requests) Find(ctx context.Context, req contract.RequestQuery) (contract.RequestRecord, error) {
	if uuid.Validate(req.RequestID) != nil {
		return contract.RequestRecord{}, requestNotFound(req.RequestID)
	}
	record, found, err := r.store.find(ctx, req.RequestID, r.clock.Now())
	if err != nil {
		return contract.RequestRecord{}, err
	}
	// Without a caller the platform itself asks.
	if caller := access.CallerFrom(ctx); !found || caller.Kind != "" && caller.Account != record.Account {
		return contract.RequestRecord{}, requestNotFound(req.RequestID)
	}
	return record, nil
}

// Position tells where a request of the caller's account stands. A client learns the id of its request when a worker has
// it, so that a request which goes on is being processed; one that is finished is in no queue any more.
func (r *Requests) Position(ctx context.Context, req contract.PositionRequest) (contract.Position, error) {
	check := problem.NewCheck("queue")
	check.Require(uuid.Validate(req.RequestID) == nil, "requestId", "must be a UUID")
	if err := check.Err(); err != nil {
		return contract.Position{}, err
	}
	record, finished, found, err := r.store.locate(ctx, req.RequestID, r.clock.Now())
	if err != nil {
		return contract.Position{}, err
	}
	caller := access.CallerFrom(ctx)
	if !found || caller.Account != record.Account {
		return contract.Position{}, requestNotFound(req.RequestID)
	}
	// The record does not say whose the function is: an entry for own functions, or one for shared ones, may cover it.
	if !caller.CoversFunction(true, record.FunctionID, record.VersionID) && !caller.CoversFunction(false, record.FunctionID, record.VersionID) {
		return contract.Position{}, access.NotCovered(access.ReadQueues, "request "+req.RequestID)
	}
	if finished {
		return contract.Position{}, problem.New(problem.IllegalState, "Request id '%s': it is neither waiting nor in progress", req.RequestID)
	}
	return contract.Position{FunctionID: record.FunctionID, VersionID: record.VersionID}, nil
}

// Finish ends a request; from now on a poll does not find it. Finishing twice is harmless.
func (r *Requests) Finish(ctx context.Context, req contract.FinishRequest) (rpc.None, error) {
	if uuid.Validate(req.RequestID) != nil {
		return rpc.None{}, requestNotFound(req.RequestID)
	}
	known, err := r.store.finish(ctx, req)
	if err == nil && !known {
		err = requestNotFound(req.RequestID)
	}
	return rpc.None{}, err
}

func requestNotFound(id string) *problem.Problem {
	return problem.New(problem.NotFound, "Request id '%s': Not found", id)
}

// Reap deletes expired records until ctx ends.
func (r *Requests) Reap(ctx context.Context) error {
	tick := r.clock.NewTicker(reapEvery, "requests")
	defer tick.Stop()
	for {
		if n, err := r.store.reap(ctx, r.clock.Now()); err != nil && ctx.Err() == nil {
			r.log.Warn("expired requests not deleted, trying again", zap.Error(err))
		} else if n > 0 {
			r.log.Debug("expired requests deleted", zap.Int64("requests", n))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
