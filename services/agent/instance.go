package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/mattn/go-shellwords"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

// Times in the life of an instance (clusters-agents §5, invocation §5.1).
const (
	probeStarting = 500 * time.Millisecond
	probeFirst    = 20 * time.Millisecond
	probeRunning  = 10 * time.Second
	// sickAfter failed probes in a row take the instance out of service, and replaceAfter ends it.
	sickAfter    = 3
	replaceAfter = 5 * time.Minute
	// defaultPort is what a function without inferencePort listens on.
	defaultPort = 8000
	logLines    = 200
	logBytes    = 16 << 10
)

// instance is one running copy of a version, from its order to its end. All of its life is one goroutine, run; others
// only ask it to stop.
type instance struct {
	agent *Agent
	log   *zap.Logger

	mu   sync.Mutex // guards rec
	rec  *record
	stop chan struct{} // closed when rec.Stop is set
	done chan struct{} // closed when it is terminated

	transport drivers.Transport
}

func newInstance(a *Agent, rec *record) *instance {
	i := &instance{
		agent: a, rec: rec, stop: make(chan struct{}), done: make(chan struct{}),
		log: a.log.With(zap.String("instance", rec.Order.InstanceID), zap.String("version", rec.Order.VersionID)),
	}
	if rec.Stop != nil {
		close(i.stop)
	}
	return i
}

func (i *instance) id() string { return i.rec.Order.InstanceID }

// end says why an instance is over.
type end struct {
	cause   instances.Cause
	message string
	exit    *int
}

func (e *end) Error() string { return string(e.cause) + ": " + e.message }

// requestStop makes the wish durable and wakes the goroutine.
func (i *instance) requestStop(order instances.TerminateOrder) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.rec.Stop != nil {
		return nil
	}
	i.rec.Stop = &order
	close(i.stop)
	return i.agent.records.save(i.rec)
}

// run carries the instance from wherever its record says it is to its end. When ctx ends first, the instance goes on
// without us and the next agent takes it from the record.
func (i *instance) run(ctx context.Context) {
	if i.rec.State == instances.Terminated {
		close(i.done)
		i.linger(ctx)
		return
	}
	reason := i.live(ctx)
	if ctx.Err() != nil && reason == nil {
		return
	}
	i.finish(context.WithoutCancel(ctx), reason)
	close(i.done)
	i.linger(ctx)
}

// live returns why the instance must end, or nil when the agent itself stops.
func (i *instance) live(ctx context.Context) *end {
	if i.stopping() && i.rec.Handle == nil {
		return i.stopped()
	}
	startCtx, cancel := i.untilStop(ctx)
	defer cancel()
	attached := i.rec.Handle != nil
	if !attached {
		if err := i.start(startCtx); err != nil {
			return i.reasonOf(ctx, err)
		}
	} else if i.rec.Function == nil {
		// The agent died between the start and the record; everything else about the function is asked for again.
		if _, err := i.fetch(startCtx); err != nil {
			return i.reasonOf(ctx, err)
		}
	}
	d := i.agent.driver(i.rec.Handle.Driver)
	i.transport = d.Transport(*i.rec.Handle)
	defer i.transport.CloseIdleConnections()
	exited := make(chan drivers.Status, 1)
	waitCtx, stopWaiting := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if st, err := i.wait(waitCtx, d); err == nil {
			exited <- st
		}
	})
	defer waiting.Wait()
	defer stopWaiting()
	if !i.wasRunning() {
		if e := i.awaitReady(startCtx, exited); e != nil {
			return i.orNil(ctx, e)
		}
	}
	return i.orNil(ctx, i.serve(ctx, exited, d))
}

// wait waits for the end of the process or container; an error of the driver is retried, a missing one is an end.
func (i *instance) wait(ctx context.Context, d drivers.Driver) (drivers.Status, error) {
	for {
		st, err := d.Wait(ctx, *i.rec.Handle)
		switch {
		case ctx.Err() != nil:
			return st, ctx.Err()
		case err == nil:
			return st, nil
		case drivers.IsNotFound(err):
			return drivers.Status{Reason: "the instance disappeared from the node"}, nil
		}
		i.log.Warn("driver cannot watch the instance, trying again", zap.Error(err))
		sleep(ctx, time.Second)
	}
}

// orNil drops a reason that only says that the agent stops.
func (i *instance) orNil(ctx context.Context, e *end) *end {
	if ctx.Err() != nil && !i.stopping() {
		return nil
	}
	return e
}

// start takes the order to a running process or container.
func (i *instance) start(ctx context.Context) error {
	i.report(instances.Starting, instances.Reserved, nil)
	if !i.rec.Order.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, i.rec.Order.Deadline)
		defer cancel()
	}
	launchable, err := i.fetch(ctx)
	if err != nil {
		return err
	}
	spec, err := i.spec(launchable)
	if err != nil {
		return err
	}
	i.report(instances.Starting, instances.PullingImage, nil)
	d, err := i.agent.prepare(ctx, spec)
	if err != nil {
		return err
	}
	i.report(instances.Starting, instances.Creating, nil)
	h, err := d.Start(ctx, spec)
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.rec.Handle = &h
	return i.agent.records.save(i.rec)
}

// fetch asks the functions service what to run; it waits for the service as long as the order allows.
func (i *instance) fetch(ctx context.Context) (functions.Launchable, error) {
	wait := 50 * time.Millisecond
	for {
		l, err := bus.Call(ctx, i.agent.conn, functions.Launch, functions.InternalRequest{FunctionID: i.rec.Order.FunctionID, VersionID: i.rec.Order.VersionID})
		if err == nil {
			f := &functionFacts{Name: l.Function.Name, Port: l.Function.InferencePort}
			if f.Port == 0 {
				f.Port = defaultPort
			}
			if l.Function.Health != nil {
				f.Health = *l.Function.Health
			}
			i.mu.Lock()
			defer i.mu.Unlock()
			i.rec.Function = f
			return l, i.agent.records.save(i.rec)
		}
		if problem.HasCode(err, problem.NotFound) {
			return l, &end{cause: instances.ByService, message: "the function version does not exist any more"}
		}
		if ctx.Err() != nil {
			return l, ctx.Err()
		}
		i.log.Warn("function not read, trying again", zap.Error(err))
		sleep(ctx, wait)
		wait = min(2*wait, 2*time.Second)
	}
}

// spec translates a version into what a driver needs, and writes the secrets where the instance reads them.
func (i *instance) spec(l functions.Launchable) (drivers.Spec, error) {
	order, fn := i.rec.Order, l.Function
	dir := filepath.Join(i.agent.instancesDir(), order.InstanceID)
	if err := writeFiles(dir, l.Secrets); err != nil {
		return drivers.Spec{}, &end{cause: instances.CreateError, message: err.Error()}
	}
	args, err := shellwords.Parse(fn.ContainerArgs)
	if err != nil {
		return drivers.Spec{}, &end{cause: instances.TerminalError, message: "containerArgs cannot be split like a shell does: " + err.Error()}
	}
	var env []string
	for _, e := range fn.ContainerEnvironment {
		env = append(env, e.Key+"="+e.Value)
	}
	cfg := i.agent.cfg
	env = append(env,
		"NVCF_FUNCTION_ID="+fn.ID, "NVCF_FUNCTION_VERSION_ID="+fn.VersionID, "NVCF_FUNCTION_NAME="+fn.Name, "NVCF_NCA_ID="+fn.NCAID,
		"NVCF_REGION="+cfg.Region, "NVCF_BACKEND="+cfg.Cluster, "NVCF_ENV=sirocco",
		"NVCF_INSTANCETYPE="+order.InstanceType, "NVCF_INSTANCETYPE_VALUE="+order.InstanceType)
	health := i.rec.Function.Health
	return drivers.Spec{
		InstanceID: order.InstanceID, Generation: 1, Image: fn.ContainerImage, Args: args, Env: env,
		InferencePort: i.rec.Function.Port, HealthPort: health.Port, HealthPath: health.URI,
		Devices: i.agent.capacity.driverDevices(order.Devices), CPUMilli: order.CPUMilli, MemoryMiB: order.MemoryMiB, Dir: dir,
		Labels: map[string]string{"sirocco.function": fn.ID, "sirocco.version": fn.VersionID, "sirocco.deployment": order.DeploymentID},
	}, nil
}

// writeFiles lays out the directory of an instance. Secrets are readable by the instance's user only through its mount.
func writeFiles(dir string, secrets []functions.Secret) error {
	for _, sub := range []string{"secrets", "inf"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return fmt.Errorf("instance directory: %w", err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "inf"), 0o777); err != nil {
		return fmt.Errorf("instance directory: %w", err)
	}
	values := map[string]json.RawMessage{}
	for _, s := range secrets {
		values[s.Name] = s.Value
	}
	b, err := json.Marshal(values)
	if err != nil {
		return fmt.Errorf("secrets: %w", err)
	}
	path := filepath.Join(dir, "secrets", "secrets.json")
	if err := os.WriteFile(path+".tmp", b, 0o444); err != nil {
		return fmt.Errorf("secrets: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("secrets: %w", err)
	}
	return nil
}

// awaitReady probes until the instance is healthy, ends, or its time is over.
func (i *instance) awaitReady(ctx context.Context, exited <-chan drivers.Status) *end {
	i.report(instances.Starting, instances.WaitingReady, nil)
	deadline := i.rec.Order.Deadline
	wait := probeFirst
	last := errors.New("no probe was made")
	for {
		if last = i.probe(ctx); last == nil {
			return nil
		}
		if !deadline.IsZero() && time.Now().After(deadline) {
			return &end{cause: instances.NotReady, message: "the health check did not pass in time: " + last.Error()}
		}
		t := time.NewTimer(wait)
		wait = min(2*wait, probeStarting)
		select {
		case <-t.C:
		case st := <-exited:
			t.Stop()
			return exitReason(st, "the container ended before its health check passed")
		case <-i.stop:
			t.Stop()
			return i.stopped()
		case <-ctx.Done():
			t.Stop()
			return i.stopped()
		}
	}
}

// serve puts the instance into service and watches it.
func (i *instance) serve(ctx context.Context, exited <-chan drivers.Status, d drivers.Driver) *end {
	m := i.agent.work.join(i)
	defer i.agent.work.leave(m)
	i.report(instances.Running, "", nil)
	i.log.Info("instance is running", zap.String("driver", d.Name()))
	failed, sickSince := 0, time.Time{}
	ticker := time.NewTicker(probeRunning)
	defer ticker.Stop()
	for {
		select {
		case st := <-exited:
			return exitReason(st, "the container ended")
		case <-i.stop:
			i.drain(ctx, m)
			return i.stopped()
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		err := i.probe(ctx)
		switch {
		case err == nil:
			if !sickSince.IsZero() {
				sickSince = time.Time{}
				m.resume()
				i.report(instances.Running, "", nil)
			}
			failed = 0
		case ctx.Err() != nil:
		default:
			failed++
			if failed == sickAfter {
				sickSince = time.Now()
				m.pause()
				i.report(instances.Unhealthy, "", &end{cause: instances.NotReady, message: err.Error()})
			}
			if !sickSince.IsZero() && time.Since(sickSince) > replaceAfter {
				return &end{cause: instances.NotReady, message: "the health check has failed for " + replaceAfter.String() + ": " + err.Error()}
			}
		}
	}
}

// drain lets requests in flight finish, as long as the order says.
func (i *instance) drain(ctx context.Context, m *member) {
	i.report(instances.ShuttingDown, "", nil)
	m.pause()
	i.mu.Lock()
	patience := time.Duration(i.rec.Stop.DrainSeconds) * time.Second
	i.mu.Unlock()
	if patience <= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m.idle(ctx)
}

// finish stops and removes whatever is left and reports the end. It does not give up: a leaked instance holds a GPU.
func (i *instance) finish(ctx context.Context, e *end) {
	i.mu.Lock()
	handle := i.rec.Handle
	forced := i.rec.Stop != nil && i.rec.Stop.DrainSeconds == 0
	i.mu.Unlock()
	var logs []string
	if handle != nil {
		d := i.agent.driver(handle.Driver)
		grace := i.agent.cfg.StopGrace
		if forced {
			grace = min(grace, 2*time.Second)
		}
		for wait := 200 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
			err := d.Stop(ctx, *handle, grace)
			if err == nil || drivers.IsNotFound(err) {
				break
			}
			i.log.Warn("instance not stopped, trying again", zap.Error(err))
			sleep(i.agent.ctx, wait)
			if i.agent.ctx.Err() != nil {
				return
			}
		}
		if !userEnd(e.cause) {
			logs = i.lastLogs(ctx, d, *handle)
		}
		if err := d.Remove(ctx, *handle); err != nil && !drivers.IsNotFound(err) {
			i.log.Warn("instance not removed", zap.Error(err))
		}
	} else if err := os.RemoveAll(filepath.Join(i.agent.instancesDir(), i.id())); err != nil {
		i.log.Warn("instance directory not removed", zap.Error(err))
	}
	i.mu.Lock()
	i.rec.EndedAt = time.Now()
	i.mu.Unlock()
	i.reportEnd(e, logs)
	i.agent.capacity.changed()
	i.log.Info("instance ended", zap.String("cause", string(e.cause)), zap.String("why", e.message))
}

func userEnd(c instances.Cause) bool { return c == instances.ByUser || c == instances.AgentShutdown }

func (i *instance) lastLogs(ctx context.Context, d drivers.Driver, h drivers.Handle) []string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	lines, err := d.Logs(ctx, h, logLines)
	if err != nil {
		i.log.Debug("no log lines", zap.Error(err))
		return nil
	}
	size := 0
	for n := len(lines) - 1; n >= 0; n-- {
		if size += len(lines[n]) + 1; size > logBytes {
			return lines[n+1:]
		}
	}
	return lines
}

// linger keeps the record of an ended instance for a while, against orders that come late.
func (i *instance) linger(ctx context.Context) {
	sleep(ctx, time.Until(i.rec.EndedAt.Add(remembered)))
	if ctx.Err() == nil {
		i.agent.forget(i)
	}
}

func (i *instance) stopping() bool {
	select {
	case <-i.stop:
		return true
	default:
		return false
	}
}

func (i *instance) wasRunning() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.rec.State == instances.Running
}

// untilStop is a context that also ends when the instance is asked to stop.
func (i *instance) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	i.agent.running.Go(func() {
		select {
		case <-i.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, cancel
}

func (i *instance) stopped() *end {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.rec.Stop != nil {
		return &end{cause: i.rec.Stop.Cause, message: "stopped on order"}
	}
	return &end{cause: instances.ByService, message: "the agent stops"}
}

// reasonOf turns an error of the start into an end; nil when the agent itself stops.
func (i *instance) reasonOf(ctx context.Context, err error) *end {
	var e *end
	switch {
	case i.stopping():
		return i.stopped()
	case ctx.Err() != nil:
		return nil
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return &end{cause: instances.NotReady, message: "the start took longer than the deployment's time-out allows"}
	}
	return &end{cause: drivers.CauseOf(err), message: err.Error()}
}

func exitReason(st drivers.Status, what string) *end {
	e := &end{cause: drivers.CauseOfExit(st), message: what, exit: st.ExitCode}
	if st.Reason != "" {
		e.message += ": " + st.Reason
	} else if st.ExitCode != nil {
		e.message += " with exit code " + strconv.Itoa(*st.ExitCode)
	}
	return e
}
