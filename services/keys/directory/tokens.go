package directory

import (
	"context"
	"crypto/sha256"
	"errors"
	"regexp"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

const (
	// jtiLetters make 127 bits and hold no underscore, which some clients do not expect in an id.
	jtiLetters = 22
	// refreshSize is that of a refresh token in bytes.
	refreshSize = 32
	// refreshIdle is how long a refresh token may lie unused.
	refreshIdle = 30 * 24 * time.Hour
	// anonymousClient is the azp of a sign-in that named no client.
	anonymousClient = "console"
	// maxScopes bounds the scopes that one request asks for.
	maxScopes = 256
)

// grantRule is what a grant asks for: the members that it needs, and who signs in by it. One that this install does not
// have says why.
type grantRule struct {
	needs  []string
	who    kind
	lacked string
}

var grants = map[string]grantRule{
	contract.PasswordGrant:      {needs: []string{"username", "password"}, who: person},
	contract.ClientGrant:        {needs: []string{"clientID", "clientSecret"}, who: program},
	contract.AppTokenGrant:      {needs: []string{"appID", "appSecret"}, who: program},
	contract.RefreshGrant:       {needs: []string{"refreshToken"}},
	contract.ExchangeGrant:      {lacked: "needs a login with an identity provider, and none is configured"},
	contract.ExternalTokenGrant: {lacked: "needs an external token issuer, and none is configured"},
}

// clientShape keeps a client id fit for a claim: printable ASCII in which the payload's base64 has neither '-' nor '_'.
var clientShape = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@/ -]{0,254}$`)

// claims of an access token (keys §9.6). Every value is printable ASCII without '>', '?' and '~': then the payload has
// neither '-' nor '_', and clients that decode it with the standard base64 alphabet can.
type claims struct {
	jwt.RegisteredClaims

	AuthorizedParty string         `json:"azp"`
	Username        string         `json:"preferred_username"`
	Account         string         `json:"ncaId"`
	Scopes          []access.Scope `json:"scopes"`
}

// identity is what an ID token says. It names no audience of the platform, so it opens nothing.
type identity struct {
	jwt.RegisteredClaims

	AuthorizedParty string `json:"azp"`
	Username        string `json:"preferred_username"`
	Email           string `json:"email,omitempty"`
}

// Grant gives tokens for a proof of identity (keys §9.1).
func (d *Directory) Grant(ctx context.Context, req contract.GrantRequest) (contract.GrantResponse, error) {
	answer, err := d.grant(ctx, req)
	label := req.GrantType
	if _, known := grants[label]; !known {
		label = "unknown"
	}
	result := "ok"
	if err != nil {
		result = "error"
		if p, expected := problem.From(err); expected && p.Status() < 500 {
			result = "refused"
			if p.RetryAfterSeconds > 0 {
				result = "throttled"
			}
		}
	}
	d.grants.WithLabelValues(label, result).Inc()
	return answer, err
}

func (d *Directory) grant(ctx context.Context, req contract.GrantRequest) (contract.GrantResponse, error) {
	g, err := checkGrant(req)
	if err != nil {
		return contract.GrantResponse{}, err
	}
	a := attempt{grant: req.GrantType, kind: g.who, client: req.ClientID, scopes: req.Scopes}
	switch req.GrantType {
	case contract.RefreshGrant:
		return d.refresh(ctx, a, req)
	case contract.PasswordGrant:
		a.name, a.secret = req.Username, req.Password
	default:
		a.name, a.secret = req.ClientID, req.ClientSecret
	}
	return d.signIn(ctx, a)
}

// checkGrant names the first member that is wrong.
func checkGrant(req contract.GrantRequest) (grantRule, error) {
	g, known := grants[req.GrantType]
	if !known {
		return g, invalid("grantType", "must be one of password, client_credentials, refresh_token, app_token")
	}
	if g.lacked != "" {
		return g, invalid("grantType", "%s", g.lacked)
	}
	check := problem.NewCheck("request")
	given := map[string]string{
		"username": req.Username, "password": req.Password, "clientID": req.ClientID, "clientSecret": req.ClientSecret,
		"appID": req.ClientID, "appSecret": req.ClientSecret, "refreshToken": req.RefreshToken,
	}
	for _, name := range g.needs {
		check.Require(given[name] != "", name, "must be present")
	}
	check.Require(writable(req.Username, maxEmail), "username", "must have at most %d characters and none for control", maxEmail)
	check.Require(len(req.Password) <= maxPassword, "password", "must have at most %d bytes", maxPassword)
	check.Require(req.ClientID == "" || clientShape.MatchString(req.ClientID), "clientID", "must have at most 255 letters, digits, spaces and . _ @ / -")
	check.Require(len(req.ClientSecret) <= maxPassword, "clientSecret", "must have at most %d bytes", maxPassword)
	check.Require(len(req.RefreshToken) <= maxPassword, "refreshToken", "must have at most %d bytes", maxPassword)
	check.Require(len(req.Scopes) <= maxScopes, "scope", "must name at most %d scopes", maxScopes)
	return g, check.Err()
}

// attempt is one try to sign in.
type attempt struct {
	grant  string
	kind   kind
	name   string
	secret string
	client string
	scopes []string
}

// signIn proves a name with a secret and opens a session.
func (d *Directory) signIn(ctx context.Context, a attempt) (contract.GrantResponse, error) {
	who, mark, err := d.identify(ctx, a)
	if err != nil {
		return contract.GrantResponse{}, err
	}
	if a.kind == program {
		a.client = who.name
	}
	return d.issue(ctx, session{subject: *who, grant: a.grant, client: a.client, scopes: a.scopes, chain: uuid.NewString(), mark: mark})
}

// identify finds whose name and secret these are. Every refusal costs the same work, and is answered with the same text.
// Whether the name is blocked is asked with the turn in hand, so that no more than a few guesses overtake a block.
func (d *Directory) identify(ctx context.Context, a attempt) (who *subject, m mark, err error) {
	done, err := d.hasher.turn(ctx)
	if err != nil {
		return nil, m, err
	}
	defer done()
	if who, err = d.store.named(ctx, a.kind, a.name); err != nil {
		return nil, m, err
	}
	m = markOf(a.kind, a.name, who)
	now := d.now()
	if err := d.admit(ctx, m, now); err != nil {
		return nil, m, err
	}
	return who, m, d.prove(ctx, a, who, m, now)
}

// prove compares the secret of an attempt and remembers a failure. who is nil when the name is nobody's.
func (d *Directory) prove(ctx context.Context, a attempt, who *subject, mark mark, now time.Time) error {
	stored := nobodys
	if who != nil {
		stored = who.hash
	}
	switch right := d.hasher.matches(a.secret, stored); {
	case !right:
		if err := d.store.fail(ctx, mark, a.grant, now); err != nil {
			return err
		}
		return wrongCredentials(a.kind)
	case !who.enabled:
		return wrongCredentials(a.kind)
	}
	return nil
}

// wrongCredentials says nothing about what is wrong. Clients and people are told apart only by the form that asks for it.
func wrongCredentials(k kind) error {
	if k == program {
		return problem.New(problem.Unauthorized, "wrong credentials")
	}
	return problem.New(problem.BadRequest, "wrong credentials")
}

// refresh turns a refresh token into new tokens and kills it. One that was used before is in two hands: then nobody of
// its chain keeps anything.
func (d *Directory) refresh(ctx context.Context, a attempt, req contract.GrantRequest) (contract.GrantResponse, error) {
	now := d.now()
	digest := sha256.Sum256([]byte(req.RefreshToken))
	old, err := d.store.refreshToken(ctx, digest[:])
	if err != nil {
		return contract.GrantResponse{}, err
	}
	refused := problem.New(problem.BadRequest, "the refresh token is not valid")
	if old == nil || !now.Before(old.expiresAt) {
		return contract.GrantResponse{}, refused
	}
	if old.usedAt != nil {
		return contract.GrantResponse{}, d.replayed(ctx, *old, now, refused)
	}
	if old.client != "" && old.client != req.ClientID {
		return contract.GrantResponse{}, refused
	}
	who, err := d.subject(ctx, old.subject)
	if err != nil {
		return contract.GrantResponse{}, err
	}
	if who == nil || !who.enabled {
		return contract.GrantResponse{}, refused
	}
	if req.ClientSecret != "" && who.kind == program {
		done, err := d.hasher.turn(ctx)
		if err != nil {
			return contract.GrantResponse{}, err
		}
		defer done()
		mark := markOf(program, who.name, who)
		if err := d.admit(ctx, mark, now); err != nil {
			return contract.GrantResponse{}, err
		}
		proof := attempt{grant: a.grant, kind: program, secret: req.ClientSecret}
		if err := d.prove(ctx, proof, who, mark, now); err != nil {
			return contract.GrantResponse{}, err
		}
	}
	scopes := old.scopes
	if req.Scopes != nil && scopes != nil {
		scopes = common(scopes, req.Scopes)
	} else if req.Scopes != nil {
		scopes = req.Scopes
	}
	answer, err := d.issue(ctx, session{subject: *who, grant: a.grant, client: old.client, scopes: scopes, chain: old.chain, replaces: digest[:]})
	if errors.Is(err, errReplayed) { // another request was faster with the same token
		return contract.GrantResponse{}, d.replayed(ctx, *old, now, refused)
	}
	return answer, err
}

func (d *Directory) replayed(ctx context.Context, old refreshToken, now time.Time, refused error) error {
	if err := d.store.breakChain(ctx, old, now); err != nil {
		return err
	}
	d.log.Warn("a used refresh token came back; its chain is revoked")
	return refused
}

// session is a proven sign-in that gets its tokens.
type session struct {
	subject  subject
	grant    string
	client   string
	scopes   []string
	chain    string
	replaces []byte
	mark     mark
}

// issue makes and signs the tokens of a session in the transaction that writes it down, because only there it is certain
// that the subject is still what it was when its secret was compared.
func (d *Directory) issue(ctx context.Context, s session) (contract.GrantResponse, error) {
	secret, err := d.draw(refreshSize)
	if err != nil {
		return contract.GrantResponse{}, err
	}
	jti, err := d.letters(jtiLetters, passwordLetters)
	if err != nil {
		return contract.GrantResponse{}, err
	}
	digest := sha256.Sum256([]byte(secret))
	now := d.now()
	var answer contract.GrantResponse
	err = d.store.open(ctx, s, refreshToken{
		digest: digest[:], chain: s.chain, subject: s.subject.id, client: s.client, jti: jti, scopes: s.scopes, issuedAt: now, expiresAt: now.Add(refreshIdle),
	}, func(who subject) ([]access.Scope, error) {
		scopes := scopesOf(who.roles)
		if s.scopes != nil {
			scopes = common(scopes, s.scopes)
		}
		issued := now.Truncate(time.Second)
		if issued.Before(who.tokensAfter) {
			issued = who.tokensAfter.UTC()
		}
		tokens, err := d.sign(who, s.client, jti, issued, scopes)
		tokens.RefreshToken = secret
		answer = contract.GrantResponse{Tokens: tokens, Scopes: scopes}
		return scopes, err
	})
	switch {
	case errors.Is(err, errGone) && s.replaces != nil:
		return contract.GrantResponse{}, problem.New(problem.BadRequest, "the refresh token is not valid")
	case errors.Is(err, errGone):
		return contract.GrantResponse{}, wrongCredentials(s.subject.kind)
	case err != nil:
		return contract.GrantResponse{}, err
	}
	return answer, nil
}

func (d *Directory) sign(who subject, client, jti string, issued time.Time, scopes []access.Scope) (contract.Tokens, error) {
	if client == "" {
		client = anonymousClient
	}
	registered := jwt.RegisteredClaims{
		Issuer: keys.ConsoleIssuer(d.cfg.Domain), Subject: who.id, Audience: jwt.ClaimStrings{client, keys.TokenAudience}, ID: jti,
		IssuedAt: jwt.NewNumericDate(issued), ExpiresAt: jwt.NewNumericDate(issued.Add(keys.ConsoleTokenLife)),
	}
	accessToken, _, err := d.signer.Sign(claims{
		RegisteredClaims: registered, AuthorizedParty: client, Username: who.name, Account: who.account, Scopes: scopes,
	})
	if err != nil {
		return contract.Tokens{}, err
	}
	registered.Audience, registered.ID = jwt.ClaimStrings{client}, ""
	idToken, _, err := d.signer.Sign(identity{RegisteredClaims: registered, AuthorizedParty: client, Username: who.name, Email: who.email})
	if err != nil {
		return contract.Tokens{}, err
	}
	return contract.Tokens{AccessToken: accessToken, IDToken: idToken, ExpiresIn: int(keys.ConsoleTokenLife / time.Second)}, nil
}

// common keeps the elements of a that are in b too.
func common(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return !slices.Contains(b, s) })
}
