package invocation

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestPositionOfARequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.NATS(t))
	w.start()
	r := request()
	_, err := call(w, platform, contract.Detach, r)
	require.NoError(t, err)
	ask := func(who access.Caller, id string) (contract.Position, error) {
		return call(w, who, contract.GetPosition, contract.PositionRequest{RequestID: id})
	}
	got, err := ask(admin(account), r.RequestID)
	require.NoError(t, err)
	wire, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, fmt.Sprintf(`{"functionId":%q,"functionVersionId":%q,"positionInQueue":0,"position":0}`, r.FunctionID, r.VersionID), string(wire))

	key := access.Caller{Kind: access.Key, Account: account, Grants: []access.Grant{{access.QueueDetails: {{Type: "function", ID: r.FunctionID + "/*"}}}}}
	_, err = ask(key, r.RequestID)
	require.NoError(t, err)
	key.Grants[0][access.QueueDetails][0].ID = uuid.NewString() + "/*"
	_, err = ask(key, r.RequestID)
	require.True(t, problem.HasCode(err, problem.ResourceNotCovered), "%v", err)
	_, err = ask(admin("bob"), r.RequestID)
	require.True(t, problem.HasCode(err, problem.NotFound), "%v", err)
	_, err = ask(admin(account), uuid.NewString())
	require.ErrorContains(t, err, "Not found")
	_, err = ask(admin(account), "nonsense")
	require.True(t, problem.HasCode(err, problem.Validation), "%v", err)

	_, err = call(w, platform, contract.Finish, contract.FinishRequest{RequestID: r.RequestID, Status: 200})
	require.NoError(t, err)
	_, err = ask(admin(account), r.RequestID)
	require.True(t, problem.HasCode(err, problem.IllegalState), "known, and in no queue any more: %v", err)
}

func TestWaitIsEstimatedFromTheSpeedOfTheQueue(t *testing.T) {
	t.Parallel()
	var s speeds
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	require.Nil(t, s.wait("v", 100, now), "nothing is known yet")
	require.Nil(t, s.wait("v", 120, now.Add(time.Second)), "it grew")
	require.Equal(t, int64(20), *s.wait("v", 100, now.Add(5*time.Second)), "20 in 4 seconds")
	require.Equal(t, int64(22), *s.wait("v", 110, now.Add(6*time.Second)), "the last speed counts while it grows")
	require.Zero(t, *s.wait("v", 0, now.Add(7*time.Second)))
	require.Nil(t, s.wait("v", 5, now.Add(time.Hour)), "what was long ago says nothing")
	require.Zero(t, *s.wait("other", 0, now))
}
