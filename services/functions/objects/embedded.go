package objects

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
)

// Bucket is what [Embedded] needs of the object store on the bus.
type Bucket interface {
	Has(ctx context.Context, key string) (bool, error)
	Delete(ctx context.Context, key string) error
	// Restore makes a bucket exist again that was lost.
	Restore(ctx context.Context) error
}

// Embedded is the platform's own store.
type Embedded struct {
	Bucket

	secret func(context.Context) ([]byte, error)
	now    func() time.Time
}

var _ Store = (*Embedded)(nil)

// KeySize is the size of the secret that signs addresses, in bytes.
const KeySize = 32

// NewEmbedded makes the store. The secret must be the same in all replicas; it is asked for at every use.
func NewEmbedded(b Bucket, secret func(context.Context) ([]byte, error), now func() time.Time) *Embedded {
	return &Embedded{Bucket: b, secret: secret, now: now}
}

// UploadURL implements [Store].
func (e *Embedded) UploadURL(ctx context.Context, o Object, life time.Duration) (string, error) {
	return e.address(ctx, http.MethodPut, o, life)
}

// DownloadURL implements [Store].
func (e *Embedded) DownloadURL(ctx context.Context, o Object, life time.Duration) (string, error) {
	return e.address(ctx, http.MethodGet, o, life)
}

func (e *Embedded) address(ctx context.Context, method string, o Object, life time.Duration) (string, error) {
	id, expires := path.Base(o.Key), strconv.FormatInt(e.now().Add(life).Unix(), 10)
	code, err := e.sign(ctx, method, id, expires)
	if err != nil {
		return "", err
	}
	// One parameter of plain characters: an address in JSON looks to a shell script as it does to a parser.
	return functions.ObjectsPath + id + "?signature=" + expires + "." + code, nil
}

// Admits reports whether a signature lets its holder do what method says with the object of an asset, now.
func (e *Embedded) Admits(ctx context.Context, method, id, signature string) (bool, error) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	end, code, _ := strings.Cut(signature, ".")
	right, err := e.sign(ctx, method, strings.ToLower(id), end)
	if err != nil || !hmac.Equal([]byte(code), []byte(right)) {
		return false, err
	}
	expires, err := strconv.ParseInt(end, 10, 64)
	return err == nil && e.now().Unix() < expires, nil
}

func (e *Embedded) sign(ctx context.Context, method, id, expires string) (string, error) {
	secret, err := e.secret(ctx)
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, secret)
	// Neither method nor id holds a line break, so no two requests have one text.
	_, _ = mac.Write([]byte(method + "\n" + id + "\n" + expires))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)), nil
}
