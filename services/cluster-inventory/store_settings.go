package clusterinventory

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	libstore "github.com/sirocco-cloud/sirocco/libs/store"
)

// maxRules bounds an answer with quota rules.
const maxRules = 10_000

func (s *store) clusterByID(ctx context.Context, t tx, id string) (c cluster, found bool, err error) {
	rows, err := t.Query(ctx, `SELECT `+clusterColumns+` WHERE c.id = $1`, id)
	if err == nil {
		c, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[cluster])
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return c, false, nil
	}
	if err != nil {
		return c, false, fmt.Errorf("find cluster: %w", err)
	}
	return c, true, nil
}

func (s *store) configure(ctx context.Context, t tx, c cluster) error {
	_, err := t.Exec(ctx, `INSERT INTO cluster_inventory.settings (cluster, authorized, attributes) VALUES ($1, $2, $3)
		ON CONFLICT (cluster) DO UPDATE SET authorized = excluded.authorized, attributes = excluded.attributes`, c.Name, c.Authorized, c.Attributes)
	if err != nil {
		return fmt.Errorf("store settings: %w", err)
	}
	return nil
}

// ruleColumns are in the order of the fields of a rule.
const ruleColumns = `id::text, account, gpu, clusters, regions, quota, max_instances, reserved, burst, priority`

// rules lists those of an account; an empty one means all.
func (s *store) rules(ctx context.Context, account string) ([]clusters.QuotaRule, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+ruleColumns+` FROM cluster_inventory.quota_rules
		WHERE $1 = '' OR account = $1 ORDER BY gpu, id LIMIT $2`, account, maxRules)
	if err != nil {
		return nil, fmt.Errorf("list quota rules: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[clusters.QuotaRule])
	if err != nil {
		return nil, fmt.Errorf("list quota rules: %w", err)
	}
	return all, nil
}

// putRule stores a rule; stored is false when its id belongs to another account.
func (s *store) putRule(ctx context.Context, t tx, r clusters.QuotaRule) (stored bool, err error) {
	tag, err := t.Exec(ctx, `INSERT INTO cluster_inventory.quota_rules AS q (id, account, gpu, clusters, regions, quota, max_instances, reserved, burst, priority)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (id) DO UPDATE SET gpu = excluded.gpu, clusters = excluded.clusters, regions = excluded.regions, quota = excluded.quota,
			max_instances = excluded.max_instances, reserved = excluded.reserved, burst = excluded.burst, priority = excluded.priority
		WHERE q.account = excluded.account`,
		r.ID, r.NCAID, r.GPU, r.Clusters, r.Regions, r.Limit, r.MaxInstances, r.Reserved, r.Burst, r.Priority)
	if err != nil {
		return false, fmt.Errorf("store quota rule: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

func (s *store) deleteRule(ctx context.Context, t tx, account, id string) (r clusters.QuotaRule, found bool, err error) {
	rows, err := t.Query(ctx, `DELETE FROM cluster_inventory.quota_rules WHERE id = $1 AND account = $2 RETURNING `+ruleColumns, id, account)
	if err == nil {
		r, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[clusters.QuotaRule])
	}
	if libstore.IsNotFound(err) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("delete quota rule: %w", err)
	}
	return r, true, nil
}
