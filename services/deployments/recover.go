package deployments

import (
	"context"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/services/deployments/placement"
)

// recoverable reports whether a failed deployment lacked nothing but room: an instance had no place in time, and none
// failed for what it runs. What it runs is not tried again before a client corrects it.
func (d *deployment) recoverable() bool {
	return d.Status == functions.Error && d.Teardown == standing && d.unplaced() != nil &&
		len(d.live()) == 0 && !slices.ContainsFunc(d.Instances, (*instance).failed)
}

// startAnew starts a failed deployment anew when there is room for all of its minimums by now.
func (r *Reconciler) startAnew(ctx context.Context, t tx, d *deployment, f fleet, now time.Time) error {
	if !d.recoverable() || !f.known() {
		return nil
	}
	room, err := r.room(ctx, t, d, f, now)
	if err != nil || !room {
		return err
	}
	r.log.Info("failed deployment starts again, there is room for it", zap.String("deployment", d.ID), zap.String("version", d.VersionID))
	d.Status, d.StartingAt = functions.Deploying, now
	for _, s := range d.Specs {
		s.Unplaced, s.UnplacedCode = "", ""
	}
	return nil
}

// room reports whether every instance that a deployment must have finds a place beside the others.
func (r *Reconciler) room(ctx context.Context, t tx, d *deployment, f fleet, now time.Time) (bool, error) {
	held, err := r.store.held(ctx, t)
	if err != nil {
		return false, err
	}
	kept, err := r.reservations(ctx, t, d.Account, f.rules)
	if err != nil {
		return false, err
	}
	taken, nodes := maps.Clone(held), f.usableBy(d.Account)
	for _, s := range byPreference(d.Specs) {
		for range s.minimum() {
			if limit, err := r.limited(ctx, t, d, s, f.rules); err != nil || limit != nil {
				return false, err
			}
			place, _, refusal := placement.Choose(f.unreserved(nodes, taken, s, kept), taken, d.request(s, now))
			if refusal != nil {
				return false, nil
			}
			for _, uuid := range place.UUIDs() {
				taken[placement.Device{Node: placement.Of(place.Node), UUID: uuid}] = true
			}
		}
	}
	return true, nil
}
