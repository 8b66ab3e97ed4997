package keys

import (
	"context"
	"time"

	"github.com/coder/quartz"
	"github.com/prometheus/client_golang/prometheus"
)

// censusInterval is how often the keys that work are counted.
const censusInterval = 30 * time.Second

// Census counts the keys that work, for the metrics. A count reads every key, so a scrape gets the last one.
type Census struct {
	store  *Store
	clock  quartz.Clock
	active *prometheus.GaugeVec
}

// NewCensus registers the metric keys_active.
func NewCensus(store *Store, clock quartz.Clock, metrics *prometheus.Registry) (*Census, error) {
	active := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "keys_active", Help: "Keys that are active and not past their expiry, by the service that issued them.",
	}, []string{"service"})
	return &Census{store: store, clock: clock, active: active}, metrics.Register(active)
}

// Run counts until ctx ends.
func (c *Census) Run(ctx context.Context) error {
	tick := time.NewTicker(censusInterval) // how often to count is nothing that a test would want to decide
	defer tick.Stop()
	for {
		counts, err := c.store.activeKeys(ctx, c.clock.Now())
		if err != nil {
			return err
		}
		for service, n := range counts {
			c.active.WithLabelValues(service).Set(float64(n))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
