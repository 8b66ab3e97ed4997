package seal

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func keyOf(t testing.TB, fill byte) *key {
	t.Helper()
	k, err := newKey(bytes.Repeat([]byte{fill}, KeySize))
	require.NoError(t, err)
	return k
}

func ring(keys ...*key) map[ID]*key {
	all := map[ID]*key{}
	for _, k := range keys {
		all[k.id] = k
	}
	return all
}

func TestSealedValueOpensOnlyInItsPlace(t *testing.T) {
	t.Parallel()
	k, other := keyOf(t, 1), keyOf(t, 2)
	sealed, err := k.seal("row/7", []byte("canary"))
	require.NoError(t, err)
	require.NotContains(t, string(sealed), "canary")
	again, err := k.seal("row/7", []byte("canary"))
	require.NoError(t, err)
	require.NotEqual(t, sealed[len(magic)+idSize:], again[len(magic)+idSize:], "data keys and nonces differ")

	value, err := open(ring(other, k), "row/7", sealed)
	require.NoError(t, err)
	require.Equal(t, "canary", string(value))
	_, err = open(ring(other), "row/7", sealed)
	require.ErrorContains(t, err, k.id.String(), "the error names the key that is wanted")
	_, err = open(ring(k), "row/8", sealed)
	require.Error(t, err, "another row")
	for cut := range sealed {
		_, err = open(ring(k), "row/7", sealed[:cut])
		require.Error(t, err, "cut at %d", cut)
	}
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1
		_, err = open(ring(k), "row/7", damaged)
		require.Error(t, err, "damaged at %d", i)
	}
}

func TestDataKeyIsNoValue(t *testing.T) {
	t.Parallel()
	k := keyOf(t, 1)
	sealed, err := k.seal("row", []byte("value"))
	require.NoError(t, err)
	for _, part := range [][]byte{sealed[len(magic)+idSize : headerSize], sealed[headerSize:]} {
		_, err = open(ring(k), "row", part)
		require.Error(t, err, "a part of a sealed value is none")
	}
}

func TestRewrappingLeavesTheValueAlone(t *testing.T) {
	t.Parallel()
	old, next := keyOf(t, 1), keyOf(t, 2)
	sealed, err := old.seal("row", []byte("value"))
	require.NoError(t, err)
	moved, err := rewrap(ring(old, next), next, "row", sealed)
	require.NoError(t, err)
	require.Equal(t, sealed[headerSize:], moved[headerSize:])
	value, err := open(ring(next), "row", moved)
	require.NoError(t, err)
	require.Equal(t, "value", string(value))
	_, err = open(ring(old), "row", moved)
	require.Error(t, err)
	_, err = rewrap(ring(old, next), next, "another row", sealed)
	require.Error(t, err, "a row in the wrong place is not blessed")
}

// The golden file holds what earlier releases stored: key, name, value and sealed value, one to a line.
func TestEverythingStoredBeforeStillOpens(t *testing.T) {
	t.Parallel()
	file, err := os.Open(filepath.Join("testdata", "sealed.txt"))
	require.NoError(t, err)
	defer file.Close()
	lines, formats := bufio.NewScanner(file), 0
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		require.Len(t, fields, 4)
		formats++
		secret, err := hex.DecodeString(fields[0])
		require.NoError(t, err)
		k, err := newKey(secret)
		require.NoError(t, err)
		sealed, err := hex.DecodeString(fields[3])
		require.NoError(t, err)
		value, err := open(ring(keyOf(t, 9), k), fields[1], sealed)
		require.NoError(t, err)
		require.Equal(t, fields[2], string(value))
		_, err = open(ring(k), fields[1]+"x", sealed)
		require.Error(t, err)

		next := keyOf(t, 7)
		moved, err := rewrap(ring(k, next), next, fields[1], sealed)
		require.NoError(t, err)
		id, ok := wrappedBy(moved)
		require.True(t, ok)
		require.Equal(t, next.id, id)
		value, err = open(ring(next), fields[1], moved)
		require.NoError(t, err)
		require.Equal(t, fields[2], string(value))
	}
	require.NoError(t, lines.Err())
	require.Equal(t, 3, formats)
}

func FuzzOpen(f *testing.F) {
	k, err := newKey(make([]byte, KeySize))
	require.NoError(f, err)
	good, err := k.seal("row", []byte("value"))
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(magic))
	f.Add([]byte{plainFormat})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		value, err := open(ring(k), "row", sealed)
		if err == nil { // only what was sealed opens, here or in another process of the fuzzer
			require.Equal(t, "value", string(value))
			return
		}
		// The body stays as it is under another key, so damage in it stays too.
		if moved, err := rewrap(ring(k), k, "row", sealed); err == nil {
			_, err = open(ring(k), "row", moved)
			require.Error(t, err)
		}
	})
}

func TestWritersOfOneKeyFileAgree(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "service", "encryption.key")
	keys := make([]*key, 16)
	var writers sync.WaitGroup
	for i := range keys {
		writers.Go(func() {
			k, err := newKey(bytes.Repeat([]byte{byte(i)}, KeySize))
			if err == nil {
				keys[i], err = createFile(path, k)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	for _, k := range keys {
		require.Equal(t, keys[0].id, k.id)
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1, "no draft is left")

	require.NoError(t, replaceFile(path, []*key{keyOf(t, 2), keyOf(t, 1)}))
	found, err := readFile(path)
	require.NoError(t, err)
	require.Equal(t, []ID{keyOf(t, 2).id, keyOf(t, 1).id}, []ID{found[0].id, found[1].id})
}

// Databases hold these; they must not change.
func TestFingerprintsAreThoseOfTheFirstRelease(t *testing.T) {
	t.Parallel()
	mac := hmac.New(sha256.New, []byte("secret"))
	mac.Write([]byte("sirocco data-domain-key"))
	require.Equal(t, hex.EncodeToString(mac.Sum(nil)[:8]), Fingerprint("data-domain-key", []byte("secret")))
	k := keyOf(t, 1)
	require.Equal(t, k.id.String(), Fingerprint("key-encryption-key", k.secret))
	older := sha256.Sum256(append([]byte("sirocco functions sealing key\x00"), k.secret...))
	require.True(t, k.named(hex.EncodeToString(older[:6])))
	require.False(t, k.named(""))
}

func TestSecretsAreReadInEitherAlphabet(t *testing.T) {
	t.Parallel()
	raw := bytes.Repeat([]byte{0xfb, 0xff}, KeySize/2)
	for _, text := range []string{
		base64.StdEncoding.EncodeToString(raw), base64.RawStdEncoding.EncodeToString(raw),
		base64.URLEncoding.EncodeToString(raw), " " + base64.RawURLEncoding.EncodeToString(raw) + "\n",
	} {
		got, err := Decode("X", text, KeySize)
		require.NoError(t, err)
		require.Equal(t, raw, got)
	}
	for text, want := range map[string]string{"c2hvcnQ": "got 5 bytes", "%%%": "not base64"} {
		_, err := Decode("SIROCCO_X", text, KeySize)
		require.ErrorContains(t, err, "SIROCCO_X: want 32 bytes in base64")
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), text)
	}
}
