package keys

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	wire "github.com/sirocco-cloud/sirocco/contracts/encryption"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/seal"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestEncryptionKeyIsReplacedUnderTheSignerAndTheKeys(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	before := config(t)
	before.DataDir, before.EncryptionKey = "", encode(1, seal.KeySize)
	old := s.replica(t, before)
	testkit.Ready(t, old)
	made, token := s.create(t), call(t, s, contract.MintAdminToken, rpc.None{}).Value
	set := call(t, s, contract.PublicKeys, rpc.None{})
	first := call(t, s, contract.GetEncryption, rpc.None{})
	require.Empty(t, first.Previous)
	require.Contains(t, refused(t, s, 409, contract.RotateEncryption, rpc.None{}).Detail, "SIROCCO_KEYS_ENCRYPTION_KEY_PREVIOUS")
	stop(t, old)

	after := before
	after.EncryptionKey, after.PreviousEncryptionKey = encode(2, seal.KeySize), before.EncryptionKey
	for range 2 {
		testkit.Ready(t, s.replica(t, after))
	}
	status := call(t, s, contract.RotateEncryption, rpc.None{})
	require.Equal(t, 2, status.Rewrapped, "the data-domain key and the signing key")
	require.Equal(t, []string{first.Current}, status.Previous)
	s.clock.Advance(time.Minute)
	require.Equal(t, wire.Keys{Current: status.Current, Previous: []string{}}, call(t, s, contract.RotateEncryption, rpc.None{}))

	after.PreviousEncryptionKey = ""
	testkit.Ready(t, s.replica(t, after))
	for range 10 {
		require.True(t, call(t, s, contract.Resolve, contract.ResolveRequest{Bearer: made.Value}).Known)
		require.Equal(t, set, call(t, s, contract.PublicKeys, rpc.None{}))
	}
	verify(t, s, token, set.Keys[0])
	require.ErrorContains(t, func() error { _, err := open(t, s, before); return err }(), status.Current, "the old key alone opens nothing")
}

// A database of the first release has its secrets sealed directly under the key-encryption key.
func TestSecretsOfTheFirstReleaseStillOpen(t *testing.T) {
	t.Parallel()
	for name, inDatabase := range map[string]bool{"key in the database": true, "key from the operator": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.pool = testkit.Database(t, "keys", firstRelease(t))
			cfg := config(t)
			cfg.DataDir = ""
			secret := bytes.Repeat([]byte{5}, seal.KeySize)
			var value []byte
			if inDatabase {
				value = secret
			} else {
				cfg.EncryptionKey = base64.StdEncoding.EncodeToString(secret)
			}
			block, err := aes.NewCipher(secret)
			require.NoError(t, err)
			aead, err := cipher.NewGCMWithRandomNonce(block)
			require.NoError(t, err)
			older := func(name string, plain []byte) []byte { return aead.Seal(nil, nil, plain, []byte(name)) }

			domainKey := bytes.Repeat([]byte{6}, domainKeySize)
			private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			require.NoError(t, err)
			der, err := x509.MarshalPKCS8PrivateKey(private)
			require.NoError(t, err)
			kid, err := keyID(&private.PublicKey)
			require.NoError(t, err)
			s.exec(t, `INSERT INTO keys.secrets (name, fingerprint, value) VALUES ('key-encryption-key', $1, $2), ('data-domain-key', $3, $4)`,
				firstFingerprint("key-encryption-key", secret), value, firstFingerprint("data-domain-key", domainKey), older("data-domain-key", domainKey))
			s.exec(t, `INSERT INTO keys.signing_keys (kid, state, private_key, state_since) VALUES ($1, 'current', $2, $3)`, kid, older("signing-key/"+kid, der), s.clock.Now())

			svc := s.replica(t, cfg)
			testkit.Ready(t, svc)
			require.Equal(t, kid, call(t, s, contract.PublicKeys, rpc.None{}).Keys[0].ID)
			made := s.create(t)
			format, err := NewFormat("nvapi-nvcf-stg-", domainKey)
			require.NoError(t, err)
			_, ok := format.Parse(made.Value)
			require.True(t, ok)
			stop(t, svc)

			// What is old is sealed anew when somebody looks for a rotation to finish.
			vault, _ := vaultOf(t, s, cfg)
			status, err := vault.Settle(t.Context())
			require.NoError(t, err)
			require.Equal(t, 2, status.Rewrapped)
			testkit.Ready(t, s.replica(t, cfg))
			require.True(t, call(t, s, contract.Resolve, contract.ResolveRequest{Bearer: made.Value}).Known)
			verify(t, s, call(t, s, contract.MintAdminToken, rpc.None{}).Value, call(t, s, contract.PublicKeys, rpc.None{}).Keys[0])
		})
	}
}

// firstFingerprint is how the first release named a secret in the database.
func firstFingerprint(name string, secret []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("sirocco " + name))
	return hex.EncodeToString(mac.Sum(nil)[:8])
}

// firstRelease is the schema as the first release made it.
func firstRelease(t *testing.T) fs.FS {
	t.Helper()
	only := fstest.MapFS{}
	for _, name := range []string{"0001_keys.up.sql", "0001_keys.down.sql"} {
		body, err := fs.ReadFile(app.Migrations(migrations), name)
		require.NoError(t, err)
		only[name] = &fstest.MapFile{Data: body}
	}
	return only
}

// Every column that holds what the vault sealed must be known to a rotation.
func TestRotationKnowsEverySealedColumn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	rows, err := s.pool.Query(t.Context(), `SELECT table_name::text FROM information_schema.columns WHERE table_schema = 'keys' AND column_name = 'key_id'
		AND is_generated = 'ALWAYS'`)
	require.NoError(t, err)
	defer rows.Close()
	known := map[string]bool{}
	for _, c := range sealedColumns() {
		known[c.Table] = true
	}
	found := 0
	for rows.Next() {
		var table string
		require.NoError(t, rows.Scan(&table))
		require.True(t, known[table], "%s is not among the sealed columns", table)
		found++
	}
	require.NoError(t, rows.Err())
	require.Len(t, known, found)
}

// TestRotationsTellNoSecret searches database, events, logs and answers for the keys that rotations have in hand.
func TestRotationsTellNoSecret(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.NoError(t, s.conn.Declare(t.Context(), "keys"))
	events := s.everyEvent(t)
	cfg := config(t)
	cfg.DataDir, cfg.EncryptionKey = "", encode('o', seal.KeySize)
	old := s.replica(t, cfg)
	testkit.Ready(t, old)
	stop(t, old)
	cfg.EncryptionKey, cfg.PreviousEncryptionKey = encode('n', seal.KeySize), cfg.EncryptionKey
	testkit.Ready(t, s.replica(t, cfg))

	var said strings.Builder
	note := func(answer any) {
		b, err := json.Marshal(answer)
		require.NoError(t, err)
		said.Write(b)
	}
	note(call(t, s, contract.RotateEncryption, rpc.None{}))
	note(call(t, s, contract.GetEncryption, rpc.None{}))
	note(call(t, s, contract.RotateSigningKeys, contract.RotateSigningKeysRequest{}))
	note(call(t, s, contract.RotateSigningKeys, contract.RotateSigningKeysRequest{Compromised: true}))
	note(call(t, s, contract.SigningKeys, rpc.None{}))
	token := call(t, s, contract.MintAdminToken, rpc.None{}).Value
	// The first signing key, its successor, and the end of the first.
	for _, e := range count(t, events, map[string]int{contract.KeysRotated.Type(): 3, contract.TokenRevoked.Type(): 1, contract.Issued.Type(): 1}) {
		note(e)
	}
	all := said.String() + s.dump(t) + s.logs.String()
	require.Contains(t, all, "service is ready")
	for _, secret := range []string{
		strings.Repeat("o", seal.KeySize), strings.Repeat("n", seal.KeySize),
		hex.EncodeToString([]byte(strings.Repeat("o", seal.KeySize))), hex.EncodeToString([]byte(strings.Repeat("n", seal.KeySize))),
		strings.TrimRight(cfg.EncryptionKey, "="), strings.TrimRight(cfg.PreviousEncryptionKey, "="),
		token, `"d":`, "PRIVATE KEY",
	} {
		require.NotContains(t, all, secret)
	}
}
