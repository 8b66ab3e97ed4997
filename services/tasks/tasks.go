package tasks

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/tasks"
)

// Tasks are the use cases of the service.
type Tasks struct {
	pool *pgxpool.Pool
}

// New makes the use cases over a pool whose schema is migrated.
func New(pool *pgxpool.Pool) *Tasks { return &Tasks{pool: pool} }

// List returns the tasks of the caller's account that its key covers, oldest first.
func (t *Tasks) List(ctx context.Context, _ contract.ListRequest) (contract.ListResponse, error) {
	rows, err := t.pool.Query(ctx, `SELECT id::text, account, name, status, created_at FROM tasks.tasks
		WHERE account = $1 ORDER BY created_at, id`, access.CallerFrom(ctx).Account)
	if err != nil {
		return contract.ListResponse{}, fmt.Errorf("list tasks: %w", err)
	}
	tasks, err := pgx.CollectRows(rows, pgx.RowToStructByPos[contract.Task])
	if err != nil {
		return contract.ListResponse{}, fmt.Errorf("list tasks: %w", err)
	}
	caller := access.CallerFrom(ctx)
	tasks = slices.DeleteFunc(tasks, func(t contract.Task) bool { return !caller.CoversTask(t.ID) })
	return contract.ListResponse{Tasks: tasks}, nil
}
