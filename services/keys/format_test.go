package keys

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// vectorFormat is the deployment of the test vector in keys §5.1.
func vectorFormat(t testing.TB) Format {
	t.Helper()
	domainKey := make([]byte, domainKeySize)
	for i := range domainKey {
		domainKey[i] = byte(7*i + 3)
	}
	f, err := NewFormat("nvapi-nvcf-stg-", domainKey)
	require.NoError(t, err)
	return f
}

const (
	vectorKey  = "nvapi-nvcf-stg-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8smw43ECfcjhx8x1RQoDbg"
	vectorHash = "smw43ECfcjhx8x1RQoDbg_gVKHftxDwT-tqVa7_GJ9U"
)

func TestKeyOfTheTestVector(t *testing.T) {
	t.Parallel()
	f := vectorFormat(t)
	raw := make([]byte, rawSize)
	for i := range raw {
		raw[i] = byte(i)
	}
	d, err := f.draw(bytes.NewReader(raw))
	require.NoError(t, err)
	require.Equal(t, vectorKey, d.value)
	require.Len(t, d.value, 79)
	require.Equal(t, vectorHash, d.hash)
	require.Equal(t, "nvapi-nvcf-stg-**********Dbg", f.Mask(d.tail))

	sum, ok := f.Parse(vectorKey)
	require.True(t, ok)
	require.Equal(t, vectorHash, sum)
}

func TestKeysAreParsedStrictly(t *testing.T) {
	t.Parallel()
	f := vectorFormat(t)
	body := strings.Index(vectorKey, "AAEC")
	for name, key := range map[string]string{
		"empty":                 "",
		"prefix only":           f.prefix,
		"other prefix":          strings.Replace(vectorKey, "stg", "prd", 1),
		"prefix in upper case":  strings.Replace(vectorKey, "nvapi", "NVAPI", 1),
		"space in front":        " " + vectorKey,
		"line break behind":     vectorKey + "\n",
		"too short":             vectorKey[:len(vectorKey)-1],
		"too long":              vectorKey + "A",
		"flipped in the body":   vectorKey[:body] + "B" + vectorKey[body+1:],
		"flipped in the check":  vectorKey[:len(vectorKey)-1] + "h",
		"spare bits set":        strings.Replace(vectorKey, "Hh8smw", "Hh9smw", 1),
		"standard alphabet":     vectorKey[:body] + "+" + vectorKey[body+1:],
		"padding":               vectorKey[:body+42] + "=" + vectorKey[body+43:],
		"line break inside":     vectorKey[:body+4] + "\n" + vectorKey[body+5:],
		"a JWT":                 "eyJhbGciOiJFUzI1NiJ9.e30.c2ln",
		"not ASCII":             vectorKey[:len(vectorKey)-2] + "é",
		"masked":                f.Mask("Dbg"),
		"made with another key": drawWith(t, bytes.Repeat([]byte{1}, domainKeySize)),
	} {
		_, ok := f.Parse(key)
		require.False(t, ok, name)
	}
}

func drawWith(t *testing.T, domainKey []byte) string {
	t.Helper()
	f, err := NewFormat("nvapi-nvcf-stg-", domainKey)
	require.NoError(t, err)
	d, err := f.draw(rand.Reader)
	require.NoError(t, err)
	return d.value
}

func TestFormatWantsADomainKeyOfOneBlock(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 32, 135, 137} {
		_, err := NewFormat("nvapi-", make([]byte, size))
		require.ErrorContains(t, err, "136 bytes")
	}
}

// FuzzParse: whatever is accepted is the one spelling of its key, and every key that is drawn is accepted.
func FuzzParse(f *testing.F) {
	format := vectorFormat(f)
	f.Add(vectorKey, []byte("seed"))
	f.Add("nvapi-nvcf-stg-", make([]byte, rawSize))
	f.Add(vectorKey+"\n", []byte{255})
	f.Fuzz(func(t *testing.T, key string, raw []byte) {
		if sum, ok := format.Parse(key); ok {
			body := key[len(format.prefix) : len(format.prefix)+bodyLength]
			bytes, err := base64.RawURLEncoding.DecodeString(body)
			require.NoError(t, err)
			require.Equal(t, body, base64.RawURLEncoding.EncodeToString(bytes))
			require.True(t, strings.HasPrefix(sum, key[len(key)-checkLength:]))
		}
		d, err := format.draw(bytes.NewReader(append(raw, make([]byte, rawSize)...)))
		require.NoError(t, err)
		sum, ok := format.Parse(d.value)
		require.True(t, ok)
		require.Equal(t, d.hash, sum)
	})
}
