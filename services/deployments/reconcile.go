package deployments

import (
	"context"
	"errors"
	"time"

	"github.com/coder/quartz"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/services/deployments/placement"
)

// Rhythm of the reconciler. Changes wake it at once; these bound how long a lost wake-up can matter.
const (
	passEvery  = 5 * time.Second
	retryAfter = time.Second
	// settleDown lets the inventory apply a node's event, which both see at the same time, before it is asked.
	settleDown  = 100 * time.Millisecond
	forgetEvery = time.Minute
	forgetAfter = time.Hour
	askNodes    = 3 * time.Second
)

// Reconciler makes what runs equal to what is wanted: it compares, acts on the difference and is safe to run twice.
// Every change of one deployment (rows, events, orders to nodes) is one transaction under the lock of its row.
type Reconciler struct {
	store    *store
	journal  *bus.Journal
	conn     *bus.Conn
	clock    quartz.Clock
	log      *zap.Logger
	cfg      Config
	reporter *Reporter
	meters   *meters

	todo *worklist
	// hungry are the deployments with an instance that has no place; capacity wakes them.
	hungry map[string]bool
	// due is when a deployment wants to be looked at although nothing happens.
	due map[string]time.Time
	// absent is since when this leader has seen a node that has instances to be gone from the inventory.
	absent map[placement.Node]time.Time
}

// NewReconciler prepares a reconciler; Run starts it.
func NewReconciler(s *store, j *bus.Journal, conn *bus.Conn, clock quartz.Clock, log *zap.Logger, cfg Config, reporter *Reporter, m *meters) *Reconciler {
	return &Reconciler{
		store: s, journal: j, conn: conn, clock: clock, log: log, cfg: cfg, reporter: reporter, meters: m,
		todo: newWorklist(), hungry: map[string]bool{}, due: map[string]time.Time{}, absent: map[placement.Node]time.Time{},
	}
}

// Run leads while it can, until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	return r.store.lead(ctx, func(id string) { r.todo.add(id) }, r.loop)
}

// loop is one time as leader. It starts from nothing but the store.
func (r *Reconciler) loop(ctx context.Context) error {
	clear(r.hungry)
	clear(r.due)
	clear(r.absent)
	stirred := make(chan bool, 1)
	stop, err := r.watch(ctx, stirred)
	if err != nil {
		return err
	}
	defer stop()
	r.todo.add("")
	fullAt, forgetAt := r.clock.Now(), r.clock.Now()
	for {
		now := r.clock.Now()
		ids, all := r.todo.take()
		if all || !now.Before(fullAt) {
			if ids, err = r.store.ids(ctx); err != nil {
				return err
			}
			fullAt = now.Add(passEvery)
		}
		r.pass(ctx, ids)
		if !now.Before(forgetAt) {
			forgetAt = now.Add(forgetEvery)
			if err := r.store.forget(ctx, now.Add(-forgetAfter)); err != nil {
				r.log.Warn("ended instances not forgotten", zap.Error(err))
			}
			if _, err := r.store.answers.Prune(ctx, r.store.pool, now); err != nil {
				r.log.Warn("old answers not forgotten", zap.Error(err))
			}
		}
		timer := r.clock.NewTimer(max(r.next(fullAt).Sub(r.clock.Now()), 0))
		select {
		case <-ctx.Done():
		case <-r.todo.signal:
		case <-stirred:
			r.stirred(ctx, stirred)
		case <-timer.C:
			r.ripe()
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// watch hears of capacity and of nodes that come and go.
func (r *Reconciler) watch(ctx context.Context, stirred chan<- bool) (stop func(), err error) {
	hear := func(event.Envelope) {
		select {
		case stirred <- true:
		default:
		}
	}
	stopNodes, err := r.conn.Watch(ctx, event.Nodes, hear)
	if err != nil {
		return nil, err
	}
	stopClusters, err := r.conn.Watch(ctx, event.Clusters, func(env event.Envelope) {
		if env.Type == clusters.NodeMoved.Type() {
			r.todo.add("")
		}
	}, func() { r.todo.add("") })
	if err != nil {
		stopNodes()
		return nil, err
	}
	return func() { stopNodes(); stopClusters() }, nil
}

// stirred waits a moment, so that a burst of capacity events is one look, and wakes who waits for capacity.
func (r *Reconciler) stirred(ctx context.Context, more <-chan bool) {
	if len(r.hungry) == 0 {
		return
	}
	timer := r.clock.NewTimer(settleDown)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-r.todo.signal:
		// Something else is urgent. Who is hungry has its turn in the same pass.
	}
	select {
	case <-more:
	default:
	}
	for id := range r.hungry {
		r.todo.add(id)
	}
}

// ripe puts on the list what is due.
func (r *Reconciler) ripe() {
	now := r.clock.Now()
	for id, at := range r.due {
		if !now.Before(at) {
			r.todo.add(id)
		}
	}
}

func (r *Reconciler) next(at time.Time) time.Time {
	for _, due := range r.due {
		if due.Before(at) {
			at = due
		}
	}
	return at
}

// pass looks at deployments one after another, with one view of the nodes.
func (r *Reconciler) pass(ctx context.Context, ids []string) {
	if len(ids) == 0 {
		return
	}
	f := r.look(ctx)
	if sorted, err := r.urgent(ctx, ids, f.rules); err == nil {
		ids = sorted
	} else if ctx.Err() == nil {
		r.log.Warn("priorities not known, going by age", zap.Error(err))
	}
	for _, id := range ids {
		if ctx.Err() != nil {
			return
		}
		delete(r.due, id)
		again, err := r.settle(ctx, id, f)
		if errors.Is(err, errHeld) {
			f = r.look(ctx)
			again, err = r.settle(ctx, id, f)
		}
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			r.log.Error("deployment not reconciled, trying again", zap.String("deployment", id), zap.Error(err))
			again = r.clock.Now().Add(retryAfter)
		}
		if !again.IsZero() {
			r.due[id] = again
		}
	}
}
