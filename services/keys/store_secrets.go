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

// replaceSecret notes that another secret took over, unless a replica was faster.
func (s *Store) replaceSecret(ctx context.Context, name, from, to string) error {
	_, err := s.pool.Exec(ctx, `UPDATE keys.secrets SET fingerprint = $3, value = NULL WHERE name = $1 AND fingerprint = $2`, name, from, to)
	if err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	return nil
}
