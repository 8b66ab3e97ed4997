package functions

import (
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sirocco-cloud/sirocco/libs/seal"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// Config is what an operator may say about the service.
type Config struct {
	// EncryptionKey seals the secrets: 32 bytes in base64, the same for every replica. It is taken out of the environment
	// as it is read, so that no process started later inherits it.
	EncryptionKey string `env:"SIROCCO_FUNCTIONS_ENCRYPTION_KEY,unset"`
	// PreviousEncryptionKey opens what was sealed before EncryptionKey was changed. To rotate, give every replica the new
	// key as EncryptionKey and the one before here, then POST /v1/admin/encryption/functions/rotate; when the answer lists
	// no previous key any more, this one may go.
	PreviousEncryptionKey string `env:"SIROCCO_FUNCTIONS_ENCRYPTION_KEY_PREVIOUS,unset"`
	// DataDir keeps a key that the service makes for itself when none is given. Without it the key lies in the database,
	// where it protects the secrets from those who see single rows or events but not from those who see everything.
	DataDir string `env:"SIROCCO_DATA_DIR"`

	Registries RegistryConfig
	Assets     AssetConfig
	// MaxVersions bounds the versions of one function; 0 does not.
	MaxVersions int `env:"SIROCCO_FUNCTIONS_MAX_VERSIONS"`
}

// sealedColumns are all columns of sealed values, so that a rotation misses none. Their names must tell any two values of
// the service apart.
func sealedColumns() []store.Sealed {
	return []store.Sealed{
		{Table: "secrets", Column: "sealed", Name: `version_id::text || '/' || name`},
		{Table: "telemetries", Column: "sealed", Name: `'telemetry/' || telemetry_id::text`},
		{Table: "registry_credentials", Column: "sealed", Name: `'registry-credential/' || credential_id::text`},
		{Table: "object_keys", Column: "sealed", Name: `'object-key'`},
	}
}

// place is what the secret of a version is bound to.
func place(versionID, name string) string { return versionID + "/" + name }

func newVault(cfg Config, pool *pgxpool.Pool, now func() time.Time) (*seal.Vault, error) {
	source := seal.Source{Variable: "SIROCCO_FUNCTIONS_ENCRYPTION_KEY", Given: cfg.EncryptionKey, Previous: cfg.PreviousEncryptionKey}
	if cfg.DataDir != "" {
		source.File = filepath.Join(cfg.DataDir, "functions", "sealing.key")
	}
	return seal.New(source, store.NewKeyring(pool, schema, sealedColumns()...), now)
}
