package directory

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

const applicationColumns = `a.id::text, a.account, a.name, a.client_id, a.owner::text, a.secret_hash, a.enabled,
	a.created_by, a.created_at, a.updated_at, a.last_login`

func scanApplication(row pgx.CollectableRow) (a application, err error) {
	err = row.Scan(&a.ID, &a.account, &a.Name, &a.ClientID, &a.owner, &a.hash, &a.Enabled, &a.CreatedBy, &a.CreatedAt, &a.UpdatedAt, &a.LastLogin)
	a.TenantID = contract.TenantID
	a.CreatedAt, a.UpdatedAt, a.LastLogin = a.CreatedAt.UTC(), a.UpdatedAt.UTC(), utc(a.LastLogin)
	return a, err
}

func (a application) subject() subject {
	return subject{id: a.ID, account: a.account, name: a.ClientID, kind: program}
}

// createApplication inserts an application with its rules. The count is kept by a lock: on the owner of an access key, on
// all applications for an application.
func (s *Store) createApplication(ctx context.Context, a application, rules []*rule) error {
	err := s.tx(ctx, func(tx pgx.Tx) error {
		if err := roomFor(ctx, tx, a); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO keys.directory_applications (id, account, name, client_id, owner, secret_hash, created_by, created_at, updated_at, tokens_after)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9)`,
			a.ID, a.account, a.Name, a.ClientID, a.owner, a.hash, a.CreatedBy, a.CreatedAt, a.CreatedAt.Truncate(time.Second))
		switch {
		case store.IsUnique(err, "directory_applications_client_id_key"):
			return errClientTaken
		case store.IsUnique(err, ""):
			return errTaken
		case err != nil:
			return err
		}
		for _, r := range rules {
			if err := s.insertRule(ctx, tx, r); err != nil {
				return err
			}
		}
		return s.record(ctx, tx, contract.ApplicationCreated, a.subject(), true, "")
	})
	if err != nil {
		return fmt.Errorf("create application: %w", err)
	}
	return nil
}

func roomFor(ctx context.Context, tx pgx.Tx, a application) error {
	var n int
	if a.owner == nil {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('sirocco.keys.applications', 0))`); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `SELECT count(*) FROM keys.directory_applications WHERE owner IS NULL`).Scan(&n)
		if err == nil && n >= maxApplications {
			err = errFull
		}
		return err
	}
	var id string
	err := tx.QueryRow(ctx, `SELECT id::text FROM keys.directory_users WHERE id = $1 FOR UPDATE`, a.owner).Scan(&id)
	switch {
	case store.IsNotFound(err):
		return errGone
	case err != nil:
		return err
	}
	err = tx.QueryRow(ctx, `SELECT count(*) FROM keys.directory_applications WHERE owner = $1`, a.owner).Scan(&n)
	if err == nil && n >= maxAccessKeys {
		err = errFull
	}
	return err
}

// applications that a condition selects, by name.
func (s *Store) applications(ctx context.Context, where string, args ...any) ([]application, error) {
	sql := fmt.Sprintf(`SELECT %s FROM keys.directory_applications a WHERE %s ORDER BY a.name, a.id LIMIT %d`, applicationColumns, where, maxApplications)
	return list(ctx, s.pool, "list applications", scanApplication, sql, args...)
}

// application by its id, nil when there is none.
func (s *Store) application(ctx context.Context, id string) (*application, error) {
	return one(ctx, s.pool, "read application", scanApplication, `SELECT `+applicationColumns+` FROM keys.directory_applications a WHERE a.id = $1`, id)
}

// enableApplication sets whether an application may sign in; what a disabled one holds is refused.
func (s *Store) enableApplication(ctx context.Context, a application, enabled bool, now time.Time) error {
	err := s.ending(ctx, a.ID, func(tx pgx.Tx) error {
		var was bool
		err := tx.QueryRow(ctx, `SELECT enabled FROM keys.directory_applications WHERE id = $1 FOR UPDATE`, a.ID).Scan(&was)
		switch {
		case store.IsNotFound(err):
			return errGone
		case err != nil || was == enabled:
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE keys.directory_applications SET enabled = $2, updated_at = $3 WHERE id = $1`, a.ID, enabled, now); err != nil {
			return err
		}
		reason := "enabled"
		if !enabled {
			reason = "disabled"
			if err := s.end(ctx, tx, program, a.ID, now, "application disabled"); err != nil {
				return err
			}
		}
		return s.record(ctx, tx, contract.ApplicationUpdated, a.subject(), enabled, reason)
	})
	if err != nil {
		return fmt.Errorf("enable application: %w", err)
	}
	return nil
}

// renewSecret replaces the secret and forgets the refresh tokens that the old one earned.
func (s *Store) renewSecret(ctx context.Context, a application, now time.Time) error {
	err := s.tx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE keys.directory_applications SET secret_hash = $2, updated_at = $3 WHERE id = $1`, a.ID, a.hash, now)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errGone
		}
		if _, err := tx.Exec(ctx, `DELETE FROM keys.directory_refresh WHERE subject = $1`, a.ID); err != nil {
			return err
		}
		return s.record(ctx, tx, contract.ApplicationUpdated, a.subject(), a.Enabled, "secret renewed")
	})
	if err != nil {
		return fmt.Errorf("renew secret: %w", err)
	}
	return nil
}

// deleteApplication removes an application and its rules, and refuses what it was given.
func (s *Store) deleteApplication(ctx context.Context, a application, now time.Time) error {
	err := s.ending(ctx, a.ID, func(tx pgx.Tx) error { return s.removeApplication(ctx, tx, a, now) })
	if err != nil {
		return fmt.Errorf("delete application: %w", err)
	}
	return nil
}

func (s *Store) removeApplication(ctx context.Context, tx pgx.Tx, a application, now time.Time) error {
	if err := s.end(ctx, tx, program, a.ID, now, "application deleted"); err != nil {
		return err
	}
	if err := s.removeRulesOf(ctx, tx, a.ID, now); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM keys.directory_applications WHERE id = $1`, a.ID); err != nil {
		return err
	}
	return s.record(ctx, tx, contract.ApplicationDeleted, a.subject(), false, "")
}
