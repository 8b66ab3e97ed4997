package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/contracts/subject"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// Consumer settings: one message at a time in order, acknowledged after the effect is committed.
const (
	ackWait       = 30 * time.Second
	retryFirst    = 50 * time.Millisecond
	retryLongest  = 5 * time.Second
	poisonTries   = 5
	fetchExpiry   = 5 * time.Second
	headerReason  = "Sirocco-Reason"
	headerSubject = "Sirocco-Subject"
)

// Subscriber feeds the events of one domain to a service, in order, each applied exactly once: the inbox row is
// written in the transaction of the effect. All replicas share one durable consumer. An infrastructure error is
// retried until it passes, because skipping would break the order; an event that can never be applied goes to the
// dead letters after five tries.
type Subscriber struct {
	conn     *Conn
	pool     *pgxpool.Pool
	inbox    *store.Inbox
	outbox   *store.Outbox
	durable  string
	stream   string
	log      *zap.Logger
	filters  []string
	handlers map[string]func(context.Context, pgx.Tx, event.Envelope) error
	cancel   context.CancelFunc
	done     chan struct{}
}

// NewSubscriber prepares the consumer of one domain for a service.
func NewSubscriber(c *Conn, pool *pgxpool.Pool, service, domain string, inbox *store.Inbox, outbox *store.Outbox) *Subscriber {
	return &Subscriber{
		conn: c, pool: pool, durable: service + "-" + domain, stream: event.StreamOf(domain), inbox: inbox, outbox: outbox,
		log: c.log.Named(service), handlers: map[string]func(context.Context, pgx.Tx, event.Envelope) error{},
	}
}

// On adds the handler of one event. It runs in a transaction that also remembers the event, and must do nothing that
// the transaction does not cover.
func On[P any](s *Subscriber, e rpc.Event[P], h func(context.Context, pgx.Tx, event.Envelope, P) error) {
	s.filters = append(s.filters, e.Filter())
	s.handlers[e.Type()] = func(ctx context.Context, tx pgx.Tx, env event.Envelope) error {
		var p P
		if err := json.Unmarshal(env.Data, &p); err != nil {
			return problem.New(problem.BadRequest, "event %s does not decode: %v", env.Type, err)
		}
		return h(ctx, tx, env, p)
	}
}

// Stream is the name of the stream consumed, for Declare.
func (s *Subscriber) Stream() string { return s.stream }

// Start creates the consumer and begins in the background.
func (s *Subscriber) Start(ctx context.Context) error {
	cons, err := s.conn.js.CreateOrUpdateConsumer(ctx, s.stream, jetstream.ConsumerConfig{
		Durable: s.durable, FilterSubjects: s.filters, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait,
		MaxAckPending: 64, MaxDeliver: -1, DeliverPolicy: jetstream.DeliverAllPolicy, Replicas: s.conn.replicas,
		Description: "applies " + s.stream + " for " + s.durable,
	})
	if err != nil {
		return fmt.Errorf("consume %s: %w", s.stream, err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel, s.done = cancel, make(chan struct{})
	go func() {
		defer close(s.done)
		s.conn.pull(run, cons, 32, func(m jetstream.Msg) { s.deliver(run, m) })
	}()
	return nil
}

// Stop ends after the event in hand.
func (s *Subscriber) Stop() {
	if s.cancel != nil {
		s.cancel()
		<-s.done
	}
}

// pull fetches messages until ctx ends and hands them over one by one; it outlives every outage of the server.
func (c *Conn) pull(ctx context.Context, cons jetstream.Consumer, batch int, handle func(jetstream.Msg)) {
	wait := retryFirst
	for ctx.Err() == nil {
		fetchCtx, cancel := context.WithTimeout(ctx, fetchExpiry)
		msgs, err := cons.Fetch(batch, jetstream.FetchContext(fetchCtx))
		if err == nil {
			for m := range msgs.Messages() {
				if ctx.Err() == nil {
					handle(m)
				}
			}
			err = msgs.Error()
		}
		cancel()
		if err == nil || errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) {
			wait = retryFirst
			continue
		}
		if ctx.Err() != nil {
			return
		}
		c.log.Warn("fetch failed, trying again", zap.Error(err))
		pause(ctx, wait)
		wait = min(2*wait, retryLongest)
	}
}

func (s *Subscriber) deliver(ctx context.Context, m jetstream.Msg) {
	var env event.Envelope
	if err := json.Unmarshal(m.Data(), &env); err != nil {
		s.conn.bury(ctx, s.log, m, fmt.Errorf("not an event: %w", err))
		return
	}
	handle, known := s.handlers[env.Type]
	if !known {
		ack(s.log, m)
		return
	}
	ctx = WithTraceParent(ctx, env.TraceParent)
	wait := retryFirst
	for try := 1; ; try++ {
		err := store.InTx(ctx, s.pool, func(tx pgx.Tx) error {
			first, err := s.inbox.Once(ctx, tx, s.durable, env.ID)
			if err != nil || !first {
				return err
			}
			return handle(ctx, tx, env)
		}, s.outbox)
		if err == nil {
			ack(s.log, m)
			return
		}
		if ctx.Err() != nil {
			return // not acknowledged: another replica, or the next start, applies it
		}
		if _, poison := problem.From(err); poison && try >= poisonTries {
			s.conn.bury(ctx, s.log, m, err)
			return
		}
		s.log.Warn("event not applied, trying again", zap.String("type", env.Type), zap.String("event", env.ID), zap.Int("try", try), zap.Error(err))
		if err := m.InProgress(); err != nil {
			s.log.Debug("lease not extended", zap.Error(err))
		}
		pause(ctx, wait)
		wait = min(2*wait, retryLongest)
	}
}

// bury copies a message to the dead letters and takes it out of its stream's queue. The copy's id is derived from the
// original's place, so burying twice leaves one grave.
func (c *Conn) bury(ctx context.Context, log *zap.Logger, m jetstream.Msg, cause error) {
	log.Error("message dead-lettered", zap.String("subject", m.Subject()), zap.Error(cause))
	id := m.Subject()
	if meta, err := m.Metadata(); err == nil {
		id = fmt.Sprintf("%s-%s-%d", meta.Stream, meta.Consumer, meta.Sequence.Stream)
	}
	msg := store.Message{
		Subject: subject.DeadLetter(m.Subject()), ID: id, Payload: m.Data(),
		Headers: map[string]string{headerReason: oneLine(cause.Error()), headerSubject: m.Subject()},
	}
	if _, err := c.PublishBatch(ctx, []store.Message{msg}); err != nil {
		log.Error("dead letter not stored", zap.Error(err))
		return // stays in the stream and is delivered again after the ack wait
	}
	if err := m.TermWithReason(oneLine(cause.Error())); err != nil {
		log.Debug("term not sent", zap.Error(err))
	}
}

func oneLine(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' {
			b[i] = ' '
		}
	}
	if len(b) > 512 {
		b = b[:512]
	}
	return string(b)
}

func ack(log *zap.Logger, m jetstream.Msg) {
	if err := m.Ack(); err != nil {
		log.Debug("ack not sent; the message comes again", zap.Error(err))
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
