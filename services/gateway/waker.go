package gateway

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// wakeEvery is how often one gateway tells the deployments service that work waits for a version; the call is
// idempotent, so several gateways may tell it at once.
const wakeEvery = time.Second

// waker tells the deployments service about versions that have work and no worker.
type waker struct {
	conn *bus.Conn
	log  *zap.Logger

	mu      sync.Mutex
	told    map[string]time.Time
	calling sync.WaitGroup
}

func newWaker(conn *bus.Conn, log *zap.Logger) *waker {
	return &waker{conn: conn, log: log, told: map[string]time.Time{}}
}

// wake returns at once. A call that fails is repeated by the next request, or by the same one while it waits.
func (k *waker) wake(version string) {
	now := time.Now()
	k.mu.Lock()
	if now.Sub(k.told[version]) < wakeEvery {
		k.mu.Unlock()
		return
	}
	if len(k.told) > 10_000 {
		clear(k.told)
	}
	k.told[version] = now
	k.calling.Add(1)
	k.mu.Unlock()
	go func() {
		defer k.calling.Done()
		if _, err := bus.Call(context.Background(), k.conn, deployments.Wake, deployments.WakeRequest{VersionID: version}); err != nil {
			k.log.Warn("wake not delivered", zap.String("version", version), zap.Error(err))
		}
	}()
}

func (k *waker) wait() { k.calling.Wait() }
