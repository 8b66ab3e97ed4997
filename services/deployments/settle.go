package deployments

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/services/deployments/placement"
)

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
	if err := r.startAnew(ctx, t, d, f, now); err != nil {
		return time.Time{}, err
	}
	idle, again := settleIdle(d, r.cfg.IdleAfter, now)
	for _, m := range idle {
		if err := scaled(ctx, t, r.journal, d, m, becauseIdle(r.cfg.IdleAfter)); err != nil {
			return again, err
		}
	}
	p := makePlan(d, view, now)
	p.later(again)
	if err := r.carryOut(ctx, t, d, &p, f, now); err != nil {
		return p.again, err
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

// patience is how long a deployment may wait for places.
func (r *Reconciler) patience() time.Duration { return r.cfg.startTimeout(false) }

// carryOut does what a plan says, and gives what has no room to the next specification.
func (r *Reconciler) carryOut(ctx context.Context, t tx, d *deployment, p *plan, f fleet, now time.Time) error {
	for _, i := range p.lost {
		if err := r.giveUp(ctx, t, d, i, now); err != nil {
			return err
		}
	}
	for _, s := range p.stops {
		if err := r.stop(ctx, t, d, s, now); err != nil {
			return err
		}
	}
	if err := r.start(ctx, t, d, p.starts, f, now); err != nil {
		return err
	}
	if d.Teardown == standing && rollingBlocked(d) {
		p.later(now)
	}
	for _, m := range overflow(d) {
		if err := scaled(ctx, t, r.journal, d, m, becauseCapacity); err != nil {
			return err
		}
		p.later(now)
	}
	return nil
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

func (d *deployment) state() storedState {
	s := storedState{status: d.Status, reason: d.Reason, teardown: d.Teardown, health: d.Health}
	for _, spec := range d.Specs {
		s.specs += fmt.Sprintf("%d/%d/%d/%t/%q/%q;", spec.Wanted, spec.Proven, spec.RaisedUntil.UnixNano(), spec.Ran, spec.UnplacedCode, spec.Unplaced)
	}
	return s
}

// remove ends the life of a deployment: nothing of it runs, and the functions service knows.
func (r *Reconciler) remove(ctx context.Context, t tx, d *deployment) error {
	if err := r.store.remove(ctx, t, d.ID); err != nil {
		return err
	}
	r.log.Info("deployment removed", zap.String("deployment", d.ID), zap.String("version", d.VersionID))
	return bus.Record(ctx, t, r.journal, contract.Removed, d.fact(), contract.Changed{Deployment: answer(d), Graceful: d.Teardown == graceful})
}
