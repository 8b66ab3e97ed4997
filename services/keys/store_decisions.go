package keys

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
)

// keepDecision adds a decision to the record. What cannot be stored in a text column comes from a request of a client
// and is dropped from the columns; the document keeps it.
func (s *Store) keepDecision(ctx context.Context, tx pgx.Tx, eventID string, d access.Decision) error {
	document, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("keep decision: %w", err)
	}
	_, err = tx.Exec(ctx, `INSERT INTO keys.decisions (event_id, at, key_id, owner_id, decision, document) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (event_id) DO NOTHING`,
		eventID, d.At, column(d.Credential.KeyID), column(d.Credential.OwnerID), column(d.Decision), string(document))
	if err != nil {
		return fmt.Errorf("keep decision: %w", err)
	}
	return nil
}

// column is a text without what a text column refuses.
func column(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, ""), "\x00", "")
}

// keepUse notes the use of a key that exists, once per useInterval.
func (s *Store) keepUse(ctx context.Context, tx pgx.Tx, d access.Decision) error {
	_, err := tx.Exec(ctx, `INSERT INTO keys.uses AS u (key_id, at, address, service) SELECT k.id, $2, $3, $4 FROM keys.keys k WHERE k.id = $1
		ON CONFLICT (key_id) DO UPDATE SET at = $2, address = $3, service = $4 WHERE u.at <= $5`,
		d.Credential.KeyID, d.At.UTC().Truncate(time.Millisecond), column(d.ClientIP), column(d.Service), d.At.Add(-useInterval))
	if err != nil {
		return fmt.Errorf("keep use: %w", err)
	}
	return nil
}

// decisionQuery restricts decisions; empty texts do not. before and beforeID continue a list.
type decisionQuery struct {
	keyID, ownerID, decision string
	since, until, before     time.Time
	beforeID                 int64
}

// foundDecision is a decision with its place in the list.
type foundDecision struct {
	id       int64
	at       time.Time
	decision contract.RecordedDecision
}

// decisions returns at most limit decisions, the newest first.
func (s *Store) decisions(ctx context.Context, q decisionQuery, limit int) ([]foundDecision, error) {
	where, args := []string{`at >= $1`, `at < $2`}, []any{q.since, q.until}
	add := func(clause string, values ...any) {
		for _, v := range values {
			args = append(args, v)
			clause = strings.Replace(clause, "?", fmt.Sprintf("$%d", len(args)), 1)
		}
		where = append(where, clause)
	}
	for _, restriction := range []struct{ column, value string }{{"key_id", q.keyID}, {"owner_id", q.ownerID}, {"decision", q.decision}} {
		if restriction.value != "" {
			add(restriction.column+` = ?`, restriction.value)
		}
	}
	if !q.before.IsZero() {
		add(`(at, id) < (?, ?)`, q.before, q.beforeID)
	}
	args = append(args, limit)
	rows, err := s.pool.Query(ctx, `SELECT id, at, event_id, document FROM keys.decisions WHERE `+strings.Join(where, " AND ")+
		fmt.Sprintf(` ORDER BY at DESC, id DESC LIMIT $%d`, len(args)), args...)
	if err != nil {
		return nil, fmt.Errorf("read decisions: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f foundDecision, err error) {
		var document []byte
		if err := row.Scan(&f.id, &f.at, &f.decision.EventID, &document); err != nil {
			return f, err
		}
		f.at = f.at.UTC()
		err = json.Unmarshal(document, &f.decision.Decision)
		f.decision.At = f.decision.At.UTC().Truncate(time.Millisecond)
		return f, err
	})
	if err != nil {
		return nil, fmt.Errorf("read decisions: %w", err)
	}
	return found, nil
}

// forgetDecisions deletes at most limit decisions from before a moment, or beyond the newest most ones.
func (s *Store) forgetDecisions(ctx context.Context, before time.Time, most int64, limit int) (int, error) {
	tag, err := s.pool.Exec(ctx, `DELETE FROM keys.decisions WHERE id IN (SELECT id FROM keys.decisions
		WHERE at < $1 OR id <= (SELECT coalesce(max(id), 0) FROM keys.decisions) - $2 ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED)`, before, most, limit)
	if err != nil {
		return 0, fmt.Errorf("forget decisions: %w", err)
	}
	return int(tag.RowsAffected()), nil
}
