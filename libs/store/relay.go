package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
)

const (
	defaultBatch          = 256
	defaultPoll           = time.Second
	defaultPublishTimeout = 10 * time.Second
	// batchBytes bounds what one batch holds in memory; a batch has one message at least, however large.
	batchBytes = 4 << 20
	// databaseTimeout bounds the database's share of one batch, so that a silent server does not hold the relay for ever.
	databaseTimeout = 10 * time.Second
)

// Publish hands messages to the broker in order and returns once it has stored them. It returns how many of them, counted
// from the first, the broker acknowledged; less than all only together with an error.
type Publish func(ctx context.Context, messages []Message) (acknowledged int, err error)

// RelayOptions tune a relay. The zero value is right outside tests.
type RelayOptions struct {
	// Batch bounds the messages of one Publish; 256 when zero.
	Batch int
	// Poll is how often, spread by a tenth, the relay looks without being woken; one second when zero.
	Poll time.Duration
	// PublishTimeout bounds one Publish; ten seconds when zero.
	PublishTimeout time.Duration
	Log            *zap.Logger
}

// Relay publishes the outbox of one schema: the oldest rows first, each deleted only after the broker acknowledged it. A
// crash in between publishes a message again with the same id; no crash loses one.
//
// Every replica of a service runs a relay, and a transaction-level advisory lock lets one at a time publish, which keeps the
// order. Rows are deleted one by one by their id; there is no high-water mark that a slow transaction, whose rows have low
// ids but appear late, could fall behind.
type Relay struct {
	pool    *pgxpool.Pool
	outbox  *Outbox
	publish Publish
	opts    RelayOptions
	log     *zap.Logger

	mu     sync.Mutex
	stop   chan struct{}
	done   chan struct{}
	cancel context.CancelFunc
}

// NewRelay returns a relay that Start sets to work. The pool needs no more than one connection for it.
func NewRelay(pool *pgxpool.Pool, outbox *Outbox, publish Publish, opts RelayOptions) *Relay {
	if opts.Batch <= 0 {
		opts.Batch = defaultBatch
	}
	if opts.Poll <= 0 {
		opts.Poll = defaultPoll
	}
	if opts.PublishTimeout <= 0 {
		opts.PublishTimeout = defaultPublishTimeout
	}
	log := opts.Log
	if log == nil {
		log = zap.NewNop()
	}
	return &Relay{pool: pool, outbox: outbox, publish: publish, opts: opts, log: log.With(zap.String("schema", outbox.schema))}
}

// Start publishes in the background until Stop. The end of ctx does not end it: a start hook's context is short-lived.
func (r *Relay) Start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done != nil {
		return errors.New("store: relay started twice")
	}
	ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	r.stop, r.done = make(chan struct{}), make(chan struct{})
	go r.loop(ctx, r.stop, r.done)
	return nil
}

// Stop ends the relay after the batch in hand, which it gives up when ctx ends first. Rows that are left wait for the next
// start. When Stop returns nothing of the relay runs any more.
func (r *Relay) Stop(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		return nil
	}
	close(r.stop)
	select {
	case <-r.done:
	case <-ctx.Done():
	}
	r.cancel()
	<-r.done
	r.stop, r.done = nil, nil
	return nil
}

// Oldest returns for how long the oldest unpublished message has been waiting, zero when there is none. Minutes mean that
// the broker refuses messages or cannot be reached.
func (r *Relay) Oldest(ctx context.Context) (time.Duration, error) {
	var age time.Duration
	err := r.pool.QueryRow(ctx, `SELECT clock_timestamp() - created_at FROM `+table(r.outbox.schema, "outbox")+` ORDER BY id LIMIT 1`).Scan(&age)
	if IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("store: outbox of %s: %w", r.outbox.schema, err)
	}
	return max(age, 0), nil
}

// Check is Oldest for readiness: an error that says how long messages have been waiting, once that exceeds limit.
func (r *Relay) Check(ctx context.Context, limit time.Duration) error {
	age, err := r.Oldest(ctx)
	if err != nil {
		return err
	}
	if age > limit {
		return fmt.Errorf("messages of %s have been waiting %s for the broker to take them", r.outbox.schema, age.Round(time.Second))
	}
	return nil
}

// outcome is what one look at the outbox found.
type outcome int

const (
	empty outcome = iota // nothing left that this look could see
	more                 // a full batch went out, more may wait
	busy                 // another replica is publishing
)

func (r *Relay) loop(ctx context.Context, stop <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	failures, contended := 0, 0
	for {
		found, err := r.drain(ctx)
		var delay time.Duration
		wake := r.outbox.wake
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			// No wake-up shortens this wait, or busy writers would turn an outage into a storm.
			wake = nil
			delay = backoff(failures, 50*time.Millisecond, 10*time.Second)
			failures++
			r.log.Warn("outbox not published, trying again", zap.Error(err), zap.Int("failures", failures), zap.Duration("in", delay))
		case found == busy:
			// The other replica may have looked before our rows were committed, so look again soon.
			failures, wake = 0, nil
			delay = min(backoff(contended, 10*time.Millisecond, r.opts.Poll), r.opts.Poll)
			contended++
		case found == more:
			failures, contended = 0, 0
		default:
			failures, contended = 0, 0
			delay = r.opts.Poll + rand.N(r.opts.Poll/10+1)
		}
		timer := time.NewTimer(delay)
		select {
		case <-stop:
			timer.Stop()
			return
		case <-wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// drain publishes one batch inside the transaction that holds the lock and deletes the rows.
func (r *Relay) drain(ctx context.Context) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.PublishTimeout+databaseTimeout)
	defer cancel()
	found := empty
	// A refusal by the broker is not the transaction's failure: what it did take must be deleted.
	var refused error
	err := pgx.BeginTxFunc(ctx, r.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))`, "sirocco.outbox."+r.outbox.schema).Scan(&mine); err != nil {
			return err
		}
		if !mine {
			found = busy
			return nil
		}
		ids, messages, truncated, err := r.oldest(ctx, tx)
		if err != nil || len(ids) == 0 {
			return err
		}
		publishCtx, cancel := context.WithTimeout(ctx, r.opts.PublishTimeout)
		defer cancel()
		acknowledged, err := r.publish(publishCtx, messages)
		acknowledged = min(max(acknowledged, 0), len(ids))
		if err != nil {
			refused = fmt.Errorf("publish %s: %w", messages[min(acknowledged, len(ids)-1)].Subject, err)
		} else if acknowledged < len(ids) {
			refused = fmt.Errorf("publish: %d of %d messages acknowledged", acknowledged, len(ids))
		}
		if truncated {
			found = more
		}
		_, err = tx.Exec(ctx, `DELETE FROM `+table(r.outbox.schema, "outbox")+` WHERE id = ANY($1)`, ids[:acknowledged])
		return err
	})
	if err != nil {
		return empty, errors.Join(err, refused)
	}
	return found, refused
}

// oldest reads the next batch; truncated says that it is full and more rows may follow.
func (r *Relay) oldest(ctx context.Context, tx pgx.Tx) (ids []int64, messages []Message, truncated bool, err error) {
	rows, err := tx.Query(ctx, `SELECT id, subject, msg_id, headers, payload FROM `+table(r.outbox.schema, "outbox")+` ORDER BY id LIMIT $1`, r.opts.Batch)
	if err != nil {
		return nil, nil, false, err
	}
	defer rows.Close()
	size := 0
	for rows.Next() {
		var id int64
		var m Message
		if err := rows.Scan(&id, &m.Subject, &m.ID, &m.Headers, &m.Payload); err != nil {
			return nil, nil, false, err
		}
		if size += len(m.Payload); size > batchBytes && len(ids) > 0 {
			return ids, messages, true, nil
		}
		ids = append(ids, id)
		messages = append(messages, m)
	}
	return ids, messages, len(ids) == r.opts.Batch, rows.Err()
}
