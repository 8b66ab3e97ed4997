package directory

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/sirocco-cloud/sirocco/contracts/keys"
)

// Config is what an operator may choose about people and programs.
type Config struct {
	// Domain is the one under which the access API is published as console.<domain>; it is part of the issuer of tokens.
	Domain string `env:"SIROCCO_CONSOLE_DOMAIN" envDefault:"sirocco.local"`
	// AdminUser is the e-mail address of the first administrator, who is made at the first start. Without it there is none.
	AdminUser string `env:"SIROCCO_ADMIN_USER"`
	// AdminPassword is the first administrator's until that one changes it. It is taken out of the environment as it is
	// read, so that no process started later inherits it.
	AdminPassword string `env:"SIROCCO_ADMIN_PASSWORD,unset"`
	// AppDefaultRole is what an application gets when an administrator creates it: creator, that administrator's roles,
	// or none. Empty follows the trust mode: creator in compat, none in secured.
	AppDefaultRole string `env:"SIROCCO_APP_DEFAULT_ROLE"`
	// TrustMode is compat or secured (keys §3).
	TrustMode string `env:"SIROCCO_TRUST_MODE" envDefault:"compat"`
}

// The values of AppDefaultRole and TrustMode.
const (
	roleOfCreator = "creator"
	roleNone      = "none"
	compat        = "compat"
	secured       = "secured"
)

// factoryPassword is the one that the published installation guide prints, so everybody knows it.
const factoryPassword = "Abcd!234"

var domainShape = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)

// completed is c with what the environment gives when it says nothing.
func (c Config) completed() Config {
	if c.Domain == "" {
		c.Domain = keys.ConsoleDomain
	}
	if c.TrustMode == "" {
		c.TrustMode = compat
	}
	return c
}

// check refuses what could never work, naming the variable and what would be accepted, never the password.
func (c Config) check() error {
	if len(c.Domain) > maxDomain || !domainShape.MatchString(c.Domain) {
		return fmt.Errorf("SIROCCO_CONSOLE_DOMAIN: %q is not a domain name in lower case", c.Domain)
	}
	if c.TrustMode != compat && c.TrustMode != secured {
		return fmt.Errorf("SIROCCO_TRUST_MODE: want %s or %s, got %q", compat, secured, c.TrustMode)
	}
	if c.AppDefaultRole != "" && c.AppDefaultRole != roleOfCreator && c.AppDefaultRole != roleNone {
		return fmt.Errorf("SIROCCO_APP_DEFAULT_ROLE: want %s or %s, got %q", roleOfCreator, roleNone, c.AppDefaultRole)
	}
	switch {
	case c.AdminUser == "" && c.AdminPassword == "":
		return nil
	case c.AdminUser == "":
		return errors.New("SIROCCO_ADMIN_USER: must be set together with SIROCCO_ADMIN_PASSWORD")
	case c.AdminPassword == "":
		return errors.New("SIROCCO_ADMIN_PASSWORD: must be set together with SIROCCO_ADMIN_USER")
	case !isEmail(c.AdminUser):
		return errors.New("SIROCCO_ADMIN_USER: must be an e-mail address such as root@corp.example")
	case len(c.AdminPassword) > maxPassword:
		return fmt.Errorf("SIROCCO_ADMIN_PASSWORD: must have at most %d bytes", maxPassword)
	case c.TrustMode == secured && c.AdminPassword == factoryPassword:
		return errors.New("SIROCCO_ADMIN_PASSWORD: is the documented factory password, which secured mode refuses; choose another one")
	}
	return nil
}

// inheritsRoles reports whether a new application gets the roles of its creator.
func (c Config) inheritsRoles() bool {
	if c.AppDefaultRole == "" {
		return c.TrustMode == compat
	}
	return c.AppDefaultRole == roleOfCreator
}
