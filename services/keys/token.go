package keys

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"

	"github.com/coder/quartz"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

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

// Tokens mints administrator tokens. They are not stored: a token is valid until it expires, and its event is the
// record of it.
type Tokens struct {
	store  *Store
	signer *Signer
	clock  quartz.Clock
	random io.Reader
}

// NewTokens makes the use cases of tokens.
func NewTokens(store *Store, signer *Signer, clock quartz.Clock, random io.Reader) *Tokens {
	return &Tokens{store: store, signer: signer, clock: clock, random: random}
}

// Mint makes a new administrator token, shaped like a key so that the published recipe finds it (keys §6.1).
func (t *Tokens) Mint(ctx context.Context, _ rpc.None) (contract.Key, error) {
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
	expires := jwt.NewNumericDate(issued.Add(contract.TokenLife))
	scopes := access.AdminDefaults()
	token, kid, err := t.signer.Sign(claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: contract.TokenIssuer, Subject: contract.TokenSubject, ID: jti,
			Audience: jwt.ClaimStrings{contract.TokenSubject, contract.TokenAudience},
			IssuedAt: issued, NotBefore: issued, ExpiresAt: expires,
		},
		AuthorizedParty: contract.TokenSubject, Scopes: scopes,
	})
	if err != nil {
		return contract.Key{}, err
	}
	document, err := json.Marshal(struct {
		Policies []access.Policy `json:"policies"`
	}{[]access.Policy{{
		Audience: service.ID, Audiences: service.Audiences, Product: functionsProduct, Scopes: scopes,
		Resources: []access.Resource{{ID: "*", Type: string(access.AllFunctions)}, {ID: "*", Type: string(access.SharedFunctions)}},
	}}})
	if err != nil {
		return contract.Key{}, fmt.Errorf("mint a token: %w", err)
	}
	err = t.store.recordIssued(ctx, contract.TokenIssued{
		JTI: jti, Subject: contract.TokenSubject, Scopes: scopes, ExpiresAt: expires.UTC(), KeyID: kid,
	})
	if err != nil {
		return contract.Key{}, err
	}
	return contract.Key{
		ID: uuid.NewString(), Value: token, Status: contract.Active, OwnerType: "SYSTEM", OwnerID: contract.TokenSubject,
		IssuerServiceID: service.ID, Audiences: service.Audiences, Description: "Admin token",
		CreatedAt: issued.UTC(), ExpiresAt: expires.UTC(), Authorizations: document,
	}, nil
}

// PublicKeys are the keys that verify tokens.
func (t *Tokens) PublicKeys(context.Context, rpc.None) (contract.JWKS, error) { return t.signer.JWKS() }
