package functions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
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
	// functionParties stand alike in every version of the function; see sharing.go.
	functionParties []contract.Party
	versionParties  []contract.Party
	revision        int64
	createdAt       time.Time
	updatedAt       time.Time
}

// view is the version as its owner sees it, without secrets and instances.
func (v version) view() contract.Function {
	return contract.Function{
		ID: v.functionID, NCAID: v.account, VersionID: v.id, Status: v.status, Spec: v.spec,
		CreatedAt: v.createdAt, CreationTime: v.createdAt, LastUpdatedAt: &v.updatedAt,
	}
}

// answer is the owner's view with the name of its revision.
func (v version) answer() contract.FunctionResponse {
	return contract.FunctionResponse{Function: v.view(), ETag: v.etag()}
}

// sealedSecret is a secret as it lies in the database.
type sealedSecret struct {
	name      string
	value     []byte
	updatedAt time.Time
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
	selectVersions = `SELECT version_id::text, function_id::text, account, status, deployment_id, reason, spec,
		function_parties, version_parties, revision, created_at, updated_at FROM functions.versions `
	newestFirst = ` ORDER BY created_at DESC, position DESC`
)

func scanVersion(row pgx.CollectableRow) (version, error) {
	var v version
	err := row.Scan(&v.id, &v.functionID, &v.account, &v.status, &v.deploymentID, &v.reason, &v.spec,
		&v.functionParties, &v.versionParties, &v.revision, &v.createdAt, &v.updatedAt)
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

// ofFunction returns the versions of one function of an account, newest first.
func (r reads) ofFunction(ctx context.Context, account, functionID string) ([]version, error) {
	return r.collect(ctx, "list versions of a function", selectVersions+`WHERE function_id = $1 AND account = $2`+newestFirst, functionID, account)
}

// pair is a version by its ids.
type pair struct{ functionID, versionID string }

// invocable returns those versions of a function that are in another state than INACTIVE and that the account owns or is
// authorized for, newest first.
func (r reads) invocable(ctx context.Context, account, functionID string) ([]version, error) {
	return r.collect(ctx, "resolve function", selectVersions+`WHERE function_id = $1 AND status <> 'INACTIVE'
		AND (account = $2 OR public OR authorized @> ARRAY[$2])`+newestFirst, functionID, account)
}

// owner names the account of a function of which an account owns or is authorized for some version, and tells whether
// one of them is for everybody; it is empty when there is none.
func (r reads) owner(ctx context.Context, account, functionID string) (owner string, public bool, err error) {
	err = r.db.QueryRow(ctx, `SELECT account, public FROM functions.versions WHERE function_id = $1
		AND (account = $2 OR public OR authorized @> ARRAY[$2]) ORDER BY public DESC LIMIT 1`, functionID, account).Scan(&owner, &public)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", false, fmt.Errorf("find function: %w", err)
	}
	return owner, public, nil
}

// secrets returns the sealed secrets of a version in the order of the request that brought them.
func (r reads) secrets(ctx context.Context, versionID string) ([]sealedSecret, error) {
	rows, err := r.db.Query(ctx, `SELECT name, sealed, updated_at FROM functions.secrets WHERE version_id = $1 ORDER BY position`, versionID)
	if err != nil {
		return nil, fmt.Errorf("read secrets: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s sealedSecret, err error) {
		return s, row.Scan(&s.name, &s.value, &s.updatedAt)
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
	parties, err := encodeParties(v)
	if err != nil {
		return err
	}
	_, err = u.tx.Exec(ctx, `INSERT INTO functions.versions (version_id, function_id, account, function_type, status, spec, created_at, updated_at,
			function_parties, version_parties, authorized, public)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8, $9, $10, $11)`, v.id, v.functionID, v.account, v.spec.FunctionType, v.status, spec, v.createdAt,
		parties.function, parties.version, parties.authorized, parties.public)
	if err != nil {
		return fmt.Errorf("insert version: %w", err)
	}
	return u.putSecrets(ctx, v, secrets)
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

// addFunction counts one more function of an account, and refuses it beyond a limit; 0 is no limit. The row that counts is
// locked until the transaction ends, so that no two creations take the last place.
func (u unit) addFunction(ctx context.Context, account string, limit int) error {
	var n int
	err := u.tx.QueryRow(ctx, `INSERT INTO functions.accounts AS a (account, functions) VALUES ($1, 1)
		ON CONFLICT (account) DO UPDATE SET functions = a.functions + 1 RETURNING functions`, account).Scan(&n)
	if err != nil {
		return fmt.Errorf("count function: %w", err)
	}
	if limit > 0 && n > limit {
		return problem.New(problem.IllegalState, "account '%s' has %d functions, and maxFunctionsAllowed is %d; delete one first", account, n-1, limit)
	}
	return nil
}

// removeFunction is the inverse, after the last version of a function went.
func (u unit) removeFunction(ctx context.Context, account string) error {
	if _, err := u.tx.Exec(ctx, `UPDATE functions.accounts SET functions = functions - 1 WHERE account = $1 AND functions > 0`, account); err != nil {
		return fmt.Errorf("count function: %w", err)
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
