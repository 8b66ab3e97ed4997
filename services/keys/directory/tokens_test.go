package directory

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// TestPublishedFlow is keys §13.9 at the service: sign in, make an application, let it make a user, refresh, replay, delete.
func TestPublishedFlow(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	tokens := s.login(t, strings.ToUpper(root), rootPassword)
	require.Equal(t, 3600, tokens.ExpiresIn)
	require.Empty(t, tokens.ExternalToken)
	c := s.claims(t, tokens.AccessToken)
	require.Equal(t, root, c.Username)
	require.Equal(t, access.DefaultAccount, c.Account)
	require.Equal(t, everything(), c.Scopes)
	require.EqualValues(t, 3600, c.ExpiresAt.Unix()-c.IssuedAt.Unix())
	require.Less(t, len(tokens.AccessToken)+len("Bearer "), 2048, "the cluster inventory takes no longer bearer")
	id := standardPayload(t, tokens.IDToken)
	require.Equal(t, []any{"console"}, id["aud"], "an ID token opens no API")

	admin := s.as(t, tokens.AccessToken)
	app := call(t, admin, contract.CreateApplication, contract.CreateApplicationRequest{Name: "app-123"})
	require.Equal(t, "app-123", app.Name)
	require.Equal(t, "app-123", app.ClientID)
	require.NotEmpty(t, app.Secret)
	p := refused(t, admin, 409, contract.CreateApplication, contract.CreateApplicationRequest{Name: "app-123"})
	require.Equal(t, "application name already in use", p.Detail)

	signedIn := call(t, s.anonymous(), contract.Grant, appGrant(app.ClientID, app.Secret))
	require.Equal(t, app.ClientID, s.claims(t, signedIn.AccessToken).AuthorizedParty)
	program := s.as(t, signedIn.AccessToken)
	user := call(t, program, contract.CreateUser, contract.CreateUserRequest{Email: "ops@corp.example"})
	require.Regexp(t, `^[A-Za-z2-9]{4}-[A-Za-z2-9]{4}-[A-Za-z2-9]{4}$`, user.TempPassword)
	require.Equal(t, "ops@corp.example", user.Username)
	refused(t, program, 409, contract.CreateUser, contract.CreateUserRequest{Email: "OPS@corp.example"})
	require.Equal(t, "app-123", call(t, admin, contract.GetUser, contract.SubjectRequest{ID: user.ID}).CreatedBy)

	refresh := contract.GrantRequest{GrantType: contract.RefreshGrant, RefreshToken: signedIn.RefreshToken, ClientID: app.ClientID}
	renewed := call(t, s.anonymous(), contract.Grant, refresh)
	require.NotEqual(t, signedIn.RefreshToken, renewed.RefreshToken)
	refused(t, s.anonymous(), 400, contract.Grant, refresh)
	require.True(t, s.withdrawn(t, renewed.AccessToken), "a replay ends the whole chain")
	require.True(t, s.withdrawn(t, signedIn.AccessToken))
	refused(t, s.anonymous(), 400, contract.Grant, contract.GrantRequest{GrantType: contract.RefreshGrant, RefreshToken: renewed.RefreshToken, ClientID: app.ClientID})

	again := call(t, s.anonymous(), contract.Grant, appGrant(app.ClientID, app.Secret))
	require.False(t, s.withdrawn(t, again.AccessToken), "a new sign-in is another chain")
	call(t, admin, contract.DeleteApplication, contract.SubjectRequest{ID: app.ID})
	require.True(t, s.withdrawn(t, again.AccessToken), "deleting the application ends its tokens")
	refused(t, s.anonymous(), 401, contract.Grant, appGrant(app.ClientID, app.Secret))
	refused(t, s.as(t, again.AccessToken), 403, contract.ListUsers, contract.ListUsersRequest{})
	require.InDelta(t, 1, s.granted("password", "ok"), 0)
	require.InDelta(t, 2, s.granted("client_credentials", "ok"), 0)
	require.InDelta(t, 1, s.granted("client_credentials", "refused"), 0)
	require.InDelta(t, 2, s.granted("refresh_token", "refused"), 0)
}

func TestSecuredApplicationsHaveNoRightsUntilARuleNamesThem(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *Config) { c.TrustMode = secured })
	admin := s.root(t)
	app := call(t, admin, contract.CreateApplication, contract.CreateApplicationRequest{Name: "app-123"})
	tokens := call(t, s.anonymous(), contract.Grant, appGrant(app.ClientID, app.Secret))
	require.Empty(t, tokens.Scopes)
	program := s.as(t, tokens.AccessToken)
	p := refused(t, program, 403, contract.CreateUser, contract.CreateUserRequest{Email: "ops@corp.example"})
	require.Equal(t, problem.ScopeMissing, p.Code)
	rule := call(t, admin, contract.CreateRule, contract.CreateRuleRequest{RuleGrant: contract.RuleGrant{
		SubjectID: app.ClientID, SubjectType: "app", RoleID: 1, ScopeID: "1", ScopeType: "tenant",
	}})
	require.Equal(t, "Ready", rule.Status.Phase)
	call(t, program, contract.CreateUser, contract.CreateUserRequest{Email: "ops@corp.example"}) // the rule holds for the token at hand
	call(t, admin, contract.DeleteRule, contract.RuleRequest{ID: rule.ID})
	refused(t, program, 403, contract.CreateUser, contract.CreateUserRequest{Email: "ops2@corp.example"})
	require.True(t, s.withdrawn(t, tokens.AccessToken), "other APIs refuse the token that carries the old scopes")
	refreshed := call(t, s.anonymous(), contract.Grant, contract.GrantRequest{GrantType: contract.RefreshGrant, RefreshToken: tokens.RefreshToken, ClientID: app.ClientID})
	require.False(t, s.withdrawn(t, refreshed.AccessToken), "it is dated after the revocation although it is of the same second")
	require.Empty(t, refreshed.Scopes)
}

// TestPayloadsNeedNoURLAlphabet asserts for thousands of random names that no payload holds '-' or '_' (keys §9.6).
func TestPayloadsNeedNoURLAlphabet(t *testing.T) {
	t.Parallel()
	s := &site{signer: &testSigner{}, cfg: Config{Domain: "corp.example"}}
	key, err := newTestKey()
	require.NoError(t, err)
	s.signer.key = key
	d, err := New(s.cfg, nil, s.signer, nil, randReader, newMetrics(), nopLog)
	require.NoError(t, err)
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-"
	for i := range 3000 {
		n := 1 + i%60
		name, err := d.letters(n, letters)
		require.NoError(t, err)
		jti, err := d.letters(jtiLetters, passwordLetters)
		require.NoError(t, err)
		require.True(t, isEmail(name+"@corp.example"))
		tokens, err := d.sign(subject{id: jti, name: name + "@corp.example", email: name + "@corp.example", account: "nvcf-default"},
			"c"+name[:min(n, 20)], jti, time.Unix(int64(1_900_000_000+i), 0), scopesOf([]int{1 + i%7}))
		require.NoError(t, err)
		for _, token := range []string{tokens.AccessToken, tokens.IDToken} {
			payload := strings.Split(token, ".")[1]
			require.NotContains(t, payload, "-")
			require.NotContains(t, payload, "_")
			standardPayload(t, token)
		}
	}
}

func TestWrongCredentialsLookAlike(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	admin := s.root(t)
	app := call(t, admin, contract.CreateApplication, contract.CreateApplicationRequest{Name: "robot"})
	disabled := call(t, admin, contract.CreateApplication, contract.CreateApplicationRequest{Name: "resting"})
	call(t, admin, contract.UpdateApplication, contract.UpdateApplicationRequest{ID: disabled.ID, Enabled: new(false)})

	person := func(name, password string) contract.GrantRequest {
		return contract.GrantRequest{GrantType: contract.PasswordGrant, Username: name, Password: password}
	}
	wrong := refused(t, s.anonymous(), 400, contract.Grant, person(root, "wrong"))
	nobody := refused(t, s.anonymous(), 400, contract.Grant, person("nobody@corp.example", "wrong"))
	require.Equal(t, wrong, nobody)
	require.Equal(t, "wrong credentials", wrong.Detail)
	require.Equal(t, wrong, refused(t, s.anonymous(), 400, contract.Grant, person("' OR 1=1 --", "wrong")))
	badSecret := refused(t, s.anonymous(), 401, contract.Grant, appGrant("robot", "wrong"))
	require.Equal(t, wrong.Detail, badSecret.Detail)
	require.Equal(t, badSecret, refused(t, s.anonymous(), 401, contract.Grant, appGrant("unknown", "wrong")))
	require.Equal(t, badSecret, refused(t, s.anonymous(), 401, contract.Grant, appGrant("resting", disabled.Secret)))
	require.Equal(t, badSecret, refused(t, s.anonymous(), 401, contract.Grant, appGrant(root, rootPassword)), "a user is no client")

	// An application signs in by its client id, its id or its name, and by the older grant too.
	for _, id := range []string{app.ClientID, app.ID, app.Name} {
		call(t, s.anonymous(), contract.Grant, appGrant(id, app.Secret))
		call(t, s.anonymous(), contract.Grant, contract.GrantRequest{GrantType: contract.AppTokenGrant, ClientID: id, ClientSecret: app.Secret})
	}
}

// TestWorkIsTheSameForUnknownNames compares the hashing, not the clock: the stand-in hash has the cost of a real one.
func TestWorkIsTheSameForUnknownNames(t *testing.T) {
	t.Parallel()
	c, salt, digest, ok := decodeHash(nobodys)
	require.True(t, ok)
	require.Equal(t, standardCost, c)
	require.Len(t, salt, saltSize)
	require.Len(t, digest, digestSize)
	h := newHasher()
	stored, err := h.hash(t.Context(), "secret")
	require.NoError(t, err)
	actual, _, _, _ := decodeHash(stored)
	require.Equal(t, c, actual)
	require.True(t, h.matches("secret", stored))
	require.False(t, h.matches("secret ", stored))
	require.False(t, h.matches("", nobodys))
	for _, damaged := range []string{"", "$", "$argon2id$v=19$m=0,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AA", strings.Replace(stored, "m=7168", "m=99999999", 1), "x" + stored, stored + "$"} {
		require.False(t, h.matches("secret", damaged), damaged)
	}
}

// TestAFloodOfSignInsIsTurnedAway asserts the bound of those that wait for a turn.
func TestAFloodOfSignInsIsTurnedAway(t *testing.T) {
	t.Parallel()
	h := newHasher()
	var held []func()
	for range hashesAtOnce {
		done, err := h.turn(t.Context())
		require.NoError(t, err)
		held = append(held, done)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	for range hashesWaiting {
		waiting.Go(func() { _, _ = h.turn(ctx) })
	}
	require.Eventually(t, func() bool { return h.waiting.Load() == hashesWaiting }, waitUp, poll)
	_, err := h.turn(t.Context())
	require.True(t, problem.HasCode(err, problem.Unavailable))
	cancel()
	waiting.Wait()
	for _, done := range held {
		done()
	}
	done, err := h.turn(t.Context())
	require.NoError(t, err)
	done()
}

func TestThrottle(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	events := s.events(t)
	id, password := s.newUser(t, s.root(t), "ops@corp.example")
	for _, name := range []string{"ops@corp.example", "nobody@corp.example"} {
		wrong := contract.GrantRequest{GrantType: contract.PasswordGrant, Username: name, Password: "wrong"}
		for range freeFailures {
			require.Zero(t, refused(t, s.anonymous(), 400, contract.Grant, wrong).RetryAfterSeconds)
		}
		blocked := refused(t, s.anonymous(), 400, contract.Grant, wrong)
		require.Equal(t, 5, blocked.RetryAfterSeconds)
		require.Equal(t, "too many failed sign-ins; try again later", blocked.Detail)
		require.Equal(t, 5, refused(t, s.anonymous(), 400, contract.Grant, wrong).RetryAfterSeconds, "asking while blocked makes it no worse")
	}
	refused(t, s.anonymous(), 400, contract.Grant, contract.GrantRequest{GrantType: contract.PasswordGrant, Username: "OPS@corp.example", Password: password})
	told := map[string]contract.SignInFact{}
	for range 2 { // in any order: they are about different subjects
		e, fact := until(t, events, contract.SignInFailed)
		require.Equal(t, access.DefaultAccount, e.Account)
		told[fact.SubjectID] = fact
	}
	require.Contains(t, told, id)
	require.Equal(t, "ops@corp.example", told[id].Name)
	require.Equal(t, freeFailures, told[id].Count)
	require.Contains(t, told, "", "a name that is nobody's is left out: it may be a password")
	require.Empty(t, told[""].Name)

	wrong := contract.GrantRequest{GrantType: contract.PasswordGrant, Username: "ops@corp.example", Password: "wrong"}
	for _, next := range []int{10, 20, 40} {
		s.clock.Advance(time.Duration(next/2) * time.Second)
		refused(t, s.anonymous(), 400, contract.Grant, wrong)
		require.Equal(t, next, refused(t, s.anonymous(), 400, contract.Grant, wrong).RetryAfterSeconds, "the delay grows")
	}
	s.clock.Advance(40 * time.Second)
	s.login(t, "ops@corp.example", password)
	require.Zero(t, refused(t, s.anonymous(), 400, contract.Grant, wrong).RetryAfterSeconds, "success forgives")
}

func TestTally(t *testing.T) {
	t.Parallel()
	start := time.Date(2031, 5, 1, 8, 0, 0, 0, time.UTC)
	var c tally
	for i := range 4 {
		c = c.after(start.Add(time.Duration(i) * time.Minute))
	}
	require.Equal(t, 4, c.failures)
	require.True(t, c.blockedUntil.IsZero())
	require.Equal(t, 1, c.after(start.Add(6*time.Minute)).failures, "the window is over")
	c = c.after(start.Add(5 * time.Minute))
	require.Equal(t, start.Add(5*time.Minute+firstBlock), c.blockedUntil)
	for range 100 {
		c = c.after(c.blockedUntil)
	}
	last := c.blockedUntil
	require.Equal(t, longestBlock, c.after(last).blockedUntil.Sub(last), "the delay has an end")
	require.Equal(t, 1, c.after(last.Add(6*time.Minute)).failures)
}

func TestRefreshTokens(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	events := s.events(t)
	refresh := func(token, client string) contract.GrantRequest {
		return contract.GrantRequest{GrantType: contract.RefreshGrant, RefreshToken: token, ClientID: client}
	}
	bound := call(t, s.anonymous(), contract.Grant, contract.GrantRequest{GrantType: contract.PasswordGrant, Username: root, Password: rootPassword, ClientID: "cli"})
	require.Len(t, bound.RefreshToken, 43, "32 bytes")
	refused(t, s.anonymous(), 400, contract.Grant, refresh(bound.RefreshToken, "another"))
	next := call(t, s.anonymous(), contract.Grant, refresh(bound.RefreshToken, "cli"))

	free := s.login(t, root, rootPassword)
	free = call(t, s.anonymous(), contract.Grant, refresh(free.RefreshToken, "whoever"))
	s.clock.Advance(refreshIdle - time.Second)
	free = call(t, s.anonymous(), contract.Grant, refresh(free.RefreshToken, "whoever"))
	s.clock.Advance(2 * time.Second)
	refused(t, s.anonymous(), 400, contract.Grant, refresh(next.RefreshToken, "cli"))
	s.clock.Advance(refreshIdle)
	refused(t, s.anonymous(), 400, contract.Grant, refresh(free.RefreshToken, "whoever"))
	refused(t, s.anonymous(), 400, contract.Grant, refresh("never-was-one", "cli"))

	// Of many that come with one token at once, one gets through, and the others end what it got.
	race := s.login(t, root, rootPassword)
	var wg sync.WaitGroup
	results := make(chan error, 8)
	for range cap(results) {
		wg.Go(func() {
			_, err := bus.Call(t.Context(), s.conn, contract.Grant, refresh(race.RefreshToken, "cli"))
			results <- err
		})
	}
	wg.Wait()
	close(results)
	passed := 0
	for err := range results {
		if err == nil {
			passed++
		}
	}
	require.LessOrEqual(t, passed, 1)
	require.True(t, s.withdrawn(t, race.AccessToken))
	_, fact := until(t, events, contract.RefreshReplayed)
	require.Equal(t, root, fact.Name)
	var left int
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM keys.directory_refresh WHERE used_at IS NULL AND expires_at > $1`, s.clock.Now()).Scan(&left))
	require.Zero(t, left)
}

func TestScopesOfATokenMayBeNarrowed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	asked := contract.GrantRequest{
		GrantType: contract.PasswordGrant, Username: root, Password: rootPassword, ClientID: "cli",
		Scopes: strings.Fields("deploy_function invoke_function list_functions update_instance list_cluster_groups"),
	}
	narrow := call(t, s.anonymous(), contract.Grant, asked)
	require.ElementsMatch(t, []string{"deploy_function", "invoke_function", "list_functions", "list_cluster_groups"}, narrow.Scopes)
	require.Equal(t, narrow.Scopes, s.claims(t, narrow.AccessToken).Scopes)
	next := call(t, s.anonymous(), contract.Grant, contract.GrantRequest{GrantType: contract.RefreshGrant, RefreshToken: narrow.RefreshToken, ClientID: "cli"})
	require.ElementsMatch(t, narrow.Scopes, next.Scopes)
	wider := call(t, s.anonymous(), contract.Grant, contract.GrantRequest{
		GrantType: contract.RefreshGrant, RefreshToken: next.RefreshToken, ClientID: "cli", Scopes: []string{"deploy_function", "delete_function"},
	})
	require.Equal(t, []string{"deploy_function"}, wider.Scopes, "a refresh never widens")
}

func TestBadGrants(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	long := strings.Repeat("x", maxPassword+1)
	for field, req := range map[string][]contract.GrantRequest{
		"grantType": {{}, {GrantType: "Password"}, {GrantType: contract.ExchangeGrant}, {GrantType: contract.ExternalTokenGrant}},
		"username": {
			{GrantType: contract.PasswordGrant, Password: "x"},
			{GrantType: contract.PasswordGrant, Password: "x", Username: strings.Repeat("x", maxEmail+1)},
			{GrantType: contract.PasswordGrant, Password: "x", Username: "a\x00b"},
			{GrantType: contract.PasswordGrant, Password: "x", Username: "a\nb"},
		},
		"password":     {{GrantType: contract.PasswordGrant, Username: "x"}, {GrantType: contract.PasswordGrant, Username: "x", Password: long}},
		"clientID":     {appGrant("", "x"), appGrant("a\x00", "x"), appGrant("a~b", "x"), appGrant("a?b", "x"), appGrant("é", "x"), appGrant(long, "x")},
		"clientSecret": {appGrant("x", ""), appGrant("x", long)},
		"appID":        {{GrantType: contract.AppTokenGrant, ClientSecret: "x"}},
		"appSecret":    {{GrantType: contract.AppTokenGrant, ClientID: "x"}},
		"refreshToken": {{GrantType: contract.RefreshGrant}, {GrantType: contract.RefreshGrant, RefreshToken: long}},
		"scope":        {{GrantType: contract.PasswordGrant, Username: "x", Password: "x", Scopes: make([]string, maxScopes+1)}},
	} {
		for i, r := range req {
			p := refused(t, s.anonymous(), 400, contract.Grant, r)
			require.NotEmpty(t, p.Violations, "%s %d: %s", field, i, p.Detail)
			require.Equal(t, field, p.Violations[0].Field, fmt.Sprint(i))
		}
	}
	require.InDelta(t, 2, s.granted("unknown", "refused"), 0)
}
