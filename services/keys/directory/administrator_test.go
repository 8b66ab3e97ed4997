package directory

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

var (
	randReader = rand.Reader
	nopLog     = zap.NewNop()
)

func newTestKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func newMetrics() *prometheus.Registry { return prometheus.NewRegistry() }

func passwordOf(name, password string) contract.GrantRequest {
	return contract.GrantRequest{GrantType: contract.PasswordGrant, Username: name, Password: password}
}

// restarted stops the directory and starts it with another environment.
func (s *site) restarted(t *testing.T, tune func(*Config)) {
	t.Helper()
	s.stop()
	tune(&s.cfg)
	s.start(t)
	testkit.Ready(t, s.svc)
}

func TestFirstAdministrator(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	before := s.login(t, root, rootPassword)
	s.restarted(t, func(*Config) {})
	s.login(t, root, rootPassword)
	require.Len(t, call(t, s.root(t), contract.ListUsers, contract.ListUsersRequest{}), 1, "a second start makes no second one")

	s.restarted(t, func(c *Config) { c.AdminPassword = "another one" })
	refused(t, s.anonymous(), 400, contract.Grant, passwordOf(root, rootPassword))
	admin := s.as(t, s.login(t, root, "another one").AccessToken)
	require.True(t, s.withdrawn(t, before.AccessToken))

	call(t, admin, contract.ChangePassword, contract.ChangePasswordRequest{CurrentPassword: "another one", NewPassword: "chosen by me"})
	s.restarted(t, func(c *Config) { c.AdminPassword = "yet another" })
	refused(t, s.anonymous(), 400, contract.Grant, passwordOf(root, "yet another"))
	s.login(t, root, "chosen by me")
	require.Contains(t, s.logs.String(), "SIROCCO_ADMIN_PASSWORD is not used")
}

func TestFactoryPassword(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *Config) { c.AdminPassword = factoryPassword })
	require.Contains(t, s.logs.String(), "documented factory password")
	s.login(t, root, factoryPassword)
	s.stop()

	s.cfg.TrustMode = secured
	_, err := s.make(s.svc, newMetrics())
	require.ErrorContains(t, err, "SIROCCO_ADMIN_PASSWORD: is the documented factory password")
	require.NotContains(t, err.Error(), factoryPassword)

	s.cfg.AdminUser, s.cfg.AdminPassword = "", ""
	d, err := s.make(s.svc, newMetrics())
	require.NoError(t, err)
	require.ErrorContains(t, d.Prepare(t.Context()), "has the documented factory password", "the stored one counts too")
	s.restarted(t, func(c *Config) { c.AdminUser, c.AdminPassword = root, rootPassword })
	s.login(t, root, rootPassword)
}

func TestWithoutFirstAdministrator(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *Config) { c.AdminUser, c.AdminPassword = "", "" })
	require.Contains(t, s.logs.String(), "no first administrator")
	refused(t, s.anonymous(), 400, contract.Grant, passwordOf(root, rootPassword))
}

func TestConfig(t *testing.T) {
	t.Parallel()
	good := Config{Domain: "corp.example", TrustMode: compat, AdminUser: root, AdminPassword: "x"}
	require.NoError(t, good.check())
	require.NoError(t, Config{}.completed().check())
	for want, spoil := range map[string]func(*Config){
		"SIROCCO_CONSOLE_DOMAIN":                       func(c *Config) { c.Domain = "Corp_example?" },
		"SIROCCO_TRUST_MODE":                           func(c *Config) { c.TrustMode = "open" },
		"SIROCCO_APP_DEFAULT_ROLE":                     func(c *Config) { c.AppDefaultRole = "all" },
		"SIROCCO_ADMIN_USER: must be set together":     func(c *Config) { c.AdminUser = "" },
		"SIROCCO_ADMIN_PASSWORD: must be set together": func(c *Config) { c.AdminPassword = "" },
		"SIROCCO_ADMIN_USER: must be an e-mail":        func(c *Config) { c.AdminUser = "root" },
	} {
		c := good
		spoil(&c)
		require.ErrorContains(t, c.check(), want)
	}
	require.True(t, good.inheritsRoles())
	require.False(t, Config{TrustMode: secured}.inheritsRoles())
	require.True(t, Config{TrustMode: secured, AppDefaultRole: roleOfCreator}.inheritsRoles())
	require.False(t, Config{TrustMode: compat, AppDefaultRole: roleNone}.inheritsRoles())
}
