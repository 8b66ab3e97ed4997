package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// Objects is a bucket of JetStream's object store: large values under names, in chunks, as durable as every other
// stream. It needs no shared disk, so any replica of any service can read what another wrote.
type Objects struct {
	conn     *Conn
	bucket   string
	maxBytes int64

	mu    sync.Mutex
	store jetstream.ObjectStore
}

var (
	// ErrNoObject says that the bucket has nothing under a name.
	ErrNoObject = errors.New("bus: no such object")
	// ErrBucketFull says that the bucket has no room for an object.
	ErrBucketFull = errors.New("bus: the object store is full")
)

// storeFailed is what JetStream says when a stream takes no more, which nats.go has no name for.
const storeFailed jetstream.ErrorCode = 10077

// Objects names a bucket. Its owner says how many bytes it may hold, and makes it; for others maxBytes is 0.
func (c *Conn) Objects(bucket string, maxBytes int64) *Objects {
	return &Objects{conn: c, bucket: bucket, maxBytes: maxBytes}
}

// Declare makes the bucket exist, or brings it up to date.
func (o *Objects) Declare(ctx context.Context) error {
	_, err := o.open(ctx)
	return err
}

// Restore makes the bucket exist again, empty, when the server has lost it. Its owner calls it before somebody writes.
func (o *Objects) Restore(ctx context.Context) error {
	_, err := o.conn.js.ObjectStore(ctx, o.bucket)
	if !o.lost(ctx, err) {
		return err
	}
	o.mu.Lock()
	o.store = nil
	o.mu.Unlock()
	o.conn.log.Error("NATS had lost an object store, it was made again; the objects in it are lost", zap.String("bucket", o.bucket))
	return o.Declare(ctx)
}

// lost tells whether err means that there is no bucket, and so no object either.
func (o *Objects) lost(ctx context.Context, err error) bool {
	if errors.Is(err, nats.ErrNoResponders) { // or JetStream is not up yet
		_, err = o.conn.js.ObjectStore(ctx, o.bucket)
	}
	return errors.Is(err, jetstream.ErrBucketNotFound) || errors.Is(err, jetstream.ErrStreamNotFound)
}

func (o *Objects) open(ctx context.Context) (jetstream.ObjectStore, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.store != nil {
		return o.store, nil
	}
	var s jetstream.ObjectStore
	var err error
	if o.maxBytes == 0 {
		s, err = o.conn.js.ObjectStore(ctx, o.bucket)
	} else {
		s, err = o.conn.js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{
			Bucket: o.bucket, MaxBytes: o.maxBytes, Storage: jetstream.FileStorage, Replicas: o.conn.replicas,
			Metadata: map[string]string{"contract": "1"},
		})
	}
	if err != nil {
		return nil, fmt.Errorf("open object store %s: %w", o.bucket, err)
	}
	o.store = s
	return s, nil
}

// Put stores what body holds, whole or not at all, in place of what was there, and returns its size in bytes.
func (o *Objects) Put(ctx context.Context, key string, body io.Reader) (int64, error) {
	s, err := o.open(ctx)
	if err != nil {
		return 0, err
	}
	info, err := s.Put(ctx, jetstream.ObjectMeta{Name: key}, body)
	if refused, ok := errors.AsType[*jetstream.APIError](err); ok && refused.ErrorCode == storeFailed {
		return 0, ErrBucketFull
	}
	if err != nil {
		return 0, fmt.Errorf("store object: %w", err)
	}
	return int64(info.Size), nil
}

// Get opens an object for reading; whoever asks for it closes it.
func (o *Objects) Get(ctx context.Context, key string) (body io.ReadCloser, size int64, err error) {
	s, err := o.open(ctx)
	if err != nil {
		return nil, 0, err
	}
	object, err := s.Get(ctx, key)
	if errors.Is(err, jetstream.ErrObjectNotFound) || o.lost(ctx, err) {
		return nil, 0, ErrNoObject
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read object: %w", err)
	}
	info, err := object.Info()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("read object: %w", err), object.Close())
	}
	return object, int64(info.Size), nil
}

// Has reports whether there is an object of this name.
func (o *Objects) Has(ctx context.Context, key string) (bool, error) {
	s, err := o.open(ctx)
	if err != nil {
		return false, err
	}
	_, err = s.GetInfo(ctx, key)
	if errors.Is(err, jetstream.ErrObjectNotFound) || o.lost(ctx, err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for object: %w", err)
	}
	return true, nil
}

// Delete removes an object; one that is not there is deleted already.
func (o *Objects) Delete(ctx context.Context, key string) error {
	s, err := o.open(ctx)
	if err != nil {
		return err
	}
	if err := s.Delete(ctx, key); err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) && !o.lost(ctx, err) {
		return fmt.Errorf("delete object: %w", err)
	}
	return nil
}
