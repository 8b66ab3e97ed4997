package functions

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Config is what an operator may say about the service.
type Config struct {
	// EncryptionKey seals the secrets: 32 bytes in base64, the same for every replica. It is taken out of the environment
	// as it is read, so that no process started later inherits it.
	EncryptionKey string `env:"SIROCCO_FUNCTIONS_ENCRYPTION_KEY,unset"`
	// DataDir keeps a key that the service makes for itself when none is given. Without it the key lies in the database,
	// where it protects the secrets from those who see single rows or events but not from those who see everything.
	DataDir string `env:"SIROCCO_DATA_DIR"`
}

const keyBytes = 32

// sealer encrypts secrets with AES-256-GCM. A sealed value begins with the format's number; the random nonce follows.
type sealer struct{ aead cipher.AEAD }

const sealFormat = 1

func newSealer(key []byte) (*sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	return &sealer{aead}, nil
}

// seal binds the value to its place, so that a row copied over another does not open.
func (s *sealer) seal(versionID, name string, value []byte) []byte {
	return append([]byte{sealFormat}, s.aead.Seal(nil, nil, value, place(versionID, name))...) //nolint:gosec // this AEAD draws its nonces itself
}

func (s *sealer) open(versionID, name string, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != sealFormat {
		return nil, fmt.Errorf("secret %s of version %s: unknown format", name, versionID)
	}
	value, err := s.aead.Open(nil, nil, sealed[1:], place(versionID, name))
	if err != nil {
		return nil, fmt.Errorf("secret %s of version %s does not open: %w", name, versionID, err)
	}
	return value, nil
}

func place(versionID, name string) []byte { return []byte(versionID + "/" + name) }

// keyRecord is what the database knows about the key: which one it is, and the key itself if it lives there.
type keyRecord struct {
	fingerprint []byte
	key         []byte
}

// keyStore remembers the first key that was ever used.
type keyStore interface {
	sealingKey(ctx context.Context) (record keyRecord, found bool, err error)
	// claimSealingKey stores the record unless there is one, and returns the one that stands.
	claimSealingKey(ctx context.Context, record keyRecord) (keyRecord, error)
}

// loadKey finds the key, or makes it when no key was ever used. It refuses a key other than the first, because a
// replica with its own key would seal what the others cannot open.
func loadKey(ctx context.Context, cfg Config, db keyStore) ([]byte, error) {
	known, found, err := db.sealingKey(ctx)
	if err != nil {
		return nil, err
	}
	key, err := givenKey(cfg)
	if err != nil {
		return nil, err
	}
	record := keyRecord{}
	switch {
	case key != nil:
	case found && known.key != nil:
		return known.key, nil
	case found:
		return nil, fmt.Errorf("the key %x that sealed the secrets is not here: set SIROCCO_FUNCTIONS_ENCRYPTION_KEY, or bring back %s", known.fingerprint, keyFile(cfg.DataDir))
	default:
		key = make([]byte, keyBytes)
		rand.Read(key)
		if cfg.DataDir == "" {
			record.key = key
		} else if key, err = keepKey(keyFile(cfg.DataDir), key); err != nil {
			return nil, err
		}
	}
	record.fingerprint = fingerprint(key)
	stands, err := db.claimSealingKey(ctx, record)
	switch {
	case err != nil:
		return nil, err
	case bytes.Equal(stands.fingerprint, record.fingerprint):
		return key, nil
	case stands.key != nil && record.key != nil:
		return stands.key, nil // another replica was first to make a key
	}
	return nil, fmt.Errorf("the secrets are sealed with the key %x, this replica has %x: give every replica the same SIROCCO_FUNCTIONS_ENCRYPTION_KEY", stands.fingerprint, record.fingerprint)
}

// givenKey is the key of the environment or of the data directory, nil when there is none.
func givenKey(cfg Config) ([]byte, error) {
	if cfg.EncryptionKey != "" {
		return parseKey("SIROCCO_FUNCTIONS_ENCRYPTION_KEY", cfg.EncryptionKey)
	}
	if cfg.DataDir == "" {
		return nil, nil
	}
	text, err := os.ReadFile(keyFile(cfg.DataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	return parseKey(keyFile(cfg.DataDir), string(bytes.TrimSpace(text)))
}

func parseKey(where, text string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) != keyBytes {
		return nil, fmt.Errorf("%s: want %d bytes in base64, for example from: openssl rand -base64 32", where, keyBytes)
	}
	return key, nil
}

func keyFile(dataDir string) string {
	if dataDir == "" {
		return "the key file in SIROCCO_DATA_DIR"
	}
	return filepath.Join(dataDir, "functions", "sealing.key")
}

// keepKey writes the key to its file, whole or not at all, and returns the key that the file then holds: another
// process may have been quicker.
func keepKey(path string, key []byte) (_ []byte, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	draft, err := os.CreateTemp(filepath.Dir(path), ".sealing-*") // created with mode 0600
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	defer func() { _ = os.Remove(draft.Name()) }()
	_, err = draft.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	if err = errors.Join(err, draft.Sync(), draft.Close()); err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	if err := os.Link(draft.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	return parseKey(path, string(bytes.TrimSpace(text)))
}

// fingerprint names a key without giving it away.
func fingerprint(key []byte) []byte {
	sum := sha256.Sum256(append([]byte("sirocco functions sealing key\x00"), key...))
	return sum[:6]
}
