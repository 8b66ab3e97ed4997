package keys

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

func (s *Store) services(ctx context.Context) ([]contract.IssuingService, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+serviceColumns+` FROM keys.services s ORDER BY s.position`)
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	services, err := pgx.CollectRows(rows, pgx.RowToStructByPos[contract.IssuingService])
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	return services, nil
}

// service by its id, nil when it is not registered.
func (s *Store) service(ctx context.Context, id string) (*contract.IssuingService, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+serviceColumns+` FROM keys.services s WHERE s.id = $1`, id)
	if err != nil {
		return nil, fmt.Errorf("read service: %w", err)
	}
	return one(rows, pgx.RowToStructByPos[contract.IssuingService], "read service")
}

// serviceNamed finds a service by its name, nil when it is not registered.
func (s *Store) serviceNamed(ctx context.Context, name string) (*contract.IssuingService, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+serviceColumns+` FROM keys.services s WHERE s.name = $1`, name)
	if err != nil {
		return nil, fmt.Errorf("read service: %w", err)
	}
	return one(rows, pgx.RowToStructByPos[contract.IssuingService], "read service")
}

// account of a client, empty when it is unknown.
func (s *Store) account(ctx context.Context, client string) (account string, err error) {
	err = s.pool.QueryRow(ctx, `SELECT account FROM keys.clients WHERE id = $1`, client).Scan(&account)
	if err != nil && !store.IsNotFound(err) {
		return "", fmt.Errorf("read client: %w", err)
	}
	return account, nil
}
