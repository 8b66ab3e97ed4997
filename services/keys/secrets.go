package keys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	wire "github.com/sirocco-cloud/sirocco/contracts/encryption"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/seal"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// domainKeyName is the name of the data-domain key in the database.
const domainKeyName = "data-domain-key"

// defaultDataDir is where `sirocco up` keeps its state; it is used when it exists and never made here.
const defaultDataDir = ".sirocco"

// sealedColumns are all columns of sealed values, so that a rotation misses none. Their names must tell any two values of
// the service apart.
func sealedColumns() []store.Sealed {
	return []store.Sealed{
		{Table: "secrets", Column: "value", Name: `name`},
		{Table: "signing_keys", Column: "private_key", Name: `'` + sealedSigningKey + `' || kid`},
	}
}

// newVault makes the vault of the service. Its key comes from the environment, else from a file below the data
// directory, else from the database (docs/decisions/0010).
func newVault(cfg Config, pool *pgxpool.Pool, now func() time.Time) (*seal.Vault, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	source := seal.Source{Variable: "SIROCCO_KEYS_ENCRYPTION_KEY", Given: cfg.EncryptionKey, Previous: cfg.PreviousEncryptionKey}
	dir := cfg.DataDir
	if info, err := os.Stat(defaultDataDir); dir == "" && err == nil && info.IsDir() {
		dir = defaultDataDir
	}
	if dir != "" {
		source.File = filepath.Join(dir, "keys", "encryption.key")
	}
	return seal.New(source, store.NewKeyring(pool, "keys", sealedColumns()...), now)
}

// Secrets finds the data-domain keys, or makes one once for all replicas: the first to write a row wins, the others read
// it. They come from the environment or, sealed, from the database.
type Secrets struct {
	store  *Store
	vault  *seal.Vault
	random io.Reader
	// given are the operator's keys, the one for new keys first; none unless the operator gave one.
	given [][]byte
}

// NewSecrets prepares the search; Open performs it.
func NewSecrets(cfg Config, store *Store, vault *seal.Vault, random io.Reader) (*Secrets, error) {
	given, err := cfg.domainKeys()
	if err != nil {
		return nil, err
	}
	return &Secrets{store: store, vault: vault, random: random, given: given}, nil
}

// Open unlocks the vault and returns the data-domain keys of the deployment, the one for new keys first. An error says
// what a person has to bring.
func (s *Secrets) Open(ctx context.Context) ([][]byte, error) {
	if err := s.vault.Load(ctx); err != nil {
		return nil, err
	}
	held, err := s.store.secret(ctx, domainKeyName)
	if err != nil {
		return nil, err
	}
	if held == nil {
		if held, err = s.claimDomainKey(ctx); err != nil {
			return nil, err
		}
	}
	if len(s.given) > 0 {
		return s.given, s.accept(ctx, *held)
	}
	if held.value == nil {
		return nil, errors.New("the keys in the database were hashed with a data-domain key from the environment: set SIROCCO_KEYS_DOMAIN_KEY here too")
	}
	key, err := s.vault.Open(ctx, domainKeyName, held.value)
	return [][]byte{key}, err
}

// accept checks that the stored keys were made under one of the given domain keys, and notes the first one as the one
// of new keys.
func (s *Secrets) accept(ctx context.Context, held secret) error {
	for i, key := range s.given {
		if seal.Fingerprint(domainKeyName, key) != held.fingerprint {
			continue
		}
		if i == 0 {
			return nil
		}
		return s.store.replaceSecret(ctx, domainKeyName, held.fingerprint, seal.Fingerprint(domainKeyName, s.given[0]))
	}
	return fmt.Errorf("SIROCCO_KEYS_DOMAIN_KEY is not the key %s that the stored keys were hashed with; without that one no key would work, "+
		"so set it, or to replace it set it as SIROCCO_KEYS_DOMAIN_KEY_PREVIOUS", held.fingerprint)
}

func (s *Secrets) claimDomainKey(ctx context.Context) (held *secret, err error) {
	claim := secret{}
	if len(s.given) > 0 {
		claim.fingerprint = seal.Fingerprint(domainKeyName, s.given[0])
		return s.store.claimSecret(ctx, domainKeyName, claim)
	}
	key := make([]byte, domainKeySize)
	if _, err := io.ReadFull(s.random, key); err != nil {
		return nil, fmt.Errorf("make the data-domain key: %w", err)
	}
	if claim.value, err = s.vault.Seal(ctx, domainKeyName, key); err != nil {
		return nil, err
	}
	claim.fingerprint = seal.Fingerprint(domainKeyName, key)
	return s.store.claimSecret(ctx, domainKeyName, claim)
}

// encryption answers an operator who asks about the keys of the vault.
func encryption(do func(context.Context) (seal.Status, error)) func(context.Context, rpc.None) (wire.Keys, error) {
	return func(ctx context.Context, _ rpc.None) (wire.Keys, error) {
		status, err := do(ctx)
		return wire.Keys(status), err
	}
}
