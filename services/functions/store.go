package functions

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// version is a row: what the client said, and what became of it.
type version struct {
	id         string
	functionID string
	account    string
	status     contract.Status
	// deploymentID is the deployment whose state the status is; empty while INACTIVE.
	deploymentID string
	reason       contract.Reason
	spec         contract.Spec
	revision     int64
	createdAt    time.Time
	updatedAt    time.Time
}

// view is the version as its owner sees it, without secrets and instances.
func (v version) view() contract.Function {
	return contract.Function{
		ID: v.functionID, NCAID: v.account, VersionID: v.id, Status: v.status, Spec: v.spec,
		CreatedAt: v.createdAt, CreationTime: v.createdAt, LastUpdatedAt: &v.updatedAt,
	}
}

// sealedSecret is a secret as it lies in the database.
type sealedSecret struct {
	name  string
	value []byte
}

// versions is the store. Reads run on the pool; changes run in [versions.change].
type versions struct {
	reads
	pool    *pgxpool.Pool
	tx      func(context.Context, func(pgx.Tx) error) error
	journal *bus.Journal
}

func newStore(pool *pgxpool.Pool, tx func(context.Context, func(pgx.Tx) error) error, journal *bus.Journal) *versions {
	return &versions{reads: reads{pool}, pool: pool, tx: tx, journal: journal}
}

// unit is one transaction: what it changes and the events that tell of it are stored together. A method that writes a
// row must come before the event about it, so that events leave in the order of the changes.
type unit struct {
	reads
	tx      pgx.Tx
	journal *bus.Journal
}

// change runs fn in a transaction. It may run again after a conflict, so it must have no effect outside of u.
func (s *versions) change(ctx context.Context, fn func(u unit) error) error {
	return s.tx(ctx, func(tx pgx.Tx) error { return fn(unit{reads: reads{tx}, tx: tx, journal: s.journal}) })
}

// reads are the queries that work on the pool and in a transaction alike.
type reads struct {
	db interface {
		Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
		QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
		Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	}
}

const (
	selectVersions = `SELECT version_id::text, function_id::text, account, status, deployment_id, reason, spec, revision,
		created_at, updated_at FROM functions.versions `
	newestFirst = ` ORDER BY created_at DESC, position DESC`
)

func scanVersion(row pgx.CollectableRow) (version, error) {
	var v version
	err := row.Scan(&v.id, &v.functionID, &v.account, &v.status, &v.deploymentID, &v.reason, &v.spec, &v.revision, &v.createdAt, &v.updatedAt)
	v.createdAt, v.updatedAt = v.createdAt.UTC(), v.updatedAt.UTC()
	return v, err
}

func (r reads) collect(ctx context.Context, what, sql string, args ...any) ([]version, error) {
	rows, err := r.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	found, err := pgx.CollectRows(rows, scanVersion)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return found, nil
}

func (r reads) one(ctx context.Context, what, sql string, args ...any) (v version, found bool, err error) {
	list, err := r.collect(ctx, what, sql, args...)
	if err != nil || len(list) == 0 {
		return version{}, false, err
	}
	return list[0], true, nil
}

// find returns one version.
func (r reads) find(ctx context.Context, versionID string) (version, bool, error) {
	return r.one(ctx, "find version", selectVersions+`WHERE version_id = $1`, versionID)
}

// lock returns one version and keeps others from changing it until the transaction ends.
func (u unit) lock(ctx context.Context, versionID string) (version, bool, error) {
	return u.one(ctx, "lock version", selectVersions+`WHERE version_id = $1 FOR UPDATE`, versionID)
}

// lockFamily keeps others from changing any version of a function, or from adding one through lockFamily, until the
// transaction ends, and returns the versions oldest first. Locks on rows alone would not do: two writers that each
// wait for a version which the other has just added would wait for ever.
func (u unit) lockFamily(ctx context.Context, account, functionID string) ([]version, error) {
	if _, err := u.tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "sirocco.functions."+functionID); err != nil {
		return nil, fmt.Errorf("lock function: %w", err)
	}
	return u.collect(ctx, "lock versions", selectVersions+`WHERE function_id = $1 AND account = $2 ORDER BY created_at, position FOR UPDATE`, functionID, account)
}

// ofAccount returns every version of an account, newest first.
func (r reads) ofAccount(ctx context.Context, account string) ([]version, error) {
	return r.collect(ctx, "list versions", selectVersions+`WHERE account = $1`+newestFirst, account)
}

// ofFunction returns the versions of one function of an account, newest first.
func (r reads) ofFunction(ctx context.Context, account, functionID string) ([]version, error) {
	return r.collect(ctx, "list versions of a function", selectVersions+`WHERE function_id = $1 AND account = $2`+newestFirst, functionID, account)
}

// deployed returns those versions of a function that are in another state than INACTIVE, newest first.
func (r reads) deployed(ctx context.Context, account, functionID string) ([]version, error) {
	return r.collect(ctx, "resolve function", selectVersions+`WHERE function_id = $1 AND account = $2 AND status <> 'INACTIVE'`+newestFirst, functionID, account)
}

// pair is a version by its ids.
type pair struct{ functionID, versionID string }

// ids returns the ids of every version of an account, newest first.
func (r reads) ids(ctx context.Context, account string) ([]pair, error) {
	rows, err := r.db.Query(ctx, `SELECT function_id::text, version_id::text FROM functions.versions WHERE account = $1`+newestFirst, account)
	if err != nil {
		return nil, fmt.Errorf("list ids: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p pair, err error) {
		return p, row.Scan(&p.functionID, &p.versionID)
	})
	if err != nil {
		return nil, fmt.Errorf("list ids: %w", err)
	}
	return found, nil
}

// typeOf returns the type of a function, which all its versions agree on as far as LLM goes; found is false when the
// account has no version of it.
func (r reads) typeOf(ctx context.Context, account, functionID string) (t contract.Type, found bool, err error) {
	err = r.db.QueryRow(ctx, `SELECT function_type FROM functions.versions WHERE function_id = $1 AND account = $2 LIMIT 1`, functionID, account).Scan(&t)
	if store.IsNotFound(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("find function: %w", err)
	}
	return t, true, nil
}

// secrets returns the sealed secrets of a version in the order of the request that brought them.
func (r reads) secrets(ctx context.Context, versionID string) ([]sealedSecret, error) {
	rows, err := r.db.Query(ctx, `SELECT name, sealed FROM functions.secrets WHERE version_id = $1 ORDER BY position`, versionID)
	if err != nil {
		return nil, fmt.Errorf("read secrets: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s sealedSecret, err error) {
		return s, row.Scan(&s.name, &s.value)
	})
	if err != nil {
		return nil, fmt.Errorf("read secrets: %w", err)
	}
	return found, nil
}

// insert stores a new version with its secrets.
func (u unit) insert(ctx context.Context, v version, secrets []sealedSecret) error {
	spec, err := json.Marshal(v.spec)
	if err != nil {
		return fmt.Errorf("encode version: %w", err)
	}
	_, err = u.tx.Exec(ctx, `INSERT INTO functions.versions (version_id, function_id, account, function_type, status, spec, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $7)`, v.id, v.functionID, v.account, v.spec.FunctionType, v.status, spec, v.createdAt)
	if err != nil {
		return fmt.Errorf("insert version: %w", err)
	}
	names, values := make([]string, len(secrets)), make([][]byte, len(secrets))
	for i, s := range secrets {
		names[i], values[i] = s.name, s.value
	}
	_, err = u.tx.Exec(ctx, `INSERT INTO functions.secrets (version_id, position, name, sealed)
		SELECT $1, position, name, sealed FROM unnest($2::text[], $3::bytea[]) WITH ORDINALITY AS s (name, sealed, position)`, v.id, names, values)
	if err != nil {
		return fmt.Errorf("insert secrets: %w", err)
	}
	return nil
}

// save stores the specification of a locked version.
func (u unit) save(ctx context.Context, v version) error {
	spec, err := json.Marshal(v.spec)
	if err != nil {
		return fmt.Errorf("encode version: %w", err)
	}
	_, err = u.tx.Exec(ctx, `UPDATE functions.versions SET spec = $2, updated_at = $3, revision = revision + 1 WHERE version_id = $1`, v.id, spec, v.updatedAt)
	if err != nil {
		return fmt.Errorf("save version: %w", err)
	}
	return nil
}

// move stores the state of a locked version.
func (u unit) move(ctx context.Context, v version) error {
	reason, err := json.Marshal(v.reason)
	if err != nil {
		return fmt.Errorf("encode reason: %w", err)
	}
	_, err = u.tx.Exec(ctx, `UPDATE functions.versions SET status = $2, deployment_id = $3, reason = $4, updated_at = $5, revision = revision + 1 WHERE version_id = $1`,
		v.id, v.status, v.deploymentID, reason, v.updatedAt)
	if err != nil {
		return fmt.Errorf("move version: %w", err)
	}
	return nil
}

// remove deletes a version; its secrets go with it.
func (u unit) remove(ctx context.Context, versionID string) error {
	if _, err := u.tx.Exec(ctx, `DELETE FROM functions.versions WHERE version_id = $1`, versionID); err != nil {
		return fmt.Errorf("delete version: %w", err)
	}
	return nil
}

// tell records an event about a version, which this transaction must have written before.
func tell[P any](ctx context.Context, u unit, e rpc.Event[P], v version, payload P) error {
	return bus.Record(ctx, u.tx, u.journal, e, bus.Fact{
		Account: v.account, Entity: v.id,
		Refs: event.Refs{FunctionID: v.functionID, VersionID: v.id, DeploymentID: v.deploymentID},
	}, payload)
}
