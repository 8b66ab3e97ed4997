package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// process is what /proc says of one process that belongs to a platform's directory.
type process struct {
	pid         int
	environment map[string]string
	line        string
}

// scan lists the living processes whose command line or environment names dir.
func scan(dir string) []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// Processes may end while they are looked at.
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		environ, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if len(line) == 0 || !bytes.Contains(line, []byte(dir)) && !bytes.Contains(environ, []byte(dir)) {
			continue
		}
		p := process{pid: pid, environment: map[string]string{}, line: strings.ReplaceAll(string(line), "\x00", " ")}
		for kv := range strings.SplitSeq(string(environ), "\x00") {
			if k, v, ok := strings.Cut(kv, "="); ok {
				p.environment[k] = v
			}
		}
		found = append(found, p)
	}
	return found
}

// processesOf describes every process that belongs to dir.
func processesOf(dir string) []string {
	var out []string
	for _, p := range scan(dir) {
		out = append(out, fmt.Sprintf("%d %s", p.pid, p.line))
	}
	return out
}

// instancesOf maps the instances of a version to their processes.
func instancesOf(dir, versionID string) map[string]int {
	found := map[string]int{}
	for _, p := range scan(dir) {
		if id := p.environment["SIROCCO_INSTANCE_ID"]; id != "" && p.environment["NVCF_FUNCTION_VERSION_ID"] == versionID {
			found[id] = p.pid
		}
	}
	return found
}

func (p *platform) instances(v version) map[string]int { return instancesOf(p.Dir, v.id) }

// resident is the resident memory of a process in MiB, shared pages of its own binary included.
func resident(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			require.NoError(t, err)
			return kib >> 10
		}
	}
	require.Fail(t, "no VmRSS")
	return 0
}

func sortedValues(m map[string]int) []int {
	var out []int
	for _, v := range m {
		out = append(out, v)
	}
	slices.Sort(out)
	return out
}
