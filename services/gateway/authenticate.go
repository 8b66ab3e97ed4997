package gateway

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/quartz"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// watchedStreams must exist before the gateway can follow them.
var watchedStreams = []string{event.StreamOf(event.Keys), event.StreamOf(event.Functions)}

// How long what was learned of a credential counts (keys §5.4). Every span begins when the store was read, not when
// the answer arrived, so that the whole chain has one budget.
const (
	// refreshAfter is when one request reads it again, while the others go on with what is known.
	refreshAfter = 50 * time.Second
	// credentialLife is when it no longer counts, and how long the gateway decides without hearing the bus.
	credentialLife = time.Minute
	// maxStale is how much longer it counts when the keys service is away but its events would still reach us.
	maxStale = 4 * time.Minute
	// negativeLife is how long a key that does not count is not asked about again.
	negativeLife = 10 * time.Second
	// refreshWithin bounds a read of the store while an older answer is at hand, readWithin one without.
	refreshWithin = 2 * time.Second
	readWithin    = 10 * time.Second
	// retryAfter is the pause between two reads that the keys service does not answer.
	retryAfter = time.Second
	// hearing is how recent the last sign of life of the bus must be for its silence to mean that nothing happened.
	hearing = 15 * time.Second
)

const maxBearer = 8 << 10

// digest stands for a bearer: half of the SHA-256 of it behind a secret of this process, so that no table of digests helps
// anybody.
type digest [sha256.Size / 2]byte

// authenticator turns a bearer into a credential. It remembers by digest, never by bearer.
type authenticator struct {
	conn   *bus.Conn
	clock  quartz.Clock
	tokens *tokenVerifier
	cache  *credentials
	meters *meters
	// accounts is another cache that the same events keep true.
	accounts *accounts
	secret   [16]byte
	// consoleApart is set when tokens of the access API count at that API alone.
	consoleApart bool

	// heardAt is when the bus last gave a sign of life, in Unix nanoseconds.
	heardAt atomic.Int64

	mu sync.Mutex
	// flights are the reads that a request may join, reading all that are under way.
	flights map[digest]*flight
	reading map[*flight]bool
}

// flight is one read of the store that any number of requests wait for.
type flight struct {
	done chan struct{}
	e    *entry
	err  error
	// spoiled is set by an event that may have ended what is being read: the answer is not kept.
	spoiled bool
}

func newAuthenticator(conn *bus.Conn, clock quartz.Clock, tokens *tokenVerifier, known *accounts, compat access.Compat) *authenticator {
	a := &authenticator{
		conn: conn, clock: clock, tokens: tokens, accounts: known, cache: newCredentials(compat.Row(access.Invoke)), meters: newMeters(), flights: map[digest]*flight{}, reading: map[*flight]bool{},
	}
	_, _ = rand.Read(a.secret[:]) // never fails
	a.heardAt.Store(clock.Now().UnixNano())
	return a
}

// denial is a refusal with the reason that the audit record gives, which the client may not be told.
type denial struct {
	error
	reason access.Reason
	// of is whom it was, when that is known.
	of *entry
}

// Unwrap leads to the problem that the client is told.
func (d *denial) Unwrap() error { return d.error }

func deny(reason access.Reason, p *problem.Problem) error { return &denial{error: p, reason: reason} }

// decisive are the headers that say who asks, and for which function. Of two of them one hop may believe the first and
// the next the last, so they are refused, and never chosen from.
var decisive = []string{headerAuthorization, http.CanonicalHeaderKey(invocation.HeaderFunctionID), http.CanonicalHeaderKey(invocation.HeaderFunctionVersionID)}

const headerAuthorization = "Authorization"

const onlyOnce = "must be given once, with one value"

// ambiguous refuses a request that has a decisive header twice. No credential has a comma in it: where there is one,
// somebody on the way has joined two headers. The token endpoint of the access API ignores whatever credential comes with
// its grants (keys §9.1).
func ambiguous(r *http.Request) *problem.Problem {
	for _, name := range decisive {
		values := r.Header[name]
		if len(values) == 0 || name == headerAuthorization && r.URL.Path == tokenPath {
			continue
		}
		if len(values) > 1 || strings.Contains(values[0], ",") {
			return &problem.Problem{
				Code: problem.BadRequest, Detail: "header " + name + " " + onlyOnce,
				Violations: []problem.Violation{{Field: name, Rule: onlyOnce}},
			}
		}
	}
	return nil
}

// bearer reads the credential of a request. An empty one counts as none (keys §2 rule 6).
func bearer(h http.Header) (string, *problem.Problem) {
	v := h.Get(headerAuthorization)
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

// authenticate finds the credential behind the bearer of a request. A known one costs no round trip.
func (a *authenticator) authenticate(ctx context.Context, h http.Header) (*entry, error) {
	e, err := a.identify(ctx, h)
	if err == nil && a.consoleApart && e.credential.Console {
		return nil, deny(access.ReasonJWTIssuer, problem.New(problem.Unauthorized, "the token is not valid: wrong issuer"))
	}
	return e, err
}

// identify is authenticate for the access API, which takes its own tokens in any case (keys §9.6).
func (a *authenticator) identify(ctx context.Context, h http.Header) (*entry, error) {
	token, p := bearer(h)
	if p != nil {
		return nil, deny(access.ReasonNoCredential, p)
	}
	return a.recognise(ctx, token)
}

func (a *authenticator) recognise(ctx context.Context, token string) (*entry, error) {
	d := a.digest(token)
	now := a.clock.Now()
	e, refused := a.cache.find(d, now)
	switch {
	case e == nil && refused != nil:
		a.cache.negative.Inc()
		return nil, refused
	case e == nil:
		a.cache.misses.Inc()
		return a.ask(ctx, d, token, now, nil)
	}
	age := now.Sub(e.asOf)
	if age < refreshAfter || age < credentialLife && !e.mayAsk(now) {
		a.cache.hits.Inc()
		return e.usable(now)
	}
	a.cache.stale.Inc()
	var err error = problem.New(problem.Unavailable, "the keys service does not answer; try again")
	if now.UnixNano()-e.failedAt.Load() >= int64(retryAfter) {
		var fresh *entry
		if fresh, err = a.ask(ctx, d, token, now, e); err == nil {
			return fresh, nil
		}
	}
	if !isAway(err) {
		return nil, err
	}
	if age < credentialLife || age < credentialLife+maxStale && a.hears(now, hearing) {
		return e.usable(now)
	}
	return nil, deny(access.ReasonBackend, problem.New(problem.Unavailable, "the credential cannot be checked now; try again"))
}

func (a *authenticator) digest(token string) digest {
	buf := make([]byte, 0, 160) // on the stack, and enough for a key
	buf = append(buf, a.secret[:]...)
	return short(append(buf, token...))
}

func short(b []byte) digest {
	sum := sha256.Sum256(b)
	return digest(sum[:len(digest{})])
}

// hears reports whether the bus gave a sign of life within span.
func (a *authenticator) hears(now time.Time, span time.Duration) bool {
	return now.UnixNano()-a.heardAt.Load() < int64(span)
}

// isAway reports whether the keys service did not answer, so that nothing was learned.
func isAway(err error) bool {
	p, ok := problem.From(err)
	return !ok || p.Code == problem.Unavailable || p.Code == problem.GatewayTimeout || p.Code == problem.Internal
}

// ask reads the store, once for all requests that want the same answer at the same time.
func (a *authenticator) ask(ctx context.Context, d digest, token string, now time.Time, old *entry) (*entry, error) {
	a.mu.Lock()
	f := a.flights[d]
	if f != nil {
		a.mu.Unlock()
		select {
		case <-f.done:
			return f.e, f.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f = &flight{done: make(chan struct{})}
	a.flights[d], a.reading[f] = f, true
	a.mu.Unlock()
	within := readWithin
	if old != nil {
		within = refreshWithin
	}
	// The client that asked first may leave; the others still want the answer.
	reading, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	f.e, f.err = a.read(reading, token, now)
	a.land(d, f, now, old)
	return f.e, f.err
}

// land keeps what a flight brought, unless an event made it worthless meanwhile, and lets those who wait go on.
func (a *authenticator) land(d digest, f *flight, now time.Time, old *entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer close(f.done)
	delete(a.reading, f)
	current := a.flights[d] == f
	if current {
		delete(a.flights, d)
	}
	switch {
	case f.err == nil:
		a.cache.share(f.e)
		if !f.spoiled {
			a.cache.keep(d, f.e)
		}
		f.e, f.err = f.e.usable(now)
	case !isAway(f.err):
		a.cache.forget(d)
		if current { // else it may have come to life meanwhile
			a.cache.refuse(d, f.err, now)
		}
	case old != nil:
		old.failedAt.Store(now.UnixNano())
		old.refreshing.Store(false)
	}
}

// read asks the keys service about a key, and verifies a token.
func (a *authenticator) read(ctx context.Context, token string, now time.Time) (*entry, error) {
	if !a.hears(now, credentialLife) {
		// What was revoked meanwhile is unknown, so nothing is let through (keys §8.6).
		return nil, deny(access.ReasonBackend, problem.New(problem.Unavailable, "the gateway has not heard from NATS for a minute; try again"))
	}
	if !strings.HasPrefix(token, keys.Prefix) {
		c, err := a.tokens.verify(ctx, token, now)
		if err != nil {
			return nil, err
		}
		// What is known of its revocation is as old as the last sign of life.
		return &entry{credential: c, asOf: time.Unix(0, min(now.UnixNano(), a.heardAt.Load()))}, nil
	}
	resp, err := bus.Call(ctx, a.conn, keys.Resolve, keys.ResolveRequest{Bearer: token})
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = problem.New(problem.GatewayTimeout, "the keys service did not answer in time")
		}
		return nil, deny(access.ReasonBackend, asProblem(err))
	}
	if !resp.Known {
		no := &denial{error: authorizationFailed(), reason: resp.Reason}
		if no.reason == "" {
			no.reason = access.ReasonUnknownKey
		}
		if resp.Credential.ID != "" {
			no.of = &entry{credential: resp.Credential, asOf: now}
		}
		return nil, no
	}
	e := &entry{credential: resp.Credential, asOf: resp.AsOf}
	if e.asOf.After(now) { // the clocks differ
		e.asOf = now
	}
	e.limit(a.meters)
	return e, nil
}

func asProblem(err error) *problem.Problem {
	p, _ := problem.From(err)
	return p
}

// invoker authenticates the caller of a function. There a dead key is 401, while the management APIs answer 403 to it
// (keys §14, ruling 1).
func (g *Gateway) invoker(r *http.Request) (*entry, error) {
	e, err := g.auth.authenticate(r.Context(), r.Header)
	return e, keysFace.refusal(err)
}

// deadKey is all that is said of a key that does not count.
const deadKey = "Authorization failed"

// authorizationFailed is the answer for a key that does not exist; it says nothing about why.
func authorizationFailed() *problem.Problem {
	return problem.New(problem.Forbidden, deadKey)
}

// watch follows what ends or changes credentials.
func (a *authenticator) watch(ctx context.Context) (func(), error) {
	stop, err := a.conn.Watch(ctx, event.Keys, a.hear, a.missed)
	if err == nil { // what was learned before the watch may have changed unseen
		a.abandon(true)
		a.cache.clear()
	}
	return stop, err
}

// missed is called when events may have been lost: what is known of credentials is learned again.
func (a *authenticator) missed() {
	a.tokens.revoked.doubt()
	a.tokens.forgetClients()
	a.accounts.forgetAll()
	a.abandon(true)
	a.cache.clear()
}

// hear applies one event of the keys domain.
func (a *authenticator) hear(env event.Envelope) {
	switch env.Type {
	case keys.Created.Type(): // a new key works at once, whoever has tried it before
		a.abandon(false)
	case keys.Revoked.Type(), keys.Updated.Type(), keys.Restored.Type():
		c := decoded[keys.Changed](env)
		a.end(env, scope{id: c.KeyID})
	case keys.OwnerMoved.Type():
		c := decoded[keys.OwnerStatus](env)
		a.end(env, scope{about: func(k *access.Credential) bool { return k.Kind == access.Key && k.Subject == c.OwnerID }})
	case keys.AccountDeleted.Type(), keys.AccountUpdated.Type():
		c := decoded[keys.AccountResponse](env)
		a.tokens.forgetClients()
		a.accounts.forget(c.Account.NCAID)
		a.end(env, scope{about: func(k *access.Credential) bool { return k.Account == c.Account.NCAID }})
	case keys.TokenRevoked.Type():
		c := decoded[keys.TokenRevocation](env)
		a.tokens.revoked.add(a.clock.Now(), c)
		a.end(env, scope{id: c.JTI, about: func(k *access.Credential) bool { return revokes(c, k) }})
	case keys.KeysRotated.Type():
		set := decoded[keys.JWKS](env)
		a.tokens.replace(set, a.clock.Now())
		a.end(env, scope{about: func(k *access.Credential) bool {
			return len(set.Keys) > 0 && k.Kind == access.JWT && !slices.ContainsFunc(set.Keys, func(j keys.JWK) bool { return j.ID == k.SigningKey })
		}})
	}
}

// decoded is the payload of an event of a known type; the stream holds no other.
func decoded[P any](env event.Envelope) (p P) {
	_ = json.Unmarshal(env.Data, &p)
	return p
}

// end drops the credentials that an event is about.
func (a *authenticator) end(env event.Envelope, s scope) {
	a.abandon(true)
	a.cache.drop(s)
	a.cache.lag.Observe(max(a.clock.Now().Sub(env.Time), 0).Seconds())
}

// abandon lets no later request join a read that began before an event, and forgets what does not count. When the event
// ended something, what is being read is not kept either.
func (a *authenticator) abandon(ended bool) {
	a.mu.Lock()
	clear(a.flights)
	if ended {
		for f := range a.reading {
			f.spoiled = true
		}
	}
	a.mu.Unlock()
	a.cache.forgive()
}

// heard notes a sign of life of the bus.
func (a *authenticator) heard(at time.Time) { a.heardAt.Store(at.UnixNano()) }
