package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

const (
	// probeFirst is the pause after the first health check of a start; it doubles up to pace.probeStarting.
	probeFirst = 20 * time.Millisecond
	// sickAfter failed probes in a row take an instance out of service.
	sickAfter = 3
	// longestStart bounds the start of an order without a deadline.
	longestStart = 2 * time.Hour
	// defaultPort is what a function without inferencePort listens on.
	defaultPort = 8000
	logLines    = 200
	logBytes    = 16 << 10
	// forcedGrace is what an instance gets between SIGTERM and SIGKILL when it is dropped at once.
	forcedGrace = 2 * time.Second
)

// instance is one running copy of a version, from its order to its end. All of its life is one goroutine, run; others
// only ask it to stop.
type instance struct {
	agent *Agent
	log   *zap.Logger

	mu  sync.Mutex // guards rec, but for rec.Order, which never changes; run may read what only run writes without it
	rec *record

	stop     context.Context // done when rec.Stop is set
	askStop  context.CancelFunc
	force    context.Context // done when it shall not even drain
	askForce context.CancelFunc
	done     chan struct{} // closed when it is terminated

	transport drivers.Transport
	// member is the instance in service, guarded by mu; nil when it is not.
	member *member

	// secrets is held while the file with the secrets is made, stale set while it is to be made anew.
	secrets sync.Mutex
	stale   atomic.Bool
}

func newInstance(a *Agent, rec *record) *instance {
	i := &instance{
		agent: a, rec: rec, done: make(chan struct{}),
		log: a.log.With(zap.String("instance", rec.Order.InstanceID), zap.String("version", rec.Order.VersionID)),
	}
	i.stop, i.askStop = context.WithCancel(context.Background())
	i.force, i.askForce = context.WithCancel(context.Background())
	if rec.Stop != nil {
		i.askStop()
	}
	return i
}

func (i *instance) id() string { return i.rec.Order.InstanceID }

func (i *instance) dir() string { return filepath.Join(i.agent.instancesDir(), i.id()) }

// requestStop makes the wish durable and wakes the goroutine. A second wish counts only if it drops the drain of the
// first. An instance that is over says so again: whoever asks has missed it.
func (i *instance) requestStop(order instances.TerminateOrder) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.rec.State.Live() {
		i.note(instances.Terminated, "", i.rec.End)
		i.agent.reports.notify(i)
		return i.agent.records.save(i.rec)
	}
	before := i.rec.Stop
	if before != nil && (order.DrainSeconds > 0 || before.DrainSeconds == 0) {
		return nil
	}
	if order.IfIdle && (i.member == nil || !i.member.retire()) {
		i.active(instances.Kept, 0)
		return i.agent.records.save(i.rec)
	}
	i.rec.Stop = &order
	if err := i.agent.records.save(i.rec); err != nil {
		i.rec.Stop = before
		if order.IfIdle {
			i.member.resume()
		}
		return err
	}
	i.askStop()
	if order.DrainSeconds <= 0 {
		i.askForce()
	}
	return nil
}

// over reports whether the instance is terminated.
func (i *instance) over() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return !i.rec.State.Live()
}

// run carries the instance from wherever its record says it is to its end. When ctx ends first, the instance goes on
// without us and the next agent takes it from the record.
func (i *instance) run(ctx context.Context) {
	defer i.askStop()
	defer i.askForce()
	if !i.over() {
		reason := i.rec.End
		if reason == nil {
			reason = i.live(ctx)
		}
		if ctx.Err() != nil || !i.finish(ctx, reason) {
			return
		}
	}
	close(i.done)
	i.linger(ctx)
}

// live returns why the instance must end. What it returns when ctx ends means nothing.
func (i *instance) live(ctx context.Context) *end {
	if i.stop.Err() != nil {
		return i.stopped() // what it did for clients was lost with the agent that took the order
	}
	whileWanted, cancel := i.untilStop(ctx)
	defer cancel()
	if i.rec.Handle == nil {
		if err := i.start(whileWanted); err != nil {
			return i.startFailed(err)
		}
	}
	d := i.agent.driver(i.rec.Handle.Driver)
	if st, err := d.Status(ctx, *i.rec.Handle); err == nil && !st.Running || drivers.IsNotFound(err) {
		return ended(st, err)
	}
	i.transport = d.Transport(*i.rec.Handle)
	defer i.transport.CloseIdleConnections()
	exited := make(chan *end, 1)
	var watching sync.WaitGroup
	defer watching.Wait()
	watch, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	watching.Go(func() { i.watch(watch, d, exited) })
	if i.rec.State == instances.Starting {
		if e := i.awaitReady(whileWanted, exited); e != nil {
			return e
		}
	}
	return i.serve(whileWanted, exited)
}

// watch waits for the end of the process or container. It retries while the driver cannot tell.
func (i *instance) watch(ctx context.Context, d drivers.Driver, exited chan<- *end) {
	for {
		st, err := d.Wait(ctx, *i.rec.Handle)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil || drivers.IsNotFound(err):
			exited <- ended(st, err)
			return
		}
		i.log.Warn("driver cannot watch the instance, trying again", zap.Error(err))
		sleep(ctx, time.Second)
	}
}

// start takes the order to a running process or container. It may be the repetition of one that an earlier agent began.
func (i *instance) start(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, i.rec.Order.Deadline)
	defer cancel()
	spec, err := i.learnSpec(ctx)
	if err != nil {
		return err
	}
	i.report(instances.Starting, instances.PullingImage, nil)
	d, err := i.agent.prepare(ctx, spec)
	if err != nil {
		return err
	}
	i.mu.Lock()
	i.rec.Attempted = true
	i.mu.Unlock()
	i.report(instances.Starting, instances.Creating, nil)
	h, err := d.Start(ctx, spec)
	if err != nil {
		return err
	}
	i.mu.Lock()
	i.rec.Handle = &h
	i.mu.Unlock()
	i.report(instances.Starting, instances.WaitingReady, nil)
	return nil
}

// learnSpec asks what to run and lays out the files of the instance.
func (i *instance) learnSpec(ctx context.Context) (drivers.Spec, error) {
	i.secrets.Lock()
	defer i.secrets.Unlock()
	launchable, err := i.fetch(ctx)
	if err != nil {
		return drivers.Spec{}, err
	}
	return i.spec(launchable)
}

// fetch asks the functions service what to run; it waits for the service as long as the order allows.
func (i *instance) fetch(ctx context.Context) (functions.Launchable, error) {
	wait := 50 * time.Millisecond
	for {
		l, err := bus.Call(ctx, i.agent.conn, functions.Launch, functions.InternalRequest{FunctionID: i.rec.Order.FunctionID, VersionID: i.rec.Order.VersionID})
		switch {
		case err == nil:
			i.learn(l.Function)
			return l, nil
		case problem.HasCode(err, problem.NotFound):
			return l, &end{Cause: instances.ByService, Message: "the function version does not exist any more"}
		case ctx.Err() != nil:
			return l, ctx.Err()
		}
		i.log.Warn("function not read, trying again", zap.Error(err))
		sleep(ctx, wait)
		wait = min(2*wait, 2*time.Second)
	}
}

// learn keeps what serving and probing needs; the next report makes it durable.
func (i *instance) learn(fn functions.Function) {
	f := &functionFacts{Name: fn.Name, Port: fn.InferencePort}
	if f.Port == 0 {
		f.Port = defaultPort
	}
	if fn.Health != nil {
		f.Health = *fn.Health
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.rec.Function = f
}

// spec translates a version into what a driver needs, and writes the secrets where the instance reads them.
func (i *instance) spec(l functions.Launchable) (drivers.Spec, error) {
	order, fn := i.rec.Order, l.Function
	args, err := splitArgs(fn.ContainerArgs)
	if err != nil {
		return drivers.Spec{}, &end{Cause: instances.TerminalError, Message: "containerArgs cannot be split into words: " + err.Error()}
	}
	if err := writeFiles(i.dir(), l); err != nil {
		return drivers.Spec{}, &end{Cause: instances.CreateError, Message: err.Error()}
	}
	env := exporters(l)
	for _, e := range fn.ContainerEnvironment {
		env = append(env, e.Key+"="+e.Value)
	}
	cfg := i.agent.cfg
	env = append(env,
		"NVCF_FUNCTION_ID="+fn.ID, "NVCF_FUNCTION_VERSION_ID="+fn.VersionID, "NVCF_FUNCTION_NAME="+fn.Name, "NVCF_NCA_ID="+fn.NCAID,
		"NVCF_REGION="+cfg.Region, "NVCF_BACKEND="+cfg.Cluster, "NVCF_ENV=sirocco",
		"NVCF_INSTANCETYPE="+order.InstanceType, "NVCF_INSTANCETYPE_VALUE="+order.InstanceType)
	env = append(env, telemetryIDs(fn.Telemetries)...)
	health := i.rec.Function.Health
	var auth *drivers.RegistryAuth
	if a := l.RegistryAuth; a != nil {
		auth = &drivers.RegistryAuth{ServerAddress: a.Hostname, Username: a.Username, Password: a.Password}
	}
	return drivers.Spec{
		InstanceID: order.InstanceID, Generation: 1, Image: fn.ContainerImage, Args: args, Env: env,
		InferencePort: i.rec.Function.Port, HealthPort: health.Port, HealthPath: health.URI,
		Devices: i.agent.capacity.driverDevices(order.Devices), CPUMilli: order.CPUMilli, MemoryMiB: order.MemoryMiB, Dir: i.dir(),
		Labels:       map[string]string{"sirocco.function": fn.ID, "sirocco.version": fn.VersionID, "sirocco.deployment": order.DeploymentID},
		RegistryAuth: auth,
	}, nil
}

// awaitReady probes until the instance is healthy, ends, is not wanted any more, or its time is over.
func (i *instance) awaitReady(ctx context.Context, exited <-chan *end) *end {
	ctx, cancel := context.WithDeadline(ctx, i.rec.Order.Deadline)
	defer cancel()
	wait := probeFirst
	last := errors.New("no health check was made")
	for {
		err := i.probe(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		t := time.NewTimer(wait)
		wait = min(2*wait, i.agent.pace.probeStarting)
		select {
		case <-t.C:
		case e := <-exited:
			t.Stop()
			e.Message = "before the health check passed, " + e.Message
			return e
		case <-ctx.Done():
			t.Stop()
			if i.stop.Err() != nil {
				return i.stopped()
			}
			return &end{Cause: instances.NotReady, Message: "the health check did not pass in time: " + last.Error()}
		}
	}
}

// serve puts the instance into service and watches it.
func (i *instance) serve(ctx context.Context, exited <-chan *end) *end {
	m := i.agent.work.join(i)
	defer i.agent.work.leave(m)
	i.inService(m)
	defer i.inService(nil)
	rest := newWatchRest(i, m)
	defer rest.stop()
	var sick sickness
	if i.rec.State == instances.Unhealthy { // under an earlier agent
		m.pause()
		sick = sickness{sickAfter, time.Now()}
	} else {
		i.report(instances.Running, "", nil)
	}
	i.log.Info("instance is running", zap.String("driver", i.rec.Handle.Driver))
	ticker := time.NewTicker(i.agent.pace.probeRunning)
	defer ticker.Stop()
	for {
		select {
		case e := <-exited:
			return e
		case <-ctx.Done():
			if i.stop.Err() != nil {
				i.drain(m, exited)
			}
			return i.stopped()
		case <-rest.C:
			rest.look()
		case <-m.roused:
			rest.roused()
		case <-ticker.C:
			err := i.probe(ctx)
			switch {
			case ctx.Err() != nil: // says nothing about the instance
			case err == nil:
				i.heal(m, rest, &sick)
			default:
				if e := i.ail(m, &sick, err); e != nil {
					return e
				}
			}
		}
	}
}

// sickness is how often in a row the health check of an instance in service failed, and since when it counts as sick;
// zero while it does not.
type sickness struct {
	failed int
	since  time.Time
}

// heal notes a health check that passed.
func (i *instance) heal(m *member, rest *watchRest, sick *sickness) {
	was := *sick
	*sick = sickness{}
	if was.since.IsZero() {
		return
	}
	m.resume()
	i.report(instances.Running, "", nil)
	rest.look()
}

// ail notes a health check that failed. A sick instance gets no work until it is well; it returns the end of one that is sick
// for too long.
func (i *instance) ail(m *member, sick *sickness, why error) *end {
	sick.failed++
	if sick.failed == sickAfter {
		sick.since = time.Now()
		m.pause()
		i.report(instances.Unhealthy, "", &end{Cause: instances.NotReady, Message: why.Error()})
	}
	if sick.since.IsZero() || time.Since(sick.since) < i.agent.pace.replaceAfter {
		return nil
	}
	e := &end{Cause: instances.NotReady, Message: "the health check has failed for " + i.agent.pace.replaceAfter.String() + ": " + why.Error()}
	i.report(instances.ShuttingDown, "", e)
	return e
}

func (i *instance) inService(m *member) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.member = m
}

// drain lets requests in flight finish, as long as the order says and the instance lives.
func (i *instance) drain(m *member, exited <-chan *end) {
	i.mu.Lock()
	patience, finish := time.Duration(i.rec.Stop.DrainSeconds)*time.Second, i.rec.Stop.FinishQueue
	i.mu.Unlock()
	if finish {
		m.finish()
	} else {
		m.pause()
	}
	i.report(instances.ShuttingDown, "", nil)
	t := time.NewTimer(patience)
	defer t.Stop()
	var again <-chan time.Time // looks whether the queue is empty by now
	for {
		idle := m.idle()
		if again != nil {
			idle = nil
		}
		select {
		case <-idle:
			if !finish || m.finished() {
				return
			}
			again = time.After(queueSettles)
			continue
		case <-again:
			again = nil
			continue
		case <-t.C:
		case e := <-exited:
			i.log.Info("instance ended while it drained", zap.String("why", e.Message))
		case <-i.force.Done():
		case <-i.agent.ctx.Done():
		}
		return
	}
}

// queueSettles is how long a look into the queue may take before an idle instance asks again whether it is empty.
const queueSettles = 20 * time.Millisecond

// finish stops and removes whatever is left and reports the end; false when the agent ended first. It does not give up:
// a leaked instance holds a GPU.
func (i *instance) finish(ctx context.Context, e *end) bool {
	if i.rec.End == nil {
		e.hideSecrets(i.dir())
	}
	i.mu.Lock()
	i.rec.End = e
	forced := i.rec.Stop != nil && i.rec.Stop.DrainSeconds <= 0
	if i.rec.Stop == nil && i.rec.Attempted { // an order is durable already
		i.save()
	}
	i.mu.Unlock()
	grace := i.agent.cfg.StopGrace
	if forced {
		grace = min(grace, forcedGrace)
	}
	if !i.stopDriver(ctx, grace, e) {
		return false
	}
	i.secrets.Lock() // nobody writes them again after this
	err := os.RemoveAll(i.dir())
	i.secrets.Unlock()
	if err != nil {
		i.log.Warn("instance directory not removed", zap.Error(err))
	}
	i.mu.Lock()
	i.rec.EndedAt = time.Now()
	i.note(instances.Terminated, "", e)
	e.Logs = nil // reported once; they need not be remembered
	i.save()
	i.mu.Unlock()
	i.agent.release(i)
	i.agent.reports.notify(i)
	i.log.Info("instance ended", zap.String("cause", string(e.Cause)), zap.String("why", e.Message))
	return true
}

// stopDriver makes sure that nothing of the instance runs any more, and keeps its last words when it failed.
func (i *instance) stopDriver(ctx context.Context, grace time.Duration, e *end) bool {
	for wait := 200 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 10*time.Second) {
		d, h, err := i.remains(ctx)
		if err == nil && h == nil {
			return true
		}
		if err == nil {
			err = d.Stop(ctx, *h, grace)
		}
		if drivers.IsNotFound(err) {
			return true
		}
		if err == nil {
			if !ordered(e.Cause) && e.Logs == nil {
				last := end{Logs: i.lastLogs(ctx, d, *h)}
				last.hideSecrets(i.dir())
				i.mu.Lock()
				e.Logs = last.Logs
				i.save()
				i.mu.Unlock()
			}
			// It holds nothing but disk now, which may take its time.
			if err := d.Remove(ctx, *h); err != nil && !drivers.IsNotFound(err) {
				i.log.Warn("instance not removed, trying again", zap.Error(err))
				i.agent.running.Go(func() { i.agent.discard(ctx, *h) })
			}
			return true
		}
		i.log.Warn("instance not stopped, trying again", zap.Error(err))
		sleep(ctx, wait)
	}
	return false
}

// remains finds what there is to stop: what was started, or what a start that was cut short may have left.
func (i *instance) remains(ctx context.Context) (drivers.Driver, *drivers.Handle, error) {
	if h := i.rec.Handle; h != nil {
		return i.agent.driver(h.Driver), h, nil
	}
	if !i.rec.Attempted {
		return nil, nil, nil
	}
	for _, d := range i.agent.drivers {
		handles, err := d.List(ctx)
		if err != nil {
			if d.Check(ctx) != nil {
				continue // it could not have started anything either
			}
			return nil, nil, fmt.Errorf("driver %s: %w", d.Name(), err)
		}
		for _, h := range handles {
			if h.InstanceID == i.id() {
				return d, &h, nil
			}
		}
	}
	return nil, nil, nil
}

// ordered reports whether somebody wanted the end, so that nobody wonders about it.
func ordered(c instances.Cause) bool { return c == instances.ByUser || c == instances.AgentShutdown }

func (i *instance) lastLogs(ctx context.Context, d drivers.Driver, h drivers.Handle) []string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	lines, err := d.Logs(ctx, h, logLines)
	if err != nil {
		i.log.Debug("no log lines", zap.Error(err))
		return nil
	}
	return lastBytes(lines, logBytes)
}

// lastBytes keeps the last lines that fit into size, and the end of a line that alone does not.
func lastBytes(lines []string, size int) []string {
	for n, line := range slices.Backward(lines) {
		left := size - len(line) - 1
		switch {
		case left >= 0:
			size = left
		case n == len(lines)-1:
			return []string{strings.ToValidUTF8(line[len(line)-size:], "")}
		default:
			return lines[n+1:]
		}
	}
	return lines
}

// linger keeps the record of an ended instance for a while, and until its last report is out.
func (i *instance) linger(ctx context.Context) {
	sleep(ctx, time.Until(i.rec.EndedAt.Add(i.agent.pace.remembered)))
	for ctx.Err() == nil {
		if _, unsent := i.next(); !unsent {
			i.agent.forget(i)
			return
		}
		sleep(ctx, reportRetry)
	}
}

// untilStop is a context that also ends when the instance is asked to stop.
func (i *instance) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	detach := context.AfterFunc(i.stop, cancel)
	return ctx, func() { detach(); cancel() }
}

func (i *instance) stopped() *end {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.rec.Stop != nil {
		return &end{Cause: i.rec.Stop.Cause, Message: "stopped on order"}
	}
	return &end{Cause: instances.ByService, Message: "the agent stops"}
}

// startFailed turns an error of the start into an end.
func (i *instance) startFailed(err error) *end {
	var e *end
	switch {
	case i.stop.Err() != nil:
		return i.stopped()
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return &end{Cause: instances.NotReady, Message: "the start took longer than the order allows"}
	}
	return &end{Cause: drivers.CauseOf(err), Message: err.Error()}
}

// ended says why an instance that no one stopped is over, from what its driver tells.
func ended(st drivers.Status, err error) *end {
	if err != nil {
		return &end{Cause: instances.NotFound, Message: "the container disappeared from the node"}
	}
	e := &end{Cause: drivers.CauseOfExit(st), Message: "the container ended", Exit: st.ExitCode}
	switch {
	case st.Reason != "":
		e.Message = "the container " + st.Reason
	case st.ExitCode != nil:
		e.Message += " with exit code " + strconv.Itoa(*st.ExitCode)
	}
	return e
}
