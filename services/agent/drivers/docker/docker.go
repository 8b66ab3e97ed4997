// Package docker is the driver that runs instances as containers through the
// API of a Docker Engine (1.40 and later) on its local socket.
//
// Any image reference works. An image that the engine has is used as it is,
// another is pulled. A container is found again by its labels:
//
//	sirocco.agent, sirocco.dir      who started it, and its directory
//	nvcf.instance, nvcf.generation  which instance it is
//
// A container sees its own devices and no others, has all capabilities but
// NET_BIND_SERVICE dropped, cannot gain privileges and is never restarted by the
// engine: what to do after an end is the agent's decision.
//
// # Where the agent runs
//
// On the host, ports are published on 127.0.0.1 and the engine chooses the host
// ports. Inside a container, as under compose, the loopback of the host cannot
// be reached: instances join a network of the agent's own container (or
// Options.Network) and are called by their address there, and directories are
// translated to what the agent's volumes are on the host.
package docker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/quartz"
	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"

	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

const (
	labelAgent      = "sirocco.agent"
	labelDir        = "sirocco.dir"
	labelImage      = "sirocco.image"
	labelInstance   = "nvcf.instance"
	labelGeneration = "nvcf.generation"
)

const (
	// pidsLimit bounds the processes and threads of one container.
	pidsLimit = 16384
	// maxShmMiB bounds /dev/shm when the spec does not say.
	maxShmMiB = 64 << 10
	// tailBytes bounds what Logs reads.
	tailBytes = 4 << 20
)

// Forms of a GPU request.
const (
	GPUAuto   = "auto"
	GPUCDI    = "cdi"
	GPUNvidia = "nvidia"
)

// Options of a docker driver.
type Options struct {
	// AgentID separates the instances of several agents at one engine.
	AgentID string
	// Host is the address of the engine; empty means DOCKER_HOST or the default socket.
	Host string
	// Network is the network that instances join and on which they are called.
	// Empty publishes ports on loopback instead, unless the agent itself runs in
	// a container; then it is the first network of that container.
	Network string
	// GPU is the form of GPU requests: GPUAuto (default), GPUCDI or GPUNvidia.
	GPU string
	// PullTimeout bounds one pull; default 30 minutes.
	PullTimeout time.Duration
	// Clock defaults to the real one.
	Clock quartz.Clock
}

// Driver is the docker driver.
type Driver struct {
	options Options
	clock   quartz.Clock
	engine  *client.Client
	openErr error
	turns   drivers.Turns

	// running is done when Close is called.
	running context.Context
	cancel  context.CancelFunc

	mu   sync.Mutex
	info *system.Info
	self *self
}

var _ drivers.Driver = (*Driver)(nil)

// New makes a driver. It does not talk to the engine; Check does.
func New(o Options) *Driver {
	o.GPU = cmp.Or(o.GPU, GPUAuto)
	o.PullTimeout = cmp.Or(o.PullTimeout, 30*time.Minute)
	if o.Clock == nil {
		o.Clock = quartz.NewReal()
	}
	settings := []client.Opt{client.FromEnv}
	if o.Host != "" {
		settings = append(settings, client.WithHost(o.Host))
	}
	d := &Driver{options: o, clock: o.Clock}
	d.engine, d.openErr = client.New(settings...)
	d.running, d.cancel = context.WithCancel(context.Background())
	return d
}

// Name implements drivers.Driver.
func (d *Driver) Name() string { return "docker" }

// Check implements drivers.Driver.
func (d *Driver) Check(ctx context.Context) error {
	if d.openErr != nil {
		return &drivers.Error{Kind: drivers.ErrUnavailable, Detail: "the Docker address is wrong", Err: d.openErr}
	}
	if _, err := d.engine.Ping(ctx, client.PingOptions{}); err != nil {
		return &drivers.Error{Kind: drivers.ErrUnavailable, Detail: "no Docker Engine answers", Err: err}
	}
	_, err := d.facts(ctx)
	return err
}

// facts asks the engine about itself, once.
func (d *Driver) facts(ctx context.Context) (*system.Info, error) {
	if d.openErr != nil {
		return nil, &drivers.Error{Kind: drivers.ErrUnavailable, Detail: "the Docker address is wrong", Err: d.openErr}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.info == nil {
		result, err := d.engine.Info(ctx, client.InfoOptions{})
		if err != nil {
			return nil, &drivers.Error{Kind: drivers.ErrUnavailable, Detail: "no Docker Engine answers", Err: err}
		}
		d.info = &result.Info
	}
	return d.info, nil
}

// wrap gives an engine error its kind.
func wrap(kind error, instance, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", what, err)
	case client.IsErrConnectionFailed(err):
		kind = drivers.ErrUnavailable
	}
	return &drivers.Error{Kind: kind, Instance: instance, Detail: what, Err: err}
}

func containerName(id string) string { return "sirocco-" + id }

// Start implements drivers.Driver. The name of the container makes it
// idempotent: the engine accepts it once.
func (d *Driver) Start(ctx context.Context, spec drivers.Spec) (drivers.Handle, error) {
	if err := spec.Validate(); err != nil {
		return drivers.Handle{}, err
	}
	release, err := d.turns.Take(ctx, spec.InstanceID)
	if err != nil {
		return drivers.Handle{}, err
	}
	defer release()
	options, err := d.container(ctx, spec)
	if err != nil {
		return drivers.Handle{}, err
	}
	created, err := d.engine.ContainerCreate(ctx, options)
	switch {
	case err == nil:
	case cerrdefs.IsConflict(err):
		return d.resume(ctx, spec)
	case cerrdefs.IsNotFound(err) && strings.Contains(strings.ToLower(err.Error()), "image"):
		return drivers.Handle{}, wrap(drivers.ErrImageNotFound, spec.InstanceID, spec.Image, err)
	default:
		return drivers.Handle{}, wrap(drivers.ErrCreate, spec.InstanceID, "create container", err)
	}
	return d.run(ctx, spec, created.ID)
}

// resume continues with a container that an earlier Start made.
func (d *Driver) resume(ctx context.Context, spec drivers.Spec) (drivers.Handle, error) {
	c, err := d.inspect(ctx, containerName(spec.InstanceID), spec.InstanceID)
	if err != nil {
		return drivers.Handle{}, err
	}
	if c.Config.Labels[labelAgent] != d.options.AgentID {
		return drivers.Handle{}, &drivers.Error{
			Kind: drivers.ErrCreate, Instance: spec.InstanceID,
			Detail: "a container of another agent has the name " + containerName(spec.InstanceID),
		}
	}
	if c.State.Status == container.StateCreated {
		return d.run(ctx, spec, c.ID)
	}
	return d.handle(c), nil
}

// run starts a created container. One that cannot start is removed, so that a
// corrected order for the same instance is not answered with the old failure.
func (d *Driver) run(ctx context.Context, spec drivers.Spec, id string) (drivers.Handle, error) {
	if _, err := d.engine.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		if ctx.Err() == nil && !client.IsErrConnectionFailed(err) {
			_, _ = d.engine.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		}
		return drivers.Handle{}, wrap(drivers.ErrCreate, spec.InstanceID, "start container", err)
	}
	c, err := d.inspect(ctx, id, spec.InstanceID)
	if err != nil {
		return drivers.Handle{}, err
	}
	return d.handle(c), nil
}

// container translates a spec into the words of the engine.
func (d *Driver) container(ctx context.Context, spec drivers.Spec) (client.ContainerCreateOptions, error) {
	none := client.ContainerCreateOptions{}
	info, err := d.facts(ctx)
	if err != nil {
		return none, err
	}
	where, err := d.place(ctx)
	if err != nil {
		return none, err
	}
	mounts, err := where.mounts(spec)
	if err != nil {
		return none, err
	}
	labels := map[string]string{}
	maps.Copy(labels, spec.Labels)
	labels[labelAgent], labels[labelDir], labels[labelImage] = d.options.AgentID, spec.Dir, spec.Image
	labels[labelPorts] = joinPorts(spec.Ports())
	labels[labelInstance], labels[labelGeneration] = spec.InstanceID, strconv.FormatInt(spec.Generation, 10)

	limits := limitsOf(spec, info.NCPU)
	limits.DeviceRequests = d.deviceRequests(spec.Devices, info)
	host := &container.HostConfig{
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		LogConfig:     container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "32m", "max-file": "2"}},
		CapDrop:       []string{"ALL"},
		CapAdd:        []string{"NET_BIND_SERVICE"},
		SecurityOpt:   []string{"no-new-privileges"},
		ShmSize:       shmMiB(spec) << 20,
		Mounts:        mounts,
		Resources:     limits,
	}
	config := &container.Config{
		Image: spec.Image, Cmd: spec.Args, Labels: labels,
		Env: drivers.LastWins(append(slices.Clone(spec.Env), visibleDevices(spec.Devices)...)),
	}
	options := client.ContainerCreateOptions{Name: containerName(spec.InstanceID), Config: config, HostConfig: host}
	if where.network != "" {
		host.NetworkMode = container.NetworkMode(where.network)
		return options, nil
	}
	config.ExposedPorts, host.PortBindings = network.PortSet{}, network.PortMap{}
	for _, port := range spec.Ports() {
		p, ok := network.PortFrom(uint16(port), network.TCP)
		if !ok {
			return none, &drivers.Error{Kind: drivers.ErrInvalidSpec, Instance: spec.InstanceID, Detail: fmt.Sprintf("port %d", port)}
		}
		config.ExposedPorts[p] = struct{}{}
		host.PortBindings[p] = []network.PortBinding{{HostIP: netip.AddrFrom4([4]byte{127, 0, 0, 1})}}
	}
	return options, nil
}

func joinPorts(ports []int) string {
	texts := make([]string, len(ports))
	for n, p := range ports {
		texts[n] = strconv.Itoa(p)
	}
	return strings.Join(texts, ",")
}

func limitsOf(spec drivers.Spec, hostCPUs int) container.Resources {
	pids := int64(pidsLimit)
	limits := container.Resources{PidsLimit: &pids}
	if len(drivers.RealDevices(spec.Devices)) > 0 {
		// Pinned memory for transfers to a GPU. Not for all, because an engine
		// that is itself confined may not raise it.
		limits.Ulimits = []*container.Ulimit{{Name: "memlock", Soft: -1, Hard: -1}}
	}
	if spec.CPUMilli > 0 {
		// The engine refuses more than it has, which can be asked for when the
		// agent sees other processors than the engine does.
		limits.NanoCPUs = min(spec.CPUMilli, int64(hostCPUs)*1000) * 1_000_000
	}
	if spec.MemoryMiB > 0 {
		limits.Memory = spec.MemoryMiB << 20
		limits.MemorySwap = limits.Memory // both together, hence no swap
	}
	return limits
}

func shmMiB(spec drivers.Spec) int64 {
	if spec.ShmMiB > 0 || spec.MemoryMiB <= 0 {
		return spec.ShmMiB
	}
	return min(spec.MemoryMiB/2, maxShmMiB)
}

// visibleDevices overrules both the function's own setting and an image that
// asks for all devices, which a default runtime of NVIDIA would grant.
func visibleDevices(devices []drivers.Device) []string {
	if uuids := drivers.RealDevices(devices); len(uuids) > 0 {
		return []string{"NVIDIA_VISIBLE_DEVICES=" + strings.Join(uuids, ",")}
	}
	return []string{"NVIDIA_VISIBLE_DEVICES=void"}
}

// deviceRequests names exact devices, never a count. CDI is preferred where the
// engine says that it knows the devices by it.
func (d *Driver) deviceRequests(devices []drivers.Device, info *system.Info) []container.DeviceRequest {
	uuids := drivers.RealDevices(devices)
	if len(uuids) == 0 {
		return nil
	}
	names := make([]string, len(uuids))
	for n, uuid := range uuids {
		names[n] = "nvidia.com/gpu=" + uuid
	}
	useCDI := d.options.GPU == GPUCDI
	if d.options.GPU == GPUAuto {
		known := map[string]bool{}
		for _, device := range info.DiscoveredDevices {
			known[device.ID] = true
		}
		useCDI = !slices.ContainsFunc(names, func(name string) bool { return !known[name] })
	}
	if useCDI {
		return []container.DeviceRequest{{Driver: "cdi", DeviceIDs: names}}
	}
	return []container.DeviceRequest{{Driver: "nvidia", DeviceIDs: uuids, Capabilities: [][]string{{"gpu", "compute", "utility"}}}}
}

func (d *Driver) inspect(ctx context.Context, ref, instance string) (container.InspectResponse, error) {
	if d.openErr != nil {
		return container.InspectResponse{}, wrap(drivers.ErrUnavailable, instance, "engine", d.openErr)
	}
	result, err := d.engine.ContainerInspect(ctx, ref, client.ContainerInspectOptions{})
	if cerrdefs.IsNotFound(err) {
		return container.InspectResponse{}, &drivers.Error{Kind: drivers.ErrInstanceNotFound, Instance: instance, Detail: instance}
	}
	if err != nil {
		return container.InspectResponse{}, wrap(drivers.ErrUnavailable, instance, "inspect container", err)
	}
	if result.Container.Config == nil || result.Container.State == nil {
		return container.InspectResponse{}, &drivers.Error{Kind: drivers.ErrUnavailable, Instance: instance, Detail: "the engine's answer is incomplete"}
	}
	return result.Container, nil
}

// handle reads everything back from the container: its labels and where its
// ports are now.
func (d *Driver) handle(c container.InspectResponse) drivers.Handle {
	h := drivers.Handle{
		Driver: d.Name(), InstanceID: c.Config.Labels[labelInstance], Image: c.Config.Labels[labelImage],
		Dir: c.Config.Labels[labelDir], Ref: c.ID, Ports: map[int]string{},
	}
	h.Generation, _ = strconv.ParseInt(c.Config.Labels[labelGeneration], 10, 64)
	h.StartedAt, _ = time.Parse(time.RFC3339Nano, c.State.StartedAt)
	if c.NetworkSettings == nil {
		return h
	}
	for port, bindings := range c.NetworkSettings.Ports {
		for _, b := range bindings {
			if b.HostPort != "" {
				h.Ports[int(port.Num())] = net.JoinHostPort("127.0.0.1", b.HostPort)
			}
		}
	}
	if len(h.Ports) > 0 {
		return h
	}
	// Not published: every port of the address on the instance's network is
	// reachable. The ports are those that the spec named.
	for _, endpoint := range c.NetworkSettings.Networks {
		if endpoint == nil || !endpoint.IPAddress.IsValid() {
			continue
		}
		for text := range strings.SplitSeq(c.Config.Labels[labelPorts], ",") {
			if port, err := strconv.Atoi(text); err == nil {
				h.Ports[port] = net.JoinHostPort(endpoint.IPAddress.String(), text)
			}
		}
		break
	}
	return h
}

func ref(h drivers.Handle) string { return cmp.Or(h.Ref, containerName(h.InstanceID)) }

// Status implements drivers.Driver.
func (d *Driver) Status(ctx context.Context, h drivers.Handle) (drivers.Status, error) {
	c, err := d.inspect(ctx, ref(h), h.InstanceID)
	if err != nil {
		return drivers.Status{}, err
	}
	return statusOf(c.State), nil
}

func statusOf(s *container.State) drivers.Status {
	switch {
	case s.Running:
		return drivers.Status{Running: true}
	case s.Status == container.StateCreated:
		return drivers.Status{Reason: "created, but never started"}
	}
	code := s.ExitCode
	status := drivers.Status{ExitCode: &code, OOM: s.OOMKilled, Reason: drivers.ReasonOf(code)}
	if s.OOMKilled {
		status.Reason = "hit its memory limit and was killed"
	}
	if s.Error != "" {
		status.Reason += ": " + s.Error
	}
	return status
}

// reconnectEvery is the pause before Wait asks again an engine that went away.
const reconnectEvery = time.Second

// Wait implements drivers.Driver. An engine that restarts meanwhile does not end it.
func (d *Driver) Wait(ctx context.Context, h drivers.Handle) (drivers.Status, error) {
	for {
		status, err := d.Status(ctx, h)
		if err == nil && !status.Running || drivers.IsNotFound(err) {
			return status, err
		}
		if err == nil {
			err = d.untilEnd(ctx, ref(h))
		}
		if err == nil {
			continue
		}
		timer := d.clock.NewTimer(reconnectEvery, "docker", "reconnect")
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return drivers.Status{}, ctx.Err()
		case <-d.running.Done():
			timer.Stop()
			return drivers.Status{}, &drivers.Error{Kind: drivers.ErrUnavailable, Detail: "the driver is closed"}
		}
	}
}

func (d *Driver) untilEnd(ctx context.Context, id string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	detach := context.AfterFunc(d.running, cancel)
	defer detach()
	wait := d.engine.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	// One of the two always comes, because the end of ctx is an error; leaving
	// earlier would strand the client's goroutine.
	select {
	case <-wait.Result:
		return nil
	case err := <-wait.Error:
		if cerrdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
}

// Stop implements drivers.Driver. The engine signals the first process and ends
// all others with it.
func (d *Driver) Stop(ctx context.Context, h drivers.Handle, grace time.Duration) error {
	if d.openErr != nil {
		return wrap(drivers.ErrUnavailable, h.InstanceID, "engine", d.openErr)
	}
	seconds := int(math.Ceil(max(grace, 0).Seconds()))
	_, err := d.engine.ContainerStop(ctx, ref(h), client.ContainerStopOptions{Timeout: &seconds})
	if err == nil || cerrdefs.IsNotFound(err) || cerrdefs.IsNotModified(err) {
		return nil
	}
	return wrap(drivers.ErrUnavailable, h.InstanceID, "stop container", err)
}

// Logs implements drivers.Driver.
func (d *Driver) Logs(ctx context.Context, h drivers.Handle, lines int) ([]string, error) {
	if lines <= 0 {
		return nil, nil
	}
	if _, err := d.inspect(ctx, ref(h), h.InstanceID); err != nil {
		return nil, err
	}
	stream, err := d.engine.ContainerLogs(ctx, ref(h), client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: strconv.Itoa(lines)})
	if err != nil {
		return nil, wrap(drivers.ErrUnavailable, h.InstanceID, "container logs", err)
	}
	defer stream.Close()
	var text bytes.Buffer
	// Cut in the middle of a frame, the copy fails but what came before counts.
	if _, err := stdcopy.StdCopy(&text, &text, io.LimitReader(stream, tailBytes)); err != nil && text.Len() == 0 {
		return nil, wrap(drivers.ErrUnavailable, h.InstanceID, "container logs", err)
	}
	return drivers.LastLines(strings.ToValidUTF8(text.String(), "�"), lines), nil
}

// List implements drivers.Driver.
func (d *Driver) List(ctx context.Context) ([]drivers.Handle, error) {
	if d.openErr != nil {
		return nil, wrap(drivers.ErrUnavailable, "", "engine", d.openErr)
	}
	result, err := d.engine.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: client.Filters{}.Add("label", labelAgent+"="+d.options.AgentID),
	})
	if err != nil {
		return nil, wrap(drivers.ErrUnavailable, "", "list containers", err)
	}
	handles := make([]drivers.Handle, 0, len(result.Items))
	for _, item := range result.Items {
		c, err := d.inspect(ctx, item.ID, item.Labels[labelInstance])
		if drivers.IsNotFound(err) {
			continue // removed between the two questions
		}
		if err != nil {
			return nil, err
		}
		handles = append(handles, d.handle(c))
	}
	slices.SortFunc(handles, func(a, b drivers.Handle) int { return strings.Compare(a.InstanceID, b.InstanceID) })
	return handles, nil
}

// Remove implements drivers.Driver.
func (d *Driver) Remove(ctx context.Context, h drivers.Handle) error {
	if err := drivers.CheckRemovable(h); err != nil {
		return err
	}
	if d.openErr != nil {
		return wrap(drivers.ErrUnavailable, h.InstanceID, "engine", d.openErr)
	}
	_, err := d.engine.ContainerRemove(ctx, ref(h), client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	// A conflict says that somebody else is removing it already.
	if err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) {
		return wrap(drivers.ErrUnavailable, h.InstanceID, "remove container", err)
	}
	if h.Dir == "" {
		return nil
	}
	return os.RemoveAll(h.Dir)
}

// Transport implements drivers.Driver.
func (d *Driver) Transport(h drivers.Handle) drivers.Transport { return drivers.NewTransport(h.Ports) }

// Close implements drivers.Driver.
func (d *Driver) Close() error {
	d.cancel()
	if d.engine == nil {
		return nil
	}
	return d.engine.Close()
}

// mounts are the binds of the sub-directories that exist.
func (p place) mounts(spec drivers.Spec) ([]mount.Mount, error) {
	var mounts []mount.Mount
	for _, m := range drivers.Mounts {
		path := filepath.Join(spec.Dir, m.Sub)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, &drivers.Error{Kind: drivers.ErrCreate, Instance: spec.InstanceID, Err: err}
		}
		source, ok := p.hostPath(path)
		if !ok {
			return nil, &drivers.Error{Kind: drivers.ErrCreate, Instance: spec.InstanceID, Detail: "the agent runs in a container and " + path +
				" is on none of its volumes, so the engine cannot give it to an instance; put the agent's data directory on a volume"}
		}
		mounts = append(mounts, mount.Mount{Type: mount.TypeBind, Source: source, Target: m.Target, ReadOnly: m.ReadOnly})
	}
	return mounts, nil
}
