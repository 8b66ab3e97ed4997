package keys

import (
	"context"
	"strconv"
	"time"

	"github.com/coder/quartz"
	"github.com/jackc/pgx/v5"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
)

const (
	// decisionsDefault and decisionsMost bound a page of decisions.
	decisionsDefault = 100
	decisionsMost    = 1000
	// useInterval is how often the last use of a key is written at most.
	useInterval = time.Minute
)

// The outcomes of a decision.
const (
	allowed = "allow"
	denied  = "deny"
)

// Decisions keeps what the gateways decided about credentials, so that it can be asked for (keys §10), and from it the
// last use of every key. It learns from events, so a request never waits for it.
type Decisions struct {
	store *Store
	clock quartz.Clock
}

// NewDecisions makes the use cases.
func NewDecisions(store *Store, clock quartz.Clock) *Decisions {
	return &Decisions{store: store, clock: clock}
}

// Learn applies one event.
func (d *Decisions) Learn(ctx context.Context, tx pgx.Tx, env event.Envelope, decision access.Decision) error {
	if err := d.store.keepDecision(ctx, tx, env.ID, decision); err != nil {
		return err
	}
	if decision.Decision != allowed || !isUUID(decision.Credential.KeyID) {
		return nil
	}
	return d.store.keepUse(ctx, tx, decision)
}

// List returns decisions, the newest first.
func (d *Decisions) List(ctx context.Context, req contract.DecisionsRequest) (contract.DecisionsResponse, error) {
	q := decisionQuery{keyID: req.KeyID, ownerID: req.OwnerID, decision: req.Decision, until: farAway}
	if req.Decision != "" && req.Decision != allowed && req.Decision != denied {
		return contract.DecisionsResponse{}, invalid("decision", "must be %s or %s", allowed, denied)
	}
	if (req.KeyID != "" && !storable(req.KeyID)) || (req.OwnerID != "" && !storable(req.OwnerID)) {
		return contract.DecisionsResponse{Decisions: []contract.RecordedDecision{}}, nil
	}
	for _, bound := range []struct {
		field, text string
		into        *time.Time
	}{{"since", req.Since, &q.since}, {"until", req.Until, &q.until}} {
		if bound.text == "" {
			continue
		}
		t, err := moment(bound.field, bound.text, d.clock.Now())
		if err != nil {
			return contract.DecisionsResponse{}, err
		}
		*bound.into = t
	}
	limit := decisionsDefault
	if req.Limit != nil {
		var err error
		if limit, err = pageLimit(req.Page, decisionsMost); err != nil {
			return contract.DecisionsResponse{}, err
		}
	}
	if req.Cursor != "" {
		at, number, err := splitCursor(req.Cursor)
		if err != nil {
			return contract.DecisionsResponse{}, err
		}
		if q.beforeID, err = strconv.ParseInt(number, 10, 64); err != nil {
			return contract.DecisionsResponse{}, badCursor()
		}
		q.before = at
	}
	found, err := d.store.decisions(ctx, q, limit+1)
	if err != nil {
		return contract.DecisionsResponse{}, err
	}
	answer := contract.DecisionsResponse{Decisions: make([]contract.RecordedDecision, 0, len(found))}
	for i, f := range found {
		if i == limit {
			last := found[i-1]
			answer.NextCursor = place{at: last.at, id: strconv.FormatInt(last.id, 10)}.cursor()
			break
		}
		answer.Decisions = append(answer.Decisions, f.decision)
	}
	return answer, nil
}

// farAway is later than every decision.
var farAway = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
