package directory

import (
	"context"
	"time"
)

// Tidy forgets expired refresh tokens, old failures and rules deleted long ago, once per interval, until ctx ends.
// Replicas may all run it.
func (d *Directory) Tidy(ctx context.Context, interval time.Duration) error {
	tick := d.clock.NewTicker(interval, "directory")
	defer tick.Stop()
	for {
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = d.store.tidy(ctx, d.now()); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
