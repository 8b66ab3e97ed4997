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
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/seal"
)

const (
	// kidDigest is how many bytes of the digest of a public key make its 27-character id.
	kidDigest = 20
	// sealedSigningKey starts the name that the private half of a key is sealed under.
	sealedSigningKey = "signing-key/"
)

// Signer signs tokens with the deployment's current key and publishes the keys that verify them. All replicas share the
// keys through the database; Load reads them anew, after a change by any replica.
type Signer struct {
	store *Store
	vault *seal.Vault

	// loading keeps an earlier read from replacing a later one.
	loading sync.Mutex
	keys    atomic.Pointer[[]signingKey]
}

type signingKey struct {
	id      string
	state   contract.SigningState
	private *ecdsa.PrivateKey
}

// NewSigner prepares a signer that Load makes ready.
func NewSigner(store *Store, vault *seal.Vault) *Signer { return &Signer{store: store, vault: vault} }

// Load reads the signing keys. There must be a current one; [Rotation.Step] makes the first.
func (s *Signer) Load(ctx context.Context) error {
	s.loading.Lock()
	defer s.loading.Unlock()
	rows, err := s.store.signingKeys(ctx)
	if err != nil {
		return err
	}
	keys, err := s.open(ctx, rows)
	if err != nil {
		return err
	}
	if len(keys) == 0 || keys[0].state != contract.SigningCurrent {
		return errors.New("load signing keys: there is no current one")
	}
	s.keys.Store(&keys)
	return nil
}

// open opens the keys of rows; those known already are not opened again.
func (s *Signer) open(ctx context.Context, rows []signingRow) ([]signingKey, error) {
	known := map[string]*ecdsa.PrivateKey{}
	if keys := s.keys.Load(); keys != nil {
		for _, k := range *keys {
			known[k.id] = k.private
		}
	}
	keys := make([]signingKey, 0, len(rows))
	for _, row := range rows {
		private := known[row.id]
		if private == nil {
			var err error
			if private, err = s.openKey(ctx, row); err != nil {
				return nil, err
			}
		}
		keys = append(keys, signingKey{id: row.id, state: row.state, private: private})
	}
	return keys, nil
}

// newSigningKey makes a key, sealed.
func (s *Signer) newSigningKey(ctx context.Context) (id string, sealed []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", nil, fmt.Errorf("make a signing key: %w", err)
	}
	if id, err = keyID(&private.PublicKey); err != nil {
		return "", nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", nil, fmt.Errorf("make a signing key: %w", err)
	}
	sealed, err = s.vault.Seal(ctx, sealedSigningKey+id, der)
	return id, sealed, err
}

func (s *Signer) openKey(ctx context.Context, row signingRow) (*ecdsa.PrivateKey, error) {
	der, err := s.vault.Open(ctx, sealedSigningKey+row.id, row.sealed)
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

// Sign returns the compact form of a token and the id of the key that signed it.
func (s *Signer) Sign(claims jwt.Claims) (token, kid string, err error) {
	keys := s.keys.Load()
	if keys == nil {
		return "", "", notLoaded()
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

func notLoaded() error {
	return problem.New(problem.Unavailable, "the signing keys are not loaded yet; try again")
}

// JWKS is the public half of every listed key, the current one first.
func (s *Signer) JWKS() (contract.JWKS, error) {
	keys := s.keys.Load()
	if keys == nil {
		return contract.JWKS{}, notLoaded()
	}
	return publicSet(*keys)
}

// listed counts the keys of the set, for a metric.
func (s *Signer) listed() float64 {
	if keys := s.keys.Load(); keys != nil {
		return float64(len(*keys))
	}
	return 0
}

func publicSet(keys []signingKey) (contract.JWKS, error) {
	set := contract.JWKS{Keys: make([]contract.JWK, 0, len(keys))}
	for _, k := range keys {
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

// tokenMemory is how long a key is listed, and a revocation kept, after the last token it concerns was signed: the
// longest life of a token, the leeway of verifiers, and the time in which a replica may still sign with a key that
// another has just replaced.
const tokenMemory = contract.TokenLife + contract.TokenLeeway + 5*time.Minute
