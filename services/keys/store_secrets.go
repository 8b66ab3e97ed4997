package keys

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// secret is what the database knows of a deployment secret.
type secret struct {
	fingerprint string
	value       []byte
}

// secret by its name, nil when there is none yet.
func (s *Store) secret(ctx context.Context, name string) (*secret, error) {
	rows, err := s.pool.Query(ctx, `SELECT fingerprint, value FROM keys.secrets WHERE name = $1`, name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return one(rows, func(row pgx.CollectableRow) (v secret, err error) {
		err = row.Scan(&v.fingerprint, &v.value)
		return v, err
	}, "read "+name)
}

// claimSecret stores a secret unless there is one, and returns the one that is there then.
func (s *Store) claimSecret(ctx context.Context, name string, claim secret) (*secret, error) {
	_, err := s.pool.Exec(ctx, `INSERT INTO keys.secrets (name, fingerprint, value) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
		name, claim.fingerprint, claim.value)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", name, err)
	}
	held, err := s.secret(ctx, name)
	if err == nil && held == nil {
		err = fmt.Errorf("store %s: it is gone again", name)
	}
	return held, err
}

type signingRow struct {
	id, state string
	sealed    []byte
}

// signingKeys lists the current key, then the next one, then earlier ones from young to old.
func (s *Store) signingKeys(ctx context.Context) ([]signingRow, error) {
	rows, err := s.pool.Query(ctx, `SELECT kid, state, private_key FROM keys.signing_keys
		ORDER BY array_position(ARRAY['current', 'next', 'previous'], state), state_since DESC, kid`)
	if err != nil {
		return nil, fmt.Errorf("read signing keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k signingRow, err error) {
		err = row.Scan(&k.id, &k.state, &k.sealed)
		return k, err
	})
	if err != nil {
		return nil, fmt.Errorf("read signing keys: %w", err)
	}
	return keys, nil
}

// addSigningKey adds a key; of two current ones only the first stays.
func (s *Store) addSigningKey(ctx context.Context, k signingRow) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO keys.signing_keys (kid, state, private_key) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
		k.id, k.state, k.sealed)
	if err != nil {
		return fmt.Errorf("store a signing key: %w", err)
	}
	return nil
}
