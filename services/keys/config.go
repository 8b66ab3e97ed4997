package keys

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
	"time"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
)

// Config is what an operator may choose. The two secrets are taken out of the environment as they are read, so that no
// process started later inherits them.
type Config struct {
	// Prefix of every key; it starts with nvapi- and ends with a hyphen. Keys with another prefix stop working.
	Prefix string `env:"SIROCCO_KEY_PREFIX" envDefault:"nvapi-nvcf-stg-"`
	// DomainKey is the key of the hash of every key: 136 bytes in base64. Without it one is made and shared through the database.
	DomainKey string `env:"SIROCCO_KEYS_DOMAIN_KEY,unset"`
	// EncryptionKey seals what the database keeps secret: 32 bytes in base64. Without it one is made; see [Secrets].
	EncryptionKey string `env:"SIROCCO_KEYS_ENCRYPTION_KEY,unset"`
	// DataDir keeps the key-encryption key when EncryptionKey is not given. When empty it is .sirocco, if that exists.
	DataDir string `env:"SIROCCO_DATA_DIR"`
	// Retention is how long a key's record outlives its expiry.
	Retention time.Duration `env:"SIROCCO_KEYS_RETENTION" envDefault:"48h"`
	// ReapInterval is how often records past their retention are purged.
	ReapInterval time.Duration `env:"SIROCCO_KEYS_REAP_INTERVAL" envDefault:"1m"`
}

// Sizes of the deployment secrets in bytes (keys §5.1, §5.2).
const (
	domainKeySize     = 136
	encryptionKeySize = 32
)

const maxRetention = 30 * 24 * time.Hour

var prefixShape = regexp.MustCompile(`^` + contract.Prefix + `([a-zA-Z0-9-]{0,48}-)?$`)

// check refuses what could never work, naming the variable and what would be accepted, never the value of a secret.
func (c Config) check() error {
	if !prefixShape.MatchString(c.Prefix) {
		return fmt.Errorf("SIROCCO_KEY_PREFIX: %q does not start with %q, end with a hyphen and have letters, digits and hyphens between", c.Prefix, contract.Prefix)
	}
	if _, err := decodeSecret("SIROCCO_KEYS_DOMAIN_KEY", c.DomainKey, domainKeySize); err != nil {
		return err
	}
	if _, err := decodeSecret("SIROCCO_KEYS_ENCRYPTION_KEY", c.EncryptionKey, encryptionKeySize); err != nil {
		return err
	}
	if c.Retention < 0 || c.Retention > maxRetention {
		return fmt.Errorf("SIROCCO_KEYS_RETENTION: %s is not between 0 and %s", c.Retention, maxRetention)
	}
	if c.ReapInterval <= 0 {
		return fmt.Errorf("SIROCCO_KEYS_REAP_INTERVAL: %s is not a positive duration", c.ReapInterval)
	}
	return nil
}

// decodeSecret reads a secret of a fixed size from base64, in either alphabet, padded or not; nil when there is none.
func decodeSecret(name, text string, size int) ([]byte, error) {
	text = strings.TrimRight(strings.TrimSpace(text), "=")
	if text == "" {
		return nil, nil
	}
	b, err := base64.RawStdEncoding.DecodeString(strings.NewReplacer("-", "+", "_", "/").Replace(text))
	if err != nil {
		return nil, fmt.Errorf("%s: want %d bytes in base64, got something that is not base64", name, size)
	}
	if len(b) != size {
		return nil, fmt.Errorf("%s: want %d bytes in base64, got %d bytes", name, size, len(b))
	}
	return b, nil
}
