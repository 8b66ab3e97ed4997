package directory

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

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
