package keys

import (
	"context"
	"errors"
	"strings"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Owners are the use cases of administrators: those of one issuing service (keys §4.10) and those of the platform (keys
// §4.11). They see and end keys whose owner is suspended, too.
type Owners struct{ keys *Keys }

// NewOwners makes the use cases.
func NewOwners(keys *Keys) *Owners { return &Owners{keys: keys} }

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

func checkStatus(status string) error {
	if status != string(contract.Active) && status != string(contract.Suspended) {
		return invalid("status", "must be ACTIVE or SUSPENDED")
	}
	return nil
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

// Lookup finds the record of a key value, in whatever state it is.
func (o *Owners) Lookup(ctx context.Context, req contract.LookupRequest) (contract.Key, error) {
	hash, err := o.hash(req)
	if err != nil {
		return contract.Key{}, err
	}
	if hash == "" {
		return contract.Key{}, invalid("key", "must be a key of this deployment")
	}
	r, err := o.keys.store.key(ctx, hashed(hash))
	if err != nil {
		return contract.Key{}, err
	}
	if r == nil {
		return contract.Key{}, problem.New(problem.NotFound, "Key: Not found")
	}
	key := o.keys.show(*r, o.keys.now())
	key.Value, key.Authorizations = "", nil
	return key, nil
}

// hash is that of a key value, empty when it is malformed.
func (o *Owners) hash(req contract.LookupRequest) (string, error) {
	if req.Key == "" {
		return "", invalid("key", "must be present")
	}
	hash, _ := o.keys.format.Parse(req.Key)
	return hash, nil
}

// ReportLeak suspends a key whose value was found where it should not be. The answer does not tell whether there is one.
func (o *Owners) ReportLeak(ctx context.Context, req contract.LookupRequest) (rpc.None, error) {
	hash, err := o.hash(req)
	if err != nil || hash == "" {
		return rpc.None{}, err
	}
	_, err = o.keys.store.alter(ctx, hashed(hash), o.keys.now(), func(r *record) (announcement, error) {
		if r.suspended {
			return announcement{}, errSuspended
		}
		r.suspended = true
		return announcement{contract.Revoked, reasonLeaked}, nil
	})
	if errors.Is(err, errSuspended) {
		err = nil
	}
	return rpc.None{}, err
}

// Owner tells about an owner.
func (o *Owners) Owner(ctx context.Context, req contract.OwnerRequest) (contract.Owner, error) {
	if !storable(req.OwnerID) {
		return contract.Owner{}, noOwner(req.OwnerID)
	}
	owner, err := o.keys.store.owner(ctx, req.OwnerID)
	switch {
	case err != nil:
		return contract.Owner{}, err
	case owner == nil:
		return contract.Owner{}, noOwner(req.OwnerID)
	}
	return *owner, nil
}

// SetOwnerStatus suspends an owner with all keys, or lets them work again as they were.
func (o *Owners) SetOwnerStatus(ctx context.Context, req contract.OwnerStatusRequest) (contract.Owner, error) {
	if err := checkStatus(req.Status); err != nil {
		return contract.Owner{}, err
	}
	if !storable(req.OwnerID) {
		return contract.Owner{}, noOwner(req.OwnerID)
	}
	owner, err := o.keys.store.moveOwner(ctx, req.OwnerID, contract.Status(req.Status), o.keys.now())
	switch {
	case err != nil:
		return contract.Owner{}, err
	case owner == nil:
		return contract.Owner{}, noOwner(req.OwnerID)
	}
	return *owner, nil
}

// Keys lists the keys of an owner at every service.
func (o *Owners) Keys(ctx context.Context, req contract.OwnerKeysRequest) (contract.ListResponse, error) {
	if _, err := o.Owner(ctx, req.OwnerRequest); err != nil {
		return contract.ListResponse{}, err
	}
	return o.keys.list(ctx, req.OwnerID, "", req.Page, o.keys.now())
}

// DeleteKeys removes every key of an owner.
func (o *Owners) DeleteKeys(ctx context.Context, req contract.OwnerRequest) (contract.Revocation, error) {
	if _, err := o.Owner(ctx, req); err != nil {
		return contract.Revocation{}, err
	}
	removed, err := o.keys.store.removeOwned(ctx, req.OwnerID)
	if err != nil {
		return contract.Revocation{}, err
	}
	return o.keys.revoked(ctx, removed), nil
}

func noOwner(id string) error {
	if !storable(id) || strings.Contains(id, contract.Prefix) { // a key put there by mistake must not come back
		return problem.New(problem.NotFound, "Owner: Not found")
	}
	return problem.New(problem.NotFound, "Owner '%s': Not found", id)
}
