package functions

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestSealedValueOpensOnlyInItsPlace(t *testing.T) {
	t.Parallel()
	s, err := newSealer(make([]byte, keyBytes))
	require.NoError(t, err)
	sealed := s.seal("v", "name", []byte("value"))
	require.NotEqual(t, sealed, s.seal("v", "name", []byte("value")), "the nonce differs")
	value, err := s.open("v", "name", sealed)
	require.NoError(t, err)
	require.Equal(t, "value", string(value))
	other, err := newSealer(append(make([]byte, keyBytes-1), 1))
	require.NoError(t, err)
	_, err = other.open("v", "name", sealed)
	require.Error(t, err)
	for _, attempt := range [][2]string{{"w", "name"}, {"v", "other"}} {
		_, err = s.open(attempt[0], attempt[1], sealed)
		require.Error(t, err)
	}
	for cut := range sealed {
		_, err = s.open("v", "name", sealed[:cut])
		require.Error(t, err)
	}
}

func TestKeyIsFoundOrMadeOnce(t *testing.T) {
	t.Parallel()
	fresh := func() *versions {
		return newStore(testkit.Database(t, schema, app.Migrations(migrations)), nil, nil)
	}
	load := func(db *versions, cfg Config) []byte {
		t.Helper()
		key, err := loadKey(t.Context(), cfg, db)
		require.NoError(t, err)
		require.Len(t, key, keyBytes)
		return key
	}
	given := Config{EncryptionKey: base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))}

	t.Run("given", func(t *testing.T) {
		db := fresh()
		require.Equal(t, "0123456789abcdef0123456789abcdef", string(load(db, given)))
		load(db, given)
		_, err := loadKey(t.Context(), Config{EncryptionKey: base64.StdEncoding.EncodeToString(make([]byte, keyBytes))}, db)
		require.ErrorContains(t, err, "the same SIROCCO_FUNCTIONS_ENCRYPTION_KEY")
		_, err = loadKey(t.Context(), Config{DataDir: t.TempDir()}, db)
		require.ErrorContains(t, err, "SIROCCO_FUNCTIONS_ENCRYPTION_KEY", "a replica without the key does not make its own")
		for _, bad := range []string{"short", "AAAA", "%%%"} {
			_, err = loadKey(t.Context(), Config{EncryptionKey: bad}, db)
			require.ErrorContains(t, err, "openssl rand -base64 32")
			require.NotContains(t, err.Error(), bad)
		}
	})
	t.Run("file", func(t *testing.T) {
		db, cfg := fresh(), Config{DataDir: t.TempDir()}
		key := load(db, cfg)
		require.Equal(t, key, load(db, cfg))
		info, err := os.Stat(filepath.Join(cfg.DataDir, "functions", "sealing.key"))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		left, err := os.ReadDir(filepath.Join(cfg.DataDir, "functions"))
		require.NoError(t, err)
		require.Len(t, left, 1, "no draft is left")
		record, found, err := db.sealingKey(t.Context())
		require.NoError(t, err)
		require.True(t, found)
		require.Nil(t, record.key, "the key itself is not in the database")
		require.NoError(t, os.Remove(filepath.Join(cfg.DataDir, "functions", "sealing.key")))
		_, err = loadKey(t.Context(), cfg, db)
		require.ErrorContains(t, err, "sealing.key", "a lost key is not replaced in silence")
	})
	t.Run("database", func(t *testing.T) {
		db := fresh()
		key := load(db, Config{})
		require.Equal(t, key, load(db, Config{}))
		require.Equal(t, key, load(db, Config{DataDir: t.TempDir()}))
	})
	t.Run("replicas at once", func(t *testing.T) {
		for _, cfg := range []Config{{}, {DataDir: t.TempDir()}} {
			db := fresh()
			keys := make([][]byte, 8)
			var all sync.WaitGroup
			for i := range keys {
				all.Go(func() {
					key, err := loadKey(context.Background(), cfg, db)
					if err != nil {
						t.Errorf("load: %v", err)
					}
					keys[i] = key
				})
			}
			all.Wait()
			for _, key := range keys {
				require.Equal(t, keys[0], key)
			}
		}
	})
}

// Another replica, or the next start, opens what this one sealed.
func TestReplicasShareTheKey(t *testing.T) {
	t.Parallel()
	cfg := Config{DataDir: t.TempDir()}
	w := newWorldWith(t, cfg)
	secret := contract.Secret{Name: "s", Value: json.RawMessage(`"v"`)}
	fn := w.create("", minimal(), secret)
	other := New(newStore(w.pool, nil, nil), nil, nil, zap.NewNop())
	require.NoError(t, other.Unlock(t.Context(), cfg))
	launchable, err := other.Launch(t.Context(), contract.InternalRequest{VersionID: fn.VersionID})
	require.NoError(t, err)
	require.Equal(t, []contract.Secret{secret}, launchable.Secrets)
}
