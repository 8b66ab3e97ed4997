package deployments

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

func TestAVersionWhoseArtifactsAreGoneIsNotDeployed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 1))
	w.start()
	f := w.version()
	w.mu.Lock()
	w.gone = map[string]error{f.VersionID: problem.New(problem.NotFound, "CONTAINER artifact 'x': Not found in registry 'y'")}
	w.mu.Unlock()
	_, err := w.create(f, one(1, 1))
	require.True(t, problem.HasCode(err, problem.NotFound), "%v", err)
	require.Equal(t, functions.Inactive, w.status(f.VersionID))
	w.mu.Lock()
	w.gone = nil
	w.mu.Unlock()
	w.deploy(f, one(1, 1))
}
