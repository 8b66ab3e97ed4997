package keys

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

const (
	day = 24 * time.Hour
	// maxName bounds owners, clients and service ids, in characters.
	maxName = 256
	// publishPatience is how long a deletion waits for its event to reach the stream (keys §8).
	publishPatience = 2 * time.Second
)

// timestampShape refuses what time.Parse lets pass: one-digit hours and commas before fractions.
var timestampShape = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$`)

var descriptionShape = regexp.MustCompile(`^[a-zA-Z0-9\s_-]{1,64}$`)

// Keys are the use cases of opaque keys.
type Keys struct {
	store     *Store
	clock     quartz.Clock
	random    io.Reader
	retention time.Duration
	log       *zap.Logger
	// format is set once, before the first request, because the data-domain key is in the database.
	format Format
}

// NewKeys makes the use cases; Use completes them.
func NewKeys(store *Store, clock quartz.Clock, random io.Reader, retention time.Duration, log *zap.Logger) *Keys {
	return &Keys{store: store, clock: clock, random: random, retention: retention, log: log}
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
	if !descriptionShape.MatchString(req.Description) {
		return contract.Key{}, invalid("description", "must be 1 to 64 letters, digits, spaces, hyphens and underscores")
	}
	expires, err := expiry(req.ExpiresAt, now, st.service.MaxKeyTTLDays)
	if err != nil {
		return contract.Key{}, err
	}
	audiences, err := audiencesFor(req.Audiences, *st.service)
	if err != nil {
		return contract.Key{}, err
	}
	if st.live >= st.service.MaxKeysPerUser {
		return contract.Key{}, full(*st.service)
	}
	granted, err := readAuthorizations(req.Authorizations, st.service.MaxAuthzChars)
	if err != nil {
		return contract.Key{}, err
	}
	r := record{
		id: uuid.NewString(), account: access.DefaultAccount, ownerID: issuer.OwnerID, serviceID: issuer.ServiceID,
		description: req.Description, audiences: audiences, authorizations: granted, version: 1,
		createdAt: now, updatedAt: now, expiresAt: expires, deletesAt: expires.Add(k.retention),
	}
	var value string
	err = k.store.create(ctx, &r, st.service.MaxKeysPerUser, func(r *record) error {
		d, err := k.format.draw(k.random)
		value, r.hash, r.tail = d.value, d.hash, d.tail
		return err
	})
	switch {
	case errors.Is(err, errBusy):
		p := problem.New(problem.TooManyRequests, "another key of this owner is being created; try again")
		p.RetryAfterSeconds = 1
		return contract.Key{}, p
	case errors.Is(err, errFull):
		return contract.Key{}, full(*st.service)
	case errors.Is(err, errSuspended):
		return contract.Key{}, suspended()
	case err != nil:
		return contract.Key{}, err
	}
	answer := k.show(r, now)
	answer.Value, answer.UpdatedAt, answer.Version = value, nil, 0
	return answer, nil
}

// List returns the keys of an owner and service, masked and without their authorizations.
func (k *Keys) List(ctx context.Context, req contract.ListRequest) (contract.ListResponse, error) {
	now := k.now()
	issuer, _, err := k.admit(ctx, req.Issuer, now)
	if err != nil {
		return contract.ListResponse{}, err
	}
	records, err := k.store.list(ctx, issuer.OwnerID, issuer.ServiceID, now)
	if err != nil {
		return contract.ListResponse{}, err
	}
	answer := contract.ListResponse{Keys: make([]contract.Key, 0, len(records))}
	for _, r := range records {
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
	if !isUUID(req.ID) {
		return contract.Key{}, notFound(req.ID)
	}
	r, err := k.store.key(ctx, req.ID, issuer.OwnerID, issuer.ServiceID)
	if err != nil {
		return contract.Key{}, err
	}
	if r == nil {
		return contract.Key{}, notFound(req.ID)
	}
	return k.show(*r, now), nil
}

// Delete removes a key for good and answers when its event is in the stream, or after two seconds without it: then the
// key is gone here, and the caches elsewhere learn of it when the bus is back, or when their time is over.
func (k *Keys) Delete(ctx context.Context, req contract.KeyRequest) (rpc.None, error) {
	issuer, _, err := k.admit(ctx, req.Issuer, k.now())
	if err != nil {
		return rpc.None{}, err
	}
	if !isUUID(req.ID) {
		return rpc.None{}, notFound(req.ID)
	}
	r, err := k.store.remove(ctx, req.ID, issuer.OwnerID, issuer.ServiceID, "deleted")
	if err != nil {
		return rpc.None{}, err
	}
	if r == nil {
		return rpc.None{}, notFound(req.ID)
	}
	if err := k.awaitRevocation(ctx, *r); err != nil {
		k.log.Warn("key deleted, its event is not in the stream yet", zap.String("key", r.id), zap.Error(err))
	}
	return rpc.None{}, nil
}

// awaitRevocation polls, because the relay that publishes the event may run in another replica.
func (k *Keys) awaitRevocation(ctx context.Context, r record) error {
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
		if pending, err := k.store.revocationPending(ctx, r); err != nil || !pending {
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
	if r == nil || r.status(k.clock.Now()) != contract.Active {
		return contract.IntrospectResponse{}, problem.New(problem.NotFound, "Key: Not found")
	}
	if !slices.Contains(r.audiences, req.AudienceServiceID) {
		return contract.IntrospectResponse{}, invalid("audience_service_id", "must be among the audiences of the key")
	}
	return contract.IntrospectResponse{
		OwnerType: ownerUser, OwnerID: r.ownerID, KeyID: r.id, IssuerServiceID: r.serviceID, Authorizations: json.RawMessage(r.authorizations),
	}, nil
}

// Resolve tells what a bearer is good for. A dead key is not an error, and why it is dead is not told.
func (k *Keys) Resolve(ctx context.Context, req contract.ResolveRequest) (contract.ResolveResponse, error) {
	// Taken before the read, so that a cache never counts a change as newer than it is.
	now := k.clock.Now().UTC()
	hash, ok := k.format.Parse(req.Bearer)
	if !ok {
		return contract.ResolveResponse{AsOf: now}, nil
	}
	r, err := k.store.byHash(ctx, hash)
	if err != nil {
		return contract.ResolveResponse{}, err
	}
	if r == nil || r.status(now) != contract.Active {
		return contract.ResolveResponse{AsOf: now}, nil
	}
	return contract.ResolveResponse{Known: true, AsOf: now, Credential: access.Credential{
		Kind: access.Key, Account: r.account, ID: r.id, Subject: r.ownerID, Policies: r.authorizations.policies(),
		Audiences: r.audiences, ExpiresAt: r.expiresAt, Version: r.version,
	}}, nil
}

// admit applies the checks that every call of an owner starts with: owner, issuer, suspension.
func (k *Keys) admit(ctx context.Context, issuer contract.Issuer, now time.Time) (contract.Issuer, standing, error) {
	issuer.OwnerID, issuer.ServiceID = strings.TrimSpace(issuer.OwnerID), strings.TrimSpace(issuer.ServiceID)
	if !storable(issuer.OwnerID) {
		return issuer, standing{}, invalid("Key-Owner-Id", "must be present, at most %d characters and none of them a control character", maxName)
	}
	if !storable(issuer.ServiceID) {
		return issuer, standing{}, invalid("Key-Issuer-Id", "must be the id of a registered service")
	}
	st, err := k.store.standing(ctx, issuer.OwnerID, issuer.ServiceID, now)
	switch {
	case err != nil:
		return issuer, standing{}, err
	case st.service == nil:
		return issuer, standing{}, invalid("Key-Issuer-Id", "must be the id of a registered service")
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
		Authorizations: json.RawMessage(r.authorizations),
	}
}

// now has the precision of the wire: milliseconds.
func (k *Keys) now() time.Time { return k.clock.Now().UTC().Truncate(time.Millisecond) }

// expiry reads an RFC 3339 moment, with or without fraction, that lies in the life that a service allows.
func expiry(text string, now time.Time, maxDays int) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || !timestampShape.MatchString(text) {
		return time.Time{}, invalid("expires_at", "must be an RFC 3339 timestamp such as %s", now.Add(day).Format(time.RFC3339))
	}
	t = t.UTC().Truncate(time.Millisecond)
	if t.Before(now) {
		return time.Time{}, invalid("expires_at", "must not lie in the past")
	}
	if t.After(now.Add(time.Duration(maxDays) * day)) {
		return time.Time{}, invalid("expires_at", "must lie at most %d days ahead", maxDays)
	}
	return t, nil
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
	return s != "" && utf8.ValidString(s) && utf8.RuneCountInString(s) <= maxName && !strings.ContainsFunc(s, unicode.IsControl)
}
