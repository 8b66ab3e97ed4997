package keys

import (
	"context"
	"time"

	"github.com/coder/quartz"
	"go.uber.org/zap"
)

const (
	// reapBatch bounds the rows that one statement of the reaper deletes.
	reapBatch = 500
	// mostDecisions bounds the record of decisions by number, beside its age.
	mostDecisions = 5_000_000
	// inboxMemory is how long the events applied are remembered. The effects of the only ones that the service applies,
	// decisions, are harmless when they are repeated.
	inboxMemory = day
)

// Reaper ends what time ends: it purges the records of keys whose retention is over, announces the end of the grace of
// rotated keys, ends the keys of accounts that are gone, and forgets decisions and answers that are kept for a while
// only. What died long ago costs nothing.
type Reaper struct {
	store     *Store
	clock     quartz.Clock
	interval  time.Duration
	decisions time.Duration
	log       *zap.Logger
}

// NewReaper makes a reaper that looks once per interval.
func NewReaper(store *Store, clock quartz.Clock, cfg Config, log *zap.Logger) *Reaper {
	return &Reaper{store: store, clock: clock, interval: cfg.ReapInterval, decisions: cfg.AuditRetention, log: log}
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

// Reap does everything that is due now, batch by batch, and tells how many keys it purged.
func (r *Reaper) Reap(ctx context.Context) (purged int, err error) {
	now := r.clock.Now()
	for _, chore := range []func() (int, error){
		func() (int, error) { return r.store.retire(ctx, now, reapBatch) },
		func() (int, error) { return r.store.endOrphans(ctx, reapBatch) },
		func() (int, error) {
			return r.store.forgetDecisions(ctx, now.Add(-r.decisions), mostDecisions, reapBatch)
		},
		func() (int, error) {
			n, err := r.store.purge(ctx, now, reapBatch)
			purged += n
			return n, err
		},
	} {
		for n := reapBatch; n == reapBatch; {
			if n, err = chore(); err != nil {
				return purged, err
			}
		}
	}
	if _, err = r.store.repeats.Prune(ctx, r.store.pool, now); err != nil {
		return purged, err
	}
	_, err = r.store.inbox.Prune(ctx, r.store.pool, inboxMemory)
	return purged, err
}
