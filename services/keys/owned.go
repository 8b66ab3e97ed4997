package keys

import (
	"context"
	"strings"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// administers checks the two names that every request of a service's administrator has.
func (o *Owners) administers(ctx context.Context, serviceID, ownerID string) (service, owner string, err error) {
	service = strings.TrimSpace(serviceID)
	if !storable(service) {
		return "", "", badIssuer()
	}
	registered, err := o.keys.store.service(ctx, service)
	switch {
	case err != nil:
		return "", "", err
	case registered == nil:
		return "", "", badIssuer()
	case !storable(ownerID):
		return "", "", invalid("owner", "must have at most %d characters and none of them a control character", maxName)
	}
	return service, ownerID, nil
}

// List returns the keys of an owner at one service.
func (o *Owners) List(ctx context.Context, req contract.OwnersKeysRequest) (contract.ListResponse, error) {
	service, owner, err := o.administers(ctx, req.ServiceID, req.OwnerID)
	if err != nil {
		return contract.ListResponse{}, err
	}
	return o.keys.list(ctx, owner, service, req.Page, o.keys.now())
}

// Get returns one of them.
func (o *Owners) Get(ctx context.Context, req contract.OwnersKeyRequest) (contract.Key, error) {
	service, owner, err := o.administers(ctx, req.ServiceID, req.OwnerID)
	if err != nil {
		return contract.Key{}, err
	}
	return o.keys.get(ctx, req.ID, owner, service, o.keys.now())
}

// Delete removes one of them.
func (o *Owners) Delete(ctx context.Context, req contract.OwnersKeyRequest) (contract.Revocation, error) {
	service, owner, err := o.administers(ctx, req.ServiceID, req.OwnerID)
	if err != nil {
		return contract.Revocation{}, err
	}
	return o.keys.remove(ctx, req.ID, owner, service)
}

// SetStatus suspends one of them, or lets it work again.
func (o *Owners) SetStatus(ctx context.Context, req contract.KeyStatusRequest) (contract.Key, error) {
	service, owner, err := o.administers(ctx, req.ServiceID, req.OwnerID)
	if err != nil {
		return contract.Key{}, err
	}
	if err := checkStatus(req.Status); err != nil {
		return contract.Key{}, err
	}
	if !isUUID(req.ID) {
		return contract.Key{}, notFound(req.ID)
	}
	now := o.keys.now()
	r, err := o.keys.store.alter(ctx, ownedKey(req.ID, owner, service), now, func(r *record) (announcement, error) {
		from, to := r.status(now), contract.Status(req.Status)
		switch {
		case to == contract.Suspended && from != contract.Suspended:
			r.suspended = true
			return announcement{contract.Revoked, reasonSuspended}, nil
		case to == contract.Active && from == contract.Suspended:
			r.suspended = false
			return announcement{contract.Restored, reasonActivated}, nil
		}
		return announcement{}, problem.New(problem.IllegalState, "Key id '%s' is %s and cannot become %s", r.id, from, to)
	})
	switch {
	case err != nil:
		return contract.Key{}, err
	case r == nil:
		return contract.Key{}, notFound(req.ID)
	}
	return o.keys.show(*r, now), nil
}

// Suspend suspends every active key of an owner at one service and lists all that the owner has there.
func (o *Owners) Suspend(ctx context.Context, req contract.OwnersKeysRequest) (contract.ListResponse, error) {
	service, owner, err := o.administers(ctx, req.ServiceID, req.OwnerID)
	if err != nil {
		return contract.ListResponse{}, err
	}
	now := o.keys.now()
	if err := o.keys.store.suspendKeys(ctx, owner, service, now); err != nil {
		return contract.ListResponse{}, err
	}
	return o.keys.list(ctx, owner, service, req.Page, now)
}
