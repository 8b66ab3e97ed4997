package deployments

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

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
	i.StopCause, i.StopDrain, i.StopAt, i.StopIfIdle = s.cause, s.drain, &now, s.ifIdle
	if s.message != "" {
		i.Message, i.UpdatedAt = s.message, now
	}
	if err := st.putInstance(ctx, t, i); err != nil {
		return err
	}
	return orderEnd(ctx, t, j, i.Cluster, i.Node, instances.TerminateOrder{
		InstanceID: i.ID, Account: d.Account, VersionID: d.VersionID, Cause: s.cause, DrainSeconds: s.drain,
		FinishQueue: d.Teardown == graceful && s.drain > 0, IfIdle: s.ifIdle,
	})
}

// orderEnd puts an order to end an instance into the journal. Each order is new, so that one may follow another.
func orderEnd(ctx context.Context, t tx, j *bus.Journal, cluster, node string, o instances.TerminateOrder) error {
	o.CommandID = "end-" + uuid.NewString()
	return bus.Order(ctx, t, j, instances.Terminate, cluster, node, o.CommandID, o)
}
