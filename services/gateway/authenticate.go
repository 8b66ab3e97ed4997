package gateway

import (
	"context"
	"crypto/sha256"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// watchedStreams must exist before the gateway can follow them.
var watchedStreams = []string{event.StreamOf(event.Keys), event.StreamOf(event.Functions)}

const (
	// credentialLife is how long a credential is used without asking again, counted from the read of the store.
	credentialLife = time.Minute
	// maxStale is how much longer it is used when the keys service does not answer (keys §5.4).
	maxStale = 4 * time.Minute
	// refreshWithin bounds a read of the store while a stale answer is at hand.
	refreshWithin = 2 * time.Second
	// maxCredentials bounds the cache; a random one makes room.
	maxCredentials = 200_000
	maxBearer      = 8 << 10
)

// authenticator turns a bearer into a credential. It remembers them by the SHA-256 of the bearer, never by the bearer.
type authenticator struct {
	conn   *bus.Conn
	tokens *tokenVerifier

	mu    sync.RWMutex
	known map[[sha256.Size]byte]*entry
	byKey map[string][sha256.Size]byte
	// dropped remembers when a key was last invalidated, so that an answer read before that is not kept after it.
	dropped map[string]time.Time
}

// entry is a credential with the decision for the row that the hot path asks about.
type entry struct {
	credential access.Credential
	asOf       time.Time
	invoker    access.Caller
	refusal    *problem.Problem
	// refreshing is set while a request reads a newer one; the others go on with this one meanwhile.
	refreshing atomic.Bool
}

func newAuthenticator(conn *bus.Conn) *authenticator {
	return &authenticator{
		conn: conn, tokens: newTokenVerifier(conn),
		known: map[[sha256.Size]byte]*entry{}, byKey: map[string][sha256.Size]byte{}, dropped: map[string]time.Time{},
	}
}

// bearer reads the credential of a request. An empty one counts as none (keys §2 rule 6).
func bearer(h http.Header) (string, *problem.Problem) {
	v := h.Get("Authorization")
	if v == "" {
		return "", problem.New(problem.Unauthorized, "Header of type `authorization` was missing")
	}
	scheme, token, _ := strings.Cut(v, " ")
	token = strings.TrimSpace(token)
	switch {
	case !strings.EqualFold(scheme, "Bearer"):
		return "", problem.New(problem.Unauthorized, "Unauthorized access: use Authorization: Bearer <key or token>")
	case token == "":
		return "", problem.New(problem.Unauthorized, "Unauthorized access: the bearer is empty")
	case len(token) > maxBearer:
		return "", problem.New(problem.Unauthorized, "Unauthorized access: the bearer is longer than %d bytes", maxBearer)
	}
	return token, nil
}

// authenticate finds the credential behind the bearer of a request.
func (a *authenticator) authenticate(ctx context.Context, h http.Header) (*entry, error) {
	token, p := bearer(h)
	if p != nil {
		return nil, p
	}
	digest := sha256.Sum256([]byte(token))
	a.mu.RLock()
	e := a.known[digest]
	a.mu.RUnlock()
	now := time.Now()
	if e != nil {
		age := now.Sub(e.asOf)
		if age < credentialLife || age < credentialLife+2*refreshWithin && !e.refreshing.CompareAndSwap(false, true) {
			return e.usable(now)
		}
		defer e.refreshing.Store(false)
	}
	fresh, err := a.read(ctx, token, now, e != nil)
	switch {
	case err == nil:
		a.keep(digest, fresh, now)
		return fresh.usable(now)
	case problem.HasCode(err, problem.Unauthorized), problem.HasCode(err, problem.Forbidden), problem.HasCode(err, problem.NotFound):
		a.forget(digest)
		return nil, err
	case e != nil && now.Sub(e.asOf) < credentialLife+maxStale && a.conn.Check(ctx) == nil:
		// The keys service is away but its events would reach us, so what we know still holds.
		return e.usable(now)
	}
	return nil, err
}

// usable applies the expiry, which no event announces (keys §5.3).
func (e *entry) usable(now time.Time) (*entry, error) {
	if !now.Before(e.credential.ExpiresAt) {
		if e.credential.Kind == access.JWT {
			return nil, problem.New(problem.Unauthorized, "the token has expired; mint a new one with POST /v1/admin/keys")
		}
		return nil, authorizationFailed()
	}
	return e, nil
}

// invoker authenticates the caller of a function. There a dead key is 401, while the management APIs answer 403 to it
// (keys §14, ruling 1).
func (g *Gateway) invoker(r *http.Request) (*entry, error) {
	e, err := g.auth.authenticate(r.Context(), r.Header)
	if problem.HasCode(err, problem.Forbidden) {
		return nil, problem.New(problem.Unauthorized, "Authorization failed")
	}
	return e, err
}

// deadKey is all that is said of a key that does not count.
const deadKey = "Authorization failed"

// authorizationFailed is the answer for a key that does not exist; it says nothing about why.
func authorizationFailed() *problem.Problem {
	return problem.New(problem.Forbidden, deadKey)
}

func (a *authenticator) read(ctx context.Context, token string, now time.Time, stale bool) (*entry, error) {
	if stale {
		bounded, cancel := context.WithTimeout(ctx, refreshWithin)
		defer cancel()
		ctx = bounded
	}
	var c access.Credential
	asOf := now
	if strings.HasPrefix(token, keys.Prefix) {
		resp, err := bus.Call(ctx, a.conn, keys.Resolve, keys.ResolveRequest{Bearer: token})
		if err != nil {
			return nil, err
		}
		if !resp.Known {
			return nil, authorizationFailed()
		}
		c, asOf = resp.Credential, resp.AsOf
	} else {
		var err error
		if c, err = a.tokens.verify(ctx, token, now); err != nil {
			return nil, err
		}
	}
	e := &entry{credential: c, asOf: asOf}
	e.invoker, e.refusal = access.Decide(access.Invoke, c)
	return e, nil
}

func (a *authenticator) keep(digest [sha256.Size]byte, e *entry, started time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.dropped[e.credential.ID].Before(started) {
		return
	}
	if len(a.known) >= maxCredentials {
		for d, old := range a.known { // map order is random enough
			delete(a.known, d)
			delete(a.byKey, old.credential.ID)
			break
		}
	}
	a.known[digest] = e
	a.byKey[e.credential.ID] = digest
}

func (a *authenticator) forget(digest [sha256.Size]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.known[digest]; e != nil {
		delete(a.byKey, e.credential.ID)
		delete(a.known, digest)
	}
}

// watch drops a key as soon as an event says that it changed.
func (a *authenticator) watch(ctx context.Context) (func(), error) {
	stop, err := a.conn.Watch(ctx, event.Keys, func(env event.Envelope) {
		if changed, ok := bus.As[keys.Changed](env, keys.Revoked); ok {
			a.invalidate(changed.KeyID)
		} else if changed, ok := bus.As[keys.Changed](env, keys.Updated); ok {
			a.invalidate(changed.KeyID)
		}
	})
	if err == nil { // what was learned before the watch may have changed unseen
		a.mu.Lock()
		clear(a.known)
		clear(a.byKey)
		a.mu.Unlock()
	}
	return stop, err
}

func (a *authenticator) invalidate(keyID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if digest, ok := a.byKey[keyID]; ok {
		delete(a.known, digest)
		delete(a.byKey, keyID)
	}
	a.dropped[keyID] = now
	if len(a.dropped) > 1024 { // an answer is never older than a call's time-out
		for id, at := range a.dropped {
			if now.Sub(at) > time.Minute {
				delete(a.dropped, id)
			}
		}
	}
}
