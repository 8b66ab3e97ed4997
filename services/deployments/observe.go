package deployments

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// Observer applies what others report: agents about instances, the functions service about versions.
type Observer struct {
	store   *store
	journal *bus.Journal
	clock   quartz.Clock
	log     *zap.Logger
}

// NewObserver makes the handlers.
func NewObserver(s *store, j *bus.Journal, clock quartz.Clock, log *zap.Logger) *Observer {
	return &Observer{store: s, journal: j, clock: clock, log: log}
}

const (
	// orphanFresh bounds how old a report of an unknown instance may be to be acted on: a replay is no news.
	orphanFresh = time.Hour
	maxLogs     = 16 << 10
	maxMessage  = 4 << 10
)

// OnReport applies a report. A higher sequence wins; only the end of an instance is believed with any, because it is
// final and because a node that has lost its records counts from the start again. An instance that runs although it
// should not is ordered to end.
func (o *Observer) OnReport(ctx context.Context, t tx, env event.Envelope, rep instances.Report) error {
	if !isUUID(rep.InstanceID) {
		return nil
	}
	owner, err := o.store.idOf(ctx, t, "instances", "id", rep.InstanceID)
	if err != nil {
		return err
	}
	if owner == "" {
		return o.orphan(ctx, t, env, rep)
	}
	d, err := o.store.lock(ctx, t, owner)
	if err != nil {
		return err
	}
	if d == nil {
		return o.orphan(ctx, t, env, rep)
	}
	for _, i := range d.Instances {
		if i.ID == rep.InstanceID {
			return o.apply(ctx, t, d, i, rep)
		}
	}
	return o.orphan(ctx, t, env, rep)
}

func (o *Observer) apply(ctx context.Context, t tx, d *deployment, i *instance, rep instances.Report) error {
	switch {
	case i.Cluster != rep.Cluster || i.Node != rep.Node:
		o.log.Warn("report ignored: the instance is on another node", zap.String("instance", i.ID), zap.String("node", rep.Node))
		return nil
	case rep.Sequence <= i.Sequence && rep.State != instances.Terminated:
		return nil
	case !i.live():
		if rep.State.Live() {
			// Its node was lost and is back; the instance has been replaced.
			return o.end(ctx, t, rep, instances.NodeLost)
		}
		return nil
	}
	i.observe(rep, o.clock.Now())
	if rep.State == instances.Running {
		if s := d.spec(i.SpecID); s != nil && !s.Ran {
			s.Ran = true
			if err := o.store.put(ctx, t, d); err != nil {
				return err
			}
		}
	}
	if rep.Activity == instances.Kept && i.StopIfIdle {
		if err := o.kept(ctx, t, d, i); err != nil {
			return err
		}
	}
	if err := o.store.putInstance(ctx, t, i); err != nil {
		return err
	}
	return o.store.poke(ctx, t, d.ID)
}

// kept takes an order to end back that came too late: the instance has a request, and is wanted again.
func (o *Observer) kept(ctx context.Context, t tx, d *deployment, i *instance) error {
	i.StopCause, i.StopDrain, i.StopAt, i.StopIfIdle = "", 0, nil, false
	s := d.spec(i.SpecID)
	if d.Teardown != standing || !d.Status.Busy() || s == nil {
		return nil
	}
	was := s.Wanted
	s.Wanted, s.AskedAt = min(was+1, s.maximum()), o.clock.Now()
	if err := o.store.put(ctx, t, d); err != nil {
		return err
	}
	return scaled(ctx, t, o.journal, d, moved{s, was}, becauseKept)
}

// observe takes a report over.
func (i *instance) observe(rep instances.Report, now time.Time) {
	if rep.State != i.State {
		i.StateAt = now
	}
	i.State, i.Phase, i.Sequence, i.UpdatedAt = rep.State, rep.Phase, max(rep.Sequence, i.Sequence), now
	if rep.Cause != "" {
		i.Cause = rep.Cause
	}
	switch {
	case rep.Activity == instances.Idle:
		since := now.Add(-time.Duration(rep.IdleSeconds) * time.Second) // by our clock, not by the node's
		i.IdleSince = &since
	case rep.Activity != "" || rep.State != instances.Running:
		i.IdleSince = nil
	}
	verdict := i.StopCause != "" && fault(i.StopCause) && i.Message != ""
	switch {
	case verdict: // what it was given up for says more than how it ended then
	case rep.Message != "":
		i.Message = clip(rep.Message, maxMessage)
	case rep.State == instances.Running:
		i.Message = ""
	}
	if len(rep.Logs) > 0 {
		i.Logs = clipLines(rep.Logs, maxLogs)
	}
	switch rep.State {
	case instances.Running:
		if i.ReadyAt == nil {
			i.ReadyAt = &now
		}
	case instances.Terminated:
		i.EndedAt = &now
	default:
	}
}

func isUUID(s string) bool { return len(s) == 36 && uuid.Validate(s) == nil }

// orphan ends what was started for a deployment, runs, and belongs to none.
func (o *Observer) orphan(ctx context.Context, t tx, env event.Envelope, rep instances.Report) error {
	if !isUUID(rep.DeploymentID) || !rep.State.Live() || rep.State == instances.ShuttingDown || o.clock.Now().Sub(env.Time) > orphanFresh {
		return nil
	}
	o.log.Warn("instance belongs to nobody, ending it", zap.String("instance", rep.InstanceID), zap.String("node", rep.Node))
	return o.end(ctx, t, rep, instances.NotFound)
}

func (o *Observer) end(ctx context.Context, t tx, rep instances.Report, cause instances.Cause) error {
	return orderEnd(ctx, t, o.journal, rep.Cluster, rep.Node, instances.TerminateOrder{
		InstanceID: rep.InstanceID, Account: rep.Account, VersionID: rep.VersionID, Cause: cause,
	})
}

// OnDeleted tears the deployment of a deleted version down.
func (o *Observer) OnDeleted(ctx context.Context, t tx, _ event.Envelope, p functions.Changed) error {
	if !isUUID(p.Function.VersionID) {
		return nil
	}
	id, err := o.store.idOf(ctx, t, "deployments", "version_id", p.Function.VersionID)
	if err != nil || id == "" {
		return err
	}
	d, err := o.store.lock(ctx, t, id)
	if err != nil || d == nil || d.Teardown == forced {
		return err
	}
	return beginTeardown(ctx, t, o.store, o.journal, d, forced, 0, o.clock.Now())
}

// OnSecrets orders the nodes of a version's instances to write its secrets anew. An instance that is placed later reads
// the new ones.
func (o *Observer) OnSecrets(ctx context.Context, t tx, env event.Envelope, p functions.SecretsChanged) error {
	if !isUUID(p.VersionID) {
		return nil
	}
	id, err := o.store.idOf(ctx, t, "deployments", "version_id", p.VersionID)
	if err != nil || id == "" {
		return err
	}
	d, err := o.store.lock(ctx, t, id)
	if err != nil || d == nil {
		return err
	}
	for _, i := range d.live() {
		order := instances.SecretsOrder{CommandID: "secrets-" + env.ID + "-" + i.ID, InstanceID: i.ID, Account: d.Account, VersionID: d.VersionID}
		if err := bus.Order(ctx, t, o.journal, instances.UpdateSecrets, i.Cluster, i.Node, order.CommandID, order); err != nil {
			return err
		}
	}
	return nil
}

// clip bounds a text and takes out what Postgres cannot store.
func clip(s string, limit int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}

// clipLines keeps the last lines that fit.
func clipLines(lines []string, limit int) []string {
	var kept []string
	for _, line := range slices.Backward(lines) {
		line = clip(line, limit)
		if limit -= len(line) + 1; limit < 0 {
			break
		}
		kept = append([]string{line}, kept...)
	}
	return kept
}
