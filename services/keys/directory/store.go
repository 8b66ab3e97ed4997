package directory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// Why the store refuses a change.
var (
	// errTaken: another row has the name.
	errTaken = errors.New("the name is taken")
	// errClientTaken: another name led to the same client id.
	errClientTaken = errors.New("the client id is taken")
	// errFull: there are as many as are allowed.
	errFull = errors.New("as many as are allowed")
	// errGone: the subject was deleted meanwhile, or to a sign-in also disabled or given another secret.
	errGone = errors.New("the subject is not what it was")
	// errReplayed: the refresh token was used meanwhile.
	errReplayed = errors.New("the refresh token was used meanwhile")
)

// Revoke writes down, with its event, in the transaction that ends a right, that tokens are refused before they expire.
type Revoke func(ctx context.Context, tx pgx.Tx, journal *bus.Journal, r keys.TokenRevocation) error

// Store is the directory's tables. A change, its event and its revocations are one transaction.
type Store struct {
	pool    *pgxpool.Pool
	tx      func(context.Context, func(pgx.Tx) error) error
	journal *bus.Journal
	revoke  Revoke
}

// NewStore makes the store over a pool whose schema is migrated; tx wakes the outbox when it commits.
func NewStore(pool *pgxpool.Pool, tx func(context.Context, func(pgx.Tx) error) error, journal *bus.Journal, revoke Revoke) *Store {
	return &Store{pool: pool, tx: tx, journal: journal, revoke: revoke}
}

// kind tells users from applications.
type kind string

const (
	person  kind = contract.UserSubject
	program kind = contract.ApplicationSubject
)

// subject is a user or an application as far as signing in and deciding about it need it.
type subject struct {
	id, account, name string
	kind              kind
	hash              string
	enabled           bool
	mustChange        bool
	email             string
	// owner of an access key, whose rights it has; nil for anything else.
	owner       *string
	tokensAfter time.Time
	// roles that its access rules give it now.
	roles []int
}

func (s subject) fact(enabled bool, reason string) contract.SubjectFact {
	return contract.SubjectFact{SubjectID: s.id, SubjectType: string(s.kind), Name: s.name, Enabled: enabled, Reason: reason}
}

// reader is a pool or a transaction.
type reader interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// userSubjectFrom and applicationSubjectFrom select a subject from a table or from the rows that a change returned.
func userSubjectFrom(table string) string {
	return `SELECT u.id::text, u.account, u.email, 'user', u.password_hash, true, u.must_change, u.email, NULL::text, u.tokens_after FROM ` + table + ` u`
}

func applicationSubjectFrom(table string) string {
	return `SELECT a.id::text, a.account, a.client_id, 'app', a.secret_hash, a.enabled, false, '', a.owner::text, a.tokens_after FROM ` + table + ` a`
}

var (
	userSubject        = userSubjectFrom("keys.directory_users")
	applicationSubject = applicationSubjectFrom("keys.directory_applications")
	// anySubject takes an id.
	anySubject = userSubject + ` WHERE u.id = $1 UNION ALL ` + applicationSubject + ` WHERE a.id = $1`
)

func scanSubject(row pgx.CollectableRow) (s subject, err error) {
	err = row.Scan(&s.id, &s.account, &s.name, &s.kind, &s.hash, &s.enabled, &s.mustChange, &s.email, &s.owner, &s.tokensAfter)
	return s, err
}

// subject with its roles, nil when there is none.
func (s *Store) subject(ctx context.Context, id string) (*subject, error) {
	return readSubject(ctx, s.pool, anySubject, id)
}

// named finds who signs in: a user by its e-mail address in any case; an application by its client id, else by its id or name.
func (s *Store) named(ctx context.Context, k kind, name string) (*subject, error) {
	if k == person {
		return readSubject(ctx, s.pool, userSubject+` WHERE lower(u.email) = lower($1)`, name)
	}
	return readSubject(ctx, s.pool, applicationSubject+` WHERE a.client_id = $1 OR a.id::text = lower($1) OR a.name = $1 AND a.owner IS NULL
		ORDER BY a.client_id = $1 DESC, a.id::text = lower($1) DESC LIMIT 1`, name)
}

func readSubject(ctx context.Context, from reader, sql string, args ...any) (*subject, error) {
	found, err := one(ctx, from, "read subject", scanSubject, sql, args...)
	if err != nil || found == nil {
		return nil, err
	}
	if found.roles, err = rolesOf(ctx, from, found); err != nil {
		return nil, err
	}
	return found, nil
}

// rolesOf reads the roles that take effect: those of rules about the whole install. An access key has its owner's too. A
// user that must change its password first has none.
func rolesOf(ctx context.Context, from reader, s *subject) ([]int, error) {
	if s.mustChange {
		return nil, nil
	}
	return list(ctx, from, "read roles", pgx.RowTo[int], `SELECT DISTINCT role_id FROM keys.directory_rules
		WHERE subject::text IN ($1, $2) AND deleted_at IS NULL AND scope_type IN ('system', 'tenant') ORDER BY role_id`, s.id, s.owner)
}

// end refuses every token of a subject that was issued up to now and forgets its refresh tokens; errGone tells that the
// subject is not there any more.
func (s *Store) end(ctx context.Context, tx pgx.Tx, k kind, id string, now time.Time, reason string) error {
	// The subject's row first: a sign-in that holds it has written its refresh token when this goes on.
	if err := s.withdraw(ctx, tx, k, id, now, reason); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `DELETE FROM keys.directory_refresh WHERE subject = $1`, id)
	return err
}

// withdraw refuses the access tokens of a subject that were issued up to now. Tokens count seconds, so the first good one
// is of the next second; whoever signs in sooner gets a token that is dated there, and the next withdrawal in that second
// goes one further.
func (s *Store) withdraw(ctx context.Context, tx pgx.Tx, k kind, id string, now time.Time, reason string) error {
	table := "keys.directory_users"
	if k == program {
		table = "keys.directory_applications"
	}
	var after time.Time
	err := tx.QueryRow(ctx, `UPDATE `+table+` SET tokens_after = greatest($2, tokens_after + interval '1 second') WHERE id = $1 RETURNING tokens_after`,
		id, now.Truncate(time.Second).Add(time.Second)).Scan(&after)
	if store.IsNotFound(err) {
		return errGone
	}
	if err != nil {
		return err
	}
	after = after.UTC()
	return s.revoke(ctx, tx, s.journal, keys.TokenRevocation{
		Subject: id, IssuedBefore: after, ExpiresAt: after.Add(keys.ConsoleTokenLife + keys.TokenLeeway), Reason: reason,
	})
}

// publishPatience is how long an answer waits for a revocation to reach the stream.
const publishPatience = 2 * time.Second

// ending runs a transaction that revokes the tokens of a subject, and returns when everybody can know of it, or after two
// seconds without: then the right is gone here, and elsewhere as soon as the bus is back. It polls, because the relay that
// publishes the event may run in another replica.
func (s *Store) ending(ctx context.Context, id string, change func(pgx.Tx) error) error {
	if err := s.tx(ctx, change); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, publishPatience)
	defer cancel()
	event := keys.TokenRevoked.Subject(access.DefaultAccount, id)
	for delay := time.Millisecond; s.pending(ctx, event); delay = min(2*delay, 50*time.Millisecond) {
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
	return nil
}

// pending tells whether an event still waits in the outbox.
func (s *Store) pending(ctx context.Context, subject string) (waits bool) {
	err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM keys.outbox WHERE subject = $1)`, subject).Scan(&waits)
	return err == nil && waits
}

// record writes an event about a subject.
func (s *Store) record(ctx context.Context, tx pgx.Tx, e rpc.Event[contract.SubjectFact], who subject, enabled bool, reason string) error {
	return bus.Record(ctx, tx, s.journal, e, bus.Fact{Account: who.account, Entity: who.id}, who.fact(enabled, reason))
}

// list reads the rows of a query; doing names it in an error.
func list[T any](ctx context.Context, from reader, doing string, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := from.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	all, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return all, nil
}

// one reads the only row of a query, nil when there is none.
func one[T any](ctx context.Context, from reader, doing string, scan pgx.RowToFunc[T], sql string, args ...any) (*T, error) {
	all, err := list(ctx, from, doing, scan, sql, args...)
	switch {
	case err != nil || len(all) == 0:
		return nil, err
	case len(all) > 1:
		return nil, fmt.Errorf("%s: %w", doing, pgx.ErrTooManyRows)
	}
	return &all[0], nil
}

// count reads the number that a query gives.
func count(ctx context.Context, from reader, doing, sql string, args ...any) (n int, err error) {
	if err = from.QueryRow(ctx, sql, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("%s: %w", doing, err)
	}
	return n, nil
}

// utc is a moment of the database in the zone of the wire.
func utc(t *time.Time) *time.Time {
	if t != nil {
		*t = t.UTC()
	}
	return t
}
