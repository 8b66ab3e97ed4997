package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sirocco-cloud/sirocco/libs/seal"
)

// Sealed is a column of sealed values. Beside it its table has the column key_id, which names the key-encryption key of
// the value and keeps that key from being forgotten:
//
//	key_id text GENERATED ALWAYS AS (CASE WHEN substring(sealed FROM 1 FOR 4) = '\x0273726b'
//	    THEN encode(substring(sealed FROM 5 FOR 8), 'hex') END) STORED REFERENCES <schema>.encryption_keys (id)
type Sealed struct {
	// Table and Column are without the schema.
	Table, Column string
	// Name is an SQL expression over the row: what its value is bound to.
	Name string
}

// Keyring is the [seal.Register] of a schema. Its migrations make the table:
//
//	CREATE TABLE <schema>.encryption_keys (id text PRIMARY KEY, current boolean NOT NULL, value bytea, since timestamptz NOT NULL);
//	CREATE UNIQUE INDEX encryption_keys_one_current ON <schema>.encryption_keys (current) WHERE current;
type Keyring struct {
	pool    *pgxpool.Pool
	schema  string
	keys    string
	columns []Sealed
}

var _ seal.Register = (*Keyring)(nil)

// NewKeyring makes the register of the sealed columns of a schema.
func NewKeyring(pool *pgxpool.Pool, schema string, columns ...Sealed) *Keyring {
	return &Keyring{pool: pool, schema: schema, keys: table(schema, "encryption_keys"), columns: columns}
}

// Keys implements [seal.Register].
func (k *Keyring) Keys(ctx context.Context) ([]seal.Record, error) {
	rows, err := k.pool.Query(ctx, `SELECT id, current, value, since FROM `+k.keys+` ORDER BY current DESC, since DESC`)
	if err != nil {
		return nil, fmt.Errorf("read key-encryption keys: %w", err)
	}
	records, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r seal.Record, err error) {
		return r, row.Scan(&r.Name, &r.Current, &r.Value, &r.Since)
	})
	if err != nil {
		return nil, fmt.Errorf("read key-encryption keys: %w", err)
	}
	return records, nil
}

// Claim implements [seal.Register].
func (k *Keyring) Claim(ctx context.Context, first seal.Record) error {
	return k.exec(ctx, "store the first key-encryption key",
		`INSERT INTO `+k.keys+` (id, current, value, since) VALUES ($1, true, $2, $3) ON CONFLICT DO NOTHING`, first.Name, first.Value, first.Since)
}

// Rename implements [seal.Register].
func (k *Keyring) Rename(ctx context.Context, from, to string) error {
	return k.exec(ctx, "name a key-encryption key", `UPDATE `+k.keys+` SET id = $2 WHERE id = $1`, from, to)
}

// Promote implements [seal.Register].
func (k *Keyring) Promote(ctx context.Context, next seal.Record) error {
	err := InTx(ctx, k.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE `+k.keys+` SET current = false, since = $1 WHERE current`, next.Since); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO `+k.keys+` (id, current, value, since) VALUES ($1, true, $2, $3)
			ON CONFLICT (id) DO UPDATE SET current = true, since = excluded.since`, next.Name, next.Value, next.Since)
		return err
	})
	if err != nil {
		return fmt.Errorf("promote a key-encryption key: %w", err)
	}
	return nil
}

const codeForeignKeyViolation = "23503"

// Retire implements [seal.Register]. Values of older formats name no key; they keep every key alive.
func (k *Keyring) Retire(ctx context.Context, name string) (retired bool, err error) {
	var older strings.Builder
	for _, c := range k.columns {
		fmt.Fprintf(&older, ` AND NOT EXISTS (SELECT FROM %s WHERE %s IS NOT NULL AND key_id IS NULL)`,
			table(k.schema, c.Table), pgx.Identifier{c.Column}.Sanitize())
	}
	tag, err := k.pool.Exec(ctx, `DELETE FROM `+k.keys+` WHERE id = $1 AND NOT current`+older.String(), name)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == codeForeignKeyViolation {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("forget a key-encryption key: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// place of a value: its column, and its row as long as nobody changes it.
type place struct {
	column Sealed
	row    string
}

// Stale implements [seal.Register].
func (k *Keyring) Stale(ctx context.Context, current string, limit int) ([]seal.Value, error) {
	var values []seal.Value
	for _, c := range k.columns {
		column := pgx.Identifier{c.Column}.Sanitize()
		rows, err := k.pool.Query(ctx, `SELECT ctid::text, `+c.Name+`, `+column+` FROM `+table(k.schema, c.Table)+`
			WHERE `+column+` IS NOT NULL AND (key_id IS NULL OR key_id <> $1) LIMIT $2`, current, limit-len(values))
		if err != nil {
			return nil, fmt.Errorf("read sealed values of %s: %w", c.Table, err)
		}
		found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (seal.Value, error) {
			v, at := seal.Value{}, place{column: c}
			err := row.Scan(&at.row, &v.Name, &v.Sealed)
			v.Place = at
			return v, err
		})
		if err != nil {
			return nil, fmt.Errorf("read sealed values of %s: %w", c.Table, err)
		}
		if values = append(values, found...); len(values) >= limit {
			break
		}
	}
	return values, nil
}

// Replace implements [seal.Register]. A row that was changed meanwhile is at another place or has another value.
func (k *Keyring) Replace(ctx context.Context, v seal.Value, sealed []byte) error {
	at, ok := v.Place.(place)
	if !ok {
		return fmt.Errorf("wrap %s anew: it has no place", v.Name)
	}
	column := pgx.Identifier{at.column.Column}.Sanitize()
	return k.exec(ctx, "wrap a value of "+at.column.Table+" anew",
		`UPDATE `+table(k.schema, at.column.Table)+` SET `+column+` = $2 WHERE ctid = $1::text::tid AND `+column+` = $3`, at.row, sealed, v.Sealed)
}

// unlockWithin bounds how long a lock is given back before its session is closed instead.
const unlockWithin = 2 * time.Second

// Exclusively implements [seal.Register]. The lock belongs to a session, so it ends with a process that dies.
func (k *Keyring) Exclusively(ctx context.Context, fn func(context.Context) error) (ran bool, err error) {
	conn, err := k.pool.Acquire(ctx)
	if err != nil {
		return false, fmt.Errorf("lock the rotation: %w", err)
	}
	defer conn.Release()
	name := "sirocco.encryption." + k.schema
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended($1, 0))`, name).Scan(&ran); err != nil || !ran {
		return false, err
	}
	defer func() {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockWithin)
		defer cancel()
		if _, failed := conn.Exec(bye, `SELECT pg_advisory_unlock(hashtextextended($1, 0))`, name); failed != nil {
			_ = conn.Conn().Close(bye) // a session that ends gives its locks up
		}
	}()
	return true, fn(ctx)
}

func (k *Keyring) exec(ctx context.Context, doing, sql string, args ...any) error {
	if _, err := k.pool.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}
