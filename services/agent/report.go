package agent

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// report records a new state or phase and leaves it to the reporter to publish. A state that was reported last is not
// reported again.
func (i *instance) report(state instances.State, phase instances.Phase, e *end) {
	i.write(state, phase, e, nil)
}

func (i *instance) reportEnd(e *end, logs []string) {
	i.write(instances.Terminated, "", e, logs)
}

func (i *instance) write(state instances.State, phase instances.Phase, e *end, logs []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.rec.State = state
	i.rec.Sequence++
	o := i.rec.Order
	r := instances.Report{
		InstanceID: o.InstanceID, Account: o.Account, FunctionID: o.FunctionID, VersionID: o.VersionID, DeploymentID: o.DeploymentID,
		GPUSpecificationID: o.GPUSpecificationID, Cluster: i.agent.cfg.Cluster, Node: i.agent.cfg.Node,
		State: state, Phase: phase, Logs: logs, Devices: o.Devices, Sequence: i.rec.Sequence, At: time.Now().UTC(),
	}
	if i.rec.Handle != nil {
		r.Driver = i.rec.Handle.Driver
	}
	if e != nil {
		r.Cause, r.Message, r.ExitCode = e.cause, e.message, e.exit
	}
	i.rec.Unsent = append(i.rec.Unsent, r)
	if n := len(i.rec.Unsent); n > maxUnsent {
		i.rec.Unsent = i.rec.Unsent[n-maxUnsent:]
	}
	if err := i.agent.records.save(i.rec); err != nil {
		i.log.Error("instance record not written", zap.Error(err))
	}
	i.agent.reports.notify()
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
	if len(i.rec.Unsent) > 0 && i.rec.Unsent[0].Sequence == r.Sequence {
		i.rec.Unsent = i.rec.Unsent[1:]
		if err := i.agent.records.save(i.rec); err != nil {
			i.log.Error("instance record not written", zap.Error(err))
		}
	}
}

// reporter publishes the reports of all instances, in order per instance, until each is stored by the bus.
type reporter struct {
	agent *Agent
	wake  chan struct{}
}

func newReporter(a *Agent) *reporter { return &reporter{agent: a, wake: make(chan struct{}, 1)} }

func (p *reporter) notify() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// reportRetry is the pause after a publish that failed.
const reportRetry = time.Second

func (p *reporter) run(ctx context.Context) {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-retry.C:
		}
		if err := p.drain(ctx); err != nil && ctx.Err() == nil {
			p.agent.log.Warn("reports not published, trying again", zap.Error(err))
			retry.Reset(reportRetry)
		}
	}
}

// flush is one last try at the end of the agent; what is left is published by the next start.
func (p *reporter) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := p.drain(ctx); err != nil {
		p.agent.log.Warn("reports are left for the next start", zap.Error(err))
	}
}

func (p *reporter) drain(ctx context.Context) error {
	p.agent.mu.Lock()
	var all []*instance
	for _, i := range p.agent.instances {
		all = append(all, i)
	}
	p.agent.mu.Unlock()
	for _, i := range all {
		for {
			r, ok := i.next()
			if !ok {
				break
			}
			if err := p.publish(ctx, r); err != nil {
				return err
			}
			i.sent(r)
		}
	}
	return nil
}

func (p *reporter) publish(ctx context.Context, r instances.Report) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cfg := p.agent.cfg
	return bus.Announce(ctx, p.agent.conn, "agent", fmt.Sprintf("%s:%d", r.InstanceID, r.Sequence), instances.ReportEvents[r.State], bus.Fact{
		Account: r.Account, Entity: r.InstanceID, Actor: event.Actor{Type: "agent", ID: cfg.Node},
		Refs: event.Refs{FunctionID: r.FunctionID, VersionID: r.VersionID, DeploymentID: r.DeploymentID, InstanceID: r.InstanceID, NodeID: cfg.Node},
	}, r)
}
