package main

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

const roomForNone = `{"clusterGroups":[{"name":"local","gpus":[{"name":"H100","instanceTypes":[{"name":"NCP.GPU.H100_1x","available":0}]}]}]}`

// explaining is a gateway with one version in a state, and its deployment when there is one.
func explaining(t *testing.T, status, deployment, groups string) *standIn {
	t.Helper()
	f := version("echo", echoID, echoVersion, status, "2031-04-02T08:00:00Z")
	routes := map[string]http.HandlerFunc{
		"GET /v2/nvcf/functions": list(f), "GET /v2/nvcf/functions/" + echoID + "/versions/" + echoVersion: answer(`{"function":` + f + `}`),
		"GET /v2/nvcf/deployments/" + otherID: answer(`{"deployment":{"functionId":"` + echoID + `","functionVersionId":"` + echoVersion + `"}}`),
		"GET /v2/nvcf/clusterGroups":          answer(groups),
		"GET /v1/audit/events":                refuse(problem.New(problem.Unavailable, "the ledger does not answer")),
		"GET " + echoDeployment:               refuse(problem.New(problem.NotFound, "Deployment not found")),
	}
	if deployment != "" {
		routes["GET "+echoDeployment] = answer(`{"deployment":{"functionId":"` + echoID + `","functionVersionId":"` + echoVersion + `","functionStatus":"` + status +
			`","deploymentSpecifications":[{"gpu":"H100","instanceType":"NCP.GPU.H100_1x","minInstances":1,"maxInstances":2}],` + deployment + `}}`)
	}
	return newStandIn(t, routes)
}

func TestExplain(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		status, deployment, groups string
		says                       []string
	}{
		"not deployed": {"INACTIVE", "", roomForNone, []string{"not_deployed", "sirocco function deploy " + echoID}},
		"ready":        {"ACTIVE", `"instances":[{"instanceId":"i","instanceStatus":"RUNNING"}]`, oneGroup, []string{"ready", "1 instance of 1 wanted run", "3 more instances"}},
		"no room":      {"DEPLOYING", `"instances":[]`, roomForNone, []string{"no_capacity", "0 more instances of H100", "cluster list"}},
		"no such GPU":  {"DEPLOYING", `"instances":[]`, `{"clusterGroups":[]}`, []string{"no_capacity", "no cluster reports H100"}},
		"starting":     {"DEPLOYING", `"instances":[{"instanceId":"i","instanceStatus":"STARTING","clusterName":"lab"}]`, oneGroup, []string{"starting", "i starting on lab"}},
		"failed": {"ERROR", `"healthInfo":[{"gpu":"H100","instanceType":"T","error":"exit code 3","logs":["no such file"]}]`, oneGroup, []string{
			"start_failed", "exit code 3", "| no such file", "sirocco function undeploy " + echoID,
		}},
		"the platform's own reason": {"DEGRADED", `"reason":{"code":"node-lost","message":"the node is lost","action":"bring it back"}`, oneGroup, []string{"node-lost", "the node is lost", "bring it back"}},
		"draining":                  {"INACTIVE", `"instances":[]`, oneGroup, []string{"draining"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := explaining(t, c.status, c.deployment, c.groups)
			for _, ref := range []string{"echo", echoVersion, otherID} {
				got := sirocco(t, g, []string{"explain", ref})
				require.Zero(t, got.code, got.err)
				for _, text := range c.says {
					require.Contains(t, got.out, text)
				}
				require.Contains(t, got.out, "the ledger does not answer", "what cannot be read is said")
			}
		})
	}
	got := sirocco(t, explaining(t, "ACTIVE", "", oneGroup), []string{"explain", "nope"})
	require.Equal(t, exitNotFound, got.code)
}
