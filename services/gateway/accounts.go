package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

const (
	accountLife = time.Minute
	maxAccounts = 10_000
)

// accounts remembers which accounts exist.
type accounts struct {
	conn *bus.Conn

	mu    sync.Mutex
	known map[string]time.Time
}

func newAccounts(conn *bus.Conn) *accounts {
	return &accounts{conn: conn, known: map[string]time.Time{}}
}

// require answers not_found for an account that does not exist.
func (a *accounts) require(ctx context.Context, id string) error {
	now := time.Now()
	a.mu.Lock()
	at, ok := a.known[id]
	a.mu.Unlock()
	if ok && now.Sub(at) < accountLife {
		return nil
	}
	_, err := bus.Call(ctx, a.conn, keys.LookupAccount, keys.AccountRequest{NCAID: id})
	switch {
	case problem.HasCode(err, problem.NotFound):
		a.forget(id)
		return problem.New(problem.NotFound, "Account with ncaId '%s' not found", id)
	case problem.HasCode(err, problem.Unavailable) && id == access.DefaultAccount:
		return nil // it always exists
	case err != nil:
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) >= maxAccounts {
		clear(a.known)
	}
	a.known[id] = now
	return nil
}

func (a *accounts) forget(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.known, id)
}

func (a *accounts) forgetAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.known)
}
