package clusterinventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
)

// tx is the transaction that state and its events share.
type tx = pgx.Tx

// store is the service's schema. Locks are taken cluster before node.
type store struct {
	pool *pgxpool.Pool
	tx   func(context.Context, func(tx) error) error
}

func newStore(pool *pgxpool.Pool, inTx func(context.Context, func(tx) error) error) *store {
	return &store{pool: pool, tx: inTx}
}

// insertCluster makes a cluster known; fresh is false when it already was.
func (s *store) insertCluster(ctx context.Context, t tx, c cluster, now time.Time) (fresh bool, err error) {
	tag, err := t.Exec(ctx, `INSERT INTO cluster_inventory.clusters (id, name, account, group_id, region, status, registered_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`, c.ID, c.Name, c.Account, c.GroupID, c.Region, c.Status, now)
	if err != nil {
		return false, fmt.Errorf("register cluster: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

const clusterColumns = `c.id::text, c.group_id::text, c.name, c.account, c.region, c.status, coalesce(s.authorized, '{}'), coalesce(s.attributes, '{}')
	FROM cluster_inventory.clusters c LEFT JOIN cluster_inventory.settings s ON s.cluster = c.name`

// usable is the condition that the account $1 may use the cluster of an owner.
const usable = `(%s IN ($1, '') OR s.authorized && ARRAY[$1, '*'])`

func (s *store) lockCluster(ctx context.Context, t tx, name string) (c cluster, found bool, err error) {
	rows, err := t.Query(ctx, `SELECT `+clusterColumns+` WHERE c.name = $1 FOR UPDATE OF c`, name)
	if err != nil {
		return c, false, fmt.Errorf("lock cluster: %w", err)
	}
	c, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[cluster])
	if errors.Is(err, pgx.ErrNoRows) {
		return c, false, nil
	}
	if err != nil {
		return c, false, fmt.Errorf("lock cluster: %w", err)
	}
	return c, true, nil
}

func (s *store) setCluster(ctx context.Context, t tx, c cluster) error {
	if _, err := t.Exec(ctx, `UPDATE cluster_inventory.clusters SET region = $2, status = $3 WHERE name = $1`, c.Name, c.Region, c.Status); err != nil {
		return fmt.Errorf("update cluster: %w", err)
	}
	return nil
}

// clusters lists what an account may use: its own, those that belong to nobody, and those that authorize it.
func (s *store) clusters(ctx context.Context, account string) ([]cluster, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+clusterColumns+` WHERE `+fmt.Sprintf(usable, "c.account")+` ORDER BY c.name`, account)
	if err != nil {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[cluster])
	if err != nil {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	return all, nil
}

func (s *store) countReady(ctx context.Context, t tx, name string) (ready int, err error) {
	err = t.QueryRow(ctx, `SELECT count(*) FROM cluster_inventory.nodes WHERE cluster = $1 AND state = $2`, name, clusters.NodeReady).Scan(&ready)
	if err != nil {
		return 0, fmt.Errorf("count ready nodes: %w", err)
	}
	return ready, nil
}

const nodeColumns = `c.id::text, c.group_id::text, n.cluster, n.node, n.account, n.epoch, n.seq, n.state, n.want_snapshot, n.seen_at, n.facts, n.devices, n.types,
	coalesce(s.authorized, '{}'), coalesce(s.attributes, '{}')
	FROM cluster_inventory.nodes n JOIN cluster_inventory.clusters c ON c.name = n.cluster LEFT JOIN cluster_inventory.settings s ON s.cluster = n.cluster`

func (s *store) lockNode(ctx context.Context, t tx, name, node string) (record, bool, error) {
	rows, err := t.Query(ctx, `SELECT `+nodeColumns+` WHERE n.cluster = $1 AND n.node = $2 FOR UPDATE OF n`, name, node)
	if err != nil {
		return record{}, false, fmt.Errorf("lock node: %w", err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanNode)
	if errors.Is(err, pgx.ErrNoRows) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, fmt.Errorf("lock node: %w", err)
	}
	return r, true, nil
}

// nodes lists what an account may use; an empty account means every node.
func (s *store) nodes(ctx context.Context, account string) ([]record, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+nodeColumns+` WHERE $1 = '' OR `+fmt.Sprintf(usable, "n.account")+` ORDER BY n.cluster, n.node`, account)
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	all, err := pgx.CollectRows(rows, scanNode)
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	return all, nil
}

func scanNode(row pgx.CollectableRow) (record, error) {
	var r record
	var facts, devices, types []byte
	err := row.Scan(&r.ClusterID, &r.GroupID, &r.Cluster, &r.Node.Node, &r.Account, &r.Epoch, &r.Sequence, &r.State, &r.wantSnapshot, &r.SeenAt, &facts, &devices, &types, &r.Authorized, &r.Attributes)
	if err != nil {
		return r, err
	}
	return r, errors.Join(json.Unmarshal(facts, &r.Facts), json.Unmarshal(devices, &r.Devices), json.Unmarshal(types, &r.Types))
}

func (s *store) putNode(ctx context.Context, t tx, r record) error {
	facts, err1 := json.Marshal(r.Facts)
	devices, err2 := json.Marshal(r.Devices)
	types, err3 := json.Marshal(r.Types)
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("encode node: %w", err)
	}
	_, err := t.Exec(ctx, `INSERT INTO cluster_inventory.nodes (cluster, node, account, epoch, seq, state, want_snapshot, seen_at, facts, devices, types)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
		ON CONFLICT (cluster, node) DO UPDATE SET account = excluded.account, epoch = excluded.epoch, seq = excluded.seq, state = excluded.state,
			want_snapshot = excluded.want_snapshot, seen_at = greatest(excluded.seen_at, nodes.seen_at),
			facts = excluded.facts, devices = excluded.devices, types = excluded.types`,
		r.Cluster, r.Node.Node, r.Account, r.Epoch, r.Sequence, r.State, r.wantSnapshot, r.SeenAt, facts, devices, types)
	if err != nil {
		return fmt.Errorf("store node: %w", err)
	}
	return nil
}

const leaseColumns = `cluster, node, epoch, seq, state, want_snapshot, seen_at FROM cluster_inventory.nodes`

func scanLease(row pgx.CollectableRow) (r record, err error) {
	err = row.Scan(&r.Cluster, &r.Node.Node, &r.Epoch, &r.Sequence, &r.State, &r.wantSnapshot, &r.SeenAt)
	return r, err
}

// lease reads the few columns that a heartbeat needs.
func (s *store) lease(ctx context.Context, key nodeKey) (record, bool, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+leaseColumns+` WHERE cluster = $1 AND node = $2`, key.cluster, key.node)
	if err != nil {
		return record{}, false, fmt.Errorf("read lease: %w", err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanLease)
	if errors.Is(err, pgx.ErrNoRows) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, fmt.Errorf("read lease: %w", err)
	}
	return r, true, nil
}

// leases lists the nodes that can still fall silent.
func (s *store) leases(ctx context.Context) ([]record, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+leaseColumns+` WHERE state NOT IN ($1, $2)`, clusters.NodeLost, clusters.NodeGone)
	if err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}
	all, err := pgx.CollectRows(rows, scanLease)
	if err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}
	return all, nil
}

func (s *store) setSeen(ctx context.Context, key nodeKey, at time.Time) error {
	_, err := s.pool.Exec(ctx, `UPDATE cluster_inventory.nodes SET seen_at = $3 WHERE cluster = $1 AND node = $2 AND seen_at < $3`, key.cluster, key.node, at)
	if err != nil {
		return fmt.Errorf("renew lease: %w", err)
	}
	return nil
}

const imageColumns = `reference, command, directory, created_at`

func (s *store) putImage(ctx context.Context, t tx, name string, img clusters.Image) error {
	_, err := t.Exec(ctx, `INSERT INTO cluster_inventory.images (name, `+imageColumns+`) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (name) DO UPDATE SET reference = excluded.reference, command = excluded.command,
			directory = excluded.directory, created_at = excluded.created_at`, name, img.Reference, img.Command, img.Directory, img.CreatedAt)
	if err != nil {
		return fmt.Errorf("store image: %w", err)
	}
	return nil
}

func (s *store) deleteImage(ctx context.Context, t tx, name string) (clusters.Image, bool, error) {
	rows, err := t.Query(ctx, `DELETE FROM cluster_inventory.images WHERE name = $1 RETURNING `+imageColumns, name)
	return oneImage(rows, err)
}

func (s *store) image(ctx context.Context, name string) (clusters.Image, bool, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+imageColumns+` FROM cluster_inventory.images WHERE name = $1`, name)
	return oneImage(rows, err)
}

func oneImage(rows pgx.Rows, err error) (clusters.Image, bool, error) {
	var img clusters.Image
	if err == nil {
		img, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[clusters.Image])
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return clusters.Image{}, false, nil
	}
	if err != nil {
		return clusters.Image{}, false, fmt.Errorf("image: %w", err)
	}
	return img, true, nil
}

func (s *store) images(ctx context.Context) ([]clusters.Image, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+imageColumns+` FROM cluster_inventory.images ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	images, err := pgx.CollectRows(rows, pgx.RowToStructByPos[clusters.Image])
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return images, nil
}
