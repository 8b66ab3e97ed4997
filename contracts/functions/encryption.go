package functions

import (
	"github.com/sirocco-cloud/sirocco/contracts/encryption"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// The endpoints of an operator who replaces the key that secrets are sealed with.
var (
	GetEncryption    = rpc.Endpoint[rpc.None, encryption.Keys]{Service: "functions", Resource: "encryption", Verb: "get", Doc: "The key-encryption keys of the functions service."}
	RotateEncryption = rpc.Endpoint[rpc.None, encryption.Keys]{Service: "functions", Resource: "encryption", Verb: "rotate", Doc: "Replaces the key-encryption key of the functions service; a call during a rotation goes on with it."}
)
