package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// cgroups sets limits on instances where a cgroup v2 hierarchy with the needed
// controllers can be written, as root mostly. Elsewhere create fails and the
// instance runs without limits.
type cgroups struct{ root, agentID string }

// pidsMax is the limit on processes and threads of one instance.
const pidsMax = 16384

// cpuPeriod is the scheduler's default, in microseconds.
const cpuPeriod = 100_000

func (c *cgroups) parent() string       { return filepath.Join(c.root, "sirocco-"+c.agentID) }
func (c *cgroups) dir(id string) string { return filepath.Join(c.parent(), id) }
func write(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0)
}

// create makes the group of an instance and returns it open, for the process to
// be born in. Limits of 0 are none.
func (c *cgroups) create(id string, cpuMilli, memoryMiB int64) (*os.File, error) {
	controllers, err := os.ReadFile(filepath.Join(c.root, "cgroup.controllers"))
	if err != nil {
		return nil, err
	}
	have := strings.Fields(string(controllers))
	for _, need := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(have, need) {
			return nil, fmt.Errorf("the cgroup controller %s is not available", need)
		}
	}
	const enable = "+cpu +memory +pids"
	if err := write(c.root, "cgroup.subtree_control", enable); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.parent(), 0o750); err != nil {
		return nil, err
	}
	if err := write(c.parent(), "cgroup.subtree_control", enable); err != nil {
		return nil, err
	}
	dir := c.dir(id)
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	limits := map[string]string{"pids.max": strconv.Itoa(pidsMax)}
	if memoryMiB > 0 {
		limits["memory.max"] = strconv.FormatInt(memoryMiB<<20, 10)
	}
	if cpuMilli > 0 {
		limits["cpu.max"] = fmt.Sprintf("%d %d", cpuMilli*cpuPeriod/1000, cpuPeriod)
	}
	for file, value := range limits {
		if err := write(dir, file, value); err != nil {
			c.remove(id)
			return nil, err
		}
	}
	if memoryMiB > 0 {
		// Without swap accounting the file does not exist; then there is no
		// swap to forbid either.
		_ = write(dir, "memory.swap.max", "0")
	}
	return os.Open(dir)
}

// oom says whether the kernel killed a process of the instance for its memory.
func (c *cgroups) oom(id string) bool {
	text, err := os.ReadFile(filepath.Join(c.dir(id), "memory.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return value != "0"
		}
	}
	return false
}

// kill ends every process of the group at once (Linux 5.14).
func (c *cgroups) kill(id string) {
	if _, err := os.Stat(filepath.Join(c.dir(id), "cgroup.kill")); err == nil {
		_ = write(c.dir(id), "cgroup.kill", "1")
	}
}

// remove deletes the group; the kernel refuses while a process is in it.
func (c *cgroups) remove(id string) { _ = os.Remove(c.dir(id)) }
