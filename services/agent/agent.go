// Package agent runs the instances of one node and nothing else: it takes orders from its command queue, starts and
// stops instances through a driver, probes their health, serves their invocations, and publishes what it has and what
// happens to it.
//
// The agent is the worker: no process stands beside an instance. It may be restarted or killed at any moment; instances
// go on, and the next start attaches to them again from the records it kept (record.go) and the marks that drivers put
// on what they started.
package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/relay"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

// Agent of one node.
type Agent struct {
	cfg      Config
	log      *zap.Logger
	conn     *bus.Conn
	id       identity
	records  records
	drivers  []drivers.Driver
	capacity *capacity
	reports  *reporter
	work     *workers
	relay    *relay.Server
	commands *bus.Commands

	pace pace

	mu        sync.Mutex
	instances map[string]*instance
	held      map[string]string // device uuid to the live instance that has it
	waiting   error

	ctx     context.Context // of everything that the agent does for its instances
	cancel  context.CancelFunc
	running sync.WaitGroup

	abandonStart context.CancelFunc
	started      chan struct{} // closed when the start is complete or abandoned
}

// pace is how quickly an agent does what it does again and again.
type pace struct {
	probeStarting time.Duration // longest pause between two health checks of an instance that starts
	probeRunning  time.Duration
	replaceAfter  time.Duration // an instance that fails its checks for so long ends
	remembered    time.Duration // an ended instance is remembered so long, so that a late order does not start it again
	lookEvery     time.Duration // a version's queue is looked into so often without a hint, because hints may be lost
}

// defaultPace follows clusters-agents §5 and invocation §5.1.
var defaultPace = pace{
	probeStarting: 500 * time.Millisecond, probeRunning: 10 * time.Second, replaceAfter: 5 * time.Minute,
	remembered: time.Hour, lookEvery: 5 * time.Second,
}

// New makes the agent of one node; its drivers are chosen by the configuration.
func New(cfg Config, conn *bus.Conn, log *zap.Logger) (*Agent, error) {
	log = log.Named("agent")
	if cfg.Node == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("SIROCCO_NODE is not set and the host has no name: %w", err)
		}
		cfg.Node = host
	}
	dir, err := filepath.Abs(filepath.Join(cfg.DataDir, "agent"))
	if err != nil {
		return nil, fmt.Errorf("SIROCCO_DATA_DIR: %w", err)
	}
	for _, sub := range []string{"records", "instances", "sim"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("SIROCCO_DATA_DIR: %w", err)
		}
	}
	id, err := loadIdentity(dir)
	if err != nil {
		return nil, err
	}
	server, err := relay.NewServer(conn.NATS())
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	a := &Agent{
		cfg: cfg, log: log, conn: conn, id: id, records: records{filepath.Join(dir, "records")}, relay: server,
		commands: bus.NewCommands(conn, cfg.Cluster, cfg.Node), pace: defaultPace,
		instances: map[string]*instance{}, held: map[string]string{}, waiting: errors.New("not started"),
	}
	if a.drivers, err = newDrivers(cfg, id.AgentID, dir, catalogue{conn}); err != nil {
		return nil, err
	}
	a.capacity = newCapacity(a)
	a.reports = newReporter(a)
	a.work = newWorkers(a)
	bus.OnCommand(a.commands, instances.Launch, a.launch)
	bus.OnCommand(a.commands, instances.Terminate, a.terminate)
	bus.OnCommand(a.commands, instances.UpdateSecrets, a.updateSecrets)
	return a, nil
}

// Start attaches to what runs already and begins to take orders, in the background.
func (a *Agent) Start(ctx context.Context) error {
	a.ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	start, abandon := context.WithCancel(a.ctx)
	a.abandonStart, a.started = abandon, make(chan struct{})
	go func() {
		defer close(a.started)
		defer abandon()
		a.bringUp(start)
	}()
	return nil
}

// startTry bounds one try of one step of the start.
const startTry = 30 * time.Second

func (a *Agent) bringUp(ctx context.Context) {
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"streams", func(ctx context.Context) error {
			return a.conn.Declare(ctx, "agent", event.StreamOf(event.Nodes), event.StreamOf(event.Instances), "CMD", "DLQ")
		}},
		{"exchange server", a.relay.Start},
		{"GPU discovery", a.capacity.discover},
		{"attaching to running instances", a.attach},
		{"first capacity report", a.capacity.start},
		{"orders", a.commands.Start},
	}
	for _, step := range steps {
		a.setWaiting(fmt.Errorf("waiting in %s", step.name))
		for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 2*time.Second) {
			try, cancel := context.WithTimeout(ctx, startTry)
			err := step.do(try)
			cancel()
			if err == nil {
				break
			}
			a.setWaiting(fmt.Errorf("waiting in %s: %w", step.name, err))
			a.log.Warn("start is waiting", zap.String("step", step.name), zap.Error(err))
			sleep(ctx, wait)
		}
	}
	if ctx.Err() != nil {
		return
	}
	a.setWaiting(nil)
	a.log.Info("agent is ready", zap.String("cluster", a.cfg.Cluster), zap.String("node", a.cfg.Node), zap.Int64("epoch", a.id.Epoch))
}

// Stop ends the agent. Instances go on, unless the configuration wants them stopped.
func (a *Agent) Stop(ctx context.Context) error {
	if a.cancel == nil {
		return nil
	}
	a.halt()
	a.setWaiting(errors.New("stopping"))
	patience, enough := half(ctx)
	if a.cfg.StopInstances {
		a.stopAll(patience)
	} else {
		a.work.quiesce(patience)
	}
	enough()
	a.cancel()
	a.running.Wait()
	a.work.close()
	err := a.relay.Close(ctx)
	a.reports.flush(ctx)
	a.capacity.bye(ctx)
	for _, d := range a.drivers {
		err = errors.Join(err, d.Close())
	}
	return err
}

// halt takes no more orders. It ends a start that is still under way first, because that start would begin to take them.
func (a *Agent) halt() {
	a.abandonStart()
	<-a.started
	a.commands.Stop()
}

// fence makes this agent stand aside for a newer one that runs as the same node: it takes neither orders nor work and
// publishes nothing, but touches no instance. Only a restart changes that.
func (a *Agent) fence(why error) {
	a.halt()
	a.setWaiting(why)
	a.log.Error("agent stands aside", zap.Error(why))
	a.cancel()
}

// half bounds one part of a stop, so that there is time for the rest.
func half(ctx context.Context) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok {
		return context.WithTimeout(ctx, time.Until(deadline)/2)
	}
	return context.WithCancel(ctx)
}

// stopAll drains and stops every instance, all at once.
func (a *Agent) stopAll(ctx context.Context) {
	drain := a.cfg.StopGrace
	if deadline, ok := ctx.Deadline(); ok {
		drain = min(drain, time.Until(deadline)/2)
	}
	var all []*instance
	for _, i := range a.all() {
		if i.over() {
			continue
		}
		all = append(all, i)
		err := i.requestStop(instances.TerminateOrder{
			InstanceID: i.id(), Account: i.rec.Order.Account, VersionID: i.rec.Order.VersionID,
			Cause: instances.AgentShutdown, DrainSeconds: int(drain / time.Second),
		})
		if err != nil {
			i.log.Warn("stop not recorded", zap.Error(err))
		}
	}
	for _, i := range all {
		select {
		case <-i.done:
		case <-ctx.Done():
			a.log.Warn("not every instance stopped in time; the next start goes on with it")
			return
		}
	}
}

func (a *Agent) all() []*instance {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.instances))
}

// Check reports what the agent waits for.
func (a *Agent) Check(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting != nil {
		return a.waiting
	}
	return a.capacity.check()
}

func (a *Agent) setWaiting(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting = err
}

// launch makes an order durable and starts to carry it out. A repeated order finds the record and changes nothing.
func (a *Agent) launch(_ context.Context, order instances.LaunchOrder) error {
	if err := checkID(order.InstanceID); err != nil {
		return err
	}
	if order.Deadline.IsZero() {
		order.Deadline = time.Now().Add(longestStart)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.instances[order.InstanceID]; known {
		return nil
	}
	i := newInstance(a, &record{Order: order, State: instances.Starting, End: a.refusal(order)})
	if i.rec.End == nil {
		i.note(instances.Starting, instances.Reserved, nil)
	}
	return a.adopt(i)
}

// refusal says why an order cannot be carried out from the start. It is called with the lock.
func (a *Agent) refusal(order instances.LaunchOrder) *end {
	if time.Now().After(order.Deadline) {
		return &end{Cause: instances.NotReady, Message: "the order came after its deadline of " + order.Deadline.UTC().Format(time.RFC3339)}
	}
	if uuid := a.capacity.unknown(order.Devices); uuid != "" {
		return &end{Cause: instances.NoCapacity, Message: "this node has no device " + uuid + " any more"}
	}
	for _, uuid := range order.Devices {
		if holder, taken := a.held[uuid]; taken {
			return &end{Cause: instances.NoCapacity, Message: "device " + uuid + " is in use by instance " + holder}
		}
	}
	return nil
}

// adopt makes a new instance durable and begins its life. It is called with the lock.
func (a *Agent) adopt(i *instance) error {
	if err := a.records.create(i.rec); err != nil {
		return err
	}
	a.begin(i)
	return nil
}

// begin starts the life of an instance that has a record. It is called with the lock.
func (a *Agent) begin(i *instance) {
	a.instances[i.id()] = i
	if i.rec.State.Live() && i.rec.End == nil {
		for _, uuid := range i.rec.Order.Devices {
			a.held[uuid] = i.id()
		}
	}
	a.capacity.changed()
	a.reports.notify(i)
	a.running.Go(func() { i.run(a.ctx) })
}

// release gives the devices of an ended instance back.
func (a *Agent) release(i *instance) {
	a.mu.Lock()
	for _, uuid := range i.rec.Order.Devices {
		if a.held[uuid] == i.id() {
			delete(a.held, uuid)
		}
	}
	a.mu.Unlock()
	a.capacity.changed()
}

// terminate makes the order durable and lets the instance end. An instance that this node does not know is reported as
// gone, so that nobody waits for it.
func (a *Agent) terminate(_ context.Context, order instances.TerminateOrder) error {
	if err := checkID(order.InstanceID); err != nil {
		return err
	}
	a.mu.Lock()
	if i, known := a.instances[order.InstanceID]; known {
		a.mu.Unlock()
		return i.requestStop(order)
	}
	defer a.mu.Unlock()
	gone := instances.LaunchOrder{InstanceID: order.InstanceID, Account: order.Account, VersionID: order.VersionID}
	return a.adopt(newInstance(a, &record{Order: gone, State: instances.Starting, Stop: &order}))
}

// checkID refuses an id that cannot be a file name; it comes from outside.
func checkID(id string) error {
	if id == "" || !filepath.IsLocal(id) || filepath.Base(id) != id {
		return problem.New(problem.BadRequest, "instanceId %q cannot be an id", id)
	}
	return nil
}

// attach takes up what an earlier agent left: records with their running instances, starts that were cut short, and
// instances without a record, which nobody wants any more.
func (a *Agent) attach(ctx context.Context) error {
	recs, err := a.records.load(a.log)
	if err != nil {
		return err
	}
	found := map[string]drivers.Handle{}
	for _, d := range a.drivers {
		handles, err := d.List(ctx)
		if err != nil {
			if unusable := d.Check(ctx); unusable != nil {
				a.log.Warn("driver not usable, its instances cannot be seen", zap.String("driver", d.Name()), zap.Error(unusable))
				continue
			}
			return fmt.Errorf("driver %s: %w", d.Name(), err)
		}
		for _, h := range handles {
			found[h.InstanceID] = h
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, rec := range recs {
		id := rec.Order.InstanceID
		h, there := found[id]
		if !rec.State.Live() {
			a.begin(newInstance(a, rec)) // what is left of it is discarded below
			continue
		}
		delete(found, id)
		// Without a handle the start was cut short; it is repeated, which drivers take for the same start.
		if there && rec.Handle != nil {
			rec.Handle = &h
		}
		i := newInstance(a, rec)
		a.begin(i)
		i.renewSecrets() // they may have changed while nobody was here to be told
	}
	for id, h := range found {
		a.log.Warn("stopping an instance that nobody wants any more", zap.String("instance", id), zap.String("driver", h.Driver))
		a.running.Go(func() { a.discard(a.ctx, h) })
	}
	return nil
}

// discard stops an orphan; it tries until it succeeds, because a leaked instance holds a GPU.
func (a *Agent) discard(ctx context.Context, h drivers.Handle) {
	for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, time.Minute) {
		d := a.driver(h.Driver)
		err := d.Stop(ctx, h, a.cfg.StopGrace)
		if err == nil || drivers.IsNotFound(err) {
			err = d.Remove(ctx, h)
		}
		if err == nil || drivers.IsNotFound(err) {
			return
		}
		a.log.Warn("orphan not stopped, trying again", zap.String("instance", h.InstanceID), zap.Error(err))
		sleep(ctx, wait)
	}
}

func (a *Agent) driver(name string) drivers.Driver {
	for _, d := range a.drivers {
		if d.Name() == name {
			return d
		}
	}
	return absent{name}
}

// forget drops a terminated instance.
func (a *Agent) forget(i *instance) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.instances, i.id())
	if err := a.records.remove(i.id()); err != nil {
		i.log.Warn("record not removed", zap.Error(err))
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
