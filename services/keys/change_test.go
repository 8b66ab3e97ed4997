package keys

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

const invokePolicies = `{"policies":[{"aud":"nvidia-cloud-functions-ncp-service-id-aketm","product":"nv-cloud-functions",` +
	`"resources":[{"type":"account-functions","id":"*"}],"scopes":["invoke_function"],"note":"kept"}]}`

func keyRequest(id string) contract.KeyRequest {
	return contract.KeyRequest{Issuer: functionsIssuer(), ID: id}
}

// grants resolves a key as a gateway does.
func (s *site) grants(t testing.TB, value string) contract.ResolveResponse {
	t.Helper()
	return call(t, s, contract.Resolve, contract.ResolveRequest{Bearer: value})
}

// told waits for the event of one kind about one key.
func told(t testing.TB, events *news, e rpc.Event[contract.Changed], keyID string) (p contract.Changed) {
	t.Helper()
	find(t, events, func(env event.Envelope) (ok bool) {
		p, ok = bus.As[contract.Changed](env, e)
		return ok && p.KeyID == keyID
	})
	return p
}

func TestAuthorizeReplacesTheWholeDocument(t *testing.T) {
	t.Parallel()
	s := start(t)
	events := s.events(t)
	made := s.create(t)
	s.clock.Advance(3 * time.Second)

	req := contract.AuthorizeRequest{KeyRequest: keyRequest(made.ID), Authorizations: json.RawMessage(invokePolicies)}
	got := call(t, s, contract.Authorize, req)
	require.Equal(t, req.Authorizations, got.Authorizations, "unknown members and order are kept")
	require.Equal(t, "nvapi-nvcf-stg-**********"+made.Value[len(made.Value)-3:], got.Value)
	require.EqualValues(t, 2, got.Version)
	require.Equal(t, s.clock.Now().UTC(), *got.UpdatedAt)
	require.Empty(t, got.Warning)
	credential := s.grants(t, made.Value).Credential
	require.EqualValues(t, 2, credential.Version)
	require.Equal(t, []access.Scope{access.InvokeFunction}, credential.Policies[0].Scopes)
	p := told(t, events, contract.Updated, made.ID)
	require.EqualValues(t, 2, p.Version)
	require.Equal(t, credential.Policies, p.Policies)
}

func TestAuthorizationsMayChangeOnceInAnInterval(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.create(t)
	req := contract.AuthorizeRequest{KeyRequest: keyRequest(made.ID), Authorizations: json.RawMessage(invokePolicies)}
	p := refused(t, s, 429, contract.Authorize, req)
	require.Equal(t, 3, p.RetryAfterSeconds, "counted from the creation")
	s.clock.Advance(2500 * time.Millisecond)
	require.Equal(t, 1, refused(t, s, 429, contract.Authorize, req).RetryAfterSeconds)
	s.clock.Advance(500 * time.Millisecond)
	call(t, s, contract.Authorize, req)
	require.Equal(t, 3, refused(t, s, 429, contract.Authorize, req).RetryAfterSeconds, "counted from the last update")
	call(t, s, contract.Change, contract.ChangeRequest{KeyRequest: keyRequest(made.ID), Description: new("other")})
	s.clock.Advance(3 * time.Second)
	call(t, s, contract.Authorize, req)
	s.exec(t, `UPDATE keys.services SET min_authz_update_interval_seconds = 0`)
	call(t, s, contract.Authorize, req)
}

func TestAuthorizeRefusals(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.create(t)
	s.clock.Advance(time.Minute)
	long, err := json.Marshal(strings.Repeat("x", 2047))
	require.NoError(t, err)
	for name, tc := range map[string]struct{ body, field string }{
		"absent":                       {``, "authorizations"},
		"null":                         {`null`, "authorizations"},
		"too long":                     {string(long), "authorizations"},
		"policies not an array":        {`{"policies":{}}`, "authorizations.policies"},
		"policy not an object":         {`{"policies":[1]}`, "authorizations.policies"},
		"policy null":                  {`{"policies":[null]}`, "authorizations.policies"},
		"scopes not an array":          {`{"policies":[{"scopes":"a"}]}`, "authorizations.policies.scopes"},
		"scope not a string":           {`{"policies":[{"scopes":[1]}]}`, "authorizations.policies.scopes"},
		"scope null":                   {`{"policies":[{"scopes":[null]}]}`, "authorizations.policies.scopes"},
		"resources not an array":       {`{"policies":[{"resources":{}}]}`, "authorizations.policies.resources"},
		"resource without an id":       {`{"policies":[{"resources":[{"type":"*"}]}]}`, "authorizations.policies.resources"},
		"resource with a numeric type": {`{"policies":[{"resources":[{"id":"*","type":1}]}]}`, "authorizations.policies.resources"},
	} {
		req := contract.AuthorizeRequest{KeyRequest: keyRequest(made.ID), Authorizations: json.RawMessage(tc.body)}
		if tc.body == "" {
			req.Authorizations = nil
		}
		p := refused(t, s, 400, contract.Authorize, req)
		require.Equal(t, tc.field, p.Violations[0].Field, name)
	}
	good := contract.AuthorizeRequest{KeyRequest: keyRequest(made.ID), Authorizations: json.RawMessage(invokePolicies)}
	for _, id := range []string{uuid.NewString(), "no-uuid", ""} {
		other := good
		other.ID = id
		refused(t, s, 404, contract.Authorize, other)
	}
	foreign := good
	foreign.Issuer = tasksIssuer()
	refused(t, s, 404, contract.Authorize, foreign)
	foreign.Issuer = contract.Issuer{OwnerID: "team-b", ServiceID: access.FunctionsAudience}
	refused(t, s, 404, contract.Authorize, foreign)
	foreign.Issuer = contract.Issuer{ServiceID: access.FunctionsAudience}
	refused(t, s, 400, contract.Authorize, foreign)

	s.exec(t, `UPDATE keys.keys SET status = 'SUSPENDED'`)
	require.Equal(t, problem.IllegalState, refused(t, s, 400, contract.Authorize, good).Code)
	s.exec(t, `UPDATE keys.keys SET status = 'ACTIVE'`)
	s.exec(t, `UPDATE keys.owners SET status = 'SUSPENDED'`)
	refused(t, s, 403, contract.Authorize, good)
	s.exec(t, `UPDATE keys.owners SET status = 'ACTIVE'`)
	s.clock.Advance(day)
	require.Contains(t, refused(t, s, 400, contract.Authorize, good).Detail, "EXPIRED")
	require.EqualValues(t, 1, call(t, s, contract.Get, keyRequest(made.ID)).Version, "a refusal changes nothing")
}

func TestChange(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.create(t)
	events := s.events(t)
	later := s.clock.Now().Add(30 * day).UTC()
	got := call(t, s, contract.Change, contract.ChangeRequest{
		KeyRequest: keyRequest(made.ID), Description: new("nightly run"), ExpiresAt: new(later.Format(time.RFC3339Nano)),
		Limits: contract.Limits{
			RateLimit:    &access.RateLimit{RPS: 2.5, Burst: 10, Concurrent: 3},
			AllowedCIDRs: []string{"10.1.2.3/8", "10.0.0.0/8", "192.0.2.7", "2001:db8::1/32", "::ffff:192.0.2.7"},
		},
	})
	require.Equal(t, "nightly run", got.Description)
	require.Equal(t, later, got.ExpiresAt)
	require.Equal(t, &access.RateLimit{RPS: 2.5, Burst: 10, Concurrent: 3}, got.RateLimit)
	require.Equal(t, []string{"10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"}, got.AllowedCIDRs, "canonical, each once")
	require.JSONEq(t, cliPolicies, string(got.Authorizations))
	credential := s.grants(t, made.Value).Credential
	require.Equal(t, got.RateLimit, credential.RateLimit)
	require.Equal(t, got.AllowedCIDRs, credential.AllowedCIDRs)
	require.Equal(t, later, credential.ExpiresAt)
	p := told(t, events, contract.Updated, made.ID)
	require.EqualValues(t, 2, p.Version)
	require.Equal(t, later, p.ExpiresAt)

	// What is not named stays; an empty limit lifts it.
	got = call(t, s, contract.Change, contract.ChangeRequest{KeyRequest: keyRequest(made.ID), Limits: contract.Limits{RateLimit: &access.RateLimit{}}})
	require.Nil(t, got.RateLimit)
	require.Len(t, got.AllowedCIDRs, 3)
	got = call(t, s, contract.Change, contract.ChangeRequest{KeyRequest: keyRequest(made.ID), Limits: contract.Limits{AllowedCIDRs: []string{}}})
	require.Empty(t, got.AllowedCIDRs)
	require.Equal(t, "nightly run", got.Description)
	require.EqualValues(t, 4, got.Version)

	// The record outlives the new expiry, not the old one.
	var purge time.Time
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT deletes_at FROM keys.keys`).Scan(&purge))
	require.Equal(t, later.Add(2*day), purge.UTC())

	got = call(t, s, contract.Change, contract.ChangeRequest{KeyRequest: keyRequest(made.ID), ExpiresAt: new(s.clock.Now().Format(time.RFC3339Nano))})
	require.Equal(t, contract.Expired, got.Status)
	require.False(t, s.grants(t, made.Value).Known)
}

func TestKeyWorksFromItsStart(t *testing.T) {
	t.Parallel()
	s := start(t)
	req := s.wanted()
	begin := s.clock.Now().Add(time.Hour).UTC()
	req.NotBefore = begin.Format(time.RFC3339Nano)
	made := call(t, s, contract.Create, req)
	require.Equal(t, begin, *made.NotBefore)
	introspect := contract.IntrospectRequest{AudienceServiceID: access.FunctionsAudience, Key: made.Value}
	require.False(t, s.grants(t, made.Value).Known)
	refused(t, s, 404, contract.Introspect, introspect)
	s.clock.Advance(time.Hour)
	require.True(t, s.grants(t, made.Value).Known)
	call(t, s, contract.Introspect, introspect)
	call(t, s, contract.Change, contract.ChangeRequest{KeyRequest: keyRequest(made.ID), NotBefore: new(begin.Add(time.Minute).Format(time.RFC3339))})
	require.False(t, s.grants(t, made.Value).Known)
	got := call(t, s, contract.Change, contract.ChangeRequest{KeyRequest: keyRequest(made.ID), NotBefore: new(begin.Add(-time.Minute).Format(time.RFC3339))})
	require.Nil(t, got.NotBefore, "a start that has passed is no condition")
	require.True(t, s.grants(t, made.Value).Known)
}

func TestChangeRefusals(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.create(t)
	now := s.clock.Now()
	networks := func(list ...string) contract.Limits { return contract.Limits{AllowedCIDRs: list} }
	rate := func(r access.RateLimit) contract.Limits { return contract.Limits{RateLimit: &r} }
	for name, tc := range map[string]struct {
		field  string
		change contract.ChangeRequest
	}{
		"nothing":                    {"body", contract.ChangeRequest{}},
		"description empty":          {"description", contract.ChangeRequest{Description: new("")}},
		"description too long":       {"description", contract.ChangeRequest{Description: new(strings.Repeat("d", 65))}},
		"description of odd letters": {"description", contract.ChangeRequest{Description: new("a/b")}},
		"expiry no timestamp":        {"expires_at", contract.ChangeRequest{ExpiresAt: new("soon")}},
		"expiry empty":               {"expires_at", contract.ChangeRequest{ExpiresAt: new("")}},
		"expiry past":                {"expires_at", contract.ChangeRequest{ExpiresAt: new(now.Add(-time.Second).Format(time.RFC3339))}},
		"expiry too far":             {"expires_at", contract.ChangeRequest{ExpiresAt: new(now.Add(366 * day).Format(time.RFC3339))}},
		"start no timestamp":         {"not_before", contract.ChangeRequest{NotBefore: new("soon")}},
		"start after the end":        {"not_before", contract.ChangeRequest{NotBefore: new(now.Add(2 * day).Format(time.RFC3339))}},
		"rate negative":              {"rate_limit.rps", contract.ChangeRequest{Limits: rate(access.RateLimit{RPS: -1})}},
		"rate too large":             {"rate_limit.rps", contract.ChangeRequest{Limits: rate(access.RateLimit{RPS: 1e7})}},
		"burst negative":             {"rate_limit.burst", contract.ChangeRequest{Limits: rate(access.RateLimit{RPS: 1, Burst: -1})}},
		"burst without rate":         {"rate_limit.burst", contract.ChangeRequest{Limits: rate(access.RateLimit{Burst: 1})}},
		"concurrent negative":        {"rate_limit.concurrent", contract.ChangeRequest{Limits: rate(access.RateLimit{Concurrent: -1})}},
		"no network":                 {"allowed_cidrs", contract.ChangeRequest{Limits: networks("home")}},
		"empty network":              {"allowed_cidrs", contract.ChangeRequest{Limits: networks("")}},
		"prefix too long":            {"allowed_cidrs", contract.ChangeRequest{Limits: networks("10.0.0.0/33")}},
		"address with a zone":        {"allowed_cidrs", contract.ChangeRequest{Limits: networks("fe80::1%eth0")}},
		"mapped prefix":              {"allowed_cidrs", contract.ChangeRequest{Limits: networks("::ffff:10.0.0.0/104")}},
		"too many networks":          {"allowed_cidrs", contract.ChangeRequest{Limits: networks(strings.Split(strings.Repeat("10.0.0.0/8 ", 65), " ")[:65]...)}},
	} {
		tc.change.KeyRequest = keyRequest(made.ID)
		p := refused(t, s, 400, contract.Change, tc.change)
		require.Equal(t, tc.field, p.Violations[0].Field, name)
	}
	// The same rules hold at creation.
	req := s.wanted()
	req.Limits = networks("home")
	require.Equal(t, "allowed_cidrs", refused(t, s, 400, contract.Create, req).Violations[0].Field)
	req = s.wanted()
	req.NotBefore = "soon"
	require.Equal(t, "not_before", refused(t, s, 400, contract.Create, req).Violations[0].Field)

	good := contract.ChangeRequest{KeyRequest: keyRequest(uuid.NewString()), Description: new("x")}
	refused(t, s, 404, contract.Change, good)
	good.ID = "x"
	refused(t, s, 404, contract.Change, good)
	good.ID = made.ID
	s.exec(t, `UPDATE keys.keys SET status = 'SUSPENDED'`)
	require.Equal(t, problem.IllegalState, refused(t, s, 400, contract.Change, good).Code)
	require.EqualValues(t, 1, call(t, s, contract.Get, keyRequest(made.ID)).Version)
}

func TestRotateAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t)
	req := s.wanted()
	req.Limits = contract.Limits{RateLimit: &access.RateLimit{RPS: 5}, AllowedCIDRs: []string{"10.0.0.0/8"}}
	old := call(t, s, contract.Create, req)
	s.clock.Advance(time.Hour)
	events := s.events(t)
	made := call(t, s, contract.Rotate, contract.RotateRequest{KeyRequest: keyRequest(old.ID)})
	require.NotEqual(t, old.ID, made.ID)
	require.Regexp(t, `^nvapi-nvcf-stg-[A-Za-z0-9_-]{64}$`, made.Value)
	require.NotEqual(t, old.Value, made.Value)
	require.Equal(t, old.ID, made.RotatedFrom)
	require.Equal(t, old.ExpiresAt, made.ExpiresAt, "a rotation extends a life only when asked to")
	require.Equal(t, s.clock.Now().UTC(), made.CreatedAt)
	require.Equal(t, old.Authorizations, made.Authorizations)
	require.Equal(t, old.Audiences, made.Audiences)
	require.Equal(t, old.RateLimit, made.RateLimit)
	require.Equal(t, old.AllowedCIDRs, made.AllowedCIDRs)
	require.False(t, s.grants(t, old.Value).Known)
	require.True(t, s.grants(t, made.Value).Known)
	require.Equal(t, contract.Expired, call(t, s, contract.Get, keyRequest(old.ID)).Status)
	require.Equal(t, old.ID, call(t, s, contract.Get, keyRequest(made.ID)).RotatedFrom)
	told(t, events, contract.Created, made.ID)
	require.Equal(t, "rotated", told(t, events, contract.Revoked, old.ID).Reason)

	again := call(t, s, contract.Rotate, contract.RotateRequest{
		KeyRequest: keyRequest(made.ID), ExpiresAt: new(s.clock.Now().Add(90 * day).Format(time.RFC3339Nano)),
	})
	require.Equal(t, s.clock.Now().Add(90*day).UTC(), again.ExpiresAt)
	refused(t, s, 400, contract.Rotate, contract.RotateRequest{KeyRequest: keyRequest(made.ID)})
}

func TestRotateWithGrace(t *testing.T) {
	t.Parallel()
	s := start(t)
	var keys []contract.Key
	for range 8 {
		keys = append(keys, s.create(t))
	}
	old := keys[0]
	// With every slot taken, a rotation still works, because the old key gives up its own.
	made := call(t, s, contract.Rotate, contract.RotateRequest{KeyRequest: keyRequest(old.ID), GraceSeconds: new(int64(3600))})
	require.True(t, s.grants(t, old.Value).Known)
	require.True(t, s.grants(t, made.Value).Known)
	require.Equal(t, s.clock.Now().Add(time.Hour).UTC(), call(t, s, contract.Get, keyRequest(old.ID)).ExpiresAt)
	refused(t, s, 400, contract.Create, s.wanted())
	require.Len(t, call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()}).Keys, 9)

	require.Equal(t, problem.Conflict, refused(t, s, 409, contract.Rotate, contract.RotateRequest{KeyRequest: keyRequest(old.ID)}).Code)
	require.Equal(t, problem.Conflict, refused(t, s, 409, contract.Rotate, contract.RotateRequest{KeyRequest: keyRequest(made.ID)}).Code,
		"a chain of rotations would keep any number of keys alive")
	refused(t, s, 409, contract.Change, contract.ChangeRequest{KeyRequest: keyRequest(old.ID), ExpiresAt: new(s.clock.Now().Add(day).Format(time.RFC3339))})
	call(t, s, contract.Change, contract.ChangeRequest{KeyRequest: keyRequest(old.ID), Description: new("old")})

	s.clock.Advance(time.Hour)
	require.False(t, s.grants(t, old.Value).Known)
	events := s.events(t)
	reaper := NewReaper(newKeys(t, s, nil).store, s.clock, config(t), s.log)
	for range 2 {
		_, err := reaper.Reap(t.Context())
		require.NoError(t, err)
	}
	told(t, events, contract.Revoked, old.ID)
	again := call(t, s, contract.Rotate, contract.RotateRequest{KeyRequest: keyRequest(made.ID)})
	told(t, events, contract.Created, again.ID)
	for _, e := range events.kept {
		p, revoked := bus.As[contract.Changed](e, contract.Revoked)
		require.False(t, revoked && p.KeyID == old.ID, "the end of the grace is announced once")
	}
}

func TestGraceNeverExtendsALife(t *testing.T) {
	t.Parallel()
	s := start(t)
	old := s.create(t)
	call(t, s, contract.Rotate, contract.RotateRequest{KeyRequest: keyRequest(old.ID), GraceSeconds: new(int64(604800))})
	require.Equal(t, old.ExpiresAt, call(t, s, contract.Get, keyRequest(old.ID)).ExpiresAt)
}

func TestRotateRefusals(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.create(t)
	for name, tc := range map[string]struct {
		field string
		req   contract.RotateRequest
	}{
		"grace negative":      {"grace_seconds", contract.RotateRequest{GraceSeconds: new(int64(-1))}},
		"grace over a week":   {"grace_seconds", contract.RotateRequest{GraceSeconds: new(int64(604801))}},
		"expiry no timestamp": {"expires_at", contract.RotateRequest{ExpiresAt: new("x")}},
		"expiry past":         {"expires_at", contract.RotateRequest{ExpiresAt: new("2020-01-01T00:00:00Z")}},
		"expiry too far":      {"expires_at", contract.RotateRequest{ExpiresAt: new("2033-01-01T00:00:00Z")}},
	} {
		tc.req.KeyRequest = keyRequest(made.ID)
		require.Equal(t, tc.field, refused(t, s, 400, contract.Rotate, tc.req).Violations[0].Field, name)
	}
	for _, id := range []string{uuid.NewString(), "x", ""} {
		refused(t, s, 404, contract.Rotate, contract.RotateRequest{KeyRequest: keyRequest(id)})
	}
	refused(t, s, 404, contract.Rotate, contract.RotateRequest{KeyRequest: contract.KeyRequest{Issuer: tasksIssuer(), ID: made.ID}})
	s.exec(t, `UPDATE keys.keys SET status = 'SUSPENDED'`)
	refused(t, s, 400, contract.Rotate, contract.RotateRequest{KeyRequest: keyRequest(made.ID)})
	s.exec(t, `UPDATE keys.keys SET status = 'ACTIVE'`)
	s.clock.Advance(day)
	refused(t, s, 400, contract.Rotate, contract.RotateRequest{KeyRequest: keyRequest(made.ID)})
	require.Len(t, call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()}).Keys, 1)
}

func TestListInPages(t *testing.T) {
	t.Parallel()
	s := start(t)
	var want []string
	for range 5 {
		want = append(want, s.create(t).ID)
		s.clock.Advance(time.Millisecond)
	}
	var got []string
	req := contract.ListRequest{Issuer: functionsIssuer(), Page: contract.Page{Limit: new(2)}}
	for {
		page := call(t, s, contract.List, req)
		require.LessOrEqual(t, len(page.Keys), 2)
		for _, k := range page.Keys {
			got = append(got, k.ID)
		}
		if page.NextCursor == "" {
			break
		}
		req.Cursor = page.NextCursor
	}
	require.Equal(t, want, got)
	all := call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()})
	require.Len(t, all.Keys, 5)
	require.Empty(t, all.NextCursor, "only with a limit")
	for _, limit := range []int{0, -1, 1001} {
		bad := contract.ListRequest{Issuer: functionsIssuer(), Page: contract.Page{Limit: new(limit)}}
		require.Equal(t, "limit", refused(t, s, 400, contract.List, bad).Violations[0].Field)
	}
	for _, cursor := range []string{"!", "AAAA", "LQ", "MS54"} {
		bad := contract.ListRequest{Issuer: functionsIssuer(), Page: contract.Page{Cursor: cursor}}
		require.Equal(t, "cursor", refused(t, s, 400, contract.List, bad).Violations[0].Field)
	}
}

func FuzzCursor(f *testing.F) {
	f.Add("")
	f.Add(place{at: time.UnixMicro(1), id: noID}.cursor())
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, cursor string) {
		p, err := pageStart(contract.Page{Cursor: cursor})
		if err == nil && cursor != "" {
			require.True(t, isUUID(p.id))
			again, err := pageStart(contract.Page{Cursor: p.cursor()})
			require.NoError(t, err)
			require.Equal(t, p, again)
		}
	})
}

func FuzzNetworks(f *testing.F) {
	f.Add("10.0.0.0/8")
	f.Add("fe80::1%eth0")
	f.Fuzz(func(t *testing.T, text string) {
		networks, err := readNetworks([]string{text})
		if err == nil {
			again, err := readNetworks(networks)
			require.NoError(t, err)
			require.Equal(t, networks, again)
		}
	})
}
