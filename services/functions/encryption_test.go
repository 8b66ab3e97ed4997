package functions

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/seal"
)

func TestEncryptionKeyIsReplacedUnderTheSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	secret := contract.Secret{Name: "token", Value: json.RawMessage(`"hush"`)}
	fn := w.create("", minimal(), secret)
	first, err := bus.Call(t.Context(), w.conn, contract.GetEncryption, rpc.None{})
	require.NoError(t, err)
	status, err := bus.Call(t.Context(), w.conn, contract.RotateEncryption, rpc.None{})
	require.NoError(t, err)
	require.Equal(t, []string{first.Current}, status.Previous)
	require.Positive(t, status.Rewrapped)
	w.clock.Advance(time.Minute)
	status, err = bus.Call(t.Context(), w.conn, contract.RotateEncryption, rpc.None{})
	require.NoError(t, err)
	require.Empty(t, status.Previous)
	require.NotEqual(t, first.Current, status.Current)
	launchable, err := bus.Call(t.Context(), w.conn, contract.Launch, contract.InternalRequest{VersionID: fn.VersionID})
	require.NoError(t, err)
	require.Equal(t, []contract.Secret{secret}, launchable.Secrets)
	require.NotContains(t, w.dump(), "hush")
}

func TestOperatorReplacesTheEncryptionKey(t *testing.T) {
	t.Parallel()
	key := func(fill string) string {
		return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(fill, seal.KeySize)))
	}
	w := newWorldWith(t, Config{EncryptionKey: key("a")})
	fn := w.create("", minimal(), contract.Secret{Name: "token", Value: json.RawMessage(`"hush"`)})
	_, err := bus.Call(t.Context(), w.conn, contract.RotateEncryption, rpc.None{})
	requireProblem(t, err, problem.Conflict, "SIROCCO_FUNCTIONS_ENCRYPTION_KEY_PREVIOUS")

	// What replicas with other settings find.
	vault := func(given, previous string) *seal.Vault {
		v, err := newVault(Config{EncryptionKey: given, PreviousEncryptionKey: previous}, w.pool, func() time.Time { return w.clock.Now() })
		require.NoError(t, err)
		return v
	}
	rotating := vault(key("b"), key("a"))
	require.NoError(t, rotating.Load(t.Context()))
	_, err = rotating.Rotate(t.Context())
	require.NoError(t, err)
	w.clock.Advance(time.Minute)
	status, err := rotating.Settle(t.Context())
	require.NoError(t, err)
	require.Empty(t, status.Previous)

	var sealed []byte
	require.NoError(t, w.pool.QueryRow(t.Context(), `SELECT sealed FROM functions.secrets`).Scan(&sealed))
	later := vault(key("b"), "")
	require.NoError(t, later.Load(t.Context()))
	value, err := later.Open(t.Context(), place(fn.VersionID, "token"), sealed)
	require.NoError(t, err)
	require.JSONEq(t, `"hush"`, string(value))
	require.ErrorContains(t, vault(key("a"), "").Load(t.Context()), status.Current, "the old key alone opens nothing")
}

// Every table with sealed values must be known to a rotation, and name the keys that its values need.
func TestRotationKnowsEverySealedColumn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rows, err := w.pool.Query(t.Context(), `SELECT c.table_name::text, k.column_name IS NOT NULL FROM information_schema.columns c
		LEFT JOIN information_schema.columns k ON k.table_schema = c.table_schema AND k.table_name = c.table_name
			AND k.column_name = 'key_id' AND k.is_generated = 'ALWAYS'
		WHERE c.table_schema = 'functions' AND c.column_name = 'sealed'`)
	require.NoError(t, err)
	defer rows.Close()
	known := map[string]bool{}
	for _, c := range sealedColumns() {
		known[c.Table] = true
	}
	found := 0
	for rows.Next() {
		var table string
		var names bool
		require.NoError(t, rows.Scan(&table, &names))
		require.True(t, known[table], "%s is not among the sealed columns", table)
		require.True(t, names, "%s has no key_id", table)
		found++
	}
	require.NoError(t, rows.Err())
	require.Len(t, known, found)
}
