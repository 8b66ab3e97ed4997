package functions

import (
	"context"

	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/seal"
)

// Encryption tells an operator which key-encryption keys are in use.
func (f *Functions) Encryption(ctx context.Context, _ rpc.None) (keys.Encryption, error) {
	return inUse(f.vault.Status(ctx))
}

// RotateEncryption replaces the key-encryption key, or goes on with a rotation that is not over.
func (f *Functions) RotateEncryption(ctx context.Context, _ rpc.None) (keys.Encryption, error) {
	return inUse(f.vault.Rotate(ctx))
}

func inUse(s seal.Status, err error) (keys.Encryption, error) { return keys.Encryption(s), err }
