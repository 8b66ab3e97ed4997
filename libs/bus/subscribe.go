package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
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
	// inHand is how many messages a consumer hands out before it wants one back. One, over all replicas: with more, the
	// messages that a killed process held would come again after their successors.
	inHand = 1
	// ackWait is how long a killed process holds up its consumer. A slow handler renews its hold (see hold).
	ackWait       = 2 * time.Second
	retryFirst    = 50 * time.Millisecond
	retryLongest  = 5 * time.Second
	poisonTries   = 5
	maxEventID    = 256
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
	domain   string
	stream   string
	log      *zap.Logger
	filters  []string
	handlers map[string]func(context.Context, pgx.Tx, event.Envelope) error
	any      func(context.Context, pgx.Tx, Raw) error
	cancel   context.CancelFunc
	done     chan struct{}
}

// NewSubscriber prepares the consumer of one domain for a service.
func NewSubscriber(c *Conn, pool *pgxpool.Pool, service, domain string, inbox *store.Inbox, outbox *store.Outbox) *Subscriber {
	return &Subscriber{
		conn: c, pool: pool, durable: service + "-" + domain, domain: domain, stream: event.StreamOf(domain), inbox: inbox, outbox: outbox,
		log: c.log.Named(service), handlers: map[string]func(context.Context, pgx.Tx, event.Envelope) error{},
	}
}

// On adds the handler of one event. It runs in a transaction that also remembers the event, and must do nothing that
// the transaction does not cover.
func On[P any](s *Subscriber, e rpc.Event[P], h func(context.Context, pgx.Tx, event.Envelope, P) error) {
	// Two entities may have events of one name, which one filter matches.
	if !slices.Contains(s.filters, e.Filter()) {
		s.filters = append(s.filters, e.Filter())
	}
	s.handlers[e.Type()] = func(ctx context.Context, tx pgx.Tx, env event.Envelope) error {
		var p P
		if err := json.Unmarshal(env.Data, &p); err != nil {
			return problem.New(problem.BadRequest, "event %s does not decode: %v", env.Type, err)
		}
		return h(ctx, tx, env, p)
	}
}

// Raw is an event as its stream holds it.
type Raw struct {
	Subject string
	// JSON is the envelope byte for byte, with attributes that this release may not know.
	JSON     []byte
	Envelope event.Envelope
}

// OnAny takes every event of the domain as it is, also those of types that this release does not know. It is for a
// consumer that keeps events and does not act on them; handlers added with [On] are not called beside it.
func OnAny(s *Subscriber, h func(context.Context, pgx.Tx, Raw) error) { s.any = h }

// Stream is the name of the stream consumed, for Declare.
func (s *Subscriber) Stream() string { return s.stream }

// Start creates the consumer and begins in the background.
func (s *Subscriber) Start(ctx context.Context) error {
	filters := s.filters
	if s.any != nil {
		filters = []string{subject.EventsOf(s.domain)}
	}
	open := func(ctx context.Context) (jetstream.Consumer, error) {
		return s.conn.js.CreateOrUpdateConsumer(ctx, s.stream, jetstream.ConsumerConfig{
			Durable: s.durable, FilterSubjects: filters, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait,
			MaxAckPending: inHand, MaxDeliver: -1, DeliverPolicy: jetstream.DeliverAllPolicy, Replicas: s.conn.replicas,
			Description: "applies " + s.stream + " for " + s.durable,
		})
	}
	cons, err := open(ctx)
	if err != nil {
		return fmt.Errorf("consume %s: %w", s.stream, err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel, s.done = cancel, make(chan struct{})
	go func() {
		defer close(s.done)
		s.conn.pull(run, cons, open, func(m jetstream.Msg) { s.deliver(run, m) })
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

// pull fetches messages until ctx ends and hands them over one by one; it outlives every outage of the server, and
// opens the consumer anew when the server has lost it.
func (c *Conn) pull(ctx context.Context, cons jetstream.Consumer, open func(context.Context) (jetstream.Consumer, error), handle func(jetstream.Msg)) {
	wait := retryFirst
	for ctx.Err() == nil {
		err := fetch(ctx, cons, handle)
		if err == nil {
			wait = retryFirst
			continue
		}
		if ctx.Err() != nil {
			return
		}
		c.log.Warn("fetch failed, trying again", zap.Error(err))
		pause(ctx, wait)
		wait = min(2*wait, retryLongest)
		openCtx, cancel := context.WithTimeout(ctx, fetchExpiry)
		again, err := open(openCtx)
		if errors.Is(err, jetstream.ErrStreamNotFound) && c.restore(openCtx) == nil {
			again, err = open(openCtx)
		}
		if err == nil {
			cons = again
		}
		cancel()
	}
}

// fetchBatch is how many messages one request to the server asks for; they come one after another, see inHand.
const fetchBatch = 64

func fetch(ctx context.Context, cons jetstream.Consumer, handle func(jetstream.Msg)) error {
	fetchCtx, cancel := context.WithTimeout(ctx, fetchExpiry)
	defer cancel()
	msgs, err := cons.Fetch(fetchBatch, jetstream.FetchContext(fetchCtx))
	if err != nil {
		return err
	}
	for m := range msgs.Messages() {
		if ctx.Err() != nil {
			giveBack(m)
			continue
		}
		handle(m)
	}
	if err := msgs.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// giveBack lets somebody else have a message at once instead of after the ack wait.
func giveBack(m jetstream.Msg) {
	_ = m.Nak() // when it is lost, the ack wait has the same effect, later
}

// hold renews the claim on a message until release is called, however long its handler takes.
func hold(m jetstream.Msg) (release func()) {
	var mu sync.Mutex
	released := false
	var renew *time.Timer
	renew = time.AfterFunc(ackWait/2, func() {
		mu.Lock()
		defer mu.Unlock()
		if !released {
			_ = m.InProgress() // when it is lost, the message comes again and its inbox row or command id makes that harmless
			renew.Reset(ackWait / 2)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		released = true
		renew.Stop()
	}
}

func (s *Subscriber) deliver(ctx context.Context, m jetstream.Msg) {
	var env event.Envelope
	if err := json.Unmarshal(m.Data(), &env); err != nil {
		s.conn.bury(ctx, s.log, m, fmt.Errorf("not an event: %w", err))
		return
	}
	if env.ID == "" || len(env.ID) > maxEventID || strings.ContainsRune(env.ID, 0) {
		s.conn.bury(ctx, s.log, m, errors.New("not an event: the inbox cannot remember its id"))
		return
	}
	handle := s.handlers[env.Type]
	if s.any != nil {
		handle = func(ctx context.Context, tx pgx.Tx, env event.Envelope) error {
			return s.any(ctx, tx, Raw{Subject: m.Subject(), JSON: m.Data(), Envelope: env})
		}
	}
	if handle == nil {
		ack(s.log, m)
		return
	}
	release := hold(m)
	defer release()
	ctx = WithTraceParent(ctx, env.TraceParent)
	wait := retryFirst
	for try := 1; ; try++ {
		err := s.apply(ctx, env, handle)
		if err == nil {
			ack(s.log, m)
			return
		}
		if ctx.Err() != nil {
			giveBack(m) // another replica, or the next start, applies it
			return
		}
		if _, poison := problem.From(err); poison && try >= poisonTries {
			s.conn.bury(ctx, s.log, m, err)
			return
		}
		s.log.Warn("event not applied, trying again", zap.String("type", env.Type), zap.String("event", env.ID), zap.Int("try", try), zap.Error(err))
		pause(ctx, wait)
		wait = min(2*wait, retryLongest)
	}
}

// apply runs the handler in a transaction that also remembers the event. A panic counts as poison: the same input
// would only panic again.
func (s *Subscriber) apply(ctx context.Context, env event.Envelope, handle func(context.Context, pgx.Tx, event.Envelope) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("handler panicked", zap.String("type", env.Type), zap.Any("panic", p), zap.Stack("stack"))
			err = problem.New(problem.Internal, "handler of %s panicked: %v", env.Type, p)
		}
	}()
	return store.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		first, err := s.inbox.Once(ctx, tx, s.durable, env.ID)
		if err != nil || !first {
			return err
		}
		return handle(ctx, tx, env)
	}, s.outbox)
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
