package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	libstore "github.com/sirocco-cloud/sirocco/libs/store"
)

const (
	day = 24 * time.Hour
	// maxName bounds owners, clients and service ids, in characters.
	maxName = 256
	// publishPatience is how long a deletion waits for its event to reach the stream (keys §8).
	publishPatience = 2 * time.Second
	// revocationPending is what a deletion says whose event has not left in that time.
	revocationPending = "pending"
)

// Why a key changed or stopped, in the words of its events.
const (
	reasonDeleted        = "deleted"
	reasonSuspended      = "suspended"
	reasonLeaked         = "leaked"
	reasonOwnerSuspended = "owner_suspended"
	reasonRotated        = "rotated"
	reasonAuthorizations = "authorizations"
	reasonChanged        = "changed"
	reasonActivated      = "activated"
	reasonAccountDeleted = "account_deleted"
)

// timestampShape refuses what time.Parse lets pass: one-digit hours and commas before fractions.
var timestampShape = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$`)

// descriptionShape is that of keys §4.1, whose \s has the vertical tab, which Go's has not.
var descriptionShape = regexp.MustCompile(`^[a-zA-Z0-9\s\v_-]{1,64}$`)

// Keys are the use cases of opaque keys.
type Keys struct {
	store     *Store
	clock     quartz.Clock
	random    io.Reader
	retention time.Duration
	strict    bool
	matrix    matrix
	log       *zap.Logger
	// format is set once, before the first request, because the data-domain key is in the database.
	format Format
}

// NewKeys makes the use cases; Use completes them.
func NewKeys(store *Store, clock quartz.Clock, random io.Reader, cfg Config, log *zap.Logger) *Keys {
	return &Keys{store: store, clock: clock, random: random, retention: cfg.Retention, strict: cfg.PolicyValidation == Strict, matrix: cfg.Compat.Matrix(), log: log}
}

// Use sets the format of the deployment's keys. It must be called before any request is served.
func (k *Keys) Use(f Format) { k.format = f }

// Create makes a key. Its answer is the only place where the key itself ever appears. The checks run in the order of
// keys §4.1; the first that fails decides.
func (k *Keys) Create(ctx context.Context, req contract.CreateRequest) (contract.Key, error) {
	now := k.now()
	issuer, st, err := k.admit(ctx, req.Issuer, now)
	if err != nil {
		return contract.Key{}, err
	}
	said := req
	said.Issuer, said.IdempotencyKey = contract.Issuer{}, ""
	var answer contract.Key
	err = k.once(ctx, repetition("create", issuer, req.IdempotencyKey, said), now, &answer, func(tx pgx.Tx, d *drawing) (err error) {
		answer, err = k.create(ctx, tx, issuer, st, req, now, d)
		return err
	})
	return answer, refusal(err, *st.service)
}

func (k *Keys) create(ctx context.Context, tx pgx.Tx, issuer contract.Issuer, st standing, req contract.CreateRequest, now time.Time, d *drawing) (contract.Key, error) {
	service := *st.service
	if !descriptionShape.MatchString(req.Description) {
		return contract.Key{}, badDescription()
	}
	expires, err := expiry("expires_at", req.ExpiresAt, now, service.MaxKeyTTLDays)
	if err != nil {
		return contract.Key{}, err
	}
	audiences, err := audiencesFor(req.Audiences, service)
	if err != nil {
		return contract.Key{}, err
	}
	if st.live >= service.MaxKeysPerUser {
		return contract.Key{}, errFull
	}
	granted, err := k.readAuthorizations(req.Authorizations, service.MaxAuthzChars, audiences)
	if err != nil {
		return contract.Key{}, err
	}
	r := record{
		id: uuid.NewString(), account: accountFor(ctx), ownerID: issuer.OwnerID, serviceID: issuer.ServiceID,
		description: req.Description, audiences: audiences, authorizations: granted, version: 1,
		createdAt: now, updatedAt: now, expiresAt: expires, deletesAt: expires.Add(k.retention),
	}
	if err := r.limit(req.Limits); err != nil {
		return contract.Key{}, err
	}
	if req.NotBefore != "" {
		if err := r.startAt(req.NotBefore, now); err != nil {
			return contract.Key{}, err
		}
	}
	if err := k.store.create(ctx, tx, &r, service.MaxKeysPerUser, d.draw); err != nil {
		return contract.Key{}, err
	}
	answer := k.fresh(r, d.value, now)
	answer.Warning = k.matrix.warning(granted, audiences)
	return answer, nil
}

// accountFor is the account of an owner who has none yet: that of a token that asks, else the default one. An owner that
// is a client of an account has that, whoever asks.
func accountFor(ctx context.Context) string {
	if caller := access.CallerFrom(ctx); caller.Kind == access.JWT && caller.Account != "" {
		return caller.Account
	}
	return access.DefaultAccount
}

// drawing draws keys for an insert and remembers the last one.
type drawing struct {
	format Format
	random io.Reader
	// repeatable keys follow from a seed, so that the seed is all that must be kept to give the key out again.
	repeatable bool
	seed       []byte
	value      string
}

func (d *drawing) draw(r *record) error {
	made, err := d.next()
	d.value, r.hash, r.tail = made.value, made.hash, made.tail
	return err
}

func (d *drawing) next() (drawn, error) {
	if !d.repeatable {
		return d.format.draw(d.random)
	}
	d.seed = make([]byte, rawSize)
	if _, err := io.ReadFull(d.random, d.seed); err != nil {
		return drawn{}, fmt.Errorf("draw a key: %w", err)
	}
	return d.format.derive(d.seed), nil
}

// refusal says in the words of the API why a key could not be made.
func refusal(err error, service contract.IssuingService) error {
	switch {
	case errors.Is(err, errBusy):
		p := problem.New(problem.TooManyRequests, "another key of this owner is being created; try again")
		p.RetryAfterSeconds = 1
		return p
	case errors.Is(err, errFull):
		return full(service)
	case errors.Is(err, errSuspended):
		return suspended()
	case errors.Is(err, errOverlap):
		return problem.New(problem.Conflict, "a rotation of this key is not over; wait for the end of its grace, or delete the old key")
	case errors.Is(err, libstore.ErrKeyReused):
		return problem.New(problem.Unprocessable, "this Idempotency-Key was used for another request")
	}
	return err
}

// List returns the keys of an owner and service, masked and without their authorizations.
func (k *Keys) List(ctx context.Context, req contract.ListRequest) (contract.ListResponse, error) {
	now := k.now()
	issuer, _, err := k.admit(ctx, req.Issuer, now)
	if err != nil {
		return contract.ListResponse{}, err
	}
	return k.list(ctx, issuer.OwnerID, issuer.ServiceID, req.Page, now)
}

func (k *Keys) list(ctx context.Context, ownerID, serviceID string, page contract.Page, now time.Time) (contract.ListResponse, error) {
	l := listing{ownerID: ownerID, serviceID: serviceID, now: now, limit: listLimit, paged: page.Limit != nil || page.Cursor != ""}
	limit, err := pageLimit(page, listLimit)
	if err != nil {
		return contract.ListResponse{}, err
	}
	if l.after, err = pageStart(page); err != nil {
		return contract.ListResponse{}, err
	}
	if page.Limit != nil {
		l.limit = limit + 1
	}
	records, err := k.store.list(ctx, l)
	if err != nil {
		return contract.ListResponse{}, err
	}
	answer := contract.ListResponse{Keys: make([]contract.Key, 0, len(records))}
	for i, r := range records {
		if page.Limit != nil && i == limit {
			last := records[i-1]
			answer.NextCursor = place{at: last.createdAt, id: last.id}.cursor()
			break
		}
		key := k.show(r, now)
		key.Authorizations = nil
		answer.Keys = append(answer.Keys, key)
	}
	return answer, nil
}

// Get returns one key, masked, with its authorizations.
func (k *Keys) Get(ctx context.Context, req contract.KeyRequest) (contract.Key, error) {
	now := k.now()
	issuer, _, err := k.admit(ctx, req.Issuer, now)
	if err != nil {
		return contract.Key{}, err
	}
	return k.get(ctx, req.ID, issuer.OwnerID, issuer.ServiceID, now)
}

func (k *Keys) get(ctx context.Context, id, ownerID, serviceID string, now time.Time) (contract.Key, error) {
	if !isUUID(id) {
		return contract.Key{}, notFound(id)
	}
	r, err := k.store.key(ctx, ownedKey(id, ownerID, serviceID))
	if err != nil {
		return contract.Key{}, err
	}
	if r == nil {
		return contract.Key{}, notFound(id)
	}
	return k.show(*r, now), nil
}

// Delete removes a key for good and answers when its event is in the stream, or after two seconds without it: then the
// key is gone here, and the caches elsewhere learn of it when the bus is back, or when their time is over.
func (k *Keys) Delete(ctx context.Context, req contract.KeyRequest) (contract.Revocation, error) {
	issuer, _, err := k.admit(ctx, req.Issuer, k.now())
	if err != nil {
		return contract.Revocation{}, err
	}
	return k.remove(ctx, req.ID, issuer.OwnerID, issuer.ServiceID)
}

func (k *Keys) remove(ctx context.Context, id, ownerID, serviceID string) (contract.Revocation, error) {
	if !isUUID(id) {
		return contract.Revocation{}, notFound(id)
	}
	r, err := k.store.remove(ctx, ownedKey(id, ownerID, serviceID), reasonDeleted)
	if err != nil {
		return contract.Revocation{}, err
	}
	if r == nil {
		return contract.Revocation{}, notFound(id)
	}
	return k.revoked(ctx, []record{*r}), nil
}

// revoked waits a little for the events of deleted keys and tells whether they are still to come.
func (k *Keys) revoked(ctx context.Context, removed []record) contract.Revocation {
	if err := k.awaitRevocation(ctx, removed); err != nil {
		k.log.Warn("keys deleted, their events are not in the stream yet", zap.String("key", removed[0].id), zap.Int("keys", len(removed)), zap.Error(err))
		return contract.Revocation{Pending: revocationPending}
	}
	return contract.Revocation{}
}

// awaitRevocation polls, because the relay that publishes the events may run in another replica.
func (k *Keys) awaitRevocation(ctx context.Context, removed []record) error {
	if len(removed) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, publishPatience)
	defer cancel()
	for delay := time.Millisecond; ; delay = min(2*delay, 50*time.Millisecond) {
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		if pending, err := k.store.revocationPending(ctx, removed); err != nil || !pending {
			return err
		}
	}
}

// Introspect tells whether a key is good for an audience (keys §4.8).
func (k *Keys) Introspect(ctx context.Context, req contract.IntrospectRequest) (contract.IntrospectResponse, error) {
	if req.AudienceServiceID == "" {
		return contract.IntrospectResponse{}, invalid("audience_service_id", "must be present")
	}
	if req.Key == "" {
		return contract.IntrospectResponse{}, invalid("key", "must be present")
	}
	hash, ok := k.format.Parse(req.Key)
	if !ok {
		return contract.IntrospectResponse{}, invalid("key", "must be a key of this deployment")
	}
	r, err := k.store.byHash(ctx, hash)
	if err != nil {
		return contract.IntrospectResponse{}, err
	}
	if r == nil || !r.usable(k.clock.Now()) {
		return contract.IntrospectResponse{}, problem.New(problem.NotFound, "Key: Not found")
	}
	if !slices.Contains(r.audiences, req.AudienceServiceID) {
		return contract.IntrospectResponse{}, invalid("audience_service_id", "must be among the audiences of the key")
	}
	return contract.IntrospectResponse{
		OwnerType: ownerUser, OwnerID: r.ownerID, KeyID: r.id, IssuerServiceID: r.serviceID, Authorizations: json.RawMessage(r.authorizations),
		CacheControl: "private, max-age=60",
	}, nil
}

// Resolve tells what a bearer is good for. A dead key is not an error; why it is dead is for the audit record alone.
func (k *Keys) Resolve(ctx context.Context, req contract.ResolveRequest) (contract.ResolveResponse, error) {
	// Taken before the read, so that a cache never counts a change as newer than it is.
	now := k.clock.Now().UTC()
	hash, ok := k.format.Parse(req.Bearer)
	if !ok {
		return contract.ResolveResponse{AsOf: now, Reason: access.ReasonMalformed}, nil
	}
	r, err := k.store.byHash(ctx, hash)
	switch {
	case err != nil:
		return contract.ResolveResponse{}, err
	case r == nil:
		return contract.ResolveResponse{AsOf: now, Reason: access.ReasonUnknownKey}, nil
	case !r.usable(now):
		return contract.ResolveResponse{AsOf: now, Reason: r.unusable(now), Credential: access.Credential{
			Kind: access.Key, Account: r.account, ID: r.id, Subject: r.ownerID, Version: r.version,
		}}, nil
	}
	return contract.ResolveResponse{Known: true, AsOf: now, Credential: access.Credential{
		Kind: access.Key, Account: r.account, ID: r.id, Subject: r.ownerID, Policies: r.policies(),
		Audiences: r.audiences, ExpiresAt: r.expiresAt, Version: r.version, RateLimit: r.rateLimit, AllowedCIDRs: r.cidrs,
	}}, nil
}

// admit applies the checks that every call of an owner starts with: owner, issuer, suspension.
func (k *Keys) admit(ctx context.Context, issuer contract.Issuer, now time.Time) (contract.Issuer, standing, error) {
	issuer.OwnerID, issuer.ServiceID = strings.TrimSpace(issuer.OwnerID), strings.TrimSpace(issuer.ServiceID)
	if !storable(issuer.OwnerID) {
		return issuer, standing{}, invalid("Key-Owner-Id", "must be present, at most %d characters and none of them a control character", maxName)
	}
	if !storable(issuer.ServiceID) {
		return issuer, standing{}, badIssuer()
	}
	st, err := k.store.standing(ctx, issuer.OwnerID, issuer.ServiceID, "", now)
	switch {
	case err != nil:
		return issuer, standing{}, err
	case st.service == nil:
		return issuer, standing{}, badIssuer()
	case st.ownerSuspended:
		return issuer, standing{}, suspended()
	}
	return issuer, st, nil
}

// show is the key object of keys §4.0 with the masked value.
func (k *Keys) show(r record, now time.Time) contract.Key {
	return contract.Key{
		ID: r.id, Value: k.format.Mask(r.tail), Status: r.status(now), OwnerType: ownerUser, OwnerID: r.ownerID,
		IssuerServiceID: r.serviceID, Audiences: r.audiences, Description: r.description,
		CreatedAt: r.createdAt, ExpiresAt: r.expiresAt, UpdatedAt: &r.updatedAt, Version: r.version,
		RotatedFrom: r.rotatedFrom, NotBefore: r.notBefore, RateLimit: r.rateLimit, AllowedCIDRs: r.cidrs,
		LastUsedAt: r.used.at, LastUsedIP: r.used.address, LastUsedService: r.used.service,
		Authorizations: json.RawMessage(r.authorizations),
	}
}

// fresh is the key object of a key that was just made, with its value.
func (k *Keys) fresh(r record, value string, now time.Time) contract.Key {
	key := k.show(r, now)
	key.Value, key.UpdatedAt, key.Version = value, nil, 0
	return key
}

// now has the precision of the wire: milliseconds.
func (k *Keys) now() time.Time { return k.clock.Now().UTC().Truncate(time.Millisecond) }

// expiry reads a moment that lies in the life that a service allows.
func expiry(field, text string, now time.Time, maxDays int) (time.Time, error) {
	t, err := moment(field, text, now)
	if err != nil {
		return t, err
	}
	if t.Before(now) {
		return time.Time{}, invalid(field, "must not lie in the past")
	}
	if t.After(now.Add(time.Duration(maxDays) * day)) {
		return time.Time{}, invalid(field, "must lie at most %d days ahead", maxDays)
	}
	return t, nil
}

// moment reads an RFC 3339 moment, with or without fraction; now only serves as the example in a refusal.
func moment(field, text string, now time.Time) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || !timestampShape.MatchString(text) {
		return time.Time{}, invalid(field, "must be an RFC 3339 timestamp such as %s", now.Add(day).Format(time.RFC3339))
	}
	return t.UTC().Truncate(time.Millisecond), nil
}

// audiencesFor applies the default and the limits of a service; a repeated audience counts once.
func audiencesFor(asked []string, service contract.IssuingService) ([]string, error) {
	if asked == nil {
		return []string{service.ID}, nil
	}
	if len(asked) == 0 {
		return nil, invalid("audience_service_ids", "must name at least one service, or be absent")
	}
	var audiences []string
	for _, a := range asked {
		if !slices.Contains(service.Audiences, a) {
			return nil, invalid("audience_service_ids", "must be among those of the service: %s", strings.Join(service.Audiences, ", "))
		}
		if !slices.Contains(audiences, a) {
			audiences = append(audiences, a)
		}
	}
	return audiences, nil
}

func full(service contract.IssuingService) error {
	return problem.New(problem.BadRequest, "the owner already has %d keys of %s, as many as are allowed; delete one first", service.MaxKeysPerUser, service.Name)
}

func badDescription() error {
	return invalid("description", "must be 1 to 64 letters, digits, spaces, hyphens and underscores")
}

func badIssuer() error { return invalid("Key-Issuer-Id", "must be the id of a registered service") }

func suspended() error { return problem.New(problem.Forbidden, "the owner is suspended") }

// notFound names the id only if it can be one: a key put there by mistake must not come back.
func notFound(id string) error {
	if !isUUID(id) {
		return problem.New(problem.NotFound, "Key: Not found")
	}
	return problem.New(problem.NotFound, "Key id '%s': Not found", id)
}

func isUUID(s string) bool { return len(s) == 36 && uuid.Validate(s) == nil }

// storable holds for a name that can be kept and logged.
func storable(s string) bool {
	return strings.TrimSpace(s) != "" && utf8.ValidString(s) && utf8.RuneCountInString(s) <= maxName && !strings.ContainsFunc(s, unicode.IsControl)
}
