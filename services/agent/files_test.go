package agent

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
)

const canary = "canary-6f1d9c"

func secret(l *functions.Launchable) {
	l.Secrets = []functions.Secret{
		{Name: "TOKEN", Value: json.RawMessage(`"` + canary + `"`)},
		{Name: "LOGIN", Value: json.RawMessage(`{"user":"u","password":"` + canary + `-2"}`)},
	}
}

func TestTheContainerSeesItsSecretsArgumentsAndFacts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent(nil)
	v := w.version(func(l *functions.Launchable) {
		secret(l)
		l.Function.ContainerArgs = `serve --title "a b" 'c"d' e\ f --filter=x>1;y`
		knob("MODEL", "llama")(l)
		knob("NVCF_NCA_ID", "forged")(l)
	})
	id := w.launch(v, nil)
	w.state(id, instances.Running)
	s := w.self(v)
	require.Equal(t, []string{"serve", "--title", "a b", `c"d`, "e f", "--filter=x>1;y"}, s.Args)
	require.JSONEq(t, `{"TOKEN":"`+canary+`","LOGIN":{"user":"u","password":"`+canary+`-2"}}`, s.Secrets)
	l := w.versions[v].Function
	for _, want := range []string{
		"NVCF_FUNCTION_ID=" + l.ID, "NVCF_FUNCTION_VERSION_ID=" + v, "NVCF_FUNCTION_NAME=echo", "NVCF_NCA_ID=acme",
		"NVCF_REGION=us-west-1", "NVCF_BACKEND=lab", "NVCF_ENV=sirocco", "NVCF_INSTANCETYPE=NCP.GPU.H100_1x",
		"NVCF_INSTANCETYPE_VALUE=NCP.GPU.H100_1x", "MODEL=llama",
	} {
		require.Contains(t, s.Env, want)
	}
	require.NotContains(t, strings.Join(s.Env, "\n"), canary)

	dir := filepath.Join(w.dir, "agent", "instances", id)
	for path, mode := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, "secrets"): 0o755, filepath.Join(dir, "inf"): 0o777, secretsPath(dir): 0o444} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), path)
	}
	require.Equal(t, []string{secretsPath(dir)}, holding(t, w.dir, canary))
	require.NoError(t, writeFiles(dir, functions.Launchable{}), "it can be replaced, as by a start that is repeated")
}

// holding lists the files under dir that hold a text.
func holding(t *testing.T, dir, text string) (paths []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the agent replaces its files
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if strings.Contains(string(b), text) {
			paths = append(paths, path)
		}
		return err
	}))
	return paths
}

func TestSecretsThatAContainerPrintsStayOnTheNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent(nil)
	id := w.launch(w.version(func(l *functions.Launchable) { secret(l); args("crash")(l) }), nil)
	last := w.state(id, instances.Terminated)
	require.Contains(t, strings.Join(last.Logs, "\n"), "[secret]")
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, env := range w.events {
		require.NotContains(t, string(env.Data), canary)
	}
	require.NotContains(t, w.logs.String(), canary)
	require.Empty(t, holding(t, w.dir, canary), "with the instance goes what it knew")
}

func TestSecretsThatChangeReachTheInstanceThatRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent(nil)
	v := w.version(secret)
	id := w.launch(v, nil)
	w.state(id, instances.Running)
	dir := filepath.Join(w.dir, "agent", "instances", id)
	rotate := func(value string) {
		w.mu.Lock()
		l := w.versions[v]
		l.Secrets = []functions.Secret{{Name: "TOKEN", Value: json.RawMessage(`"` + value + `"`)}}
		w.versions[v] = l
		w.mu.Unlock()
	}
	sees := func(value string) {
		t.Helper()
		require.Eventually(t, func() bool { return w.self(v).Secrets == `{"TOKEN":"`+value+`"}` }, patience, 10*time.Millisecond)
	}
	rotate("rotated-1")
	w.renewSecrets(id)
	sees("rotated-1")
	info, err := os.Stat(secretsPath(dir))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o444), info.Mode().Perm())
	info, err = os.Stat(retiredPath(dir))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
	e := end{Message: "old " + canary + ", new rotated-1"}
	e.hideSecrets(dir)
	require.Equal(t, "old [secret], new [secret]", e.Message)

	w.renewSecrets("nobody") // an instance that this node does not know is no error
	n.crash()
	rotate("rotated-2") // while nobody is there to be told
	w.agent(nil)
	sees("rotated-2")
}

func TestLastBytes(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"b", "c"}, lastBytes([]string{"aaa", "b", "c"}, 4))
	require.Equal(t, []string{"aaa", "b"}, lastBytes([]string{"aaa", "b"}, 100))
	require.Equal(t, []string{"3456"}, lastBytes([]string{"a", "123456"}, 4))
	require.Empty(t, lastBytes(nil, 4))
}
