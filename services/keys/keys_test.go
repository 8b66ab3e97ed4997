package keys

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestCreatedKeyIsShownOnceAndMaskedAfterwards(t *testing.T) {
	t.Parallel()
	s := start(t)
	events := s.events(t)

	made := s.create(t)
	require.NoError(t, uuid.Validate(made.ID))
	require.Regexp(t, `^nvapi-nvcf-stg-[A-Za-z0-9_-]{64}$`, made.Value)
	b, err := json.Marshal(made)
	require.NoError(t, err)
	require.Equal(t, `{"id":"`+made.ID+`","value":"`+made.Value+`","status":"ACTIVE","owner_type":"USER","owner_id":"team-a@corp.example",`+
		`"issuer_service_id":"nvidia-cloud-functions-ncp-service-id-aketm","audience_service_ids":["nvidia-cloud-functions-ncp-service-id-aketm"],`+
		`"description":"ci deployer","created_at":"2031-05-01T08:00:00.125Z","expires_at":"2031-05-02T08:00:00Z","authorizations":`+cliPolicies+`}`, string(b))

	masked := "nvapi-nvcf-stg-**********" + made.Value[len(made.Value)-3:]
	listed := call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()})
	require.Len(t, listed.Keys, 1)
	require.Equal(t, masked, listed.Keys[0].Value)
	require.Nil(t, listed.Keys[0].Authorizations)
	require.Equal(t, made.ID, listed.Keys[0].ID)
	require.Equal(t, made.CreatedAt, listed.Keys[0].CreatedAt)
	require.EqualValues(t, 1, listed.Keys[0].Version)
	require.NotNil(t, listed.Keys[0].UpdatedAt)

	got := call(t, s, contract.Get, contract.KeyRequest{Issuer: functionsIssuer(), ID: made.ID})
	require.Equal(t, masked, got.Value)
	require.Equal(t, s.wanted().Authorizations, got.Authorizations, "members in the order they were sent")

	e := next(t, events)
	require.Equal(t, contract.Created.Type(), e.Type)
	require.Equal(t, made.ID, e.KeyID)
	require.Equal(t, access.DefaultAccount, e.Account)
	p, ok := bus.As[contract.Changed](e, contract.Created)
	require.True(t, ok)
	require.Equal(t, contract.Changed{
		KeyID: made.ID, OwnerID: owner, ServiceID: access.FunctionsAudience, Version: 1, ExpiresAt: made.ExpiresAt,
		Policies: authorizations(cliPolicies).policies(),
	}, p)

	require.NotEqual(t, made.Value, s.create(t).Value, "the same body again makes another key")
}

func TestCreateChecksInOrder(t *testing.T) {
	t.Parallel()
	s := start(t)
	now := s.clock.Now()
	tooLong, err := json.Marshal(strings.Repeat("x", 2047)) // 2049 with its quotes
	require.NoError(t, err)
	// Each step breaks one more rule; what was broken before keeps deciding, so the list runs from last to first.
	req := s.wanted()
	steps := []struct {
		name, field string
		breakIt     func()
	}{
		{"authorizations too long", "authorizations", func() { req.Authorizations = tooLong }},
		{"authorizations null", "authorizations", func() { req.Authorizations = json.RawMessage("null") }},
		{"authorizations absent", "authorizations", func() { req.Authorizations = nil }},
		{"policies of the wrong shape", "authorizations.policies", func() { req.Authorizations = json.RawMessage(`{"policies":1}`) }},
		{"audience of another service", "audience_service_ids", func() { req.Audiences = []string{access.TasksAudience} }},
		{"no audience", "audience_service_ids", func() { req.Audiences = []string{} }},
		{"expiry absent", "expires_at", func() { req.ExpiresAt = "" }},
		{"expiry no timestamp", "expires_at", func() { req.ExpiresAt = "tomorrow" }},
		{"expiry without zone", "expires_at", func() { req.ExpiresAt = "2031-05-02T08:00:00" }},
		{"expiry with a sloppy hour", "expires_at", func() { req.ExpiresAt = "2031-05-02T8:00:00Z" }},
		{"expiry with a comma", "expires_at", func() { req.ExpiresAt = "2031-05-02T08:00:00,5Z" }},
		{"expiry past", "expires_at", func() { req.ExpiresAt = now.Add(-time.Second).Format(time.RFC3339Nano) }},
		{"expiry 366 days ahead", "expires_at", func() { req.ExpiresAt = now.Add(366 * day).Format(time.RFC3339) }},
		{"description absent", "description", func() { req.Description = "" }},
		{"description too long", "description", func() { req.Description = strings.Repeat("d", 65) }},
		{"description of other characters", "description", func() { req.Description = "a/b" }},
		{"issuer unknown", "Key-Issuer-Id", func() { req.ServiceID = "someone" }},
		{"issuer that cannot be stored", "Key-Issuer-Id", func() { req.ServiceID = "a\x00b" }},
		{"issuer blank", "Key-Issuer-Id", func() { req.ServiceID = " " }},
		{"owner that cannot be stored", "Key-Owner-Id", func() { req.OwnerID = "a\x00b" }},
		{"owner too long", "Key-Owner-Id", func() { req.OwnerID = strings.Repeat("o", 257) }},
		{"owner blank", "Key-Owner-Id", func() { req.OwnerID = "  " }},
		{"owner absent", "Key-Owner-Id", func() { req.OwnerID = "" }},
	}
	for _, step := range steps {
		step.breakIt()
		p := refused(t, s, 400, contract.Create, req)
		require.Len(t, p.Violations, 1, step.name)
		require.Equal(t, step.field, p.Violations[0].Field, step.name)
	}
	require.Empty(t, call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()}).Keys)
}

func TestCreateAcceptsTheEdgesOfEveryRule(t *testing.T) {
	t.Parallel()
	s := start(t)
	now := s.clock.Now()
	atLimit, err := json.Marshal(strings.Repeat("x", 2046))
	require.NoError(t, err)
	for name, change := range map[string]func(*contract.CreateRequest){
		"expiry with milliseconds": func(r *contract.CreateRequest) { r.ExpiresAt = "2031-05-02T10:00:00.000Z" },
		"expiry with an offset":    func(r *contract.CreateRequest) { r.ExpiresAt = "2031-05-02T10:00:00.123456+02:00" },
		"expiry now":               func(r *contract.CreateRequest) { r.ExpiresAt = now.Format(time.RFC3339Nano) },
		"expiry at the limit":      func(r *contract.CreateRequest) { r.ExpiresAt = now.Add(365 * day).Format(time.RFC3339Nano) },
		"description with spaces":  func(r *contract.CreateRequest) { r.Description = "a\t\n\v\f\r b" },
		"description of 64":        func(r *contract.CreateRequest) { r.Description = strings.Repeat("a B_-", 12) + "1234" },
		"audiences absent":         func(r *contract.CreateRequest) { r.Audiences = nil },
		"audience twice":           func(r *contract.CreateRequest) { r.Audiences = append(r.Audiences, r.Audiences...) },
		"authorizations at limit":  func(r *contract.CreateRequest) { r.Authorizations = atLimit },
		"odd escapes":              func(r *contract.CreateRequest) { r.Authorizations = json.RawMessage(`{"a":"\u0000\ud800","z":1e400}`) },
	} {
		req := s.wanted()
		req.OwnerID = strings.ReplaceAll(name, " ", ".")
		change(&req)
		made := call(t, s, contract.Create, req)
		require.Equal(t, []string{access.FunctionsAudience}, made.Audiences, name)
		got := call(t, s, contract.Get, contract.KeyRequest{Issuer: req.Issuer, ID: made.ID})
		require.Equal(t, string(req.Authorizations), string(got.Authorizations), name)
		require.Equal(t, got.ExpiresAt, made.ExpiresAt, name)
	}
}

func TestLimitCountsLiveKeysOnly(t *testing.T) {
	t.Parallel()
	s := start(t)
	var last contract.Key
	for range 8 {
		last = s.create(t)
	}
	// The count decides before the authorizations do.
	full := s.wanted()
	full.Authorizations = nil
	require.Contains(t, refused(t, s, 400, contract.Create, full).Detail, "already has 8 keys")

	other := s.wanted()
	other.Issuer, other.Audiences = tasksIssuer(), nil
	call(t, s, contract.Create, other)
	stranger := s.wanted()
	stranger.OwnerID = "team-b@corp.example"
	call(t, s, contract.Create, stranger)

	call(t, s, contract.Delete, contract.KeyRequest{Issuer: functionsIssuer(), ID: last.ID})
	s.create(t)
	refused(t, s, 400, contract.Create, s.wanted())
	s.exec(t, `UPDATE keys.keys SET status = 'SUSPENDED'`)
	refused(t, s, 400, contract.Create, s.wanted())
	s.clock.Advance(day)
	s.create(t)
}

func TestConcurrentCreationsNeverExceedTheLimit(t *testing.T) {
	t.Parallel()
	s := start(t)
	var made, busy, full atomic.Int32
	var creators sync.WaitGroup
	for range 40 {
		creators.Go(func() {
			_, err := bus.Call(t.Context(), s.conn, contract.Create, s.wanted())
			switch {
			case err == nil:
				made.Add(1)
			case problem.HasCode(err, problem.TooManyRequests):
				busy.Add(1)
			case problem.HasCode(err, problem.BadRequest):
				full.Add(1)
			default:
				t.Errorf("unexpected: %v", err)
			}
		})
	}
	creators.Wait()
	require.EqualValues(t, 40, made.Load()+busy.Load()+full.Load())
	keys := call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()}).Keys
	require.Len(t, keys, int(made.Load()))
	require.LessOrEqual(t, len(keys), 8)
	require.NotEmpty(t, keys)
}

func TestCreateIsRefusedWhileAnotherIsUnderWay(t *testing.T) {
	t.Parallel()
	s := start(t)
	tx, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, createLock(owner, access.FunctionsAudience))
	require.NoError(t, err)
	p := refused(t, s, 429, contract.Create, s.wanted())
	require.Equal(t, 1, p.RetryAfterSeconds)
	other := s.wanted()
	other.Issuer, other.Audiences = tasksIssuer(), nil
	call(t, s, contract.Create, other)
	require.NoError(t, tx.Rollback(t.Context()))
	s.create(t)
}

func TestDeleteIsForTheIssuerAndOwnerOfTheKey(t *testing.T) {
	t.Parallel()
	s := start(t)
	events := s.events(t)
	made := s.create(t)
	require.Equal(t, contract.Created.Type(), next(t, events).Type)
	id := func(id string, issuer contract.Issuer) contract.KeyRequest {
		return contract.KeyRequest{Issuer: issuer, ID: id}
	}
	stranger := functionsIssuer()
	stranger.OwnerID = "team-b@corp.example"
	for name, req := range map[string]contract.KeyRequest{
		"another issuer": id(made.ID, tasksIssuer()),
		"another owner":  id(made.ID, stranger),
		"unknown":        id(uuid.NewString(), functionsIssuer()),
		"not a UUID":     id("42", functionsIssuer()),
		"a sloppy UUID":  id("{"+made.ID+"}", functionsIssuer()),
		"the key itself": id(made.Value, functionsIssuer()),
		"empty":          id("", functionsIssuer()),
	} {
		p := refused(t, s, 404, contract.Delete, req)
		require.Contains(t, p.Detail, "Not found", name)
		require.NotContains(t, p.Detail, made.Value)
		require.Contains(t, refused(t, s, 404, contract.Get, req).Detail, "Not found", name)
	}
	refused(t, s, 400, contract.Delete, contract.KeyRequest{ID: made.ID})

	call(t, s, contract.Delete, id(strings.ToUpper(made.ID), functionsIssuer()))
	refused(t, s, 404, contract.Delete, id(made.ID, functionsIssuer()))
	require.False(t, call(t, s, contract.Resolve, contract.ResolveRequest{Bearer: made.Value}).Known)

	e := next(t, events)
	require.Equal(t, contract.Revoked.Type(), e.Type)
	p, ok := bus.As[contract.Changed](e, contract.Revoked)
	require.True(t, ok)
	require.Equal(t, contract.Changed{
		KeyID: made.ID, OwnerID: owner, ServiceID: access.FunctionsAudience, Version: 2, ExpiresAt: made.ExpiresAt, Reason: "deleted",
	}, p)
	var owners int
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM keys.owners`).Scan(&owners))
	require.Equal(t, 1, owners, "the owner survives its last key")
}

func TestDeleteAnswersOnlyWhenItsEventIsInTheStream(t *testing.T) {
	t.Parallel()
	s := start(t)
	// On a machine that is too busy for it an answer says that its event is not there yet.
	require.Eventually(t, func() bool {
		return call(t, s, contract.Delete, contract.KeyRequest{Issuer: functionsIssuer(), ID: s.create(t).ID}).Pending == ""
	}, waitUp, poll)
	var waiting int
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM keys.outbox`).Scan(&waiting))
	require.Zero(t, waiting)
}

func TestDeleteSucceedsAfterTwoSecondsWithoutTheStream(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.create(t)
	require.Eventually(t, func() bool {
		var waiting int
		require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM keys.outbox`).Scan(&waiting))
		return waiting == 0
	}, waitUp, poll)
	// Whoever holds the relay's lock keeps every replica from publishing.
	tx, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(hashtextextended('sirocco.outbox.keys', 0))`)
	require.NoError(t, err)
	began := time.Now()
	require.Equal(t, "pending", call(t, s, contract.Delete, contract.KeyRequest{Issuer: functionsIssuer(), ID: made.ID}).Pending)
	require.GreaterOrEqual(t, time.Since(began), publishPatience)
	require.False(t, call(t, s, contract.Resolve, contract.ResolveRequest{Bearer: made.Value}).Known)
	require.Contains(t, s.logs.String(), "their events are not in the stream yet")
	require.NoError(t, tx.Rollback(t.Context()))
}

func TestExpiryIsComputedOnRead(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.create(t)
	left := made.ExpiresAt.Sub(s.clock.Now())
	s.clock.Advance(left - time.Nanosecond)
	require.True(t, call(t, s, contract.Resolve, contract.ResolveRequest{Bearer: made.Value}).Known)
	s.clock.Advance(time.Nanosecond)
	require.False(t, call(t, s, contract.Resolve, contract.ResolveRequest{Bearer: made.Value}).Known)
	refused(t, s, 404, contract.Introspect, contract.IntrospectRequest{AudienceServiceID: access.FunctionsAudience, Key: made.Value})
	require.Equal(t, contract.Expired, call(t, s, contract.Get, contract.KeyRequest{Issuer: functionsIssuer(), ID: made.ID}).Status)
	live := s.create(t)
	listed := call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()}).Keys
	require.Equal(t, []string{live.ID, made.ID}, []string{listed[0].ID, listed[1].ID}, "live keys come first")
	require.Equal(t, contract.Expired, listed[1].Status)
	call(t, s, contract.Delete, contract.KeyRequest{Issuer: functionsIssuer(), ID: made.ID})
}

func TestSuspendedKeyAndOwner(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.create(t)
	resolve := contract.ResolveRequest{Bearer: made.Value}
	introspect := contract.IntrospectRequest{AudienceServiceID: access.FunctionsAudience, Key: made.Value}
	byID := contract.KeyRequest{Issuer: functionsIssuer(), ID: made.ID}

	s.exec(t, `UPDATE keys.keys SET status = 'SUSPENDED'`)
	require.False(t, call(t, s, contract.Resolve, resolve).Known)
	refused(t, s, 404, contract.Introspect, introspect)
	require.Equal(t, contract.Suspended, call(t, s, contract.Get, byID).Status)
	s.exec(t, `UPDATE keys.keys SET status = 'ACTIVE'`)
	require.True(t, call(t, s, contract.Resolve, resolve).Known)

	s.exec(t, `UPDATE keys.owners SET status = 'SUSPENDED'`)
	require.False(t, call(t, s, contract.Resolve, resolve).Known)
	refused(t, s, 404, contract.Introspect, introspect)
	bad := s.wanted()
	bad.Description = ""
	refused(t, s, 403, contract.Create, bad) // suspension decides before the description does
	refused(t, s, 403, contract.List, contract.ListRequest{Issuer: functionsIssuer()})
	refused(t, s, 403, contract.Get, byID)
	refused(t, s, 403, contract.Delete, byID)
	refused(t, s, 400, contract.List, contract.ListRequest{Issuer: contract.Issuer{OwnerID: owner, ServiceID: "someone"}})

	s.exec(t, `UPDATE keys.owners SET status = 'ACTIVE'`)
	require.True(t, call(t, s, contract.Resolve, resolve).Known)
	require.Equal(t, made.ID, call(t, s, contract.Get, byID).ID)
}

func TestOwnerSuspendedBetweenCheckAndInsertGetsNoKey(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.create(t)
	keys := newKeys(t, s, &repeating{})
	s.exec(t, `UPDATE keys.owners SET status = 'SUSPENDED'`)
	r := record{id: uuid.NewString(), account: "x", ownerID: owner, serviceID: access.FunctionsAudience, createdAt: s.clock.Now(), expiresAt: s.clock.Now()}
	require.ErrorIs(t, keys.store.tx(t.Context(), func(tx pgx.Tx) error {
		return keys.store.create(t.Context(), tx, &r, 8, func(*record) error { return nil })
	}), errSuspended)
}

func TestIntrospect(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.create(t)
	good := contract.IntrospectRequest{AudienceServiceID: access.FunctionsAudience, Key: made.Value}
	require.Equal(t, contract.IntrospectResponse{
		OwnerType: "USER", OwnerID: owner, KeyID: made.ID, IssuerServiceID: access.FunctionsAudience, Authorizations: json.RawMessage(cliPolicies),
		CacheControl: "private, max-age=60",
	}, call(t, s, contract.Introspect, good))

	for name, change := range map[string]func(*contract.IntrospectRequest){
		"no audience":       func(r *contract.IntrospectRequest) { r.AudienceServiceID = "" },
		"no key":            func(r *contract.IntrospectRequest) { r.Key = "" },
		"another audience":  func(r *contract.IntrospectRequest) { r.AudienceServiceID = access.TasksAudience },
		"malformed":         func(r *contract.IntrospectRequest) { r.Key = "nvapi-x" },
		"checksum mismatch": func(r *contract.IntrospectRequest) { r.Key = flip(r.Key, 20) },
	} {
		req := good
		change(&req)
		require.NotContains(t, refused(t, s, 400, contract.Introspect, req).Detail, made.Value[20:], name)
	}
	call(t, s, contract.Delete, contract.KeyRequest{Issuer: functionsIssuer(), ID: made.ID})
	p := refused(t, s, 404, contract.Introspect, good)
	require.Equal(t, "Key: Not found", p.Detail)
	good.AudienceServiceID = access.TasksAudience
	refused(t, s, 404, contract.Introspect, good)
}

// flip changes one character of a key into another of its alphabet.
func flip(key string, i int) string {
	c := "A"
	if key[i] == 'A' {
		c = "B"
	}
	return key[:i] + c + key[i+1:]
}

func TestResolve(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.create(t)
	got := call(t, s, contract.Resolve, contract.ResolveRequest{Bearer: made.Value})
	require.Equal(t, contract.ResolveResponse{Known: true, AsOf: s.clock.Now(), Credential: access.Credential{
		Kind: access.Key, Account: access.DefaultAccount, ID: made.ID, Subject: owner, Policies: authorizations(cliPolicies).policies(),
		Audiences: []string{access.FunctionsAudience}, ExpiresAt: made.ExpiresAt, Version: 1,
	}}, got)
	_, refusal := access.Decide(access.Deploy, got.Credential)
	require.Nil(t, refusal)

	for name, bearer := range map[string]string{"empty": "", "malformed": "nvapi-x", "flipped": flip(made.Value, 20), "JWT": "eyJ.e30.x", "null": "\x00"} {
		got := call(t, s, contract.Resolve, contract.ResolveRequest{Bearer: bearer})
		require.Equal(t, contract.ResolveResponse{AsOf: s.clock.Now(), Reason: access.ReasonMalformed}, got, name)
	}
}

// TestWhyAKeyIsNotKnown: the audit record and explain tell apart what the client is not told.
func TestWhyAKeyIsNotKnown(t *testing.T) {
	t.Parallel()
	s := start(t)
	suspended, deleted := s.create(t), s.create(t)
	s.setStatus(t, suspended.ID, contract.Suspended)
	call(t, s, contract.Delete, keyRequest(deleted.ID))
	later := s.wanted()
	later.NotBefore = s.clock.Now().Add(time.Hour).Format(time.RFC3339)
	early := call(t, s, contract.Create, later)
	live := s.create(t)
	why := func(made contract.Key, want access.Reason) {
		t.Helper()
		got := call(t, s, contract.Resolve, contract.ResolveRequest{Bearer: made.Value})
		require.False(t, got.Known)
		require.Equal(t, want, got.Reason)
		require.Empty(t, got.Credential.Policies, "whom, and not what it could do")
	}
	why(suspended, access.ReasonSuspended)
	why(deleted, access.ReasonUnknownKey)
	why(early, access.ReasonExpired)
	s.exec(t, `UPDATE keys.owners SET status = 'SUSPENDED'`)
	why(live, access.ReasonOwnerSuspended)
	why(suspended, access.ReasonSuspended)
	require.False(t, s.evaluate(t, live.Value).Result.Allowed)
	s.exec(t, `UPDATE keys.owners SET status = 'ACTIVE'`)
	s.clock.Set(live.ExpiresAt)
	why(live, access.ReasonExpired)
}

func TestMalformedKeysNeverReachTheDatabase(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.create(t)
	keys := newKeys(t, s, &repeating{})
	closed, err := store.Open(t.Context(), s.pool.Config().ConnString(), store.Options{})
	require.NoError(t, err)
	closed.Close()
	keys.store = NewStore(closed, nil, nil)
	answer, err := keys.Resolve(t.Context(), contract.ResolveRequest{Bearer: flip(made.Value, 20)})
	require.NoError(t, err)
	require.False(t, answer.Known)
	// Control: a well-formed one does, and a database that fails is an error, not a verdict.
	d, err := keys.format.draw(&repeating{})
	require.NoError(t, err)
	_, err = keys.Resolve(t.Context(), contract.ResolveRequest{Bearer: d.value})
	require.Error(t, err)
}

// newKeys makes use cases with a domain key and a random source of the test's own, beside the running service.
func newKeys(t *testing.T, s *site, random *repeating) *Keys {
	t.Helper()
	outbox := store.NewOutbox("keys")
	tx := func(ctx context.Context, fn func(pgx.Tx) error) error { return store.InTx(ctx, s.pool, fn, outbox) }
	keys := NewKeys(NewStore(s.pool, tx, bus.NewJournal("keys", outbox, func() time.Time { return s.clock.Now() })), s.clock, random, Config{Retention: day}, zap.NewNop())
	keys.Use(vectorFormat(t))
	return keys
}

func TestHashCollisionIsDrawnAgain(t *testing.T) {
	t.Parallel()
	s := start(t)
	random := &repeating{times: 3}
	keys := newKeys(t, s, random)
	first, err := keys.Create(t.Context(), s.wanted())
	require.NoError(t, err)
	second, err := keys.Create(t.Context(), s.wanted())
	require.NoError(t, err)
	require.NotEqual(t, first.Value, second.Value)
	require.Equal(t, 4, random.n)

	random.times, random.n = 1000, 0
	_, err = keys.Create(t.Context(), s.wanted())
	require.ErrorIs(t, err, errNoHash)
	require.Equal(t, drawLimit, random.n)
	require.Len(t, call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()}).Keys, 2)
}

func TestUnknownOwnerHasNoKeys(t *testing.T) {
	t.Parallel()
	s := start(t)
	keys := call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()}).Keys
	require.NotNil(t, keys)
	require.Empty(t, keys)
	var owners int
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM keys.owners`).Scan(&owners))
	require.Zero(t, owners, "asking makes no owner")
}

func TestRegistry(t *testing.T) {
	t.Parallel()
	s := start(t)
	services := call(t, s, contract.Services, rpc.None{}).Services
	require.Len(t, services, 3)
	want := `{"service_id":"nvidia-cloud-functions-ncp-service-id-aketm","service_name":"nvcf-api","audience_service_ids":["nvidia-cloud-functions-ncp-service-id-aketm"],` +
		`"max_api_keys_per_user":8,"max_api_key_ttl_days":365,"max_authz_size_chars":2048,"min_authz_update_interval_seconds":3}`
	b, err := json.Marshal(services[0])
	require.NoError(t, err)
	require.Equal(t, want, string(b))
	require.Equal(t, "nvct-api", services[1].Name)
	require.Equal(t, "event-ledger", services[2].Name)
	require.Equal(t, services[1], call(t, s, contract.Service, contract.ServiceRequest{ID: access.TasksAudience}))
	for _, id := range []string{"nobody", "", "a\x00b"} {
		require.Contains(t, refused(t, s, 404, contract.Service, contract.ServiceRequest{ID: id}).Detail, "Not found")
	}

	s.exec(t, `UPDATE keys.services SET max_api_keys_per_user = 1, max_api_key_ttl_days = 2, max_authz_size_chars = 2`)
	req := s.wanted()
	refused(t, s, 400, contract.Create, req)
	req.Authorizations = json.RawMessage("{}")
	call(t, s, contract.Create, req)
	refused(t, s, 400, contract.Create, req)
}

func TestClient(t *testing.T) {
	t.Parallel()
	s := start(t)
	require.Equal(t, access.DefaultAccount, call(t, s, contract.Client, contract.ClientRequest{ClientID: "ncp"}).Account)
	p := refused(t, s, 404, contract.Client, contract.ClientRequest{ClientID: "nobody"})
	require.Equal(t, problem.NotFound, p.Code)
	require.Equal(t, "Client id 'nobody': Not found", p.Detail)
	refused(t, s, 404, contract.Client, contract.ClientRequest{ClientID: "a\x00b"})
}

func TestReaperPurgesAfterTheRetention(t *testing.T) {
	t.Parallel()
	s := start(t)
	dead := s.create(t)
	late := s.wanted()
	late.ExpiresAt = s.clock.Now().Add(30 * day).Format(time.RFC3339)
	live := call(t, s, contract.Create, late)
	// More than one batch.
	s.exec(t, `INSERT INTO keys.keys (id, hash, mask_tail, account, owner_type, owner_id, service_id, description, audiences, authorizations,
			created_at, updated_at, expires_at, deletes_at)
		SELECT gen_random_uuid(), lpad(n::text, 43, '0'), 'abc', account, owner_type, owner_id, service_id, description, audiences, authorizations,
			created_at, updated_at, expires_at, deletes_at
		FROM keys.keys, generate_series(1, $2) n WHERE id = $1`, dead.ID, 2*reapBatch)
	reaper := NewReaper(newKeys(t, s, nil).store, s.clock, config(t), zap.NewNop())

	s.clock.Advance(3*day - time.Second)
	purged, err := reaper.Reap(t.Context())
	require.NoError(t, err)
	require.Zero(t, purged)
	// Two reapers at once share the work.
	s.clock.Advance(time.Second)
	var total atomic.Int64
	var reapers sync.WaitGroup
	for range 2 {
		reapers.Go(func() {
			n, err := reaper.Reap(t.Context())
			if err != nil {
				t.Error(err)
			}
			total.Add(int64(n))
		})
	}
	reapers.Wait()
	rest, err := reaper.Reap(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2*reapBatch+1, int(total.Load())+rest)
	listed := call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()}).Keys
	require.Len(t, listed, 1)
	require.Equal(t, live.ID, listed[0].ID)
}

func TestReaperRunsWithTheService(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cfg := config(t)
	cfg.ReapInterval = time.Hour
	trap := s.clock.Trap().NewTicker("reaper")
	testkit.Ready(t, s.replica(t, cfg))
	made := trap.MustWait(t.Context())
	made.MustRelease(t.Context())
	trap.Close()
	req := s.wanted()
	req.ExpiresAt = s.clock.Now().Add(time.Second).Format(time.RFC3339)
	call(t, s, contract.Create, req)
	s.exec(t, `UPDATE keys.keys SET deletes_at = expires_at`)
	s.clock.Advance(time.Hour).MustWait(t.Context())
	require.Eventually(t, func() bool {
		var left int
		require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM keys.keys`).Scan(&left))
		return left == 0 && strings.Contains(s.logs.String(), "purged keys past their retention")
	}, waitUp, poll)
}

func TestListIsBounded(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.create(t)
	s.exec(t, `INSERT INTO keys.keys (id, hash, mask_tail, account, owner_type, owner_id, service_id, description, audiences, authorizations,
			created_at, updated_at, expires_at, deletes_at)
		SELECT gen_random_uuid(), lpad(n::text, 43, '0'), 'abc', account, owner_type, owner_id, service_id, description, audiences, authorizations,
			created_at - interval '1 day', updated_at, created_at - interval '1 hour', deletes_at
		FROM keys.keys, generate_series(1, $1) n`, listLimit)
	listed := call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()}).Keys
	require.Len(t, listed, listLimit)
	require.Equal(t, made.ID, listed[0].ID)
}

func ExampleFormat_Mask() {
	fmt.Println(Format{prefix: "nvapi-nvcf-stg-"}.Mask("Dbg"))
	// Output: nvapi-nvcf-stg-**********Dbg
}
