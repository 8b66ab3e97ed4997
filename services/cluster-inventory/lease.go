package clusterinventory

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// lease is what this process heard of one node. Postgres holds the part that replicas share (seen_at), written less
// often than heartbeats come.
type lease struct {
	seen time.Time
	// behindSince is when a heartbeat first named a sequence that had not arrived; a message on its way is no gap yet.
	behindSince time.Time
}

const (
	sweepEvery = time.Second
	// stalled is how late a tick must be, by the machine's own clock, to say that the process was stopped meanwhile.
	stalled = 5 * time.Second
	// seenEvery bounds how often one node's heartbeats write to Postgres.
	seenEvery = 3 * time.Second
)

// Heartbeat renews the lease of a node and tells its agent what is missing here. An agent of an older epoch is fenced:
// a newer life of the same node exists, and the old one must stop acting.
func (i *Inventory) Heartbeat(ctx context.Context, req clusters.HeartbeatRequest) (clusters.HeartbeatResponse, error) {
	check := problem.NewCheck("heartbeat")
	check.Require(req.Cluster != "" && sane(req.Cluster), "cluster", "must be a name of at most 253 bytes")
	check.Require(req.Node != "" && sane(req.Node), "node", "must be a name of at most 253 bytes")
	if err := check.Err(); err != nil {
		return clusters.HeartbeatResponse{}, err
	}
	key := nodeKey{req.Cluster, req.Node}
	have, found, err := i.store.lease(ctx, key)
	if err != nil {
		return clusters.HeartbeatResponse{}, err
	}
	if !found {
		return clusters.HeartbeatResponse{WantSnapshot: true}, nil
	}
	if req.Epoch < have.Epoch {
		return clusters.HeartbeatResponse{Fenced: true}, nil
	}
	now := i.clock.Now()
	behind := i.heard(key, now, req.Epoch == have.Epoch && req.Sequence > have.Sequence)
	if now.Sub(have.SeenAt) >= seenEvery {
		if err := i.store.setSeen(ctx, key, now); err != nil {
			return clusters.HeartbeatResponse{}, err
		}
	}
	return clusters.HeartbeatResponse{
		WantSnapshot: have.wantSnapshot || !have.speaking() || req.Epoch > have.Epoch || behind,
	}, nil
}

// heard notes a sign of life; it returns true when the node has been ahead of the projection for a whole heartbeat.
func (i *Inventory) heard(key nodeKey, now time.Time, ahead bool) (behind bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	l := i.leases[key]
	l.seen = now
	switch {
	case !ahead:
		l.behindSince = time.Time{}
	case l.behindSince.IsZero():
		l.behindSince = now
	default:
		behind = now.Sub(l.behindSince) >= clusters.HeartbeatEvery
	}
	i.leases[key] = l
	return behind
}

// Watch returns the loop that gives up on silent nodes. While hearing reports an error nobody can be heard, and silence
// counts from its end; so it does from the start of this process.
func (i *Inventory) Watch(hearing func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		i.listen()
		ticker := i.clock.NewTicker(sweepEvery, "sweep")
		defer ticker.Stop()
		for {
			began := time.Now()
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
			if time.Since(began) > stalled {
				i.listen() // this process stood still, and heartbeats may wait in its socket
				continue
			}
			if err := hearing(ctx); err != nil {
				i.listen()
				continue
			}
			if err := i.sweep(ctx); err != nil {
				i.log.Warn("leases not swept, trying again", zap.Error(err))
			}
		}
	}
}

func (i *Inventory) listen() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.listening = i.clock.Now()
}

// lastHeard is the latest sign of life of a node that this process may count from.
func (i *Inventory) lastHeard(key nodeKey, stored time.Time) time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	latest := i.listening
	for _, at := range []time.Time{stored, i.leases[key].seen} {
		if at.After(latest) {
			latest = at
		}
	}
	return latest
}

// sweep moves every node that has been silent for too long.
func (i *Inventory) sweep(ctx context.Context) error {
	all, err := i.store.leases(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if to, _ := i.judged(r); to == r.State {
			continue
		}
		err := i.store.tx(ctx, func(t tx) error { return i.giveUp(ctx, t, nodeKey{r.Cluster, r.Node.Node}) })
		if err != nil {
			return fmt.Errorf("node %s: %w", r.Node.Node, err)
		}
	}
	return nil
}

// judged is the state that the silence of a node deserves.
func (i *Inventory) judged(r record) (clusters.NodeState, string) {
	silent := i.clock.Now().Sub(i.lastHeard(nodeKey{r.Cluster, r.Node.Node}, r.SeenAt))
	why := fmt.Sprintf("no heartbeat for %d s", int(silent.Seconds()))
	switch {
	case r.State == clusters.NodeLost || r.State == clusters.NodeGone:
		return r.State, ""
	case silent >= clusters.LostAfter:
		return clusters.NodeLost, why
	case silent >= clusters.SuspectAfter:
		return clusters.NodeSuspect, why
	}
	return r.State, ""
}

// giveUp judges again under the locks, because a heartbeat or another replica may have come between.
func (i *Inventory) giveUp(ctx context.Context, t tx, key nodeKey) error {
	c, found, err := i.store.lockCluster(ctx, t, key.cluster)
	if err != nil || !found {
		return err
	}
	before, found, err := i.store.lockNode(ctx, t, key.cluster, key.node)
	if err != nil || !found {
		return err
	}
	after := before
	var why string
	if after.State, why = i.judged(before); after.State == before.State {
		return nil
	}
	if err := i.store.putNode(ctx, t, after); err != nil {
		return err
	}
	i.log.Warn("node is silent", zap.String("cluster", key.cluster), zap.String("node", key.node), zap.String("state", string(after.State)))
	return i.moved(ctx, t, c, before.Node, after.Node, why)
}
