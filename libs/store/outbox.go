package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Message is what the relay hands to the broker.
type Message struct {
	Subject string
	// ID is the same for every delivery of the message; the broker and the consumers' inboxes drop repetitions by it.
	ID      string
	Headers map[string]string
	Payload []byte
}

// Outbox takes the messages that a schema's transactions produce. The relay of the schema publishes them after the commit.
type Outbox struct {
	schema string
	insert string
	wake   chan struct{}
}

// NewOutbox returns the outbox of schema, whose table Migrate has created. Writers and the relay of one process share one
// Outbox, so that a commit is published at once and not at the relay's next look.
func NewOutbox(schema string) *Outbox {
	return &Outbox{
		schema: schema,
		insert: `INSERT INTO ` + table(schema, "outbox") + ` (subject, msg_id, headers, payload)
			SELECT subject, msg_id, headers, payload
			FROM unnest($1::text[], $2::text[], $3::jsonb[], $4::bytea[]) WITH ORDINALITY AS m (subject, msg_id, headers, payload, position)
			ORDER BY position`,
		wake: make(chan struct{}, 1),
	}
}

// Enqueue stores messages in tx; they are published, in this order, if and only if tx commits. Messages about one entity
// leave in the order of its changes when the transaction has written or locked the entity's row before it enqueues: then the
// next writer of the entity draws its number later.
func (o *Outbox) Enqueue(ctx context.Context, tx pgx.Tx, messages ...Message) error {
	if len(messages) == 0 {
		return nil
	}
	subjects := make([]string, len(messages))
	ids := make([]string, len(messages))
	headers := make([]map[string]string, len(messages))
	payloads := make([][]byte, len(messages))
	for i, m := range messages {
		if m.Subject == "" || m.ID == "" {
			return errors.New("store: enqueue: a message needs a subject and an id")
		}
		subjects[i], ids[i], headers[i], payloads[i] = m.Subject, m.ID, m.Headers, m.Payload
		if m.Headers == nil {
			headers[i] = map[string]string{}
		}
		if m.Payload == nil {
			payloads[i] = []byte{}
		}
	}
	if _, err := tx.Exec(ctx, o.insert, subjects, ids, headers, payloads); err != nil {
		return fmt.Errorf("store: enqueue into %s: %w", o.schema, err)
	}
	return nil
}

// Wake tells the relay of this process that a transaction has committed messages. InTx does so for the outboxes it is given.
func (o *Outbox) Wake() {
	select {
	case o.wake <- struct{}{}:
	default: // a wake-up that is still pending covers this one
	}
}
