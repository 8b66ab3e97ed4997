package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/quartz"
	"github.com/golang-jwt/jwt/v5"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// maxToken is the longest JWT taken, in bytes.
const maxToken = 4 << 10

// tokenVerifier checks tokens by the rules of keys §6.3.
type tokenVerifier struct {
	conn  *bus.Conn
	clock quartz.Clock
	// console is the issuer of the access API's tokens.
	console string
	parser  *jwt.Parser
	revoked *revocations

	// asking lets one request at a time read the key set.
	asking sync.Mutex
	mu     sync.RWMutex
	public map[string]*ecdsa.PublicKey
	readAt time.Time
	// triedAt and failure are of the last question, answered or not; toldAt is when an event brought a set.
	triedAt, toldAt time.Time
	failure         error
	clients         map[string]tenancy
}

// tenancy is the account of a token's subject.
type tenancy struct {
	account string
	at      time.Time
}

// How long the key set and the clients are trusted: until they are read again, and at most when the keys service is
// away (keys §8.6). refetchEvery bounds how often an unknown key id makes us ask.
const (
	refetchEvery = time.Second
	jwksLife     = 5 * time.Minute
	clientLife   = time.Minute
	awayLife     = 24 * time.Hour
	maxClients   = 10_000
)

func newTokenVerifier(conn *bus.Conn, clock quartz.Clock, console string) *tokenVerifier {
	return &tokenVerifier{
		conn: conn, clock: clock, console: console, revoked: newRevocations(), clients: map[string]tenancy{},
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{"ES256"}), jwt.WithLeeway(keys.TokenLeeway), jwt.WithExpirationRequired(), jwt.WithStrictDecoding(),
			jwt.WithTimeFunc(func() time.Time { return clock.Now() }),
		),
	}
}

type claims struct {
	jwt.RegisteredClaims
	Scopes   []string `json:"scopes"`
	Account  string   `json:"ncaId"`
	Username string   `json:"preferred_username"`
}

func (v *tokenVerifier) verify(ctx context.Context, token string, now time.Time) (access.Credential, error) {
	if len(token) > maxToken {
		return access.Credential{}, deny(access.ReasonMalformed, problem.New(problem.Unauthorized, "the token is longer than %d bytes", maxToken))
	}
	var c claims
	kid := ""
	_, err := v.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		kid, _ = t.Header["kid"].(string)
		return v.key(ctx, kid, now)
	})
	switch {
	case err != nil:
		if _, ok := problem.From(err); ok {
			return access.Credential{}, deny(access.ReasonBackend, asProblem(err)) // the key set could not be read
		}
		reason, why := spoiled(err)
		return access.Credential{}, deny(reason, problem.New(problem.Unauthorized, "the token is not valid: %s", why))
	case c.Issuer != keys.TokenIssuer && c.Issuer != v.console:
		return access.Credential{}, deny(access.ReasonJWTIssuer, problem.New(problem.Unauthorized, "the token is not valid: wrong issuer"))
	case !slices.Contains(c.Audience, keys.TokenAudience) && (c.Issuer != v.console || len(c.Audience) > 0):
		return access.Credential{}, deny(access.ReasonJWTAudience, problem.New(problem.Unauthorized, "the token is not valid: wrong audience"))
	}
	credential := access.Credential{
		Kind: access.JWT, ID: c.ID, Subject: c.Subject, Scopes: c.Scopes, Audiences: c.Audience,
		ExpiresAt: c.ExpiresAt.Add(keys.TokenLeeway), SigningKey: kid, Console: c.Issuer == v.console,
	}
	if c.IssuedAt != nil {
		credential.IssuedAt = c.IssuedAt.Time
	}
	if why := v.revoked.covers(&credential); why != nil {
		return access.Credential{}, why
	}
	if c.Issuer == keys.TokenIssuer {
		credential.Account, err = v.account(ctx, c.Subject, now)
		return credential, err
	}
	if credential.Account = c.Account; c.Account == "" {
		credential.Account = access.DefaultAccount
	}
	if strings.Contains(c.Username, "@") { // a program is called by its client id, which its maker chooses
		credential.Username = c.Username
	}
	return credential, nil
}

// account is that of a client; an unknown client is not_found.
func (v *tokenVerifier) account(ctx context.Context, subject string, now time.Time) (string, error) {
	v.mu.RLock()
	known, ok := v.clients[subject]
	v.mu.RUnlock()
	if ok && now.Sub(known.at) < clientLife {
		return known.account, nil
	}
	answer, err := bus.Call(ctx, v.conn, keys.Client, keys.ClientRequest{ClientID: subject})
	if err != nil {
		if ok && isAway(err) && now.Sub(known.at) < awayLife {
			return known.account, nil
		}
		return "", err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.clients) >= maxClients {
		clear(v.clients)
	}
	v.clients[subject] = tenancy{answer.Account, now}
	return answer.Account, nil
}

func (v *tokenVerifier) forgetClients() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.clients)
}

// spoiled says what is wrong with a token without repeating anything of it.
func spoiled(err error) (access.Reason, string) {
	for _, known := range []struct {
		err    error
		reason access.Reason
		text   string
	}{
		{jwt.ErrTokenExpired, access.ReasonJWTExpired, "it has expired; mint a new one with POST /v1/admin/keys"},
		{jwt.ErrTokenNotValidYet, access.ReasonJWTExpired, "it is not valid yet"},
		{jwt.ErrTokenSignatureInvalid, access.ReasonJWTSignature, "wrong signature or algorithm"},
		{jwt.ErrTokenMalformed, access.ReasonMalformed, "it is malformed"},
		{errUnknownKey, access.ReasonJWTSignature, "its key is unknown"},
	} {
		if errors.Is(err, known.err) {
			return known.reason, known.text
		}
	}
	return access.ReasonMalformed, "its claims are incomplete"
}

var errUnknownKey = errors.New("unknown key id")

// known is a signing key of the set, and how old the set is.
func (v *tokenVerifier) known(kid string, now time.Time) (*ecdsa.PublicKey, time.Duration) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.public[kid], now.Sub(v.readAt)
}

// key finds a signing key. An unknown one makes us read the set again, seldom; a set that is due is read by one request,
// while the others go on with it.
func (v *tokenVerifier) key(ctx context.Context, kid string, now time.Time) (*ecdsa.PublicKey, error) {
	k, age := v.known(kid, now)
	if k != nil && age < jwksLife {
		return k, nil
	}
	if k != nil && age < awayLife && !v.asking.TryLock() {
		return k, nil
	} else if k == nil || age >= awayLife {
		v.asking.Lock()
	}
	defer v.asking.Unlock()
	v.mu.RLock()
	due := now.Sub(v.triedAt) >= refetchEvery
	v.mu.RUnlock()
	if due {
		v.fetch(ctx, now)
	}
	if k, age = v.known(kid, now); k != nil && age < awayLife {
		return k, nil
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.failure != nil {
		return nil, v.failure
	}
	return nil, errUnknownKey
}

// fetch reads the key set; the client that asked first may leave, the others still want it.
func (v *tokenVerifier) fetch(ctx context.Context, now time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshWithin)
	defer cancel()
	set, err := bus.Call(ctx, v.conn, keys.PublicKeys, rpc.None{})
	v.mu.Lock()
	defer v.mu.Unlock()
	v.triedAt, v.failure = now, err
	if err == nil && v.toldAt.Before(now) { // else an event brought a newer one meanwhile
		v.public, v.readAt = publicKeys(set), now
	}
}

// replace takes the key set of an event: keys that are not in it verify nothing from now on.
func (v *tokenVerifier) replace(set keys.JWKS, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.toldAt = now; len(set.Keys) == 0 { // not a set, so the next token makes us ask
		v.readAt, v.triedAt = time.Time{}, time.Time{}
		return
	}
	v.public, v.readAt = publicKeys(set), now
}

func publicKeys(set keys.JWKS) map[string]*ecdsa.PublicKey {
	all := make(map[string]*ecdsa.PublicKey, len(set.Keys))
	for _, k := range set.Keys {
		if pub, err := publicKey(k); err == nil {
			all[k.ID] = pub
		}
	}
	return all
}

// coordinate is the size of one of a P-256 key, in bytes.
const coordinate = 32

func publicKey(k keys.JWK) (*ecdsa.PublicKey, error) {
	x, xerr := base64.RawURLEncoding.DecodeString(k.X)
	y, yerr := base64.RawURLEncoding.DecodeString(k.Y)
	if err := errors.Join(xerr, yerr); err != nil {
		return nil, err
	}
	if len(x) != coordinate || len(y) != coordinate {
		return nil, errors.New("not a P-256 key")
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y)) // refuses a point that is not on the curve
}
