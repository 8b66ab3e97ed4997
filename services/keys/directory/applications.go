package directory

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/google/uuid"

	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

const (
	maxApplicationName = 128
	// maxApplications keeps the list, which has no pages, within one answer.
	maxApplications = 5000
	// maxAccessKeys of one user (keys §9.3).
	maxAccessKeys = 20
	// suffixLetters tell two client ids apart that come from one name, clientTries bounds the draws.
	suffixLetters = 6
	clientTries   = 5
)

var nameShape = regexp.MustCompile(`^[a-z][-_a-z0-9]*[a-z0-9]$`)

// application is a stored application, or an access key when it has an owner.
type application struct {
	contract.Application

	account string
	owner   *string
	hash    string
}

// CreateApplication makes an application. It may do nothing until an access rule names it; where the install says so, it
// gets one that copies each role of its creator.
func (d *Directory) CreateApplication(ctx context.Context, req contract.CreateApplicationRequest) (contract.CreateApplicationResponse, error) {
	if err := d.mayManage(ctx); err != nil {
		return contract.CreateApplicationResponse{}, err
	}
	by, creator, err := d.creator(ctx)
	if err != nil {
		return contract.CreateApplicationResponse{}, err
	}
	var inherited []int
	if creator != nil && d.cfg.inheritsRoles() {
		inherited = creator.roles
	}
	a, secret, err := d.newApplication(ctx, req.Name, by, nil, inherited)
	if err != nil {
		return contract.CreateApplicationResponse{}, err
	}
	return contract.CreateApplicationResponse{ID: a.ID, Name: a.Name, Secret: secret, ClientID: a.ClientID}, nil
}

// CreateServiceAccount is CreateApplication under its newer name.
func (d *Directory) CreateServiceAccount(ctx context.Context, req contract.CreateApplicationRequest) (contract.CreateServiceAccountResponse, error) {
	a, err := d.CreateApplication(ctx, req)
	return contract.CreateServiceAccountResponse{ID: a.ID, Name: a.Name, ClientSecret: a.Secret, ClientID: a.ClientID}, err
}

func (d *Directory) newApplication(ctx context.Context, name, by string, owner *string, roles []int) (a application, secret string, err error) {
	if len(name) > maxApplicationName || !nameShape.MatchString(name) {
		return a, "", invalid("name", "must be 2 to %d lower-case letters, digits, hyphens and underscores, start with a letter and end with a letter or digit", maxApplicationName)
	}
	secret, hash, err := d.secret(ctx)
	if err != nil {
		return a, "", err
	}
	now := d.now()
	a = application{account: account(ctx), owner: owner, hash: hash, Application: contract.Application{
		ID: uuid.NewString(), Name: name, Enabled: true, CreatedBy: by, CreatedAt: now, UpdatedAt: now, TenantID: contract.TenantID,
	}}
	var inherited []*rule
	for _, id := range roles {
		inherited = append(inherited, installRule(a.subject(), id, by, now))
	}
	for try := range clientTries {
		// An underscore is no letter of a client id: some clients take it for something else.
		a.ClientID = strings.ReplaceAll(name, "_", "-")
		if owner != nil || try > 0 {
			suffix, err := d.letters(suffixLetters, suffixAlphabet)
			if err != nil {
				return a, "", err
			}
			a.ClientID += "-" + suffix
		}
		err = d.store.createApplication(ctx, a, inherited)
		if !errors.Is(err, errClientTaken) {
			break
		}
	}
	switch {
	case errors.Is(err, errTaken):
		return a, "", problem.New(problem.Conflict, "application name already in use")
	case errors.Is(err, errFull) && owner != nil:
		return a, "", problem.New(problem.BadRequest, "a user has at most %d access keys; delete one first", maxAccessKeys)
	case errors.Is(err, errFull):
		return a, "", problem.New(problem.BadRequest, "there are at most %d applications; delete one first", maxApplications)
	case errors.Is(err, errGone):
		return a, "", notFound("User")
	}
	return a, secret, err
}

// ListApplications lists every application.
func (d *Directory) ListApplications(ctx context.Context, _ rpc.None) ([]contract.Application, error) {
	if err := d.mayManage(ctx); err != nil {
		return nil, err
	}
	all, err := d.store.applications(ctx, `a.owner IS NULL`)
	apps := make([]contract.Application, 0, len(all))
	for _, a := range all {
		apps = append(apps, a.Application)
	}
	return apps, err
}

// GetApplication is one application.
func (d *Directory) GetApplication(ctx context.Context, req contract.SubjectRequest) (contract.Application, error) {
	a, err := d.someApplication(ctx, req.ID)
	if err != nil {
		return contract.Application{}, err
	}
	return a.Application, nil
}

// someApplication finds the application that an administrator named; an access key is none.
func (d *Directory) someApplication(ctx context.Context, id string) (*application, error) {
	if err := d.mayManage(ctx); err != nil {
		return nil, err
	}
	a, err := d.application(ctx, id)
	if err == nil && (a == nil || a.owner != nil) {
		return nil, notFound("Application")
	}
	return a, err
}

func (d *Directory) application(ctx context.Context, id string) (*application, error) {
	if !isUUID(id) {
		return nil, nil
	}
	return d.store.application(ctx, id)
}

// UpdateApplication enables or disables an application.
func (d *Directory) UpdateApplication(ctx context.Context, req contract.UpdateApplicationRequest) (rpc.None, error) {
	a, err := d.someApplication(ctx, req.ID)
	if err != nil {
		return rpc.None{}, err
	}
	if req.Enabled == nil {
		return rpc.None{}, invalid("enabled", "must be true or false")
	}
	return rpc.None{}, gone(d.store.enableApplication(ctx, *a, *req.Enabled, d.now()), "Application")
}

// DeleteApplication removes an application with its rules.
func (d *Directory) DeleteApplication(ctx context.Context, req contract.SubjectRequest) (rpc.None, error) {
	a, err := d.someApplication(ctx, req.ID)
	if err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, gone(d.store.deleteApplication(ctx, *a, d.now()), "Application")
}

// RenewSecret gives an application a new secret.
func (d *Directory) RenewSecret(ctx context.Context, req contract.SubjectRequest) (contract.SecretResponse, error) {
	a, err := d.someApplication(ctx, req.ID)
	if err != nil {
		return contract.SecretResponse{}, err
	}
	secret, err := d.renew(ctx, *a)
	return contract.SecretResponse{Secret: secret}, err
}

// RenewClientSecret is RenewSecret under its newer name.
func (d *Directory) RenewClientSecret(ctx context.Context, req contract.SubjectRequest) (contract.ClientSecretResponse, error) {
	answer, err := d.RenewSecret(ctx, req)
	return contract.ClientSecretResponse{ClientSecret: answer.Secret}, err
}

func (d *Directory) renew(ctx context.Context, a application) (string, error) {
	secret, hash, err := d.secret(ctx)
	if err != nil {
		return "", err
	}
	a.hash = hash
	if err := gone(d.store.renewSecret(ctx, a, d.now()), "Application"); err != nil {
		return "", err
	}
	return secret, nil
}
