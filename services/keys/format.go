package keys

import (
	"crypto/hmac"
	"crypto/sha3"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
)

// Lengths of keys §5.1: a key is its prefix, a body that spells 32 random bytes, and a checksum that is the head of the
// hash of those bytes.
const (
	rawSize     = 32
	bodyLength  = 43
	checkLength = 21
	tailLength  = 3
)

// strict refuses a last character whose spare bits are not zero; otherwise four spellings of one key would be accepted.
var strict = base64.RawURLEncoding.Strict()

// Format draws, recognises and masks opaque keys. Because the checksum depends on the domain key, a guess is refused
// here and never reaches the database. For the same reason a key stays bound to the domain key that it was made under:
// when that one is replaced it must remain known for as long as such keys live, and hashing them anew would not change it.
type Format struct {
	prefix string
	// domainKeys begin with the one that new keys are made under.
	domainKeys [][]byte
}

// NewFormat makes the format of a deployment. New keys are made under the first domain key; those made under the others
// are still recognised.
func NewFormat(prefix string, domainKeys ...[]byte) (Format, error) {
	if len(domainKeys) == 0 {
		return Format{}, errors.New("data-domain key: there is none")
	}
	for _, key := range domainKeys {
		if len(key) != domainKeySize {
			return Format{}, fmt.Errorf("data-domain key: want %d bytes, got %d", domainKeySize, len(key))
		}
	}
	return Format{prefix: prefix, domainKeys: domainKeys}, nil
}

// drawn is a new key: what its owner gets, and what is kept of it.
type drawn struct {
	value string
	hash  string
	tail  string
}

// draw makes a new key from 32 bytes of random.
func (f Format) draw(random io.Reader) (drawn, error) {
	var raw [rawSize]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return drawn{}, fmt.Errorf("draw a key: %w", err)
	}
	return f.of(f.domainKeys[0], raw[:]), nil
}

// derive makes the key that follows from a seed. Only the holder of the data-domain key can.
func (f Format) derive(seed []byte) drawn { return f.derived(f.domainKeys[0], seed) }

// rederive finds, among the keys that a seed yields under the domain keys, the one with this tail.
func (f Format) rederive(seed []byte, tail string) drawn {
	for _, key := range f.domainKeys {
		if d := f.derived(key, seed); d.tail == tail {
			return d
		}
	}
	return f.derive(seed)
}

func (f Format) derived(domainKey, seed []byte) drawn {
	return f.of(domainKey, hmacOf(domainKey, append([]byte("sirocco derived key\x00"), seed...)))
}

func (f Format) of(domainKey, raw []byte) drawn {
	sum := hashOf(domainKey, raw)
	value := f.prefix + base64.RawURLEncoding.EncodeToString(raw) + sum[:checkLength]
	return drawn{value: value, hash: sum, tail: value[len(value)-tailLength:]}
}

// Parse returns the hash under which a key is stored; ok is false for anything that this deployment cannot have issued.
func (f Format) Parse(key string) (sum string, ok bool) {
	rest, ok := strings.CutPrefix(key, f.prefix)
	if !ok || len(rest) != bodyLength+checkLength || !urlAlphabet(rest) {
		return "", false
	}
	raw, err := strict.DecodeString(rest[:bodyLength])
	if err != nil || len(raw) != rawSize {
		return "", false
	}
	// All are tried, so that the time taken tells nothing about which one fits.
	for _, key := range f.domainKeys {
		candidate := hashOf(key, raw)
		if subtle.ConstantTimeCompare([]byte(candidate[:checkLength]), []byte(rest[bodyLength:])) == 1 {
			sum = candidate
		}
	}
	return sum, sum != ""
}

// Mask is how a key is shown after its creation.
func (f Format) Mask(tail string) string { return f.prefix + "**********" + tail }

func hashOf(domainKey, raw []byte) string {
	return base64.RawURLEncoding.EncodeToString(hmacOf(domainKey, raw))
}

func hmacOf(domainKey, message []byte) []byte {
	mac := hmac.New(func() hash.Hash { return sha3.New256() }, domainKey)
	mac.Write(message)
	return mac.Sum(nil)
}

// urlAlphabet is checked apart from decoding, because the decoder of the standard library skips line breaks.
func urlAlphabet(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
