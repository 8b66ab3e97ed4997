package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Vault seals what the database must keep but not know, with AES-256-GCM under the key-encryption key. Each sealing is
// bound to a name, so that a row moved to another place does not open.
type Vault struct{ aead cipher.AEAD }

// NewVault makes the vault of a 32-byte key-encryption key.
func NewVault(key []byte) (*Vault, error) {
	if len(key) != encryptionKeySize {
		return nil, fmt.Errorf("key-encryption key: want %d bytes, got %d", encryptionKeySize, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key: %w", err)
	}
	return &Vault{aead: aead}, nil
}

// Seal encrypts plain under a name.
func (v *Vault) Seal(name string, plain []byte) []byte {
	return v.aead.Seal(nil, nil, plain, []byte(name)) //nolint:gosec // this AEAD draws its own random nonce and takes none
}

// Open is the inverse of Seal under the same name.
func (v *Vault) Open(name string, sealed []byte) ([]byte, error) {
	plain, err := v.aead.Open(nil, nil, sealed, []byte(name))
	if err != nil {
		return nil, fmt.Errorf("open %s: sealed with another key-encryption key, or damaged: %w", name, err)
	}
	return plain, nil
}

// fingerprint tells two secrets apart without telling anything about them.
func fingerprint(name string, secret []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("sirocco " + name))
	return hex.EncodeToString(mac.Sum(nil)[:8])
}
