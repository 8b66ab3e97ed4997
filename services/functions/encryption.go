package functions

import (
	"context"

	"github.com/sirocco-cloud/sirocco/contracts/encryption"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/seal"
)

// Encryption tells an operator which key-encryption keys are in use.
func (f *Functions) Encryption(ctx context.Context, _ rpc.None) (encryption.Keys, error) {
	return inUse(f.vault.Status(ctx))
}

// RotateEncryption replaces the key-encryption key, or goes on with a rotation that is not over.
func (f *Functions) RotateEncryption(ctx context.Context, _ rpc.None) (encryption.Keys, error) {
	return inUse(f.vault.Rotate(ctx))
}

func inUse(s seal.Status, err error) (encryption.Keys, error) { return encryption.Keys(s), err }
