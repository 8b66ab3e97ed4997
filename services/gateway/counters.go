package gateway

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// statusClientLeft stands in metrics for a client that was gone before an answer.
const statusClientLeft = 499

// counters are the metrics that dashboards of the field read (invocation §8.6).
type counters struct {
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	failures *prometheus.CounterVec
	pending  prometheus.Gauge
}

func newCounters(r *prometheus.Registry) *counters {
	c := &counters{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "function_request_total", Help: "Invocations accepted."}, []string{"function_id", "function_version_id", "nca_id"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "function_request_latency", Help: "Seconds from acceptance to the last byte.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 10, 30, 60, 300, 600, 1800},
		}, []string{"function_id", "function_version_id"}),
		failures: prometheus.NewCounterVec(
			prometheus.CounterOpts{Name: "app_invocation_error", Help: "Invocations that did not succeed, by HTTP status; 499 is a client that left."}, []string{"http_status_code", "function_id"}, //nolint:promlinter // dashboards know it by this name
		),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{Name: "axum_http_requests_pending", Help: "Invocations in flight."}),
	}
	r.MustRegister(c.requests, c.latency, c.failures, c.pending)
	return c
}

func (c *counters) accepted(call *call) {
	c.requests.WithLabelValues(call.function, call.target.VersionID, call.caller.Account).Inc()
	c.pending.Inc()
}

func (c *counters) finished(call *call, status int, took time.Duration) {
	c.pending.Dec()
	c.latency.WithLabelValues(call.function, call.target.VersionID).Observe(took.Seconds())
	if status == 0 {
		status = statusClientLeft
	}
	if status >= 400 {
		c.failures.WithLabelValues(strconv.Itoa(status), call.function).Inc()
	}
}
