package functions

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// Another replica, or the next start, opens what this one sealed.
func TestReplicasShareTheKey(t *testing.T) {
	t.Parallel()
	cfg := Config{DataDir: t.TempDir()}
	w := newWorldWith(t, cfg)
	secret := contract.Secret{Name: "s", Value: json.RawMessage(`"v"`)}
	fn := w.create("", minimal(), secret)
	other := New(newStore(w.pool, nil, nil), nil, nil, func() time.Time { return w.clock.Now() }, zap.NewNop())
	require.NoError(t, other.Unlock(t.Context(), cfg))
	launchable, err := other.Launch(t.Context(), contract.InternalRequest{VersionID: fn.VersionID})
	require.NoError(t, err)
	require.Equal(t, []contract.Secret{secret}, launchable.Secrets)
	info, err := os.Stat(filepath.Join(cfg.DataDir, "functions", "sealing.key"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestAKeyThatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, app.Migrations(migrations))
	for _, bad := range []string{"short", "AAAA", "%%%"} {
		f := New(newStore(pool, nil, nil), nil, nil, nil, zap.NewNop())
		err := f.Unlock(t.Context(), Config{EncryptionKey: bad})
		require.ErrorContains(t, err, "SIROCCO_FUNCTIONS_ENCRYPTION_KEY")
		require.ErrorContains(t, err, "openssl rand -base64 32")
		require.NotContains(t, err.Error(), bad)
	}
}

// A database of the first release has a key with an older name and values in the older format.
func TestSecretsOfTheFirstReleaseStillOpen(t *testing.T) {
	t.Parallel()
	for name, inDatabase := range map[string]bool{"key in the database": true, "key from the operator": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			secret := []byte("0123456789abcdef0123456789abcdef")
			older := sha256.Sum256(append([]byte("sirocco functions sealing key\x00"), secret...))
			block, err := aes.NewCipher(secret)
			require.NoError(t, err)
			aead, err := cipher.NewGCMWithRandomNonce(block)
			require.NoError(t, err)
			cfg := Config{EncryptionKey: base64.StdEncoding.EncodeToString(secret)}
			var value []byte
			if inDatabase {
				cfg, value = Config{}, secret
			}

			pool := testkit.Database(t, schema, firstRelease(t))
			const versionID = "6f0d6c1e-0000-4000-8000-000000000001"
			for _, row := range []struct {
				sql  string
				args []any
			}{
				{
					`INSERT INTO functions.versions (version_id, function_id, account, function_type, status, spec, created_at, updated_at)
					VALUES ($1, $1, 'nvcf-default', 'DEFAULT', 'INACTIVE', '{}', now(), now())`,
					[]any{versionID},
				},
				{`INSERT INTO functions.secrets (version_id, position, name, sealed) VALUES ($1, 1, 's', $2)`, []any{
					versionID, append([]byte{1}, aead.Seal(nil, nil, []byte(`"old"`), []byte(versionID+"/s"))...),
				}},
				{`INSERT INTO functions.sealing_key (fingerprint, key) VALUES ($1, $2)`, []any{older[:6], value}},
			} {
				_, err := pool.Exec(t.Context(), row.sql, row.args...)
				require.NoError(t, err)
			}
			require.NoError(t, store.Migrate(t.Context(), pool, schema, app.Migrations(migrations)))

			vault, err := newVault(cfg, pool, time.Now)
			require.NoError(t, err)
			require.NoError(t, vault.Load(t.Context()))
			opens := func() {
				var sealed []byte
				require.NoError(t, pool.QueryRow(t.Context(), `SELECT sealed FROM functions.secrets`).Scan(&sealed))
				value, err := vault.Open(t.Context(), place(versionID, "s"), sealed)
				require.NoError(t, err)
				require.JSONEq(t, `"old"`, string(value))
			}
			opens()
			status, err := vault.Settle(t.Context())
			require.NoError(t, err)
			require.Equal(t, 1, status.Rewrapped, "a value in an older format is sealed anew")
			opens()
		})
	}
}

// firstRelease is the schema as the first release made it.
func firstRelease(t *testing.T) fs.FS {
	t.Helper()
	only := fstest.MapFS{}
	for _, name := range []string{"0001_functions.up.sql", "0001_functions.down.sql"} {
		body, err := fs.ReadFile(app.Migrations(migrations), name)
		require.NoError(t, err)
		only[name] = &fstest.MapFile{Data: body}
	}
	return only
}
