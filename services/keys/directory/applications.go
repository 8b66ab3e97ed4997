package directory

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/sirocco-cloud/sirocco/contracts/access"
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
	// secretLetters make a secret of 249 bits that needs no quoting anywhere.
	secretLetters = 43
	// suffixLetters tell two client ids apart that come from one name, clientTries bounds the draws.
	suffixLetters = 6
	clientTries   = 5
)

var nameShape = regexp.MustCompile(`^[a-z][-_a-z0-9]*[a-z0-9]$`)

// errFull is what an insert is refused for when there are as many as are allowed.
var errFull = errors.New("as many as are allowed")

// application is a stored application, or an access key when it has an owner.
type application struct {
	contract.Application

	account string
	owner   *string
	hash    string
}

func (a application) accessKey() contract.AccessKey {
	return contract.AccessKey{
		ID: a.ID, ClientID: a.ClientID, Name: a.Name, CreatedBy: a.CreatedBy, Enabled: a.Enabled,
		CreatedAt: a.CreatedAt, UpdatedAt: a.UpdatedAt, LastLogin: a.LastLogin,
	}
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
		inherited = append(inherited, &rule{
			account: a.account, subject: &a.ID,
			Rule: contract.Rule{
				SubjectID: a.ID, SubjectType: contract.ApplicationSubject, RoleID: id, ScopeID: installScope, ScopeType: systemScope,
				CreatedBy: by, CreatedAt: now, UpdatedAt: now,
			},
		})
	}
	for try := range clientTries {
		// An underscore is no letter of a client id: some clients take it for something else.
		a.ClientID = strings.ReplaceAll(name, "_", "-")
		if owner != nil || try > 0 {
			suffix, err := d.letters(suffixLetters, "abcdefghijkmnpqrstuvwxyz23456789")
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
	return d.removeKey(ctx)(d.ownKey(ctx, req.ID))
}

// DeleteAnyAccessKey removes an access key of any user.
func (d *Directory) DeleteAnyAccessKey(ctx context.Context, req contract.SubjectRequest) (rpc.None, error) {
	return d.removeKey(ctx)(d.anyKey(ctx, req.ID))
}

func (d *Directory) removeKey(ctx context.Context) func(*application, error) (rpc.None, error) {
	return func(a *application, err error) (rpc.None, error) {
		if err != nil {
			return rpc.None{}, err
		}
		return rpc.None{}, gone(d.store.deleteApplication(ctx, *a, d.now()), "Access key")
	}
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

// secret draws the secret of an application, and its hash.
func (d *Directory) secret(ctx context.Context) (secret, hash string, err error) {
	if secret, err = d.letters(secretLetters, passwordLetters); err != nil {
		return "", "", err
	}
	hash, err = d.hasher.hash(ctx, secret)
	return secret, hash, err
}

func (d *Directory) letters(n int, of string) (string, error) {
	drawn := make([]byte, n)
	for i := range drawn {
		letter, err := d.letter(of)
		if err != nil {
			return "", err
		}
		drawn[i] = letter
	}
	return string(drawn), nil
}
