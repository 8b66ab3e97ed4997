package gateway

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPositionsAreLedToTheirRoute(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/v2/nvcf/queues/7a/position":                "/v2/nvcf/queue-positions/7a",
		"/v2/nvcf/accounts/alice/queues/7a/position": "/v2/nvcf/accounts/alice/queue-positions/7a",
		"/v2/nvcf/queues/functions/7a":               "/v2/nvcf/queues/functions/7a",
		"/v2/nvcf/queues/functions/7a/position":      "/v2/nvcf/queues/functions/7a/position",
		"/v2/nvcf/queues//position":                  "/v2/nvcf/queues//position",
		"/v2/nvcf/position":                          "/v2/nvcf/position",
	} {
		require.Equal(t, want, muxPath(path))
	}
	require.Equal(t, "/v2/nvcf/queue-positions/{requestId}", muxPattern("/v2/nvcf/queues/{requestId}/position"))
	require.Equal(t, "/v2/nvcf/deployments", muxPattern("/v2/nvcf/deployments"))
}
