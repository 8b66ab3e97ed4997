package keys

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// BenchmarkCreate measures a creation as a neighbour sees it: over the bus, with its row and its event committed.
func BenchmarkCreate(b *testing.B) {
	s := start(b)
	createOften(b, s)
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

// crowd adds keys of many owners beside those that a benchmark makes.
func (s *site) crowd(b *testing.B, n int) {
	b.Helper()
	made := s.create(b)
	s.exec(b, `INSERT INTO keys.owners (owner_type, owner_id, account, status_updated_at, created_at)
		SELECT owner_type, 'crowd-' || n, account, status_updated_at, created_at FROM keys.owners, generate_series(1, $1) n`, n/8)
	s.exec(b, `INSERT INTO keys.keys (id, hash, mask_tail, account, owner_type, owner_id, service_id, description, audiences, authorizations,
			created_at, updated_at, expires_at, deletes_at)
		SELECT gen_random_uuid(), left(md5(n::text) || md5('x' || n), 43), 'abc', account, owner_type, 'crowd-' || n/8 + 1, service_id, description, audiences,
			authorizations, created_at, updated_at, expires_at, deletes_at
		FROM keys.keys, generate_series(1, $2 - 9) n WHERE id = $1`, made.ID, n)
	s.exec(b, `ANALYZE keys.keys`)
}

const crowded = 100_000

// BenchmarkIntrospectAmong100000 measures an introspection over the bus with a hundred thousand keys in the table.
func BenchmarkIntrospectAmong100000(b *testing.B) {
	s := start(b)
	s.crowd(b, crowded)
	made := s.create(b)
	took := make([]time.Duration, 0, b.N)
	for b.Loop() {
		began := time.Now()
		_, err := bus.Call(b.Context(), s.conn, contract.Introspect, contract.IntrospectRequest{Key: made.Value, AudienceServiceID: access.FunctionsAudience})
		took = append(took, time.Since(began))
		require.NoError(b, err)
	}
	report(b, took)
}

// BenchmarkCreateAmong100000 measures a creation with a hundred thousand keys in the table.
func BenchmarkCreateAmong100000(b *testing.B) {
	s := start(b)
	s.crowd(b, crowded)
	createOften(b, s)
}

func createOften(b *testing.B, s *site) {
	b.Helper()
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

func report(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
