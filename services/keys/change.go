package keys

import (
	"context"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// maxGrace is how long a rotated key may go on.
const maxGrace = 7 * day

// Authorize replaces what a key may do (keys §4.5).
func (k *Keys) Authorize(ctx context.Context, req contract.AuthorizeRequest) (contract.Key, error) {
	var warning string
	key, err := k.change(ctx, req.KeyRequest, func(r *record, service contract.IssuingService, now time.Time) (announcement, error) {
		granted, err := k.readAuthorizations(req.Authorizations, service.MaxAuthzChars, r.audiences)
		if err != nil {
			return announcement{}, err
		}
		interval := time.Duration(service.MinAuthzUpdateIntervalS) * time.Second
		if wait := r.authorizedAt.Add(interval).Sub(now); wait > 0 {
			p := problem.New(problem.TooManyRequests, "the authorizations of a key may change once in %d seconds; try again", service.MinAuthzUpdateIntervalS)
			p.RetryAfterSeconds = int(math.Ceil(wait.Seconds()))
			return announcement{}, p
		}
		r.authorizations, r.authorizedAt = granted, now
		warning = k.matrix.warning(granted, r.audiences)
		return announcement{contract.Updated, reasonAuthorizations}, nil
	})
	key.Warning = warning
	return key, err
}

// Change changes the description, life and limits of a key (keys §4.6).
func (k *Keys) Change(ctx context.Context, req contract.ChangeRequest) (contract.Key, error) {
	return k.change(ctx, req.KeyRequest, func(r *record, service contract.IssuingService, now time.Time) (announcement, error) {
		if req.Description == nil && req.ExpiresAt == nil && req.NotBefore == nil && req.RateLimit == nil && req.AllowedCIDRs == nil {
			return announcement{}, invalid("body", "must have one of description, expires_at, not_before, rate_limit and allowed_cidrs")
		}
		if req.Description != nil {
			if !descriptionShape.MatchString(*req.Description) {
				return announcement{}, badDescription()
			}
			r.description = *req.Description
		}
		if req.ExpiresAt != nil {
			expires, err := expiry("expires_at", *req.ExpiresAt, now, service.MaxKeyTTLDays)
			if err != nil {
				return announcement{}, err
			}
			if r.superseded && expires.After(r.expiresAt) {
				return announcement{}, problem.New(problem.Conflict, "this key was rotated; its life can only be made shorter")
			}
			r.expire(expires, k.retention)
		}
		if req.NotBefore != nil {
			if err := r.startAt(*req.NotBefore, now); err != nil {
				return announcement{}, err
			}
		}
		return announcement{contract.Updated, reasonChanged}, r.limit(req.Limits)
	})
}

// expire sets the end of a key's life, and with it that of its record.
func (r *record) expire(at time.Time, retention time.Duration) {
	r.expiresAt, r.deletesAt = at, at.Add(retention)
}

// change is what every change of an active key has in common.
func (k *Keys) change(ctx context.Context, req contract.KeyRequest,
	edit func(*record, contract.IssuingService, time.Time) (announcement, error),
) (contract.Key, error) {
	now := k.now()
	issuer, st, err := k.admit(ctx, req.Issuer, now)
	if err != nil {
		return contract.Key{}, err
	}
	if !isUUID(req.ID) {
		return contract.Key{}, notFound(req.ID)
	}
	r, err := k.store.alter(ctx, ownedKey(req.ID, issuer.OwnerID, issuer.ServiceID), now, func(r *record) (announcement, error) {
		if err := r.active(now); err != nil {
			return announcement{}, err
		}
		return edit(r, *st.service, now)
	})
	if err != nil {
		return contract.Key{}, err
	}
	if r == nil {
		return contract.Key{}, notFound(req.ID)
	}
	return k.show(*r, now), nil
}

// active refuses to change a key that does not work.
func (r *record) active(now time.Time) error {
	if status := r.status(now); status != contract.Active {
		return problem.New(problem.IllegalState, "Key id '%s' is %s; only an ACTIVE key can be changed", r.id, status)
	}
	return nil
}

// Rotate makes a key that takes over from an old one (keys §4.6). The old one lives on for the grace and takes none of
// the owner's slots meanwhile. The new one expires when the old one was to expire: a rotation extends a life only when
// it is asked to.
func (k *Keys) Rotate(ctx context.Context, req contract.RotateRequest) (contract.Key, error) {
	now := k.now()
	issuer, st, err := k.admit(ctx, req.Issuer, now)
	if err != nil {
		return contract.Key{}, err
	}
	if !isUUID(req.ID) {
		return contract.Key{}, notFound(req.ID)
	}
	said := req
	said.Issuer, said.IdempotencyKey = contract.Issuer{}, ""
	var answer contract.Key
	err = k.once(ctx, repetition("rotate", issuer, req.IdempotencyKey, said), now, &answer, func(tx pgx.Tx, d *drawing) error {
		made, err := k.store.rotate(ctx, tx, ownedKey(req.ID, issuer.OwnerID, issuer.ServiceID), now, func(old *record) (*record, announcement, error) {
			return k.succeed(old, req, *st.service, now)
		}, d.draw)
		switch {
		case err != nil:
			return err
		case made == nil:
			return notFound(req.ID)
		}
		answer = k.fresh(*made, d.value, now)
		return nil
	})
	return answer, refusal(err, *st.service)
}

// succeed makes the successor of a key, ends the old one when its grace does, and says what is to be told of the old one.
func (k *Keys) succeed(old *record, req contract.RotateRequest, service contract.IssuingService, now time.Time) (*record, announcement, error) {
	if err := old.active(now); err != nil {
		return nil, announcement{}, err
	}
	var grace time.Duration
	if req.GraceSeconds != nil {
		if *req.GraceSeconds < 0 || *req.GraceSeconds > int64(maxGrace/time.Second) {
			return nil, announcement{}, invalid("grace_seconds", "must be between 0 and %d", int64(maxGrace/time.Second))
		}
		grace = time.Duration(*req.GraceSeconds) * time.Second
	}
	fresh := *old
	fresh.id, fresh.version, fresh.rotatedFrom, fresh.superseded = uuid.NewString(), 1, old.id, false
	fresh.createdAt, fresh.updatedAt, fresh.authorizedAt, fresh.used = now, now, now, use{}
	if req.ExpiresAt != nil {
		expires, err := expiry("expires_at", *req.ExpiresAt, now, service.MaxKeyTTLDays)
		if err != nil {
			return nil, announcement{}, err
		}
		fresh.expire(expires, k.retention)
	}
	old.superseded = true
	if end := now.Add(grace); end.Before(old.expiresAt) {
		old.expire(end, k.retention)
	}
	if grace == 0 {
		return &fresh, announcement{contract.Revoked, reasonRotated}, nil
	}
	return &fresh, announcement{contract.Updated, reasonRotated}, nil
}
