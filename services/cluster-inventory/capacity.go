package clusterinventory

import (
	"slices"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
)

// record is one node of the projection. The node's own words are ordered by (epoch, sequence): an epoch is one life of
// its agent, the sequence counts that agent's messages.
type record struct {
	clusters.Node
	// wantSnapshot is set when a message was missed, and delivered through the next heartbeat.
	wantSnapshot bool
}

// speaking reports whether the inventory believes that the node is there: its state is the one it gave itself.
func (r record) speaking() bool {
	switch r.State {
	case clusters.NodeReady, clusters.NodeCordoned, clusters.NodeDraining:
		return true
	default:
		return false
	}
}

// newer reports whether a message comes after everything that r holds.
func (r record) newer(epoch, sequence int64) bool {
	return epoch > r.Epoch || epoch == r.Epoch && sequence > r.Sequence
}

// outcome of folding one message into a record.
type outcome int

const (
	// ignored: older than what is known, or from a fenced epoch.
	ignored outcome = iota
	// gapped: newer, but something before it is missing; only wantSnapshot changed.
	gapped
	// applied: the record is now as the message says.
	applied
)

// snapshot folds a whole snapshot into r. It is the only message that brings a silent node back.
func (r record) snapshot(s clusters.Snapshot, now time.Time) (record, outcome) {
	if !r.newer(s.Epoch, s.Sequence) {
		return r, ignored
	}
	r.Account, r.Epoch, r.Sequence, r.SeenAt, r.wantSnapshot = s.Account, s.Epoch, s.Sequence, now, false
	r.Facts, r.Devices, r.Types = s.Facts, s.Devices, s.Types
	r.State = stated(s.State)
	return r, applied
}

// delta folds changed devices into r, when it continues exactly where r is.
func (r record) delta(d clusters.Delta, now time.Time) (record, outcome) {
	if !r.newer(d.Epoch, d.Sequence) {
		return r, ignored
	}
	if d.Epoch != r.Epoch || d.BasedOn != r.Sequence {
		r.wantSnapshot = true
		return r, gapped
	}
	devices := slices.DeleteFunc(slices.Clone(r.Devices), func(have clusters.Device) bool {
		return slices.Contains(d.Removed, have.UUID)
	})
	for _, changed := range d.Changed {
		at := slices.IndexFunc(devices, func(have clusters.Device) bool { return have.UUID == changed.UUID })
		if at < 0 {
			devices = append(devices, changed)
		} else {
			devices[at] = changed
		}
	}
	r.Devices, r.Sequence = devices, d.Sequence
	if r.speaking() {
		r.State, r.SeenAt = stated(d.State), now
	} else {
		// A node that was given up shows everything before it counts again.
		r.wantSnapshot = true
	}
	return r, applied
}

// bye folds an orderly stop into r.
func (r record) bye(b clusters.Bye, now time.Time) (record, outcome) {
	if !r.newer(b.Epoch, b.Sequence) {
		return r, ignored
	}
	r.Epoch, r.Sequence, r.SeenAt, r.State, r.wantSnapshot = b.Epoch, b.Sequence, now, clusters.NodeGone, false
	return r, applied
}

// stated is the state a node may give itself; anything else counts as ready.
func stated(s clusters.NodeState) clusters.NodeState {
	switch s {
	case clusters.NodeCordoned, clusters.NodeDraining:
		return s
	default:
		return clusters.NodeReady
	}
}
