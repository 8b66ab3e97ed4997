package ledger

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/coder/quartz"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/audit"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
	maxWait      = 20 // seconds
	maxEntity    = 256
	// answerTime is left of a caller's deadline when a long poll ends, so that its empty answer still arrives.
	answerTime = 500 * time.Millisecond
)

// Ledger answers questions about what happened.
type Ledger struct {
	records *store
	news    *bell
	clock   quartz.Clock
}

// New makes the use cases over a store that a listener rings news for.
func New(records *store, news *bell, clock quartz.Clock) *Ledger {
	return &Ledger{records: records, news: news, clock: clock}
}

// Events returns a page of records in ledger order. A caller with an account sees its own events and those of the
// platform. With WaitSeconds an empty page waits for the first record that fits.
func (l *Ledger) Events(ctx context.Context, req audit.EventsRequest) (audit.EventsResponse, error) {
	q, err := l.query(req)
	if err != nil {
		return audit.EventsResponse{}, err
	}
	q.own = access.CallerFrom(ctx).Account
	wait := time.Duration(req.WaitSeconds) * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, l.clock.Until(deadline)-answerTime)
	}
	patience := l.clock.NewTimer(max(wait, 0), "events")
	defer patience.Stop()
	for {
		news := l.news.next()
		records, more, err := l.records.page(ctx, q)
		if err != nil {
			return audit.EventsResponse{}, err
		}
		if len(records) > 0 {
			return audit.EventsResponse{Events: records, Next: records[len(records)-1].Sequence, More: more}, nil
		}
		nothing := audit.EventsResponse{Events: []audit.Record{}, Next: q.after}
		if wait <= 0 {
			return nothing, nil
		}
		select {
		case <-news:
		case <-patience.C:
			return nothing, nil
		case <-ctx.Done():
			return audit.EventsResponse{}, ctx.Err()
		}
	}
}

// Verify recomputes the hash chains that the caller can see.
func (l *Ledger) Verify(ctx context.Context, _ audit.VerifyRequest) (audit.VerifyResponse, error) {
	return l.records.verify(ctx, access.CallerFrom(ctx).Account)
}

func (l *Ledger) query(req audit.EventsRequest) (query, error) {
	check := problem.NewCheck("events")
	q := query{entity: req.Entity, domain: req.Domain, after: req.After, limit: req.Limit}
	if q.limit == 0 {
		q.limit = defaultLimit
	}
	q.since = l.moment(check, "since", req.Since)
	q.until = l.moment(check, "until", req.Until)
	check.Require(q.since.IsZero() || q.until.IsZero() || q.since.Before(q.until), "until", "must be later than since")
	check.Require(len(q.entity) <= maxEntity, "entity", "must have at most %d characters", maxEntity)
	check.Require(q.domain == "" || slices.Contains(event.Domains(), q.domain), "domain", "must be one of %s", strings.Join(event.Domains(), ", "))
	check.Require(q.after >= 0, "after", "must not be negative")
	check.Require(q.limit >= 1 && q.limit <= maxLimit, "limit", "must be between 1 and %d", maxLimit)
	check.Require(req.WaitSeconds >= 0 && req.WaitSeconds <= maxWait, "wait", "must be between 0 and %d seconds", maxWait)
	return q, check.Err()
}

// moment reads a time, or a duration that says how long ago; empty is the zero time.
func (l *Ledger) moment(check *problem.Check, field, text string) time.Time {
	if text == "" {
		return time.Time{}
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t
	}
	ago, err := time.ParseDuration(text)
	check.Require(err == nil && ago >= 0, field, "must be a time such as 2031-04-02T08:00:00Z, or how long ago, such as 10m")
	if err != nil || ago < 0 {
		return time.Time{}
	}
	return l.clock.Now().Add(-ago)
}
