package invocation

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	contract "github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/contracts/subject"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	libstore "github.com/sirocco-cloud/sirocco/libs/store"
)

// store is the service's schema. Each change and its event are one transaction.
type store struct {
	pool    *pgxpool.Pool
	tx      func(context.Context, func(pgx.Tx) error) error
	journal *bus.Journal
}

func newStore(pool *pgxpool.Pool, tx func(context.Context, func(pgx.Tx) error) error, journal *bus.Journal) *store {
	return &store{pool: pool, tx: tx, journal: journal}
}

// effect is what a queue's row changes outside the database. It runs before the commit: when it fails nothing has
// happened, and when the commit fails it runs again, which is harmless.
type effect func(ctx context.Context, version string) error

// lock makes every change of one version's queue, row and stream, wait for the one before.
func lock(ctx context.Context, tx pgx.Tx, version string) error {
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "sirocco.invocation.queue."+version); err != nil {
		return fmt.Errorf("lock queue: %w", err)
	}
	return nil
}

func (s *store) whenDeployed(q *Queues) func(context.Context, pgx.Tx, event.Envelope, deployments.Changed) error {
	return func(ctx context.Context, tx pgx.Tx, env event.Envelope, c deployments.Changed) error {
		return s.add(ctx, tx, owned{c.Deployment.VersionID, c.Deployment.FunctionID, env.Account, env.Time}, env.ID, q.provide)
	}
}

func (s *store) whenUndeployed(q *Queues) func(context.Context, pgx.Tx, event.Envelope, deployments.Changed) error {
	return func(ctx context.Context, tx pgx.Tx, env event.Envelope, c deployments.Changed) error {
		return s.drop(ctx, tx, c.Deployment.VersionID, env.ID, q.remove)
	}
}

func (s *store) whenDeleted(q *Queues) func(context.Context, pgx.Tx, event.Envelope, functions.Changed) error {
	return func(ctx context.Context, tx pgx.Tx, env event.Envelope, c functions.Changed) error {
		return s.drop(ctx, tx, c.Function.VersionID, env.ID, q.remove)
	}
}

func (s *store) addQueue(ctx context.Context, o owned, provide effect) error {
	return s.tx(ctx, func(tx pgx.Tx) error { return s.add(ctx, tx, o, "", provide) })
}

func (s *store) add(ctx context.Context, tx pgx.Tx, o owned, cause string, provide effect) error {
	if err := lock(ctx, tx, o.version); err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, `INSERT INTO invocation.queues (version_id, function_id, account, provided_at)
		VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`, o.version, o.function, o.account, o.at)
	if err != nil {
		return fmt.Errorf("add queue: %w", err)
	}
	if err := provide(ctx, o.version); err != nil || tag.RowsAffected() == 0 {
		return err
	}
	return s.changed(ctx, tx, contract.QueueProvided, o, cause)
}

func (s *store) drop(ctx context.Context, tx pgx.Tx, version, cause string, remove effect) error {
	if err := lock(ctx, tx, version); err != nil {
		return err
	}
	o := owned{version: version}
	err := tx.QueryRow(ctx, `DELETE FROM invocation.queues WHERE version_id = $1 RETURNING function_id, account`, version).Scan(&o.function, &o.account)
	known := err == nil
	if err != nil && !libstore.IsNotFound(err) {
		return fmt.Errorf("drop queue: %w", err)
	}
	if err := remove(ctx, version); err != nil || !known {
		return err
	}
	return s.changed(ctx, tx, contract.QueueRemoved, o, cause)
}

func (s *store) changed(ctx context.Context, tx pgx.Tx, e rpc.Event[contract.QueueChanged], o owned, cause string) error {
	fact := bus.Fact{
		Account: o.account, Entity: o.version, CausationID: cause, CorrelationID: o.function,
		Refs: event.Refs{FunctionID: o.function, VersionID: o.version},
	}
	return bus.Record(ctx, tx, s.journal, e, fact, contract.QueueChanged{VersionID: o.version, Stream: subject.QueueStream(o.version)})
}

// queued provides the queue of a version that must have one; known is false when it must not.
func (s *store) queued(ctx context.Context, version string, provide effect) (known bool, err error) {
	err = s.tx(ctx, func(tx pgx.Tx) error {
		if err := lock(ctx, tx, version); err != nil {
			return err
		}
		if known, err = s.known(ctx, tx, version); err != nil || !known {
			return err
		}
		return provide(ctx, version)
	})
	return known, err
}

// unqueued removes the queue of a version that must not have one.
func (s *store) unqueued(ctx context.Context, version string, remove effect) error {
	return s.tx(ctx, func(tx pgx.Tx) error {
		if err := lock(ctx, tx, version); err != nil {
			return err
		}
		if known, err := s.known(ctx, tx, version); err != nil || known {
			return err
		}
		return remove(ctx, version)
	})
}

func (s *store) known(ctx context.Context, tx pgx.Tx, version string) (known bool, err error) {
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM invocation.queues WHERE version_id = $1)`, version).Scan(&known)
	if err != nil {
		return false, fmt.Errorf("find queue: %w", err)
	}
	return known, nil
}

// versions are those that must have a queue.
func (s *store) versions(ctx context.Context) ([]string, error) {
	rows, err := s.pool.Query(ctx, `SELECT version_id FROM invocation.queues`)
	if err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	versions, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	return versions, nil
}

func (s *store) detach(ctx context.Context, r contract.RequestRecord) error {
	return s.tx(ctx, func(tx pgx.Tx) error {
		// xmax is zero on a row that this statement inserted.
		var inserted bool
		err := tx.QueryRow(ctx, `INSERT INTO invocation.requests AS old
			(request_id, account, subject, function_id, version_id, worker, detached_at, expires_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (request_id) DO UPDATE SET worker = excluded.worker
			WHERE old.account = excluded.account AND old.version_id = excluded.version_id AND NOT old.finished
			RETURNING xmax = 0`,
			r.RequestID, r.Account, r.Subject, r.FunctionID, r.VersionID, r.Worker, r.At, r.ExpiresAt).Scan(&inserted)
		if libstore.IsNotFound(err) {
			return problem.New(problem.Conflict, "request '%s' is finished, or another one has its id", r.RequestID)
		}
		if err != nil {
			return fmt.Errorf("detach request: %w", err)
		}
		if !inserted {
			return nil
		}
		return bus.Record(ctx, tx, s.journal, contract.Detached, factOf(r.DetachRequest), contract.RequestChanged{
			RequestID: r.RequestID, FunctionID: r.FunctionID, VersionID: r.VersionID, Worker: r.Worker,
		})
	})
}

func factOf(r contract.DetachRequest) bus.Fact {
	return bus.Fact{Account: r.Account, Entity: r.RequestID, CorrelationID: r.RequestID, Refs: event.Refs{FunctionID: r.FunctionID, VersionID: r.VersionID}}
}

// find returns a request that is neither finished nor expired.
func (s *store) find(ctx context.Context, id string, now time.Time) (r contract.RequestRecord, found bool, err error) {
	r.State = Detached
	err = s.pool.QueryRow(ctx, `SELECT request_id, account, subject, function_id, version_id, worker, detached_at, expires_at
		FROM invocation.requests WHERE request_id = $1 AND NOT finished AND expires_at > $2`, id, now).
		Scan(&r.RequestID, &r.Account, &r.Subject, &r.FunctionID, &r.VersionID, &r.Worker, &r.At, &r.ExpiresAt)
	if libstore.IsNotFound(err) {
		return contract.RequestRecord{}, false, nil
	}
	if err != nil {
		return contract.RequestRecord{}, false, fmt.Errorf("find request: %w", err)
	}
	r.At, r.ExpiresAt = r.At.UTC(), r.ExpiresAt.UTC()
	return r, true, nil
}

// locate returns a request that has not expired, finished or not.
func (s *store) locate(ctx context.Context, id string, now time.Time) (r contract.DetachRequest, finished, found bool, err error) {
	err = s.pool.QueryRow(ctx, `SELECT request_id, account, function_id, version_id, finished FROM invocation.requests
		WHERE request_id = $1 AND expires_at > $2`, id, now).Scan(&r.RequestID, &r.Account, &r.FunctionID, &r.VersionID, &finished)
	if libstore.IsNotFound(err) {
		return r, false, false, nil
	}
	if err != nil {
		return r, false, false, fmt.Errorf("locate request: %w", err)
	}
	return r, finished, true, nil
}

// finish marks a request; known is false when there is no such record.
func (s *store) finish(ctx context.Context, f contract.FinishRequest) (known bool, err error) {
	err = s.tx(ctx, func(tx pgx.Tx) error {
		known = false
		var finished bool
		r := contract.DetachRequest{RequestID: f.RequestID}
		err := tx.QueryRow(ctx, `SELECT finished, account, function_id, version_id FROM invocation.requests
			WHERE request_id = $1 FOR UPDATE`, f.RequestID).Scan(&finished, &r.Account, &r.FunctionID, &r.VersionID)
		if libstore.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("finish request: %w", err)
		}
		if known = true; finished {
			return nil
		}
		if _, err := tx.Exec(ctx, `UPDATE invocation.requests SET finished = true WHERE request_id = $1`, f.RequestID); err != nil {
			return fmt.Errorf("finish request: %w", err)
		}
		return bus.Record(ctx, tx, s.journal, contract.Finished, factOf(r), contract.RequestChanged{
			RequestID: r.RequestID, FunctionID: r.FunctionID, VersionID: r.VersionID, Status: f.Status,
		})
	})
	return known, err
}

// reapBatch bounds one transaction of the reaper.
const reapBatch = 1000

// reap deletes records that expired before now.
func (s *store) reap(ctx context.Context, now time.Time) (total int64, err error) {
	for {
		tag, err := s.pool.Exec(ctx, `DELETE FROM invocation.requests WHERE ctid IN (
			SELECT ctid FROM invocation.requests WHERE expires_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)`, now, reapBatch)
		if err != nil {
			return total, fmt.Errorf("reap requests: %w", err)
		}
		total += tag.RowsAffected()
		if tag.RowsAffected() < reapBatch {
			return total, nil
		}
	}
}
