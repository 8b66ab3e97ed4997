package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/quartz"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// list asks for something that needs list_functions.
func list(t testing.TB, s *site, authorization ...string) reply {
	t.Helper()
	r := request(t, "GET", s.url+"/v2/nvcf/functions", nil)
	if len(authorization) > 0 {
		r.Header["Authorization"] = authorization
	}
	return do(t, client(t, false), r)
}

func TestBearers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bearer, _ := s.key([]string{access.ListFunctions}, allFunctions)
	expired, c := s.key([]string{access.ListFunctions}, allFunctions)
	c.ExpiresAt = time.Now().Add(-time.Second)
	s.register(expired, c)
	foreign, c := s.key([]string{access.ListFunctions}, allFunctions)
	c.Audiences = []string{access.TasksAudience}
	s.register(foreign, c)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	forged, err := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"iss": keys.TokenIssuer, "aud": keys.TokenAudience, "sub": keys.TokenSubject, "exp": time.Now().Add(time.Hour).Unix()}).SignedString(stranger)
	require.NoError(t, err)
	claim := func(name string, value any) string {
		return s.token(t, func(_ *jwt.Token, c jwt.MapClaims) {
			if c[name] = value; value == nil {
				delete(c, name)
			}
		})
	}
	for name, tc := range map[string]struct {
		authorization string
		status        int
	}{
		"none":                    {"", 401},
		"basic":                   {"Basic dXNlcjpwYXNz", 401},
		"bearer alone":            {"Bearer", 401},
		"empty bearer":            {"Bearer   ", 401},
		"endless bearer":          {"Bearer " + strings.Repeat("x", 9000), 401},
		"endless token":           {"Bearer " + strings.Repeat("x", 5000), 401},
		"not a token":             {"Bearer abc", 401},
		"unknown key":             {"Bearer nvapi-unknown", 403},
		"expired key":             {auth(expired), 403},
		"key for tasks":           {auth(foreign), 403},
		"key":                     {auth(bearer), 200},
		"key, other spelling":     {"bEaReR  " + bearer + " ", 200},
		"token":                   {auth(s.token(t, nil)), 200},
		"token, no signature":     {auth(s.token(t, func(t *jwt.Token, _ jwt.MapClaims) { t.Method, t.Header["alg"] = jwt.SigningMethodNone, "none" })), 401},
		"token, symmetric":        {auth(s.token(t, func(t *jwt.Token, _ jwt.MapClaims) { t.Method, t.Header["alg"] = jwt.SigningMethodHS256, "HS256" })), 401},
		"token, unknown key id":   {auth(s.token(t, func(t *jwt.Token, _ jwt.MapClaims) { t.Header["kid"] = "other" })), 401},
		"token, no key id":        {auth(s.token(t, func(t *jwt.Token, _ jwt.MapClaims) { delete(t.Header, "kid") })), 401},
		"token of somebody else":  {auth(forged), 401},
		"token, wrong issuer":     {auth(claim("iss", "http://elsewhere")), 401},
		"token, wrong audience":   {auth(claim("aud", []string{"s:other"})), 401},
		"token, no audience":      {auth(claim("aud", nil)), 401},
		"token, expired":          {auth(claim("exp", time.Now().Add(-2*time.Minute).Unix())), 401},
		"token, within leeway":    {auth(claim("exp", time.Now().Add(-2*time.Second).Unix())), 200},
		"token, no expiry":        {auth(claim("exp", nil)), 401},
		"token, from tomorrow":    {auth(claim("nbf", time.Now().Add(time.Hour).Unix())), 401},
		"token, unknown client":   {auth(claim("sub", "nobody")), 404},
		"token, without scopes":   {auth(claim("scopes", nil)), 403},
		"token, scopes of a kind": {auth(claim("scopes", "list_functions")), 401},
	} {
		var got reply
		if tc.authorization == "" {
			got = list(t, s)
		} else {
			got = list(t, s, tc.authorization)
		}
		if tc.status == 200 {
			require.Equal(t, 200, got.StatusCode, "%s: %s", name, got.body)
			continue
		}
		doc := refused(t, got, tc.status)
		if tc.status == 401 {
			require.Equal(t, "Bearer", got.Header.Get("WWW-Authenticate"), name)
		}
		secret := strings.TrimSpace(strings.TrimPrefix(tc.authorization, "Bearer"))
		if len(secret) > 6 {
			require.NotContains(t, doc.Detail, secret[:7], "%s: no part of a credential is echoed", name)
		}
	}
	require.Equal(t, "Authorization failed", refused(t, list(t, s, "Bearer nvapi-unknown"), 403).Detail, "nothing about why")
	invoke := do(t, client(t, false), request(t, "POST", s.url+"/echo", nil, "Host", uuid.NewString()+".invocation.localhost", "Authorization", "Bearer nvapi-unknown"))
	require.Equal(t, "Authorization failed", refused(t, invoke, 401).Detail, "on invocation a dead key is 401")
	require.LessOrEqual(t, s.jwksReads.Load(), int32(4), "unknown key ids do not make the gateway ask again and again")
}

func TestScopesAndResourceTypesAreNamedWhenTheyAreMissing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	key := func(scopes []string, resources ...access.Resource) string {
		b, _ := s.key(scopes, resources...)
		return auth(b)
	}
	got := list(t, s, key([]string{access.InvokeFunction}, allFunctions))
	doc := refused(t, got, 403)
	require.Equal(t, problem.ScopeMissing, doc.Code)
	require.Equal(t, []string{"list_functions"}, doc.RequiredScopes)
	require.Equal(t, `Bearer error="insufficient_scope", scope="list_functions"`, got.Header.Get("WWW-Authenticate"))

	deploy := func(authorization string) reply {
		return do(t, client(t, false), request(t, "POST", s.url+"/v2/nvcf/deployments/functions/"+uuid.NewString()+"/versions/"+uuid.NewString(), strings.NewReader("{}"), "Authorization", authorization))
	}
	require.Equal(t, []string{"deploy_function", "list_functions"}, refused(t, deploy(key([]string{access.DeployFunction}, allFunctions)), 403).RequiredScopes)
	require.Equal(t, 200, deploy(key([]string{access.DeployFunction, access.ListFunctions}, allFunctions)).StatusCode)

	invoke := do(t, client(t, false), request(t, "GET", s.url+"/", nil, "Host", direct(uuid.NewString()), "Authorization", key([]string{access.InvokeFunction}, access.Resource{Type: "*", ID: "*"})))
	doc = refused(t, invoke, 403)
	require.Equal(t, problem.ResourceType, doc.Code)
	require.Contains(t, doc.RequiredResourceTypes, "account-functions/*")
}

func announce(t testing.TB, s *site, name string, keyID string) {
	t.Helper()
	e := keys.Revoked
	if name == "updated" {
		e = keys.Updated
	}
	require.NoError(t, bus.Announce(t.Context(), s.conn, "keys", uuid.NewString(), e, bus.Fact{Account: "nvcf-default", Entity: keyID}, keys.Changed{KeyID: keyID}))
}

// A second is the promise; what a slow machine can show is that the event ends the key, and not that it is forgotten.
func TestARevokedKeyIsRefusedWithinASecond(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bearer, c := s.key([]string{access.ListFunctions}, allFunctions)
	for range 5 {
		require.Equal(t, 200, list(t, s, auth(bearer)).StatusCode)
	}
	require.Equal(t, int32(1), s.resolves.Load(), "the keys service is asked once")

	narrowed := c
	narrowed.Policies = []access.Policy{{Scopes: []string{access.InvokeFunction}, Resources: []access.Resource{allFunctions}}}
	s.register(bearer, narrowed)
	announce(t, s, "updated", c.ID)
	require.Eventually(t, func() bool { return list(t, s, auth(bearer)).StatusCode == http.StatusForbidden }, patient, tick)

	s.register(bearer, c)
	announce(t, s, "updated", c.ID)
	require.Eventually(t, func() bool { return list(t, s, auth(bearer)).StatusCode == http.StatusOK }, patient, tick)
	s.unregister(bearer)
	announce(t, s, "revoked", c.ID)
	require.Eventually(t, func() bool { return list(t, s, auth(bearer)).StatusCode == http.StatusForbidden }, patient, tick)
	for range 20 {
		refused(t, list(t, s, auth(bearer)), 403)
	}
}

func TestAnAnswerThatWasReadBeforeTheRevocationIsNotKept(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bearer, c := s.key([]string{access.ListFunctions}, allFunctions)
	read, proceed := make(chan struct{}), make(chan struct{})
	hold := func() { read <- struct{}{}; <-proceed }
	s.holdResolve.Store(&hold)
	late := make(chan reply, 1)
	go func() { late <- list(t, s, auth(bearer)) }()
	<-read // the store was read
	s.holdResolve.Store(nil)
	s.unregister(bearer)
	announce(t, s, "revoked", c.ID)
	require.Eventually(t, func() bool {
		s.gw.auth.mu.Lock()
		defer s.gw.auth.mu.Unlock()
		for f := range s.gw.auth.reading {
			if f.spoiled {
				return true
			}
		}
		return false
	}, patient, tick)
	close(proceed)
	<-late // began before the revocation; either answer is right
	refused(t, list(t, s, auth(bearer)), 403)
}

// age makes what the gateway knows of a bearer older.
func age(s *site, by time.Duration) {
	a := s.gw.auth.cache
	a.mu.Lock()
	defer a.mu.Unlock()
	for d, e := range a.known {
		a.known[d] = &entry{credential: e.credential, asOf: e.asOf.Add(-by), rights: e.rights, limits: e.limits}
	}
}

func TestWithoutTheKeysServiceWhatIsKnownHoldsForAWhile(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bearer, _ := s.key([]string{access.ListFunctions}, allFunctions)
	unknown, _ := s.key([]string{access.ListFunctions}, allFunctions)
	require.Equal(t, 200, list(t, s, auth(bearer)).StatusCode)
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	require.NoError(t, s.keys.Stop(ctx))
	require.Equal(t, 200, list(t, s, auth(bearer)).StatusCode, "fresh")
	age(s, credentialLife+time.Second)
	require.Equal(t, 200, list(t, s, auth(bearer)).StatusCode, "stale")
	got := list(t, s, auth(unknown))
	require.Equal(t, problem.Unavailable, refused(t, got, 503).Code, "fail closed")
	require.NotEmpty(t, got.Header.Get("Retry-After"))
	require.Equal(t, problem.Unavailable, refused(t, list(t, s, auth(s.token(t, nil))), 503).Code)
	age(s, maxStale)
	require.Equal(t, problem.Unavailable, refused(t, list(t, s, auth(bearer)), 503).Code, "too old")
}

func TestWithoutTheFunctionsServiceKnownFunctionsCanBeCalledForAWhile(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	known, _ := s.deployed(t, tell)
	unknown, _ := s.deployed(t, tell)
	bearer := s.invoker()
	ask := func(fid string) reply {
		return do(t, client(t, false), request(t, "GET", s.url+"/", nil, "Host", direct(fid), "Authorization", auth(bearer)))
	}
	told(t, ask(known))
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	require.NoError(t, s.fns.Stop(ctx))
	older := func(by time.Duration) {
		v := s.gw.versions
		v.mu.Lock()
		defer v.mu.Unlock()
		for k, r := range v.known {
			r.at = r.at.Add(-by)
			v.known[k] = r
		}
	}
	older(routeLife + time.Second)
	told(t, ask(known))
	require.Equal(t, problem.Unavailable, refused(t, ask(unknown), 503).Code)
	older(maxStale)
	require.Equal(t, problem.Unavailable, refused(t, ask(known), 503).Code)
}

func TestAnOldCredentialIsReadAgainByOneRequestOnly(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	clock := quartz.NewMock(t).WithLogger(quartz.NoOpLogger)
	clock.Set(time.Now())
	conn := testkit.Conn(t, s.nats)
	a := newAuthenticator(conn, clock, newTokenVerifier(conn, clock, ""), newAccounts(conn), access.DefaultCompat)
	bearer, _ := s.key([]string{access.ListFunctions}, allFunctions)
	ask := func() error {
		a.heard(clock.Now()) // the bus is well
		_, err := a.recognise(t.Context(), bearer)
		return err
	}
	require.NoError(t, ask())
	clock.Advance(refreshAfter)
	read, proceed := make(chan struct{}, 1), make(chan struct{})
	hold := func() { read <- struct{}{}; <-proceed }
	s.holdResolve.Store(&hold)
	first := make(chan error, 1)
	go func() { first <- ask() }()
	<-read
	for range 5 {
		require.NoError(t, ask(), "goes on meanwhile")
	}
	close(proceed)
	require.NoError(t, <-first)
	require.Equal(t, int32(2), s.resolves.Load())
}

func TestAFunctionThatChangesIsResolvedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, vid := s.deployed(t, tell)
	bearer := s.invoker()
	ask := func() int {
		return do(t, client(t, false), request(t, "GET", s.url+"/", nil, "Host", direct(fid), "Authorization", auth(bearer))).StatusCode
	}
	require.Equal(t, 200, ask())
	s.mu.Lock()
	f := s.functions[fid]
	f.Targets = nil
	s.functions[fid] = f
	s.mu.Unlock()
	require.NoError(t, bus.Announce(t.Context(), s.conn, "functions", uuid.NewString(), functions.StatusMoved,
		bus.Fact{Account: "nvcf-default", Entity: vid, Refs: event.Refs{FunctionID: fid, VersionID: vid}},
		functions.StatusChanged{FunctionID: fid, VersionID: vid, From: functions.Active, To: functions.Inactive}))
	require.Eventually(t, func() bool { return ask() == 404 }, patient, tick)
}

func TestOpenRoutesTakeAnyCredentialForNone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, authorization := range []string{"", "Bearer ", "Bearer nonsense", "Basic x", "Bearer nvapi-unknown"} {
		r := request(t, "GET", s.url+"/v1/services", nil)
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		require.Equal(t, 200, do(t, client(t, false), r).StatusCode, authorization)
		require.Equal(t, "anonymous", s.lastAsked(t).caller.Subject)
	}
	require.Equal(t, 200, do(t, client(t, false), request(t, "GET", s.url+"/v1/services", nil, "Authorization", auth(s.token(t, nil)))).StatusCode)
	require.Equal(t, keys.TokenSubject, s.lastAsked(t).caller.Subject, "a good one names the actor")
}

func BenchmarkAuthenticateAndDecide(b *testing.B) {
	s := newSite(b)
	bearer := s.invoker()
	h := http.Header{"Authorization": {auth(bearer)}}
	fid := s.function(uuid.NewString())
	var failed atomic.Int32
	b.ReportAllocs()
	for b.Loop() {
		e, err := s.gw.auth.authenticate(b.Context(), h)
		if err != nil {
			failed.Add(1)
			continue
		}
		caller, p := s.gw.auth.cache.invoker(e)
		if p != nil {
			failed.Add(1)
			continue
		}
		if _, err := s.gw.versions.route(b.Context(), caller, fid, ""); err != nil {
			failed.Add(1)
		}
	}
	require.Zero(b, failed.Load())
}
