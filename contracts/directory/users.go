package directory

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// User is a local user. Its username is its e-mail address.
type User struct {
	ID        string    `json:"id"`
	Username  string    `json:"username"`
	Email     string    `json:"email"`
	FirstName string    `json:"firstName,omitempty"`
	LastName  string    `json:"lastName,omitempty"`
	CreatedBy string    `json:"createdBy"`
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
	LastLogin Moment    `json:"lastLogin"`
	IsLocal   bool      `json:"isLocal"`
	Groups    []string  `json:"groups"`
}

// CreateUserRequest is POST /api/v1/users.
type CreateUserRequest struct {
	Email string `json:"email"`
	// ResetPassword makes the temporary password good for nothing but choosing another one.
	ResetPassword bool `json:"resetPassword"`
	// Notify is accepted and without effect: Sirocco sends no mail.
	Notify    bool   `json:"notify"`
	FirstName string `json:"firstName"`
	LastName  string `json:"lastName"`
}

// CreateUserResponse holds the temporary password, here only.
type CreateUserResponse struct {
	ID           string    `json:"id"`
	Username     string    `json:"username"`
	Email        string    `json:"email"`
	TempPassword string    `json:"tempPassword"`
	CreatedAt    time.Time `json:"createdAt"`
}

// UserFilter selects users. Filter and FilterBy hold comparisons such as username=@corp, of which all must hold;
// Search is a part of the username.
type UserFilter struct {
	Filter   []string `json:"filter,omitempty" query:"filter"`
	FilterBy []string `json:"filterBy,omitempty" query:"filterBy"`
	Search   string   `json:"search,omitempty" query:"search"`
}

// ListUsersRequest is GET /api/v1/users.
type ListUsersRequest struct {
	UserFilter
	Page
}

// CountResponse is the answer of every count.
type CountResponse struct {
	Count int `json:"count"`
}

// SubjectRequest names a user, an application or an access key by its id.
type SubjectRequest struct {
	ID string `json:"id" path:"id"`
}

// TempPasswordResponse holds a new temporary password, here only.
type TempPasswordResponse struct {
	TempPassword string `json:"tempPassword"`
}

// ChangePasswordRequest is POST /api/v1/me/password.
type ChangePasswordRequest struct {
	CurrentPassword string `json:"currentPassword" secret:"true"`
	NewPassword     string `json:"newPassword" secret:"true"`
}

// The endpoints of users.
var (
	CreateUser     = rpc.Endpoint[CreateUserRequest, CreateUserResponse]{Service: "keys", Resource: "user", Verb: "create", Doc: "Creates a local user with a temporary password."}
	ListUsers      = rpc.Endpoint[ListUsersRequest, []User]{Service: "keys", Resource: "user", Verb: "list", Doc: "Lists users."}
	CountUsers     = rpc.Endpoint[UserFilter, CountResponse]{Service: "keys", Resource: "user", Verb: "count", Doc: "Counts users."}
	GetUser        = rpc.Endpoint[SubjectRequest, User]{Service: "keys", Resource: "user", Verb: "get", Doc: "One user."}
	DeleteUser     = rpc.Endpoint[SubjectRequest, rpc.None]{Service: "keys", Resource: "user", Verb: "delete", Doc: "Deletes a user with its access keys and rules; its tokens are refused at once."}
	SignOutUser    = rpc.Endpoint[SubjectRequest, rpc.None]{Service: "keys", Resource: "user", Verb: "sign-out", Doc: "Ends every login and refresh token of a user."}
	ResetPassword  = rpc.Endpoint[SubjectRequest, TempPasswordResponse]{Service: "keys", Resource: "user", Verb: "reset-password", Doc: "Gives a user a temporary password and ends its logins."}
	ChangePassword = rpc.Endpoint[ChangePasswordRequest, rpc.None]{Service: "keys", Resource: "me", Verb: "change-password", Doc: "Changes the caller's own password and ends its logins."}
)
