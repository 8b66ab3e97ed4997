package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
	"github.com/sirocco-cloud/sirocco/services/agent/gpus"
)

// settle is how long changes are collected into one delta; well within the 100 ms that clusters-agents §3.6 allows.
const settle = 20 * time.Millisecond

// capacity knows the devices of the node and who holds them, and tells the inventory: a snapshot at start, every
// minute and on request, a delta whenever something changed, and a heartbeat in between.
type capacity struct {
	agent *Agent
	wake  chan struct{}

	mu        sync.Mutex
	inventory gpus.Inventory
	facts     clusters.NodeFacts
	types     []clusters.InstanceType
	sequence  int64
	published map[string]clusters.Device
	want      bool // the inventory asked for a snapshot
	beat      error
}

func newCapacity(a *Agent) *capacity {
	return &capacity{agent: a, wake: make(chan struct{}, 1), beat: errors.New("waiting for the first heartbeat")}
}

// discover looks for GPUs once; start keeps looking.
func (c *capacity) discover(ctx context.Context) error {
	cfg := c.agent.cfg
	provider, err := gpus.CheckProvider(cfg.InstanceProvider)
	if err != nil {
		return err
	}
	inv, err := gpus.Discoverer{Node: cfg.Node}.Discover(ctx, cfg.GPUs)
	if err != nil {
		return err
	}
	facts, err := gpus.Facts(c.agent.instancesDir(), inv.Driver)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inventory, c.facts, c.types = inv, facts, gpus.Types(provider, facts, inv.Devices)
	return nil
}

// start publishes the first snapshot and goes on in the background.
func (c *capacity) start(ctx context.Context) error {
	if err := c.snapshot(ctx); err != nil {
		return err
	}
	a := c.agent
	a.running.Go(func() { c.run(a.ctx) })
	a.running.Go(func() { c.heartbeats(a.ctx) })
	a.running.Go(func() { c.watchDevices(a.ctx) })
	a.running.Go(func() { a.reports.run(a.ctx) })
	return nil
}

// watchDevices keeps looking at the devices: one may vanish, fall sick, or be used by a stranger.
func (c *capacity) watchDevices(ctx context.Context) {
	c.mu.Lock()
	found := c.inventory
	c.mu.Unlock()
	gpus.Watcher{Discoverer: gpus.Discoverer{Node: c.agent.cfg.Node}, Owned: c.mine, Report: c.seen}.Run(ctx, found)
}

// seen takes over what the watcher found out.
func (c *capacity) seen(changed []clusters.Device) {
	c.mu.Lock()
	devices := slices.Clone(c.inventory.Devices)
	for _, d := range changed {
		if n := slices.IndexFunc(devices, func(known clusters.Device) bool { return known.UUID == d.UUID }); n >= 0 {
			devices[n] = d
		} else {
			devices = append(devices, d)
		}
	}
	c.inventory.Devices = devices
	c.mu.Unlock()
	c.changed()
}

// mine reports whether an instance of this agent holds the device, so that its memory use is no stranger's.
func (c *capacity) mine(uuid string) bool {
	_, held := c.agent.holders()[uuid]
	return held
}

// changed asks for a delta.
func (c *capacity) changed() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *capacity) check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.beat
}

// driverDevices are the devices of an order as drivers name them.
func (c *capacity) driverDevices(uuids []string) []drivers.Device {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ds []drivers.Device
	for _, d := range c.inventory.Devices {
		if slices.Contains(uuids, d.UUID) {
			ds = append(ds, drivers.Device{UUID: d.UUID, Simulated: d.Simulated})
		}
	}
	return ds
}

// unknown is the first of the devices that this node does not have; empty when it has all.
func (c *capacity) unknown(uuids []string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, uuid := range uuids {
		if !slices.ContainsFunc(c.inventory.Devices, func(d clusters.Device) bool { return d.UUID == uuid }) {
			return uuid
		}
	}
	return ""
}

// holders maps each device that is in use to its instance.
func (a *Agent) holders() map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.held)
}

// devices is the state of every device now.
func (c *capacity) devices() []clusters.Device {
	held := c.agent.holders()
	c.mu.Lock()
	defer c.mu.Unlock()
	ds := slices.Clone(c.inventory.Devices)
	for n := range ds {
		if id, ok := held[ds[n].UUID]; ok {
			ds[n].InstanceID = id
			if ds[n].State == clusters.Free {
				ds[n].State = clusters.Allocated
			}
		}
	}
	return ds
}

// run publishes deltas as things change and a snapshot from time to time; a failed publish is repeated as a snapshot.
func (c *capacity) run(ctx context.Context) {
	full := time.NewTicker(clusters.SnapshotEvery)
	defer full.Stop()
	failed := false
	for {
		var retry <-chan time.Time
		if failed {
			retry = time.After(time.Second)
		}
		whole := failed
		select {
		case <-ctx.Done():
			return
		case <-full.C:
			whole = true
		case <-retry:
		case <-c.wake:
			sleep(ctx, settle)
		}
		c.mu.Lock()
		whole = whole || c.want
		c.mu.Unlock()
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		var err error
		if whole {
			err = c.snapshot(try)
		} else {
			err = c.delta(try)
		}
		cancel()
		failed = err != nil
		if failed && ctx.Err() == nil {
			c.agent.log.Warn("capacity not published, trying again", zap.Error(err))
		}
	}
}

func (c *capacity) snapshot(ctx context.Context) error {
	ds := c.devices()
	c.mu.Lock()
	c.sequence++
	facts, types, seq := c.facts, c.types, c.sequence
	c.mu.Unlock()
	cfg := c.agent.cfg
	facts.Region, facts.Drivers, facts.AgentVersion = cfg.Region, c.agent.usable(ctx), app.Version
	s := clusters.Snapshot{
		Cluster: cfg.Cluster, Node: cfg.Node, Account: cfg.Account, Epoch: c.agent.id.Epoch, Sequence: seq, At: time.Now().UTC(),
		State: clusters.NodeReady, Facts: facts, Devices: ds, Types: types,
	}
	if err := bus.Announce(ctx, c.agent.conn, "agent", c.eventID(seq), clusters.CapacitySnapshot, c.fact(), s); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.want, c.published = false, index(ds)
	return nil
}

func (c *capacity) delta(ctx context.Context) error {
	ds := c.devices()
	c.mu.Lock()
	now := index(ds)
	var changed []clusters.Device
	var removed []string
	for uuid, d := range now {
		if c.published[uuid] != d {
			changed = append(changed, d)
		}
	}
	for uuid := range c.published {
		if _, ok := now[uuid]; !ok {
			removed = append(removed, uuid)
		}
	}
	if len(changed)+len(removed) == 0 {
		c.mu.Unlock()
		return nil
	}
	based := c.sequence
	c.sequence++
	seq := c.sequence
	c.mu.Unlock()
	slices.SortFunc(changed, func(a, b clusters.Device) int { return a.Index - b.Index })
	cfg := c.agent.cfg
	d := clusters.Delta{
		Cluster: cfg.Cluster, Node: cfg.Node, Account: cfg.Account, Epoch: c.agent.id.Epoch, Sequence: seq, At: time.Now().UTC(),
		BasedOn: based, State: clusters.NodeReady, Changed: changed, Removed: removed,
	}
	if err := bus.Announce(ctx, c.agent.conn, "agent", c.eventID(seq), clusters.CapacityDelta, c.fact(), d); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.published = now
	return nil
}

// heartbeats renew the lease of this node and hear what the inventory wants.
func (c *capacity) heartbeats(ctx context.Context) {
	wait := time.Duration(0)
	for {
		sleep(ctx, wait)
		if ctx.Err() != nil {
			return
		}
		wait = clusters.HeartbeatEvery
		c.mu.Lock()
		seq := c.sequence
		c.mu.Unlock()
		cfg := c.agent.cfg
		try, cancel := context.WithTimeout(ctx, clusters.HeartbeatEvery)
		resp, err := bus.Call(try, c.agent.conn, clusters.Heartbeat, clusters.HeartbeatRequest{Cluster: cfg.Cluster, Node: cfg.Node, Epoch: c.agent.id.Epoch, Sequence: seq})
		cancel()
		switch {
		case err != nil:
			err = fmt.Errorf("waiting for the cluster inventory: %w", err)
			wait = 500 * time.Millisecond
		case resp.Fenced:
			c.agent.fence(fmt.Errorf("another agent runs as node %s of cluster %s; set SIROCCO_NODE to a name of its own and restart", cfg.Node, cfg.Cluster))
			return
		case resp.WantSnapshot:
			wait = 200 * time.Millisecond // it may just not have read the last one yet
		}
		c.mu.Lock()
		c.beat = err
		if err == nil && resp.WantSnapshot {
			c.want = true
		}
		want := c.want
		c.mu.Unlock()
		if want {
			c.changed()
		}
	}
}

// bye tells the inventory that this node leaves in an orderly way.
func (c *capacity) bye(ctx context.Context) {
	c.mu.Lock()
	c.sequence++
	seq := c.sequence
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	cfg := c.agent.cfg
	err := bus.Announce(ctx, c.agent.conn, "agent", c.eventID(seq), clusters.NodeLeft, c.fact(), clusters.Bye{
		Cluster: cfg.Cluster, Node: cfg.Node, Account: cfg.Account, Epoch: c.agent.id.Epoch, Sequence: seq, At: time.Now().UTC(), Reason: "the agent stops",
	})
	if err != nil {
		c.agent.log.Warn("leave not announced", zap.Error(err))
	}
}

func (c *capacity) eventID(seq int64) string {
	return fmt.Sprintf("%s:%s:%d:%d", c.agent.cfg.Cluster, c.agent.cfg.Node, c.agent.id.Epoch, seq)
}

func (c *capacity) fact() bus.Fact {
	cfg := c.agent.cfg
	return bus.Fact{
		Account: cfg.Account, Entity: cfg.Cluster + "/" + cfg.Node, Actor: event.Actor{Type: "agent", ID: cfg.Node},
		Refs: event.Refs{NodeID: cfg.Node},
	}
}

func index(ds []clusters.Device) map[string]clusters.Device {
	m := make(map[string]clusters.Device, len(ds))
	for _, d := range ds {
		m[d.UUID] = d
	}
	return m
}

// instancesDir is where the directories of instances lie.
func (a *Agent) instancesDir() string {
	return filepath.Join(filepath.Dir(a.records.dir), "instances")
}
