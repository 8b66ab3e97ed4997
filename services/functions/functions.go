package functions

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/libs/seal"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// Instances asks for the live instances of a version.
type Instances func(ctx context.Context, versionID string) ([]instances.Brief, error)

// Functions are the use cases of the service.
//
// Client-facing ones act for the caller of the context: what is not in its account does not exist (404), what is in
// its account but outside its key's resources is refused (403), and lists leave that out without a word.
type Functions struct {
	store     *versions
	instances Instances
	accounts  Accounts
	now       func() time.Time
	log       *zap.Logger
	// maxVersions bounds the versions of one function; 0 does not.
	maxVersions int
	idempotency *store.Idempotency
	vault       *seal.Vault
	*resources
}

// New makes the use cases. They serve once [Functions.Unlock] has found the key of the secrets.
func New(versions *versions, live Instances, accounts Accounts, now func() time.Time, log *zap.Logger) *Functions {
	return &Functions{
		store: versions, instances: live, accounts: accounts, now: now, log: log, idempotency: store.NewIdempotency(schema),
	}
}

// Unlock finds or makes the key that seals secrets. It must succeed before the first request.
func (f *Functions) Unlock(ctx context.Context, cfg Config) error {
	var err error
	if f.vault, err = newVault(cfg, f.store.pool, f.now); err != nil {
		return err
	}
	return f.vault.Load(ctx)
}
