package functions

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/libs/app"
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

// A database of the release before has a key with an older name and values in the older format.
func TestSecretsOfTheReleaseBeforeStillOpen(t *testing.T) {
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
			w := newWorldWith(t, cfg)
			fn := w.create("", minimal(), contract.Secret{Name: "s", Value: json.RawMessage(`"new"`)})
			_, err = w.pool.Exec(t.Context(), `UPDATE functions.secrets SET sealed = $1`,
				append([]byte{1}, aead.Seal(nil, nil, []byte(`"old"`), []byte(fn.VersionID+"/s"))...))
			require.NoError(t, err)
			_, err = w.pool.Exec(t.Context(), `UPDATE functions.encryption_keys SET id = encode($1, 'hex'), value = $2`, older[:6], value)
			require.NoError(t, err)

			f := New(newStore(w.pool, nil, nil), nil, nil, func() time.Time { return w.clock.Now() }, zap.NewNop())
			require.NoError(t, f.Unlock(t.Context(), cfg))
			launchable, err := f.Launch(t.Context(), contract.InternalRequest{VersionID: fn.VersionID})
			require.NoError(t, err)
			require.JSONEq(t, `"old"`, string(launchable.Secrets[0].Value))
			status, err := f.vault.Settle(t.Context())
			require.NoError(t, err)
			require.Equal(t, 1, status.Rewrapped, "a value in an older format is sealed anew")
			launchable, err = f.Launch(t.Context(), contract.InternalRequest{VersionID: fn.VersionID})
			require.NoError(t, err)
			require.JSONEq(t, `"old"`, string(launchable.Secrets[0].Value))
		})
	}
}
