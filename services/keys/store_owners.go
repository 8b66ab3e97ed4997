package keys

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

const ownerColumns = `o.owner_type, o.owner_id, o.status, o.status_updated_at`

func scanOwner(row pgx.CollectableRow) (o contract.Owner, err error) {
	err = row.Scan(&o.OwnerType, &o.OwnerID, &o.Status, &o.StatusUpdatedAt)
	o.StatusUpdatedAt = o.StatusUpdatedAt.UTC()
	return o, err
}

// owner by its id, nil when it is unknown.
func (s *Store) owner(ctx context.Context, id string) (*contract.Owner, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+ownerColumns+` FROM keys.owners o WHERE o.owner_type = $1 AND o.owner_id = $2`, ownerUser, id)
	if err != nil {
		return nil, fmt.Errorf("read owner: %w", err)
	}
	return one(rows, scanOwner, "read owner")
}

// moveOwner sets the status of an owner, with an event for the owner and one for each key that stops or works again; nil
// when the owner is unknown. A key that was itself suspended stays so.
func (s *Store) moveOwner(ctx context.Context, id string, status contract.Status, now time.Time) (moved *contract.Owner, err error) {
	err = s.tx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+ownerColumns+` FROM keys.owners o WHERE o.owner_type = $1 AND o.owner_id = $2 FOR UPDATE`, ownerUser, id)
		if err != nil {
			return fmt.Errorf("lock owner: %w", err)
		}
		if moved, err = one(rows, scanOwner, "lock owner"); err != nil || moved == nil || moved.Status == status {
			return err
		}
		var account string
		err = tx.QueryRow(ctx, `UPDATE keys.owners SET status = $3, status_updated_at = $4 WHERE owner_type = $1 AND owner_id = $2 RETURNING account`,
			ownerUser, id, status, now).Scan(&account)
		if err != nil {
			return fmt.Errorf("move owner: %w", err)
		}
		moved.Status, moved.StatusUpdatedAt = status, now
		err = bus.Record(ctx, tx, s.journal, contract.OwnerMoved, bus.Fact{Account: account, Entity: id},
			contract.OwnerStatus{OwnerType: ownerUser, OwnerID: id, Status: status})
		if err != nil {
			return err
		}
		what := announcement{contract.Revoked, reasonOwnerSuspended}
		if status == contract.Active {
			what = announcement{contract.Restored, reasonActivated}
		}
		return s.touch(ctx, tx, what, `version = version + 1`, `k.owner_type = $1 AND k.owner_id = $2 AND k.status = 'ACTIVE' AND k.expires_at > $3`, ownerUser, id, now)
	})
	if err != nil {
		return nil, err
	}
	return moved, nil
}

// suspendKeys suspends the active keys of an owner at one service.
func (s *Store) suspendKeys(ctx context.Context, ownerID, serviceID string, now time.Time) error {
	return s.tx(ctx, func(tx pgx.Tx) error {
		return s.touch(ctx, tx, announcement{contract.Revoked, reasonSuspended}, `status = 'SUSPENDED', version = version + 1, updated_at = $4`,
			`k.owner_type = $1 AND k.owner_id = $2 AND k.service_id = $3 AND k.status = 'ACTIVE' AND k.expires_at > $4`, ownerUser, ownerID, serviceID, now)
	})
}

// touch changes several keys at once, with an event for each.
func (s *Store) touch(ctx context.Context, tx pgx.Tx, what announcement, set, where string, args ...any) error {
	rows, err := tx.Query(ctx, `UPDATE keys.keys k SET `+set+` WHERE `+where+` RETURNING `+columns, args...)
	if err != nil {
		return fmt.Errorf("change keys: %w", err)
	}
	changed, err := pgx.CollectRows(rows, scanRecord)
	if err != nil {
		return fmt.Errorf("change keys: %w", err)
	}
	for _, r := range changed {
		if err := s.announce(ctx, tx, r, what); err != nil {
			return err
		}
	}
	return nil
}

// removeOwned deletes every key of an owner.
func (s *Store) removeOwned(ctx context.Context, ownerID string) (removed []record, err error) {
	err = s.tx(ctx, func(tx pgx.Tx) (err error) {
		removed, err = s.removeAll(ctx, tx, target{`k.owner_type = $1 AND k.owner_id = $2`, []any{ownerUser, ownerID}}, reasonDeleted)
		return err
	})
	return removed, err
}

// activeKeys counts the keys that work, by the name of the issuing service.
func (s *Store) activeKeys(ctx context.Context, now time.Time) (map[string]int, error) {
	rows, err := s.pool.Query(ctx, `SELECT s.name, count(k.id) FROM keys.services s
		LEFT JOIN keys.keys k ON k.service_id = s.id AND k.status = 'ACTIVE' AND k.expires_at > $1 GROUP BY s.name`, now)
	if err != nil {
		return nil, fmt.Errorf("count keys: %w", err)
	}
	type count struct {
		service string
		keys    int
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c count, err error) {
		err = row.Scan(&c.service, &c.keys)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("count keys: %w", err)
	}
	counts := map[string]int{}
	for _, c := range found {
		counts[c.service] = c.keys
	}
	return counts, nil
}
