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
