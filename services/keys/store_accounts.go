package keys

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

const accountColumns = `a.id, a.name, ARRAY(SELECT c.id FROM keys.clients c WHERE c.account = a.id ORDER BY c.id),
	a.max_functions, a.max_tasks, a.max_telemetries, a.max_registry_credentials, a.updated_at`

func scanAccount(row pgx.CollectableRow) (a contract.Account, err error) {
	err = row.Scan(&a.NCAID, &a.Name, &a.AdminClientIDs, &a.MaxFunctionsAllowed, &a.MaxTasksAllowed, &a.MaxTelemetriesAllowed,
		&a.MaxRegistryCredentialsAllowed, &a.LastUpdatedAt)
	a.LastUpdatedAt = a.LastUpdatedAt.UTC().Truncate(time.Millisecond)
	return a, err
}

// accountByID is an account, nil when there is none.
func (s *Store) accountByID(ctx context.Context, id string) (*contract.Account, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+accountColumns+` FROM keys.accounts a WHERE a.id = $1`, id)
	if err != nil {
		return nil, fmt.Errorf("read account: %w", err)
	}
	return one(rows, scanAccount, "read account")
}

// accounts lists those after an id, or only one.
func (s *Store) accounts(ctx context.Context, only, after string, limit int) ([]contract.Account, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+accountColumns+` FROM keys.accounts a WHERE a.id > $1 AND ($2 = '' OR a.id = $2) ORDER BY a.id LIMIT $3`,
		after, only, limit)
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	found, err := pgx.CollectRows(rows, scanAccount)
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	return found, nil
}

func accountExists(id string) error {
	return problem.New(problem.Conflict, "Account with ncaId '%s' already exists", id)
}

func clientBound(id string) error {
	return problem.New(problem.Conflict, "client '%s' is already bound to an account", id)
}

// accountIsFree refuses an id or a client that is taken. The insert decides; this is for what happens before it.
func (s *Store) accountIsFree(ctx context.Context, id, client string) error {
	var taken, bound bool
	err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM keys.accounts WHERE id = $1), EXISTS (SELECT FROM keys.clients WHERE id = $2)`, id, client).
		Scan(&taken, &bound)
	switch {
	case err != nil:
		return fmt.Errorf("look for account: %w", err)
	case taken:
		return accountExists(id)
	case bound:
		return clientBound(client)
	}
	return nil
}

// createAccount adds an account with its clients and its event.
func (s *Store) createAccount(ctx context.Context, a contract.Account) error {
	return s.tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO keys.accounts (id, name, max_functions, max_tasks, max_telemetries, max_registry_credentials, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $7)`, a.NCAID, a.Name, a.MaxFunctionsAllowed, a.MaxTasksAllowed, a.MaxTelemetriesAllowed,
			a.MaxRegistryCredentialsAllowed, a.LastUpdatedAt)
		switch {
		case store.IsUnique(err, ""):
			return accountExists(a.NCAID)
		case err != nil:
			return fmt.Errorf("create account: %w", err)
		}
		if err := bindClients(ctx, tx, a.NCAID, a.AdminClientIDs); err != nil {
			return err
		}
		return bus.Record(ctx, tx, s.journal, contract.AccountCreated, bus.Fact{Account: a.NCAID, Entity: a.NCAID}, contract.AccountResponse{Account: a})
	})
}

func bindClients(ctx context.Context, tx pgx.Tx, account string, clients []string) error {
	for _, client := range clients {
		_, err := tx.Exec(ctx, `INSERT INTO keys.clients (id, account) VALUES ($1, $2)`, client, account)
		switch {
		case store.IsUnique(err, ""):
			return clientBound(client)
		case err != nil:
			return fmt.Errorf("bind client: %w", err)
		}
	}
	return nil
}

// changeAccount changes an account under a lock, with its event; nil when there is none. A client that goes takes its
// tokens along.
func (s *Store) changeAccount(ctx context.Context, id string, now time.Time, edit func(*contract.Account) error) (changed *contract.Account, err error) {
	err = s.tx(ctx, func(tx pgx.Tx) error {
		if changed, err = lockAccount(ctx, tx, id); err != nil || changed == nil {
			return err
		}
		before := slices.Clone(changed.AdminClientIDs)
		if err := edit(changed); err != nil {
			return err
		}
		changed.LastUpdatedAt = now.Truncate(time.Millisecond)
		_, err = tx.Exec(ctx, `UPDATE keys.accounts SET name = $2, max_functions = $3, max_tasks = $4, max_telemetries = $5, max_registry_credentials = $6,
			updated_at = $7 WHERE id = $1`, id, changed.Name, changed.MaxFunctionsAllowed, changed.MaxTasksAllowed, changed.MaxTelemetriesAllowed,
			changed.MaxRegistryCredentialsAllowed, changed.LastUpdatedAt)
		if err != nil {
			return fmt.Errorf("change account: %w", err)
		}
		gone := slices.DeleteFunc(slices.Clone(before), func(c string) bool { return slices.Contains(changed.AdminClientIDs, c) })
		if err := s.unbindClients(ctx, tx, gone, now); err != nil {
			return err
		}
		var fresh []string
		for i, c := range changed.AdminClientIDs {
			if i >= len(before)-len(gone) {
				fresh = append(fresh, c)
			}
		}
		if err := bindClients(ctx, tx, id, fresh); err != nil {
			return err
		}
		return bus.Record(ctx, tx, s.journal, contract.AccountUpdated, bus.Fact{Account: id, Entity: id}, contract.AccountResponse{Account: *changed})
	})
	if err != nil {
		return nil, err
	}
	return changed, nil
}

func lockAccount(ctx context.Context, tx pgx.Tx, id string) (*contract.Account, error) {
	rows, err := tx.Query(ctx, `SELECT `+accountColumns+` FROM keys.accounts a WHERE a.id = $1 FOR UPDATE OF a`, id)
	if err != nil {
		return nil, fmt.Errorf("lock account: %w", err)
	}
	return one(rows, scanAccount, "lock account")
}

// unbindClients takes clients away and refuses the tokens that they have.
func (s *Store) unbindClients(ctx context.Context, tx pgx.Tx, clients []string, now time.Time) error {
	if len(clients) == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, `DELETE FROM keys.clients WHERE id = ANY($1)`, clients); err != nil {
		return fmt.Errorf("unbind clients: %w", err)
	}
	for _, client := range clients {
		// A token counts its moment of issue in whole seconds.
		err := RecordRevocation(ctx, tx, s.journal, contract.TokenRevocation{
			Subject: client, IssuedBefore: now.Truncate(time.Second).Add(time.Second), ExpiresAt: now.Add(tokenMemory), Reason: "the client left its account",
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// deleteAccount removes an account, its clients and their tokens; found is false when there is none. Its keys are dead
// from then on, see byHash and endOrphans.
func (s *Store) deleteAccount(ctx context.Context, id string, now time.Time) (found bool, err error) {
	err = s.tx(ctx, func(tx pgx.Tx) error {
		account, err := lockAccount(ctx, tx, id)
		if err != nil || account == nil {
			return err
		}
		found = true
		if err := s.unbindClients(ctx, tx, account.AdminClientIDs, now); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM keys.accounts WHERE id = $1`, id); err != nil {
			return fmt.Errorf("delete account: %w", err)
		}
		return bus.Record(ctx, tx, s.journal, contract.AccountDeleted, bus.Fact{Account: id, Entity: id}, contract.AccountResponse{Account: *account})
	})
	return found, err
}

// endOrphans deletes at most limit keys whose account is gone, with their events, and then the owners that were theirs.
func (s *Store) endOrphans(ctx context.Context, limit int) (n int, err error) {
	err = s.tx(ctx, func(tx pgx.Tx) error {
		ended, err := s.removeAll(ctx, tx, target{`k.id IN (SELECT o.id FROM keys.keys o WHERE o.account IN (
			SELECT DISTINCT w.account FROM keys.owners w WHERE NOT EXISTS (SELECT FROM keys.accounts a WHERE a.id = w.account))
			LIMIT $1 FOR UPDATE SKIP LOCKED)`, []any{limit}}, reasonAccountDeleted)
		if n = len(ended); err != nil || n == limit {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM keys.owners w WHERE NOT EXISTS (SELECT FROM keys.accounts a WHERE a.id = w.account)
			AND NOT EXISTS (SELECT FROM keys.keys k WHERE k.owner_type = w.owner_type AND k.owner_id = w.owner_id)`)
		if err != nil {
			return fmt.Errorf("forget owners: %w", err)
		}
		return nil
	})
	return n, err
}

// client by its id, nil when it is unknown.
func (s *Store) client(ctx context.Context, id string) (*contract.AccountClient, error) {
	rows, err := s.pool.Query(ctx, `SELECT c.id, c.account, coalesce(a.name, '') FROM keys.clients c LEFT JOIN keys.accounts a ON a.id = c.account WHERE c.id = $1`, id)
	if err != nil {
		return nil, fmt.Errorf("read client: %w", err)
	}
	return one(rows, pgx.RowToStructByPos[contract.AccountClient], "read client")
}
