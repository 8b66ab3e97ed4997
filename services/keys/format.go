package keys

import (
	"crypto/hmac"
	"crypto/sha3"
	"crypto/subtle"
	"encoding/base64"
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
// here and never reaches the database.
type Format struct {
	prefix    string
	domainKey []byte
}

// NewFormat makes the format of a deployment.
func NewFormat(prefix string, domainKey []byte) (Format, error) {
	if len(domainKey) != domainKeySize {
		return Format{}, fmt.Errorf("data-domain key: want %d bytes, got %d", domainKeySize, len(domainKey))
	}
	return Format{prefix: prefix, domainKey: domainKey}, nil
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
	return f.of(raw[:]), nil
}

// derive makes the key that follows from a seed. Only the holder of the data-domain key can.
func (f Format) derive(seed []byte) drawn {
	mac := hmac.New(func() hash.Hash { return sha3.New256() }, f.domainKey)
	mac.Write([]byte("sirocco derived key\x00"))
	mac.Write(seed)
	return f.of(mac.Sum(nil))
}

func (f Format) of(raw []byte) drawn {
	sum := f.hash(raw)
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
	sum = f.hash(raw)
	if subtle.ConstantTimeCompare([]byte(sum[:checkLength]), []byte(rest[bodyLength:])) != 1 {
		return "", false
	}
	return sum, true
}

// Mask is how a key is shown after its creation.
func (f Format) Mask(tail string) string { return f.prefix + "**********" + tail }

func (f Format) hash(raw []byte) string {
	mac := hmac.New(func() hash.Hash { return sha3.New256() }, f.domainKey)
	mac.Write(raw)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
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
