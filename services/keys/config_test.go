package keys

import (
	"encoding/base64"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/libs/app"
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
		"SIROCCO_KEYS_REAP_INTERVAL: 0s is not a positive duration":                 func(c *Config) { c.ReapInterval = 0 },
	} {
		cfg := Config{Prefix: "nvapi-", Retention: day, ReapInterval: time.Minute}
		change(&cfg)
		err := cfg.check()
		if want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, want)
		}
	}
}

func TestConfigurationComesFromTheEnvironment(t *testing.T) {
	secret := base64.StdEncoding.EncodeToString(make([]byte, encryptionKeySize))
	t.Setenv("SIROCCO_KEYS_ENCRYPTION_KEY", secret)
	cfg, err := app.Load[Config]()
	require.NoError(t, err)
	require.NoError(t, cfg.check())
	require.Equal(t, "nvapi-nvcf-stg-", cfg.Prefix)
	require.Equal(t, 48*time.Hour, cfg.Retention)
	require.Equal(t, secret, cfg.EncryptionKey)
	again, err := app.Load[Config]()
	require.NoError(t, err)
	require.Empty(t, again.EncryptionKey, "the secret must not be left for child processes")
}
