// Package seal keeps values in a database that the database itself must not be able to read.
//
// Every value is encrypted with AES-256-GCM under a data key of its own, and the data key is wrapped by a key-encryption
// key of the deployment. The two layers make the outer key replaceable: a rotation wraps the data keys anew and never
// touches, nor decrypts, a value. A sealed value is
//
//	magic (4) · id of the key-encryption key (8) · nonce, wrapped data key, tag (60) · nonce, value, tag (28 + length)
//
// and is bound to a name, by convention the place of its row, so that one copied over another does not open. What was
// sealed before there was a magic opens too: a nonce, the value and a tag directly under a key-encryption key, with or
// without a leading format byte.
//
// A [Vault] seals and opens. It takes its keys from a [Source], which is an environment variable, a file, or, for a small
// install that was given neither, the database; a [Register] is what the database knows of them. Of the keys in the
// register one is current and seals; the others are previous and only open. A key passes through these states:
//
//	made or given → current → previous → forgotten
//
// [Vault.Rotate] makes another key current. [Vault.Run] wraps anew what previous keys wrap, and forgets such a key when
// nothing needs it any more. Each step is a transaction that leaves a state from which any replica can go on, so a
// rotation survives the death of whoever began it. The register must refuse to forget a key that a value needs (a
// foreign key does), which is what makes a replica harmless that still seals with yesterday's key.
package seal

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// trusted is how long a replica seals without asking the register which key is current. A previous key is kept for
	// several times that, so that no replica seals with a forgotten one.
	trusted = 5 * time.Second
	// retireAfter is how long after the last rotation a previous key stays at least.
	retireAfter = 4 * trusted
	// retry bounds how often values of unknown keys make a replica read the register.
	retry = time.Second
)

var errLocked = errors.New("the key-encryption keys are not loaded yet")

// Vault seals and opens values. It is safe for concurrent use, and ready once Load has succeeded.
type Vault struct {
	source   Source
	register Register
	now      func() time.Time

	// loading is held by the one that reads the register; mu guards the fields after it for the moment of a look.
	loading sync.Mutex
	mu      sync.RWMutex
	current *key
	keys    map[ID]*key
	readAt  time.Time
}

// New makes a vault; an error names the setting of the source that cannot be right.
func New(source Source, register Register, now func() time.Time) (*Vault, error) {
	if err := source.check(); err != nil {
		return nil, err
	}
	return &Vault{source: source, register: register, now: now}, nil
}

// Seal encrypts a value under a name.
func (v *Vault) Seal(ctx context.Context, name string, value []byte) ([]byte, error) {
	current, _, readAt := v.known()
	if current == nil {
		return nil, errLocked
	}
	if v.now().Sub(readAt) >= trusted {
		if err := v.Load(ctx); err != nil {
			return nil, err
		}
		current, _, _ = v.known()
	}
	return current.seal(name, value)
}

// Open is the inverse of Seal under the same name.
func (v *Vault) Open(ctx context.Context, name string, sealed []byte) ([]byte, error) {
	current, keys, readAt := v.known()
	if current == nil {
		return nil, errLocked
	}
	// Another replica may have made another key current since the register was read.
	if id, ok := wrappedBy(sealed); ok && keys[id] == nil && v.now().Sub(readAt) >= retry {
		if err := v.Load(ctx); err != nil {
			return nil, err
		}
		_, keys, _ = v.known()
	}
	return open(keys, name, sealed)
}

func (v *Vault) known() (current *key, keys map[ID]*key, readAt time.Time) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.current, v.keys, v.readAt
}

// Load reads the register and finds its keys in the source; when the register is empty it makes the first key, or takes
// the one that the operator gave. An error says what a person has to bring. Replicas may load at once: the first to
// write the register wins, the others use its key.
func (v *Vault) Load(ctx context.Context) error {
	v.loading.Lock()
	defer v.loading.Unlock()
	at := v.now()
	records, err := v.register.Keys(ctx)
	if err != nil {
		return err
	}
	if len(records) == 0 {
		if records, err = v.first(ctx); err != nil {
			return err
		}
	}
	candidates, err := v.source.keys()
	if err != nil {
		return err
	}
	keys := map[ID]*key{}
	var current *key
	for _, r := range records {
		k, err := v.find(r, candidates)
		if err != nil {
			return err
		}
		if r.Name != k.id.String() {
			if err := v.register.Rename(ctx, r.Name, k.id.String()); err != nil {
				return err
			}
		}
		keys[k.id] = k
		if r.Current {
			current = k
		}
	}
	if current == nil {
		return errors.New("load the key-encryption keys: none of them is current")
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.current, v.keys, v.readAt = current, keys, at
	return nil
}

// first puts the first key into an empty register and returns what stands there then.
func (v *Vault) first(ctx context.Context) ([]Record, error) {
	k, inDatabase, err := v.source.first()
	if err != nil {
		return nil, err
	}
	r := Record{Name: k.id.String(), Current: true, Since: v.now()}
	if inDatabase {
		r.Value = k.secret
	}
	if err := v.register.Claim(ctx, r); err != nil {
		return nil, err
	}
	records, err := v.register.Keys(ctx)
	if err == nil && len(records) == 0 {
		err = errors.New("store the first key-encryption key: it is gone again")
	}
	return records, err
}

// find returns the key of a record.
func (v *Vault) find(r Record, candidates []*key) (*key, error) {
	for _, k := range candidates {
		if k.named(r.Name) {
			return k, nil
		}
	}
	if r.Value != nil {
		return newKey(r.Value)
	}
	return nil, v.source.missing(r)
}

// Ready tells whether Load has succeeded, and what is missing otherwise.
func (v *Vault) Ready() error {
	if current, _, _ := v.known(); current == nil {
		return errLocked
	}
	return nil
}

// Fingerprint tells two secrets of one kind apart without telling anything about them.
func Fingerprint(kind string, secret []byte) string { return digest(kind, secret).String() }
