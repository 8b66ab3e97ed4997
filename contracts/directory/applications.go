package directory

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Application is a program that signs in by itself. Service accounts are the same thing under a newer name.
type Application struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	ClientID  string    `json:"clientId"`
	Enabled   bool      `json:"enabled"`
	CreatedBy string    `json:"createdBy"`
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
	TenantID  int       `json:"tenantId"`
	LastLogin Moment    `json:"lastLogin"`
}

// CreateApplicationRequest is POST /api/v1/apps.
type CreateApplicationRequest struct {
	Name string `json:"name"`
}

// CreateApplicationResponse holds the secret, here only.
type CreateApplicationResponse struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Secret   string `json:"secret"`
	ClientID string `json:"clientId"`
}

// UpdateApplicationRequest is PATCH /api/v1/apps/{id}.
type UpdateApplicationRequest struct {
	ID      string `json:"id" path:"id"`
	Enabled *bool  `json:"enabled"`
}

// SecretResponse holds a new secret, here only.
type SecretResponse struct {
	Secret string `json:"secret"`
}

// CreateServiceAccountResponse is CreateApplicationResponse with the newer name of the secret.
type CreateServiceAccountResponse struct {
	ID           string `json:"id"`
	Name         string `json:"name"`
	ClientSecret string `json:"clientSecret"`
	ClientID     string `json:"clientId"`
}

// ClientSecretResponse is SecretResponse with the newer name of the secret.
type ClientSecretResponse struct {
	ClientSecret string `json:"clientSecret"`
}

// AccessKey is an application of one user: it may do what the user may.
type AccessKey struct {
	ID        string    `json:"id"`
	ClientID  string    `json:"clientId"`
	Name      string    `json:"name"`
	CreatedBy string    `json:"createdBy"`
	Enabled   bool      `json:"enabled"`
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
	LastLogin Moment    `json:"lastLogin"`
}

// CreateAccessKeyResponse holds the secret, here only.
type CreateAccessKeyResponse struct {
	ID           string    `json:"id"`
	ClientID     string    `json:"clientId"`
	Name         string    `json:"name"`
	ClientSecret string    `json:"clientSecret"`
	CreatedAt    time.Time `json:"createdAt"`
}

// AccessKeysResponse is a list of access keys.
type AccessKeysResponse struct {
	AccessKeys []AccessKey `json:"accessKeys"`
}

// The endpoints of applications.
var (
	CreateApplication = rpc.Endpoint[CreateApplicationRequest, CreateApplicationResponse]{Service: "keys", Resource: "application", Verb: "create", Doc: "Creates an application; the only answer but a regeneration that holds its secret."}
	ListApplications  = rpc.Endpoint[rpc.None, []Application]{Service: "keys", Resource: "application", Verb: "list", Doc: "Lists applications."}
	GetApplication    = rpc.Endpoint[SubjectRequest, Application]{Service: "keys", Resource: "application", Verb: "get", Doc: "One application."}
	UpdateApplication = rpc.Endpoint[UpdateApplicationRequest, rpc.None]{Service: "keys", Resource: "application", Verb: "update", Doc: "Enables or disables an application; the tokens of a disabled one are refused at once."}
	DeleteApplication = rpc.Endpoint[SubjectRequest, rpc.None]{Service: "keys", Resource: "application", Verb: "delete", Doc: "Deletes an application with its rules; its tokens are refused at once."}
	RenewSecret       = rpc.Endpoint[SubjectRequest, SecretResponse]{Service: "keys", Resource: "application", Verb: "renew-secret", Doc: "Gives an application a new secret; the old one dies."}

	CreateServiceAccount = rpc.Endpoint[CreateApplicationRequest, CreateServiceAccountResponse]{Service: "keys", Resource: "service-account", Verb: "create", Doc: "Creates an application under its newer name."}
	RenewClientSecret    = rpc.Endpoint[SubjectRequest, ClientSecretResponse]{Service: "keys", Resource: "service-account", Verb: "renew-secret", Doc: "Gives a service account a new secret; the old one dies."}
)

// The endpoints of access keys: the caller's own ones, and those of everybody for an administrator.
var (
	CreateAccessKey = rpc.Endpoint[CreateApplicationRequest, CreateAccessKeyResponse]{Service: "keys", Resource: "access-key", Verb: "create", Doc: "Creates an access key of the caller."}
	ListAccessKeys  = rpc.Endpoint[rpc.None, AccessKeysResponse]{Service: "keys", Resource: "access-key", Verb: "list", Doc: "Lists the caller's access keys."}
	GetAccessKey    = rpc.Endpoint[SubjectRequest, AccessKey]{Service: "keys", Resource: "access-key", Verb: "get", Doc: "One access key of the caller."}
	DeleteAccessKey = rpc.Endpoint[SubjectRequest, rpc.None]{Service: "keys", Resource: "access-key", Verb: "delete", Doc: "Deletes an access key of the caller."}
	RenewAccessKey  = rpc.Endpoint[SubjectRequest, ClientSecretResponse]{Service: "keys", Resource: "access-key", Verb: "renew-secret", Doc: "Gives an access key of the caller a new secret."}

	ListAllAccessKeys  = rpc.Endpoint[rpc.None, AccessKeysResponse]{Service: "keys", Resource: "any-access-key", Verb: "list", Doc: "Lists the access keys of every user."}
	GetAnyAccessKey    = rpc.Endpoint[SubjectRequest, AccessKey]{Service: "keys", Resource: "any-access-key", Verb: "get", Doc: "One access key of any user."}
	DeleteAnyAccessKey = rpc.Endpoint[SubjectRequest, rpc.None]{Service: "keys", Resource: "any-access-key", Verb: "delete", Doc: "Deletes an access key of any user."}
)
