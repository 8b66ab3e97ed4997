package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// KeySize of a key-encryption key and of a data key, in bytes.
const KeySize = 32

const (
	idSize = 8
	// overhead of AES-GCM with its nonce in front.
	overhead    = 12 + 16
	wrappedSize = KeySize + overhead
	headerSize  = len(magic) + idSize + wrappedSize
	// magic starts with the number of the format. A nonce of an older value begins like this once in four billion times;
	// such a value opens all the same, because a value that does not open as what it looks like is tried as an older one.
	magic = "\x02srk"
	// plainFormat is the first byte of older values of the functions service.
	plainFormat = 1
)

// ID names a key-encryption key without giving it away.
type ID [idSize]byte

// String is the id as the register spells it.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// keyKind goes into the digest that names a key-encryption key.
const keyKind = "key-encryption-key"

func digest(kind string, secret []byte) ID {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("sirocco " + kind))
	return ID(mac.Sum(nil)[:idSize])
}

// key is a key-encryption key ready for use.
type key struct {
	id     ID
	secret []byte
	aead   cipher.AEAD
}

func newKey(secret []byte) (*key, error) {
	if len(secret) != KeySize {
		return nil, fmt.Errorf("key-encryption key: want %d bytes, got %d", KeySize, len(secret))
	}
	aead, err := gcm(secret)
	if err != nil {
		return nil, err
	}
	return &key{id: digest(keyKind, secret), secret: secret, aead: aead}, nil
}

// named tells whether a record's name is this key's, by its id or by the name that the functions service gave its key
// before there were ids.
func (k *key) named(name string) bool {
	if name == k.id.String() {
		return true
	}
	older := sha256.Sum256(append([]byte("sirocco functions sealing key\x00"), k.secret...))
	return name == hex.EncodeToString(older[:6])
}

// gcm draws its nonces itself and writes each before what it encrypts.
func gcm(secret []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return aead, nil
}

func (k *key) seal(name string, value []byte) ([]byte, error) {
	secret := make([]byte, KeySize)
	rand.Read(secret)
	data, err := gcm(secret)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, headerSize+overhead+len(value))
	out = k.wrap(out, name, secret)
	return data.Seal(out, nil, value, []byte(name)), nil //nolint:gosec // this AEAD draws its own random nonce and takes none
}

// wrap appends the header of a sealed value: whose key, and the data key under it.
func (k *key) wrap(to []byte, name string, secret []byte) []byte {
	to = append(append(to, magic...), k.id[:]...)
	return k.aead.Seal(to, nil, secret, wrapping(name)) //nolint:gosec // as above
}

// wrapping keeps a data key from passing for a value, and binds it to the same name.
func wrapping(name string) []byte { return []byte(magic + "data key\x00" + name) }

// wrappedBy is the id of the key-encryption key that a value names; ok is false for older formats and for anything else.
func wrappedBy(sealed []byte) (id ID, ok bool) {
	if len(sealed) < headerSize+overhead || !bytes.HasPrefix(sealed, []byte(magic)) {
		return ID{}, false
	}
	return ID(sealed[len(magic) : len(magic)+idSize]), true
}

// unwrap returns the data key of a value and what it encrypts.
func unwrap(keys map[ID]*key, name string, sealed []byte) (secret, body []byte, err error) {
	id, ok := wrappedBy(sealed)
	if !ok {
		return nil, nil, errors.New("not in this format")
	}
	k := keys[id]
	if k == nil {
		return nil, nil, fmt.Errorf("sealed with the key-encryption key %s, which this replica lacks", id)
	}
	secret, err = k.aead.Open(nil, nil, sealed[len(magic)+idSize:headerSize], wrapping(name))
	return secret, sealed[headerSize:], err
}

func open(keys map[ID]*key, name string, sealed []byte) ([]byte, error) {
	secret, body, err := unwrap(keys, name, sealed)
	if err == nil {
		var data cipher.AEAD
		if data, err = gcm(secret); err != nil {
			return nil, err
		}
		value, err := data.Open(nil, nil, body, []byte(name))
		if err != nil {
			return nil, fmt.Errorf("open %s: damaged: %w", name, err)
		}
		return value, nil
	}
	if value, ok := openPlain(keys, name, sealed); ok {
		return value, nil
	}
	return nil, fmt.Errorf("open %s: sealed with another key-encryption key, for another place, or damaged: %w", name, err)
}

// openPlain opens a value that lies directly under a key-encryption key, as both services sealed before.
func openPlain(keys map[ID]*key, name string, sealed []byte) ([]byte, bool) {
	for _, k := range keys {
		if value, err := k.aead.Open(nil, nil, sealed, []byte(name)); err == nil {
			return value, true
		}
		if len(sealed) > 0 && sealed[0] == plainFormat {
			if value, err := k.aead.Open(nil, nil, sealed[1:], []byte(name)); err == nil {
				return value, true
			}
		}
	}
	return nil, false
}

// rewrap moves a value under another key. The value itself stays encrypted, unless it is in an older format.
func rewrap(keys map[ID]*key, to *key, name string, sealed []byte) ([]byte, error) {
	secret, body, err := unwrap(keys, name, sealed)
	if err == nil {
		return append(to.wrap(make([]byte, 0, len(sealed)), name, secret), body...), nil
	}
	value, err := open(keys, name, sealed)
	if err != nil {
		return nil, err
	}
	return to.seal(name, value)
}
