package keys

import (
	"context"
	"errors"
	"strings"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Owners are the use cases of administrators: those of one issuing service (keys §4.10, in owned.go) and those of the
// platform (keys §4.11). They see and end keys whose owner is suspended, too.
type Owners struct{ keys *Keys }

// NewOwners makes the use cases.
func NewOwners(keys *Keys) *Owners { return &Owners{keys: keys} }

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
	return known(req.OwnerID, func() (*contract.Owner, error) { return o.keys.store.owner(ctx, req.OwnerID) })
}

// SetOwnerStatus suspends an owner with all keys, or lets them work again as they were.
func (o *Owners) SetOwnerStatus(ctx context.Context, req contract.OwnerStatusRequest) (contract.Owner, error) {
	if err := checkStatus(req.Status); err != nil {
		return contract.Owner{}, err
	}
	return known(req.OwnerID, func() (*contract.Owner, error) {
		return o.keys.store.moveOwner(ctx, req.OwnerID, contract.Status(req.Status), o.keys.now())
	})
}

// known reads an owner that must be there. What cannot be the name of one never reaches the database.
func known(id string, read func() (*contract.Owner, error)) (contract.Owner, error) {
	if !storable(id) {
		return contract.Owner{}, noOwner(id)
	}
	owner, err := read()
	switch {
	case err != nil:
		return contract.Owner{}, err
	case owner == nil:
		return contract.Owner{}, noOwner(id)
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

func checkStatus(status string) error {
	if status != string(contract.Active) && status != string(contract.Suspended) {
		return invalid("status", "must be ACTIVE or SUSPENDED")
	}
	return nil
}
