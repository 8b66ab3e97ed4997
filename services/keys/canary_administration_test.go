package keys

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// TestNoSecretOfAdministrationLeavesTheAnswer does the same for everything that is done with a key after its creation,
// also when a key is put where a name belongs.
func TestNoSecretOfAdministrationLeavesTheAnswer(t *testing.T) {
	t.Parallel()
	s := start(t)
	events := s.everyEvent(t)
	req := s.wanted()
	req.IdempotencyKey = "retry-1"
	made := call(t, s, contract.Create, req)
	call(t, s, contract.Create, req)
	s.clock.Advance(time.Minute)
	call(t, s, contract.Authorize, contract.AuthorizeRequest{KeyRequest: keyRequest(made.ID), Authorizations: json.RawMessage(invokePolicies)})
	call(t, s, contract.Change, contract.ChangeRequest{KeyRequest: keyRequest(made.ID), Description: new("x")})
	rotated := call(t, s, contract.Rotate, contract.RotateRequest{KeyRequest: keyRequest(made.ID), GraceSeconds: new(int64(60))})
	hosted := call(t, s, contract.CreateHosted, s.registration(edgeCluster)).APIKey.Value
	values := []string{made.Value, rotated.Value, hosted, flip(made.Value, 20)}
	for _, key := range values {
		s.evaluate(t, key)
		_, _ = bus.Call(t.Context(), s.conn, contract.Lookup, contract.LookupRequest{Key: key})
		for _, id := range []string{key, made.ID} {
			_, _ = bus.Call(t.Context(), s.conn, contract.OwnersKey, contract.OwnersKeyRequest{ServiceID: access.FunctionsAudience, OwnerID: key, ID: id})
			_, _ = bus.Call(t.Context(), s.conn, contract.Rotate, contract.RotateRequest{KeyRequest: keyRequest(key), ExpiresAt: &key})
			_, _ = bus.Call(t.Context(), s.conn, contract.Change, contract.ChangeRequest{KeyRequest: keyRequest(id), Limits: contract.Limits{AllowedCIDRs: []string{key}}})
			_, _ = bus.Call(t.Context(), s.conn, contract.SetKeyStatus, contract.KeyStatusRequest{OwnersKeyRequest: ownersKey(id), Status: key})
			_, _ = bus.Call(t.Context(), s.conn, contract.SetOwnerStatus, contract.OwnerStatusRequest{OwnerRequest: contract.OwnerRequest{OwnerID: key}, Status: "SUSPENDED"})
		}
		_, _ = bus.Call(t.Context(), s.conn, contract.Decisions, contract.DecisionsRequest{KeyID: key, Since: key})
		_, _ = bus.Call(t.Context(), s.conn, contract.GetAccount, contract.AccountRequest{NCAID: key})
		_, err := bus.Call(t.Context(), s.conn, contract.GetOwner, contract.OwnerRequest{OwnerID: key})
		require.NotContains(t, err.Error(), key, "nor is it repeated")
		call(t, s, contract.ReportLeak, contract.LookupRequest{Key: key})
	}
	s.setStatus(t, rotated.ID, contract.Active)
	call(t, s, contract.DeleteOwnerKeys, contract.OwnerRequest{OwnerID: owner})

	var said strings.Builder
	for last := ""; last != contract.Restored.Type(); {
		e := next(t, events)
		b, err := json.Marshal(e)
		require.NoError(t, err)
		said.Write(b)
		last = e.Type
	}
	dump, logs := s.dump(t), s.logs.String()
	require.Contains(t, said.String(), rotated.ID)
	require.Contains(t, dump, edgeCluster)
	for i, key := range values {
		for _, needle := range []string{key, key[len("nvapi-nvcf-stg-") : len(key)-tailLength]} {
			require.NotContains(t, dump, needle, "database, key %d", i)
			require.NotContains(t, said.String(), needle, "events, key %d", i)
			require.NotContains(t, logs, needle, "logs, key %d", i)
		}
	}
}
