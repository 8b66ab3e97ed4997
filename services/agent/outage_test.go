package agent

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// socket is a NATS server with a socket, so that it can go away and come back under the same address.
type socket struct {
	*server.Server
	t    *testing.T
	dir  string
	port int
}

// listening runs a NATS server. Make it before whoever connects to it, so that it is stopped after them.
func listening(t *testing.T) *socket {
	t.Helper()
	s := &socket{t: t, dir: t.TempDir(), port: -1}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *socket) start() {
	s.t.Helper()
	var err error
	// At an address of its own: a connection of somebody else may get any port of 127.0.0.1 while the server is away.
	s.Server, err = bus.StartEmbedded(bus.EmbeddedOptions{Dir: s.dir, Host: "127.0.0.2", Port: s.port, Log: zap.NewNop()})
	require.NoError(s.t, err)
	s.port = s.Addr().(*net.TCPAddr).Port
}

func (s *socket) stop() {
	s.Shutdown()
	s.WaitForShutdown()
}

func connect(t *testing.T, url string) *bus.Conn {
	t.Helper()
	conn, err := bus.Connect(bus.Config{URL: url, Name: t.Name(), Log: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	return conn
}

// agentAt starts an agent that reaches NATS by an address.
func (w *world) agentAt(url string, change func(*Config)) *node {
	w.t.Helper()
	cfg := w.config()
	if change != nil {
		change(&cfg)
	}
	a, err := New(cfg, connect(w.t, url), zap.NewNop())
	require.NoError(w.t, err)
	a.pace = quick
	n := &node{Agent: a, w: w}
	w.t.Cleanup(n.clear)
	require.NoError(w.t, a.Start(w.t.Context()))
	return n
}

// listener reads the reports from their beginning.
type listener struct {
	mu      sync.Mutex
	reports map[string][]instances.Report
}

func newListener(t *testing.T, s *socket) *listener {
	t.Helper()
	l := &listener{reports: map[string][]instances.Report{}}
	conn := testkit.Conn(t, s.Server)
	js, err := jetstream.New(conn.NATS())
	require.NoError(t, err)
	reader, err := js.OrderedConsumer(t.Context(), event.StreamOf(event.Instances), jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	reading, err := reader.Consume(func(m jetstream.Msg) {
		l.mu.Lock()
		defer l.mu.Unlock()
		var env event.Envelope
		var r instances.Report
		if json.Unmarshal(m.Data(), &env) == nil && json.Unmarshal(env.Data, &r) == nil {
			l.reports[r.InstanceID] = append(l.reports[r.InstanceID], r)
		}
	})
	require.NoError(t, err)
	t.Cleanup(func() { reading.Stop(); <-reading.Closed() })
	return l
}

func (l *listener) steps(id string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return steps(l.reports[id])
}

func (i *instance) last() instances.State {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.rec.State
}

var plain = &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}

func tryGet(url string) ([]byte, error) {
	resp, err := plain.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

func get(t *testing.T, url string) {
	t.Helper()
	_, err := tryGet(url)
	require.NoError(t, err)
}
