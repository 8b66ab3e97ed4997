package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestBrokenFunctions asserts that a function that cannot start says why in time, leaves nothing running, and does not
// stand in the way of a corrected one. The platform of the test gives a start fifteen seconds.
func TestBrokenFunctions(t *testing.T) {
	admin := common(t).administrator(t)
	caller := admin.caller()
	for _, c := range []struct {
		name, mode string
		reason     string // in the reason of the deployment
		log        string // in the last log lines
	}{
		{"missing", "", "image", ""},
		{"exits", exits, "exit code 3", "the model file is corrupt"},
		{"silent", silent, "health check", "thinking about it"},
		{"ailing", ailing, "500", "the GPU is too hot"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // they wait, most of the time
			u, caller := admin, caller
			u.t, caller.t = t, t
			image := fmt.Sprintf("e2e/broken-%s:%d", c.name, time.Now().UnixNano()) // unknown also to a platform of an earlier round
			if c.mode != "" {
				u.image(image, c.mode)
			}
			v := u.createOf("broken-"+c.name, image)
			u.removeLater(v)
			began := time.Now()
			u.startDeploy(v, scale{min: 1})
			u.awaitStatus(v, "ERROR", 20*time.Second)
			t.Logf("ERROR after %s", time.Since(began).Round(10*time.Millisecond))

			d := u.lookDeployment(v)
			require.Contains(t, strings.ToLower(d.Reason.Message), c.reason)
			require.NotEmpty(t, d.Reason.Code)
			require.NotEmpty(t, d.Reason.Action, "what to do next")
			require.NotEmpty(t, d.HealthInfo)
			require.Contains(t, strings.ToLower(d.HealthInfo[0].Error), c.reason)
			require.Contains(t, strings.Join(d.HealthInfo[0].Logs, "\n"), c.log)
			u.awaitInstances(v, 0, 5*time.Second)
			require.Empty(t, u.look(v).ActiveInstances)

			caller.run(v, 0).refused(404)
			p := u.call("POST", v.deploymentPath(), scale{min: 1}.request()).refused(400)
			require.Contains(t, p.Detail, "ERROR")
			var gone struct {
				Function details `json:"function"`
			}
			u.must("DELETE", v.deploymentPath(), &gone)
			require.Equal(t, "INACTIVE", gone.Function.Status)
			require.Equal(t, "INACTIVE", u.look(v).Status)
			u.call("DELETE", v.deploymentPath()).refused(404)

			u.image(image, healthy)
			soon(t, 5*time.Second, "the corrected version can be deployed", func() bool {
				return u.call("POST", v.deploymentPath(), scale{min: 1}.request()).status == 200
			}, func() string { return u.call("POST", v.deploymentPath(), scale{min: 1}.request()).String() })
			u.awaitStatus(v, "ACTIVE", 10*time.Second)
			caller.runs(v, 0)
		})
	}
}

// TestInstanceDies asserts that an instance that is killed is replaced.
func TestInstanceDies(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("dies")
	admin.removeLater(v)
	admin.deploy(v, scale{min: 2, max: 2})
	caller := admin.caller()
	before := admin.awaitInstances(v, 2, time.Second)
	for id, pid := range before {
		kill(t, pid)
		began := time.Now()
		soon(t, 10*time.Second, "the killed instance is replaced", func() bool {
			now := instancesOf(admin.dir, v.id)
			_, still := now[id]
			return len(now) == 2 && !still
		})
		t.Logf("replaced after %s", time.Since(began).Round(10*time.Millisecond))
		break
	}
	caller.runs(v, 0)
	admin.awaitStatus(v, "ACTIVE", 10*time.Second)
}

// TestNoCapacity asserts that a deployment larger than the cluster waits, says for what, and goes when undeployed.
func TestNoCapacity(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("too-large")
	admin.removeLater(v)
	admin.startDeploy(v, scale{min: 40, max: 40})
	soon(t, 5*time.Second, "the reason names the lack of GPUs", func() bool {
		r := admin.lookDeployment(v).Reason
		return strings.Contains(r.Message, "waits for a node") && r.Action != ""
	}, func() string { return admin.call("GET", v.deploymentPath()).String() })
	admin.must("DELETE", v.deploymentPath(), nil)
	admin.awaitInstances(v, 0, 10*time.Second)
}
