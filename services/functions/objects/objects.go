// Package objects keeps the bytes of assets, in the platform's own store or in any that speaks S3.
//
// The bytes never pass through the functions service. A client gets a signed address that is good for one thing and
// for a while: [S3] signs one of the S3 service, [Embedded] one below the gateway, which asks back whether the
// signature is good and then reads or writes the object itself.
package objects

import (
	"context"
	"time"
)

// Object is what a store must know of an object beside its key.
type Object struct {
	Key         string
	ContentType string
	Description string
}

// Store signs addresses of objects and looks after the objects themselves. An address that begins with a slash is
// relative to the gateway.
type Store interface {
	// UploadURL is where a client may PUT the bytes, with the object's content type and description as headers.
	UploadURL(ctx context.Context, o Object, life time.Duration) (string, error)
	// DownloadURL is where anybody may GET the bytes.
	DownloadURL(ctx context.Context, o Object, life time.Duration) (string, error)
	Has(ctx context.Context, key string) (bool, error)
	// Delete removes an object; one that is not there is deleted already.
	Delete(ctx context.Context, key string) error
}
