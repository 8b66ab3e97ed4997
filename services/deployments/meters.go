package deployments

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
)

// meters count what happens to deployments.
type meters struct {
	transitions *prometheus.CounterVec
	active      prometheus.Histogram
}

func newMeters(r *prometheus.Registry) *meters {
	m := &meters{
		transitions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sirocco_deployment_transitions_total", Help: "Changes of the status of deployed versions.",
		}, []string{"from", "to"}),
		active: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sirocco_deployment_time_to_active_seconds", Help: "Time from a deploy call, or a recovery, to ACTIVE.",
			Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800},
		}),
	}
	r.MustRegister(m.transitions, m.active)
	return m
}

// moved counts a change that is committed.
func (m *meters) moved(d *deployment, from functions.Status, now time.Time) {
	if from == d.Status {
		return
	}
	m.transitions.WithLabelValues(string(from), string(d.Status)).Inc()
	if from == functions.Deploying && d.Status == functions.Active {
		m.active.Observe(now.Sub(d.StartingAt).Seconds())
	}
}
