package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// headerContentType marks event payloads as CloudEvents.
const headerContentType = "Content-Type"

// PublishBatch stores messages in JetStream and returns how many of the first ones were acknowledged. The message id
// makes a repeated publish harmless. It is the publisher of every outbox.
//
// Messages about one entity, and orders to one node, are stored in the order of the batch, come what may: each is sent
// only after the one before it was acknowledged. Others travel side by side.
func (c *Conn) PublishBatch(ctx context.Context, batch []store.Message) (int, error) {
	stored := make([]bool, len(batch))
	var failed error
	for _, wave := range waves(batch) {
		if failed = c.publishWave(ctx, batch, wave, stored); failed != nil {
			break
		}
	}
	if errors.Is(failed, jetstream.ErrNoStreamResponse) && c.Check(ctx) == nil {
		failed = errors.Join(failed, c.restore(ctx)) // the next try finds the streams
	}
	n := 0
	for n < len(batch) && stored[n] {
		n++
	}
	return n, failed
}

// waves cuts a batch into lists of indexes so that no two messages with one key are in the same list, and that those
// with one key keep their order over the lists.
func waves(batch []store.Message) [][]int {
	var out [][]int
	seen := map[string]int{}
	for i, m := range batch {
		key := m.Subject[:max(strings.LastIndexByte(m.Subject, '.'), 0)]
		n := seen[key]
		seen[key]++
		if n == len(out) {
			out = append(out, nil)
		}
		out[n] = append(out[n], i)
	}
	return out
}

func (c *Conn) publishWave(ctx context.Context, batch []store.Message, wave []int, stored []bool) error {
	acks := make([]jetstream.PubAckFuture, 0, len(wave))
	var failed error
	for _, i := range wave {
		m := batch[i]
		msg := nats.NewMsg(m.Subject)
		msg.Data = m.Payload
		for k, v := range m.Headers {
			msg.Header[k] = []string{v}
		}
		ack, err := c.js.PublishMsgAsync(msg, jetstream.WithMsgID(m.ID))
		if err != nil {
			failed = fmt.Errorf("publish %s: %w", m.Subject, err)
			break
		}
		acks = append(acks, ack)
	}
	for n, ack := range acks {
		select {
		case <-ack.Ok():
			stored[wave[n]] = true
		case err := <-ack.Err():
			failed = fmt.Errorf("publish %s: %w", ack.Msg().Subject, err)
		case <-ctx.Done():
			return fmt.Errorf("publish %s: %w", ack.Msg().Subject, ctx.Err())
		}
	}
	return failed
}

// Journal writes the events and commands of one service into its outbox, in the transaction that changes the state
// they tell of.
type Journal struct {
	source string
	outbox *store.Outbox
	now    func() time.Time
}

// NewJournal makes the journal of a service.
func NewJournal(service string, outbox *store.Outbox, now func() time.Time) *Journal {
	return &Journal{source: "/" + service, outbox: outbox, now: now}
}

// Fact is everything about an event but its payload.
type Fact struct {
	Account string
	// Entity is the id of what the event is about.
	Entity string
	Refs   event.Refs
	// Actor defaults to the caller of the context, else to the service itself.
	Actor event.Actor
	// CorrelationID defaults to the deployment or function in Refs.
	CorrelationID string
	CausationID   string
}

// Record adds one event to the journal.
func Record[P any](ctx context.Context, tx pgx.Tx, j *Journal, e rpc.Event[P], f Fact, payload P) error {
	env, err := envelope(ctx, j.source, j.now(), e.Type(), e.Entity, f, payload)
	if err != nil {
		return err
	}
	m, err := eventMessage(e.Subject(f.Account, f.Entity), env)
	if err != nil {
		return err
	}
	return j.outbox.Enqueue(ctx, tx, m)
}

// Order adds one command to the journal; id makes its execution idempotent.
func Order[O any](ctx context.Context, tx pgx.Tx, j *Journal, cmd rpc.Command[O], cluster, node, id string, order O) error {
	b, err := json.Marshal(order)
	if err != nil {
		return fmt.Errorf("encode %s: %w", cmd.Verb, err)
	}
	return j.outbox.Enqueue(ctx, tx, store.Message{Subject: cmd.Subject(cluster, node), ID: id, Payload: b})
}

// Announce publishes an event straight to its stream and waits until it is stored. It is for publishers without a
// database: the agents. The id makes a repeated announcement harmless.
func Announce[P any](ctx context.Context, c *Conn, source, id string, e rpc.Event[P], f Fact, payload P) error {
	env, err := envelope(ctx, "/"+source, time.Now(), e.Type(), e.Entity, f, payload)
	if err != nil {
		return err
	}
	env.ID = id
	m, err := eventMessage(e.Subject(f.Account, f.Entity), env)
	if err != nil {
		return err
	}
	_, err = c.PublishBatch(ctx, []store.Message{m})
	return err
}

func envelope(ctx context.Context, source string, now time.Time, typ, entityType string, f Fact, payload any) (event.Envelope, error) {
	data, err := json.Marshal(payload)
	if err != nil {
		return event.Envelope{}, fmt.Errorf("encode %s: %w", typ, err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return event.Envelope{}, fmt.Errorf("event id: %w", err)
	}
	caller := access.CallerFrom(ctx)
	if f.Actor == (event.Actor{}) {
		f.Actor = event.Actor{Type: "service", ID: source[1:]}
		if caller.Kind != "" {
			f.Actor = caller.Actor()
		}
	}
	if f.CorrelationID == "" {
		f.CorrelationID = first(f.Refs.DeploymentID, f.Refs.FunctionID)
	}
	return event.Envelope{
		SpecVersion: event.SpecVersion, ID: id.String(), Source: source, Type: typ, Subject: entityType + "/" + f.Entity,
		Time: now.UTC(), DataType: "application/json", Account: f.Account, Actor: f.Actor, RequestID: caller.RequestID,
		CorrelationID: f.CorrelationID, CausationID: f.CausationID, TraceParent: TraceParent(ctx), Refs: f.Refs, Data: data,
	}, nil
}

func eventMessage(subject string, env event.Envelope) (store.Message, error) {
	b, err := json.Marshal(env)
	if err != nil {
		return store.Message{}, fmt.Errorf("encode %s: %w", env.Type, err)
	}
	if len(b) > MaxPayload-(64<<10) {
		return store.Message{}, errors.New("event " + env.Type + " is too large")
	}
	return store.Message{Subject: subject, ID: env.ID, Headers: map[string]string{headerContentType: event.ContentType}, Payload: b}, nil
}

func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}
