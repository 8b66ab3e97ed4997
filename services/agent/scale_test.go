package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// TestManyInstances is about work per instance that grows with their number; it prints what it measured. SIROCCO_SCALE
// sets the number; 2,000 take some seconds on an idle machine without the race detector.
func TestManyInstances(t *testing.T) {
	count, versions := 120, 10
	scale := os.Getenv("SIROCCO_SCALE")
	if scale != "" {
		n, err := strconv.Atoi(scale)
		require.NoError(t, err)
		count = n
	}
	gpus := fmt.Sprintf("H100:%d", count)
	w := newWorld(t)
	n := w.agent(func(c *Config) { sims(c); c.GPUs = gpus }, defaultPace)
	w.device(count - 1)
	devices := w.told()[0].Snapshot.Devices
	var ids []string
	for range versions {
		ids = append(ids, w.version(nil))
	}
	var batch []store.Message
	for k := range count {
		order := instances.LaunchOrder{
			CommandID: uuid.NewString(), InstanceID: uuid.NewString(), Account: "acme", VersionID: ids[k%versions],
			Devices: []string{devices[k].UUID}, MaxConcurrency: 4, Deadline: time.Now().Add(5 * time.Minute),
		}
		b, err := json.Marshal(order)
		require.NoError(t, err)
		batch = append(batch, store.Message{Subject: instances.Launch.Subject("lab", "n1"), ID: order.CommandID, Payload: b})
	}
	began, cpu := time.Now(), cpuTime(t)
	_, err := w.conn.PublishBatch(t.Context(), batch)
	require.NoError(t, err)
	ordered := time.Since(began)
	w.until("all are running", func() bool {
		running := 0
		for _, rs := range w.reports {
			if rs[len(rs)-1].State == instances.Running {
				running++
			}
		}
		return running == count
	})
	up := time.Since(began)
	w.mu.Lock()
	deltas := len(w.capacity)
	w.mu.Unlock()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("%d instances of %d versions: ordered in %v, running after %v (%.0f/s), %.1f s CPU of everybody, %d capacity messages, %.0f KiB heap each",
		count, versions, ordered.Round(time.Millisecond), up.Round(time.Millisecond), float64(count)/up.Seconds(), (cpuTime(t) - cpu).Seconds(), deltas, float64(m.HeapAlloc)/float64(count)/1024)

	if scale != "" {
		idle, cpu := time.Now(), cpuTime(t)
		<-time.After(3 * time.Second)
		t.Logf("idle: %.2f cores", (cpuTime(t)-cpu).Seconds()/time.Since(idle).Seconds())
	}
	for _, v := range ids {
		require.NoError(t, w.call(v, "/health").err)
	}

	began = time.Now()
	n.crash()
	n = w.agent(func(c *Config) { sims(c); c.GPUs = gpus; c.StopInstances = true }, defaultPace)
	t.Logf("attached again in %v", time.Since(began).Round(time.Millisecond))
	require.Len(t, n.instances, count)

	began = time.Now()
	n.stopWithin(3 * time.Minute)
	t.Logf("stopped in %v", time.Since(began).Round(time.Millisecond))
	require.Empty(t, n.exist())
	left, err := os.ReadDir(filepath.Join(w.dir, "agent", "instances"))
	require.NoError(t, err)
	require.Empty(t, left)
	w.until("all have ended", func() bool {
		for _, rs := range w.reports {
			if rs[len(rs)-1].State != instances.Terminated {
				return false
			}
		}
		return true
	})
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
