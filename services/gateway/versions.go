package gateway

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

const (
	routeLife = time.Minute
	maxRoutes = 50_000
)

// versions knows which versions of a function an account may invoke. Only positive answers are remembered; any event
// about a function makes it forget them.
type versions struct {
	conn *bus.Conn

	mu      sync.RWMutex
	known   map[routeKey]resolved
	changed map[string]time.Time
}

type routeKey struct{ account, functionID string }

type resolved struct {
	functions.ResolveResponse
	at time.Time
}

func newVersions(conn *bus.Conn) *versions {
	return &versions{conn: conn, known: map[routeKey]resolved{}, changed: map[string]time.Time{}}
}

// route picks the version that shall run a request: the named one, or one at random among those that the caller's
// credential covers and that take requests (invocation §1.4).
func (v *versions) route(ctx context.Context, caller access.Caller, functionID, versionID string) (functions.Target, error) {
	answer, err := v.resolve(ctx, caller.Account, functionID)
	if err != nil {
		return functions.Target{}, err
	}
	own := answer.Owner == caller.Account
	var exists, covered, degraded bool
	var candidates []functions.Target
	for _, t := range answer.Targets {
		if versionID != "" && t.VersionID != versionID {
			continue
		}
		exists = true
		if !t.Public && !caller.CoversFunction(own, functionID, t.VersionID) {
			continue
		}
		covered = true
		degraded = degraded || t.Status == functions.Degraded
		if t.Status.Invocable() {
			candidates = append(candidates, t)
		}
	}
	switch {
	case len(candidates) > 0:
		return candidates[rand.IntN(len(candidates))], nil
	case !exists && caller.CoversFunction(own, functionID, versionID), covered && !degraded:
		return functions.Target{}, notInvocable(caller.Account, functionID, versionID)
	case degraded:
		return functions.Target{}, problem.New(problem.IllegalState, "Function id '%s': a DEGRADED function cannot be invoked; all its instances are lost and are being replaced", functionID)
	}
	if !own { // what is shared but not covered is not told from what does not exist
		return functions.Target{}, notInvocable(caller.Account, functionID, versionID)
	}
	return functions.Target{}, access.NotCovered(access.Invoke, "function "+functionID)
}

// public reports whether a version may be invoked whatever the resources of a key are.
func (v *versions) public(ctx context.Context, account, functionID, versionID string) bool {
	answer, err := v.resolve(ctx, account, functionID)
	return err == nil && slices.ContainsFunc(answer.Targets, func(t functions.Target) bool { return t.Public && t.VersionID == versionID })
}

func notInvocable(account, functionID, versionID string) *problem.Problem {
	if versionID != "" {
		return problem.New(problem.NotFound, "Function id '%s', version '%s': Not found in account '%s', or not deployed", functionID, versionID, account)
	}
	return problem.New(problem.NotFound, "Function id '%s': Not found in account '%s', or not deployed", functionID, account)
}

func (v *versions) resolve(ctx context.Context, account, functionID string) (functions.ResolveResponse, error) {
	key := routeKey{account, functionID}
	now := time.Now()
	v.mu.RLock()
	r, ok := v.known[key]
	v.mu.RUnlock()
	age := now.Sub(r.at)
	if ok && age < routeLife {
		return r.ResolveResponse, nil
	}
	asking := ctx
	if ok {
		bounded, cancel := context.WithTimeout(ctx, refreshWithin)
		defer cancel()
		asking = bounded
	}
	answer, err := bus.Call(asking, v.conn, functions.Resolve, functions.ResolveRequest{Account: account, FunctionID: functionID})
	if err != nil {
		if problem.HasCode(err, problem.NotFound) {
			return answer, notInvocable(account, functionID, "")
		}
		if ok && age < routeLife+maxStale && v.conn.Check(ctx) == nil {
			// The functions service is away but its events would reach us, so what we know still holds.
			return r.ResolveResponse, nil
		}
		return answer, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changed[functionID].Before(now) {
		if len(v.known) >= maxRoutes {
			for k := range v.known {
				delete(v.known, k)
				break
			}
		}
		v.known[key] = resolved{answer, now}
	}
	return answer, nil
}

// watch forgets a function on any event about it.
func (v *versions) watch(ctx context.Context) (func(), error) {
	stop, err := v.conn.Watch(ctx, event.Functions, func(env event.Envelope) { v.forget(env.FunctionID) }, v.forgetAll)
	if err == nil { // what was learned before the watch may have changed unseen
		v.forgetAll()
	}
	return stop, err
}

func (v *versions) forgetAll() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.known)
}

func (v *versions) forget(functionID string) {
	if functionID == "" {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	for k := range v.known {
		if k.functionID == functionID {
			delete(v.known, k)
		}
	}
	v.changed[functionID] = now
	if len(v.changed) > 1024 {
		for id, at := range v.changed {
			if now.Sub(at) > time.Minute {
				delete(v.changed, id)
			}
		}
	}
}
