package directory

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Where a password came from.
const (
	fromEnvironment   = "environment"
	fromAdministrator = "administrator"
	fromUser          = "user"
)

// user is a stored user.
type user struct {
	contract.User

	account      string
	hash         string
	passwordFrom string
	mustChange   bool
}

// userListing is what GET /api/v1/users may be asked for (keys §9.4).
var userListing = listing{
	columns: map[string]column{
		"username": {sql: "u.email"}, "createdBy": {sql: "u.created_by"}, "lastLogin": {sql: "u.last_login", typ: moment},
		"creationTime": {sql: "u.created_at", typ: moment}, "lastUpdated": {sql: "u.updated_at", typ: moment},
		"isLocal": {sql: "true", typ: truth}, "type": {sql: "'local'::text"},
	},
	filters:   []string{"username", "createdBy", "lastLogin", "creationTime", "lastUpdated", "isLocal"},
	sorts:     []string{"username", "createdBy", "lastLogin", "creationTime", "lastUpdated", "type"},
	operators: []string{"==", "<=", ">=", "=@"},
	sort:      "username", limit: 500, most: 500, tie: "u.id",
}

// CreateUser makes a local user with a temporary password, which only this answer holds.
func (d *Directory) CreateUser(ctx context.Context, req contract.CreateUserRequest) (contract.CreateUserResponse, error) {
	if err := d.mayManage(ctx); err != nil {
		return contract.CreateUserResponse{}, err
	}
	check := problem.NewCheck("user")
	check.Require(isEmail(req.Email), "email", "must be an e-mail address of %d to %d characters", minEmail, maxEmail)
	check.Require(writable(req.FirstName, maxName), "firstName", "must have at most %d characters and none for control", maxName)
	check.Require(writable(req.LastName, maxName), "lastName", "must have at most %d characters and none for control", maxName)
	if err := check.Err(); err != nil {
		return contract.CreateUserResponse{}, err
	}
	by, _, err := d.creator(ctx)
	if err != nil {
		return contract.CreateUserResponse{}, err
	}
	password, hash, err := d.temporary(ctx)
	if err != nil {
		return contract.CreateUserResponse{}, err
	}
	now := d.now()
	u := user{
		account: account(ctx), hash: hash, passwordFrom: fromAdministrator, mustChange: req.ResetPassword,
		User: contract.User{
			ID: uuid.NewString(), Email: req.Email, Username: req.Email, FirstName: req.FirstName, LastName: req.LastName,
			CreatedBy: by, CreatedAt: now, UpdatedAt: now,
		},
	}
	switch err := d.store.createUser(ctx, u, nil); {
	case errors.Is(err, errTaken):
		return contract.CreateUserResponse{}, problem.New(problem.Conflict, "a user with this e-mail address already exists")
	case err != nil:
		return contract.CreateUserResponse{}, err
	}
	return contract.CreateUserResponse{ID: u.ID, Username: u.Username, Email: u.Email, TempPassword: password, CreatedAt: now}, nil
}

// ListUsers lists the users that a filter selects.
func (d *Directory) ListUsers(ctx context.Context, req contract.ListUsersRequest) ([]contract.User, error) {
	if err := d.mayManage(ctx); err != nil {
		return nil, err
	}
	q, err := userQuery(req.UserFilter)
	if err != nil {
		return nil, err
	}
	if err := userListing.paged(&q, req.Page); err != nil {
		return nil, err
	}
	return d.store.users(ctx, q)
}

// CountUsers counts the users that a filter selects.
func (d *Directory) CountUsers(ctx context.Context, req contract.UserFilter) (contract.CountResponse, error) {
	if err := d.mayManage(ctx); err != nil {
		return contract.CountResponse{}, err
	}
	q, err := userQuery(req)
	if err != nil {
		return contract.CountResponse{}, err
	}
	n, err := d.store.countUsers(ctx, q)
	return contract.CountResponse{Count: n}, err
}

func userQuery(f contract.UserFilter) (q query, err error) {
	if err := userListing.filter(&q, "filter", f.Filter); err != nil {
		return q, err
	}
	if err := userListing.filter(&q, "filterBy", f.FilterBy); err != nil {
		return q, err
	}
	if f.Search != "" {
		sql, rule := userListing.columns["username"].compare(&q, "=@", f.Search)
		if rule != "" {
			return q, invalid("search", "%s", rule)
		}
		q.where = append(q.where, sql)
	}
	return q, nil
}

// GetUser is one user.
func (d *Directory) GetUser(ctx context.Context, req contract.SubjectRequest) (contract.User, error) {
	u, err := d.someUser(ctx, req.ID)
	if err != nil {
		return contract.User{}, err
	}
	return u.User, nil
}

// someUser finds the user that an administrator named.
func (d *Directory) someUser(ctx context.Context, id string) (*user, error) {
	if err := d.mayManage(ctx); err != nil {
		return nil, err
	}
	if !isUUID(id) {
		return nil, notFound("User")
	}
	u, err := d.store.user(ctx, id)
	if err == nil && u == nil {
		err = notFound("User")
	}
	return u, err
}

// DeleteUser removes a user with its rules and access keys; what they hold is refused at once.
func (d *Directory) DeleteUser(ctx context.Context, req contract.SubjectRequest) (rpc.None, error) {
	u, err := d.someUser(ctx, req.ID)
	if err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, gone(d.store.deleteUser(ctx, *u, d.now()), "User")
}

// SignOutUser ends every login and refresh token of a user. Its access keys are programs and go on.
func (d *Directory) SignOutUser(ctx context.Context, req contract.SubjectRequest) (rpc.None, error) {
	u, err := d.someUser(ctx, req.ID)
	if err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, gone(d.store.signOut(ctx, *u, d.now()), "User")
}

// ResetPassword gives a user a temporary password that it has to change.
func (d *Directory) ResetPassword(ctx context.Context, req contract.SubjectRequest) (contract.TempPasswordResponse, error) {
	u, err := d.someUser(ctx, req.ID)
	if err != nil {
		return contract.TempPasswordResponse{}, err
	}
	password, hash, err := d.temporary(ctx)
	if err != nil {
		return contract.TempPasswordResponse{}, err
	}
	u.hash, u.passwordFrom, u.mustChange = hash, fromAdministrator, true
	if err := gone(d.store.setPassword(ctx, *u, d.now(), "reset"), "User"); err != nil {
		return contract.TempPasswordResponse{}, err
	}
	return contract.TempPasswordResponse{TempPassword: password}, nil
}

// ChangePassword changes the caller's own password. A wrong current one counts as a failed sign-in.
func (d *Directory) ChangePassword(ctx context.Context, req contract.ChangePasswordRequest) (rpc.None, error) {
	check := problem.NewCheck("request")
	check.Require(req.CurrentPassword != "" && len(req.CurrentPassword) <= maxPassword, "currentPassword", "must be present, at most %d bytes", maxPassword)
	check.Require(len([]rune(req.NewPassword)) >= minPassword && len(req.NewPassword) <= maxPassword,
		"newPassword", "must have at least %d characters and at most %d bytes", minPassword, maxPassword)
	check.Require(req.NewPassword != req.CurrentPassword, "newPassword", "must not be the current one")
	check.Require(req.NewPassword != factoryPassword, "newPassword", "must not be the documented factory password")
	if err := check.Err(); err != nil {
		return rpc.None{}, err
	}
	who, err := d.subject(ctx, access.CallerFrom(ctx).Subject)
	if err != nil {
		return rpc.None{}, err
	}
	if who == nil || who.kind != person {
		return rpc.None{}, problem.New(problem.BadRequest, "only a local user has a password to change")
	}
	now := d.now()
	if err := d.proveCurrent(ctx, *who, req.CurrentPassword, now); err != nil {
		return rpc.None{}, err
	}
	hash, err := d.hasher.hash(ctx, req.NewPassword)
	if err != nil {
		return rpc.None{}, err
	}
	u := user{account: who.account, hash: hash, passwordFrom: fromUser, User: contract.User{ID: who.id, Username: who.name, Email: who.email}}
	return rpc.None{}, gone(d.store.setPassword(ctx, u, now, "changed"), "User")
}

func (d *Directory) proveCurrent(ctx context.Context, who subject, password string, now time.Time) error {
	done, err := d.hasher.turn(ctx)
	if err != nil {
		return err
	}
	defer done()
	mark := markOf(person, who.name, &who)
	if err := d.admit(ctx, mark, now); err != nil {
		return err
	}
	return d.prove(ctx, attempt{grant: contract.PasswordGrant, kind: person, secret: password}, &who, mark, now)
}
