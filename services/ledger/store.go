package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sirocco-cloud/sirocco/contracts/audit"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/subject"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// store is the record in Postgres.
type store struct{ pool *pgxpool.Pool }

func newStore(pool *pgxpool.Pool) *store { return &store{pool: pool} }

// channel is what the database notifies when records were committed.
const channel = "sirocco_ledger"

// append adds one event of a domain to the record.
func (s *store) append(domain string) func(context.Context, pgx.Tx, bus.Raw) error {
	return func(ctx context.Context, tx pgx.Tx, raw bus.Raw) error {
		env := raw.Envelope
		account := indexable(env.Account)
		var known bool
		var sequence int64
		prev := genesis
		look := &pgx.Batch{}
		look.Queue(`UPDATE ledger.pen SET sequence = sequence + 1 RETURNING sequence`).
			QueryRow(func(row pgx.Row) error { return row.Scan(&sequence) })
		look.Queue(`SELECT EXISTS (SELECT FROM ledger.events WHERE event_id = $1)`, env.ID).
			QueryRow(func(row pgx.Row) error { return row.Scan(&known) })
		look.Queue(`SELECT hash FROM ledger.chains WHERE account = $1`, account).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				if err := rows.Scan(&prev); err != nil {
					return err
				}
			}
			return rows.Err()
		})
		if err := tx.SendBatch(ctx, look).Close(); err != nil {
			return fmt.Errorf("append event: %w", err)
		}
		if known {
			return nil // the unused sequence stays a gap, which means nothing
		}
		hash, err := link(prev, raw.JSON)
		if err != nil {
			return problem.New(problem.BadRequest, "event %s: %v", env.ID, err)
		}
		write := &pgx.Batch{}
		write.Queue(`INSERT INTO ledger.events (sequence, event_id, subject, time, account, domain, type, actor, refs, envelope, prev_hash, hash)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
			sequence, env.ID, raw.Subject, env.Time, account, domain, indexable(env.Type), indexable(env.Actor.Type+"/"+env.Actor.ID),
			refs(raw), raw.JSON, prev, hash)
		write.Queue(`INSERT INTO ledger.chains (account, sequence, hash) VALUES ($1, $2, $3)
			ON CONFLICT (account) DO UPDATE SET sequence = excluded.sequence, hash = excluded.hash`, account, sequence, hash)
		write.Queue(`SELECT pg_notify($1, '')`, channel)
		if err := tx.SendBatch(ctx, write).Close(); err != nil {
			return fmt.Errorf("append event: %w", err)
		}
		return nil
	}
}

// refs are all ids that the event can be found by: those it names, and the entity of its subject.
func refs(raw bus.Raw) []string {
	ids := raw.Envelope.All()
	if _, _, entity, _, ok := subject.ParseEvent(raw.Subject); ok && entity != "" {
		ids = append(ids, entity)
	}
	for i, id := range ids {
		ids[i] = indexable(id)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if ids == nil {
		return []string{}
	}
	return ids
}

// maxIndexed keeps a text below what an index entry can hold.
const maxIndexed = 512

// indexable is s as an indexed column can hold it: without zero bytes and not too long. The envelope keeps the original.
func indexable(s string) string {
	s = strings.ReplaceAll(s, "\x00", "\uFFFD")
	if len(s) <= maxIndexed {
		return s
	}
	s = s[:maxIndexed]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}

// query says which records to read.
type query struct {
	since, until time.Time // zero: open
	entity       string
	domain       string
	after        int64
	// own limits the answer to one account and the platform; empty for all accounts.
	own   string
	limit int
}

// pageBytes bounds the envelopes of one page; a page has one record at least.
const pageBytes = 4 << 20

// page reads records in order; more says that there are others behind it.
func (s *store) page(ctx context.Context, q query) (records []audit.Record, more bool, err error) {
	where, args := []string{"sequence > $1"}, []any{q.after}
	add := func(condition string, arg any) {
		args = append(args, arg)
		where = append(where, fmt.Sprintf(condition, len(args)))
	}
	if !q.since.IsZero() {
		add("time >= $%d", q.since)
	}
	if !q.until.IsZero() {
		add("time < $%d", q.until)
	}
	if q.entity != "" {
		add("refs @> ARRAY[$%d::text]", indexable(q.entity))
	}
	if q.domain != "" {
		add("domain = $%d", q.domain)
	}
	if q.own != "" {
		add("account IN ($%d, '')", indexable(q.own))
	}
	rows, err := s.pool.Query(ctx, `SELECT sequence, subject, stored_at, prev_hash, hash, envelope FROM ledger.events WHERE `+
		strings.Join(where, " AND ")+fmt.Sprintf(` ORDER BY sequence LIMIT %d`, q.limit+1), args...)
	if err != nil {
		return nil, false, fmt.Errorf("read events: %w", err)
	}
	defer rows.Close()
	size := 0
	for rows.Next() {
		var r audit.Record
		var envelope []byte
		if err := rows.Scan(&r.Sequence, &r.Subject, &r.StoredAt, &r.PrevHash, &r.Hash, &envelope); err != nil {
			return nil, false, fmt.Errorf("read events: %w", err)
		}
		if size += len(envelope); len(records) > 0 && (len(records) == q.limit || size > pageBytes) {
			return records, true, nil
		}
		if err := json.Unmarshal(envelope, &r.Event); err != nil {
			return nil, false, fmt.Errorf("read event %d: %w", r.Sequence, err)
		}
		r.StoredAt = r.StoredAt.UTC()
		records = append(records, r)
	}
	if err := rows.Err(); err != nil {
		return nil, false, fmt.Errorf("read events: %w", err)
	}
	return records, false, nil
}

// verify walks the chains of one account and the platform, or of all accounts when own is empty, as they are at one
// moment. It holds one record in memory, and one hash per account.
func (s *store) verify(ctx context.Context, own string) (audit.VerifyResponse, error) {
	var answer audit.VerifyResponse
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		heads, err := walk(ctx, tx, own, &answer)
		if err != nil || answer.FirstBad != 0 {
			return err
		}
		return compareHeads(ctx, tx, own, heads, &answer)
	})
	if err != nil {
		return audit.VerifyResponse{}, fmt.Errorf("verify chains: %w", err)
	}
	answer.Intact = answer.FirstBad == 0
	return answer, nil
}

// walk recomputes every hash and returns the last one per account.
func walk(ctx context.Context, tx pgx.Tx, own string, answer *audit.VerifyResponse) (heads map[string]string, err error) {
	rows, err := tx.Query(ctx, `SELECT sequence, event_id, account, envelope, prev_hash, hash FROM ledger.events
		WHERE $1 = '' OR account IN ($1, '') ORDER BY sequence`, indexable(own))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	heads = map[string]string{}
	for rows.Next() {
		var sequence int64
		var id, account, prev, hash string
		var envelope []byte
		if err := rows.Scan(&sequence, &id, &account, &envelope, &prev, &hash); err != nil {
			return nil, err
		}
		answer.Checked++
		head, known := heads[account]
		if !known {
			head = genesis
		}
		var env event.Envelope
		want, err := link(prev, envelope)
		if err != nil || prev != head || hash != want || json.Unmarshal(envelope, &env) != nil || env.ID != id || indexable(env.Account) != account {
			answer.FirstBad = sequence
			return heads, nil
		}
		heads[account] = hash
	}
	return heads, rows.Err()
}

// compareHeads finds a chain whose newest records are missing: what is left of it is sound in itself.
func compareHeads(ctx context.Context, tx pgx.Tx, own string, heads map[string]string, answer *audit.VerifyResponse) error {
	rows, err := tx.Query(ctx, `SELECT account, sequence, hash FROM ledger.chains
		WHERE $1 = '' OR account IN ($1, '') ORDER BY sequence`, indexable(own))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var account, hash string
		var sequence int64
		if err := rows.Scan(&account, &sequence, &hash); err != nil {
			return err
		}
		if heads[account] != hash && answer.FirstBad == 0 {
			answer.FirstBad = sequence
		}
		delete(heads, account)
	}
	return rows.Err()
}

// settle is how long listen waits after a notification, so that a burst of events wakes readers a few times and not
// once per event.
const settle = 10 * time.Millisecond

// listen calls ring when records were committed, by any replica. It has a connection of its own, because it keeps it.
func (s *store) listen(ctx context.Context, ring func()) error {
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, `LISTEN `+channel); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	for {
		ring() // first of all for what was committed before LISTEN took hold
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		pause := time.NewTimer(settle)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}
