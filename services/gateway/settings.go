package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// networks reads a setting that lists some.
func networks(setting string, list []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, n := range list {
		p, err := netip.ParsePrefix(n)
		if err != nil {
			return nil, fmt.Errorf("%s: %q is not a network such as 10.0.0.0/8", setting, n)
		}
		all = append(all, p)
	}
	return all, nil
}

// organisations reads SIROCCO_ORGS.
func organisations(list []string) (map[string]string, error) {
	orgs := make(map[string]string, len(list))
	for _, pair := range list {
		org, account, ok := strings.Cut(pair, "=")
		if !ok || org == "" || account == "" {
			return nil, fmt.Errorf("SIROCCO_ORGS: %q is not of the form org=account", pair)
		}
		orgs[org] = account
	}
	return orgs, nil
}

// settings are what the environment names, read once.
type settings struct {
	mode TrustMode
	// admins and bareDelete are networks, orgs the account of each organisation.
	admins, bareDelete []netip.Prefix
	orgs               map[string]string
}

func (c Config) settings() (s settings, err error) {
	switch s.mode = c.TrustMode; s.mode {
	case "":
		s.mode = Compat
	case Compat, Secured:
	default:
		return s, fmt.Errorf("SIROCCO_TRUST_MODE: %q is neither %s nor %s", c.TrustMode, Compat, Secured)
	}
	if strings.ContainsFunc(c.BootstrapSecret, unsendable) {
		return s, errors.New("SIROCCO_BOOTSTRAP_SECRET: must be printable ASCII without spaces and commas, because it is sent as a bearer")
	}
	if s.admins, err = networks("SIROCCO_ADMIN_NETWORKS", c.AdminNetworks); err != nil {
		return s, err
	}
	if s.bareDelete, err = networks("SIROCCO_KEYS_ALLOW_BARE_DELETE", c.BareDelete); err != nil {
		return s, err
	}
	s.orgs, err = organisations(c.Organisations)
	return s, err
}

// unsendable are the characters that no bearer has.
func unsendable(r rune) bool { return r <= ' ' || r > '~' || r == ',' }
