package agent

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/instances"
)

// spawn runs an agent as a process of its own, wired as in production.
func (w *world) spawn(url string) *exec.Cmd {
	w.t.Helper()
	program, err := os.Executable()
	require.NoError(w.t, err)
	cmd := exec.Command(program, roleAgent)
	cmd.Env = append(os.Environ(), "SIROCCO_NATS_URL="+url, "SIROCCO_DATA_DIR="+w.dir, "SIROCCO_CLUSTER=lab", "SIROCCO_NODE=n1",
		"SIROCCO_GPUS=H100:4", "SIROCCO_DRIVERS=process", "SIROCCO_LOG_LEVEL=warn")
	cmd.Stdout, cmd.Stderr = w.t.Output(), w.t.Output()
	require.NoError(w.t, cmd.Start())
	return cmd
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
}

// processes counts the live processes of an instance.
func processes(id string) (n int) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		b, err := os.ReadFile(path)
		if err == nil && bytes.Contains(b, []byte("SIROCCO_INSTANCE_ID="+id+"\x00")) {
			n++
		}
	}
	return n
}

// TestKillNine kills a real agent process at many moments of a start and of a stop.
func TestKillNine(t *testing.T) {
	t.Parallel()
	s := listening(t)
	w := newWorldOn(t, s.Server, connect(t, s.ClientURL()))
	agent := w.spawn(s.ClientURL())
	again := func() { kill(t, agent); agent = w.spawn(s.ClientURL()) }
	t.Cleanup(func() {
		kill(t, agent)
		w.sweep()
	})
	w.device(0)
	for _, after := range []int{0, 3, 6, 10, 15, 25, 50} {
		v := w.version(nil)
		id := w.launch(v, nil)
		<-time.After(time.Duration(after) * time.Millisecond)
		again()
		w.state(id, instances.Running)
		pid := w.self(v).PID
		require.Equal(t, 1, processes(id))
		again()
		require.Equal(t, pid, w.self(v).PID)
		require.Equal(t, 1, processes(id))

		w.terminate(id, 30)
		<-time.After(time.Duration(after) * time.Millisecond)
		again()
		require.Equal(t, instances.ByUser, w.state(id, instances.Terminated).Cause)
		require.Zero(t, processes(id))
		require.NoDirExists(t, filepath.Join(w.dir, "agent", "instances", id))
	}
	require.Eventually(t, func() bool { // the living agent may be replacing a record right now
		left, err := filepath.Glob(filepath.Join(w.dir, "agent", "records", "*.tmp*"))
		return err == nil && len(left) == 0
	}, patience, 5*time.Millisecond, "half-written records stay behind")

	// An orderly stop of the whole process, and what a signal does.
	v := w.version(nil)
	id := w.launch(v, nil)
	w.state(id, instances.Running)
	pid := w.self(v).PID
	require.NoError(t, agent.Process.Signal(os.Interrupt))
	require.NoError(t, agent.Wait())
	agent = w.spawn(s.ClientURL())
	require.Equal(t, pid, w.self(v).PID)
}
