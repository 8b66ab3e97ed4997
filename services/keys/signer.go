package keys

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/golang-jwt/jwt/v5"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// stateCurrent is the state of the one key that signs; next and previous ones are only listed (keys §6.4).
const stateCurrent = "current"

// kidDigest is how many bytes of the digest of a public key make its 27-character id.
const kidDigest = 20

// Signer signs tokens with the deployment's current key and publishes the keys that verify them. All replicas share the
// keys through the database; Load reads them anew.
type Signer struct {
	store *Store
	keys  atomic.Pointer[[]signingKey]
}

type signingKey struct {
	id      string
	state   string
	private *ecdsa.PrivateKey
}

// NewSigner prepares a signer that Load makes ready.
func NewSigner(store *Store) *Signer { return &Signer{store: store} }

// Load reads the signing keys and makes the first one of the deployment.
func (s *Signer) Load(ctx context.Context, vault *Vault) error {
	rows, err := s.store.signingKeys(ctx)
	if err != nil {
		return err
	}
	if len(rows) == 0 || rows[0].state != stateCurrent {
		if err := s.make(ctx, vault); err != nil {
			return err
		}
		if rows, err = s.store.signingKeys(ctx); err != nil {
			return err
		}
	}
	keys := make([]signingKey, 0, len(rows))
	for _, row := range rows {
		private, err := openSigningKey(vault, row)
		if err != nil {
			return err
		}
		keys = append(keys, signingKey{id: row.id, state: row.state, private: private})
	}
	if len(keys) == 0 || keys[0].state != stateCurrent {
		return errors.New("load signing keys: there is no current one")
	}
	s.keys.Store(&keys)
	return nil
}

// make adds a current key unless another replica was faster.
func (s *Signer) make(ctx context.Context, vault *Vault) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	id, err := keyID(&private.PublicKey)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	return s.store.addSigningKey(ctx, signingRow{id: id, state: stateCurrent, sealed: vault.Seal(sealedName(id), der)})
}

func openSigningKey(vault *Vault, row signingRow) (*ecdsa.PrivateKey, error) {
	der, err := vault.Open(sealedName(row.id), row.sealed)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("signing key %s does not parse", row.id)
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, fmt.Errorf("signing key %s is not a P-256 key", row.id)
	}
	return private, nil
}

func sealedName(id string) string { return "signing-key/" + id }

// Sign returns the compact form of a token and the id of the key that signed it.
func (s *Signer) Sign(claims jwt.Claims) (token, kid string, err error) {
	keys := s.keys.Load()
	if keys == nil {
		return "", "", problem.New(problem.Unavailable, "the signing keys are not loaded yet; try again")
	}
	current := (*keys)[0]
	t := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	t.Header["kid"] = current.id
	token, err = t.SignedString(current.private)
	if err != nil {
		return "", "", fmt.Errorf("sign a token: %w", err)
	}
	return token, current.id, nil
}

// JWKS is the public half of every listed key, the current one first.
func (s *Signer) JWKS() (contract.JWKS, error) {
	keys := s.keys.Load()
	if keys == nil {
		return contract.JWKS{}, problem.New(problem.Unavailable, "the signing keys are not loaded yet; try again")
	}
	set := contract.JWKS{Keys: make([]contract.JWK, 0, len(*keys))}
	for _, k := range *keys {
		x, y, err := coordinates(&k.private.PublicKey)
		if err != nil {
			return contract.JWKS{}, err
		}
		set.Keys = append(set.Keys, contract.JWK{
			KeyType: "EC", Curve: "P-256", Use: "sig", Algorithm: "ES256", ID: k.id,
			X: base64.RawURLEncoding.EncodeToString(x), Y: base64.RawURLEncoding.EncodeToString(y),
		})
	}
	return set, nil
}

// keyID is the fingerprint by which clients recognise an install.
func keyID(public *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("signing key: %w", err)
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:kidDigest]), nil
}

// coordinates are the two 32-byte halves of an uncompressed point, leading zeros included.
func coordinates(public *ecdsa.PublicKey) (x, y []byte, err error) {
	point, err := public.Bytes()
	if err != nil {
		return nil, nil, fmt.Errorf("signing key: %w", err)
	}
	return point[1:33], point[33:], nil
}
