package keys

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// What an insert may be refused for.
var (
	errBusy      = errors.New("another key of this owner and service is being created")
	errFull      = errors.New("the owner has as many keys as the service allows")
	errSuspended = errors.New("the owner is suspended")
	errNoHash    = errors.New("no free hash in 50 draws")
	errOverlap   = errors.New("a rotation of this key is not over")
)

const (
	// drawLimit bounds the draws for a free hash; a second one never happens with a working random source.
	drawLimit = 50
	// listLimit bounds a list: the live keys, which a service's limit keeps few, and the dead ones that wait for the reaper.
	listLimit = 1000
	ownerUser = "USER"
)

// Store is everything the service keeps. A change and its event are one transaction.
type Store struct {
	pool    *pgxpool.Pool
	tx      func(context.Context, func(pgx.Tx) error) error
	journal *bus.Journal
	repeats *store.Idempotency
	inbox   *store.Inbox
}

// NewStore makes the store over a pool whose schema is migrated; tx wakes the outbox when it commits.
func NewStore(pool *pgxpool.Pool, tx func(context.Context, func(pgx.Tx) error) error, journal *bus.Journal) *Store {
	return &Store{pool: pool, tx: tx, journal: journal, repeats: store.NewIdempotency("keys"), inbox: store.NewInbox("keys")}
}

// record is one stored key.
type record struct {
	id, hash, tail, account string
	ownerID, serviceID      string
	suspended               bool
	// ownerSuspended is known only of a key that is looked up by its hash; an account that is gone counts as a suspended owner.
	ownerSuspended       bool
	description          string
	audiences            []string
	authorizations       authorizations
	version              int64
	createdAt, updatedAt time.Time
	expiresAt, deletesAt time.Time
	// authorizedAt is when the authorizations were last written.
	authorizedAt time.Time
	notBefore    *time.Time
	rateLimit    *access.RateLimit
	cidrs        []string
	// rotatedFrom is the key that this one took over from, empty for none. superseded tells that another took over from
	// this one.
	rotatedFrom string
	superseded  bool
	// keyType and clusterID are set for keys of hosted registrations.
	keyType, clusterID string
	used               use
}

// use is when, from where and at which service a key was last let through.
type use struct {
	at               *time.Time
	address, service string
}

// status at a moment: expiry is computed, not stored, and suspension outlasts it.
func (r *record) status(now time.Time) contract.Status {
	switch {
	case r.suspended:
		return contract.Suspended
	case !now.Before(r.expiresAt):
		return contract.Expired
	}
	return contract.Active
}

// usable tells whether the key may be used at a moment.
func (r *record) usable(now time.Time) bool { return r.unusable(now) == access.ReasonOK }

// unusable says why the key may not be used at a moment.
func (r *record) unusable(now time.Time) access.Reason {
	switch {
	case r.suspended:
		return access.ReasonSuspended
	case r.ownerSuspended:
		return access.ReasonOwnerSuspended
	case !now.Before(r.expiresAt), r.notBefore != nil && now.Before(*r.notBefore): // its time is over, or has not come
		return access.ReasonExpired
	}
	return access.ReasonOK
}

// policies are what the key grants. A hosted key grants only what registrations of clusters need, whatever it asked for.
func (r *record) policies() []access.Policy {
	granted := r.authorizations.policies()
	if r.keyType != "" {
		return hostedGrants(granted)
	}
	return granted
}

func (r *record) changed(version int64, reason string) contract.Changed {
	return contract.Changed{
		KeyID: r.id, OwnerID: r.ownerID, ServiceID: r.serviceID, Version: version, ExpiresAt: r.expiresAt, Reason: reason,
	}
}

func (r *record) fact() bus.Fact {
	return bus.Fact{Account: r.account, Entity: r.id, Refs: event.Refs{KeyID: r.id}}
}

const columns = `k.id::text, k.hash, k.mask_tail, k.account, k.owner_id, k.service_id, k.status = 'SUSPENDED', k.description,
	k.audiences, k.authorizations::text, k.version, k.created_at, k.updated_at, k.expires_at, k.deletes_at,
	coalesce(k.authorized_at, k.created_at), k.not_before, k.rate_limit, k.allowed_cidrs, coalesce(k.rotated_from::text, ''),
	k.superseded, k.key_type, k.cluster_id`

func scanRecord(row pgx.CollectableRow) (r record, err error) {
	return scanMore(row, func(*record) []any { return nil })
}

// scanMore scans the columns of a record and those that follow them.
func scanMore(row pgx.CollectableRow, more func(*record) []any) (r record, err error) {
	err = row.Scan(append([]any{
		&r.id, &r.hash, &r.tail, &r.account, &r.ownerID, &r.serviceID, &r.suspended, &r.description,
		&r.audiences, &r.authorizations, &r.version, &r.createdAt, &r.updatedAt, &r.expiresAt, &r.deletesAt,
		&r.authorizedAt, &r.notBefore, &r.rateLimit, &r.cidrs, &r.rotatedFrom, &r.superseded, &r.keyType, &r.clusterID,
	}, more(&r)...)...)
	for _, t := range []*time.Time{&r.createdAt, &r.updatedAt, &r.expiresAt, &r.deletesAt, &r.authorizedAt, r.notBefore, r.used.at} {
		if t != nil {
			*t = t.UTC()
		}
	}
	return r, err
}

// usedColumns come after columns where keys are shown; fromUsed is the table they need.
const (
	usedColumns = `, u.at, coalesce(u.address, ''), coalesce(u.service, '')`
	fromUsed    = ` FROM keys.keys k LEFT JOIN keys.uses u ON u.key_id = k.id`
)

func scanUsed(row pgx.CollectableRow) (record, error) {
	return scanMore(row, func(r *record) []any { return []any{&r.used.at, &r.used.address, &r.used.service} })
}

// standing is what decides about a request of an owner before its content is looked at.
type standing struct {
	// service is nil when the issuer is not registered.
	service        *contract.IssuingService
	ownerSuspended bool
	// live counts the keys that are not past their expiry and that no other took over from.
	live int
}

const serviceColumns = `s.id, s.name, s.audiences, s.max_api_keys_per_user, s.max_api_key_ttl_days, s.max_authz_size_chars,
	s.min_authz_update_interval_seconds`

const liveKeys = `(SELECT count(*) FROM keys.keys k WHERE k.owner_type = $1 AND k.owner_id = $2 AND k.service_id = $3
	AND k.expires_at > $4 AND NOT k.superseded AND k.cluster_id = $5)`

func (s *Store) standing(ctx context.Context, ownerID, serviceID, clusterID string, now time.Time) (standing, error) {
	var st standing
	var svc contract.IssuingService
	err := s.pool.QueryRow(ctx, `SELECT `+serviceColumns+`, coalesce(o.status = 'SUSPENDED', false), `+liveKeys+`
		FROM keys.services s LEFT JOIN keys.owners o ON o.owner_type = $1 AND o.owner_id = $2 WHERE s.id = $3`,
		ownerUser, ownerID, serviceID, now, clusterID).
		Scan(&svc.ID, &svc.Name, &svc.Audiences, &svc.MaxKeysPerUser, &svc.MaxKeyTTLDays, &svc.MaxAuthzChars,
			&svc.MinAuthzUpdateIntervalS, &st.ownerSuspended, &st.live)
	switch {
	case store.IsNotFound(err):
		return standing{}, nil
	case err != nil:
		return standing{}, fmt.Errorf("read owner and service: %w", err)
	}
	st.service = &svc
	return st, nil
}

// create inserts a key under the first hash that draw finds free, and records its event. The lock on owner and service
// keeps two creations from both taking the last slot; whoever does not get it at once is refused, not queued.
func (s *Store) create(ctx context.Context, tx pgx.Tx, r *record, limit int, draw func(*record) error) error {
	var locked, ownerSuspended bool
	var live int
	// One journey for all four; each statement sees what was committed before it ran, so the count is right under the lock.
	batch := &pgx.Batch{}
	batch.Queue(`SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))`, createLock(r.ownerID, r.serviceID)).
		QueryRow(func(row pgx.Row) error { return row.Scan(&locked) })
	batch.Queue(makeOwner, ownerUser, r.ownerID, r.account, r.createdAt)
	batch.Queue(accountNow, ownerUser, r.ownerID).QueryRow(func(row pgx.Row) error { return row.Scan(&r.account, &ownerSuspended) })
	batch.Queue(`SELECT `+liveKeys, ownerUser, r.ownerID, r.serviceID, r.createdAt, r.clusterID).
		QueryRow(func(row pgx.Row) error { return row.Scan(&live) })
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("create key: %w", err)
	}
	switch {
	case !locked:
		return errBusy
	case ownerSuspended:
		return errSuspended
	case live >= limit:
		return errFull
	}
	return s.insert(ctx, tx, r, draw)
}

func createLock(ownerID, serviceID string) string {
	return "sirocco.keys.create\x1f" + serviceID + "\x1f" + ownerID
}

// An owner is made with its first key and is kept from being suspended meanwhile. A new key takes the account over to
// which a client of the owner's name is bound now, else that which the owner was made with.
const (
	accountNow = `SELECT coalesce((SELECT c.account FROM keys.clients c WHERE c.id = o.owner_id), o.account), o.status = 'SUSPENDED'
		FROM keys.owners o WHERE o.owner_type = $1 AND o.owner_id = $2 FOR SHARE OF o`
	makeOwner = `INSERT INTO keys.owners (owner_type, owner_id, account, status_updated_at, created_at) VALUES ($1, $2, $3, $4, $4) ON CONFLICT DO NOTHING`
	holdOwner = `SELECT status = 'SUSPENDED' FROM keys.owners WHERE owner_type = $1 AND owner_id = $2 FOR SHARE`
)

// lockOwner keeps the owner of a key from being suspended meanwhile.
func lockOwner(ctx context.Context, tx pgx.Tx, r *record) error {
	var suspended bool
	err := tx.QueryRow(ctx, holdOwner, ownerUser, r.ownerID).Scan(&suspended)
	switch {
	case err != nil:
		return fmt.Errorf("lock owner: %w", err)
	case suspended:
		return errSuspended
	}
	return nil
}

// insert adds a key and its event.
func (s *Store) insert(ctx context.Context, tx pgx.Tx, r *record, draw func(*record) error) error {
	for range drawLimit {
		if err := draw(r); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `INSERT INTO keys.keys (id, hash, mask_tail, account, owner_type, owner_id, service_id, description,
				audiences, authorizations, version, created_at, updated_at, expires_at, deletes_at, not_before, rate_limit, allowed_cidrs,
				rotated_from, key_type, cluster_id)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12, $13, $14, $15, $16, $17, nullif($18, '')::uuid, $19, $20)
			ON CONFLICT (hash) DO NOTHING`,
			r.id, r.hash, r.tail, r.account, ownerUser, r.ownerID, r.serviceID, r.description,
			r.audiences, string(r.authorizations), r.version, r.createdAt, r.expiresAt, r.deletesAt, r.notBefore, r.rateLimit, networksOf(r.cidrs),
			r.rotatedFrom, r.keyType, r.clusterID)
		if err != nil {
			return fmt.Errorf("insert key: %w", err)
		}
		if tag.RowsAffected() == 1 {
			payload := r.changed(r.version, "")
			payload.Policies = r.policies()
			return bus.Record(ctx, tx, s.journal, contract.Created, r.fact(), payload)
		}
	}
	return errNoHash
}

// networksOf is never NULL, as its column.
func networksOf(cidrs []string) []string {
	if cidrs == nil {
		return []string{}
	}
	return cidrs
}

// listing selects keys of an owner: those of one service, or of all when it is empty.
type listing struct {
	ownerID, serviceID string
	now                time.Time
	limit              int
	// after continues a list that is read page by page, in order of creation; without it live keys come first.
	paged bool
	after place
}

// place is where a page ended.
type place struct {
	at time.Time
	id string
}

// list returns keys, oldest first.
func (s *Store) list(ctx context.Context, l listing) ([]record, error) {
	after := l.after
	if after.id == "" {
		after = place{id: noID}
	}
	rows, err := s.pool.Query(ctx, `SELECT `+columns+usedColumns+fromUsed+` WHERE k.owner_type = $1 AND k.owner_id = $2
			AND ($4 = '' OR k.service_id = $4) AND (k.created_at, k.id) > ($5, $6)
		ORDER BY (k.expires_at <= $3 AND NOT $7), k.created_at, k.id LIMIT $8`,
		ownerUser, l.ownerID, l.now, l.serviceID, after.at, after.id, l.paged, l.limit)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	records, err := pgx.CollectRows(rows, scanUsed)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return records, nil
}

// noID comes before every id.
const noID = "00000000-0000-0000-0000-000000000000"

// target says which key is meant.
type target struct {
	where string
	args  []any
}

// ownedKey is a key by its id, of one owner and service.
func ownedKey(id, ownerID, serviceID string) target {
	return target{`k.id = $1 AND k.owner_type = $2 AND k.owner_id = $3 AND k.service_id = $4`, []any{id, ownerUser, ownerID, serviceID}}
}

// hashed is a key by its hash.
func hashed(hash string) target { return target{`k.hash = $1`, []any{hash}} }

// key is one key, nil when there is none.
func (s *Store) key(ctx context.Context, t target) (*record, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+columns+usedColumns+fromUsed+` WHERE `+t.where, t.args...)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	return one(rows, scanUsed, "read key")
}

// byHash is the key with a hash, nil when there is none. It knows whether the owner is suspended.
func (s *Store) byHash(ctx context.Context, hash string) (*record, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+columns+`, o.status = 'SUSPENDED' OR a.id IS NULL FROM keys.keys k
		JOIN keys.owners o USING (owner_type, owner_id) LEFT JOIN keys.accounts a ON a.id = k.account WHERE k.hash = $1`, hash)
	if err != nil {
		return nil, fmt.Errorf("look up key: %w", err)
	}
	return one(rows, func(row pgx.CollectableRow) (record, error) {
		return scanMore(row, func(r *record) []any { return []any{&r.ownerSuspended} })
	}, "look up key")
}

// remove deletes a key and records its event in one transaction; nil when there is no such key. The event is what the
// audit keeps of it.
func (s *Store) remove(ctx context.Context, t target, reason string) (*record, error) {
	var removed []record
	err := s.tx(ctx, func(tx pgx.Tx) (err error) {
		removed, err = s.removeAll(ctx, tx, t, reason)
		return err
	})
	if err != nil || len(removed) == 0 {
		return nil, err
	}
	return &removed[0], nil
}

func (s *Store) removeAll(ctx context.Context, tx pgx.Tx, t target, reason string) ([]record, error) {
	rows, err := tx.Query(ctx, `DELETE FROM keys.keys k WHERE `+t.where+` RETURNING `+columns, t.args...)
	if err != nil {
		return nil, fmt.Errorf("delete keys: %w", err)
	}
	removed, err := pgx.CollectRows(rows, scanRecord)
	if err != nil {
		return nil, fmt.Errorf("delete keys: %w", err)
	}
	for _, r := range removed {
		if err := bus.Record(ctx, tx, s.journal, contract.Revoked, r.fact(), r.changed(r.version+1, reason)); err != nil {
			return nil, err
		}
	}
	return removed, nil
}

// revocationPending tells whether the event of a deletion still waits in the outbox.
func (s *Store) revocationPending(ctx context.Context, removed []record) (pending bool, err error) {
	subjects := make([]string, len(removed))
	for i, r := range removed {
		subjects[i] = contract.Revoked.Subject(r.account, r.id)
	}
	err = s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM keys.outbox WHERE subject = ANY($1))`, subjects).Scan(&pending)
	if err != nil {
		return true, fmt.Errorf("look for the event: %w", err)
	}
	return pending, nil
}

// purge deletes at most limit keys whose retention is over.
func (s *Store) purge(ctx context.Context, now time.Time, limit int) (int, error) {
	tag, err := s.pool.Exec(ctx, `DELETE FROM keys.keys WHERE id IN
		(SELECT id FROM keys.keys WHERE deletes_at <= $1 ORDER BY deletes_at LIMIT $2 FOR UPDATE SKIP LOCKED)`, now, limit)
	if err != nil {
		return 0, fmt.Errorf("purge keys: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

func (s *Store) recordIssued(ctx context.Context, t contract.TokenIssued) error {
	err := s.tx(ctx, func(tx pgx.Tx) error {
		return bus.Record(ctx, tx, s.journal, contract.Issued, bus.Fact{Account: access.DefaultAccount, Entity: t.JTI}, t)
	})
	if err != nil {
		return fmt.Errorf("record a token: %w", err)
	}
	return nil
}

func one[T any](rows pgx.Rows, scan pgx.RowToFunc[T], doing string) (*T, error) {
	v, err := pgx.CollectExactlyOneRow(rows, scan)
	switch {
	case store.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return &v, nil
}
