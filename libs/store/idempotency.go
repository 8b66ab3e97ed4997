package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// IdempotencyLife is how long the answer to an idempotency key is kept.
const IdempotencyLife = 24 * time.Hour

// ErrKeyReused says that an idempotency key came back with another request.
var ErrKeyReused = errors.New("store: the idempotency key was used for another request")

// Idempotency remembers the answers of requests that a client may send twice. A service that uses it has this table in
// its migrations:
//
//	CREATE TABLE <schema>.idempotency (
//	    scope text NOT NULL, key text NOT NULL, digest bytea NOT NULL,
//	    answer bytea NOT NULL DEFAULT '', expires_at timestamptz NOT NULL, PRIMARY KEY (scope, key));
//	CREATE INDEX idempotency_expiry ON <schema>.idempotency (expires_at);
type Idempotency struct {
	claim, read, keep, prune string
}

// NewIdempotency returns the memory of schema.
func NewIdempotency(schema string) *Idempotency {
	name := table(schema, "idempotency")
	return &Idempotency{
		// A row whose time is over counts as none.
		claim: `INSERT INTO ` + name + ` AS i (scope, key, digest, expires_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (scope, key) DO UPDATE SET digest = $3, answer = '', expires_at = $4 WHERE i.expires_at <= $5`,
		read: `SELECT digest, answer FROM ` + name + ` WHERE scope = $1 AND key = $2 AND expires_at > $3`,
		keep: `UPDATE ` + name + ` SET answer = $3 WHERE scope = $1 AND key = $2`,
		prune: `DELETE FROM ` + name + ` WHERE ctid IN (
			SELECT ctid FROM ` + name + ` WHERE expires_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)`,
	}
}

// Key names one request: whose it is and what it does (Scope), what the client called it (Key), and what it said.
// Request is remembered only as a digest.
type Key struct {
	Scope, Key string
	Request    any
}

// digest is what is remembered of the request.
func (k Key) digest() ([]byte, error) {
	request, err := json.Marshal(k.Request)
	if err != nil {
		return nil, fmt.Errorf("store: idempotency key: %w", err)
	}
	sum := sha256.Sum256(request)
	return sum[:], nil
}

// Recall decodes the remembered answer of a request, if there is one, so that a repetition need not pass checks that depend on
// more than the request. It does not wait for a first request that is still at work; Once does.
func (i *Idempotency) Recall(ctx context.Context, pool *pgxpool.Pool, k Key, now time.Time, answer any) (found bool, err error) {
	if k.Key == "" {
		return false, nil
	}
	digest, err := k.digest()
	if err != nil {
		return false, err
	}
	err = i.recall(ctx, pool, k, digest, now, answer)
	if IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

func (i *Idempotency) recall(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, k Key, digest []byte, now time.Time, answer any,
) error {
	var before, kept []byte
	if err := db.QueryRow(ctx, i.read, k.Scope, k.Key, now).Scan(&before, &kept); err != nil {
		return fmt.Errorf("store: read idempotency key: %w", err)
	}
	if !bytes.Equal(before, digest) {
		return ErrKeyReused
	}
	if err := json.Unmarshal(kept, answer); err != nil {
		return fmt.Errorf("store: decode remembered answer: %w", err)
	}
	return nil
}

// Once runs do in tx for the first request with this key and remembers its answer; for a later one it decodes that answer
// into answer and runs nothing. A rival that holds the key is waited for. An empty key remembers nothing. The answer must
// hold no secret, because it is stored as it is.
func (i *Idempotency) Once(ctx context.Context, tx pgx.Tx, k Key, now time.Time, answer any, do func() error) error {
	if k.Key == "" {
		return do()
	}
	digest, err := k.digest()
	if err != nil {
		return err
	}
	claimed, err := tx.Exec(ctx, i.claim, k.Scope, k.Key, digest, now.Add(IdempotencyLife), now)
	if err != nil {
		return fmt.Errorf("store: claim idempotency key: %w", err)
	}
	if claimed.RowsAffected() == 0 {
		return i.recall(ctx, tx, k, digest, now, answer)
	}
	if err := do(); err != nil {
		return err
	}
	kept, err := json.Marshal(answer)
	if err != nil {
		return fmt.Errorf("store: encode answer: %w", err)
	}
	if _, err := tx.Exec(ctx, i.keep, k.Scope, k.Key, kept); err != nil {
		return fmt.Errorf("store: keep answer: %w", err)
	}
	return nil
}

// Prune forgets the answers whose time is over, ten thousand at most, in short transactions, and returns how many.
func (i *Idempotency) Prune(ctx context.Context, pool *pgxpool.Pool, now time.Time) (int64, error) {
	var total int64
	for range pruneBatches {
		tag, err := pool.Exec(ctx, i.prune, now, pruneBatch)
		if err != nil {
			return total, fmt.Errorf("store: prune idempotency keys: %w", err)
		}
		total += tag.RowsAffected()
		if tag.RowsAffected() < pruneBatch {
			break
		}
	}
	return total, nil
}
