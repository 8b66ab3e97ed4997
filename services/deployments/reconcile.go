package deployments

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
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
	})
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

// fleet is one view of the nodes and of the quota of all accounts; err says why there is none.
type fleet struct {
	nodes  []clusters.Node
	rules  []clusters.QuotaRule
	byName map[placement.Node]clusters.Node
	err    error
}

func (r *Reconciler) look(ctx context.Context) fleet {
	ctx, cancel := context.WithTimeout(ctx, askNodes)
	defer cancel()
	answer, err := bus.Call(ctx, r.conn, clusters.Nodes, clusters.NodesRequest{})
	quota := clusters.QuotaRules{}
	if err == nil {
		quota, err = bus.Call(ctx, r.conn, clusters.FindQuotaRules, clusters.QuotaQuery{})
	}
	f := fleet{nodes: answer.Nodes, rules: quota.Rules, byName: map[placement.Node]clusters.Node{}, err: err}
	for _, n := range answer.Nodes {
		f.byName[placement.Of(n)] = n
		if n.State != clusters.NodeGone {
			delete(r.absent, placement.Of(n))
		}
	}
	return f
}

// lost reports whether the instances of a node count as ended: the inventory says so, or the node is gone and stays
// gone. An agent that stops may be back in a moment, with its instances untouched, and an inventory that does not know
// a node may just be rebuilding its projection; so absence counts from when this leader saw it first.
func (r *Reconciler) lost(f fleet, node placement.Node) bool {
	if f.err != nil {
		return false
	}
	n, known := f.byName[node]
	if known && n.State != clusters.NodeGone {
		return n.State == clusters.NodeLost
	}
	now := r.clock.Now()
	since, noted := r.absent[node]
	if !noted {
		r.absent[node] = now
		return false
	}
	return now.Sub(since) >= clusters.LostAfter
}

// settle brings one deployment a step further and says when to look again by the clock; zero for not before the next
// full pass.
func (r *Reconciler) settle(ctx context.Context, id string, f fleet) (again time.Time, err error) {
	var d *deployment
	var was functions.Status
	err = r.store.tx(ctx, func(t tx) error {
		if d, err = r.store.lock(ctx, t, id); err != nil || d == nil {
			return err
		}
		was = d.Status
		again, err = r.step(ctx, t, d, f)
		return err
	})
	if err != nil {
		return again, err
	}
	delete(r.hungry, id)
	if d == nil {
		return time.Time{}, nil
	}
	r.meters.moved(d, was, r.clock.Now())
	if d.unplaced() != nil && d.Teardown == standing {
		r.hungry[id] = true
	}
	if d.unreported() {
		r.reporter.Tell(id)
	}
	return again, nil
}

// step is one comparison and everything that follows from it, in one transaction.
func (r *Reconciler) step(ctx context.Context, t tx, d *deployment, f fleet) (time.Time, error) {
	now := r.clock.Now()
	view := nodeView{
		lost:  func(n placement.Node) bool { return r.lost(f, n) },
		state: func(n placement.Node) clusters.NodeState { return f.byName[n].State },
	}
	before := d.state()
	p := makePlan(d, view, now)
	for _, i := range p.lost {
		if err := r.giveUp(ctx, t, d, i, now); err != nil {
			return p.again, err
		}
	}
	for _, s := range p.stops {
		if err := r.stop(ctx, t, d, s, now); err != nil {
			return p.again, err
		}
	}
	if err := r.start(ctx, t, d, p.starts, f, now); err != nil {
		return p.again, err
	}
	if d.Teardown == standing && rollingBlocked(d) {
		p.later(now)
	}
	for _, m := range overflow(d) {
		if err := scaled(ctx, t, r.journal, d, m.spec, m.was, "capacity"); err != nil {
			return p.again, err
		}
		p.later(now)
	}
	if d.Teardown == standing && d.Status == functions.Error {
		removal := d.UpdatedAt.Add(r.cfg.errorKept())
		if !now.Before(removal) {
			r.log.Info("failed deployment is removed after its time", zap.String("deployment", d.ID), zap.String("version", d.VersionID))
			return now, beginTeardown(ctx, t, r.store, r.journal, d, forced, 0, now)
		}
		p.later(removal)
	}
	if d.Teardown == standing {
		r.judge(d, &p, now)
	}
	d.Reason = explain(d)
	if d.Teardown != standing && len(d.live()) == 0 && !d.unreported() {
		return time.Time{}, r.remove(ctx, t, d)
	}
	if err := r.tellHealth(ctx, t, d); err != nil {
		return p.again, err
	}
	if d.state() == before {
		return p.again, nil
	}
	if d.Status != before.status {
		d.UpdatedAt = now
		p.later(now) // what follows from the new status, such as ending the instances of a failed deployment
	}
	return p.again, r.store.put(ctx, t, d)
}

// tellHealth records what is wrong with the instances of a deployment when that is not what was told last.
func (r *Reconciler) tellHealth(ctx context.Context, t tx, d *deployment) error {
	info := healthInfo(d)
	short := inShort(info)
	if short == d.Health {
		return nil
	}
	d.Health = short
	return bus.Record(ctx, t, r.journal, contract.HealthChanged, d.fact(), contract.Health{
		DeploymentID: d.ID, VersionID: d.VersionID, Status: d.Status, HealthInfo: info,
	})
}

// storedState is what put stores, in a form that can be compared.
type storedState struct {
	status   functions.Status
	reason   functions.Reason
	teardown teardown
	specs    string
	health   string
}

// patience is how long a deployment may wait for places.
func (r *Reconciler) patience() time.Duration { return r.cfg.startTimeout(false) }

func (d *deployment) state() storedState {
	s := storedState{status: d.Status, reason: d.Reason, teardown: d.Teardown, health: d.Health}
	for _, spec := range d.Specs {
		s.specs += fmt.Sprintf("%d/%d/%d/%t/%q/%q;", spec.Wanted, spec.Proven, spec.RaisedUntil.UnixNano(), spec.Ran, spec.UnplacedCode, spec.Unplaced)
	}
	return s
}

// judge moves the status, and notes which minimums are met.
func (r *Reconciler) judge(d *deployment, p *plan, now time.Time) {
	tallies := d.tallies()
	by := startBy(d, r.patience())
	if d.Status == functions.Deploying {
		p.later(by.Add(time.Millisecond))
	}
	d.Status = next(d.Status, tallies, now, by)
	for n, s := range d.Specs {
		s.Proven = min(s.Proven, s.minimum())
		if tallies[n].Running >= s.minimum() {
			s.Proven = s.minimum()
		}
	}
}

// giveUp ends an instance whose node is lost. The order stops it should the node come back.
func (r *Reconciler) giveUp(ctx context.Context, t tx, d *deployment, i *instance, now time.Time) error {
	i.State, i.Cause, i.EndedAt, i.StateAt, i.UpdatedAt = instances.Terminated, instances.NodeLost, &now, now, now
	i.Message = fmt.Sprintf("node %s of cluster %s is lost", i.Node, i.Cluster)
	r.log.Warn("instance given up with its node", zap.String("instance", i.ID), zap.String("node", i.Node))
	return r.stop(ctx, t, d, stop{instance: i, cause: instances.NodeLost}, now)
}

// stop orders an instance to end.
func (r *Reconciler) stop(ctx context.Context, t tx, d *deployment, s stop, now time.Time) error {
	return orderStop(ctx, t, r.store, r.journal, d, s, now)
}

// orderStop notes that an instance is to end, and orders it.
func orderStop(ctx context.Context, t tx, st *store, j *bus.Journal, d *deployment, s stop, now time.Time) error {
	i := s.instance
	i.StopCause, i.StopDrain, i.StopAt = s.cause, s.drain, &now
	if s.message != "" {
		i.Message, i.UpdatedAt = s.message, now
	}
	if err := st.putInstance(ctx, t, i); err != nil {
		return err
	}
	return orderEnd(ctx, t, j, i.Cluster, i.Node, instances.TerminateOrder{
		InstanceID: i.ID, Account: d.Account, VersionID: d.VersionID, Cause: s.cause, DrainSeconds: s.drain,
		FinishQueue: d.Teardown == graceful && s.drain > 0,
	})
}

// orderEnd puts an order to end an instance into the journal. Each order is new, so that one may follow another.
func orderEnd(ctx context.Context, t tx, j *bus.Journal, cluster, node string, o instances.TerminateOrder) error {
	o.CommandID = "end-" + uuid.NewString()
	return bus.Order(ctx, t, j, instances.Terminate, cluster, node, o.CommandID, o)
}

// start places what is missing. A specification that finds no place does not keep others from theirs.
func (r *Reconciler) start(ctx context.Context, t tx, d *deployment, starts []start, f fleet, now time.Time) error {
	waiting := map[*specification]bool{}
	for _, s := range starts {
		waiting[s.spec] = true
	}
	for _, s := range d.Specs {
		if !waiting[s] {
			s.Unplaced, s.UnplacedCode = "", ""
		}
	}
	if len(starts) == 0 {
		return nil
	}
	held, err := r.store.held(ctx, t)
	if err != nil {
		return err
	}
	usable := make([]clusters.Node, 0, len(f.nodes))
	for _, n := range f.nodes {
		if n.UsableBy(d.Account) {
			usable = append(usable, n)
		}
	}
	for _, s := range starts {
		for range s.count {
			limit, err := r.limited(ctx, t, d, s.spec, f.rules)
			if err != nil {
				return err
			}
			if limit != nil {
				if err := r.unplaced(ctx, t, d, s.spec, nil, *limit); err != nil {
					return err
				}
				break
			}
			placed, err := r.place(ctx, t, d, s.spec, usable, held, f.err, now)
			if err != nil {
				return err
			}
			if !placed {
				break
			}
			s.spec.Unplaced, s.spec.UnplacedCode = "", ""
		}
	}
	return nil
}

// place finds a place for one instance, reserves it and orders the launch.
func (r *Reconciler) place(ctx context.Context, t tx, d *deployment, s *specification, nodes []clusters.Node, held placement.Held, blind error, now time.Time) (bool, error) {
	if blind != nil {
		return false, r.unplaced(ctx, t, d, s, nil, placement.Refusal{Code: "inventory-unavailable", Message: "the cluster inventory does not answer"})
	}
	place, rejected, refusal := placement.Choose(nodes, held, d.request(s, now))
	if refusal != nil {
		return false, r.unplaced(ctx, t, d, s, rejected, *refusal)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return false, fmt.Errorf("instance id: %w", err)
	}
	i := &instance{
		ID: id.String(), DeploymentID: d.ID, SpecID: s.ID, Cluster: place.Node.Cluster, Node: place.Node.Node, Region: place.Node.Facts.Region,
		GPU: place.Type.GPU, Type: place.Type.Name, Devices: place.UUIDs(), State: instances.Starting, Phase: instances.Reserved,
		CreatedAt: now, UpdatedAt: now, StateAt: now, Deadline: now.Add(r.cfg.startTimeout(place.Simulated())),
	}
	if err := r.store.insertInstance(ctx, t, i); err != nil {
		return false, err
	}
	order := instances.LaunchOrder{
		CommandID: "launch-" + i.ID, InstanceID: i.ID, Account: d.Account, FunctionID: d.FunctionID, VersionID: d.VersionID,
		DeploymentID: d.ID, GPUSpecificationID: s.ID, GPU: i.GPU, InstanceType: i.Type, Devices: i.Devices,
		CPUMilli: place.Type.CPUMilli, MemoryMiB: place.Type.MemoryMiB, MaxConcurrency: s.concurrency(),
		Configuration: s.Configuration, Deadline: i.Deadline,
	}
	err = bus.Record(ctx, t, r.journal, contract.InstancePlaced, d.instanceFact(i.ID), contract.Placed{
		Order: order, Cluster: i.Cluster, Node: i.Node, Rejected: rejected,
	})
	if err != nil {
		return false, err
	}
	for _, uuid := range i.Devices {
		held[placement.Device{Node: i.place(), UUID: uuid}] = true
	}
	d.Instances = append(d.Instances, i)
	return true, bus.Order(ctx, t, r.journal, instances.Launch, i.Cluster, i.Node, order.CommandID, order)
}

// unplaced notes why there is no place; the event is recorded when the reason is new.
func (r *Reconciler) unplaced(ctx context.Context, t tx, d *deployment, s *specification, rejected map[string]int, refusal placement.Refusal) error {
	known := s.UnplacedCode == refusal.Code
	s.Unplaced, s.UnplacedCode = refusal.Message, refusal.Code
	if known {
		return nil
	}
	return bus.Record(ctx, t, r.journal, contract.InstanceUnplaced, d.fact(), contract.Unplaced{
		DeploymentID: d.ID, VersionID: d.VersionID, GPUSpecificationID: s.ID, Reason: refusal.Code + ": " + refusal.Message, Rejected: rejected,
	})
}

// request says what a specification asks of a node.
func (d *deployment) request(s *specification, now time.Time) placement.Request {
	r := placement.Request{
		GPU: s.GPU, InstanceType: s.InstanceType, Backend: s.Backend, Clusters: s.Clusters, Regions: s.Regions, Zones: s.AvailabilityZones, Attributes: s.Attributes,
		Spread: s.Wanted > 1, Peers: map[placement.Node]int{}, Failures: map[placement.Node]int{},
	}
	for _, i := range d.Instances {
		if i.SpecID == s.ID && i.useful() {
			r.Peers[i.place()]++
		}
		if at := i.unasked(); !at.IsZero() && now.Sub(at) < failureWindow {
			r.Failures[i.place()]++
		}
	}
	return r
}

// remove ends the life of a deployment: nothing of it runs, and the functions service knows.
func (r *Reconciler) remove(ctx context.Context, t tx, d *deployment) error {
	if err := r.store.remove(ctx, t, d.ID); err != nil {
		return err
	}
	r.log.Info("deployment removed", zap.String("deployment", d.ID), zap.String("version", d.VersionID))
	return bus.Record(ctx, t, r.journal, contract.Removed, d.fact(), contract.Changed{Deployment: answer(d), Graceful: d.Teardown == graceful})
}
