package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// dockerImage is made by the test from nothing but the load tester.
const dockerImage = "sirocco-e2e/loadtester:test"

// TestDocker deploys a container image, calls it, kills its container and sees it replaced.
func TestDocker(t *testing.T) {
	needBinaries(t)
	if out, err := docker(t, nil, "version", "--format", "{{.Server.Version}}"); err != nil {
		t.Skipf("no Docker engine answers: %s", strings.TrimSpace(out))
	}
	program, err := os.ReadFile(filepath.Join(binDir, "loadtester"))
	require.NoError(t, err)
	out, err := docker(t, image(t, program), "import", "--change", `ENTRYPOINT ["/loadtester"]`, "--change", "USER 65532", "-", dockerImage)
	require.NoError(t, err, out)
	t.Cleanup(func() { _, _ = docker(t, nil, "rmi", "-f", dockerImage) })

	p := up(t, []string{"--no-sample"}, "SIROCCO_DRIVERS=docker", "SIROCCO_START_TIMEOUT=20s")
	admin := p.administrator(t)
	request := functionBody("docker", dockerImage)
	request["inferenceUrl"] = "/echo"
	value := remember("s3cr3t-e2e-value-of-a-container")
	request["secrets"] = []any{map[string]any{"name": "API_TOKEN", "value": value}}
	v := admin.createFrom(request)
	admin.startDeploy(v, scale{min: 1, slots: 8})
	admin.awaitStatus(v, "ACTIVE", 12*time.Second)
	caller := admin.caller()
	echo := func() answer {
		return caller.call("POST", "/echo", v.host(), text(`{"message":"from a container ","repeats":2}`))
	}
	a := echo()
	require.Equal(t, "from a container from a container ", string(a.body), a)
	require.Equal(t, "fulfilled", a.header.Get("NVCF-STATUS"))

	containers := func() []string {
		out, err := docker(t, nil, "ps", "--no-trunc", "-q", "--filter", "label=sirocco.version="+v.id)
		require.NoError(t, err, out)
		return strings.Fields(out)
	}
	first := containers()
	require.Len(t, first, 1)
	inspected, err := docker(t, nil, "inspect", first[0])
	require.NoError(t, err)
	require.NotContains(t, inspected, value, "a secret is a file, not a setting that anyone with the engine can read")

	p.Processes["sirocco"].Kill()
	p.start(t)
	soon(t, 10*time.Second, "the container is attached to again", func() bool { return echo().status == 200 })
	require.Equal(t, first, containers(), "a restart of the agent does not touch containers")

	out, err = docker(t, nil, "kill", first[0])
	require.NoError(t, err, out)
	soon(t, 15*time.Second, "the killed container is replaced", func() bool {
		now := containers()
		return len(now) == 1 && now[0] != first[0] && echo().status == 200
	})

	missing := admin.createOf("docker-missing", "127.0.0.1:1/no/such/image:1")
	admin.startDeploy(missing, scale{min: 1})
	admin.awaitStatus(missing, "ERROR", 25*time.Second)
	require.NotEmpty(t, admin.lookDeployment(missing).Reason.Message)
	admin.must("DELETE", missing.path(), nil)

	admin.must("DELETE", v.path(), nil)
	soon(t, 30*time.Second, "the containers are gone", func() bool { return len(containers()) == 0 })
}

// image is a root file system with one static program in it.
func image(t *testing.T, program []byte) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "loadtester", Mode: 0o755, Size: int64(len(program))}))
	_, err := w.Write(program)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return &b
}

func docker(t *testing.T, stdin *bytes.Buffer, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", args...)
	if stdin != nil {
		cmd.Stdin = stdin
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}
