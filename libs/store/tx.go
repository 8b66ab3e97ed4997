package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// SQLSTATE codes that this package acts on.
const (
	codeUniqueViolation      = "23505"
	codeSerializationFailure = "40001"
	codeDeadlockDetected     = "40P01"
	codeTooManyConnections   = "53300"
	codeAdminShutdown        = "57P01"
	codeCrashShutdown        = "57P02"
	codeCannotConnectNow     = "57P03"
	codeIdleSession          = "57P05"
	codeIdleInTransaction    = "25P03"
)

// conflictRetries is how often a transaction that lost against another is run again.
const conflictRetries = 3

// InTx runs fn in a READ COMMITTED transaction and commits it, or rolls back when fn fails or panics. When the database
// chose the transaction as the victim of a deadlock or a serialization conflict, fn runs again, three more times at most, so
// it must have no effect outside tx. After the commit the relays of the given outboxes are woken.
func InTx(ctx context.Context, pool *pgxpool.Pool, fn func(tx pgx.Tx) error, outboxes ...*Outbox) error {
	for attempt := 0; ; attempt++ {
		err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, fn)
		if err == nil {
			for _, outbox := range outboxes {
				outbox.Wake()
			}
			return nil
		}
		if attempt == conflictRetries || !hasCode(err, codeSerializationFailure, codeDeadlockDetected) {
			return err
		}
		if pause(ctx, backoff(attempt, 5*time.Millisecond, 100*time.Millisecond)) != nil {
			return err
		}
	}
}

// IsUnique tells whether err is the violation of the named unique constraint or index; an empty name means any.
func IsUnique(err error, constraint string) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == codeUniqueViolation && (constraint == "" || pg.ConstraintName == constraint)
}

func hasCode(err error, codes ...string) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && slices.Contains(codes, pg.Code)
}

// backoff doubles from first to limit and spreads the result over its upper half, so that rivals do not meet again.
func backoff(attempt int, first, limit time.Duration) time.Duration {
	delay := limit
	if attempt < 32 && first<<attempt < limit {
		delay = first << attempt
	}
	return delay/2 + rand.N(delay/2+1)
}

func pause(ctx context.Context, delay time.Duration) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() // both may have come
	case <-ctx.Done():
		return ctx.Err()
	}
}
