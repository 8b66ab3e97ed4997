// Package process is the driver that runs local commands in place of container
// images, where there is no container engine.
//
// A catalogue maps an image reference to a command. Each instance gets its own
// session and process group, loopback ports, log file and, where cgroup v2 can
// be written, limits; its working directory is its own unless the catalogue
// names one. There is no isolation beyond that: a process runs as the user of
// the agent and sees the file system.
//
// # What a command is told
//
// The environment is clean: PATH, HOME, LANG and TMPDIR of the agent, the
// variables of the catalogue, those of the function, and last
//
//	PORT, HOST           where to listen; PORT stands for the inference port
//	HEALTH_PORT          where to answer health checks, often the same
//	PORT_<n>             the local port that stands for container port n
//	CUDA_VISIBLE_DEVICES, NVIDIA_VISIBLE_DEVICES, CUDA_DEVICE_ORDER
//	SIROCCO_SECRETS_DIR and the other directories of drivers.Mounts
//	SIROCCO_INSTANCE_ID, SIROCCO_AGENT_ID and others by which the driver finds it again
//
// In the command and in the arguments {{port}}, {{health_port}}, $PORT and
// $HEALTH_PORT are replaced, for programs that know no such variables.
//
// # How an instance outlives the agent
//
// It is in a session of its own, its output goes straight to a file, and the
// marks in its environment let any later agent with the same id find it through
// /proc. It is told from a later process with the same number by its start time.
// Under systemd the agent's unit needs KillMode=process.
package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coder/quartz"
	"golang.org/x/sys/unix"

	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

// Command is what runs in place of an image.
type Command struct {
	Argv []string
	// Dir is the working directory; empty means the directory of the instance.
	Dir string
	Env []string
}

// Catalogue maps image references to commands. The second result of Lookup is
// false when it has none for ref.
type Catalogue interface {
	Lookup(ctx context.Context, ref string) (Command, bool, error)
}

// Defaults of Options.
const (
	// The range lies below the ephemeral ports of Linux, so that no outgoing
	// connection can take a port between its choice and its use.
	defaultFirstPort = 20000
	defaultLastPort  = 31999
	// defaultLogBytes is what the log files of one instance may hold together.
	defaultLogBytes = 64 << 20
	logCheckEvery   = 5 * time.Second
)

// Options of a process driver.
type Options struct {
	// AgentID separates the instances of several agents on one machine.
	AgentID   string
	Catalogue Catalogue
	// FirstPort and LastPort bound the local ports that instances get.
	FirstPort, LastPort int
	// LogBytes bounds the log of one instance; default 64 MiB.
	LogBytes int64
	// Clock defaults to the real one.
	Clock quartz.Clock
	// CgroupRoot is where cgroup v2 is mounted, default /sys/fs/cgroup.
	CgroupRoot string
}

// Driver is the process driver.
type Driver struct {
	agentID   string
	catalogue Catalogue
	ports     *portRange
	logBytes  int64
	clock     quartz.Clock
	cgroups   *cgroups
	turns     drivers.Turns

	// running is done when Close is called; the watchers live in group.
	running context.Context
	cancel  context.CancelFunc
	group   sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	instances map[string]*instance
	rotating  bool
}

var _ drivers.Driver = (*Driver)(nil)

// New makes a driver. It starts no goroutine and looks for no process; both
// happen when an instance is started or asked for.
func New(o Options) *Driver {
	if o.Clock == nil {
		o.Clock = quartz.NewReal()
	}
	if o.FirstPort == 0 {
		o.FirstPort, o.LastPort = defaultFirstPort, defaultLastPort
	}
	if o.LogBytes == 0 {
		o.LogBytes = defaultLogBytes
	}
	if o.CgroupRoot == "" {
		o.CgroupRoot = "/sys/fs/cgroup"
	}
	running, cancel := context.WithCancel(context.Background())
	return &Driver{
		agentID:   o.AgentID,
		catalogue: o.Catalogue,
		ports:     &portRange{first: o.FirstPort, last: o.LastPort, given: map[int]time.Time{}, clock: o.Clock},
		logBytes:  o.LogBytes,
		clock:     o.Clock,
		cgroups:   &cgroups{root: o.CgroupRoot, agentID: o.AgentID},
		running:   running,
		cancel:    cancel,
		instances: map[string]*instance{},
	}
}

// Name implements drivers.Driver.
func (d *Driver) Name() string { return "process" }

// Check implements drivers.Driver.
func (d *Driver) Check(context.Context) error {
	if _, err := readStat(os.Getpid()); err != nil {
		return &drivers.Error{Kind: drivers.ErrUnavailable, Detail: "/proc is needed to find instances again", Err: err}
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return &drivers.Error{Kind: drivers.ErrUnavailable, Detail: "the kernel has no pidfd_open (Linux 5.3)", Err: err}
	}
	return unix.Close(fd)
}

func (d *Driver) lookup(ctx context.Context, spec drivers.Spec) (Command, error) {
	command, found, err := d.catalogue.Lookup(ctx, spec.Image)
	if err != nil {
		return Command{}, &drivers.Error{Kind: drivers.ErrRegistryUnreachable, Instance: spec.InstanceID, Detail: "image catalogue", Err: err}
	}
	if !found || len(command.Argv) == 0 {
		return Command{}, &drivers.Error{
			Kind: drivers.ErrImageNotFound, Instance: spec.InstanceID,
			Detail: spec.Image + " is not in the process catalogue; add it with: sirocco image add " + spec.Image + " -- COMMAND",
		}
	}
	return command, nil
}

// Prepare implements drivers.Driver: the image has to be in the catalogue and
// its program on this machine.
func (d *Driver) Prepare(ctx context.Context, spec drivers.Spec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	command, err := d.lookup(ctx, spec)
	if err != nil {
		return err
	}
	if _, err := d.program(command); err != nil {
		return &drivers.Error{
			Kind: drivers.ErrImageNotFound, Instance: spec.InstanceID,
			Detail: spec.Image + " is catalogued, but this node cannot run it", Err: err,
		}
	}
	return nil
}

// program resolves the first word as a shell would, relative paths against the
// directory of the catalogue.
func (d *Driver) program(command Command) (string, error) {
	name := command.Argv[0]
	if strings.Contains(name, "/") && !filepath.IsAbs(name) && command.Dir != "" {
		name = filepath.Join(command.Dir, name)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// Start implements drivers.Driver.
func (d *Driver) Start(ctx context.Context, spec drivers.Spec) (drivers.Handle, error) {
	if err := spec.Validate(); err != nil {
		return drivers.Handle{}, err
	}
	release, err := d.turns.Take(ctx, spec.InstanceID)
	if err != nil {
		return drivers.Handle{}, err
	}
	defer release()
	if d.running.Err() != nil {
		return drivers.Handle{}, &drivers.Error{Kind: drivers.ErrUnavailable, Detail: "the driver is closed"}
	}
	if h, found, err := d.existing(spec); err != nil || found {
		return h, err
	}
	command, err := d.lookup(ctx, spec)
	if err != nil {
		return drivers.Handle{}, err
	}
	h, err := d.launch(spec, command)
	if err != nil {
		return drivers.Handle{}, &drivers.Error{Kind: drivers.ErrCreate, Instance: spec.InstanceID, Err: err}
	}
	return h, nil
}

// existing finds an instance that was started before: in memory, among the
// processes, or by the note that its end left in its directory.
func (d *Driver) existing(spec drivers.Spec) (drivers.Handle, bool, error) {
	d.mu.Lock()
	i, ok := d.instances[spec.InstanceID]
	d.mu.Unlock()
	if ok {
		return i.handle, true, nil
	}
	found, err := d.scan(spec.InstanceID)
	if err != nil {
		return drivers.Handle{}, false, &drivers.Error{Kind: drivers.ErrCreate, Instance: spec.InstanceID, Err: err}
	}
	if len(found) > 0 {
		i, err := d.attach(found[0])
		if err != nil {
			return drivers.Handle{}, false, err
		}
		return i.handle, true, nil
	}
	if note, err := readNote(spec.Dir); err == nil {
		return note.Handle, true, nil
	}
	return drivers.Handle{}, false, nil
}

// launch runs the command. From the moment the program is executed its
// environment marks it, so there is no time in which a crash of the agent could
// lose it.
func (d *Driver) launch(spec drivers.Spec, command Command) (drivers.Handle, error) {
	program, err := d.program(command)
	if err != nil {
		return drivers.Handle{}, err
	}
	if err := os.MkdirAll(spec.Dir, 0o750); err != nil {
		return drivers.Handle{}, err
	}
	ports, err := d.ports.take(len(spec.Ports()))
	if err != nil {
		return drivers.Handle{}, err
	}
	h := drivers.Handle{
		Driver: d.Name(), InstanceID: spec.InstanceID, Generation: spec.Generation, Image: spec.Image,
		Ports: map[int]string{}, StartedAt: d.clock.Now().UTC(), Dir: spec.Dir,
	}
	local := map[int]int{}
	for n, port := range spec.Ports() {
		local[port] = ports[n]
		h.Ports[port] = net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[n]))
	}
	log, err := os.OpenFile(logPath(spec.Dir), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return drivers.Handle{}, err
	}
	defer log.Close()

	args := command.Argv[1:]
	if len(spec.Args) > 0 {
		args = append(slices.Clone(args), spec.Args...)
	}
	cmd := &exec.Cmd{
		Path: program, Args: append([]string{program}, substitute(args, spec, local)...),
		Dir: command.Dir, Env: environment(d.agentID, spec, command, local, h),
		Stdout: log, Stderr: log,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if cmd.Dir == "" {
		cmd.Dir = spec.Dir
	}
	if err := d.startLimited(cmd, spec); err != nil {
		return drivers.Handle{}, fmt.Errorf("start %s: %w", program, err)
	}
	pid := cmd.Process.Pid
	// The watcher reaps by number; the handle of package os would compete.
	_ = cmd.Process.Release()
	limitProcess(pid)
	// A child that nobody has reaped keeps its entry in /proc, so this cannot
	// fail because the program ended quickly.
	stat, err := readStat(pid)
	if err != nil {
		_ = unix.Kill(-pid, unix.SIGKILL)
		return drivers.Handle{}, err
	}
	h.Ref = stat.ref()
	if _, err := d.attach(h); err != nil {
		return drivers.Handle{}, err
	}
	return h, nil
}

// startLimited puts the process into a cgroup with its limits, or starts it
// without when this machine has no cgroup that the agent may write.
func (d *Driver) startLimited(cmd *exec.Cmd, spec drivers.Spec) error {
	dir, err := d.cgroups.create(spec.InstanceID, spec.CPUMilli, spec.MemoryMiB)
	if err != nil {
		return cmd.Start()
	}
	defer dir.Close()
	limited := *cmd
	attr := *cmd.SysProcAttr
	attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
	limited.SysProcAttr = &attr
	if err := limited.Start(); err != nil {
		d.cgroups.remove(spec.InstanceID)
		return cmd.Start()
	}
	cmd.Process = limited.Process
	return nil
}

// limitProcess sets the limits that need no cgroup. A failure is no reason to
// refuse the instance: the limits protect the node from accidents only.
func limitProcess(pid int) {
	_ = unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
	var files unix.Rlimit
	if unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &files) == nil {
		files.Cur = min(files.Max, 1<<20)
		_ = unix.Prlimit(pid, unix.RLIMIT_NOFILE, &files, nil)
	}
}

// Status implements drivers.Driver.
func (d *Driver) Status(_ context.Context, h drivers.Handle) (drivers.Status, error) {
	i, err := d.attach(h)
	if err != nil {
		return drivers.Status{}, err
	}
	return i.now(), nil
}

// Wait implements drivers.Driver.
func (d *Driver) Wait(ctx context.Context, h drivers.Handle) (drivers.Status, error) {
	i, err := d.attach(h)
	if err != nil {
		return drivers.Status{}, err
	}
	select {
	case <-i.done:
		return i.now(), nil
	case <-ctx.Done():
		return drivers.Status{}, ctx.Err()
	case <-d.running.Done():
		return drivers.Status{}, &drivers.Error{Kind: drivers.ErrUnavailable, Detail: "the driver is closed"}
	}
}

// killWait is how long the kernel may take to end a process after SIGKILL; only
// one that hangs in a device driver needs longer.
const killWait = 10 * time.Second

// Stop implements drivers.Driver.
func (d *Driver) Stop(ctx context.Context, h drivers.Handle, grace time.Duration) error {
	i, err := d.attach(h)
	if drivers.IsNotFound(err) {
		return d.killAll(h.InstanceID)
	}
	if err != nil {
		return err
	}
	if i.now().Running && grace > 0 {
		if err := i.signal(unix.SIGTERM); err != nil {
			return err
		}
		timer := d.clock.NewTimer(grace, "process", "grace")
		defer timer.Stop()
		select {
		case <-i.done:
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if i.now().Running {
		if err := i.signal(unix.SIGKILL); err != nil {
			return err
		}
		timer := d.clock.NewTimer(killWait, "process", "kill")
		defer timer.Stop()
		select {
		case <-i.done:
		case <-timer.C:
			return fmt.Errorf("process %d of instance %s does not end after SIGKILL", i.pid, h.InstanceID)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return d.killAll(h.InstanceID)
}

// killAll ends what an instance left behind: children, also those that made a
// session of their own, which carry its marks.
func (d *Driver) killAll(id string) error {
	d.cgroups.kill(id)
	// A process may fork while it is being killed; the rounds are bounded
	// because each one kills every process that existed at its start.
	for range 20 {
		left, err := d.marked(id)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return nil
		}
		for _, p := range left {
			p.kill()
		}
	}
	return fmt.Errorf("instance %s: processes come back faster than they are killed", id)
}

// Logs implements drivers.Driver.
func (d *Driver) Logs(_ context.Context, h drivers.Handle, lines int) ([]string, error) {
	text, err := tail(h.Dir, lines)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &drivers.Error{Kind: drivers.ErrInstanceNotFound, Instance: h.InstanceID, Detail: h.InstanceID}
	}
	return text, err
}

// List implements drivers.Driver.
func (d *Driver) List(context.Context) ([]drivers.Handle, error) {
	handles, err := d.scan("")
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, h := range handles {
		seen[h.InstanceID] = true
	}
	d.mu.Lock()
	for id, i := range d.instances {
		if !seen[id] {
			handles = append(handles, i.handle)
		}
	}
	d.mu.Unlock()
	slices.SortFunc(handles, func(a, b drivers.Handle) int { return strings.Compare(a.InstanceID, b.InstanceID) })
	return handles, nil
}

// Remove implements drivers.Driver.
func (d *Driver) Remove(ctx context.Context, h drivers.Handle) error {
	if err := drivers.CheckRemovable(h); err != nil {
		return err
	}
	if err := d.Stop(ctx, h, 0); err != nil {
		return err
	}
	d.mu.Lock()
	i := d.instances[h.InstanceID]
	delete(d.instances, h.InstanceID)
	d.mu.Unlock()
	if i != nil {
		d.ports.giveBack(i.handle)
	}
	d.cgroups.remove(h.InstanceID)
	if h.Dir == "" {
		return nil
	}
	return d.removeDir(ctx, h.Dir)
}

// removeDir tries again when a file appeared meanwhile: another driver that watched the same process, such as that of
// an agent which is about to end, may just be writing its note. It writes one and makes no directory.
func (d *Driver) removeDir(ctx context.Context, dir string) error {
	for {
		err := os.RemoveAll(dir)
		if !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
		t := d.clock.NewTimer(10 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

// Transport implements drivers.Driver.
func (d *Driver) Transport(h drivers.Handle) drivers.Transport { return drivers.NewTransport(h.Ports) }

// Close implements drivers.Driver: it ends the watchers, not what they watch.
func (d *Driver) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.group.Wait()
	return nil
}
