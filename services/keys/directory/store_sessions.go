package directory

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

const (
	// refreshLimit bounds the refresh tokens of one subject; the oldest make room.
	refreshLimit = 200
	// chainLimit bounds the access tokens of a chain that are revoked one by one.
	chainLimit = 200
)

// refreshToken is one stored refresh token.
type refreshToken struct {
	digest              []byte
	chain, subject      string
	client, jti         string
	scopes              []string
	issuedAt, expiresAt time.Time
	usedAt              *time.Time
}

// refreshToken by its digest, nil when there is none.
func (s *Store) refreshToken(ctx context.Context, digest []byte) (*refreshToken, error) {
	return one(ctx, s.pool, "read refresh token", scanRefreshToken, `SELECT digest, chain::text, subject::text, client, jti, scopes, issued_at, expires_at, used_at
		FROM keys.directory_refresh WHERE digest = $1`, digest)
}

func scanRefreshToken(row pgx.CollectableRow) (t refreshToken, err error) {
	err = row.Scan(&t.digest, &t.chain, &t.subject, &t.client, &t.jti, &t.scopes, &t.issuedAt, &t.expiresAt, &t.usedAt)
	return t, err
}

// open writes a session down. sign makes its tokens for the subject as it is in this transaction, and returns the
// scopes that they carry.
func (s *Store) open(ctx context.Context, of session, t refreshToken, sign func(subject) ([]access.Scope, error)) error {
	err := s.tx(ctx, func(tx pgx.Tx) error {
		who, err := lockSubject(ctx, tx, of, t.issuedAt)
		if err != nil {
			return err
		}
		if of.replaces != nil {
			tag, err := tx.Exec(ctx, `UPDATE keys.directory_refresh SET used_at = $2 WHERE digest = $1 AND used_at IS NULL`, of.replaces, t.issuedAt)
			if err != nil {
				return err
			}
			if tag.RowsAffected() == 0 {
				return errReplayed
			}
		}
		scopes, err := sign(*who)
		if err != nil {
			return err
		}
		if err := insertRefresh(ctx, tx, t); err != nil {
			return err
		}
		if of.replaces == nil {
			if err := s.forgive(ctx, tx, of); err != nil {
				return err
			}
		}
		return bus.Record(ctx, tx, s.journal, contract.SignedIn, bus.Fact{Account: who.account, Entity: who.id}, contract.SignInFact{
			SubjectID: who.id, SubjectType: string(who.kind), Name: who.name, Grant: of.grant, ClientID: of.client, JTI: t.jti,
			Scopes: scopes, Address: access.CallerFrom(ctx).Address,
		})
	})
	if err != nil {
		return fmt.Errorf("sign in: %w", err)
	}
	return nil
}

// lockSubject notes the sign-in on the subject's row, which orders it against everything that ends rights.
func lockSubject(ctx context.Context, tx pgx.Tx, of session, now time.Time) (*subject, error) {
	sql := `WITH u AS (UPDATE keys.directory_users SET last_login = $2 WHERE id = $1 AND password_hash = $3 RETURNING *) ` +
		userSubjectFrom(`u`)
	if of.subject.kind == program {
		sql = `WITH a AS (UPDATE keys.directory_applications SET last_login = $2 WHERE id = $1 AND secret_hash = $3 AND enabled RETURNING *) ` +
			applicationSubjectFrom(`a`)
	}
	who, err := readSubject(ctx, tx, sql, of.subject.id, now, of.subject.hash)
	if err == nil && who == nil {
		err = errGone
	}
	return who, err
}

func insertRefresh(ctx context.Context, tx pgx.Tx, t refreshToken) error {
	_, err := tx.Exec(ctx, `INSERT INTO keys.directory_refresh (digest, chain, subject, client, jti, scopes, issued_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`, t.digest, t.chain, t.subject, t.client, t.jti, t.scopes, t.issuedAt, t.expiresAt)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `DELETE FROM keys.directory_refresh WHERE digest IN
		(SELECT digest FROM keys.directory_refresh WHERE subject = $1 ORDER BY issued_at DESC, digest OFFSET $2)`, t.subject, refreshLimit)
	return err
}

// breakChain ends everything that grew from one sign-in: its refresh tokens and the access tokens that still live.
func (s *Store) breakChain(ctx context.Context, t refreshToken, now time.Time) error {
	err := s.tx(ctx, func(tx pgx.Tx) error {
		type issued struct {
			JTI string
			At  time.Time
		}
		all, err := list(ctx, tx, "forget", pgx.RowToStructByPos[issued], `DELETE FROM keys.directory_refresh WHERE chain = $1 RETURNING jti, issued_at`, t.chain)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return nil // another replay was faster
		}
		revoked := 0
		for _, token := range all {
			// One second more than the life, because a token may be dated ahead by that.
			expires := token.At.Add(keys.ConsoleTokenLife + keys.TokenLeeway + time.Second)
			if revoked == chainLimit || !now.Before(expires) {
				continue
			}
			revoked++
			revocation := keys.TokenRevocation{JTI: token.JTI, ExpiresAt: expires, Reason: "refresh token replayed"}
			if err := s.revoke(ctx, tx, s.journal, revocation); err != nil {
				return err
			}
		}
		who, err := readSubject(ctx, tx, anySubject, t.subject)
		if err != nil || who == nil {
			return err
		}
		return bus.Record(ctx, tx, s.journal, contract.RefreshReplayed, bus.Fact{Account: who.account, Entity: who.id}, contract.SignInFact{
			SubjectID: who.id, SubjectType: string(who.kind), Name: who.name, Grant: contract.RefreshGrant, ClientID: t.client,
			Address: access.CallerFrom(ctx).Address,
		})
	})
	if err != nil {
		return fmt.Errorf("revoke a chain of tokens: %w", err)
	}
	return nil
}

// blockedUntil is when a mark may be tried again; the zero time when it is not blocked.
func (s *Store) blockedUntil(ctx context.Context, m mark) (time.Time, error) {
	var until *time.Time
	err := s.pool.QueryRow(ctx, `SELECT blocked_until FROM keys.directory_failures WHERE name = $1`, m.digest[:]).Scan(&until)
	switch {
	case store.IsNotFound(err), err == nil && until == nil:
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("read failures: %w", err)
	}
	return *until, nil
}

// fail remembers a failure. Its event is folded: it is written when the name is blocked, and for the rest when the name
// is forgotten or forgiven.
func (s *Store) fail(ctx context.Context, m mark, grant string, now time.Time) error {
	err := s.tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO keys.directory_failures (name, subject, subject_type, failures, first_at, last_at)
			VALUES ($1, $2, $3, 0, $4, $4) ON CONFLICT DO NOTHING`, m.digest[:], m.subject, m.kind, now)
		if err != nil {
			return err
		}
		var t tally
		var told int
		var until *time.Time
		err = tx.QueryRow(ctx, `SELECT failures, told, first_at, blocked_until FROM keys.directory_failures WHERE name = $1 FOR UPDATE`, m.digest[:]).
			Scan(&t.failures, &told, &t.firstAt, &until)
		if err != nil {
			return err
		}
		if until != nil {
			t.blockedUntil = *until
		}
		next := t.after(now)
		untold := max(t.failures-told, 0) + 1
		if next.failures <= t.failures { // counted anew; what was not told of before is told with this one
			told = 0
		}
		until = nil
		if !next.blockedUntil.IsZero() {
			until, told = &next.blockedUntil, next.failures
		}
		_, err = tx.Exec(ctx, `UPDATE keys.directory_failures SET failures = $2, told = $3, first_at = $4, last_at = $5, blocked_until = $6 WHERE name = $1`,
			m.digest[:], next.failures, told, next.firstAt, now, until)
		if err != nil || until == nil {
			return err
		}
		return s.tellFailures(ctx, tx, failed{Subject: m.subject, Kind: m.kind, Count: untold}, grant)
	})
	if err != nil {
		return fmt.Errorf("remember a failed sign-in: %w", err)
	}
	return nil
}

// failed is how often signing in as one subject, or as nobody, failed.
type failed struct {
	Subject *string
	Kind    kind
	Count   int
}

func (s *Store) tellFailures(ctx context.Context, tx pgx.Tx, f failed, grant string) error {
	fact := contract.SignInFact{SubjectType: string(f.Kind), Grant: grant, Count: f.Count, Address: access.CallerFrom(ctx).Address}
	account, entity := access.DefaultAccount, "unknown"
	if f.Subject != nil {
		who, err := readSubject(ctx, tx, anySubject, *f.Subject)
		if err != nil {
			return err
		}
		entity, fact.SubjectID = *f.Subject, *f.Subject
		if who != nil {
			account, fact.Name = who.account, who.name
		}
	}
	return bus.Record(ctx, tx, s.journal, contract.SignInFailed, bus.Fact{Account: account, Entity: entity}, fact)
}

// forgive forgets the failures of a subject that proved itself, and tells of those that no event told of.
func (s *Store) forgive(ctx context.Context, tx pgx.Tx, of session) error {
	var untold int
	err := tx.QueryRow(ctx, `DELETE FROM keys.directory_failures WHERE name = $1 RETURNING failures - told`, of.mark.digest[:]).Scan(&untold)
	switch {
	case store.IsNotFound(err):
		return nil
	case err != nil || untold <= 0:
		return err
	}
	return s.tellFailures(ctx, tx, failed{Subject: &of.subject.id, Kind: of.subject.kind, Count: untold}, of.grant)
}
