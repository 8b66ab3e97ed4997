package keys

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// BenchmarkCreate measures a creation as a neighbour sees it: over the bus, with its row and its event committed.
func BenchmarkCreate(b *testing.B) {
	s := start(b)
	took := make([]time.Duration, 0, b.N)
	i := 0
	for b.Loop() {
		req := s.wanted()
		req.OwnerID = fmt.Sprintf("owner-%d", i/8)
		i++
		began := time.Now()
		_, err := bus.Call(b.Context(), s.conn, contract.Create, req)
		took = append(took, time.Since(began))
		require.NoError(b, err)
	}
	report(b, took)
}

// BenchmarkResolve measures what a cache miss of the gateway costs.
func BenchmarkResolve(b *testing.B) {
	s := start(b)
	made := s.create(b)
	took := make([]time.Duration, 0, b.N)
	for b.Loop() {
		began := time.Now()
		answer, err := bus.Call(b.Context(), s.conn, contract.Resolve, contract.ResolveRequest{Bearer: made.Value})
		took = append(took, time.Since(began))
		require.NoError(b, err)
		require.True(b, answer.Known)
	}
	report(b, took)
}

func report(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
