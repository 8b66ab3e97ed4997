package keys

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/seal"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func encode(b byte, size int) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, size))
}

// open is one replica that looks for the secrets.
func open(t *testing.T, s *site, cfg Config) ([][]byte, error) {
	t.Helper()
	_, secrets := vaultOf(t, s, cfg)
	return secrets.Open(t.Context())
}

func vaultOf(t testing.TB, s *site, cfg Config) (*seal.Vault, *Secrets) {
	t.Helper()
	vault, err := newVault(cfg, s.pool, func() time.Time { return s.clock.Now() })
	require.NoError(t, err)
	secrets, err := NewSecrets(cfg, NewStore(s.pool, nil, nil), vault, rand.Reader)
	require.NoError(t, err)
	return vault, secrets
}

func TestReplicasThatStartAtOnceShareTheirSecrets(t *testing.T) {
	t.Parallel()
	shared := t.TempDir()
	for name, cfg := range map[string]func() Config{
		"a shared data directory": func() Config { c := config(t); c.DataDir = shared; return c },
		"no data directory":       func() Config { c := config(t); c.DataDir = ""; return c },
		"keys from the environment": func() Config {
			c := config(t)
			c.DomainKey, c.EncryptionKey = encode(1, domainKeySize), encode(2, seal.KeySize)
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
				testkit.Ready(t, svc)
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
			testkit.Ready(t, svc)
			made, before := s.create(t), call(t, s, contract.PublicKeys, rpc.None{})
			token := call(t, s, contract.MintAdminToken, rpc.None{}).Value
			stop(t, svc)
			testkit.Ready(t, s.replica(t, cfg))
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
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT value FROM keys.encryption_keys`).Scan(&held))
	require.Nil(t, held)
}

func TestReplicaWithoutTheRightKeySaysWhatToDo(t *testing.T) {
	t.Parallel()
	given := func(domain, encryption string) Config {
		c := config(t)
		c.DomainKey, c.EncryptionKey = domain, encryption
		return c
	}
	domain, encryption := encode(1, domainKeySize), encode(2, seal.KeySize)
	for name, c := range map[string]struct {
		first, second Config
		wrong         string
	}{
		"another data directory":     {given("", ""), given("", ""), "copy keys/encryption.key from the data directory"},
		"another encryption key":     {given("", encryption), given("", encode(3, seal.KeySize)), "SIROCCO_KEYS_ENCRYPTION_KEY is not the key"},
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
	testkit.Ready(t, s.replica(t, config(t)))
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

func TestDomainKeyIsReplacedWithoutEndingKeys(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	with := func(current, previous byte) Config {
		c := config(t)
		c.DataDir, c.EncryptionKey, c.DomainKey = "", encode(9, seal.KeySize), encode(current, domainKeySize)
		if previous != 0 {
			c.PreviousDomainKey = encode(previous, domainKeySize)
		}
		return c
	}
	works := func(key contract.Key) bool {
		return call(t, s, contract.Resolve, contract.ResolveRequest{Bearer: key.Value}).Known
	}
	repeated := s.wanted()
	repeated.IdempotencyKey = "again"

	before := s.replica(t, with(1, 0))
	testkit.Ready(t, before)
	old := call(t, s, contract.Create, repeated)
	stop(t, before)
	// First every replica learns of the new key, then each makes keys under it; any two that run at once agree.
	learned := s.replica(t, with(1, 2))
	testkit.Ready(t, learned)
	require.True(t, works(old))
	swapped := s.replica(t, with(2, 1))
	testkit.Ready(t, swapped)
	made := []contract.Key{old, s.create(t), s.create(t), s.create(t)}
	for range 10 {
		for _, key := range made {
			require.True(t, works(key))
		}
		require.Equal(t, old.Value, call(t, s, contract.Create, repeated).Value, "a repeated request has the same answer under either key")
	}
	stop(t, learned)
	require.Equal(t, old.Value, call(t, s, contract.Create, repeated).Value)
	made = append(made, s.create(t))
	again := s.replica(t, with(1, 2))
	testkit.Ready(t, again) // one that was restarted with the settings of the step before
	stop(t, again)
	stop(t, swapped)

	testkit.Ready(t, s.replica(t, with(2, 1)))
	last := s.create(t)
	for _, key := range append(made, last) {
		require.True(t, works(key))
	}
	_, err := open(t, s, with(1, 0))
	require.ErrorContains(t, err, "SIROCCO_KEYS_DOMAIN_KEY is not the key")
	require.ErrorContains(t, err, "SIROCCO_KEYS_DOMAIN_KEY_PREVIOUS")
	only, err := open(t, s, with(2, 0))
	require.NoError(t, err)
	format, err := NewFormat("nvapi-nvcf-stg-", only...)
	require.NoError(t, err)
	_, ok := format.Parse(old.Value)
	require.False(t, ok, "without its domain key a key is a guess")
	_, ok = format.Parse(last.Value)
	require.True(t, ok)
}
