package testkit

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// NATS runs a nats-server with JetStream inside the test, without a socket; it is gone when the test ends.
func NATS(t testing.TB) *server.Server {
	t.Helper()
	s, err := bus.StartEmbedded(bus.EmbeddedOptions{Dir: t.TempDir(), Log: zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))})
	require.NoError(t, err)
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

// Conn connects to a server of [NATS] and disconnects when the test ends.
func Conn(t testing.TB, s *server.Server) *bus.Conn {
	t.Helper()
	c, err := bus.Connect(bus.Config{Embedded: s, Name: t.Name(), Log: zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}
