package agent

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// report makes a new state or phase durable, together with whatever else changed in the record, and leaves it to the
// reporter to publish. A state that was reported last is not reported again.
func (i *instance) report(state instances.State, phase instances.Phase, e *end) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.rec.State != state || i.rec.Phase != phase {
		i.note(state, phase, e)
	}
	i.save()
	i.agent.reports.notify(i)
}

// note adds a report to the record. It is called with the lock.
func (i *instance) note(state instances.State, phase instances.Phase, e *end) {
	i.rec.State, i.rec.Phase = state, phase
	r := i.draft()
	if e != nil {
		r.Cause, r.Message, r.ExitCode, r.Logs = e.Cause, e.Message, e.Exit, e.Logs
	}
	i.leave(r)
}

// draft is a report of the state and phase as they are. It is called with the lock.
func (i *instance) draft() instances.Report {
	i.rec.Sequence++
	o := i.rec.Order
	r := instances.Report{
		InstanceID: o.InstanceID, Account: o.Account, FunctionID: o.FunctionID, VersionID: o.VersionID, DeploymentID: o.DeploymentID,
		GPUSpecificationID: o.GPUSpecificationID, Cluster: i.agent.cfg.Cluster, Node: i.agent.cfg.Node,
		State: i.rec.State, Phase: i.rec.Phase, Devices: o.Devices, Sequence: i.rec.Sequence, At: time.Now().UTC(),
	}
	if i.rec.Handle != nil {
		r.Driver = i.rec.Handle.Driver
	}
	return r
}

// leave hands a report over for publishing, in its turn. It is called with the lock.
func (i *instance) leave(r instances.Report) {
	i.rec.Unsent = append(i.rec.Unsent, r)
	if n := len(i.rec.Unsent); n > maxUnsent {
		i.rec.Unsent = i.rec.Unsent[n-maxUnsent:]
	}
}

// save writes the record; the life of an instance goes on without it. It is called with the lock.
func (i *instance) save() {
	if err := i.agent.records.save(i.rec); err != nil {
		i.log.Error("instance record not written", zap.Error(err))
	}
}

// next is the oldest report that is not out yet.
func (i *instance) next() (instances.Report, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.rec.Unsent) == 0 {
		return instances.Report{}, false
	}
	return i.rec.Unsent[0], true
}

func (i *instance) sent(r instances.Report) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.rec.Unsent) == 0 || i.rec.Unsent[0].Sequence != r.Sequence {
		return
	}
	i.rec.Unsent = i.rec.Unsent[1:]
	if !i.rec.State.Live() && len(i.rec.Unsent) == 0 {
		i.save()
	}
}

// reporter publishes the reports of all instances, in order per instance, until each is stored by the bus.
type reporter struct {
	agent *Agent
	wake  chan struct{}

	mu      sync.Mutex
	pending map[*instance]struct{} // have unsent reports
}

func newReporter(a *Agent) *reporter {
	return &reporter{agent: a, wake: make(chan struct{}, 1), pending: map[*instance]struct{}{}}
}

func (p *reporter) notify(i *instance) {
	p.mu.Lock()
	p.pending[i] = struct{}{}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take removes some instances from those that are pending.
func (p *reporter) take() (batch []*instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.pending {
		if len(batch) == atOnce {
			break
		}
		batch = append(batch, i)
		delete(p.pending, i)
	}
	return batch
}

// reportRetry is the pause after a publish that failed.
const reportRetry = time.Second

func (p *reporter) run(ctx context.Context) {
	for {
		err := p.drain(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.agent.log.Warn("reports not published, trying again", zap.Error(err))
			sleep(ctx, reportRetry)
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
	}
}

// flush is one last try at the end of the agent; what is left is published by the next start.
func (p *reporter) flush(ctx context.Context) {
	if err := p.drain(ctx); err != nil {
		p.agent.log.Warn("reports are left for the next start", zap.Error(err))
	}
}

// atOnce is how many instances' reports are published side by side.
const atOnce = 64

// drain publishes what is pending, until a publish fails.
func (p *reporter) drain(ctx context.Context) error {
	for {
		batch := p.take()
		if len(batch) == 0 {
			return nil
		}
		failed := make([]error, len(batch))
		var group sync.WaitGroup
		for n, i := range batch {
			group.Go(func() { failed[n] = p.publishAll(ctx, i) })
		}
		group.Wait()
		if n := slices.IndexFunc(failed, func(err error) bool { return err != nil }); n >= 0 {
			return failed[n]
		}
	}
}

// publishAll publishes the reports of one instance in their order. It never runs twice at once for the same instance.
func (p *reporter) publishAll(ctx context.Context, i *instance) error {
	for r, ok := i.next(); ok; r, ok = i.next() {
		if err := p.publish(ctx, r); err != nil {
			p.notify(i)
			return err
		}
		i.sent(r)
	}
	return nil
}

func (p *reporter) publish(ctx context.Context, r instances.Report) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cfg := p.agent.cfg
	return bus.Announce(ctx, p.agent.conn, "agent", fmt.Sprintf("%s:%d", r.InstanceID, r.Sequence), r.Event(), bus.Fact{
		Account: r.Account, Entity: r.InstanceID, Actor: event.Actor{Type: "agent", ID: cfg.Node},
		Refs: event.Refs{FunctionID: r.FunctionID, VersionID: r.VersionID, DeploymentID: r.DeploymentID, InstanceID: r.InstanceID, NodeID: cfg.Node},
	}, r)
}
