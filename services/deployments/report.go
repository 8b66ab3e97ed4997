package deployments

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// tellWithin bounds one word to another service.
const tellWithin = 3 * time.Second

// Reporter tells the functions service the status of deployments and asks the invocation service for their queues,
// again and again until both have acknowledged. The deployment's row remembers what was acknowledged.
type Reporter struct {
	store   *store
	journal *bus.Journal
	conn    *bus.Conn
	log     *zap.Logger
	todo    *worklist
	// slots bounds the reports under way. Each holds a connection of the pool while another service, perhaps on the
	// same pool, answers; without a bound a burst would leave that service none to answer with.
	slots chan struct{}
}

const reportsAtOnce = 2

// NewReporter prepares a reporter; Run starts it.
func NewReporter(s *store, j *bus.Journal, conn *bus.Conn, log *zap.Logger) *Reporter {
	return &Reporter{store: s, journal: j, conn: conn, log: log, todo: newWorklist(), slots: make(chan struct{}, reportsAtOnce)}
}

// Tell asks for a report soon.
func (r *Reporter) Tell(id string) { r.todo.add(id) }

// Run reports until ctx ends. It needs no leader: reports of one deployment are serialised in Postgres.
func (r *Reporter) Run(ctx context.Context) error {
	failed := map[string]bool{}
	for {
		timer := time.NewTimer(retryAfter)
		select {
		case <-ctx.Done():
		case <-r.todo.signal:
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of the context is the end of the work, not a failure
		}
		ids, _ := r.todo.take()
		for id := range failed {
			ids = append(ids, id)
		}
		clear(failed)
		for _, id := range ids {
			if err := r.Report(ctx, id); err != nil && ctx.Err() == nil {
				r.log.Warn("status not acknowledged, telling it again", zap.String("deployment", id), zap.Error(err))
				failed[id] = true
			}
		}
	}
}

// unreported is true while somebody has to be told something.
func (d *deployment) unreported() bool {
	return d.Status != d.ReportedStatus || d.Reason.Code != d.ReportedCode || d.Teardown == standing && !d.QueueReady
}

// Report tells what is not acknowledged yet, once.
func (r *Reporter) Report(ctx context.Context, id string) error {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return r.store.tx(ctx, func(t tx) error {
		if err := r.store.lockReports(ctx, t, id); err != nil {
			return err
		}
		d, err := r.store.find(ctx, t, `WHERE id = $1`, id)
		if err != nil {
			return err
		}
		if d == nil || !d.unreported() {
			return nil
		}
		told := d.Status != d.ReportedStatus || d.Reason.Code != d.ReportedCode
		if told {
			if err := r.status(ctx, t, d); err != nil {
				return err
			}
		}
		if d.Teardown == standing && !d.QueueReady {
			r.queue(ctx, t, d)
		}
		if !told {
			return nil
		}
		return r.store.poke(ctx, t, id)
	})
}

func (r *Reporter) status(ctx context.Context, t tx, d *deployment) error {
	call, cancel := context.WithTimeout(ctx, tellWithin)
	defer cancel()
	_, err := bus.Call(call, r.conn, functions.SetStatus, functions.SetStatusRequest{
		VersionID: d.VersionID, DeploymentID: d.ID, Status: d.Status, Reason: d.Reason,
	})
	if problem.HasCode(err, problem.NotFound) {
		// The version is gone and its event has not come yet. There is nobody left to tell.
		r.log.Info("version is gone, tearing its deployment down", zap.String("deployment", d.ID), zap.String("version", d.VersionID))
		locked, lockErr := r.store.lock(ctx, t, d.ID)
		if lockErr != nil || locked == nil {
			return lockErr
		}
		if locked.Teardown != forced {
			if err := beginTeardown(ctx, t, r.store, r.journal, locked, forced, 0, time.Now()); err != nil {
				return err
			}
		}
		d.Status, d.Reason, err = locked.Status, locked.Reason, nil
	}
	if err != nil {
		return err
	}
	return r.store.acknowledge(ctx, t, d.ID, d.Status, d.Reason.Code)
}

// queue asks for the queue of the version. Without it calls still reach free instances, so a deaf invocation service
// holds nothing else up; the next full pass asks again.
func (r *Reporter) queue(ctx context.Context, t tx, d *deployment) {
	call, cancel := context.WithTimeout(ctx, tellWithin)
	defer cancel()
	_, err := bus.Call(call, r.conn, invocation.EnsureQueue, invocation.QueueRequest{VersionID: d.VersionID})
	if err == nil {
		err = r.store.setQueueReady(ctx, t, d.ID)
	}
	if err != nil {
		r.log.Debug("queue not there yet", zap.String("version", d.VersionID), zap.Error(err))
	}
}
