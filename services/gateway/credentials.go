package gateway

import (
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// Bounds of the cache. A credential costs about half a KiB; a random one makes room.
const (
	maxCredentials = 150_000
	maxRefused     = 10_000
	// maxVerdicts bounds how many rights keep the decision of the hot path; it takes most of their memory.
	maxVerdicts = 10_000
)

// credentials is what the gateway knows of bearers: the inputs of decisions, never the decisions themselves. What many
// keys have in common is kept once.
type credentials struct {
	mu    sync.RWMutex
	known map[digest]*entry
	byKey map[string]digest
	// shared are the rights that known entries refer to, by their content.
	shared map[digest]*rights
	// verdicts counts the rights that keep one.
	verdicts atomic.Int32
	// invocations is the row of invocations, as the settings have it.
	invocations access.Row
	// refused are bearers that do not count.
	refused map[digest]refusal

	hits, misses, negative, stale prometheus.Counter
	lag                           prometheus.Histogram
}

type refusal struct {
	err error
	at  time.Time
}

// entry is one credential.
type entry struct {
	credential access.Credential
	asOf       time.Time
	rights     *rights
	// limits are those of this key alone; nil for most.
	limits *limits
	// refreshing is set while a request reads a newer one; the others go on with this one meanwhile.
	refreshing atomic.Bool
	// failedAt is when the last read was not answered, in Unix nanoseconds.
	failedAt atomic.Int64
	// used is set by the first decision, which is the only one that came from the store.
	used atomic.Bool
}

// rights are what a credential may do. They never change, so that any number of keys can share them, with the decision
// of the row that the hot path asks about.
type rights struct {
	id        digest
	refs      int
	scopes    []access.Scope
	policies  []access.Policy
	audiences []string
	invoke    atomic.Pointer[verdict]
}

// verdict is the outcome of one row for all credentials with the same rights.
type verdict struct {
	grants  []access.Grant
	scopes  []access.Scope
	refusal *problem.Problem
}

func newCredentials(invocations access.Row) *credentials {
	lookups := func(result string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{
			Name: "key_cache_lookups_total", Help: "Looks for a credential in the cache, by result.", ConstLabels: prometheus.Labels{"result": result},
		})
	}
	return &credentials{
		invocations: invocations,
		known:       map[digest]*entry{}, byKey: map[string]digest{}, shared: map[digest]*rights{}, refused: map[digest]refusal{},
		hits: lookups("hit"), misses: lookups("miss"), negative: lookups("negative"), stale: lookups("stale"),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "key_revocation_lag_seconds", Help: "Seconds from the event that changed or ended a credential to its drop from the cache.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 60},
		}),
	}
}

func (c *credentials) register(r *prometheus.Registry) {
	r.MustRegister(c.hits, c.misses, c.negative, c.stale, c.lag)
}

// find returns what is known of a bearer: a credential, a refusal, or nothing.
func (c *credentials) find(d digest, now time.Time) (*entry, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if e := c.known[d]; e != nil {
		return e, nil
	}
	if no, ok := c.refused[d]; ok && now.Sub(no.at) < negativeLife {
		return nil, no.err
	}
	return nil, nil //nolint:nilnil // nothing is known
}

// mayAsk makes one request at a time read the store.
func (e *entry) mayAsk(now time.Time) bool {
	return now.UnixNano()-e.failedAt.Load() >= int64(retryAfter) && e.refreshing.CompareAndSwap(false, true)
}

// usable applies the expiry, which no event announces (keys §5.3).
func (e *entry) usable(now time.Time) (*entry, error) {
	switch {
	case now.Before(e.credential.ExpiresAt):
		return e, nil
	case e.credential.Kind == access.JWT:
		return nil, &denial{problem.New(problem.Unauthorized, "the token has expired; mint a new one with POST /v1/admin/keys"), access.ReasonJWTExpired, e}
	}
	return nil, &denial{authorizationFailed(), access.ReasonExpired, e}
}

// invoker is the caller that the row of invocations makes of a credential.
func (c *credentials) invoker(e *entry) (access.Caller, *problem.Problem) {
	v := e.rights.invoke.Load()
	if v == nil {
		caller, p := access.Decide(c.invocations, e.credential)
		v = &verdict{caller.Grants, caller.Scopes, p}
		if c.verdicts.Load() < maxVerdicts && e.rights.invoke.CompareAndSwap(nil, v) {
			c.verdicts.Add(1)
		}
	}
	k := &e.credential
	return access.Caller{Account: k.Account, Kind: k.Kind, ID: k.ID, Subject: k.Subject, Scopes: v.scopes, Grants: v.grants}, v.refusal
}

// share gives an entry its rights: those of another entry if they are the same.
func (c *credentials) share(e *entry) {
	id := intern(&e.credential)
	c.mu.RLock()
	e.rights = c.shared[id]
	c.mu.RUnlock()
	if e.rights == nil {
		e.rights = &rights{id: id, scopes: e.credential.Scopes, policies: e.credential.Policies, audiences: e.credential.Audiences}
	}
	e.credential.Scopes, e.credential.Policies, e.credential.Audiences = e.rights.scopes, e.rights.policies, e.rights.audiences
}

// keep stores an entry that has its rights.
func (c *credentials) keep(d digest, e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.rights.refs++
	c.shared[e.rights.id] = e.rights
	c.remove(d)
	if len(c.known) >= maxCredentials {
		for other := range c.known { // map order is random enough
			c.remove(other)
			break
		}
	}
	c.known[d] = e
	c.byKey[e.credential.ID] = d
	delete(c.refused, d)
}

// intern makes the texts that many credentials have in common one, leaves no slice longer than its content, and names the
// rights by their content.
func intern(c *access.Credential) digest {
	one := func(s string) string { return unique.Make(s).Value() }
	all := func(list []string) []string {
		list = slices.Clone(list)
		for i := range list {
			list[i] = one(list[i])
		}
		return list
	}
	c.Account, c.Subject, c.SigningKey = one(c.Account), one(c.Subject), one(c.SigningKey)
	c.Scopes, c.Audiences, c.Policies = all(c.Scopes), all(c.Audiences), slices.Clone(c.Policies)
	for i := range c.Policies {
		p := &c.Policies[i]
		p.Audience, p.Product, p.Audiences, p.Scopes = one(p.Audience), one(p.Product), all(p.Audiences), all(p.Scopes)
		p.Resources = slices.Clone(p.Resources)
		for j := range p.Resources {
			p.Resources[j].Type = one(p.Resources[j].Type)
		}
	}
	b, err := json.Marshal([]any{c.Kind, c.Scopes, c.Audiences, c.Policies})
	if err != nil { // cannot be: these are texts
		return digest{}
	}
	return short(b)
}

// remove forgets one entry; the caller holds the lock.
func (c *credentials) remove(d digest) {
	e := c.known[d]
	if e == nil {
		return
	}
	delete(c.known, d)
	if c.byKey[e.credential.ID] == d {
		delete(c.byKey, e.credential.ID)
	}
	if e.rights.refs--; e.rights.refs == 0 && c.shared[e.rights.id] == e.rights {
		delete(c.shared, e.rights.id)
		if e.rights.invoke.Swap(nil) != nil {
			c.verdicts.Add(-1)
		}
	}
}

func (c *credentials) forget(d digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(d)
}

// refuse remembers for a moment that a bearer does not count.
func (c *credentials) refuse(d digest, err error, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.refused) >= maxRefused {
		clear(c.refused)
	}
	c.refused[d] = refusal{err, now}
}

// forgive forgets every refusal: the events do not say which bearer they are about.
func (c *credentials) forgive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.refused)
}

// clear forgets everything.
func (c *credentials) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for d := range c.known {
		c.remove(d)
	}
	clear(c.refused)
}

// scope is which credentials an event is about. One that it names is found without a look at the others.
type scope struct {
	id    string
	about func(*access.Credential) bool
}

// drop forgets what an event is about.
func (c *credentials) drop(s scope) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.id != "" {
		if d, ok := c.byKey[s.id]; ok {
			c.remove(d)
		}
		return
	}
	for d, e := range c.known {
		if s.about(&e.credential) {
			c.remove(d)
		}
	}
}

// sweepStep is how many entries are removed under one lock.
const sweepStep = 512

// sweep forgets what nobody can use any more.
func (c *credentials) sweep(now time.Time) {
	var old []digest
	c.mu.RLock()
	for d, e := range c.known {
		if now.Sub(e.asOf) > credentialLife+maxStale || !now.Before(e.credential.ExpiresAt) {
			old = append(old, d)
		}
	}
	c.mu.RUnlock()
	for part := range slices.Chunk(old, sweepStep) {
		c.mu.Lock()
		for _, d := range part {
			if e := c.known[d]; e != nil && now.Sub(e.asOf) > refreshAfter {
				c.remove(d)
			}
		}
		c.mu.Unlock()
	}
}
