package keys

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"sync"
	"time"

	"github.com/coder/quartz"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// adminService is the registry entry that administrator tokens are made for, looked up by its name.
const adminService = "nvcf-api"

// jtiSize in bytes makes 22 characters.
const jtiSize = 16

// claims of an administrator token (keys §6.2). Every value is printable ASCII without '>', '?' and '~': then the
// payload has neither '-' nor '_', and clients that decode it with the standard base64 alphabet can.
type claims struct {
	jwt.RegisteredClaims

	AuthorizedParty string         `json:"azp"`
	Scopes          []access.Scope `json:"scopes"`
}

// Tokens mints administrator tokens. They are not stored: a token is valid until it expires or is revoked, and its
// event is the record of it.
type Tokens struct {
	store  *Store
	signer *Signer
	clock  quartz.Clock
	random io.Reader
	life   time.Duration
	scopes []access.Scope
	brake  *brake
	issued prometheus.Counter
}

// NewTokens makes the use cases of tokens.
func NewTokens(store *Store, signer *Signer, cfg Config, clock quartz.Clock, random io.Reader, metrics prometheus.Registerer) *Tokens {
	t := &Tokens{
		store: store, signer: signer, clock: clock, random: random, life: cfg.AdminTokenLife, scopes: cfg.adminScopes(),
		brake:  newBrake(cfg.AdminTokenRate),
		issued: prometheus.NewCounter(prometheus.CounterOpts{Name: "admin_tokens_issued_total", Help: "Administrator tokens that were minted."}),
	}
	metrics.MustRegister(t.issued, prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Name: "jwks_keys", Help: "Signing keys that are published."}, signer.listed))
	return t
}

// Mint makes a new administrator token, shaped like a key so that the published recipe finds it (keys §6.1).
func (t *Tokens) Mint(ctx context.Context, _ rpc.None) (contract.Key, error) {
	if wait := t.brake.take(t.clock.Now()); wait > 0 {
		p := problem.New(problem.TooManyRequests, "administrator tokens are asked for too often; one is valid for %s, so keep it", t.life)
		p.RetryAfterSeconds = int(wait/time.Second) + 1
		return contract.Key{}, p
	}
	service, err := t.store.serviceNamed(ctx, adminService)
	if err != nil {
		return contract.Key{}, err
	}
	if service == nil {
		return contract.Key{}, problem.New(problem.Unavailable, "the service %s is not registered", adminService)
	}
	id := make([]byte, jtiSize)
	if _, err := io.ReadFull(t.random, id); err != nil {
		return contract.Key{}, fmt.Errorf("mint a token: %w", err)
	}
	jti := base64.RawURLEncoding.EncodeToString(id)
	issued := jwt.NewNumericDate(t.clock.Now().UTC())
	expires := jwt.NewNumericDate(issued.Add(t.life))
	token, kid, err := t.signer.Sign(claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: contract.TokenIssuer, Subject: contract.TokenSubject, ID: jti,
			Audience: jwt.ClaimStrings{contract.TokenSubject, contract.TokenAudience},
			IssuedAt: issued, NotBefore: issued, ExpiresAt: expires,
		},
		AuthorizedParty: contract.TokenSubject, Scopes: t.scopes,
	})
	if err != nil {
		return contract.Key{}, err
	}
	document, err := json.Marshal(struct {
		Policies []access.Policy `json:"policies"`
	}{[]access.Policy{{
		Audience: service.ID, Audiences: service.Audiences, Product: access.FunctionsProduct, Scopes: t.scopes,
		Resources: []access.Resource{{ID: "*", Type: string(access.AllFunctions)}, {ID: "*", Type: string(access.SharedFunctions)}},
	}}})
	if err != nil {
		return contract.Key{}, fmt.Errorf("mint a token: %w", err)
	}
	err = t.store.recordIssued(ctx, contract.TokenIssued{
		JTI: jti, Subject: contract.TokenSubject, Scopes: t.scopes, ExpiresAt: expires.UTC(), KeyID: kid,
	})
	if err != nil {
		return contract.Key{}, err
	}
	t.issued.Inc()
	return contract.Key{
		ID: uuid.NewString(), Value: token, Status: contract.Active, OwnerType: "SYSTEM", OwnerID: contract.TokenSubject,
		IssuerServiceID: service.ID, Audiences: service.Audiences, Description: "Admin token",
		CreatedAt: issued.UTC(), ExpiresAt: expires.UTC(), Authorizations: document,
	}, nil
}

// PublicKeys are the keys that verify tokens.
func (t *Tokens) PublicKeys(context.Context, rpc.None) (contract.JWKS, error) { return t.signer.JWKS() }

// jtiShape is any id that a token of this platform may have.
var jtiShape = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// maxReason bounds what an operator may note about a revocation, in bytes.
const maxReason = 256

// Revoke refuses one token from now on. Whether there ever was such a token is not known; revoking twice is harmless.
func (t *Tokens) Revoke(ctx context.Context, r contract.RevokeTokenRequest) (contract.TokenRevocation, error) {
	check := problem.NewCheck("request")
	check.Require(jtiShape.MatchString(r.JTI), "jti", "must be the jti claim of a token: 1 to 64 letters, digits, hyphens and underscores")
	check.Require(len(r.Reason) <= maxReason, "reason", "must be at most %d bytes", maxReason)
	if err := check.Err(); err != nil {
		return contract.TokenRevocation{}, err
	}
	revocation := contract.TokenRevocation{JTI: r.JTI, ExpiresAt: t.clock.Now().UTC().Truncate(time.Millisecond).Add(tokenMemory), Reason: r.Reason}
	return revocation, t.store.revokeToken(ctx, revocation)
}

// Revocations are those that have not expired.
func (t *Tokens) Revocations(ctx context.Context, _ rpc.None) (contract.RevocationsResponse, error) {
	list, err := t.store.revocations(ctx, t.clock.Now().UTC())
	if list == nil {
		list = []contract.TokenRevocation{}
	}
	return contract.RevocationsResponse{Revocations: list}, err
}

// brake lets through so many a second in the long run, and the same number at once.
type brake struct {
	perSecond float64

	mu   sync.Mutex
	left float64
	at   time.Time
}

func newBrake(perSecond int) *brake {
	return &brake{perSecond: float64(perSecond), left: float64(perSecond)}
}

// take returns zero when one more may pass now, else how long until one may.
func (b *brake) take(now time.Time) (wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if passed := now.Sub(b.at); passed > 0 {
		b.left = min(b.perSecond, b.left+passed.Seconds()*b.perSecond)
		b.at = now
	}
	if b.left < 1 {
		return time.Duration((1 - b.left) / b.perSecond * float64(time.Second))
	}
	b.left--
	return 0
}
