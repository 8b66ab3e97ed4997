package invocation

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	contract "github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestQueueFollowsTheDeployment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.NATS(t))
	w.start()
	w.start()
	v := w.deployed(uuid.NewString())
	require.NoError(t, w.ensure(v.VersionID), "asking for what exists is harmless")
	require.Equal(t, []string{"nvcf.invocations.queue_provisioned.v1"}, w.story(v.VersionID, 1))

	w.deployment(deployments.Removed, v)
	w.queueExists(v.VersionID, false)
	w.deployment(deployments.Created, v)
	w.queueExists(v.VersionID, true)
	require.Equal(t, []string{
		"nvcf.invocations.queue_provisioned.v1", "nvcf.invocations.queue_removed.v1", "nvcf.invocations.queue_provisioned.v1",
	}, w.story(v.VersionID, 3))

	f := bus.Fact{Account: account, Entity: v.VersionID, Refs: event.Refs{FunctionID: v.ID, VersionID: v.VersionID}}
	require.NoError(t, bus.Announce(t.Context(), w.conn, "functions", uuid.NewString(), functions.Deleted, f, functions.Changed{Function: v}))
	w.queueExists(v.VersionID, false)
	require.Len(t, w.story(v.VersionID, 4), 4)
	w.deployment(deployments.Removed, v)
	last := w.deployed(v.ID) // comes after the removal, so that one is done
	require.Len(t, w.story(last.VersionID, 1), 1)
	require.Len(t, w.story(v.VersionID, 4), 4, "a queue that is gone is not removed again")
}

func TestQueueIsMadeForWhoeverAsksBeforeTheEventCame(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.NATS(t))
	w.start()
	v := w.version(uuid.NewString(), functions.Deploying)
	var all sync.WaitGroup
	errs := make(chan error, 20)
	for range 20 {
		all.Go(func() {
			_, err := bus.Call(context.Background(), w.conn, contract.EnsureQueue, contract.QueueRequest{VersionID: v.VersionID})
			errs <- err
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.True(t, w.hasQueue(v.VersionID))
	w.deployment(deployments.Created, v)
	require.Equal(t, []string{"nvcf.invocations.queue_provisioned.v1"}, w.story(w.deployed(v.ID).VersionID, 1))
	require.Len(t, w.story(v.VersionID, 1), 1, "one queue, one event")

	for name, version := range map[string]string{
		"unknown": uuid.NewString(), "inactive": w.version(v.ID, functions.Inactive).VersionID, "failed": w.version(v.ID, functions.Error).VersionID,
	} {
		err := w.ensure(version)
		require.True(t, problem.HasCode(err, problem.NotFound), "%s: %v", name, err)
		require.False(t, w.hasQueue(version))
	}
	require.True(t, problem.HasCode(w.ensure("nonsense"), problem.Validation))
}

func TestQueuesComeBackAfterNATSLostThem(t *testing.T) {
	t.Parallel()
	nats := testkit.NATS(t)
	w := newWorld(t, nats)
	w.start()
	function := uuid.NewString()
	a, b := w.deployed(function), w.deployed(function)
	// A restart of NATS empties its memory; these two queues are all that it held there.
	require.NoError(t, w.conn.DeleteQueue(t.Context(), a.VersionID))
	require.NoError(t, w.conn.DeleteQueue(t.Context(), b.VersionID))
	require.NoError(t, w.ensure(a.VersionID), "who misses a queue has it at once")
	require.True(t, w.hasQueue(a.VersionID))
	w.queueExists(b.VersionID, true)
	require.Len(t, w.story(b.VersionID, 1), 1, "nothing changed that an event would tell of")
}

func TestQueueThatNobodyOwnsIsRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.NATS(t))
	stray := uuid.NewString()
	require.NoError(t, w.conn.EnsureQueue(t.Context(), stray)) // as a crash between a queue and its row leaves it
	w.start()
	w.queueExists(stray, false)
}

func TestDeploymentDuringAnOutageHasItsQueueAfterwards(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.NATS(t))
	stop := w.start()
	stop()
	v := w.version(uuid.NewString(), functions.Active)
	w.deployment(deployments.Created, v)
	w.start()
	w.queueExists(v.VersionID, true)
}

func TestDepth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.NATS(t))
	w.start()
	function := uuid.NewString()
	v, other := w.deployed(function), w.deployed(function)
	w.version(function, functions.Inactive)
	w.version(function, functions.Error)
	degraded := w.version(function, functions.Degraded)
	for i := range 3 {
		_, err := w.conn.Enqueue(t.Context(), v.VersionID, fmt.Sprint(i), []byte("offer"))
		require.NoError(t, err)
	}
	q, err := w.conn.OpenQueue(t.Context(), v.VersionID)
	require.NoError(t, err)
	taken, err := q.Take(1)
	require.NoError(t, err)
	require.Len(t, taken, 1)

	answer, err := call(w, admin(account), contract.QueueDepth, contract.DepthRequest{FunctionID: function})
	require.NoError(t, err)
	var listed []string
	for _, q := range answer.Queues {
		listed = append(listed, q.VersionID)
	}
	require.ElementsMatch(t, []string{v.VersionID, other.VersionID, degraded.VersionID}, listed)
	answer, err = call(w, admin(account), contract.QueueDepth, contract.DepthRequest{FunctionID: function, VersionID: v.VersionID})
	require.NoError(t, err)
	wire, err := json.Marshal(answer)
	require.NoError(t, err)
	require.JSONEq(t, fmt.Sprintf(`{"functionId":%q,"queues":[{"functionId":%[1]q,"functionVersionId":%q,"functionName":"echo",
		"functionStatus":"ACTIVE","queueDepth":2,"size":2,"inFlight":1}]}`, function, v.VersionID), string(wire))
}

func TestDepthOfWhatIsNotDeployedOrNotOnesOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.NATS(t))
	w.start()
	v := w.deployed(uuid.NewString())
	idle := w.version(uuid.NewString(), functions.Inactive)
	ask := func(who access.Caller, function, version string) error {
		_, err := call(w, who, contract.QueueDepth, contract.DepthRequest{FunctionID: function, VersionID: version})
		return err
	}
	for name, err := range map[string]error{
		"inactive":         ask(admin(account), idle.ID, ""),
		"inactive version": ask(admin(account), idle.ID, idle.VersionID),
		"unknown":          ask(admin(account), uuid.NewString(), ""),
		"somebody else's":  ask(admin("bob"), v.ID, ""),
	} {
		var p *problem.Problem
		require.ErrorAs(t, err, &p, name)
		require.Equal(t, problem.NotFound, p.Code, name)
		require.Equal(t, "Queue not found - Function is likely not deployed", p.Detail, name)
	}
	require.True(t, problem.HasCode(ask(admin(account), "nonsense", ""), problem.Validation))

	key := access.Caller{Kind: access.Key, Account: account, Grants: []access.Grant{{access.QueueDetails: {{Type: "function", ID: v.ID + "/*"}}}}}
	require.NoError(t, ask(key, v.ID, v.VersionID))
	key.Grants[0][access.QueueDetails][0].ID = uuid.NewString() + "/*"
	require.True(t, problem.HasCode(ask(key, v.ID, v.VersionID), problem.ResourceNotCovered))
}

func TestDepthOfAPublicFunctionIsForItsOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.NATS(t))
	w.start()
	v := w.deployed(uuid.NewString())
	w.mu.Lock()
	w.public = v.ID
	w.mu.Unlock()
	_, err := call(w, admin("bob"), contract.QueueDepth, contract.DepthRequest{FunctionID: v.ID})
	require.True(t, problem.HasCode(err, problem.IllegalState), "%v", err)
	_, err = call(w, admin(account), contract.QueueDepth, contract.DepthRequest{FunctionID: v.ID})
	require.NoError(t, err)
	super := admin("bob")
	super.CrossAccount = true
	_, err = call(w, super, contract.QueueDepth, contract.DepthRequest{FunctionID: v.ID})
	require.NoError(t, err)

	w.mu.Lock() // that it is public decides before that nothing of it is deployed
	v.Status = functions.Inactive
	w.versions[v.VersionID] = v
	w.mu.Unlock()
	_, err = call(w, admin("bob"), contract.QueueDepth, contract.DepthRequest{FunctionID: v.ID})
	require.True(t, problem.HasCode(err, problem.IllegalState), "%v", err)
	_, err = call(w, admin(account), contract.QueueDepth, contract.DepthRequest{FunctionID: v.ID})
	require.True(t, problem.HasCode(err, problem.NotFound), "%v", err)
}

// The service may be older or younger than NATS, and NATS may forget everything it has in memory at any time.
func TestServiceOutlivesNATS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := startNATS(t, dir, -1)
	var second restartable
	t.Cleanup(func() { second.stop() }) // after everybody has left
	w := newWorldOn(t, first.connect(t))
	w.start()
	v := w.deployed(uuid.NewString())
	first.stop()
	second = startNATS(t, dir, first.port)
	w.queueExists(v.VersionID, true)
}
