package directory

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// failureLimit bounds the marks of failures; the oldest make room.
	failureLimit = 100_000
	// tidyBatch bounds the rows that one statement of the housekeeping deletes.
	tidyBatch = 500
)

// tidy forgets what time has settled, a batch at most; more tells that there may be more.
func (s *Store) tidy(ctx context.Context, now time.Time) (more bool, err error) {
	err = s.tx(ctx, func(tx pgx.Tx) error {
		more = false
		for _, sql := range []string{
			`DELETE FROM keys.directory_refresh WHERE digest IN (SELECT digest FROM keys.directory_refresh WHERE expires_at <= $1 LIMIT $2)`,
			`DELETE FROM keys.directory_rules WHERE id IN (SELECT id FROM keys.directory_rules WHERE deleted_at <= $1::timestamptz - interval '30 days' LIMIT $2)`,
		} {
			tag, err := tx.Exec(ctx, sql, now, tidyBatch)
			if err != nil {
				return err
			}
			more = more || tag.RowsAffected() == tidyBatch
		}
		n, err := s.tidyFailures(ctx, tx, now)
		more = more || n == tidyBatch
		return err
	})
	if err != nil {
		return false, fmt.Errorf("tidy the directory: %w", err)
	}
	return more, nil
}

// tidyFailures forgets failures that no longer count, and the oldest beyond the bound, and tells of them: one event for
// each subject, one for all names of nobody.
func (s *Store) tidyFailures(ctx context.Context, tx pgx.Tx, now time.Time) (int, error) {
	all, err := list(ctx, tx, "forget failures", pgx.RowToStructByPos[failed], `DELETE FROM keys.directory_failures WHERE name IN (
			(SELECT name FROM keys.directory_failures WHERE greatest(last_at, coalesce(blocked_until, last_at)) <= $1 ORDER BY last_at LIMIT $2)
			UNION ALL (SELECT name FROM keys.directory_failures ORDER BY last_at DESC OFFSET $3 LIMIT $2))
		RETURNING subject::text, subject_type, failures - told`, now.Add(-failureWindow), tidyBatch, failureLimit)
	if err != nil {
		return 0, err
	}
	nobody := map[kind]int{}
	for _, f := range all {
		switch {
		case f.Count <= 0:
		case f.Subject == nil:
			nobody[f.Kind] += f.Count
		default:
			if err := s.tellFailures(ctx, tx, f, ""); err != nil {
				return 0, err
			}
		}
	}
	for _, k := range []kind{person, program} {
		if nobody[k] > 0 {
			if err := s.tellFailures(ctx, tx, failed{Kind: k, Count: nobody[k]}, ""); err != nil {
				return 0, err
			}
		}
	}
	return len(all), nil
}
