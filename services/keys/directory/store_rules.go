package directory

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

const ruleColumns = `r.id, r.account, r.subject::text, r.subject_id, r.subject_type, r.role_id, r.scope_id, r.scope_type, r.cluster_id,
	r.created_by, r.created_at, r.updated_at, r.deleted_at`

func scanRule(row pgx.CollectableRow) (r rule, err error) {
	err = row.Scan(&r.ID, &r.account, &r.subject, &r.SubjectID, &r.SubjectType, &r.RoleID, &r.ScopeID, &r.ScopeType, &r.ClusterID,
		&r.CreatedBy, &r.CreatedAt, &r.UpdatedAt, &r.DeletedAt)
	r.CreatedAt, r.UpdatedAt, r.DeletedAt = r.CreatedAt.UTC(), r.UpdatedAt.UTC(), utc(r.DeletedAt)
	return r, err
}

// createRule inserts a rule. errTaken tells that the subject has that role in that scope, errGone that it was deleted
// meanwhile.
func (s *Store) createRule(ctx context.Context, r *rule) error {
	err := s.tx(ctx, func(tx pgx.Tx) error {
		if r.subject != nil { // the subject's row is held, so that its deletion finds this rule
			var id string
			err := tx.QueryRow(ctx, `WITH u AS (SELECT id FROM keys.directory_users WHERE id = $1 FOR SHARE),
					a AS (SELECT id FROM keys.directory_applications WHERE id = $1 FOR SHARE)
				SELECT id::text FROM u UNION ALL SELECT id::text FROM a`, *r.subject).Scan(&id)
			if store.IsNotFound(err) {
				return errGone
			}
			if err != nil {
				return err
			}
		}
		return s.insertRule(ctx, tx, r)
	})
	if err != nil {
		return fmt.Errorf("create access rule: %w", err)
	}
	return nil
}

func (s *Store) insertRule(ctx context.Context, tx pgx.Tx, r *rule) error {
	err := tx.QueryRow(ctx, `INSERT INTO keys.directory_rules (account, subject, subject_id, subject_type, role_id, scope_id, scope_type, cluster_id,
			created_by, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10) ON CONFLICT DO NOTHING RETURNING id`,
		r.account, r.subject, r.SubjectID, r.SubjectType, r.RoleID, r.ScopeID, r.ScopeType, r.ClusterID, r.CreatedBy, r.CreatedAt).Scan(&r.ID)
	if store.IsNotFound(err) {
		return errTaken
	}
	if err != nil {
		return err
	}
	return s.recordRule(ctx, tx, contract.RuleCreated, *r)
}

func (s *Store) recordRule(ctx context.Context, tx pgx.Tx, e rpc.Event[contract.Rule], r rule) error {
	return bus.Record(ctx, tx, s.journal, e, bus.Fact{Account: r.account, Entity: strconv.FormatInt(r.ID, 10)}, r.shown())
}

// rules is one page, and how many there are on all pages.
func (s *Store) rules(ctx context.Context, q query) (found []rule, total int, err error) {
	if total, err = s.countRules(ctx, q); err != nil {
		return nil, 0, err
	}
	found, err = list(ctx, s.pool, "list access rules", scanRule,
		`SELECT `+ruleColumns+` FROM keys.directory_rules r`+q.condition()+q.order+q.page, q.args...)
	return found, total, err
}

func (s *Store) countRules(ctx context.Context, q query) (int, error) {
	return count(ctx, s.pool, "count access rules", `SELECT count(*) FROM keys.directory_rules r`+q.condition(), q.args...)
}

// rule by its id, nil when there is none.
func (s *Store) rule(ctx context.Context, id int64) (*rule, error) {
	return one(ctx, s.pool, "read access rule", scanRule, `SELECT `+ruleColumns+` FROM keys.directory_rules r WHERE r.id = $1`, id)
}

// deleteRule marks a rule as deleted and refuses the tokens that carry its scopes: those of its subject, and of the access
// keys that act for it. They may sign in or refresh again at once, and get what is left. errGone tells that there is none.
func (s *Store) deleteRule(ctx context.Context, id int64, now time.Time) error {
	err := s.tx(ctx, func(tx pgx.Tx) error {
		r, err := one(ctx, tx, "mark", scanRule, `UPDATE keys.directory_rules r SET deleted_at = $2, updated_at = $2
			WHERE r.id = $1 AND r.deleted_at IS NULL RETURNING `+ruleColumns, id, now)
		if err != nil {
			return err
		}
		if r == nil {
			return errGone
		}
		if err := s.withdrawFrom(ctx, tx, *r, now); err != nil {
			return err
		}
		return s.recordRule(ctx, tx, contract.RuleDeleted, *r)
	})
	if err != nil {
		return fmt.Errorf("delete access rule: %w", err)
	}
	return nil
}

func (s *Store) withdrawFrom(ctx context.Context, tx pgx.Tx, r rule, now time.Time) error {
	if r.subject == nil {
		return nil
	}
	type holder struct {
		Kind kind
		ID   string
	}
	holders, err := list(ctx, tx, "read holders", pgx.RowToStructByPos[holder], `SELECT 'user', id::text FROM keys.directory_users WHERE id = $1
		UNION ALL SELECT 'app', id::text FROM keys.directory_applications WHERE id = $1 OR owner = $1`, *r.subject)
	if err != nil {
		return err
	}
	for _, h := range holders {
		if err := s.withdraw(ctx, tx, h.Kind, h.ID, now, "access rule deleted"); err != nil {
			return err
		}
	}
	return nil
}

// removeRulesOf marks the rules of a subject that goes; its tokens are refused by whoever removes it.
func (s *Store) removeRulesOf(ctx context.Context, tx pgx.Tx, subject string, now time.Time) error {
	removed, err := list(ctx, tx, "mark access rules", scanRule, `UPDATE keys.directory_rules r SET deleted_at = $2, updated_at = $2
		WHERE r.subject = $1 AND r.deleted_at IS NULL RETURNING `+ruleColumns, subject, now)
	if err != nil {
		return err
	}
	for _, r := range removed {
		if err := s.recordRule(ctx, tx, contract.RuleDeleted, r); err != nil {
			return err
		}
	}
	return nil
}
