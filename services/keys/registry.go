package keys

import (
	"context"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Registry answers who issues keys, and which account a token's subject belongs to.
type Registry struct{ store *Store }

// NewRegistry makes the use cases of the registry.
func NewRegistry(store *Store) *Registry { return &Registry{store: store} }

// Services lists the services that issue keys.
func (r *Registry) Services(ctx context.Context, _ rpc.None) (contract.ServicesResponse, error) {
	services, err := r.store.services(ctx)
	return contract.ServicesResponse{Services: services}, err
}

// Service is one of them.
func (r *Registry) Service(ctx context.Context, req contract.ServiceRequest) (contract.IssuingService, error) {
	if !storable(req.ID) {
		return contract.IssuingService{}, problem.New(problem.NotFound, "Service: Not found")
	}
	service, err := r.store.service(ctx, req.ID)
	if err != nil {
		return contract.IssuingService{}, err
	}
	if service == nil {
		return contract.IssuingService{}, problem.New(problem.NotFound, "Service '%s': Not found", req.ID)
	}
	return *service, nil
}

// Client tells the account of a token's subject.
func (r *Registry) Client(ctx context.Context, req contract.ClientRequest) (contract.ClientResponse, error) {
	if !storable(req.ClientID) {
		return contract.ClientResponse{}, problem.New(problem.NotFound, "Client id: Not found")
	}
	account, err := r.store.account(ctx, req.ClientID)
	if err != nil {
		return contract.ClientResponse{}, err
	}
	if account == "" {
		return contract.ClientResponse{}, problem.New(problem.NotFound, "Client id '%s': Not found", req.ClientID)
	}
	return contract.ClientResponse{Account: account}, nil
}
