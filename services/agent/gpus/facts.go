package gpus

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
)

// Facts reads what this machine has; dir is where instances will keep their
// files, which decides whose disk counts. The caller adds what only it knows:
// drivers, region, version.
func Facts(dir, gpuDriver string) (clusters.NodeFacts, error) {
	host, err := os.Hostname()
	if err != nil {
		return clusters.NodeFacts{}, fmt.Errorf("host name: %w", err)
	}
	memory, err := memoryMiB()
	if err != nil {
		return clusters.NodeFacts{}, err
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return clusters.NodeFacts{}, fmt.Errorf("disk of %s: %w", dir, err)
	}
	return clusters.NodeFacts{
		Hostname: host, Arch: runtime.GOARCH, OS: runtime.GOOS, Driver: gpuDriver,
		CPUMilli: int64(runtime.NumCPU()) * 1000, MemoryMiB: memory,
		DiskMiB: int64(disk.Blocks) * disk.Bsize >> 20,
	}, nil
}

func memoryMiB() (int64, error) {
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("memory of the node: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) >= 2 && words[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(words[1], 10, 64)
			return kib >> 10, err
		}
	}
	return 0, fmt.Errorf("memory of the node: /proc/meminfo has no MemTotal: %w", lines.Err())
}
