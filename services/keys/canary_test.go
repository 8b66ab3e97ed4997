package keys

import (
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// TestNoSecretLeavesTheAnswer searches database, events and logs for every key and token that was given out, and for
// what they could be made from.
func TestNoSecretLeavesTheAnswer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	// The stream has to exist before it is watched.
	require.NoError(t, s.conn.Declare(t.Context(), "keys"))
	events := s.everyEvent(t)
	cfg := config(t)
	testkit.Ready(t, s.replica(t, cfg))

	var needles []string
	secret := func(value string) { needles = append(needles, value, hex.EncodeToString([]byte(value))) }
	for range 3 {
		made := s.create(t)
		secret(made.Value)
		secret(made.Value[len(cfg.Prefix) : len(made.Value)-tailLength])
		ask := []string{made.Value, flip(made.Value, 20), made.Value + "x"}
		for _, key := range ask {
			secret(key)
			_, _ = bus.Call(t.Context(), s.conn, contract.Introspect, contract.IntrospectRequest{Key: key, AudienceServiceID: access.TasksAudience})
			_, _ = bus.Call(t.Context(), s.conn, contract.Resolve, contract.ResolveRequest{Bearer: key})
			_, _ = bus.Call(t.Context(), s.conn, contract.Get, contract.KeyRequest{Issuer: functionsIssuer(), ID: key})
			_, _ = bus.Call(t.Context(), s.conn, contract.Delete, contract.KeyRequest{Issuer: functionsIssuer(), ID: key})
			_, _ = bus.Call(t.Context(), s.conn, contract.Client, contract.ClientRequest{ClientID: "unknown"})
		}
		secret(call(t, s, contract.MintAdminToken, rpc.None{}).Value)
		call(t, s, contract.Get, contract.KeyRequest{Issuer: functionsIssuer(), ID: made.ID})
	}
	keys := call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()}).Keys
	call(t, s, contract.Delete, contract.KeyRequest{Issuer: functionsIssuer(), ID: keys[0].ID})

	var said strings.Builder
	for _, e := range count(t, events, map[string]int{contract.Created.Type(): 3, contract.Issued.Type(): 3, contract.Revoked.Type(): 1, contract.KeysRotated.Type(): 1}) {
		b, err := json.Marshal(e)
		require.NoError(t, err)
		said.Write(b)
	}
	dump := s.dump(t)
	logs := s.logs.String()
	require.Contains(t, dump, keys[1].ID, "the dump must hold the keys' rows")
	require.Contains(t, said.String(), keys[1].ID, "the events must tell of the keys")
	require.Contains(t, logs, "service is ready")
	require.Len(t, needles, 3*(2+2+2*3+2))
	for i, needle := range needles {
		require.NotContains(t, dump, needle, "database, secret %d", i)
		require.NotContains(t, said.String(), needle, "events, secret %d", i)
		require.NotContains(t, logs, needle, "logs, secret %d", i)
	}
	var hashes []string
	rows, err := s.pool.Query(t.Context(), `SELECT hash FROM keys.keys`)
	require.NoError(t, err)
	hashes, err = pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Len(t, hashes, 2)
	for _, hash := range hashes {
		require.NotContains(t, said.String(), hash, "nothing made from a key is in an event")
		require.NotContains(t, logs, hash)
	}
	for _, plain := range []string{"PRIVATE KEY", `"d":`} {
		require.NotContains(t, dump+said.String()+logs, plain)
	}
}

// dump is every row of every table of the service as text.
func (s *site) dump(t *testing.T) string {
	t.Helper()
	return testkit.Dump(t, s.pool, "keys")
}
