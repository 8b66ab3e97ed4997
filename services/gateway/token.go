package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// maxToken is the longest JWT taken, in bytes.
const maxToken = 4 << 10

// tokenVerifier checks platform tokens by the rules of keys §6.3.
type tokenVerifier struct {
	conn   *bus.Conn
	parser *jwt.Parser

	mu     sync.Mutex
	public map[string]*ecdsa.PublicKey
	readAt time.Time
	// triedAt and failure are of the last question, answered or not.
	triedAt time.Time
	failure error
}

// refetchEvery bounds how often an unknown key id makes us ask for the key set again, and jwksLife how long a known
// one is trusted without asking.
const (
	refetchEvery = time.Second
	jwksLife     = 5 * time.Minute
)

func newTokenVerifier(conn *bus.Conn) *tokenVerifier {
	return &tokenVerifier{conn: conn, parser: jwt.NewParser(
		jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(keys.TokenIssuer), jwt.WithAudience(keys.TokenAudience),
		jwt.WithLeeway(keys.TokenLeeway), jwt.WithExpirationRequired(),
	)}
}

type claims struct {
	jwt.RegisteredClaims
	Scopes []string `json:"scopes"`
}

func (v *tokenVerifier) verify(ctx context.Context, token string, now time.Time) (access.Credential, error) {
	if len(token) > maxToken {
		return access.Credential{}, problem.New(problem.Unauthorized, "the token is longer than %d bytes", maxToken)
	}
	var c claims
	_, err := v.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		return v.key(ctx, kid, now)
	})
	if err != nil {
		if p, ok := problem.From(err); ok {
			return access.Credential{}, p // the key set could not be read
		}
		return access.Credential{}, problem.New(problem.Unauthorized, "the token is not valid: %s", reason(err))
	}
	client, err := bus.Call(ctx, v.conn, keys.Client, keys.ClientRequest{ClientID: c.Subject})
	if err != nil {
		return access.Credential{}, err
	}
	return access.Credential{
		Kind: access.JWT, Account: client.Account, ID: c.ID, Subject: c.Subject, Scopes: c.Scopes,
		Audiences: c.Audience, ExpiresAt: c.ExpiresAt.Add(keys.TokenLeeway),
	}, nil
}

// reason says what is wrong without repeating anything of the token.
func reason(err error) string {
	for known, text := range map[error]string{
		jwt.ErrTokenExpired: "it has expired; mint a new one with POST /v1/admin/keys", jwt.ErrTokenNotValidYet: "it is not valid yet",
		jwt.ErrTokenInvalidIssuer: "wrong issuer", jwt.ErrTokenInvalidAudience: "wrong audience",
		jwt.ErrTokenSignatureInvalid: "wrong signature or algorithm", jwt.ErrTokenMalformed: "it is malformed",
	} {
		if errors.Is(err, known) {
			return text
		}
	}
	return "its key is unknown or its claims are incomplete"
}

var errUnknownKey = errors.New("unknown key id")

// key finds a signing key. Whoever has to ask makes the others wait, so the question is short, and a failed one counts
// for all of them.
func (v *tokenVerifier) key(ctx context.Context, kid string, now time.Time) (*ecdsa.PublicKey, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if known, ok := v.public[kid]; ok && now.Sub(v.readAt) < jwksLife {
		return known, nil
	}
	if now.Sub(v.triedAt) >= refetchEvery {
		v.triedAt, v.failure = now, v.fetch(ctx, now)
	}
	if known, ok := v.public[kid]; ok && now.Sub(v.readAt) < jwksLife+maxStale {
		return known, nil
	}
	if v.failure != nil {
		return nil, v.failure
	}
	return nil, errUnknownKey
}

// fetch reads the key set; the client that asked first may leave, the others still want it.
func (v *tokenVerifier) fetch(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshWithin)
	defer cancel()
	set, err := bus.Call(ctx, v.conn, keys.PublicKeys, rpc.None{})
	if err != nil {
		return err
	}
	v.public, v.readAt = map[string]*ecdsa.PublicKey{}, now
	for _, k := range set.Keys {
		if pub, err := publicKey(k); err == nil {
			v.public[k.ID] = pub
		}
	}
	return nil
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
