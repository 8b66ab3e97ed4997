package gateway

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// revocations are the tokens that are refused before they expire. Until the whole set was read, every token is.
type revocations struct {
	mu     sync.RWMutex
	loaded bool
	// doubted is set when events may have been lost, so that the set is to be read again.
	doubted bool
	tokens  map[string]time.Time // jti → when it may be forgotten
	keys    map[string]time.Time // signing key
	// subjects are users and applications whose earlier tokens are refused.
	subjects map[string]keys.TokenRevocation
}

func newRevocations() *revocations {
	return &revocations{tokens: map[string]time.Time{}, keys: map[string]time.Time{}, subjects: map[string]keys.TokenRevocation{}}
}

// load reads the whole set. It runs after the events are followed, so that none is missed in between.
func (r *revocations) load(ctx context.Context, conn *bus.Conn, now time.Time) error {
	all, err := bus.Call(ctx, conn, keys.Revocations, rpc.None{})
	if err != nil {
		return fmt.Errorf("the revoked tokens: %w", err)
	}
	for _, one := range all.Revocations {
		r.add(now, one)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loaded = true
	return nil
}

func (r *revocations) doubt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doubted = true
}

// doubtful reports whether the set is to be read again, once for every doubt.
func (r *revocations) doubtful() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	doubted := r.doubted
	r.doubted = false
	return doubted
}

func (r *revocations) add(now time.Time, one keys.TokenRevocation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if one.ExpiresAt.IsZero() {
		one.ExpiresAt = now.Add(awayLife)
	}
	switch {
	case one.JTI != "":
		r.tokens[one.JTI] = one.ExpiresAt
	case one.SigningKey != "":
		r.keys[one.SigningKey] = one.ExpiresAt
	case one.Subject != "" && !one.IssuedBefore.Before(r.subjects[one.Subject].IssuedBefore):
		r.subjects[one.Subject] = one
	}
	// A verifier's clock may lag behind by the leeway.
	over := now.Add(-2 * keys.TokenLeeway)
	for id, at := range r.tokens {
		if at.Before(over) {
			delete(r.tokens, id)
		}
	}
	for id, at := range r.keys {
		if at.Before(over) {
			delete(r.keys, id)
		}
	}
	for id, s := range r.subjects {
		if s.ExpiresAt.Before(over) {
			delete(r.subjects, id)
		}
	}
}

// covers returns why a token is refused; nil lets it pass.
func (r *revocations) covers(c *access.Credential) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if !r.loaded {
		return deny(access.ReasonBackend, problem.New(problem.Unavailable, "the gateway does not know the revoked tokens yet; try again"))
	}
	_, token := r.tokens[c.ID]
	_, key := r.keys[c.SigningKey]
	subject, known := r.subjects[c.Subject]
	switch {
	case key:
		return deny(access.ReasonJWTSignature, problem.New(problem.Unauthorized, "the token was signed with a key that is no longer trusted"))
	case token, known && revokes(subject, c):
		return deny(access.ReasonJWTExpired, problem.New(problem.Unauthorized, "the token was revoked"))
	}
	return nil
}

// revokes reports whether one revocation is about a credential.
func revokes(r keys.TokenRevocation, c *access.Credential) bool {
	switch {
	case c.Kind != access.JWT:
		return false
	case r.JTI != "":
		return c.ID == r.JTI
	case r.SigningKey != "":
		return c.SigningKey == r.SigningKey
	}
	return r.Subject != "" && c.Subject == r.Subject && c.IssuedAt.Before(r.IssuedBefore)
}
