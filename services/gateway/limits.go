package gateway

import (
	"math"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// limits are where from and how much one key may be used (keys §7.3, step 7).
type limits struct {
	// anywhere is set when no networks were given; an entry that is no network admits nobody.
	anywhere bool
	networks []netip.Prefix
	meter    *meter
}

// limit prepares the limits of a key that has some.
func (e *entry) limit(m *meters) {
	c := &e.credential
	if len(c.AllowedCIDRs) == 0 && c.RateLimit == nil {
		return
	}
	e.limits = &limits{anywhere: len(c.AllowedCIDRs) == 0}
	for _, n := range c.AllowedCIDRs {
		if !strings.Contains(n, "/") {
			if a, err := netip.ParseAddr(n); err == nil {
				e.limits.networks = append(e.limits.networks, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
			}
		} else if p, err := netip.ParsePrefix(n); err == nil {
			e.limits.networks = append(e.limits.networks, p)
		}
	}
	if c.RateLimit != nil {
		e.limits.meter = m.of(c.ID, *c.RateLimit, e.asOf)
	}
}

// admit takes one request of the key. The returned release ends it; it is never nil.
func (e *entry) admit(r *http.Request, now time.Time) (release func(), p *problem.Problem) {
	switch {
	case e.limits == nil:
		return noRelease, nil
	case !e.limits.admits(r):
		return noRelease, elsewhere(r)
	case e.limits.meter == nil:
		return noRelease, nil
	}
	return e.limits.meter.take(now)
}

// wouldAdmit is admit for a request that is not made.
func (e *entry) wouldAdmit(r *http.Request, now time.Time) *problem.Problem {
	switch {
	case e.limits == nil:
		return nil
	case !e.limits.admits(r):
		return elsewhere(r)
	case e.limits.meter == nil:
		return nil
	}
	return e.limits.meter.look(now)
}

func (l *limits) admits(r *http.Request) bool { return l.anywhere || from(r, l.networks) }

func elsewhere(r *http.Request) *problem.Problem {
	return problem.New(problem.CIDRDenied, "this key may not be used from %s", remoteHost(r))
}

func noRelease() {}

// meters are the meters of the keys that have a rate limit. They outlive the entries of the cache, so that a change of
// the key is no new allowance.
type meters struct {
	mu  sync.Mutex
	all map[string]*meter
}

// maxMeters is when idle meters are forgotten.
const maxMeters = 10_000

func newMeters() *meters { return &meters{all: map[string]*meter{}} }

func (m *meters) of(id string, rate access.RateLimit, now time.Time) *meter {
	m.mu.Lock()
	defer m.mu.Unlock()
	one := m.all[id]
	if one == nil {
		if len(m.all) >= maxMeters {
			for other, idle := range m.all {
				if idle.idle(now) {
					delete(m.all, other)
				}
			}
		}
		one = &meter{}
		m.all[id] = one
	}
	one.set(rate)
	return one
}

// meter is the token bucket and the number of requests in flight of one key at this gateway.
type meter struct {
	mu       sync.Mutex
	rate     access.RateLimit
	tokens   float64
	at       time.Time
	inFlight int
}

func (m *meter) set(rate access.RateLimit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rate = rate
}

// idle reports whether a new meter would allow just as much.
func (m *meter) idle(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inFlight == 0 && (m.rate.RPS <= 0 || m.tokens+now.Sub(m.at).Seconds()*m.rate.RPS >= m.burst())
}

// burst is how many requests may come at once; one per second's worth when the key does not say.
func (m *meter) burst() float64 {
	if m.rate.Burst > 0 {
		return float64(m.rate.Burst)
	}
	return max(1, math.Ceil(m.rate.RPS))
}

func (m *meter) take(now time.Time) (release func(), p *problem.Problem) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.full(now); p != nil {
		return noRelease, p
	}
	if m.rate.RPS > 0 {
		m.tokens--
	}
	m.inFlight++
	return sync.OnceFunc(m.done), nil
}

// look says what take would refuse, and takes nothing.
func (m *meter) look(now time.Time) *problem.Problem {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.full(now)
}

// full refuses a request that would be one too many; the caller holds the lock.
func (m *meter) full(now time.Time) (p *problem.Problem) {
	if m.rate.RPS > 0 {
		switch {
		case m.at.IsZero():
			m.tokens, m.at = m.burst(), now
		case now.After(m.at):
			m.tokens, m.at = min(m.burst(), m.tokens+now.Sub(m.at).Seconds()*m.rate.RPS), now
		}
		if m.tokens < 1 {
			p = problem.New(problem.RateLimited, "this key may make %g requests per second", m.rate.RPS)
			p.RetryAfterSeconds = int(math.Ceil(min((1-m.tokens)/m.rate.RPS, 3600)))
			return p
		}
	}
	if m.rate.Concurrent > 0 && m.inFlight >= m.rate.Concurrent {
		p = problem.New(problem.RateLimited, "this key may have %d requests in flight", m.rate.Concurrent)
		p.RetryAfterSeconds = 1
		return p
	}
	return nil
}

func (m *meter) done() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inFlight--
}
