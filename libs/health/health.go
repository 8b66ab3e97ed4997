// Package health answers the questions an operator asks of a process: does it live, is it ready, and if not, what does
// it wait for. Readiness is computed from named checks at the time of the question, never asserted by hand.
package health

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Check returns nil when its part is ready, else an error that says what is waited for.
type Check func(context.Context) error

// Registry is the set of checks of one process.
type Registry struct {
	mu       sync.Mutex
	names    []string
	checks   map[string]Check
	draining bool
}

// NewRegistry returns an empty registry, which is ready.
func NewRegistry() *Registry { return &Registry{checks: map[string]Check{}} }

// checkTimeout bounds one look at everything.
const checkTimeout = 3 * time.Second

// Add registers a check; a second one of the same name replaces the first.
func (r *Registry) Add(name string, check Check) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.checks[name]; !known {
		r.names = append(r.names, name)
	}
	r.checks[name] = check
}

// Drain makes the process unready for good: it finishes what it has and should get nothing new.
func (r *Registry) Drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
}

// Result is the outcome of one check.
type Result struct {
	Name string
	Err  error
}

// Results runs every check, side by side, in the order they were added.
func (r *Registry) Results(ctx context.Context) (results []Result, ready bool) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	r.mu.Lock()
	results = make([]Result, len(r.names))
	checks := make([]Check, len(r.names))
	for i, name := range r.names {
		results[i].Name, checks[i] = name, r.checks[name]
	}
	ready = !r.draining
	r.mu.Unlock()
	var wg sync.WaitGroup
	for i := range checks {
		wg.Go(func() { results[i].Err = checks[i](ctx) })
	}
	wg.Wait()
	for _, res := range results {
		ready = ready && res.Err == nil
	}
	return results, ready
}

// Register adds /livez, /readyz (?verbose), /startupz and /health to a mux.
func (r *Registry) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", r.ServeReady)
	mux.HandleFunc("GET /startupz", r.ServeReady)
}

// ServeReady answers 200 when every check passes and 503 otherwise; ?verbose lists the checks and what each waits for.
func (r *Registry) ServeReady(w http.ResponseWriter, req *http.Request) {
	results, ready := r.Results(req.Context())
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if !ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if !req.URL.Query().Has("verbose") {
		if ready {
			fmt.Fprintln(w, "ready")
		} else {
			fmt.Fprintln(w, "not ready; see /readyz?verbose")
		}
		return
	}
	var b strings.Builder
	for _, res := range results {
		if res.Err == nil {
			fmt.Fprintf(&b, "[+] %s ok\n", res.Name)
		} else {
			fmt.Fprintf(&b, "[-] %s: %v\n", res.Name, res.Err)
		}
	}
	if ready {
		b.WriteString("ready\n")
	} else {
		b.WriteString("not ready\n")
	}
	fmt.Fprint(w, b.String())
}
