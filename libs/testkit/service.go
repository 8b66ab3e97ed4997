package testkit

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/coder/quartz"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/health"
)

// patience is how long Run and Ready wait for what comes at once unless it is broken; a busy machine is not broken.
const patience = 30 * time.Second

// Platform is what a service under test stands on: the test's connection, database and clock, and registries of its
// own. It logs errors to the test.
func Platform(t testing.TB, conn *bus.Conn, pool *pgxpool.Pool, clock quartz.Clock) app.Platform {
	t.Helper()
	return app.Platform{
		Log: zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)), Conn: conn, Pool: pool, Clock: clock,
		Health: health.NewRegistry(), Metrics: prometheus.NewRegistry(),
	}
}

// Runner is what runs until it is stopped: the service under test, or a bus.Server with which the test plays a
// neighbour of it.
type Runner interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
}

// Run starts r, and stops it when the test ends or stop is called, whichever comes first. A service may not be ready
// yet when Run returns; see [Ready].
func Run(t testing.TB, r Runner) (stop func()) {
	t.Helper()
	require.NoError(t, r.Start(t.Context()))
	stop = sync.OnceFunc(func() {
		// The context of the test has ended by the time of its cleanup.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, r.Stop(ctx))
	})
	t.Cleanup(stop)
	return stop
}

// Checker is what can tell whether it serves, as a service can.
type Checker interface {
	Check(ctx context.Context) error
}

// Ready waits until s serves.
func Ready(t testing.TB, s Checker) {
	t.Helper()
	require.Eventually(t, func() bool { return s.Check(t.Context()) == nil }, patience, 5*time.Millisecond)
}

// Watch calls fn with every event of a domain from now on until the test ends.
func Watch(t testing.TB, conn *bus.Conn, domain string, fn func(event.Envelope)) {
	t.Helper()
	stop, err := conn.Watch(t.Context(), domain, fn)
	require.NoError(t, err)
	t.Cleanup(stop)
}

// Logs is what a logger wrote at every level, one JSON document to a line. It may be read while it is written.
type Logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// NewLogs makes a logger and what keeps its lines, for tests of what must or must not be logged.
func NewLogs() (*zap.Logger, *Logs) {
	l := &Logs{}
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	return zap.New(zapcore.NewCore(encoder, zapcore.AddSync(l), zap.DebugLevel)), l
}

// Write keeps one line.
func (l *Logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns all lines.
func (l *Logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
