package keys

import (
	"context"
	"time"

	"github.com/coder/quartz"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

const (
	// publishAhead is how long a key is listed before it signs: two periods for which a verifier may keep the key set.
	publishAhead = 10 * time.Minute
	// rotationEvery is how often a replica looks whether a key has to move.
	rotationEvery = 10 * time.Second
)

// Rotation moves the signing keys through their states (keys §6.4):
//
//	next, published ahead → current, signs for its life → previous, listed until its last token has expired → gone
//
// Nothing but the table says how far a rotation is, and each move is a transaction with its event; so a rotation goes on
// wherever it was left, in whichever replica is first to look.
type Rotation struct {
	store  *Store
	signer *Signer
	clock  quartz.Clock
	life   time.Duration
	log    *zap.Logger
	// changed holds one token when another replica has said that the keys changed.
	changed chan struct{}
}

// NewRotation gives each signing key a life as the current one.
func NewRotation(store *Store, signer *Signer, clock quartz.Clock, life time.Duration, log *zap.Logger) *Rotation {
	return &Rotation{store: store, signer: signer, clock: clock, life: life, log: log, changed: make(chan struct{}, 1)}
}

// Run rotates, and follows the rotations of other replicas, until ctx ends.
func (r *Rotation) Run(ctx context.Context, conn *bus.Conn) error {
	stop, err := conn.Watch(ctx, event.Keys, r.heard, r.look)
	if err != nil {
		return err
	}
	defer stop()
	tick := time.NewTicker(rotationEvery) // how often to look is nothing that a test would want to decide
	defer tick.Stop()
	for {
		if err := r.Step(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.changed:
		case <-tick.C:
		}
	}
}

func (r *Rotation) heard(e event.Envelope) {
	if e.Type == contract.KeysRotated.Type() {
		r.look()
	}
}

// look makes Run look at the keys now.
func (r *Rotation) look() {
	select {
	case r.changed <- struct{}{}:
	default: // it will look anyway
	}
}

// Step makes the moves that are due, unless another replica is making them, and loads the keys.
func (r *Rotation) Step(ctx context.Context) error {
	now := r.clock.Now().UTC()
	if err := r.store.forgetRevocations(ctx, now); err != nil {
		return err
	}
	rows, err := r.store.signingKeys(ctx)
	if err != nil {
		return err
	}
	// A transaction is opened only when there is something to move. At the first start everybody waits for the one that
	// makes the key.
	if first := len(rows) == 0; first || len(due(rows, now, r.life)) > 0 {
		err := r.store.changeSigningKeys(ctx, now, first, func(c *signingChange) (bool, error) { return r.advance(ctx, c) }, r.published(ctx))
		if err != nil {
			return err
		}
	}
	return r.signer.Load(ctx)
}

func (r *Rotation) published(ctx context.Context) func([]signingRow) (contract.JWKS, error) {
	return func(rows []signingRow) (contract.JWKS, error) {
		keys, err := r.signer.open(ctx, rows)
		if err != nil {
			return contract.JWKS{}, err
		}
		return publicSet(keys)
	}
}

// move is one step of a rotation; an empty id stands for a key that is yet to be made, and an empty state for none.
type move struct {
	id string
	to contract.SigningState
}

// due lists the moves that the time has come for, in the order in which they must be made.
func due(rows []signingRow, now time.Time, life time.Duration) []move {
	var moves []move
	byState := map[contract.SigningState]*signingRow{}
	for i, row := range rows {
		switch {
		case row.state != contract.SigningPrevious:
			byState[row.state] = &rows[i]
		case !now.Before(until(row, life)):
			moves = append(moves, move{id: row.id})
		}
	}
	current, next := byState[contract.SigningCurrent], byState[contract.SigningNext]
	switch {
	case current == nil && next == nil:
		moves = append(moves, move{to: contract.SigningCurrent})
	case current == nil:
		moves = append(moves, move{next.id, contract.SigningCurrent})
	case next == nil:
		if !now.Before(until(*current, life).Add(-publishAhead)) {
			moves = append(moves, move{to: contract.SigningNext})
		}
	case !now.Before(until(*next, life)):
		moves = append(moves, move{current.id, contract.SigningPrevious}, move{next.id, contract.SigningCurrent})
	}
	return moves
}

// until is when a key leaves its state, if nobody hastens it.
func until(row signingRow, life time.Duration) time.Time {
	switch row.state {
	case contract.SigningNext:
		return row.since.Add(publishAhead)
	case contract.SigningPrevious:
		return row.since.Add(tokenMemory)
	case contract.SigningCurrent:
	}
	return row.since.Add(life)
}

func (r *Rotation) advance(ctx context.Context, c *signingChange) (changed bool, err error) {
	moves := due(c.rows, c.now, r.life)
	for _, m := range moves {
		if err := r.make(ctx, c, m); err != nil {
			return false, err
		}
	}
	return len(moves) > 0, nil
}

func (r *Rotation) make(ctx context.Context, c *signingChange, m move) error {
	switch {
	case m.to == "":
		return c.drop(ctx, m.id)
	case m.id != "":
		return c.move(ctx, m.id, m.to)
	}
	id, sealed, err := r.signer.newSigningKey(ctx)
	if err != nil {
		return err
	}
	return c.add(ctx, id, m.to, sealed)
}

// Rotate publishes a successor of the current key, or drops a compromised key at once.
func (r *Rotation) Rotate(ctx context.Context, req contract.RotateSigningKeysRequest) (contract.SigningKeysResponse, error) {
	if req.ID != "" && !req.Compromised {
		check := problem.NewCheck("request")
		check.Require(false, "kid", "may be given only when compromised is true; a rotation in order always replaces the current key")
		return contract.SigningKeysResponse{}, check.Err()
	}
	err := r.store.changeSigningKeys(ctx, r.clock.Now().UTC(), true, func(c *signingChange) (bool, error) {
		if req.Compromised {
			return true, r.abandon(ctx, c, req.ID)
		}
		return r.succeed(ctx, c)
	}, r.published(ctx))
	if err != nil {
		return contract.SigningKeysResponse{}, err
	}
	if err := r.signer.Load(ctx); err != nil {
		return contract.SigningKeysResponse{}, err
	}
	return r.Keys(ctx, rpc.None{})
}

// succeed publishes a next key unless there is one.
func (r *Rotation) succeed(ctx context.Context, c *signingChange) (changed bool, err error) {
	for _, row := range c.rows {
		if row.state == contract.SigningNext {
			return false, nil
		}
	}
	return true, r.make(ctx, c, move{to: contract.SigningNext})
}

// abandon drops a key and revokes what it signed. A successor of the current one begins to sign at once, known to all
// verifiers or not: they ask for a key that they do not know.
func (r *Rotation) abandon(ctx context.Context, c *signingChange, id string) error {
	var lost *signingRow
	for i, row := range c.rows {
		if row.id == id || id == "" && row.state == contract.SigningCurrent {
			lost = &c.rows[i]
		}
	}
	if lost == nil {
		return problem.New(problem.NotFound, "there is no signing key with this kid; GET /v1/admin/signing-keys lists them")
	}
	if err := c.drop(ctx, lost.id); err != nil {
		return err
	}
	err := RecordRevocation(ctx, c.tx, c.journal, contract.TokenRevocation{
		SigningKey: lost.id, ExpiresAt: c.now.Add(tokenMemory), Reason: "signing key compromised",
	})
	if err != nil {
		return err
	}
	r.log.Warn("a compromised signing key was dropped with every token that it signed", zap.String("kid", lost.id))
	if err := c.read(ctx); err != nil {
		return err
	}
	_, err = r.advance(ctx, c)
	return err
}

// Keys lists the signing keys.
func (r *Rotation) Keys(ctx context.Context, _ rpc.None) (contract.SigningKeysResponse, error) {
	rows, err := r.store.signingKeys(ctx)
	if err != nil {
		return contract.SigningKeysResponse{}, err
	}
	answer := contract.SigningKeysResponse{Keys: make([]contract.SigningKey, 0, len(rows))}
	for _, row := range rows {
		answer.Keys = append(answer.Keys, contract.SigningKey{ID: row.id, State: row.state, CreatedAt: row.created, Since: row.since, Until: until(row, r.life)})
	}
	return answer, nil
}
