package gateway

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/subject"
)

// access1 is a resource entry for one function or version.
func access1(id string) access.Resource {
	return access.Resource{Type: string(access.Function), ID: id}
}

// limitQueue makes the queue of a version small.
func limitQueue(t testing.TB, s *site, version string, messages int64) {
	t.Helper()
	js, err := jetstream.New(s.conn.NATS())
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), subject.QueueStream(version))
	require.NoError(t, err)
	cfg := stream.CachedInfo().Config
	cfg.MaxMsgs = messages
	_, err = js.UpdateStream(t.Context(), cfg)
	require.NoError(t, err)
}
