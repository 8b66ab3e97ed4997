package keys

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/libs/seal"
	"github.com/sirocco-cloud/sirocco/services/keys/directory"
)

// Config is what an operator may choose. The two secrets are taken out of the environment as they are read, so that no
// process started later inherits them.
type Config struct {
	// Directory is about the people and programs of the access API.
	Directory directory.Config
	// Prefix of every key; it starts with nvapi- and ends with a hyphen. Keys with another prefix stop working.
	Prefix string `env:"SIROCCO_KEY_PREFIX" envDefault:"nvapi-nvcf-stg-"`
	// DomainKey is the key of the hash of every key: 136 bytes in base64. Without it one is made and shared through the database.
	DomainKey string `env:"SIROCCO_KEYS_DOMAIN_KEY,unset"`
	// PreviousDomainKey is the one that keys were made under before DomainKey was changed; they work as long as it is here.
	// To rotate without refusing a new key anywhere, give every replica the new one here first, and when all have it, swap
	// the two. The old one may go when the keys made under it have expired.
	PreviousDomainKey string `env:"SIROCCO_KEYS_DOMAIN_KEY_PREVIOUS,unset"`
	// EncryptionKey seals what the database keeps secret: 32 bytes in base64, the same for every replica. Without it one
	// is made; see libs/seal.
	EncryptionKey string `env:"SIROCCO_KEYS_ENCRYPTION_KEY,unset"`
	// PreviousEncryptionKey opens what was sealed before EncryptionKey was changed. To rotate, give every replica the new
	// key as EncryptionKey and the one before here, then POST /v1/admin/encryption/keys/rotate; when the answer lists no
	// previous key any more, this one may go.
	PreviousEncryptionKey string `env:"SIROCCO_KEYS_ENCRYPTION_KEY_PREVIOUS,unset"`
	// DataDir keeps the key-encryption key when EncryptionKey is not given. When empty it is .sirocco, if that exists.
	DataDir string `env:"SIROCCO_DATA_DIR"`
	// Retention is how long a key's record outlives its expiry.
	Retention time.Duration `env:"SIROCCO_KEYS_RETENTION" envDefault:"48h"`
	// ReapInterval is how often records past their retention are purged.
	ReapInterval time.Duration `env:"SIROCCO_KEYS_REAP_INTERVAL" envDefault:"1m"`
	// SigningKeyLife is how long a key signs tokens before its successor takes over.
	SigningKeyLife time.Duration `env:"SIROCCO_SIGNING_KEY_LIFE" envDefault:"720h"`
	// AdminTokenLife is how long an administrator token is valid.
	AdminTokenLife time.Duration `env:"SIROCCO_ADMIN_TOKEN_LIFE" envDefault:"12h"`
	// AdminExtraScopes are granted by administrator tokens beside the ten of keys §4.14, for example account_setup.
	AdminExtraScopes []string `env:"SIROCCO_ADMIN_EXTRA_SCOPES"`
	// AdminTokenRate is how many administrator tokens a replica mints per second, and at once.
	AdminTokenRate int `env:"SIROCCO_ADMIN_TOKEN_RATE" envDefault:"30"`
	// TrustMode is compat or secured; in the second the administrator may also manage keys (keys §3).
	TrustMode string `env:"SIROCCO_TRUST_MODE" envDefault:"compat"`
	// PolicyValidation is lenient or strict: whether authorizations that a key could only carry in vain are refused (keys
	// §7.6).
	PolicyValidation Validation `env:"SIROCCO_KEYS_POLICY_VALIDATION" envDefault:"lenient"`
	// Compat are the rows of the access matrix that can be read in two ways, as the gateway reads them.
	Compat access.Compat
	// AuditRetention is how long decisions about credentials can be asked for.
	AuditRetention time.Duration `env:"SIROCCO_KEYS_AUDIT_RETENTION" envDefault:"720h"`
	// MaxFunctions and MaxTasks are what a new account is allowed, and the most that it can be given.
	MaxFunctions int `env:"SIROCCO_ACCOUNT_MAX_FUNCTIONS" envDefault:"2147483647"`
	MaxTasks     int `env:"SIROCCO_ACCOUNT_MAX_TASKS" envDefault:"2147483647"`
	// RequiredArtifacts are the types of artifact for which an account that brings registry credentials must bring one.
	RequiredArtifacts []string `env:"SIROCCO_ACCOUNT_REQUIRED_ARTIFACTS" envDefault:"CONTAINER,HELM"`
}

// domainKeySize in bytes (keys §5.1).
const domainKeySize = 136

const maxRetention = 30 * 24 * time.Hour

var prefixShape = regexp.MustCompile(`^` + contract.Prefix + `([a-zA-Z0-9-]{0,48}-)?$`)

// check refuses what could never work, naming the variable and what would be accepted, never the value of a secret.
func (c Config) check() error {
	if !prefixShape.MatchString(c.Prefix) {
		return fmt.Errorf("SIROCCO_KEY_PREFIX: %q does not start with %q, end with a hyphen and have letters, digits and hyphens between", c.Prefix, contract.Prefix)
	}
	if _, err := c.domainKeys(); err != nil {
		return err
	}
	if c.Retention < 0 || c.Retention > maxRetention {
		return fmt.Errorf("SIROCCO_KEYS_RETENTION: %s is not between 0 and %s", c.Retention, maxRetention)
	}
	if c.ReapInterval <= 0 {
		return fmt.Errorf("SIROCCO_KEYS_REAP_INTERVAL: %s is not a positive duration", c.ReapInterval)
	}
	if c.SigningKeyLife < minSigningKeyLife {
		return fmt.Errorf("SIROCCO_SIGNING_KEY_LIFE: %s is less than %s", c.SigningKeyLife, minSigningKeyLife)
	}
	if c.AdminTokenLife < minAdminTokenLife || c.AdminTokenLife > contract.TokenLife {
		return fmt.Errorf("SIROCCO_ADMIN_TOKEN_LIFE: %s is not between %s and %s", c.AdminTokenLife, minAdminTokenLife, contract.TokenLife)
	}
	if c.AdminTokenRate < 1 {
		return fmt.Errorf("SIROCCO_ADMIN_TOKEN_RATE: %d is less than 1", c.AdminTokenRate)
	}
	if c.TrustMode != trustCompat && c.TrustMode != trustSecured {
		return fmt.Errorf("SIROCCO_TRUST_MODE: %q is neither %s nor %s", c.TrustMode, trustCompat, trustSecured)
	}
	if c.PolicyValidation != Lenient && c.PolicyValidation != Strict {
		return fmt.Errorf("SIROCCO_KEYS_POLICY_VALIDATION: %q is neither %s nor %s", c.PolicyValidation, Lenient, Strict)
	}
	if c.AuditRetention <= 0 {
		return fmt.Errorf("SIROCCO_KEYS_AUDIT_RETENTION: %s is not a positive duration", c.AuditRetention)
	}
	for setting, n := range map[string]int{"SIROCCO_ACCOUNT_MAX_FUNCTIONS": c.MaxFunctions, "SIROCCO_ACCOUNT_MAX_TASKS": c.MaxTasks} {
		if n < 1 || n > math.MaxInt32 {
			return fmt.Errorf("%s: %d is not between 1 and %d", setting, n, math.MaxInt32)
		}
	}
	return c.checkScopes()
}

// domainKeys are the data-domain keys that the operator gave, the one for new keys first.
func (c Config) domainKeys() ([][]byte, error) {
	var keys [][]byte
	for _, v := range []struct{ name, text string }{{"SIROCCO_KEYS_DOMAIN_KEY", c.DomainKey}, {"SIROCCO_KEYS_DOMAIN_KEY_PREVIOUS", c.PreviousDomainKey}} {
		key, err := seal.Decode(v.name, v.text, domainKeySize)
		if err != nil {
			return nil, err
		}
		if key != nil {
			keys = append(keys, key)
		}
	}
	if c.DomainKey == "" && len(keys) > 0 {
		return nil, errors.New("SIROCCO_KEYS_DOMAIN_KEY_PREVIOUS: is of use only beside SIROCCO_KEYS_DOMAIN_KEY")
	}
	return keys, nil
}

// Bounds of keys §6: a token must not outlive what verifiers remember, nor grow past what the cluster inventory reads.
const (
	minAdminTokenLife = 15 * time.Minute
	minSigningKeyLife = 2 * publishAhead
	maxExtraScopes    = 512

	trustCompat  = "compat"
	trustSecured = "secured"
)

// scopeShape leaves out what may not be in a token: one client decodes it with the standard base64 alphabet (keys §6.2).
var scopeShape = regexp.MustCompile(`^[A-Za-z0-9_:.-]+$`)

func (c Config) checkScopes() error {
	size := 0
	for _, scope := range c.AdminExtraScopes {
		if !scopeShape.MatchString(strings.TrimSpace(scope)) {
			return fmt.Errorf("SIROCCO_ADMIN_EXTRA_SCOPES: %q is not a scope: want letters, digits, and any of _ : . -", scope)
		}
		size += len(scope)
	}
	if size > maxExtraScopes {
		return fmt.Errorf("SIROCCO_ADMIN_EXTRA_SCOPES: %d characters of scopes make a token too long for those who read it; want %d at most", size, maxExtraScopes)
	}
	return nil
}

// adminScopes are those of an administrator token, each once.
func (c Config) adminScopes() []access.Scope {
	scopes := access.AdminDefaults()
	extra := c.AdminExtraScopes
	if c.TrustMode == trustSecured {
		extra = append(slices.Clone(extra), access.ManageKeys)
	}
	for _, scope := range extra {
		if scope = strings.TrimSpace(scope); !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	return scopes
}
