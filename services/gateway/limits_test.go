package gateway

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// limited registers a key with limits of its own.
func (s *site) limited(rate *access.RateLimit, cidrs ...string) string {
	bearer, c := s.key([]string{access.InvokeFunction, access.ListFunctions}, allFunctions)
	c.RateLimit, c.AllowedCIDRs = rate, cidrs
	s.register(bearer, c)
	return bearer
}

func TestAKeyWorksOnlyFromItsNetworks(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, _ := s.deployed(t, tell)
	for cidr, allowed := range map[string]bool{"127.0.0.0/8": true, "127.0.0.1": true, "10.0.0.0/8": false, "::1/128": false, "nonsense": false} {
		bearer := auth(s.limited(nil, cidr))
		call := do(t, client(t, false), request(t, "GET", s.url+"/", nil, "Host", direct(fid), "Authorization", bearer, "X-Forwarded-For", "10.0.0.1"))
		manage := list(t, s, bearer)
		if allowed {
			require.Equal(t, []int{200, 200}, []int{call.StatusCode, manage.StatusCode}, cidr)
			continue
		}
		require.Equal(t, problem.CIDRDenied, refused(t, call, 403).Code, cidr)
		require.Equal(t, problem.CIDRDenied, refused(t, manage, 403).Code, cidr)
	}
	require.Equal(t, 200, list(t, s, auth(s.limited(nil, "10.0.0.0/8", "127.0.0.0/8"))).StatusCode, "one of them is enough")
}

func TestAKeyHasARateOfItsOwn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, _ := s.deployed(t, tell)
	slow := auth(s.limited(&access.RateLimit{RPS: 0.0001, Burst: 2}))
	require.Equal(t, 200, list(t, s, slow).StatusCode)
	require.Equal(t, 200, do(t, client(t, false), request(t, "GET", s.url+"/", nil, "Host", direct(fid), "Authorization", slow)).StatusCode)
	for _, got := range []reply{
		list(t, s, slow), do(t, client(t, false), request(t, "GET", s.url+"/", nil, "Host", direct(fid), "Authorization", slow)),
		do(t, client(t, false), request(t, "POST", s.url+"/v2/nvcf/pexec/functions/"+fid, nil, "Authorization", slow)),
	} {
		require.Equal(t, problem.RateLimited, refused(t, got, 429).Code, "one allowance for all APIs")
		require.Equal(t, "3600", got.Header.Get("Retry-After"))
	}
	require.Equal(t, 200, list(t, s, auth(s.invoker())).StatusCode, "another key is not concerned")
}

func TestAKeyHasSoManyRequestsInFlight(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	began, proceed := make(chan struct{}), make(chan struct{})
	fid, _ := s.deployed(t, func(http.ResponseWriter, *http.Request) { began <- struct{}{}; <-proceed })
	bearer := auth(s.limited(&access.RateLimit{Concurrent: 1}))
	call := func() *http.Request {
		return request(t, "GET", s.url+"/", nil, "Host", direct(fid), "Authorization", bearer)
	}
	first, c := make(chan reply, 1), client(t, false)
	go func() { first <- do(t, c, call()) }()
	<-began
	got := do(t, client(t, false), call())
	require.Equal(t, problem.RateLimited, refused(t, got, 429).Code)
	require.Equal(t, "1", got.Header.Get("Retry-After"))
	close(proceed)
	require.Equal(t, 200, (<-first).StatusCode)
	require.Eventually(t, func() bool { return list(t, s, bearer).StatusCode == http.StatusOK }, patient, tick)
}

func TestMeter(t *testing.T) {
	t.Parallel()
	at := time.Unix(1000, 0)
	all := newMeters()
	m := all.of("k", access.RateLimit{RPS: 2}, at)
	take := func(after time.Duration) bool {
		at = at.Add(after)
		release, p := m.take(at)
		release()
		release() // twice is once
		return p == nil
	}
	require.Equal(t, []bool{true, true, false, false, true, false, true, true, false}, []bool{
		take(0), take(0), take(0), take(499 * time.Millisecond), take(time.Millisecond), take(0), take(time.Hour), take(0), take(0),
	}, "two at once, and one more each half second")
	require.Same(t, m, all.of("k", access.RateLimit{RPS: 2}, at), "a change of the key is no new allowance")
	require.False(t, m.idle(at))
	require.True(t, m.idle(at.Add(time.Second)))
	require.Zero(t, m.inFlight)
	for range 100 { // a clock that goes back gives nothing and takes nothing
		_, p := m.take(at.Add(-time.Hour))
		require.NotNil(t, p)
	}
}
