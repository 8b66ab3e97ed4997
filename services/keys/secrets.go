package keys

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Names of the deployment secrets in the database.
const (
	encryptionKeyName = "key-encryption-key"
	domainKeyName     = "data-domain-key"
)

// defaultDataDir is where `sirocco up` keeps its state; it is used when it exists and never made here.
const defaultDataDir = ".sirocco"

// Secrets finds the deployment secrets, or makes them once for all replicas: the first to write a row wins, the others
// read it.
//
// The key-encryption key comes from the environment, else from a file below the data directory, else from the database.
// The last protects nothing that the database holds, but keeps every replica of a small install working without a
// shared disk (docs/decisions/0010). The data-domain key comes from the environment or, sealed, from the database.
type Secrets struct {
	store  *Store
	random io.Reader
	// encryptionKey and domainKey are nil unless the operator gave them.
	encryptionKey, domainKey []byte
	// file of the key-encryption key, empty when there is no data directory.
	file string
}

// NewSecrets prepares the search; Open performs it.
func NewSecrets(cfg Config, store *Store, random io.Reader) (*Secrets, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := &Secrets{store: store, random: random}
	var err error
	if s.encryptionKey, err = decodeSecret("SIROCCO_KEYS_ENCRYPTION_KEY", cfg.EncryptionKey, encryptionKeySize); err != nil {
		return nil, err
	}
	if s.domainKey, err = decodeSecret("SIROCCO_KEYS_DOMAIN_KEY", cfg.DomainKey, domainKeySize); err != nil {
		return nil, err
	}
	dir := cfg.DataDir
	if info, err := os.Stat(defaultDataDir); dir == "" && err == nil && info.IsDir() {
		dir = defaultDataDir
	}
	if dir != "" {
		s.file = filepath.Join(dir, "keys", "encryption.key")
	}
	return s, nil
}

// Open returns the vault and the data-domain key of the deployment. An error says what a person has to bring.
func (s *Secrets) Open(ctx context.Context) (*Vault, []byte, error) {
	key, err := s.openEncryptionKey(ctx)
	if err != nil {
		return nil, nil, err
	}
	vault, err := NewVault(key)
	if err != nil {
		return nil, nil, err
	}
	domainKey, err := s.openDomainKey(ctx, vault)
	if err != nil {
		return nil, nil, err
	}
	return vault, domainKey, nil
}

func (s *Secrets) openEncryptionKey(ctx context.Context) ([]byte, error) {
	held, err := s.store.secret(ctx, encryptionKeyName)
	if err != nil {
		return nil, err
	}
	key, inDatabase, err := s.ownEncryptionKey(held)
	if err != nil {
		return nil, err
	}
	if held == nil {
		claim := secret{fingerprint: fingerprint(encryptionKeyName, key)}
		if inDatabase {
			claim.value = key
		}
		if held, err = s.store.claimSecret(ctx, encryptionKeyName, claim); err != nil {
			return nil, err
		}
	}
	switch {
	case key != nil && fingerprint(encryptionKeyName, key) == held.fingerprint:
		return key, nil
	case s.encryptionKey != nil:
		return nil, fmt.Errorf("SIROCCO_KEYS_ENCRYPTION_KEY is not the key %s that sealed the secrets in the database; set that one", held.fingerprint)
	case held.value != nil:
		return held.value, nil
	}
	return nil, fmt.Errorf("the secrets in the database are sealed with the key-encryption key %s, which this replica lacks: "+
		"set SIROCCO_KEYS_ENCRYPTION_KEY, or copy keys/encryption.key from the data directory of the replica that has it", held.fingerprint)
}

// ownEncryptionKey is the key that this replica has or, when the database knows of none yet, makes. It is nil when the
// database knows of one and this replica has none of its own.
func (s *Secrets) ownEncryptionKey(held *secret) (key []byte, inDatabase bool, err error) {
	if s.encryptionKey != nil {
		return s.encryptionKey, false, nil
	}
	if s.file != "" {
		key, err = readKeyFile(s.file)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return key, false, err
		}
	}
	if held != nil {
		return nil, false, nil
	}
	key = make([]byte, encryptionKeySize)
	if _, err := io.ReadFull(s.random, key); err != nil {
		return nil, false, fmt.Errorf("make the key-encryption key: %w", err)
	}
	if s.file == "" {
		return key, true, nil
	}
	key, err = writeKeyFile(s.file, key)
	return key, false, err
}

func (s *Secrets) openDomainKey(ctx context.Context, vault *Vault) ([]byte, error) {
	held, err := s.store.secret(ctx, domainKeyName)
	if err != nil {
		return nil, err
	}
	if held == nil {
		key := s.domainKey
		claim := secret{}
		if key == nil {
			key = make([]byte, domainKeySize)
			if _, err := io.ReadFull(s.random, key); err != nil {
				return nil, fmt.Errorf("make the data-domain key: %w", err)
			}
			claim.value = vault.Seal(domainKeyName, key)
		}
		claim.fingerprint = fingerprint(domainKeyName, key)
		if held, err = s.store.claimSecret(ctx, domainKeyName, claim); err != nil {
			return nil, err
		}
	}
	key := s.domainKey
	switch {
	case key == nil && held.value == nil:
		return nil, errors.New("the keys in the database were hashed with a data-domain key from the environment: set SIROCCO_KEYS_DOMAIN_KEY here too")
	case key == nil:
		if key, err = vault.Open(domainKeyName, held.value); err != nil {
			return nil, err
		}
	}
	if fingerprint(domainKeyName, key) != held.fingerprint {
		return nil, fmt.Errorf("SIROCCO_KEYS_DOMAIN_KEY is not the key %s that the stored keys were hashed with; with another one no key would work", held.fingerprint)
	}
	return key, nil
}

func readKeyFile(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the key-encryption key: %w", err)
	}
	key, err := decodeSecret(path, string(bytes.TrimSpace(text)), encryptionKeySize)
	if err == nil && key == nil {
		err = fmt.Errorf("%s: want %d bytes in base64, got an empty file", path, encryptionKeySize)
	}
	return key, err
}

// writeKeyFile puts key where only this user reads it. When another process was faster, its key is returned.
func writeKeyFile(path string, key []byte) ([]byte, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keep the key-encryption key: %w", err)
	}
	file, err := os.CreateTemp(dir, ".encryption-*") // 0600 by definition
	if err != nil {
		return nil, fmt.Errorf("keep the key-encryption key: %w", err)
	}
	defer os.Remove(file.Name())
	_, err = file.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return nil, fmt.Errorf("keep the key-encryption key: %w", err)
	}
	// A link appears whole or not at all, and never replaces a key that something is already sealed with.
	switch err := os.Link(file.Name(), path); {
	case errors.Is(err, fs.ErrExist):
		return readKeyFile(path)
	case err != nil:
		return nil, fmt.Errorf("keep the key-encryption key: %w", err)
	}
	return key, syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("keep the key-encryption key: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("keep the key-encryption key: %w", err)
	}
	return nil
}
