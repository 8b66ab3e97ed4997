package relay

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const subject = "inv.direct.test"

// patient bounds every wait of a test; a green run never gets near it.
const patient = time.Minute

// told is for what a message causes at once. It is shorter than three beats, after which either side would miss the other
// by itself.
const told = 2 * beat

// startNATS runs a server without a socket.
func startNATS(t testing.TB) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(patient))
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

func connect1(t testing.TB, s *server.Server) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect("", nats.InProcessServer(s))
	require.NoError(t, err)
	t.Cleanup(func() { closeConn(conn) })
	return conn
}

// closeConn waits until the connection's goroutines had their chance to end.
func closeConn(conn *nats.Conn) {
	closed := conn.StatusChanged(nats.CLOSED)
	conn.Close()
	select {
	case <-closed:
	case <-time.After(time.Second):
	}
}

func background(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	t.Cleanup(cancel)
	return ctx
}

func newTestClient(t testing.TB, conn *nats.Conn, tune ...func(*Client)) *Client {
	t.Helper()
	c, err := NewClient(conn)
	require.NoError(t, err)
	for _, f := range tune {
		f(c)
	}
	require.NoError(t, c.Start(background(t)))
	t.Cleanup(func() { require.NoError(t, c.Close(background(t))) })
	return c
}

func newTestServer(t testing.TB, conn *nats.Conn, tune ...func(*Server)) *Server {
	t.Helper()
	s, err := NewServer(conn)
	require.NoError(t, err)
	for _, f := range tune {
		f(s)
	}
	require.NoError(t, s.Start(background(t)))
	t.Cleanup(func() { require.NoError(t, s.Close(background(t))) })
	return s
}

// work serves what comes on the subject, like an agent with endless slots, and reports how each call ended.
func work(t testing.TB, s *Server, handle Handler) <-chan error {
	t.Helper()
	ended := make(chan error, 1024)
	sub, err := s.conn.QueueSubscribe(subject, "workers", func(m *nats.Msg) {
		call, err := s.Receive(m.Data)
		if err != nil {
			ended <- err
			return
		}
		go func() {
			err := s.Serve(context.Background(), call, handle)
			select {
			case ended <- err:
			default:
			}
		}()
	})
	require.NoError(t, err)
	require.NoError(t, s.conn.Flush())
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return ended
}

// pair is a gateway and a worker with their own connections to one server.
func pair(t testing.TB, handle Handler) (*Client, *Server, <-chan error) {
	t.Helper()
	n := startNATS(t)
	s := newTestServer(t, connect1(t, n))
	ended := work(t, s, handle)
	return newTestClient(t, connect1(t, n)), s, ended
}

func get(uri string) *Request {
	return &Request{ID: uuid.NewString(), Method: http.MethodGet, URI: uri, Header: http.Header{}}
}
