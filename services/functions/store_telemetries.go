package functions

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// rowLock is what a read in a transaction keeps others from doing to the row until the end.
type rowLock string

const (
	unlocked rowLock = ""
	// keyShared keeps the row from being deleted.
	keyShared rowLock = " FOR KEY SHARE"
	forUpdate rowLock = " FOR UPDATE"
)

// announce records an event about something of an account that this transaction has written.
func announce[P any](ctx context.Context, u unit, e rpc.Event[P], account, entity string, payload P) error {
	return bus.Record(ctx, u.tx, u.journal, e, bus.Fact{Account: account, Entity: entity, CorrelationID: entity, Refs: event.Refs{}}, payload)
}

// lockAll keeps others from adding to one kind of thing of an account until the transaction ends, so that what counts
// them counts right.
func (u unit) lockAll(ctx context.Context, kind, account string) error {
	if _, err := u.tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "sirocco."+kind+"."+account); err != nil {
		return fmt.Errorf("lock %s: %w", kind, err)
	}
	return nil
}

const selectTelemetries = `SELECT telemetry_id::text, name, endpoint, protocol, provider, types, created_at FROM functions.telemetries `

func (r reads) collectTelemetries(ctx context.Context, sql string, args ...any) ([]contract.Telemetry, error) {
	return collect(ctx, r, "read telemetries", func(row pgx.CollectableRow) (t contract.Telemetry, err error) {
		err = row.Scan(&t.TelemetryID, &t.Name, &t.Endpoint, &t.Protocol, &t.Provider, &t.Types, &t.CreatedAt)
		t.CreatedAt = t.CreatedAt.UTC()
		return t, err
	}, selectTelemetries+sql, args...)
}

// collect runs a query and scans its rows.
func collect[T any](ctx context.Context, r reads, what string, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := r.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	found, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return found, nil
}

// first returns the only row of a query by identity.
func first[T any](list []T, err error) (T, bool, error) {
	var none T
	if err != nil || len(list) == 0 {
		return none, false, err
	}
	return list[0], true, nil
}

// telemetries returns those of an account, newest first.
func (r reads) telemetries(ctx context.Context, account string) ([]contract.Telemetry, error) {
	return r.collectTelemetries(ctx, `WHERE account = $1`+newestFirst, account)
}

func (r reads) telemetry(ctx context.Context, account, telemetryID string, lock rowLock) (contract.Telemetry, bool, error) {
	return first(r.collectTelemetries(ctx, `WHERE telemetry_id = $1 AND account = $2`+string(lock), telemetryID, account))
}

// sealedTelemetry is a telemetry endpoint with its secret, as it is stored.
func (r reads) sealedTelemetry(ctx context.Context, account, telemetryID string) (t contract.Telemetry, sealed []byte, found bool, err error) {
	t, found, err = r.telemetry(ctx, account, telemetryID, unlocked)
	if err != nil || !found {
		return t, nil, found, err
	}
	if err = r.db.QueryRow(ctx, `SELECT name, sealed FROM functions.telemetries WHERE telemetry_id = $1`, t.TelemetryID).Scan(&t.Name, &sealed); err != nil {
		return t, nil, false, fmt.Errorf("read secret of a telemetry: %w", err)
	}
	return t, sealed, true, nil
}

// telemetryUsers returns versions of an account that refer to a telemetry endpoint and fulfil one more condition, limit at
// most.
func (r reads) telemetryUsers(ctx context.Context, account, telemetryID, condition string, limit int) ([]pair, error) {
	return collect(ctx, r, "find users of a telemetry", func(row pgx.CollectableRow) (p pair, err error) {
		return p, row.Scan(&p.functionID, &p.versionID)
	}, `SELECT function_id::text, version_id::text FROM functions.versions WHERE account = $1
		AND $2 IN (lower(spec->'telemetries'->>'logsTelemetryId'), lower(spec->'telemetries'->>'metricsTelemetryId'), lower(spec->'telemetries'->>'tracesTelemetryId'))`+
		condition+newestFirst+` LIMIT $3`, account, telemetryID, limit)
}

func (u unit) insertTelemetry(ctx context.Context, account string, t contract.Telemetry, sealed []byte) error {
	_, err := u.tx.Exec(ctx, `INSERT INTO functions.telemetries (telemetry_id, account, name, endpoint, protocol, provider, types, sealed, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, t.TelemetryID, account, t.Name, t.Endpoint, t.Protocol, t.Provider, t.Types, sealed, t.CreatedAt)
	if err != nil {
		return fmt.Errorf("insert telemetry: %w", err)
	}
	return nil
}

// saveTelemetry stores the name and the secret of a locked telemetry endpoint.
func (u unit) saveTelemetry(ctx context.Context, t contract.Telemetry, sealed []byte) error {
	if _, err := u.tx.Exec(ctx, `UPDATE functions.telemetries SET name = $2, sealed = $3 WHERE telemetry_id = $1`, t.TelemetryID, t.Name, sealed); err != nil {
		return fmt.Errorf("save telemetry: %w", err)
	}
	return nil
}

func (u unit) deleteTelemetry(ctx context.Context, telemetryID string) error {
	if _, err := u.tx.Exec(ctx, `DELETE FROM functions.telemetries WHERE telemetry_id = $1`, telemetryID); err != nil {
		return fmt.Errorf("delete telemetry: %w", err)
	}
	return nil
}
