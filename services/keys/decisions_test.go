package keys

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// decide is what a gateway says about a request.
func (s *site) decide(t testing.TB, d access.Decision) {
	t.Helper()
	if d.Count == 0 {
		d.Count = 1
	}
	entity := d.Credential.KeyID
	if entity == "" {
		entity = "none"
	}
	require.NoError(t, bus.Announce(t.Context(), s.conn, "gateway", uuid.NewString(), access.Decided, bus.Fact{Account: access.DefaultAccount, Entity: entity}, d))
}

func letThrough(keyID string, at time.Time) access.Decision {
	return access.Decision{
		At: at, Service: "functions", Method: "POST", Route: "/v2/nvcf/pexec/functions/{f}", Decision: "allow", Reason: access.ReasonOK,
		Credential: access.Asker{Kind: access.Key, KeyID: keyID, OwnerID: owner, NCAID: access.DefaultAccount, Version: 1}, ClientIP: "10.0.0.9",
	}
}

// learned waits until n decisions are in the record.
func (s *site) learned(t testing.TB, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		var kept int
		require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM keys.decisions`).Scan(&kept))
		return kept == n
	}, waitUp, poll)
}

func TestLastUse(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.create(t)
	require.Nil(t, call(t, s, contract.Get, keyRequest(made.ID)).LastUsedAt)
	at := s.clock.Now().UTC()
	s.decide(t, letThrough(made.ID, at))
	denied := letThrough(made.ID, at.Add(10*time.Minute))
	denied.Decision, denied.Reason = "deny", access.ReasonScopeMissing
	s.decide(t, denied)
	soon := letThrough(made.ID, at.Add(30*time.Second))
	soon.ClientIP = "10.0.0.10"
	s.decide(t, soon)
	s.decide(t, letThrough(uuid.NewString(), at)) // a key that is gone
	s.decide(t, letThrough("", at))
	s.learned(t, 5)
	got := call(t, s, contract.Get, keyRequest(made.ID))
	require.Equal(t, at, *got.LastUsedAt, "refusals are no use, and use is noted once a minute")
	require.Equal(t, "10.0.0.9", got.LastUsedIP)
	require.Equal(t, "functions", got.LastUsedService)
	require.EqualValues(t, 1, got.Version, "use is no change")
	later := letThrough(made.ID, at.Add(time.Minute))
	later.ClientIP = "2001:db8::1"
	s.decide(t, later)
	s.decide(t, letThrough(made.ID, at)) // one that was on its way for long
	s.learned(t, 7)
	listed := call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()}).Keys
	require.Equal(t, at.Add(time.Minute), *listed[0].LastUsedAt)
	require.Equal(t, "2001:db8::1", listed[0].LastUsedIP)
	call(t, s, contract.Delete, keyRequest(made.ID))
}

func TestDecisionsCanBeAskedFor(t *testing.T) {
	t.Parallel()
	s := start(t)
	at := s.clock.Now().UTC()
	first, second := uuid.NewString(), uuid.NewString()
	for i := range 5 {
		d := letThrough(first, at.Add(time.Duration(i)*time.Second))
		d.Target = access.Target{Type: "function", ID: fmt.Sprint(i)}
		s.decide(t, d)
	}
	refusal := letThrough(second, at)
	refusal.Decision, refusal.Reason, refusal.Count = "deny", access.ReasonScopeMissing, 7
	refusal.RequiredScopes = []access.Scope{access.DeployFunction, access.ListFunctions}
	refusal.Credential.OwnerID = "team-b"
	s.decide(t, refusal)
	s.learned(t, 6)

	ask := func(req contract.DecisionsRequest) []contract.RecordedDecision {
		t.Helper()
		return call(t, s, contract.Decisions, req).Decisions
	}
	require.Len(t, ask(contract.DecisionsRequest{}), 6)
	require.Len(t, ask(contract.DecisionsRequest{KeyID: first}), 5)
	require.Len(t, ask(contract.DecisionsRequest{OwnerID: owner}), 5)
	require.Len(t, ask(contract.DecisionsRequest{Decision: "allow"}), 5)
	require.Empty(t, ask(contract.DecisionsRequest{KeyID: first, Decision: "deny"}))
	require.Empty(t, ask(contract.DecisionsRequest{KeyID: "a\x00b"}))
	got := ask(contract.DecisionsRequest{Decision: "deny"})
	require.Len(t, got, 1)
	require.NoError(t, uuid.Validate(got[0].EventID))
	require.Equal(t, refusal, got[0].Decision)
	b, err := json.Marshal(got[0])
	require.NoError(t, err)
	require.Contains(t, string(b), `"reason":"scope_missing"`)
	require.Contains(t, string(b), `"count":7`)

	require.Len(t, ask(contract.DecisionsRequest{Since: at.Add(3 * time.Second).Format(time.RFC3339Nano)}), 2)
	require.Len(t, ask(contract.DecisionsRequest{Until: at.Add(time.Second).Format(time.RFC3339Nano)}), 2, "until is exclusive")

	var targets []string
	req := contract.DecisionsRequest{KeyID: first, Page: contract.Page{Limit: new(2)}}
	for {
		page := call(t, s, contract.Decisions, req)
		for _, d := range page.Decisions {
			targets = append(targets, d.Target.ID)
		}
		if page.NextCursor == "" {
			break
		}
		req.Cursor = page.NextCursor
	}
	require.Equal(t, []string{"4", "3", "2", "1", "0"}, targets, "newest first")

	for field, req := range map[string]contract.DecisionsRequest{
		"decision": {Decision: "maybe"}, "since": {Since: "yesterday"}, "until": {Until: "now"},
		"limit": {Page: contract.Page{Limit: new(0)}}, "cursor": {Page: contract.Page{Cursor: "!"}},
	} {
		require.Equal(t, field, refused(t, s, 400, contract.Decisions, req).Violations[0].Field)
	}
	refused(t, s, 400, contract.Decisions, contract.DecisionsRequest{Page: contract.Page{Limit: new(1001)}})
}

func TestRepeatedDecisionIsKeptOnce(t *testing.T) {
	t.Parallel()
	s := start(t)
	decisions := NewDecisions(newKeys(t, s, nil).store, s.clock)
	made := s.create(t)
	d := letThrough(made.ID, s.clock.Now())
	for range 2 {
		require.NoError(t, decisions.store.tx(t.Context(), func(tx pgx.Tx) error {
			return decisions.Learn(t.Context(), tx, event.Envelope{ID: "same"}, d)
		}))
	}
	s.learned(t, 1)
}

func TestDecisionsAreForgotten(t *testing.T) {
	t.Parallel()
	s := start(t)
	now := s.clock.Now()
	s.exec(t, `INSERT INTO keys.decisions (event_id, at, key_id, owner_id, decision, document)
		SELECT n::text, $1::timestamptz - n * interval '1 day', '', '', 'allow', '{}' FROM generate_series(0, 40) n`, now)
	reaper := NewReaper(newKeys(t, s, nil).store, s.clock, config(t), s.log)
	_, err := reaper.Reap(t.Context())
	require.NoError(t, err)
	s.learned(t, 31)
	_, err = reaper.store.forgetDecisions(t.Context(), time.Time{}, 10, 1000)
	require.NoError(t, err)
	var most int
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM keys.decisions`).Scan(&most))
	require.LessOrEqual(t, most, 10, "and bounded by number")
}

func TestActiveKeysAreCounted(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.create(t)
	s.create(t)
	s.taskKey(t)
	s.setStatus(t, made.ID, contract.Suspended)
	counts, err := newKeys(t, s, nil).store.activeKeys(t.Context(), s.clock.Now())
	require.NoError(t, err)
	require.Equal(t, map[string]int{"nvcf-api": 1, "nvct-api": 1, "event-ledger": 0}, counts)
}
