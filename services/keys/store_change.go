package keys

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// announcement is the event that tells of a change.
type announcement struct {
	event  rpc.Event[contract.Changed]
	reason string
}

// alter changes one key under a lock and records the event that edit names; nil when there is no such key. An error of
// edit leaves everything as it was.
func (s *Store) alter(ctx context.Context, t target, now time.Time, edit func(*record) (announcement, error)) (changed *record, err error) {
	err = s.tx(ctx, func(tx pgx.Tx) error {
		if changed, err = locked(ctx, tx, t); err != nil || changed == nil {
			return err
		}
		what, err := edit(changed)
		if err != nil {
			return err
		}
		return s.save(ctx, tx, changed, now, what)
	})
	if err != nil {
		return nil, err
	}
	return changed, nil
}

func locked(ctx context.Context, tx pgx.Tx, t target) (*record, error) {
	rows, err := tx.Query(ctx, `SELECT `+columns+usedColumns+fromUsed+` WHERE `+t.where+` FOR UPDATE OF k`, t.args...)
	if err != nil {
		return nil, fmt.Errorf("lock key: %w", err)
	}
	return one(rows, scanUsed, "lock key")
}

// save writes everything about a key that can change, as a new version.
func (s *Store) save(ctx context.Context, tx pgx.Tx, r *record, now time.Time, what announcement) error {
	r.version++
	r.updatedAt = now
	status := contract.Active
	if r.suspended {
		status = contract.Suspended
	}
	_, err := tx.Exec(ctx, `UPDATE keys.keys SET version = $2, updated_at = $3, status = $4, description = $5, authorizations = $6,
			authorized_at = $7, expires_at = $8, deletes_at = $9, not_before = $10, rate_limit = $11, allowed_cidrs = $12, superseded = $13
		WHERE id = $1`, r.id, r.version, r.updatedAt, status, r.description, string(r.authorizations), r.authorizedAt, r.expiresAt,
		r.deletesAt, r.notBefore, r.rateLimit, networksOf(r.cidrs), r.superseded)
	if err != nil {
		return fmt.Errorf("change key: %w", err)
	}
	return s.announce(ctx, tx, *r, what)
}

func (s *Store) announce(ctx context.Context, tx pgx.Tx, r record, what announcement) error {
	payload := r.changed(r.version, what.reason)
	if what.event.Type() == contract.Updated.Type() {
		payload.Policies = r.policies()
	}
	return bus.Record(ctx, tx, s.journal, what.event, r.fact(), payload)
}

// rotate lets a new key take over from an old one. edit looks at the old key, changes it and returns the new one with
// the event that tells of the old one.
func (s *Store) rotate(ctx context.Context, tx pgx.Tx, t target, now time.Time, edit func(old *record) (*record, announcement, error),
	draw func(*record) error,
) (*record, error) {
	old, err := locked(ctx, tx, t)
	if err != nil || old == nil {
		return nil, err
	}
	overlapping, err := overlapping(ctx, tx, *old, now)
	switch {
	case err != nil:
		return nil, err
	case overlapping:
		return nil, errOverlap
	}
	made, what, err := edit(old)
	if err != nil {
		return nil, err
	}
	if err := lockOwner(ctx, tx, made); err != nil {
		return nil, err
	}
	if err := s.insert(ctx, tx, made, draw); err != nil {
		return nil, err
	}
	return made, s.save(ctx, tx, old, now, what)
}

// overlapping tells whether a rotation that this key is part of, as the old or as the new key, is not over: otherwise a
// chain of rotations would keep any number of keys alive that no limit counts.
func overlapping(ctx context.Context, tx pgx.Tx, r record, now time.Time) (bool, error) {
	if r.superseded && now.Before(r.expiresAt) {
		return true, nil
	}
	if r.rotatedFrom == "" {
		return false, nil
	}
	var graced bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM keys.keys WHERE id = $1 AND superseded AND expires_at > $2)`, r.rotatedFrom, now).Scan(&graced)
	if err != nil {
		return false, fmt.Errorf("look for the rotated key: %w", err)
	}
	return graced, nil
}

// retire announces the ends of graces, at most limit at once: the event that caches need not wait for, and that the
// audit wants.
func (s *Store) retire(ctx context.Context, now time.Time, limit int) (n int, err error) {
	err = s.tx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `UPDATE keys.keys k SET retired = true, version = version + 1 WHERE id IN
			(SELECT id FROM keys.keys WHERE superseded AND NOT retired AND expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)
			RETURNING `+columns, now, limit)
		if err != nil {
			return fmt.Errorf("retire keys: %w", err)
		}
		ended, err := pgx.CollectRows(rows, scanRecord)
		if err != nil {
			return fmt.Errorf("retire keys: %w", err)
		}
		n = len(ended)
		for _, r := range ended {
			if err := s.announce(ctx, tx, r, announcement{contract.Revoked, reasonRotated}); err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}
