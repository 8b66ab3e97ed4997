package directory

import (
	"context"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

func (a application) accessKey() contract.AccessKey {
	return contract.AccessKey{
		ID: a.ID, ClientID: a.ClientID, Name: a.Name, CreatedBy: a.CreatedBy, Enabled: a.Enabled,
		CreatedAt: a.CreatedAt, UpdatedAt: a.UpdatedAt, LastLogin: a.LastLogin,
	}
}

// CreateAccessKey makes an access key of the caller, with the caller's rights.
func (d *Directory) CreateAccessKey(ctx context.Context, req contract.CreateApplicationRequest) (contract.CreateAccessKeyResponse, error) {
	who, err := d.self(ctx)
	if err != nil {
		return contract.CreateAccessKeyResponse{}, err
	}
	if who.mustChange {
		return contract.CreateAccessKeyResponse{}, problem.New(problem.Forbidden, "change the temporary password with POST /api/v1/me/password first")
	}
	a, secret, err := d.newApplication(ctx, req.Name, who.name, &who.id, nil)
	if err != nil {
		return contract.CreateAccessKeyResponse{}, err
	}
	return contract.CreateAccessKeyResponse{ID: a.ID, ClientID: a.ClientID, Name: a.Name, ClientSecret: secret, CreatedAt: a.CreatedAt}, nil
}

// self is the user that calls. Access keys belong to people only.
func (d *Directory) self(ctx context.Context) (*subject, error) {
	who, err := d.subject(ctx, access.CallerFrom(ctx).Subject)
	if err == nil && (who == nil || who.kind != person) {
		return nil, problem.New(problem.Forbidden, "only a local user has access keys of its own")
	}
	return who, err
}

// ListAccessKeys lists the caller's access keys.
func (d *Directory) ListAccessKeys(ctx context.Context, _ rpc.None) (contract.AccessKeysResponse, error) {
	who, err := d.self(ctx)
	if err != nil {
		return contract.AccessKeysResponse{}, err
	}
	return d.accessKeys(ctx, `a.owner = $1`, who.id)
}

// ListAllAccessKeys lists the access keys of every user.
func (d *Directory) ListAllAccessKeys(ctx context.Context, _ rpc.None) (contract.AccessKeysResponse, error) {
	if err := d.mayManage(ctx); err != nil {
		return contract.AccessKeysResponse{}, err
	}
	return d.accessKeys(ctx, `a.owner IS NOT NULL`)
}

func (d *Directory) accessKeys(ctx context.Context, where string, args ...any) (contract.AccessKeysResponse, error) {
	all, err := d.store.applications(ctx, where, args...)
	answer := contract.AccessKeysResponse{AccessKeys: make([]contract.AccessKey, 0, len(all))}
	for _, a := range all {
		answer.AccessKeys = append(answer.AccessKeys, a.accessKey())
	}
	return answer, err
}

// GetAccessKey is one access key of the caller.
func (d *Directory) GetAccessKey(ctx context.Context, req contract.SubjectRequest) (contract.AccessKey, error) {
	return shownKey(d.ownKey(ctx, req.ID))
}

// GetAnyAccessKey is one access key of any user.
func (d *Directory) GetAnyAccessKey(ctx context.Context, req contract.SubjectRequest) (contract.AccessKey, error) {
	return shownKey(d.anyKey(ctx, req.ID))
}

func shownKey(a *application, err error) (contract.AccessKey, error) {
	if err != nil {
		return contract.AccessKey{}, err
	}
	return a.accessKey(), nil
}

// DeleteAccessKey removes an access key of the caller.
func (d *Directory) DeleteAccessKey(ctx context.Context, req contract.SubjectRequest) (rpc.None, error) {
	a, err := d.ownKey(ctx, req.ID)
	return d.deleteKey(ctx, a, err)
}

// DeleteAnyAccessKey removes an access key of any user.
func (d *Directory) DeleteAnyAccessKey(ctx context.Context, req contract.SubjectRequest) (rpc.None, error) {
	a, err := d.anyKey(ctx, req.ID)
	return d.deleteKey(ctx, a, err)
}

func (d *Directory) deleteKey(ctx context.Context, a *application, err error) (rpc.None, error) {
	if err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, gone(d.store.deleteApplication(ctx, *a, d.now()), "Access key")
}

// RenewAccessKey gives an access key of the caller a new secret.
func (d *Directory) RenewAccessKey(ctx context.Context, req contract.SubjectRequest) (contract.ClientSecretResponse, error) {
	a, err := d.ownKey(ctx, req.ID)
	if err != nil {
		return contract.ClientSecretResponse{}, err
	}
	secret, err := d.renew(ctx, *a)
	return contract.ClientSecretResponse{ClientSecret: secret}, err
}

// ownKey finds the access key of the caller with an id.
func (d *Directory) ownKey(ctx context.Context, id string) (*application, error) {
	who, err := d.self(ctx)
	if err != nil {
		return nil, err
	}
	a, err := d.application(ctx, id)
	if err == nil && (a == nil || a.owner == nil || *a.owner != who.id) {
		return nil, notFound("Access key")
	}
	return a, err
}

// anyKey finds the access key that an administrator named.
func (d *Directory) anyKey(ctx context.Context, id string) (*application, error) {
	if err := d.mayManage(ctx); err != nil {
		return nil, err
	}
	a, err := d.application(ctx, id)
	if err == nil && (a == nil || a.owner == nil) {
		return nil, notFound("Access key")
	}
	return a, err
}
