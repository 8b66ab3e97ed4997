package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coder/quartz"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// announced announces an event of the keys service.
func announced[P any](t testing.TB, s *site, e rpc.Event[P], payload P) {
	t.Helper()
	require.NoError(t, bus.Announce(t.Context(), s.conn, "keys", uuid.NewString(), e, bus.Fact{Account: access.DefaultAccount, Entity: "x"}, payload))
}

// becomes waits until a bearer is answered with a status.
func becomes(t testing.TB, s *site, bearer string, status int) {
	t.Helper()
	require.Eventually(t, func() bool { return list(t, s, auth(bearer)).StatusCode == status }, patient, tick)
}

func TestEveryEventThatEndsKeys(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for name, end := range map[string]func(c access.Credential){
		"revoked": func(c access.Credential) { announced(t, s, keys.Revoked, keys.Changed{KeyID: c.ID}) },
		"updated": func(c access.Credential) { announced(t, s, keys.Updated, keys.Changed{KeyID: c.ID}) },
		"owner suspended": func(c access.Credential) {
			announced(t, s, keys.OwnerMoved, keys.OwnerStatus{OwnerID: c.Subject, Status: keys.Suspended})
		},
		"account deleted": func(c access.Credential) {
			announced(t, s, keys.AccountDeleted, keys.AccountResponse{Account: keys.Account{NCAID: c.Account}})
		},
	} {
		bearer, c := s.key([]string{access.ListFunctions}, allFunctions)
		require.Equal(t, 200, list(t, s, auth(bearer)).StatusCode, name)
		s.unregister(bearer)
		require.Equal(t, 200, list(t, s, auth(bearer)).StatusCode, "%s: not asked again before the event", name)
		end(c)
		becomes(t, s, bearer, 403)
		// What ended may come back, and then it works at once although its absence was known.
		s.register(bearer, c)
		announced(t, s, keys.Restored, keys.Changed{KeyID: c.ID})
		becomes(t, s, bearer, 200)
	}
}

func TestANewKeyWorksAtOnceWhoeverTriedItBefore(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bearer, c := s.key([]string{access.ListFunctions}, allFunctions)
	s.unregister(bearer)
	for range 5 {
		refused(t, list(t, s, auth(bearer)), 403)
	}
	require.Equal(t, int32(1), s.resolves.Load(), "the refusal is remembered for a moment")
	s.register(bearer, c)
	announced(t, s, keys.Created, keys.Changed{KeyID: c.ID})
	becomes(t, s, bearer, 200)
}

func TestOneReadServesAllThatWaitForIt(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bearer, _ := s.key([]string{access.ListFunctions}, allFunctions)
	const crowd = 20
	read, proceed := make(chan struct{}, crowd), make(chan struct{})
	hold := func() { read <- struct{}{}; <-proceed }
	s.holdResolve.Store(&hold)
	var asking sync.WaitGroup
	results := make(chan error, crowd)
	for range crowd {
		asking.Go(func() {
			_, err := s.gw.auth.recognise(t.Context(), bearer)
			results <- err
		})
	}
	<-read
	close(proceed)
	asking.Wait()
	for range crowd {
		require.NoError(t, <-results)
	}
	require.Equal(t, int32(1), s.resolves.Load())
}

func TestRevokedTokens(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	jti := uuid.NewString()
	one := s.token(t, func(_ *jwt.Token, c jwt.MapClaims) { c["jti"] = jti })
	other := s.token(t, nil)
	require.Equal(t, []int{200, 200}, []int{list(t, s, auth(one)).StatusCode, list(t, s, auth(other)).StatusCode})
	revocation := keys.TokenRevocation{JTI: jti, ExpiresAt: time.Now().Add(time.Hour)}
	s.mu.Lock()
	s.revoked = append(s.revoked, revocation)
	s.mu.Unlock()
	announced(t, s, keys.TokenRevoked, revocation)
	becomes(t, s, one, 401)
	require.Equal(t, 200, list(t, s, auth(other)).StatusCode)
	_, url, _ := s.gateway(t, func(*Config) {})
	got := do(t, client(t, false), request(t, "GET", url+"/v2/nvcf/functions", nil, "Authorization", auth(one)))
	refused(t, got, 401) // a gateway that was not there when it happened

	// A user's or application's tokens from before a moment.
	at := time.Now().Add(-30 * time.Second)
	earlier := s.token(t, func(_ *jwt.Token, c jwt.MapClaims) { c["iat"] = at.Add(-time.Minute).Unix() })
	require.Equal(t, 200, list(t, s, auth(earlier)).StatusCode)
	announced(t, s, keys.TokenRevoked, keys.TokenRevocation{Subject: keys.TokenSubject, IssuedBefore: at, ExpiresAt: time.Now().Add(time.Hour)})
	becomes(t, s, earlier, 401)
	require.Equal(t, 200, list(t, s, auth(s.token(t, nil))).StatusCode, "a later one")
}

func TestRevocationsAreForgottenWhenTheirTokensHaveExpired(t *testing.T) {
	t.Parallel()
	r := newRevocations()
	now := time.Now()
	c := &access.Credential{Kind: access.JWT, ID: "j", Subject: "s", SigningKey: "k", IssuedAt: now}
	require.ErrorContains(t, r.covers(c), "does not know the revoked tokens yet")
	r.loaded = true
	require.NoError(t, r.covers(c))
	for _, one := range []keys.TokenRevocation{{JTI: "j"}, {SigningKey: "k"}, {Subject: "s", IssuedBefore: now.Add(time.Second)}} {
		one.ExpiresAt = now.Add(time.Minute)
		r.add(now, one)
		require.Error(t, r.covers(c))
		r.add(now.Add(4*time.Minute), keys.TokenRevocation{JTI: "another", ExpiresAt: now.Add(time.Hour)})
		require.NoError(t, r.covers(c))
	}
	require.False(t, revokes(keys.TokenRevocation{JTI: "j"}, &access.Credential{Kind: access.Key, ID: "j"}), "keys end otherwise")
}

func TestTokensOfTheAccessAPI(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, deaf, _ := s.gateway(t, func(c *Config) { c.ConsoleAccepted = false })
	console := func(change func(jwt.MapClaims)) string {
		return s.token(t, func(_ *jwt.Token, c jwt.MapClaims) {
			c["iss"], c["sub"], c["ncaId"] = keys.ConsoleIssuer(keys.ConsoleDomain), uuid.NewString(), "tenant"
			if change != nil {
				change(c)
			}
		})
	}
	for name, tc := range map[string]struct {
		change func(jwt.MapClaims)
		status int
	}{
		"as it is":       {nil, 200},
		"no audience":    {func(c jwt.MapClaims) { delete(c, "aud") }, 200},
		"other audience": {func(c jwt.MapClaims) { c["aud"] = []string{"s:other"} }, 401},
		"other domain":   {func(c jwt.MapClaims) { c["iss"] = keys.ConsoleIssuer("elsewhere") }, 401},
	} {
		require.Equal(t, tc.status, list(t, s, auth(console(tc.change))).StatusCode, name)
	}
	require.Equal(t, 200, list(t, s, auth(console(nil))).StatusCode)
	require.Equal(t, "tenant", s.lastAsked(t).caller.Account)
	got := do(t, client(t, false), request(t, "GET", deaf+"/v2/nvcf/functions", nil, "Authorization", auth(console(nil))))
	refused(t, got, 401)
	got = do(t, client(t, false), request(t, "GET", deaf+"/api/v1/users", nil, "Authorization", auth(console(nil))))
	require.Equal(t, 200, got.StatusCode, "the access API takes its own tokens: %s", got.body)
}

// newSigner is one more signing key.
func (s *site) newSigner(t testing.TB, kid string) (*ecdsa.PrivateKey, keys.JWK) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	raw, err := k.PublicKey.Bytes()
	require.NoError(t, err)
	point := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	return k, keys.JWK{KeyType: "EC", Curve: "P-256", Use: "sig", Algorithm: "ES256", ID: kid, X: point(raw[1:33]), Y: point(raw[33:])}
}

func TestSigningKeysRotateUnderLoadWithoutARefusal(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	next, jwk := s.newSigner(t, "next")
	signed := func() string {
		tok := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
			"iss": keys.TokenIssuer, "aud": []string{keys.TokenAudience}, "sub": keys.TokenSubject, "jti": uuid.NewString(),
			"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(), "scopes": access.AdminDefaults(),
		})
		tok.Header["kid"] = "next"
		text, err := tok.SignedString(next)
		require.NoError(t, err)
		return text
	}
	old := s.token(t, nil)
	stop := make(chan struct{})
	var load sync.WaitGroup
	bad := make(chan int, 1000)
	for range 4 {
		load.Go(func() {
			c := client(t, false)
			for {
				select {
				case <-stop:
					return
				default:
				}
				// A token that is new each time is verified each time.
				for _, bearer := range []string{old, s.token(t, nil)} {
					if got := do(t, c, request(t, "GET", s.url+"/v2/nvcf/functions", nil, "Authorization", auth(bearer))); got.StatusCode != http.StatusOK {
						bad <- got.StatusCode
					}
				}
			}
		})
	}
	s.publish(jwk, s.jwk())
	announced(t, s, keys.KeysRotated, keys.JWKS{Keys: []keys.JWK{jwk, s.jwk()}})
	// A successor is published before it signs anything.
	require.Eventually(t, func() bool {
		public, _ := s.gw.auth.tokens.known("next", time.Now())
		return public != nil
	}, patient, tick)
	for range 50 {
		require.Equal(t, 200, list(t, s, auth(signed())).StatusCode)
	}
	close(stop)
	load.Wait()
	require.Empty(t, bad)

	// A compromised key is dropped at once, and with it every token that it signed.
	s.publish(jwk)
	announced(t, s, keys.KeysRotated, keys.JWKS{Keys: []keys.JWK{jwk}})
	becomes(t, s, old, 401)
	require.Equal(t, 401, list(t, s, auth(s.token(t, nil))).StatusCode)
	require.Equal(t, 200, list(t, s, auth(signed())).StatusCode)
}

// TestThreeGatewaysForgetARevokedKey measures how long a revoked key is still let through at any of three gateways that
// are asked all the time.
func TestThreeGatewaysForgetARevokedKey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	gateways := []*Gateway{s.gw}
	urls := []string{s.url}
	for range 2 {
		g, url, _ := s.gateway(t, func(*Config) {})
		gateways, urls = append(gateways, g), append(urls, url)
	}
	const rounds = 30
	var lags []time.Duration
	for range rounds {
		bearer, c := s.key([]string{access.ListFunctions}, allFunctions)
		ctx, cancel := context.WithCancel(t.Context())
		last := make([]time.Time, len(urls))
		var load sync.WaitGroup
		var warm sync.WaitGroup
		for i, url := range urls {
			warm.Add(1)
			load.Go(func() {
				first := sync.OnceFunc(warm.Done)
				browser := client(t, false)
				for ctx.Err() == nil {
					began := time.Now()
					if do(t, browser, request(t, "GET", url+"/v2/nvcf/functions", nil, "Authorization", auth(bearer))).StatusCode != http.StatusOK {
						return
					}
					last[i] = began
					first()
				}
			})
		}
		warm.Wait()
		s.unregister(bearer)
		revoked := time.Now()
		announced(t, s, keys.Revoked, keys.Changed{KeyID: c.ID})
		load.Wait() // each stops at its first refusal
		cancel()
		for _, at := range last {
			lags = append(lags, max(0, at.Sub(revoked)))
		}
	}
	slices.Sort(lags)
	p99 := lags[len(lags)*99/100]
	t.Logf("a revoked key was let through for %s at most, p99 %s, p50 %s", lags[len(lags)-1], p99, lags[len(lags)/2])
	require.Less(t, p99, 10*time.Second, "an event ended it")
	for _, g := range gateways {
		require.Eventually(t, func() bool { return measured(t, g, "key_revocation_lag_seconds") >= rounds }, patient, tick, "the lag is measured")
	}
}

// TestWithoutTheBusNothingIsLetThroughAfterAMinute: what is revoked cannot be heard, so nothing counts for longer than
// it would have without an event (keys §5.4, §8.6).
func TestWithoutTheBusNothingIsLetThroughAfterAMinute(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	clock := quartz.NewMock(t).WithLogger(quartz.NoOpLogger)
	clock.Set(time.Now())
	conn := testkit.Conn(t, s.nats)
	a := newAuthenticator(conn, clock, newTokenVerifier(conn, clock, ""), newAccounts(conn), access.DefaultCompat)
	require.NoError(t, a.tokens.revoked.load(t.Context(), conn, clock.Now()))
	key, token := s.invoker(), s.token(t, nil)
	fresh := s.token(t, nil)
	usable := func(bearer string) error {
		_, err := a.recognise(t.Context(), bearer)
		return err
	}
	require.NoError(t, usable(key))
	require.NoError(t, usable(token))
	conn.Close()
	clock.Advance(credentialLife - time.Second)
	require.NoError(t, usable(key))
	require.NoError(t, usable(token))
	require.NoError(t, usable(fresh), "the signing keys are known")
	clock.Advance(2 * time.Second)
	for name, bearer := range map[string]string{"key": key, "token": token, "new token": s.token(t, nil), "fresh": fresh} {
		err := usable(bearer)
		require.Equal(t, problem.Unavailable, asProblem(err).Code, name)
		require.Equal(t, access.ReasonBackend, refusalReason(err), name)
	}
	require.Error(t, usable(s.invoker()))
}

func TestTheKeysServiceIsAway(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	clock := quartz.NewMock(t).WithLogger(quartz.NoOpLogger)
	clock.Set(time.Now())
	conn := testkit.Conn(t, s.nats)
	a := newAuthenticator(conn, clock, newTokenVerifier(conn, clock, ""), newAccounts(conn), access.DefaultCompat)
	require.NoError(t, a.tokens.revoked.load(t.Context(), conn, clock.Now()))
	bearer, c := s.key([]string{access.ListFunctions}, allFunctions)
	c.ExpiresAt = clock.Now().Add(3 * time.Minute)
	s.register(bearer, c)
	lasting, token := s.invoker(), s.token(t, func(_ *jwt.Token, c jwt.MapClaims) { c["exp"] = time.Now().Add(48 * time.Hour).Unix() })
	usable := func(bearer string) error {
		a.heard(clock.Now()) // the bus is well
		_, err := a.recognise(t.Context(), bearer)
		return err
	}
	for _, b := range []string{bearer, lasting, token} {
		require.NoError(t, usable(b))
	}
	stopping, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	require.NoError(t, s.keys.Stop(stopping))
	for range 2 {
		clock.Advance(time.Minute)
		for _, b := range []string{bearer, lasting, token} {
			require.NoError(t, usable(b))
		}
	}
	clock.Advance(time.Minute)
	require.ErrorContains(t, usable(bearer), deadKey, "the expiry holds all the same")
	clock.Advance(3 * time.Minute)
	require.Equal(t, problem.Unavailable, asProblem(usable(lasting)).Code)
	clock.Advance(10 * time.Hour)
	require.NoError(t, usable(token), "the signing keys hold for a day")
	clock.Advance(24 * time.Hour)
	require.Equal(t, problem.Unavailable, asProblem(usable(token)).Code)
}

func TestEventsThatAreNoneHarmNothing(t *testing.T) {
	t.Parallel()
	require.Equal(t, keys.Changed{}, decoded[keys.Changed](envelope("[1]")))
	require.Equal(t, keys.JWKS{}, decoded[keys.JWKS](envelope("")))
}

func envelope(data string) (e event.Envelope) {
	e.Data = json.RawMessage(data)
	return e
}

func TestAfterALostStreamEverythingIsLearnedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bearer, _ := s.key([]string{access.ListFunctions}, allFunctions)
	token := s.token(t, nil)
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	require.NoError(t, err)
	jti, ok := parsed.Claims.(jwt.MapClaims)["jti"].(string)
	require.True(t, ok)
	require.Equal(t, 200, list(t, s, auth(bearer)).StatusCode)
	require.Equal(t, 200, list(t, s, auth(token)).StatusCode)

	// Both end, and the events that say so are lost together with their stream.
	s.unregister(bearer)
	s.mu.Lock()
	s.revoked = append(s.revoked, keys.TokenRevocation{JTI: jti, ExpiresAt: time.Now().Add(time.Hour)})
	s.mu.Unlock()
	require.Equal(t, 200, list(t, s, auth(bearer)).StatusCode, "nobody has said anything yet")
	_, err = s.conn.NATS().Request("$JS.API.STREAM.DELETE."+event.StreamOf(event.Keys), nil, patient)
	require.NoError(t, err)
	becomes(t, s, bearer, 403)
	becomes(t, s, token, 401)
}
