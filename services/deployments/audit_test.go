package deployments

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// Whoever asks later finds out who did what to a deployment, with the state before and after it.
func TestWhatIsDoneToADeploymentIsRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 4))
	var mu sync.Mutex
	heard := map[string]event.Envelope{}
	testkit.Watch(t, w.conn, event.Deployments, func(env event.Envelope) {
		mu.Lock()
		defer mu.Unlock()
		heard[env.Type] = env
	})
	await := func(name string) (env event.Envelope) {
		t.Helper()
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			var found bool
			env, found = heard[name]
			return found
		}, soon, 5*time.Millisecond, name)
		require.Equal(t, "root", env.Actor.ID, name)
		return env
	}
	w.start()
	f := w.version()
	super := as(t.Context(), func(c *access.Caller) { c.CrossAccount, c.Subject = true, "root" })
	made, err := bus.Call(super, w.conn, contract.Create, contract.CreateRequest{FunctionID: f.ID, VersionID: f.VersionID, Specifications: []contract.Specification{one(1, 2)}})
	require.NoError(t, err)
	created, ok := bus.As[contract.Changed](await(contract.Created.Type()), contract.Created)
	require.True(t, ok)
	require.Nil(t, created.Before, "there was none")
	w.becomes(f, functions.Active)
	first := w.launch()

	_, err = bus.Call(super, w.conn, contract.Patch, contract.PatchRequest{DeploymentID: made.Deployment.ID, ID: made.Deployment.Specifications[0].ID, MaxInstances: new(3)})
	require.NoError(t, err)
	updated, ok := bus.As[contract.Changed](await(contract.Updated.Type()), contract.Updated)
	require.True(t, ok)
	require.Equal(t, 2, *updated.Before.Specifications[0].MaxInstances)
	require.Equal(t, 3, *updated.Deployment.Specifications[0].MaxInstances)

	_, err = bus.Call(super, w.conn, contract.RollOver, contract.RolloverRequest{FunctionID: f.ID, VersionID: f.VersionID})
	require.NoError(t, err)
	rolled, ok := bus.As[contract.InstancesOrdered](await(contract.RolledOver.Type()), contract.RolledOver)
	require.True(t, ok)
	require.Len(t, rolled.Instances, 1)
	require.Equal(t, first.order.InstanceID, rolled.Instances[0].InstanceID)
	second := w.launch()
	require.Equal(t, first.order.InstanceID, w.end().order.InstanceID)
	w.becomes(f, functions.Active)

	_, err = bus.Call(super, w.conn, contract.RemoveInstance, contract.InstanceRequest{InstanceID: second.order.InstanceID})
	require.NoError(t, err)
	ended, ok := bus.As[contract.InstancesOrdered](await(contract.InstanceEnded.Type()), contract.InstanceEnded)
	require.True(t, ok)
	require.Equal(t, second.order.InstanceID, ended.Instances[0].InstanceID)
	w.launch()

	_, err = bus.Call(super, w.conn, contract.Delete, contract.DeleteRequest{FunctionID: f.ID, VersionID: f.VersionID})
	require.NoError(t, err)
	gone, ok := bus.As[contract.Changed](await(contract.DrainStarted.Type()), contract.DrainStarted)
	require.True(t, ok)
	require.NotEqual(t, functions.Inactive, gone.Before.Status)
	require.Equal(t, functions.Inactive, gone.Deployment.Status)
	require.False(t, gone.Graceful)
}
