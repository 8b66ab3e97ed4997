package drivers

import (
	"context"
	"sync"
)

// Turns makes what is done to one instance follow one another, while different
// instances do not wait for each other. The zero value is ready.
type Turns struct {
	mu   sync.Mutex
	busy map[string]chan struct{}
}

// Take waits until nobody else has the turn of id. The caller releases it.
func (t *Turns) Take(ctx context.Context, id string) (release func(), err error) {
	for {
		t.mu.Lock()
		taken, isBusy := t.busy[id]
		if !isBusy {
			if t.busy == nil {
				t.busy = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			t.busy[id] = mine
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				delete(t.busy, id)
				t.mu.Unlock()
				close(mine)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-taken:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
