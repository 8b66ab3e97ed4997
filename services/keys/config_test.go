package keys

import (
	"encoding/base64"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/seal"
)

func TestConfigurationThatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	b64 := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for want, change := range map[string]func(*Config){
		"": func(c *Config) {
			c.DomainKey, c.EncryptionKey = b64(136), base64.RawURLEncoding.EncodeToString(make([]byte, 32))
		},
		"SIROCCO_KEYS_DOMAIN_KEY: want 136 bytes in base64, got 135 bytes":          func(c *Config) { c.DomainKey = b64(135) },
		"SIROCCO_KEYS_DOMAIN_KEY: want 136 bytes in base64, got something":          func(c *Config) { c.DomainKey = "!!" },
		"SIROCCO_KEYS_ENCRYPTION_KEY: want 32 bytes in base64, got 16 bytes":        func(c *Config) { c.EncryptionKey = b64(16) },
		`SIROCCO_KEY_PREFIX: "sk-" does not start with "nvapi-"`:                    func(c *Config) { c.Prefix = "sk-" },
		`SIROCCO_KEY_PREFIX: "nvapi-x" does not start with "nvapi-", end with`:      func(c *Config) { c.Prefix = "nvapi-x" },
		`SIROCCO_KEY_PREFIX: "nvapi-a b-" does not start with "nvapi-", end with a`: func(c *Config) { c.Prefix = "nvapi-a b-" },
		"SIROCCO_KEYS_RETENTION: 744h0m0s is not between 0 and 720h0m0s":            func(c *Config) { c.Retention = 31 * day },
		"SIROCCO_KEYS_ENCRYPTION_KEY_PREVIOUS: want 32 bytes":                       func(c *Config) { c.PreviousEncryptionKey = b64(16) },
		"SIROCCO_SIGNING_KEY_LIFE: 1m0s is less than 20m0s":                         func(c *Config) { c.SigningKeyLife = time.Minute },
		"SIROCCO_ADMIN_TOKEN_LIFE: 1m0s is not between 15m0s and 12h0m0s":           func(c *Config) { c.AdminTokenLife = time.Minute },
		"SIROCCO_ADMIN_TOKEN_LIFE: 24h0m0s is not between":                          func(c *Config) { c.AdminTokenLife = day },
		"SIROCCO_ADMIN_TOKEN_RATE: 0 is less than 1":                                func(c *Config) { c.AdminTokenRate = 0 },
		"SIROCCO_KEYS_DOMAIN_KEY_PREVIOUS: want 136 bytes in base64, got 32":        func(c *Config) { c.DomainKey, c.PreviousDomainKey = b64(136), b64(32) },
		"SIROCCO_KEYS_DOMAIN_KEY_PREVIOUS: is of use only":                          func(c *Config) { c.PreviousDomainKey = b64(136) },
		`SIROCCO_TRUST_MODE: "open" is neither compat nor secured`:                  func(c *Config) { c.TrustMode = "open" },
		`SIROCCO_ADMIN_EXTRA_SCOPES: "who?" is not a scope`:                         func(c *Config) { c.AdminExtraScopes = []string{"account_setup", "who?"} },
		"SIROCCO_ADMIN_EXTRA_SCOPES: 600 characters of scopes":                      func(c *Config) { c.AdminExtraScopes = []string{strings.Repeat("a", 600)} },
		`SIROCCO_KEYS_POLICY_VALIDATION: "loose" is neither lenient nor strict`:     func(c *Config) { c.PolicyValidation = "loose" },
		"SIROCCO_KEYS_AUDIT_RETENTION: 0s is not a positive duration":               func(c *Config) { c.AuditRetention = 0 },
		"SIROCCO_ACCOUNT_MAX_FUNCTIONS: 0 is not between 1 and 2147483647":          func(c *Config) { c.MaxFunctions = 0 },
		"SIROCCO_ACCOUNT_MAX_TASKS: 2147483648 is not between":                      func(c *Config) { c.MaxTasks = math.MaxInt32 + 1 },
		"SIROCCO_KEYS_REAP_INTERVAL: 0s is not a positive duration":                 func(c *Config) { c.ReapInterval = 0 },
	} {
		cfg := config(t)
		change(&cfg)
		_, err := newVault(cfg, nil, nil)
		if want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, want)
		}
	}
}

func TestConfigurationComesFromTheEnvironment(t *testing.T) {
	secret := base64.StdEncoding.EncodeToString(make([]byte, seal.KeySize))
	t.Setenv("SIROCCO_KEYS_ENCRYPTION_KEY", secret)
	t.Setenv("SIROCCO_ADMIN_EXTRA_SCOPES", "account_setup,authorize_clients")
	cfg, err := app.Load[Config]()
	require.NoError(t, err)
	require.NoError(t, cfg.check())
	require.Equal(t, []string{"account_setup", "authorize_clients"}, cfg.AdminExtraScopes)
	require.Equal(t, "nvapi-nvcf-stg-", cfg.Prefix)
	require.Equal(t, 48*time.Hour, cfg.Retention)
	require.Equal(t, secret, cfg.EncryptionKey)
	again, err := app.Load[Config]()
	require.NoError(t, err)
	require.Empty(t, again.EncryptionKey, "the secret must not be left for child processes")
}
