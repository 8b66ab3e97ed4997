package deployments

import (
	"slices"
	"sync"
)

// worklist gathers the ids of deployments that need a look; asking twice before it is taken is one entry. The id ""
// asks for all.
type worklist struct {
	mu     sync.Mutex
	ids    map[string]bool
	signal chan struct{}
}

func newWorklist() *worklist {
	return &worklist{ids: map[string]bool{}, signal: make(chan struct{}, 1)}
}

func (w *worklist) add(ids ...string) {
	if len(ids) == 0 {
		return
	}
	w.mu.Lock()
	for _, id := range ids {
		w.ids[id] = true
	}
	w.mu.Unlock()
	select {
	case w.signal <- struct{}{}:
	default: // one signal covers everything gathered so far
	}
}

// take empties the list.
func (w *worklist) take() (ids []string, all bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.ids {
		if id == "" {
			all = true
			continue
		}
		ids = append(ids, id)
	}
	clear(w.ids)
	slices.Sort(ids)
	return ids, all
}
