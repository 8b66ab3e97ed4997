package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/subject"
)

// workers is the queue group of everybody who takes work directly.
const workers = "workers"

// queueConsumer is the one consumer of a version's queue, shared by all agents.
const queueConsumer = "workers"

// ErrNoQueue says that a version has no queue (yet).
var ErrNoQueue = errors.New("the version has no queue")

// OnDirect takes work of a version straight off core NATS; fn runs on the subscription and must not block. An offer
// names where its answer goes by itself. After stop fn is still called for the offers that NATS gave to this worker
// already, because nobody else will see them: it must refuse them.
func (c *Conn) OnDirect(version string, fn func(offer []byte)) (stop func(), err error) {
	return c.subscribe(subject.Direct(version), workers, func(m *nats.Msg) { fn(m.Data) })
}

// OnHint is called when the queue of a version may have something in it.
func (c *Conn) OnHint(version string, fn func()) (stop func(), err error) {
	return c.subscribe(subject.QueueHint(version), "", func(*nats.Msg) { fn() })
}

func (c *Conn) subscribe(subj, group string, fn nats.MsgHandler) (func(), error) {
	var sub *nats.Subscription
	var err error
	if group == "" {
		sub, err = c.nc.Subscribe(subj, fn)
	} else {
		sub, err = c.nc.QueueSubscribe(subj, group, fn)
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", subj, err)
	}
	return func() {
		if err := sub.Drain(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrBadSubscription) {
			c.log.Debug(err.Error())
		}
	}, nil
}

// EnsureQueue makes the queue of a version exist: bounded, in memory because every caller is waiting, each entry gone
// once taken and acknowledged. It has no limit in bytes of its own, because JetStream reserves such a limit at once and
// a few versions would use up the server; what all queues may hold together is the server's memory store.
func (c *Conn) EnsureQueue(ctx context.Context, version string) error {
	name := subject.QueueStream(version)
	_, err := c.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: name, Description: "requests waiting for version " + version, Subjects: []string{subject.Queue(version)},
		Retention: jetstream.WorkQueuePolicy, Storage: jetstream.MemoryStorage, Discard: jetstream.DiscardNew,
		MaxMsgs: invocation.QueueMaxMessages, MaxBytes: -1, MaxMsgSize: invocation.QueueMaxMessage,
		MaxAge: invocation.Longest, Duplicates: time.Minute, Replicas: c.replicas,
	})
	if err != nil {
		return fmt.Errorf("queue of %s: %w", version, err)
	}
	_, err = c.js.CreateOrUpdateConsumer(ctx, name, jetstream.ConsumerConfig{
		Durable: queueConsumer, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: 16384,
		// One execution start, and one more try for an entry that was fetched but never started.
		MaxDeliver: 5, MemoryStorage: true, Replicas: c.replicas,
	})
	if err != nil {
		return fmt.Errorf("queue of %s: %w", version, err)
	}
	return nil
}

// DeleteQueue removes the queue of a version with everything in it.
func (c *Conn) DeleteQueue(ctx context.Context, version string) error {
	err := c.js.DeleteStream(ctx, subject.QueueStream(version))
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("queue of %s: %w", version, err)
	}
	return nil
}

// Queues lists the versions that have a queue now.
func (c *Conn) Queues(ctx context.Context) ([]string, error) {
	names := c.js.StreamNames(ctx, jetstream.WithStreamListSubject(subject.AllQueues()))
	var versions []string
	for name := range names.Name() {
		if version, ok := subject.ParseQueueStream(name); ok {
			versions = append(versions, version)
		}
	}
	if err := names.Err(); err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	return versions, nil
}

// Entry is where a queued offer stands, so that it can be taken back.
type Entry struct {
	stream   string
	sequence uint64
}

// Enqueue puts an offer into the queue of a version and hints to its workers. A full queue is a queue_full problem, an
// absent one [ErrNoQueue].
func (c *Conn) Enqueue(ctx context.Context, version, id string, offer []byte) (Entry, error) {
	msg := nats.NewMsg(subject.Queue(version))
	msg.Data = offer
	ack, err := c.js.PublishMsg(ctx, msg, jetstream.WithMsgID(id), jetstream.WithRetryAttempts(0))
	var apiErr *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		return Entry{}, ErrNoQueue
	case errors.As(err, &apiErr) && slices.Contains(full, apiErr.ErrorCode):
		return Entry{}, problem.New(problem.QueueFull, "too many requests wait for this function: %s", apiErr.Description)
	case err != nil:
		return Entry{}, fmt.Errorf("queue request: %w", err)
	}
	if err := c.nc.Publish(subject.QueueHint(version), nil); err != nil {
		return Entry{}, fmt.Errorf("hint: %w", err)
	}
	return Entry{stream: ack.Stream, sequence: ack.Sequence}, nil
}

// full are the server's answers when a stream with discard-new is at its limit, and when the memory store is.
var full = []jetstream.ErrorCode{10077, 10023, 10028}

// Withdraw takes a queued offer back when its client has left. An entry that was taken meanwhile is not an error: the
// worker learns of it when it claims the exchange.
func (c *Conn) Withdraw(ctx context.Context, e Entry) error {
	s, err := c.js.Stream(ctx, e.stream)
	if err == nil {
		err = s.DeleteMsg(ctx, e.sequence)
	}
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return fmt.Errorf("withdraw queued request: %w", err)
	}
	return nil
}

// Queue is a worker's view of a version's queue.
type Queue struct {
	cons jetstream.Consumer
}

// OpenQueue finds the queue of a version; [ErrNoQueue] when there is none.
func (c *Conn) OpenQueue(ctx context.Context, version string) (*Queue, error) {
	cons, err := c.js.Consumer(ctx, subject.QueueStream(version), queueConsumer)
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, ErrNoQueue
	}
	if err != nil {
		return nil, fmt.Errorf("queue of %s: %w", version, err)
	}
	return &Queue{cons: cons}, nil
}

// Work is one queued offer. Done takes it off the queue; Return puts it back for somebody else.
type Work struct {
	Offer []byte
	msg   jetstream.Msg
}

// Done removes the entry: it was claimed, or its client is gone.
func (w Work) Done() error { return w.msg.Ack() }

// Return gives the entry back at once.
func (w Work) Return() error { return w.msg.Nak() }

// Take returns up to n entries that wait now, without waiting for more.
func (q *Queue) Take(n int) ([]Work, error) {
	batch, err := q.cons.FetchNoWait(n)
	if err != nil {
		return nil, fmt.Errorf("take work: %w", err)
	}
	var work []Work
	for m := range batch.Messages() {
		work = append(work, Work{Offer: m.Data(), msg: m})
	}
	if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoMessages) {
		return work, fmt.Errorf("take work: %w", err)
	}
	return work, nil
}

// Depth reports how many entries wait and how many were taken but not finished.
func (c *Conn) Depth(ctx context.Context, version string) (waiting, taken int64, err error) {
	q, err := c.OpenQueue(ctx, version)
	if errors.Is(err, ErrNoQueue) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	info, err := q.cons.Info(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("queue of %s: %w", version, err)
	}
	return int64(info.NumPending), int64(info.NumAckPending), nil
}
