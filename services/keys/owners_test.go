package keys

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

func ownersKey(id string) contract.OwnersKeyRequest {
	return contract.OwnersKeyRequest{ServiceID: access.FunctionsAudience, OwnerID: owner, ID: id}
}

func (s *site) setStatus(t *testing.T, id string, status contract.Status) contract.Key {
	t.Helper()
	return call(t, s, contract.SetKeyStatus, contract.KeyStatusRequest{OwnersKeyRequest: ownersKey(id), Status: string(status)})
}

// taskKey makes a key of the same owner at another service.
func (s *site) taskKey(t testing.TB) contract.Key {
	t.Helper()
	req := s.wanted()
	req.Issuer, req.Audiences = tasksIssuer(), nil
	return call(t, s, contract.Create, req)
}

func TestServiceAdministratorSeesItsOwnKeysOnly(t *testing.T) {
	t.Parallel()
	s := start(t)
	made, other := s.create(t), s.taskKey(t)
	list := contract.OwnersKeysRequest{ServiceID: access.FunctionsAudience, OwnerID: owner}
	s.exec(t, `UPDATE keys.owners SET status = 'SUSPENDED'`) // no obstacle for an administrator
	found := call(t, s, contract.OwnersKeys, list).Keys
	require.Len(t, found, 1)
	require.Equal(t, made.ID, found[0].ID)
	require.Nil(t, found[0].Authorizations)
	got := call(t, s, contract.OwnersKey, ownersKey(made.ID))
	require.JSONEq(t, cliPolicies, string(got.Authorizations))
	require.NotEqual(t, made.Value, got.Value)
	for _, id := range []string{other.ID, uuid.NewString(), "x"} {
		refused(t, s, 404, contract.OwnersKey, ownersKey(id))
		refused(t, s, 404, contract.DeleteOwnersKey, ownersKey(id))
		refused(t, s, 404, contract.SetKeyStatus, contract.KeyStatusRequest{OwnersKeyRequest: ownersKey(id), Status: "SUSPENDED"})
	}
	call(t, s, contract.DeleteOwnersKey, ownersKey(made.ID))
	refused(t, s, 404, contract.DeleteOwnersKey, ownersKey(made.ID))
	require.Empty(t, call(t, s, contract.OwnersKeys, list).Keys)
	list.OwnerID = "nobody"
	require.Empty(t, call(t, s, contract.OwnersKeys, list).Keys)
	require.Empty(t, call(t, s, contract.SuspendKeys, list).Keys)
	for _, service := range []string{"", " ", "someone", "a\x00b"} {
		bad := contract.OwnersKeysRequest{ServiceID: service, OwnerID: owner}
		require.Equal(t, "Key-Issuer-Id", refused(t, s, 400, contract.OwnersKeys, bad).Violations[0].Field)
		refused(t, s, 400, contract.SuspendKeys, bad)
		refused(t, s, 400, contract.OwnersKey, contract.OwnersKeyRequest{ServiceID: service, OwnerID: owner, ID: made.ID})
	}
}

func TestKeyStatusTransitions(t *testing.T) {
	t.Parallel()
	s := start(t)
	events := s.events(t)
	made := s.create(t)
	refuse := func(status string) {
		t.Helper()
		refused(t, s, 400, contract.SetKeyStatus, contract.KeyStatusRequest{OwnersKeyRequest: ownersKey(made.ID), Status: status})
	}
	for _, status := range []string{"", "EXPIRED", "suspended", "DELETED"} {
		refuse(status)
	}
	refuse("ACTIVE")
	require.Equal(t, contract.Suspended, s.setStatus(t, made.ID, contract.Suspended).Status)
	require.EqualValues(t, 2, told(t, events, contract.Revoked, made.ID).Version)
	refuse("SUSPENDED")
	require.False(t, s.grants(t, made.Value).Known)
	require.Equal(t, contract.Active, s.setStatus(t, made.ID, contract.Active).Status)
	require.EqualValues(t, 3, told(t, events, contract.Restored, made.ID).Version)
	require.True(t, s.grants(t, made.Value).Known)
	s.clock.Advance(day)
	refuse("ACTIVE")
	require.Equal(t, contract.Suspended, s.setStatus(t, made.ID, contract.Suspended).Status)
	require.Equal(t, contract.Expired, s.setStatus(t, made.ID, contract.Active).Status, "activation does not extend a life")
}

func TestSuspendEveryKeyOfAService(t *testing.T) {
	t.Parallel()
	s := start(t)
	events := s.events(t)
	first, second, other := s.create(t), s.create(t), s.taskKey(t)
	got := call(t, s, contract.SuspendKeys, contract.OwnersKeysRequest{ServiceID: access.FunctionsAudience, OwnerID: owner}).Keys
	require.Len(t, got, 2)
	for _, k := range got {
		require.Equal(t, contract.Suspended, k.Status)
	}
	told(t, events, contract.Revoked, first.ID)
	told(t, events, contract.Revoked, second.ID)
	require.False(t, s.grants(t, first.Value).Known)
	require.True(t, s.grants(t, other.Value).Known)
	require.Len(t, call(t, s, contract.SuspendKeys, contract.OwnersKeysRequest{ServiceID: access.FunctionsAudience, OwnerID: owner}).Keys, 2)
}

func TestSuspendedOwner(t *testing.T) {
	t.Parallel()
	s := start(t)
	events := s.events(t)
	made, other := s.create(t), s.taskKey(t)
	stopped := s.create(t)
	s.setStatus(t, stopped.ID, contract.Suspended)
	began := s.clock.Now().UTC()
	got := call(t, s, contract.GetOwner, contract.OwnerRequest{OwnerID: owner})
	require.Equal(t, contract.Owner{OwnerType: "USER", OwnerID: owner, Status: contract.Active, StatusUpdatedAt: began}, got)
	b, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, `{"owner_type":"USER","owner_id":"team-a@corp.example","status":"ACTIVE","status_updated_at":"2031-05-01T08:00:00.125Z"}`, string(b))

	s.clock.Advance(time.Minute)
	set := func(status string) contract.Owner {
		t.Helper()
		return call(t, s, contract.SetOwnerStatus, contract.OwnerStatusRequest{OwnerRequest: contract.OwnerRequest{OwnerID: owner}, Status: status})
	}
	require.Equal(t, contract.Owner{OwnerType: "USER", OwnerID: owner, Status: contract.Suspended, StatusUpdatedAt: s.clock.Now().UTC()}, set("SUSPENDED"))
	moved := func() contract.OwnerStatus {
		t.Helper()
		p, ok := bus.As[contract.OwnerStatus](find(t, events, func(e event.Envelope) bool { return e.Type == contract.OwnerMoved.Type() }), contract.OwnerMoved)
		require.True(t, ok)
		return p
	}
	require.Equal(t, contract.OwnerStatus{OwnerType: "USER", OwnerID: owner, Status: contract.Suspended}, moved())
	for _, ended := range []string{made.ID, other.ID} {
		require.Equal(t, "owner_suspended", told(t, events, contract.Revoked, ended).Reason)
	}
	require.NotEqual(t, "owner_suspended", told(t, events, contract.Revoked, stopped.ID).Reason)

	s.clock.Advance(time.Minute)
	require.Equal(t, began.Add(time.Minute), set("SUSPENDED").StatusUpdatedAt, "setting it again changes nothing")
	require.False(t, s.grants(t, made.Value).Known)
	refused(t, s, 404, contract.Introspect, contract.IntrospectRequest{AudienceServiceID: access.FunctionsAudience, Key: made.Value})
	require.False(t, s.evaluate(t, made.Value).Result.Allowed)
	for _, err := range []problem.Problem{
		refused(t, s, 403, contract.Create, s.wanted()),
		refused(t, s, 403, contract.List, contract.ListRequest{Issuer: functionsIssuer()}),
		refused(t, s, 403, contract.Get, keyRequest(made.ID)),
		refused(t, s, 403, contract.Delete, keyRequest(made.ID)),
		refused(t, s, 403, contract.Authorize, contract.AuthorizeRequest{KeyRequest: keyRequest(made.ID), Authorizations: json.RawMessage("{}")}),
		refused(t, s, 403, contract.Change, contract.ChangeRequest{KeyRequest: keyRequest(made.ID), Description: new("x")}),
		refused(t, s, 403, contract.Rotate, contract.RotateRequest{KeyRequest: keyRequest(made.ID)}),
	} {
		require.Equal(t, "the owner is suspended", err.Detail)
	}
	require.Len(t, call(t, s, contract.OwnerKeys, contract.OwnerKeysRequest{OwnerRequest: contract.OwnerRequest{OwnerID: owner}}).Keys, 3)
	call(t, s, contract.OwnersKey, ownersKey(made.ID))

	set("ACTIVE")
	require.Equal(t, contract.Active, moved().Status)
	told(t, events, contract.Restored, made.ID)
	require.True(t, s.grants(t, made.Value).Known)
	require.True(t, s.grants(t, other.Value).Known)
	require.False(t, s.grants(t, stopped.Value).Known, "a key that was itself suspended stays so")
	require.Equal(t, made.ID, call(t, s, contract.Get, keyRequest(made.ID)).ID)
}

func TestPlatformAdministratorRefusals(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.create(t)
	for _, status := range []string{"", "EXPIRED", "active"} {
		p := refused(t, s, 400, contract.SetOwnerStatus, contract.OwnerStatusRequest{OwnerRequest: contract.OwnerRequest{OwnerID: owner}, Status: status})
		require.Equal(t, "status", p.Violations[0].Field)
	}
	for _, id := range []string{"nobody", "", "a\x00b"} {
		req := contract.OwnerRequest{OwnerID: id}
		refused(t, s, 404, contract.GetOwner, req)
		refused(t, s, 404, contract.SetOwnerStatus, contract.OwnerStatusRequest{OwnerRequest: req, Status: "SUSPENDED"})
		refused(t, s, 404, contract.OwnerKeys, contract.OwnerKeysRequest{OwnerRequest: req})
		refused(t, s, 404, contract.DeleteOwnerKeys, req)
	}
}

func TestDeleteEveryKeyOfAnOwner(t *testing.T) {
	t.Parallel()
	s := start(t)
	events := s.events(t)
	made, other := s.create(t), s.taskKey(t)
	req := contract.OwnerRequest{OwnerID: owner}
	call(t, s, contract.DeleteOwnerKeys, req)
	told(t, events, contract.Revoked, made.ID)
	told(t, events, contract.Revoked, other.ID)
	require.False(t, s.grants(t, made.Value).Known)
	require.Empty(t, call(t, s, contract.OwnerKeys, contract.OwnerKeysRequest{OwnerRequest: req}).Keys)
	require.Empty(t, call(t, s, contract.DeleteOwnerKeys, req).Pending) // a second time changes nothing
}

func TestLookup(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.create(t)
	got := call(t, s, contract.Lookup, contract.LookupRequest{Key: made.Value})
	require.Equal(t, made.ID, got.ID)
	b, err := json.Marshal(got)
	require.NoError(t, err)
	require.NotContains(t, string(b), `"value"`)
	require.NotContains(t, string(b), `"authorizations"`)
	s.setStatus(t, made.ID, contract.Suspended)
	require.Equal(t, contract.Suspended, call(t, s, contract.Lookup, contract.LookupRequest{Key: made.Value}).Status)
	for _, key := range []string{"", "nvapi-x", flip(made.Value, 20)} {
		p := refused(t, s, 400, contract.Lookup, contract.LookupRequest{Key: key})
		require.Equal(t, "key", p.Violations[0].Field)
	}
	call(t, s, contract.DeleteOwnersKey, ownersKey(made.ID))
	refused(t, s, 404, contract.Lookup, contract.LookupRequest{Key: made.Value})
}

func TestReportedLeakSuspendsAndTellsNothing(t *testing.T) {
	t.Parallel()
	s := start(t)
	events := s.events(t)
	made := s.create(t)
	for _, key := range []string{made.Value, made.Value, flip(made.Value, 20), "nvapi-x"} {
		call(t, s, contract.ReportLeak, contract.LookupRequest{Key: key})
	}
	require.Equal(t, "leaked", told(t, events, contract.Revoked, made.ID).Reason)
	require.False(t, s.grants(t, made.Value).Known)
	require.EqualValues(t, 2, call(t, s, contract.Get, keyRequest(made.ID)).Version)
	refused(t, s, 400, contract.ReportLeak, contract.LookupRequest{})
}

func (s *site) evaluate(t testing.TB, key string) contract.EvaluateResponse {
	t.Helper()
	return call(t, s, contract.Evaluate, contract.EvaluateRequest{Namespace: "nvcf", Rule: "apikey.allow", Input: contract.EvaluateInput{APIKey: key}})
}

func TestEvaluate(t *testing.T) {
	t.Parallel()
	s := start(t)
	req := s.wanted()
	req.Authorizations = json.RawMessage(`{"policies":[{"aud":"other","scopes":["x"]},` +
		`{"product":"nv-cloud-tasks","scopes":["launch_task"]},` +
		`{"product":"nv-cloud-functions","scopes":["list_functions"]},` +
		`{"auds":["nvidia-cloud-functions-ncp-service-id-aketm"],"scopes":["deploy_function"],"unknown":1},` +
		`{"aud":"nvidia-cloud-functions-ncp-service-id-aketm","scopes":["invoke_function"]}]}`)
	made := call(t, s, contract.Create, req)
	got := s.evaluate(t, made.Value)
	require.Equal(t, "max-age=60", got.CacheControl)
	require.Equal(t, "nvcf", got.Namespace)
	require.Equal(t, "apikey.allow", got.RuleName)
	r := got.Result
	require.True(t, r.Allowed)
	require.Equal(t, access.DefaultAccount, r.NCAID)
	require.Equal(t, owner, r.OwnerID)
	require.Equal(t, made.ID, r.KeyID)
	require.EqualValues(t, 1, r.Version)
	require.Equal(t, made.ExpiresAt, *r.ExpiresAt)
	require.Equal(t, s.clock.Now().UTC(), *r.AsOf)
	require.JSONEq(t, `{"product":"nv-cloud-functions","scopes":["list_functions"]}`, string(r.Policy))
	require.Len(t, r.Policies, 3)
	require.Contains(t, string(r.Policies[1]), `"unknown":1`)

	refusal := `{"namespace":"nvcf","rule_name":"apikey.allow","result":{"allowed":false}}`
	for name, key := range map[string]string{"malformed": "nvapi-x", "flipped": flip(made.Value, 20), "token": "eyJ.e30.x"} {
		got := s.evaluate(t, key)
		got.CacheControl = ""
		b, err := json.Marshal(got)
		require.NoError(t, err)
		require.Equal(t, refusal, string(b), name)
	}
	ask := func(namespace string) bool {
		return call(t, s, contract.Evaluate, contract.EvaluateRequest{Namespace: namespace, Rule: "a-b_c.allow", Input: contract.EvaluateInput{APIKey: made.Value}}).Result.Allowed
	}
	require.False(t, ask("nvct"), "the key was not made for tasks")
	require.False(t, ask("event-ledger"))
	for _, tc := range []struct {
		field string
		req   contract.EvaluateRequest
	}{
		{"namespace", contract.EvaluateRequest{Namespace: "x", Rule: "apikey.allow", Input: contract.EvaluateInput{APIKey: made.Value}}},
		{"rule", contract.EvaluateRequest{Namespace: "nvcf", Rule: "x.deny", Input: contract.EvaluateInput{APIKey: made.Value}}},
		{"rule", contract.EvaluateRequest{Namespace: "nvcf", Rule: ".allow", Input: contract.EvaluateInput{APIKey: made.Value}}},
		{"rule", contract.EvaluateRequest{Namespace: "nvcf", Rule: "a b.allow", Input: contract.EvaluateInput{APIKey: made.Value}}},
		{"input.apiKey", contract.EvaluateRequest{Namespace: "nvcf", Rule: "apikey.allow"}},
	} {
		require.Equal(t, tc.field, refused(t, s, 400, contract.Evaluate, tc.req).Violations[0].Field)
	}
	call(t, s, contract.Delete, keyRequest(made.ID))
	require.False(t, s.evaluate(t, made.Value).Result.Allowed)
}
