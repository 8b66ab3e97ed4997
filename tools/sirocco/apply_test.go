package main

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// What was made to be deployed does not stay behind when it cannot be: the next try would find it.
func TestApplyTakesBackWhatCannotBeDeployed(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "echo.yaml")
	require.NoError(t, os.WriteFile(file, []byte("name: echo\ninferenceUrl: /echo\ncontainerImage: demo/echo:1\n"+
		"deploymentSpecifications: [{gpu: A100, instanceType: x, minInstances: 1, maxInstances: 1}]\n"), 0o600))
	for name, c := range map[string]struct {
		status int
		says   string
		taken  bool
	}{
		"refused":         {http.StatusBadRequest, "version " + echoVersion + ", which was made for it, is deleted again", true},
		"nobody can tell": {http.StatusServiceUnavailable, "not this GPU", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const one = "/v2/nvcf/functions/" + echoID + "/versions/" + echoVersion
			g := newStandIn(t, map[string]http.HandlerFunc{
				"GET /v2/nvcf/functions":  list(),
				"POST /v2/nvcf/functions": answer(`{"function":` + version("echo", echoID, echoVersion, "INACTIVE", "2031-04-02T08:00:00Z") + `}`),
				"POST " + echoDeployment: func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "application/problem+json")
					w.WriteHeader(c.status)
					_, _ = w.Write([]byte(`{"title":"Refused","detail":"not this GPU"}`))
				},
				"DELETE " + one: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
			})
			got := sirocco(t, g, []string{"apply", "-f", file})
			require.NotZero(t, got.code)
			require.Contains(t, got.err, "not this GPU")
			require.Contains(t, got.err, c.says)
			last := g.asked()[len(g.asked())-1]
			require.Equal(t, c.taken, last.method == http.MethodDelete && last.path == one)
		})
	}
}
