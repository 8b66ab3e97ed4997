package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

// instance is a process that this driver watches or has seen ending.
type instance struct {
	handle drivers.Handle
	pid    int
	pidfd  *os.File
	// done is closed when the process has ended; status is final from then on.
	done chan struct{}

	mu     sync.Mutex
	status drivers.Status
}

func (i *instance) now() drivers.Status {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.status
}

// signal reaches the process group. The group's number belongs to the instance
// for as long as its first process exists, which the pidfd proves.
func (i *instance) signal(sig unix.Signal) error {
	select {
	case <-i.done:
		return nil
	default:
	}
	if err := unix.Kill(-i.pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process group %d: %w", i.pid, err)
	}
	return nil
}

// attach returns the watched instance of a handle and starts to watch it if
// nobody does yet.
func (d *Driver) attach(h drivers.Handle) (*instance, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i, ok := d.instances[h.InstanceID]; ok {
		return i, nil
	}
	if d.closed {
		return nil, &drivers.Error{Kind: drivers.ErrUnavailable, Detail: "the driver is closed"}
	}
	i := &instance{handle: h, done: make(chan struct{})}
	if pidfd, pid, ok := open(h.Ref); ok {
		i.pid, i.pidfd, i.status = pid, pidfd, drivers.Status{Running: true}
		d.instances[h.InstanceID] = i
		d.group.Go(func() { d.watch(i) })
		if !d.rotating {
			d.rotating = true
			d.group.Go(d.rotateLogs)
		}
		return i, nil
	}
	if note, err := readNote(h.Dir); err == nil {
		i.handle, i.status = note.Handle, note.Status
	} else if _, err := os.Stat(logPath(h.Dir)); err == nil {
		i.status = drivers.Status{Reason: "ended while no agent was there to see it; the exit code is unknown"}
	} else {
		return nil, &drivers.Error{Kind: drivers.ErrInstanceNotFound, Instance: h.InstanceID, Detail: h.InstanceID}
	}
	close(i.done)
	d.instances[h.InstanceID] = i
	return i, nil
}

// open gets hold of the process behind a reference. After it is open the pidfd
// can only mean that process; the second look makes sure that it is the right one.
func open(ref string) (*os.File, int, bool) {
	want, ok := parseRef(ref)
	if !ok {
		return nil, 0, false
	}
	// Non-blocking lets the run-time poll it, so that waiting costs no thread.
	fd, err := unix.PidfdOpen(want.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, 0, false
	}
	if !want.same() {
		_ = unix.Close(fd)
		return nil, 0, false
	}
	return os.NewFile(uintptr(fd), "pidfd"), want.pid, true
}

// watch waits for the end of one instance, whether or not it is our child.
func (d *Driver) watch(i *instance) {
	defer i.pidfd.Close()
	unblock := context.AfterFunc(d.running, func() { _ = i.pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer unblock()
	raw, err := i.pidfd.SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(fds, 0)
			return err == nil && n > 0
		})
	}
	if err != nil {
		return // the driver was closed; the instance goes on
	}
	// Children must not outlive their instance. The group is killed before the
	// process is reaped, while its number cannot belong to anyone else.
	_ = unix.Kill(-i.pid, unix.SIGKILL)
	status := drivers.Status{ExitCode: reap(i.pid)}
	status.OOM = d.cgroups.oom(i.handle.InstanceID)
	status.Reason = d.reason(i.handle, status)
	// The note lets the next agent tell the exit code.
	_ = writeNote(note{Handle: i.handle, Status: status})
	i.mu.Lock()
	i.status = status
	i.mu.Unlock()
	close(i.done)
}

// soon is the age under which an exit counts as a failed start.
const soon = 5 * time.Second

func (d *Driver) reason(h drivers.Handle, s drivers.Status) string {
	if s.OOM {
		return "hit its memory limit and was killed"
	}
	reason := "ended; the exit code is unknown because another agent had started it"
	if s.ExitCode != nil {
		reason = drivers.ReasonOf(*s.ExitCode)
	}
	if s.ExitCode != nil && *s.ExitCode == 0 {
		return reason
	}
	if age := d.clock.Since(h.StartedAt); age >= 0 && age < soon {
		reason += fmt.Sprintf(" %s after its start", age.Round(time.Millisecond))
	}
	lines, err := tail(h.Dir, 20)
	if err != nil || len(lines) == 0 {
		return reason
	}
	all := strings.ToLower(strings.Join(lines, "\n"))
	if strings.Contains(all, "address already in use") || strings.Contains(all, "eaddrinuse") {
		var addresses []string
		for _, address := range h.Ports {
			addresses = append(addresses, address)
		}
		return reason + ": a port was taken; the program has to listen on PORT, here " + strings.Join(addresses, ", ")
	}
	last := lines[len(lines)-1]
	if len(last) > 200 {
		last = last[:200] + "…"
	}
	return reason + ": " + strings.ToValidUTF8(last, "�")
}

// note is what remains of an ended instance in its directory.
type note struct {
	Handle drivers.Handle `json:"handle"`
	Status drivers.Status `json:"status"`
}

func notePath(dir string) string { return filepath.Join(dir, "exit.json") }

// writeNote makes no directory: if it is gone, the instance was removed.
func writeNote(n note) error {
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	path := notePath(n.Handle.Dir)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func readNote(dir string) (note, error) {
	var n note
	if dir == "" {
		return n, os.ErrNotExist
	}
	text, err := os.ReadFile(notePath(dir))
	if err != nil {
		return n, err
	}
	return n, json.Unmarshal(text, &n)
}
