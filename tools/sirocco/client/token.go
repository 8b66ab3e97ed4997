package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/keys"
)

// mintPath is where an administrator token comes from; it is open to the administrators' networks.
const mintPath = "/v1/admin/keys"

// early is how long before its expiry a token is not used any more.
const early = time.Minute

// token is a minted token as it is kept.
type token struct {
	URL       string    `json:"url"`
	Value     string    `json:"token"`
	ExpiresAt time.Time `json:"expiresAt"`
}

// tokens gives a bearer to every call: the fixed one, that of a login, or a minted one. The last two are kept in memory
// and on disk.
type tokens struct {
	client *Client
	fixed  string
	dir    string
	now    func() time.Time

	mu    sync.Mutex
	login *Login
	held  token
}

func (t *tokens) get(ctx context.Context) (string, error) {
	if t.fixed != "" {
		return t.fixed, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.login != nil {
		if t.fresh(t.login.ExpiresAt) {
			return t.login.AccessToken, nil
		}
		return t.refresh(ctx, t.login.AccessToken)
	}
	if !t.good(t.held) {
		t.held = t.read()
	}
	if t.good(t.held) {
		return t.held.Value, nil
	}
	return t.mint(ctx)
}

// renew replaces a token that was refused, unless another goroutine has done so.
func (t *tokens) renew(ctx context.Context, refused string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.login != nil {
		return t.refresh(ctx, refused)
	}
	if t.held.Value != refused && t.good(t.held) {
		return t.held.Value, nil
	}
	return t.mint(ctx)
}

func (t *tokens) good(k token) bool {
	return k.Value != "" && k.URL == t.client.base && t.fresh(k.ExpiresAt)
}

// fresh reports whether what expires then may still be sent.
func (t *tokens) fresh(expires time.Time) bool { return t.now().Add(early).Before(expires) }

func (t *tokens) mint(ctx context.Context) (string, error) {
	body, err := t.client.Answer(ctx, Request{Method: http.MethodPost, Path: mintPath, Body: []byte("{}"), Anonymous: true})
	if err != nil {
		return "", err
	}
	var key keys.Key
	if err := json.Unmarshal(body, &key); err != nil || key.Value == "" {
		return "", fmt.Errorf("%s%s answered without a token; is this the address of a Sirocco gateway?", t.client.base, mintPath)
	}
	t.held = token{URL: t.client.base, Value: key.Value, ExpiresAt: key.ExpiresAt}
	t.write(t.held)
	return t.held.Value, nil
}

// file is named by the gateway's address, so that several gateways do not disturb one another.
func (t *tokens) file(what string) string {
	sum := sha256.Sum256([]byte(t.client.base))
	return filepath.Join(t.dir, what+"-"+hex.EncodeToString(sum[:8])+".json")
}

func (t *tokens) read() token {
	if t.dir == "" {
		return token{}
	}
	b, err := os.ReadFile(t.file("token"))
	if err != nil {
		return token{}
	}
	var k token
	if json.Unmarshal(b, &k) != nil {
		return token{}
	}
	return k
}

// write keeps the token for the next run. A cache that cannot be written costs one more call next time, nothing else.
func (t *tokens) write(k token) {
	if t.dir == "" {
		return
	}
	if b, err := json.Marshal(k); err == nil {
		_ = writePrivate(t.dir, t.file("token"), b)
	}
}

// writePrivate replaces a file whole, so that a reader never sees half of it; only its owner may read it.
func writePrivate(dir, name string, content []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".token-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
