package keys

import (
	"context"
	"time"

	"github.com/coder/quartz"
	"go.uber.org/zap"
)

// reapBatch bounds the rows that one statement of the reaper deletes.
const reapBatch = 500

// Reaper purges the records of keys whose retention is over, so that a key that died long ago costs nothing.
type Reaper struct {
	store    *Store
	clock    quartz.Clock
	interval time.Duration
	log      *zap.Logger
}

// NewReaper makes a reaper that looks once per interval.
func NewReaper(store *Store, clock quartz.Clock, interval time.Duration, log *zap.Logger) *Reaper {
	return &Reaper{store: store, clock: clock, interval: interval, log: log}
}

// Run reaps until ctx ends. Replicas may all run one: each takes rows that no other has in hand.
func (r *Reaper) Run(ctx context.Context) error {
	tick := r.clock.NewTicker(r.interval, "reaper")
	defer tick.Stop()
	for {
		purged, err := r.Reap(ctx)
		if err != nil {
			return err
		}
		if purged > 0 {
			r.log.Info("purged keys past their retention", zap.Int("keys", purged))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Reap purges everything that is due now, batch by batch.
func (r *Reaper) Reap(ctx context.Context) (purged int, err error) {
	for {
		n, err := r.store.purge(ctx, r.clock.Now(), reapBatch)
		purged += n
		if err != nil || n < reapBatch {
			return purged, err
		}
	}
}
