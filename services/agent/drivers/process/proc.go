package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

// procStat is what /proc/<pid>/stat says of a process.
type procStat struct {
	pid, session int
	zombie       bool
	// start is in clock ticks since boot; with the pid and the boot it is the
	// identity of a process for ever.
	start uint64
}

func readStat(pid int) (procStat, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return procStat{}, err
	}
	// The second field is the command in parentheses; it may hold anything,
	// also spaces and parentheses. Field 3 follows the last one.
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return procStat{}, fmt.Errorf("/proc/%d/stat has an unknown form", pid)
	}
	fields := strings.Fields(string(text[end+1:]))
	if len(fields) < 20 {
		return procStat{}, fmt.Errorf("/proc/%d/stat has an unknown form", pid)
	}
	s := procStat{pid: pid, zombie: fields[0] == "Z" || fields[0] == "X"}
	if s.session, err = strconv.Atoi(fields[3]); err != nil {
		return procStat{}, err
	}
	s.start, err = strconv.ParseUint(fields[19], 10, 64)
	return s, err
}

var bootID = sync.OnceValue(func() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
})

// ref is the identity of a process as text.
func (s procStat) ref() string { return fmt.Sprintf("%d:%d:%s", s.pid, s.start, bootID()) }

// lostRef stands for an instance whose first process is gone while others run on.
const lostRef = "lost"

func parseRef(ref string) (procStat, bool) {
	parts := strings.SplitN(ref, ":", 3)
	if len(parts) != 3 || parts[2] != bootID() {
		return procStat{}, false
	}
	pid, err1 := strconv.Atoi(parts[0])
	start, err2 := strconv.ParseUint(parts[1], 10, 64)
	if err1 != nil || err2 != nil || pid <= 1 {
		return procStat{}, false
	}
	return procStat{pid: pid, start: start}, true
}

// same reports whether the process that s was read from still exists, be it as
// a zombie.
func (s procStat) same() bool {
	now, err := readStat(s.pid)
	return err == nil && now.start == s.start
}

// kill ends one process that is not watched.
func (s procStat) kill() {
	fd, err := unix.PidfdOpen(s.pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if s.same() {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		// Killing is quick but not instant; half a second bounds a hang.
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 500)
	}
}

// eachMarked calls yield for every live process that carries this agent's marks.
func (d *Driver) eachMarked(yield func(procStat, drivers.Handle)) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	mark := []byte(markAgent + "=" + d.agentID + "\x00")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// Processes of other users cannot be read, and none of them is ours;
		// others end while we look.
		environ, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if err != nil || !bytes.Contains(environ, mark) {
			continue
		}
		stat, err := readStat(pid)
		if err != nil || stat.zombie {
			continue
		}
		if h, ok := handleOf(strings.Split(string(environ), "\x00"), d.agentID); ok {
			yield(stat, h)
		}
	}
	return nil
}

// scan returns the instances among the processes; an empty id means all.
func (d *Driver) scan(id string) ([]drivers.Handle, error) {
	found := map[string]drivers.Handle{}
	err := d.eachMarked(func(s procStat, h drivers.Handle) {
		if id != "" && h.InstanceID != id {
			return
		}
		switch known, ok := found[h.InstanceID]; {
		case s.session == s.pid && (!ok || known.Ref == lostRef || olderThan(s, known)):
			// A grandchild may lead a session too; the instance is the oldest.
			h.Ref = s.ref()
			found[h.InstanceID] = h
		case !ok:
			h.Ref = lostRef
			found[h.InstanceID] = h
		}
	})
	handles := make([]drivers.Handle, 0, len(found))
	for _, h := range found {
		handles = append(handles, h)
	}
	return handles, err
}

func olderThan(s procStat, known drivers.Handle) bool {
	other, ok := parseRef(known.Ref)
	return ok && (s.start < other.start || s.start == other.start && s.pid < other.pid)
}

// marked returns the live processes of one instance.
func (d *Driver) marked(id string) ([]procStat, error) {
	var out []procStat
	err := d.eachMarked(func(s procStat, h drivers.Handle) {
		if h.InstanceID == id {
			out = append(out, s)
		}
	})
	return out, err
}

// reap collects the exit code of a child. A process that is not our child, such
// as one that an earlier agent started, is reaped by init and its code is lost.
func reap(pid int) *int {
	var status unix.WaitStatus
	for {
		got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || got != pid {
			return nil
		}
		break
	}
	code := status.ExitStatus()
	if status.Signaled() {
		code = 128 + int(status.Signal())
	}
	return &code
}
