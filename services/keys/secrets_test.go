package keys

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/app"
)

func encode(b byte, size int) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, size))
}

// open is one replica that looks for the secrets.
func open(t *testing.T, s *site, cfg Config) ([]byte, error) {
	t.Helper()
	secrets, err := NewSecrets(cfg, NewStore(s.pool, nil, nil), rand.Reader)
	require.NoError(t, err)
	_, domainKey, err := secrets.Open(t.Context())
	return domainKey, err
}

func TestReplicasThatStartAtOnceShareTheirSecrets(t *testing.T) {
	t.Parallel()
	shared := t.TempDir()
	for name, cfg := range map[string]func() Config{
		"a shared data directory": func() Config { c := config(t); c.DataDir = shared; return c },
		"no data directory":       func() Config { c := config(t); c.DataDir = ""; return c },
		"keys from the environment": func() Config {
			c := config(t)
			c.DomainKey, c.EncryptionKey = encode(1, domainKeySize), encode(2, encryptionKeySize)
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			services := make([]*app.Service, 3)
			for i := range services {
				services[i] = s.replica(t, cfg())
			}
			for _, svc := range services {
				ready(t, svc)
			}
			// Whichever replica answers, it knows what the others made.
			first := call(t, s, contract.PublicKeys, rpc.None{})
			require.Len(t, first.Keys, 1)
			made := s.create(t)
			for range 20 {
				require.True(t, call(t, s, contract.Resolve, contract.ResolveRequest{Bearer: made.Value}).Known)
				require.Equal(t, first, call(t, s, contract.PublicKeys, rpc.None{}))
				verify(t, s, call(t, s, contract.MintAdminToken, rpc.None{}).Value, first.Keys[0])
			}
		})
	}
}

func TestRestartKeepsKeysAndTokens(t *testing.T) {
	t.Parallel()
	for name, noDir := range map[string]bool{"secrets in files": false, "secrets in the database": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			cfg := config(t)
			if noDir {
				cfg.DataDir = ""
			}
			svc := s.replica(t, cfg)
			ready(t, svc)
			made, before := s.create(t), call(t, s, contract.PublicKeys, rpc.None{})
			token := call(t, s, contract.MintAdminToken, rpc.None{}).Value
			stop(t, svc)
			ready(t, s.replica(t, cfg))
			require.True(t, call(t, s, contract.Resolve, contract.ResolveRequest{Bearer: made.Value}).Known)
			after := call(t, s, contract.PublicKeys, rpc.None{})
			require.Equal(t, before, after)
			verify(t, s, token, after.Keys[0])
		})
	}
}

func TestKeyEncryptionKeyFileIsPrivate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cfg := config(t)
	_, err := open(t, s, cfg)
	require.NoError(t, err)
	path := filepath.Join(cfg.DataDir, "keys", "encryption.key")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary file is left")
	// With the file elsewhere, the database alone opens nothing.
	var held []byte
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT value FROM keys.secrets WHERE name = $1`, encryptionKeyName).Scan(&held))
	require.Nil(t, held)
}

func TestWritersOfOneKeyFileAgree(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys", "encryption.key")
	results := make([][]byte, 16)
	var writers sync.WaitGroup
	for i := range results {
		writers.Go(func() {
			key, err := writeKeyFile(path, bytes.Repeat([]byte{byte(i)}, encryptionKeySize))
			if err != nil {
				t.Error(err)
			}
			results[i] = key
		})
	}
	writers.Wait()
	for _, key := range results {
		require.Equal(t, results[0], key)
	}
}

func TestReplicaWithoutTheRightKeySaysWhatToDo(t *testing.T) {
	t.Parallel()
	given := func(domain, encryption string) Config {
		return Config{Prefix: "nvapi-", DomainKey: domain, EncryptionKey: encryption, ReapInterval: time.Minute, DataDir: t.TempDir()}
	}
	domain, encryption := encode(1, domainKeySize), encode(2, encryptionKeySize)
	for name, c := range map[string]struct {
		first, second Config
		wrong         string
	}{
		"another data directory":     {given("", ""), given("", ""), "copy keys/encryption.key from the data directory"},
		"another encryption key":     {given("", encryption), given("", encode(3, encryptionKeySize)), "SIROCCO_KEYS_ENCRYPTION_KEY is not the key"},
		"another domain key":         {given(domain, encryption), given(encode(4, domainKeySize), encryption), "SIROCCO_KEYS_DOMAIN_KEY is not the key"},
		"domain key no longer given": {given(domain, encryption), given("", encryption), "set SIROCCO_KEYS_DOMAIN_KEY here too"},
		"the same of both":           {given(domain, encryption), given(domain, encryption), ""},
		"a domain key made before":   {given("", encryption), given(domain, encryption), "SIROCCO_KEYS_DOMAIN_KEY is not the key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			_, err := open(t, s, c.first)
			require.NoError(t, err)
			_, err = open(t, s, c.second)
			if c.wrong == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.wrong)
			_, err = os.Stat(filepath.Join(c.second.DataDir, "keys"))
			require.ErrorIs(t, err, os.ErrNotExist, "no key is made that would open nothing")
		})
	}
}

func TestServiceWithForeignSecretsIsNotReadyAndSaysWhy(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ready(t, s.replica(t, config(t)))
	other := s.replica(t, config(t))
	require.Eventually(t, func() bool {
		err := other.Check(t.Context())
		return err != nil && strings.Contains(err.Error(), "SIROCCO_KEYS_ENCRYPTION_KEY")
	}, waitUp, poll)
}

func TestBrokenKeyFileIsReported(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "empty file", "!!": "not base64", encode(1, 31): "got 31 bytes"} {
		s := newSite(t)
		cfg := config(t)
		require.NoError(t, os.Mkdir(filepath.Join(cfg.DataDir, "keys"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(cfg.DataDir, "keys", "encryption.key"), []byte(text), 0o600))
		_, err := open(t, s, cfg)
		require.ErrorContains(t, err, want)
	}
}

func TestVaultOpensOnlyItsOwn(t *testing.T) {
	t.Parallel()
	vault, err := NewVault(make([]byte, encryptionKeySize))
	require.NoError(t, err)
	sealed := vault.Seal("a", []byte("secret"))
	require.NotContains(t, string(sealed), "secret")
	plain, err := vault.Open("a", sealed)
	require.NoError(t, err)
	require.Equal(t, "secret", string(plain))
	_, err = vault.Open("b", sealed)
	require.Error(t, err, "another name")
	sealed[len(sealed)-1] ^= 1
	_, err = vault.Open("a", sealed)
	require.Error(t, err, "damaged")
	_, err = vault.Open("a", nil)
	require.Error(t, err, "nothing")
	other, err := NewVault(bytes.Repeat([]byte{1}, encryptionKeySize))
	require.NoError(t, err)
	_, err = other.Open("a", vault.Seal("a", []byte("secret")))
	require.Error(t, err, "another key")
	_, err = NewVault(make([]byte, 16))
	require.ErrorContains(t, err, "32 bytes")
}
