package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sirocco runs the CLI in a home of its own.
func sirocco(t *testing.T, url, home string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "sirocco"), args...)
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "SIROCCO_URL=" + url, "USER=tester"}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestCLI walks through the README with the sirocco command.
func TestCLI(t *testing.T) {
	p := common(t)
	home := t.TempDir()
	does := func(args ...string) string {
		t.Helper()
		out, errs, code := sirocco(t, p.URL, home, args...)
		require.Zero(t, code, "sirocco %q\n%s%s", args, out, errs)
		return out
	}
	require.Contains(t, does("status"), "ready")
	self, err := os.Executable()
	require.NoError(t, err)
	does("image", "add", "e2e/cli:1", "--", self, containerRole)
	require.Contains(t, does("image", "list"), "e2e/cli:1")
	does("function", "create", "from-cli", "--image", "e2e/cli:1", "--inference-url", "/echo", "--health-uri", "/health")
	does("function", "deploy", "from-cli", "--min", "1", "--max", "2")
	require.Contains(t, does("function", "list"), "from-cli")
	require.Contains(t, does("function", "get", "from-cli"), "ACTIVE")
	require.Contains(t, does("function", "invoke", "from-cli", "-d", `{"message":"hello ","repeats":3}`), "hello hello hello ")
	require.Contains(t, does("cluster", "list"), "local")
	var list struct {
		Functions []details `json:"functions"`
	}
	require.NoError(t, json.Unmarshal([]byte(does("function", "list", "-o", "json")), &list))
	id := ""
	for _, f := range list.Functions {
		if f.Name == "from-cli" {
			id = f.ID
		}
	}
	require.NotEmpty(t, id)
	require.Contains(t, does("events", "replay", "--entity", id), "created")
	does("function", "undeploy", "from-cli")
	does("function", "delete", "from-cli")
	does("image", "remove", "e2e/cli:1")

	_, errs, code := sirocco(t, p.URL, home, "function", "get", "from-cli")
	require.Equal(t, 5, code, "not found")
	require.NotEmpty(t, errs)
	_, errs, code = sirocco(t, "http://127.0.0.1:1", home, "status")
	require.Equal(t, 3, code, "unreachable")
	require.Contains(t, errs, "sirocco up", "what to do next")
	_, _, code = sirocco(t, p.URL, home, "function", "dance")
	require.Equal(t, 2, code, "wrong usage")
}
