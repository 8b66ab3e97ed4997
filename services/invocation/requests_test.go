package invocation

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func request() contract.DetachRequest {
	return contract.DetachRequest{
		RequestID: uuid.NewString(), Account: account, Subject: "someone", FunctionID: uuid.NewString(), VersionID: uuid.NewString(),
		Worker: "agent.node-1", At: time.Now().UTC().Truncate(time.Microsecond),
	}
}

func (w *world) find(who access.Caller, id string) (contract.RequestRecord, error) {
	w.t.Helper()
	return call(w, who, contract.Find, contract.RequestQuery{RequestID: id})
}

func (w *world) requireUnknown(who access.Caller, id string) {
	w.t.Helper()
	_, err := w.find(who, id)
	require.True(w.t, problem.HasCode(err, problem.NotFound), "%v", err)
	require.ErrorContains(w.t, err, id)
}

func TestDetachedRequestIsFoundUntilItIsFinished(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.NATS(t))
	stop := w.start()
	r := request()
	_, err := call(w, platform, contract.Detach, r)
	require.NoError(t, err)
	stop() // any replica, at any time later, knows it
	w.start()

	record, err := w.find(admin(account), r.RequestID)
	require.NoError(t, err)
	require.Equal(t, r, record.DetachRequest)
	require.Equal(t, Detached, record.State)
	require.WithinDuration(t, time.Now().Add(contract.Remembered), record.ExpiresAt, time.Minute)
	w.requireUnknown(admin("bob"), r.RequestID)
	w.requireUnknown(access.Caller{Kind: access.Key, Account: "bob"}, r.RequestID)
	w.requireUnknown(admin(account), uuid.NewString())
	w.requireUnknown(admin(account), "nonsense\x00")

	moved := r
	moved.Worker = "agent.node-2"
	_, err = call(w, platform, contract.Detach, moved)
	require.NoError(t, err, "telling again is harmless")
	again, err := w.find(admin(account), r.RequestID)
	require.NoError(t, err)
	require.Equal(t, moved.Worker, again.Worker)
	require.Equal(t, record.ExpiresAt, again.ExpiresAt, "the hour counts from the first 202")

	for range 2 {
		_, err = call(w, platform, contract.Finish, contract.FinishRequest{RequestID: r.RequestID, Status: 200})
		require.NoError(t, err)
	}
	w.requireUnknown(admin(account), r.RequestID)
	_, err = call(w, platform, contract.Detach, r)
	require.True(t, problem.HasCode(err, problem.Conflict), "a finished request does not come back: %v", err)
	_, err = call(w, platform, contract.Finish, contract.FinishRequest{RequestID: uuid.NewString()})
	require.True(t, problem.HasCode(err, problem.NotFound))
	require.Equal(t, []string{"nvcf.invocations.request_detached.v1", "nvcf.invocations.request_finished.v1"}, w.story(r.RequestID, 2))
}

func TestRequestIDOfAnotherAccountCannotBeTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.NATS(t))
	w.start()
	r := request()
	_, err := call(w, platform, contract.Detach, r)
	require.NoError(t, err)
	r.Account = "bob"
	_, err = call(w, platform, contract.Detach, r)
	require.True(t, problem.HasCode(err, problem.Conflict), "%v", err)
	w.requireUnknown(admin("bob"), r.RequestID)
}

func TestExpiredRequestIsUnknownAndDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.NATS(t))
	stop := w.start()
	r, kept := request(), request()
	for _, r := range []contract.DetachRequest{r, kept} {
		_, err := call(w, platform, contract.Detach, r)
		require.NoError(t, err)
	}
	_, err := w.pool.Exec(t.Context(), `UPDATE invocation.requests SET expires_at = now() - interval '1 second' WHERE request_id = $1`, r.RequestID)
	require.NoError(t, err)
	w.requireUnknown(admin(account), r.RequestID)
	stop()
	w.start() // looks for expired records first of all
	var left []string
	require.Eventually(t, func() bool {
		require.NoError(t, w.pool.QueryRow(t.Context(), `SELECT array_agg(request_id) FROM invocation.requests`).Scan(&left))
		return len(left) == 1
	}, patience, tick)
	require.Equal(t, []string{kept.RequestID}, left)
}

func TestIncompleteRecordsNameTheField(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.NATS(t))
	w.start()
	_, err := call(w, platform, contract.Detach, contract.DetachRequest{RequestID: "x"})
	var p *problem.Problem
	require.ErrorAs(t, err, &p)
	var fields []string
	for _, v := range p.Violations {
		fields = append(fields, v.Field)
	}
	require.Equal(t, []string{"requestId", "functionId", "versionId", "account", "worker"}, fields)
}
