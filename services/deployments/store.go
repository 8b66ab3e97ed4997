package deployments

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	libstore "github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/services/deployments/placement"
)

// tx is the transaction that state and its events share.
type tx = pgx.Tx

// store is the service's schema. The row of a deployment is the lock of everything that hangs on it.
type store struct {
	pool *pgxpool.Pool
	tx   func(context.Context, func(tx) error) error
	// answers are those of deploy calls that may come twice.
	answers *libstore.Idempotency
}

func newStore(pool *pgxpool.Pool, inTx func(context.Context, func(tx) error) error) *store {
	return &store{pool: pool, tx: inTx, answers: libstore.NewIdempotency(schema)}
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

const deploymentColumns = `id::text, account, function_id::text, version_id::text, function_name, status, reason,
	reported_status, reported_code, teardown, queue_ready, grace, health, starting_at, created_at, updated_at FROM deployments.deployments`

func scanDeployment(row pgx.CollectableRow) (*deployment, error) {
	var d deployment
	var reason []byte
	err := row.Scan(&d.ID, &d.Account, &d.FunctionID, &d.VersionID, &d.FunctionName, &d.Status, &reason,
		&d.ReportedStatus, &d.ReportedCode, &d.Teardown, &d.QueueReady, &d.Grace, &d.Health, &d.StartingAt, &d.CreatedAt, &d.UpdatedAt)
	if err == nil {
		err = json.Unmarshal(reason, &d.Reason)
	}
	return &d, err
}

// find returns nil when where matches nothing; where starts with WHERE or is empty.
func (s *store) find(ctx context.Context, q querier, where string, args ...any) (*deployment, error) {
	all, err := s.list(ctx, q, where, args...)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return all[0], nil
}

// list loads deployments with everything that hangs on them.
func (s *store) list(ctx context.Context, q querier, where string, args ...any) ([]*deployment, error) {
	rows, err := q.Query(ctx, `SELECT `+deploymentColumns+` `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("load deployments: %w", err)
	}
	all, err := pgx.CollectRows(rows, scanDeployment)
	if err != nil {
		return nil, fmt.Errorf("load deployments: %w", err)
	}
	byID := map[string]*deployment{}
	ids := make([]string, len(all))
	for i, d := range all {
		ids[i], byID[d.ID] = d.ID, d
	}
	if len(ids) == 0 {
		return nil, nil
	}
	if err := s.loadSpecs(ctx, q, ids, byID); err != nil {
		return nil, err
	}
	return all, s.loadInstances(ctx, q, ids, byID)
}

func (s *store) loadSpecs(ctx context.Context, q querier, ids []string, byID map[string]*deployment) error {
	rows, err := q.Query(ctx, `SELECT deployment_id::text, position, body, wanted, proven, raised_until, ran, unplaced, unplaced_code, gpus, asked_at
		FROM deployments.specifications WHERE deployment_id = ANY($1::uuid[]) ORDER BY deployment_id, position`, ids)
	if err != nil {
		return fmt.Errorf("load specifications: %w", err)
	}
	owned, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o ownedSpec, err error) {
		var body []byte
		err = row.Scan(&o.owner, &o.Position, &body, &o.Wanted, &o.Proven, &o.RaisedUntil, &o.Ran, &o.Unplaced, &o.UnplacedCode, &o.GPUs, &o.AskedAt)
		if err == nil {
			err = json.Unmarshal(body, &o.Specification)
		}
		return o, err
	})
	if err != nil {
		return fmt.Errorf("load specifications: %w", err)
	}
	for n := range owned {
		d := byID[owned[n].owner]
		d.Specs = append(d.Specs, &owned[n].specification)
	}
	return nil
}

// ownedSpec is a specification with the id of its deployment.
type ownedSpec struct {
	specification

	owner string
}

const instanceColumns = `id::text, deployment_id::text, specification_id::text, cluster, node, region, gpu, instance_type, devices,
	state, phase, cause, message, logs, sequence, created_at, updated_at, state_at, deadline, ready_at, ended_at, stop_cause, stop_drain, stop_at, rolling, idle_since, stop_if_idle`

func (s *store) loadInstances(ctx context.Context, q querier, ids []string, byID map[string]*deployment) error {
	rows, err := q.Query(ctx, `SELECT `+instanceColumns+` FROM deployments.instances
		WHERE deployment_id = ANY($1::uuid[]) ORDER BY created_at, id`, ids)
	if err != nil {
		return fmt.Errorf("load instances: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[instance])
	if err != nil {
		return fmt.Errorf("load instances: %w", err)
	}
	for _, i := range all {
		byID[i.DeploymentID].Instances = append(byID[i.DeploymentID].Instances, i)
	}
	return nil
}

// lock loads a deployment and holds it until the transaction ends; nil when it is gone.
func (s *store) lock(ctx context.Context, t tx, id string) (*deployment, error) {
	if _, err := t.Exec(ctx, `SELECT 1 FROM deployments.deployments WHERE id = $1 FOR UPDATE`, id); err != nil {
		return nil, fmt.Errorf("lock deployment: %w", err)
	}
	return s.find(ctx, t, `WHERE id = $1`, id)
}

// ids lists the deployments, oldest first: who waits longest is served first.
func (s *store) ids(ctx context.Context) ([]string, error) {
	rows, err := s.pool.Query(ctx, `SELECT id::text FROM deployments.deployments ORDER BY created_at, id`)
	if err != nil {
		return nil, fmt.Errorf("list deployments: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list deployments: %w", err)
	}
	return ids, nil
}

// accounts says whose deployments are.
func (s *store) accounts(ctx context.Context, ids []string) (map[string]string, error) {
	rows, err := s.pool.Query(ctx, `SELECT id::text, account FROM deployments.deployments WHERE id = ANY($1::uuid[])`, ids)
	if err != nil {
		return nil, fmt.Errorf("find accounts: %w", err)
	}
	pairs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ ID, Account string }])
	if err != nil {
		return nil, fmt.Errorf("find accounts: %w", err)
	}
	out := make(map[string]string, len(pairs))
	for _, p := range pairs {
		out[p.ID] = p.Account
	}
	return out, nil
}

// idOf finds the deployment of a version, or of an instance; empty when there is none.
func (s *store) idOf(ctx context.Context, t tx, table, column, value string) (id string, err error) {
	key := map[string]string{"deployments": "id", "instances": "deployment_id"}[table]
	err = t.QueryRow(ctx, `SELECT `+key+`::text FROM deployments.`+table+` WHERE `+column+` = $1`, value).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find deployment: %w", err)
	}
	return id, nil
}

// insert stores a new deployment; taken is true when the version has one already.
func (s *store) insert(ctx context.Context, t tx, d *deployment) (taken bool, err error) {
	reason, err := json.Marshal(d.Reason)
	if err != nil {
		return false, fmt.Errorf("encode reason: %w", err)
	}
	tag, err := t.Exec(ctx, `INSERT INTO deployments.deployments (id, account, function_id, version_id, function_name, status, reason,
			reported_status, reported_code, teardown, queue_ready, starting_at, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, '', '', '', false, $8, $8, $8) ON CONFLICT (version_id) DO NOTHING`,
		d.ID, d.Account, d.FunctionID, d.VersionID, d.FunctionName, d.Status, reason, d.CreatedAt)
	if err != nil {
		return false, fmt.Errorf("store deployment: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return true, nil
	}
	for _, spec := range d.Specs {
		body, err := json.Marshal(spec.Specification)
		if err != nil {
			return false, fmt.Errorf("encode specification: %w", err)
		}
		_, err = t.Exec(ctx, `INSERT INTO deployments.specifications (id, deployment_id, position, body, wanted, proven, raised_until, ran, unplaced, unplaced_code, gpus)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`, spec.ID, d.ID, spec.Position, body, spec.Wanted, spec.Proven, d.CreatedAt, false, "", "", spec.GPUs)
		if err != nil {
			return false, fmt.Errorf("store specification: %w", err)
		}
	}
	return false, nil
}

// put stores the deployment's own row and its specifications.
func (s *store) put(ctx context.Context, t tx, d *deployment) error {
	reason, err := json.Marshal(d.Reason)
	if err != nil {
		return fmt.Errorf("encode reason: %w", err)
	}
	_, err = t.Exec(ctx, `UPDATE deployments.deployments SET status = $2, reason = $3, teardown = $4, grace = $5, health = $6, starting_at = $7, updated_at = $8 WHERE id = $1`,
		d.ID, d.Status, reason, d.Teardown, d.Grace, d.Health, d.StartingAt, d.UpdatedAt)
	if err != nil {
		return fmt.Errorf("store deployment: %w", err)
	}
	for _, spec := range d.Specs {
		body, err := json.Marshal(spec.Specification)
		if err != nil {
			return fmt.Errorf("encode specification: %w", err)
		}
		_, err = t.Exec(ctx, `UPDATE deployments.specifications
			SET body = $2, wanted = $3, proven = $4, raised_until = $5, ran = $6, unplaced = $7, unplaced_code = $8, asked_at = $9 WHERE id = $1`,
			spec.ID, body, spec.Wanted, spec.Proven, spec.RaisedUntil, spec.Ran, spec.Unplaced, spec.UnplacedCode, spec.AskedAt)
		if err != nil {
			return fmt.Errorf("store specification: %w", err)
		}
	}
	return nil
}

func (s *store) remove(ctx context.Context, t tx, id string) error {
	if _, err := t.Exec(ctx, `DELETE FROM deployments.deployments WHERE id = $1`, id); err != nil {
		return fmt.Errorf("remove deployment: %w", err)
	}
	return nil
}

// errHeld says that another live instance holds one of the devices: the choice was made on old facts.
var errHeld = errors.New("a device is held by another instance")

// insertInstance stores a placed instance and reserves its devices.
func (s *store) insertInstance(ctx context.Context, t tx, i *instance) error {
	_, err := t.Exec(ctx, `INSERT INTO deployments.instances (id, deployment_id, specification_id, cluster, node, region, gpu, instance_type, devices,
			state, phase, cause, message, logs, sequence, created_at, updated_at, state_at, deadline, stop_cause, stop_drain)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, '', '', '{}', 0, $12, $12, $12, $13, '', 0)`,
		i.ID, i.DeploymentID, i.SpecID, i.Cluster, i.Node, i.Region, i.GPU, i.Type, i.Devices, i.State, i.Phase, i.CreatedAt, i.Deadline)
	if err != nil {
		return fmt.Errorf("store instance: %w", err)
	}
	_, err = t.Exec(ctx, `INSERT INTO deployments.devices (cluster, node, device, instance_id) SELECT $1, $2, unnest($3::text[]), $4`,
		i.Cluster, i.Node, i.Devices, i.ID)
	if libstore.IsUnique(err, "devices_held_once") {
		return errHeld
	}
	if err != nil {
		return fmt.Errorf("reserve devices: %w", err)
	}
	return nil
}

// putInstance stores what changes in an instance; one that has ended gives its devices back.
func (s *store) putInstance(ctx context.Context, t tx, i *instance) error {
	_, err := t.Exec(ctx, `UPDATE deployments.instances SET state = $2, phase = $3, cause = $4, message = $5, logs = $6, sequence = $7,
			updated_at = $8, state_at = $9, ready_at = $10, ended_at = $11, stop_cause = $12, stop_drain = $13, stop_at = $14, rolling = $15,
			idle_since = $16, stop_if_idle = $17 WHERE id = $1`,
		i.ID, i.State, i.Phase, i.Cause, i.Message, i.Logs, i.Sequence, i.UpdatedAt, i.StateAt, i.ReadyAt, i.EndedAt, i.StopCause, i.StopDrain, i.StopAt, i.Rolling,
		i.IdleSince, i.StopIfIdle)
	if err != nil {
		return fmt.Errorf("store instance: %w", err)
	}
	if i.State == instances.Terminated {
		if _, err := t.Exec(ctx, `DELETE FROM deployments.devices WHERE instance_id = $1`, i.ID); err != nil {
			return fmt.Errorf("free devices: %w", err)
		}
	}
	return nil
}

// held reads which devices live instances hold.
func (s *store) held(ctx context.Context, t tx) (placement.Held, error) {
	rows, err := t.Query(ctx, `SELECT cluster, node, device FROM deployments.devices`)
	if err != nil {
		return nil, fmt.Errorf("read devices: %w", err)
	}
	devices, err := pgx.CollectRows(rows, pgx.RowToStructByPos[placement.Device])
	if err != nil {
		return nil, fmt.Errorf("read devices: %w", err)
	}
	held := make(placement.Held, len(devices))
	for _, d := range devices {
		held[d] = true
	}
	return held, nil
}

// forget deletes what nobody asks about any more: instances of running versions that ended long ago.
func (s *store) forget(ctx context.Context, before time.Time) error {
	_, err := s.pool.Exec(ctx, `DELETE FROM deployments.instances i USING deployments.deployments d
		WHERE d.id = i.deployment_id AND i.state = $1 AND i.ended_at < $2 AND d.status NOT IN ($3, $4)`,
		instances.Terminated, before, functions.Error, functions.Deploying)
	if err != nil {
		return fmt.Errorf("forget ended instances: %w", err)
	}
	return nil
}

// lockReports serialises what is told to other services about one deployment, so that an older word cannot arrive last.
func (s *store) lockReports(ctx context.Context, t tx, id string) error {
	if _, err := t.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "sirocco.deployments.report."+id); err != nil {
		return fmt.Errorf("lock reports: %w", err)
	}
	return nil
}

func (s *store) acknowledge(ctx context.Context, t tx, id string, status functions.Status, code string) error {
	if _, err := t.Exec(ctx, `UPDATE deployments.deployments SET reported_status = $2, reported_code = $3 WHERE id = $1`, id, status, code); err != nil {
		return fmt.Errorf("acknowledge status: %w", err)
	}
	return nil
}

func (s *store) setQueueReady(ctx context.Context, t tx, id string) error {
	if _, err := t.Exec(ctx, `UPDATE deployments.deployments SET queue_ready = true WHERE id = $1`, id); err != nil {
		return fmt.Errorf("note queue: %w", err)
	}
	return nil
}
