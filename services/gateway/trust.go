package gateway

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// TrustMode says how far the network in front of the keys host is believed (keys §3).
type TrustMode string

// The trust modes. In compat the published recipes work as they are: whoever is in one of the administrators' networks
// may mint tokens and manage keys. In secured every call needs a credential.
const (
	Compat  TrustMode = "compat"
	Secured TrustMode = "secured"
)

// entrance is who may use a route of the keys host without a credential that its row lets through.
type entrance struct {
	// open lets everybody in; a good credential only names the actor.
	open bool
	// networks let in who comes from them, whatever the credential; bare ones only who brings none.
	networks, bare []netip.Prefix
	// owned routes are about the keys of one owner, and a token may speak for some only.
	owned bool
}

// entranceOf applies the table of keys §3 to one route. The row it returns is the one that credentials must pass.
func (g *Gateway) entranceOf(line route) (*access.Row, entrance) {
	compat := g.mode == Compat
	keysPath := line.path == "/v1/keys" || strings.HasPrefix(line.path, "/v1/keys/")
	switch {
	case line.row != nil && line.trusted():
		if compat {
			return line.row, entrance{networks: g.admins}
		}
		return line.row, entrance{}
	case keysPath && compat:
		return nil, entrance{open: true}
	case keysPath:
		e := entrance{owned: true}
		if line.method == http.MethodDelete {
			e.bare = g.bareDelete
		}
		return &access.ManageKey, e
	case line.path == "/v1/introspect" && !compat:
		return &access.SignedIn, entrance{}
	}
	return line.row, entrance{open: line.row == nil}
}

// trusted reports whether the administrators' networks stand for a credential in compat mode.
func (line *route) trusted() bool {
	switch line.row.Name {
	case access.AdminKeys.Name, access.ExplainKey.Name, access.Evaluate.Name:
		return true
	case access.ReadAudit.Name:
		return strings.HasPrefix(line.path, "/v1/admin/")
	}
	return false
}

// ofOwner refuses a token that names another owner than its own in secured mode (keys §11.24). The header narrows what
// the token may do, it never widens it: the keys of others are for who sets up accounts, and for the administrator token
// of the install. What is no owner at all is refused by the keys service.
func ofOwner(r *http.Request, e *entry) *problem.Problem {
	c := &e.credential
	owner := strings.TrimSpace(r.Header.Get(keys.HeaderOwner))
	if owner == "" || owner == c.Subject || owner == c.Username || actsForOthers(c) {
		return nil
	}
	own := c.Subject
	if c.Username != "" {
		own = c.Username + " or " + own
	}
	p := problem.New(problem.ResourceNotCovered, "this token may act for the owner %s only; name that one in %s, or use a token with %s", own, keys.HeaderOwner, access.AccountSetup)
	p.RequiredScopes = []access.Scope{access.AccountSetup}
	return p
}

func actsForOthers(c *access.Credential) bool {
	return c.Subject == keys.TokenSubject || slices.Contains(c.Scopes, access.AccountSetup)
}

// lets reports whether the request may pass without a credential of its own.
func (e entrance) lets(r *http.Request) bool {
	if from(r, e.networks) {
		return true
	}
	_, missing := bearer(r.Header)
	return missing != nil && from(r, e.bare)
}

// mayMint guards POST /v1/admin/keys: by network in compat, by the bootstrap secret in secured mode.
func (g *Gateway) mayMint(r *http.Request) *problem.Problem {
	if g.mode == Compat {
		if !g.fromAdminNetwork(r) {
			return problem.New(problem.Forbidden, "administrator tokens are minted for the networks of SIROCCO_ADMIN_NETWORKS only")
		}
		return nil
	}
	sent, p := bearer(r.Header)
	if p != nil {
		return p
	}
	if g.cfg.BootstrapSecret == "" {
		return problem.New(problem.Unauthorized, "no administrator token is minted: this install is secured and has no SIROCCO_BOOTSTRAP_SECRET")
	}
	// Digests have one length, so that the comparison tells nothing about that of the secret.
	got, want := sha256.Sum256([]byte(sent)), sha256.Sum256([]byte(g.cfg.BootstrapSecret))
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		return problem.New(problem.Unauthorized, "the bearer is not the bootstrap secret of this install")
	}
	return nil
}

func (g *Gateway) fromAdminNetwork(r *http.Request) bool { return from(r, g.admins) }

func from(r *http.Request, networks []netip.Prefix) bool {
	if len(networks) == 0 {
		return false
	}
	addr, err := netip.ParseAddr(remoteHost(r))
	if err != nil {
		return false
	}
	addr = addr.Unmap()
	for _, network := range networks {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}
