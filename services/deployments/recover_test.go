package deployments

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
)

// tooLate makes a deployment wait for its start for longer than it may.
func (w *world) tooLate(d contract.Deployment) {
	w.t.Helper()
	_, err := w.pool.Exec(w.t.Context(), `WITH late AS (UPDATE deployments.deployments SET starting_at = starting_at - interval '1 day' WHERE id = $1)
		SELECT pg_notify('`+channel+`', $2)`, d.ID, d.ID)
	require.NoError(w.t, err)
}

func TestAFailedDeploymentStartsAgainWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	for name, free := range map[string]func(w *world, holder functions.Function){
		"a node joins": func(w *world, _ functions.Function) {
			w.join(node("n2", 2))
			w.moved("n2", "ready")
		},
		"another version is undeployed": func(w *world, holder functions.Function) {
			_, err := w.undeploy(holder, false)
			require.NoError(w.t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, node("n1", 2))
			w.start()
			holder, f := w.version(), w.version()
			w.deploy(holder, one(1, 1))
			w.becomes(holder, functions.Active)
			w.launch()
			d := w.deploy(f, one(2, 2))
			w.launch() // for one of the two there is room
			w.tooLate(d)
			w.becomes(f, functions.Error)
			w.end()
			w.settled()
			failed, err := w.get(f)
			require.NoError(t, err)
			require.Equal(t, "no-node-with-1-free-H100", failed.Reason.Code, "why it failed goes on being told")
			require.Len(t, failed.HealthInfo, 1)
			require.Contains(t, failed.HealthInfo[0].Error, "no-node-with-1-free-H100")
			_, err = w.create(f, one(1, 1))
			require.ErrorContains(t, err, "Status ERROR")
			free(w, holder)
			d = w.becomes(f, functions.Active)
			require.Empty(t, d.HealthInfo)
			require.Equal(t, failed.ID, d.ID, "it is the same deployment")
		})
	}
}

// settled waits until a failed deployment has nothing left that runs.
func (w *world) settled() {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.count(`deployments.devices`) == 1 }, soon, 5*time.Millisecond)
}

func TestOnlyTheLackOfRoomRecoversByItself(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*deployment)
		want   bool
	}{
		{"no room", func(*deployment) {}, true},
		{"it has not failed", func(d *deployment) { d.Status = functions.Deploying }, false},
		{"it is removed", func(d *deployment) { d.Teardown = graceful }, false},
		{"there was room", func(d *deployment) { d.Specs[0].UnplacedCode = "" }, false},
		{"the image is bad, too", func(d *deployment) {
			d.Instances = append(d.Instances, &instance{State: instances.Terminated, Cause: instances.ImagePull})
		}, false},
		{"a node was lost", func(d *deployment) {
			d.Instances = append(d.Instances, &instance{State: instances.Terminated, Cause: instances.NodeLost})
		}, true},
		{"an instance still stops", func(d *deployment) {
			d.Instances = append(d.Instances, &instance{State: instances.ShuttingDown, StopCause: instances.ByUser})
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := standingWith(functions.Error, 1)
			d.Specs[0].UnplacedCode = "no-node"
			c.change(d)
			require.Equal(t, c.want, d.recoverable())
		})
	}
}
