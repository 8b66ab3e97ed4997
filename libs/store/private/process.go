//go:build unix

package private

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// postmaster returns the pid of the running server and the directory of its socket, or zero when none runs. The pid file
// outlives a killed server, and its pid may belong to a stranger by now.
func (s *Server) postmaster() (pid int, socket string) {
	lines := s.pidFile()
	if len(lines) < 2 {
		return 0, ""
	}
	pid, err := strconv.Atoi(lines[0])
	if err != nil || pid <= 1 || !alive(pid) || !runsCluster(pid, s.data) {
		return 0, ""
	}
	if len(lines) > 4 {
		socket = lines[4]
	}
	return pid, socket
}

// reportsReady tells whether the server has finished starting, by its own account.
func (s *Server) reportsReady() bool {
	lines := s.pidFile()
	return len(lines) > 7 && lines[7] == "ready"
}

func (s *Server) pidFile() []string {
	text, err := os.ReadFile(filepath.Join(s.data, "postmaster.pid"))
	if err != nil {
		return nil
	}
	lines := strings.Split(string(text), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return lines
}

func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// runsCluster tells whether pid is a server on data. A zombie, which a container without an init process keeps for ever, has
// no command line left and so counts as dead.
func runsCluster(pid int, data string) bool {
	if runtime.GOOS == "linux" {
		line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err != nil {
			return false
		}
		for argument := range bytes.SplitSeq(line, []byte{0}) {
			if path, _ := strings.CutPrefix(string(argument), "--pgdata="); path == data {
				return true
			}
		}
		return false
	}
	line, err := exec.Command("ps", "-ww", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && strings.Contains(string(line), data)
}
