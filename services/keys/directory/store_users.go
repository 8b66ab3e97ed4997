package directory

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
)

const userColumns = `u.id::text, u.account, u.email, u.first_name, u.last_name, u.password_hash, u.password_from, u.must_change,
	u.created_by, u.created_at, u.updated_at, u.last_login`

func scanUser(row pgx.CollectableRow) (u user, err error) {
	err = row.Scan(&u.ID, &u.account, &u.Email, &u.FirstName, &u.LastName, &u.hash, &u.passwordFrom, &u.mustChange,
		&u.CreatedBy, &u.CreatedAt, &u.UpdatedAt, &u.LastLogin)
	u.Username, u.IsLocal, u.Groups = u.Email, true, []string{}
	u.CreatedAt, u.UpdatedAt, u.LastLogin = u.CreatedAt.UTC(), u.UpdatedAt.UTC(), utc(u.LastLogin)
	return u, err
}

func (u user) subject() subject {
	return subject{id: u.ID, account: u.account, name: u.Email, kind: person, email: u.Email}
}

// createUser inserts a user and, when it is given a rule, that too. errTaken tells that the address is somebody's.
func (s *Store) createUser(ctx context.Context, u user, r *rule) error {
	err := s.tx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `INSERT INTO keys.directory_users (id, account, email, first_name, last_name, password_hash, password_from,
				must_change, created_by, created_at, updated_at, tokens_after)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11) ON CONFLICT DO NOTHING`,
			u.ID, u.account, u.Email, u.FirstName, u.LastName, u.hash, u.passwordFrom, u.mustChange, u.CreatedBy, u.CreatedAt, u.CreatedAt.Truncate(time.Second))
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errTaken
		}
		if r != nil {
			if err := s.insertRule(ctx, tx, r); err != nil {
				return err
			}
		}
		return s.record(ctx, tx, contract.UserCreated, u.subject(), true, "")
	})
	if err != nil {
		return fmt.Errorf("create user: %w", err)
	}
	return nil
}

func (s *Store) users(ctx context.Context, q query) ([]contract.User, error) {
	public := func(row pgx.CollectableRow) (contract.User, error) {
		u, err := scanUser(row)
		return u.User, err
	}
	return list(ctx, s.pool, "list users", public, `SELECT `+userColumns+` FROM keys.directory_users u`+q.condition()+q.order+q.page, q.args...)
}

func (s *Store) countUsers(ctx context.Context, q query) (int, error) {
	return count(ctx, s.pool, "count users", `SELECT count(*) FROM keys.directory_users u`+q.condition(), q.args...)
}

// user by its id, nil when there is none.
func (s *Store) user(ctx context.Context, id string) (*user, error) {
	return s.oneUser(ctx, `u.id = $1`, id)
}

// userOf is the user with an e-mail address, nil when there is none.
func (s *Store) userOf(ctx context.Context, email string) (*user, error) {
	return s.oneUser(ctx, `lower(u.email) = lower($1)`, email)
}

func (s *Store) oneUser(ctx context.Context, where, arg string) (*user, error) {
	return one(ctx, s.pool, "read user", scanUser, `SELECT `+userColumns+` FROM keys.directory_users u WHERE `+where, arg)
}

// usersWithPasswordFrom lists users whose password came from there; there are few, because it is one per first administrator.
func (s *Store) usersWithPasswordFrom(ctx context.Context, origin string) ([]user, error) {
	return list(ctx, s.pool, "read users", scanUser,
		`SELECT `+userColumns+` FROM keys.directory_users u WHERE u.password_from = $1 ORDER BY u.created_at LIMIT 100`, origin)
}

// setPassword gives a user another password and ends its logins; errGone tells that the user was deleted meanwhile.
func (s *Store) setPassword(ctx context.Context, u user, now time.Time, reason string) error {
	err := s.ending(ctx, u.ID, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE keys.directory_users SET password_hash = $2, password_from = $3, must_change = $4, updated_at = $5 WHERE id = $1`,
			u.ID, u.hash, u.passwordFrom, u.mustChange, now)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errGone
		}
		if err := s.end(ctx, tx, person, u.ID, now, "password "+reason); err != nil {
			return err
		}
		return s.record(ctx, tx, contract.PasswordChanged, u.subject(), true, reason)
	})
	if err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	return nil
}

func (s *Store) signOut(ctx context.Context, u user, now time.Time) error {
	err := s.ending(ctx, u.ID, func(tx pgx.Tx) error {
		if err := s.end(ctx, tx, person, u.ID, now, "signed out"); err != nil {
			return err
		}
		return s.record(ctx, tx, contract.UserSignedOut, u.subject(), true, "")
	})
	if err != nil {
		return fmt.Errorf("sign out: %w", err)
	}
	return nil
}

// deleteUser removes a user, its access keys and its rules, and refuses what they were given.
func (s *Store) deleteUser(ctx context.Context, u user, now time.Time) error {
	err := s.ending(ctx, u.ID, func(tx pgx.Tx) error {
		if err := s.end(ctx, tx, person, u.ID, now, "user deleted"); err != nil {
			return err
		}
		owned, err := list(ctx, tx, "read access keys", scanApplication,
			`SELECT `+applicationColumns+` FROM keys.directory_applications a WHERE a.owner = $1 FOR UPDATE`, u.ID)
		if err != nil {
			return err
		}
		for _, a := range owned {
			if err := s.removeApplication(ctx, tx, a, now); err != nil {
				return err
			}
		}
		if err := s.removeRulesOf(ctx, tx, u.ID, now); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM keys.directory_users WHERE id = $1`, u.ID); err != nil {
			return err
		}
		return s.record(ctx, tx, contract.UserDeleted, u.subject(), false, "")
	})
	if err != nil {
		return fmt.Errorf("delete user: %w", err)
	}
	return nil
}
