package gateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// Bounds of the audit record. A decision costs the request a lock that is hardly ever held and a look into a small
// table; everything else happens once a second, beside the requests.
const (
	foldEvery     = time.Second
	tallyShards   = 16
	maxTallies    = 1024 // per shard and second
	maxUnsent     = 4096
	publishers    = 4
	publishWithin = 5 * time.Second
)

// station is a place where decisions are made: one route, by its template.
type station struct {
	service, method, route string
	scopes                 []access.Scope
	// target names what the path parameter target holds.
	target, parameter string
}

// decisions folds equal decisions of a second into one event (keys §10).
type decisions struct {
	conn  *bus.Conn
	clock quartz.Clock
	log   *zap.Logger

	shards  [tallyShards]tallies
	unsent  chan outcome
	made    *prometheus.CounterVec
	dropped prometheus.Counter
}

type tallies struct {
	mu  sync.Mutex
	all map[tallyKey]*outcome
	_   [64]byte // keeps the locks of two shards out of one cache line
}

// tallyKey is what makes two decisions equal.
type tallyKey struct {
	credential string
	at         *station
	reason     access.Reason
}

// outcome is a decision and whom its event is about.
type outcome struct {
	access.Decision
	account     string
	actor       event.Actor
	traceParent string
}

func newDecisions(conn *bus.Conn, clock quartz.Clock, log *zap.Logger) *decisions {
	d := &decisions{
		conn: conn, clock: clock, log: log, unsent: make(chan outcome, maxUnsent),
		made: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "authz_decisions_total", Help: "Decisions about credentials."}, []string{"service", "decision", "reason"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "authz_decisions_dropped_total", Help: "Decisions that the audit record lacks because too many came at once.",
		}),
	}
	for i := range d.shards {
		d.shards[i].all = map[tallyKey]*outcome{}
	}
	return d
}

func (d *decisions) register(r *prometheus.Registry) { r.MustRegister(d.made, d.dropped) }

// note records one decision. e is nil when the credential is not known.
func (d *decisions) note(at *station, e *entry, reason access.Reason, r *http.Request, requestID string) {
	key := tallyKey{at: at, reason: reason}
	if e != nil {
		key.credential = e.credential.ID
	}
	shard := &d.shards[rand.Uint32N(tallyShards)]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if o := shard.all[key]; o != nil {
		o.Count++
		return
	}
	if len(shard.all) >= maxTallies {
		d.dropped.Inc()
		return
	}
	shard.all[key] = d.outcome(at, e, reason, r, requestID)
}

func (d *decisions) outcome(at *station, e *entry, reason access.Reason, r *http.Request, requestID string) *outcome {
	now := d.clock.Now()
	o := &outcome{account: access.DefaultAccount, actor: event.Actor{Type: "system", ID: "anonymous"}, traceParent: r.Header.Get("Traceparent")}
	o.Decision = access.Decision{
		At: now.UTC(), Service: at.service, Method: at.method, Route: at.route, RequiredScopes: at.scopes, Decision: "deny", Reason: reason,
		ClientIP: remoteHost(r), RequestID: requestID, Count: 1, Source: "store",
	}
	if o.Method == "" {
		o.Method = r.Method
	}
	if reason == access.ReasonOK {
		o.Decision.Decision = "allow"
	}
	if id := r.PathValue(at.parameter); at.target != "" && isUUID(id) {
		o.Target = access.Target{Type: at.target, ID: strings.ToLower(id)}
	}
	if parts := strings.Split(o.traceParent, "-"); len(parts) == 4 && len(parts[1]) == 32 {
		o.TraceID = parts[1]
	} else {
		o.traceParent = ""
	}
	if e == nil {
		return o
	}
	c := &e.credential
	o.Credential = access.Asker{Kind: c.Kind, KeyID: c.ID, OwnerID: c.Subject, NCAID: c.Account, Version: c.Version}
	o.account, o.actor = c.Account, access.Caller{Kind: c.Kind, ID: c.ID, Subject: c.Subject}.Actor()
	o.PolicyAgeMS = max(0, now.Sub(e.asOf).Milliseconds())
	if e.used.Load() || !e.used.CompareAndSwap(false, true) {
		o.Source = "cache"
	}
	return o
}

// fold takes what a second brought, merges the shards and hands it to the publishers.
func (d *decisions) fold() {
	merged := map[tallyKey]*outcome{}
	for i := range d.shards {
		shard := &d.shards[i]
		shard.mu.Lock()
		var all map[tallyKey]*outcome
		if len(shard.all) > 0 {
			all, shard.all = shard.all, make(map[tallyKey]*outcome, len(shard.all))
		}
		shard.mu.Unlock()
		for key, o := range all {
			if first := merged[key]; first != nil {
				if !o.At.Before(first.At) {
					first.Count += o.Count
					continue
				}
				o.Count += first.Count
			}
			merged[key] = o
		}
	}
	for _, o := range merged {
		d.made.WithLabelValues(o.Service, o.Decision.Decision, string(o.Reason)).Add(float64(o.Count))
		select {
		case d.unsent <- *o:
		default:
			d.dropped.Add(float64(o.Count))
		}
	}
}

// run folds and publishes until ctx ends, and then what is left.
func (d *decisions) run(ctx context.Context) {
	var sending sync.WaitGroup
	for range publishers {
		sending.Go(func() {
			for o := range d.unsent {
				d.publish(ctx, o)
			}
		})
	}
	tick := d.clock.NewTicker(foldEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			d.fold()
			continue
		case <-ctx.Done():
		}
		d.fold()
		close(d.unsent)
		sending.Wait()
		return
	}
}

// publish stores one decision in its stream. When that fails for long it is given up and counted: the record must never
// hold up the requests.
func (d *decisions) publish(ctx context.Context, o outcome) {
	id, err := uuid.NewV7()
	if err != nil {
		d.dropped.Add(float64(o.Count))
		return
	}
	entity := o.Credential.KeyID
	refs := event.Refs{}
	switch {
	case entity == "":
		entity = "none"
	case o.Credential.Kind == access.Key:
		refs.KeyID = entity
	}
	fact := bus.Fact{Account: o.account, Entity: entity, Refs: refs, Actor: o.actor}
	for ctx.Err() == nil && !d.conn.Connected() {
		select { // what is sent now would only fill the buffer of the connection
		case <-ctx.Done():
		case <-time.After(foldEvery):
		}
	}
	try, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishWithin)
	defer cancel()
	if o.traceParent != "" {
		try = bus.WithTraceParent(try, o.traceParent)
	}
	if err := bus.Announce(try, d.conn, "gateway", id.String(), access.Decided, fact, o.Decision); err != nil {
		d.dropped.Add(float64(o.Count))
		d.log.Debug("decision not recorded", zap.Error(err))
	}
}

// reasonOf says in the words of the audit record why a request was refused, also by the service behind: ok when that
// had nothing to do with its credential.
func reasonOf(err error) access.Reason {
	if err == nil {
		return access.ReasonOK
	}
	if d, ok := errors.AsType[*denial](err); ok {
		return d.reason
	}
	p, _ := problem.From(err)
	if reason, ok := reasons[p.Code]; ok {
		return reason
	}
	return access.ReasonOK
}

// refusalReason is reasonOf for an error before the request was let through, which is always a refusal.
func refusalReason(err error) access.Reason {
	reason := reasonOf(err)
	if err == nil || reason != access.ReasonOK {
		return reason
	}
	switch p, _ := problem.From(err); p.Status() {
	case http.StatusForbidden: // a key where only tokens are accepted
		return access.ReasonResourceType
	case http.StatusUnauthorized:
		return access.ReasonMalformed
	case http.StatusNotFound: // the client of a token
		return access.ReasonUnknownKey
	}
	return access.ReasonBackend
}

// whom is the credential that a decision was about.
func whom(e *entry, err error) *entry {
	if d, ok := errors.AsType[*denial](err); ok && e == nil {
		return d.of
	}
	return e
}

var reasons = map[problem.Code]access.Reason{
	problem.ScopeMissing: access.ReasonScopeMissing, problem.ResourceType: access.ReasonResourceType,
	problem.ResourceNotCovered: access.ReasonResourceNotCovered, problem.AudienceMismatch: access.ReasonAudience,
	problem.AccountMismatch: access.ReasonAccount, problem.CIDRDenied: access.ReasonCIDR, problem.RateLimited: access.ReasonRateLimited,
}
