package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	pruneBatch   = 1000
	pruneBatches = 10
)

// Inbox remembers which events the consumers of a schema have applied.
type Inbox struct {
	schema string
	insert string
	prune  string
}

// NewInbox returns the inbox of schema, whose table Migrate has created.
func NewInbox(schema string) *Inbox {
	name := table(schema, "inbox")
	return &Inbox{
		schema: schema,
		insert: `INSERT INTO ` + name + ` (consumer, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`,
		prune: `DELETE FROM ` + name + ` WHERE ctid IN (
			SELECT ctid FROM ` + name + ` WHERE seen_at < clock_timestamp() - $1::interval LIMIT $2 FOR UPDATE SKIP LOCKED)`,
	}
}

// Once notes in tx that consumer applies the event, and tells whether it is the first to do so. When another transaction is
// applying the same event, Once waits for its end: first is true only if that one rolled back.
func (i *Inbox) Once(ctx context.Context, tx pgx.Tx, consumer, eventID string) (first bool, err error) {
	tag, err := tx.Exec(ctx, i.insert, consumer, eventID)
	if err != nil {
		return false, fmt.Errorf("store: inbox of %s: %w", i.schema, err)
	}
	return tag.RowsAffected() == 1, nil
}

// Prune forgets events seen longer ago than olderThan, which must exceed the time for which the broker may deliver an event
// again. One call forgets ten thousand at most, in short transactions, and returns how many.
func (i *Inbox) Prune(ctx context.Context, pool *pgxpool.Pool, olderThan time.Duration) (int64, error) {
	var total int64
	for range pruneBatches {
		tag, err := pool.Exec(ctx, i.prune, olderThan, pruneBatch)
		if err != nil {
			return total, fmt.Errorf("store: prune inbox of %s: %w", i.schema, err)
		}
		total += tag.RowsAffected()
		if tag.RowsAffected() < pruneBatch {
			break
		}
	}
	return total, nil
}
