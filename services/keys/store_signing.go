package keys

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// signingLock is held by whoever changes the signing keys, so that replicas take turns.
const signingLock = "sirocco.keys.signing"

type signingRow struct {
	id             string
	state          contract.SigningState
	sealed         []byte
	created, since time.Time
}

const selectSigningKeys = `SELECT kid, state, private_key, created_at, state_since FROM keys.signing_keys
	ORDER BY array_position(ARRAY['current', 'next', 'previous'], state), state_since DESC, kid`

// signingKeys lists the current key, then the next one, then earlier ones from young to old.
func (s *Store) signingKeys(ctx context.Context) ([]signingRow, error) {
	rows, err := s.pool.Query(ctx, selectSigningKeys)
	if err != nil {
		return nil, fmt.Errorf("read signing keys: %w", err)
	}
	return collectSigningKeys(rows)
}

func collectSigningKeys(rows pgx.Rows) ([]signingRow, error) {
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k signingRow, err error) {
		err = row.Scan(&k.id, &k.state, &k.sealed, &k.created, &k.since)
		k.created, k.since = k.created.UTC(), k.since.UTC()
		return k, err
	})
	if err != nil {
		return nil, fmt.Errorf("read signing keys: %w", err)
	}
	return keys, nil
}

// signingChange is one transaction over all signing keys.
type signingChange struct {
	tx      pgx.Tx
	journal *bus.Journal
	rows    []signingRow
	now     time.Time
}

// changeSigningKeys runs fn when nobody else changes the keys: it waits for its turn, or with wait false does nothing
// when it is not its turn. When fn says that something changed, the event with the public halves that published makes of
// the new rows is part of the transaction.
func (s *Store) changeSigningKeys(ctx context.Context, now time.Time, wait bool, fn func(*signingChange) (changed bool, err error), published func([]signingRow) (contract.JWKS, error)) error {
	err := s.tx(ctx, func(tx pgx.Tx) error {
		mine, err := signingTurn(ctx, tx, wait)
		if err != nil || !mine {
			return err
		}
		c := &signingChange{tx: tx, journal: s.journal, now: now}
		if err := c.read(ctx); err != nil {
			return err
		}
		changed, err := fn(c)
		if err != nil || !changed {
			return err
		}
		if err := c.read(ctx); err != nil {
			return err
		}
		set, err := published(c.rows)
		if err != nil {
			return err
		}
		return bus.Record(ctx, tx, s.journal, contract.KeysRotated, bus.Fact{Account: access.DefaultAccount, Entity: c.rows[0].id}, set)
	})
	if err != nil {
		return fmt.Errorf("change signing keys: %w", err)
	}
	return nil
}

// signingTurn takes the lock until the transaction ends.
func signingTurn(ctx context.Context, tx pgx.Tx, wait bool) (mine bool, err error) {
	if wait {
		_, err = tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, signingLock)
		return err == nil, err
	}
	err = tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))`, signingLock).Scan(&mine)
	return mine, err
}

func (c *signingChange) read(ctx context.Context) error {
	rows, err := c.tx.Query(ctx, selectSigningKeys)
	if err != nil {
		return err
	}
	c.rows, err = collectSigningKeys(rows)
	return err
}

func (c *signingChange) add(ctx context.Context, id string, state contract.SigningState, sealed []byte) error {
	_, err := c.tx.Exec(ctx, `INSERT INTO keys.signing_keys (kid, state, private_key, created_at, state_since) VALUES ($1, $2, $3, $4, $4)`,
		id, state, sealed, c.now)
	return err
}

func (c *signingChange) move(ctx context.Context, id string, to contract.SigningState) error {
	_, err := c.tx.Exec(ctx, `UPDATE keys.signing_keys SET state = $2, state_since = $3 WHERE kid = $1`, id, to, c.now)
	return err
}

func (c *signingChange) drop(ctx context.Context, id string) error {
	_, err := c.tx.Exec(ctx, `DELETE FROM keys.signing_keys WHERE kid = $1`, id)
	return err
}

// revocationKey spells what a revocation is about as the table does.
func revocationKey(r contract.TokenRevocation) (kind, name string, before *time.Time) {
	switch {
	case r.JTI != "":
		return "jti", r.JTI, nil
	case r.SigningKey != "":
		return "kid", r.SigningKey, nil
	}
	return "sub", r.Subject, &r.IssuedBefore
}

// RecordRevocation refuses tokens and tells everyone, as a part of tx. Of two revocations of one subject the later
// counts. It is for everything in this service that issues tokens.
func RecordRevocation(ctx context.Context, tx pgx.Tx, journal *bus.Journal, r contract.TokenRevocation) error {
	kind, name, before := revocationKey(r)
	_, err := tx.Exec(ctx, `INSERT INTO keys.token_revocations (kind, name, issued_before, expires_at, reason) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (kind, name) DO UPDATE SET issued_before = greatest(token_revocations.issued_before, excluded.issued_before),
			expires_at = greatest(token_revocations.expires_at, excluded.expires_at), reason = excluded.reason`,
		kind, name, before, r.ExpiresAt, r.Reason)
	if err != nil {
		return fmt.Errorf("record a revocation: %w", err)
	}
	return bus.Record(ctx, tx, journal, contract.TokenRevoked, bus.Fact{Account: access.DefaultAccount, Entity: name}, r)
}

func (s *Store) revokeToken(ctx context.Context, r contract.TokenRevocation) error {
	err := s.tx(ctx, func(tx pgx.Tx) error { return RecordRevocation(ctx, tx, s.journal, r) })
	if err != nil {
		return fmt.Errorf("revoke a token: %w", err)
	}
	return nil
}

// revocations lists those that have not expired.
func (s *Store) revocations(ctx context.Context, now time.Time) ([]contract.TokenRevocation, error) {
	rows, err := s.pool.Query(ctx, `SELECT kind, name, coalesce(issued_before, 'epoch'), expires_at, reason FROM keys.token_revocations
		WHERE expires_at > $1 ORDER BY expires_at, kind, name`, now)
	if err != nil {
		return nil, fmt.Errorf("read revocations: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r contract.TokenRevocation, err error) {
		var kind, name string
		var before time.Time
		err = row.Scan(&kind, &name, &before, &r.ExpiresAt, &r.Reason)
		r.ExpiresAt = r.ExpiresAt.UTC()
		switch kind {
		case "jti":
			r.JTI = name
		case "kid":
			r.SigningKey = name
		default:
			r.Subject, r.IssuedBefore = name, before.UTC()
		}
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("read revocations: %w", err)
	}
	return list, nil
}

// forgetRevocations deletes those that have expired.
func (s *Store) forgetRevocations(ctx context.Context, now time.Time) error {
	if _, err := s.pool.Exec(ctx, `DELETE FROM keys.token_revocations WHERE expires_at <= $1`, now); err != nil {
		return fmt.Errorf("forget revocations: %w", err)
	}
	return nil
}
