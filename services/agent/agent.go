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
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
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

	mu        sync.Mutex
	instances map[string]*instance
	waiting   error

	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
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
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o711); err != nil {
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
		commands: bus.NewCommands(conn, cfg.Cluster, cfg.Node), instances: map[string]*instance{}, waiting: errors.New("not started"),
	}
	if a.drivers, err = newDrivers(cfg, id.AgentID, dir, catalogue{conn}); err != nil {
		return nil, err
	}
	a.capacity = newCapacity(a)
	a.reports = newReporter(a)
	a.work = newWorkers(conn, server, log)
	bus.OnCommand(a.commands, instances.Launch, a.launch)
	bus.OnCommand(a.commands, instances.Terminate, a.terminate)
	return a, nil
}

// Start attaches to what runs already and begins to take orders, in the background.
func (a *Agent) Start(ctx context.Context) error {
	a.ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	a.running.Go(func() { a.bringUp(a.ctx) })
	return nil
}

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
		for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 2*time.Second) {
			try, cancel := context.WithTimeout(ctx, time.Minute)
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
	a.setWaiting(errors.New("stopping"))
	a.commands.Stop()
	if a.cfg.StopInstances {
		a.stopAll(ctx)
	} else {
		a.work.quiesce(ctx)
	}
	a.capacity.bye(ctx)
	a.cancel()
	a.running.Wait()
	a.work.close()
	err := a.relay.Close(ctx)
	a.reports.flush(ctx)
	for _, d := range a.drivers {
		err = errors.Join(err, d.Close())
	}
	return err
}

// stopAll drains and stops every instance, all at once.
func (a *Agent) stopAll(ctx context.Context) {
	a.mu.Lock()
	var all []*instance
	for _, i := range a.instances {
		all = append(all, i)
	}
	a.mu.Unlock()
	deadline, ok := ctx.Deadline()
	drain := a.cfg.StopGrace
	if ok {
		drain = min(drain, time.Until(deadline)/2)
	}
	for _, i := range all {
		i.requestStop(instances.TerminateOrder{
			InstanceID: i.id(), Account: i.rec.Order.Account, VersionID: i.rec.Order.VersionID,
			Cause: instances.AgentShutdown, DrainSeconds: int(drain / time.Second),
		})
	}
	for _, i := range all {
		select {
		case <-i.done:
		case <-ctx.Done():
			return
		}
	}
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
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.instances[order.InstanceID]; known {
		return nil
	}
	i := newInstance(a, &record{Order: order, State: instances.Starting})
	if err := a.records.save(i.rec); err != nil {
		return err
	}
	a.instances[order.InstanceID] = i
	a.capacity.changed()
	a.running.Go(func() { i.run(a.ctx) })
	return nil
}

// terminate makes the order durable and lets the instance end. An instance that this node does not know is reported as
// gone, so that nobody waits for it.
func (a *Agent) terminate(_ context.Context, order instances.TerminateOrder) error {
	a.mu.Lock()
	i, known := a.instances[order.InstanceID]
	if !known {
		i = newInstance(a, &record{
			Order: instances.LaunchOrder{InstanceID: order.InstanceID, Account: order.Account, VersionID: order.VersionID}, State: instances.Starting,
			Stop: &order,
		})
		if err := a.records.save(i.rec); err != nil {
			a.mu.Unlock()
			return err
		}
		a.instances[order.InstanceID] = i
		a.mu.Unlock()
		a.running.Go(func() { i.run(a.ctx) })
		return nil
	}
	a.mu.Unlock()
	return i.requestStop(order)
}

// attach takes up what an earlier agent left: records with their running instances, starts that were cut short, and
// instances without a record, which nobody wants any more.
func (a *Agent) attach(ctx context.Context) error {
	recs, err := a.records.load()
	if err != nil {
		return err
	}
	found := map[string]drivers.Handle{}
	for _, d := range a.drivers {
		handles, err := d.List(ctx)
		if err != nil {
			if derr := d.Check(ctx); derr != nil {
				a.log.Warn("driver not usable, its instances cannot be seen", zap.String("driver", d.Name()), zap.Error(derr))
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
		if _, known := a.instances[id]; known {
			continue // a repeated try of this step
		}
		if h, ok := found[id]; ok {
			rec.Handle = &h
		}
		delete(found, id)
		i := newInstance(a, rec)
		a.instances[id] = i
		a.reports.notify()
		a.running.Go(func() { i.run(a.ctx) })
	}
	for id, h := range found {
		a.log.Warn("stopping an instance that no record knows", zap.String("instance", id), zap.String("driver", h.Driver))
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

// forget drops a terminated instance once its last report is out and its time is over.
func (a *Agent) forget(i *instance) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.instances, i.id())
	if err := a.records.remove(i.id()); err != nil {
		a.log.Debug("record not removed", zap.Error(err))
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
