// Package sim is a driver without processes or sockets: an instance is a small
// file and a few fields, so that thousands of them fit on a laptop. It answers
// calls as the load tester of libs/loadtester does, and 200 at the health path.
//
// The environment of a function turns knobs, for tests and demonstrations:
//
//	SIM_FAIL_PREPARE      not-found, unauthorized or unreachable: Prepare fails so
//	SIM_FAIL_START        a sentence: Start fails with it
//	SIM_START_DELAY       duration until the instance listens; calls are refused before
//	SIM_NEVER_LISTENS     true: calls are refused for ever
//	SIM_UNHEALTHY         true: the health path answers 503
//	SIM_UNHEALTHY_AFTER   duration after which the health path answers 503
//	SIM_EXIT_AFTER        duration after which the instance ends by itself
//	SIM_EXIT_CODE         exit code of SIM_EXIT_AFTER, default 1
//	SIM_OOM               true: that end is reported as out of memory
//	SIM_STOP_DELAY        how long SIGTERM takes to be obeyed
//	SIM_LATENCY           duration added before each answer, health excepted
//
// An instance outlives the agent in the only sense it can: its file stays, and a
// restarted driver carries on as if it had run all the while. What an instance
// does is a function of its start time and the clock, so no timer is kept for it.
package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/quartz"

	"github.com/sirocco-cloud/sirocco/libs/loadtester"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

// Options of a sim driver.
type Options struct {
	// AgentID separates the instances of several agents that share StateDir.
	AgentID string
	// StateDir holds one file per instance.
	StateDir string
	// Clock defaults to the real one.
	Clock quartz.Clock
}

// Driver is the sim driver.
type Driver struct {
	dir     string
	clock   quartz.Clock
	handler http.Handler

	mu        sync.Mutex
	instances map[string]*instance
	loadErr   error
}

var _ drivers.Driver = (*Driver)(nil)

// New reads the instances that an earlier driver left in the state directory.
func New(o Options) *Driver {
	if o.Clock == nil {
		o.Clock = quartz.NewReal()
	}
	d := &Driver{
		dir:       filepath.Join(o.StateDir, "sim-"+o.AgentID),
		clock:     o.Clock,
		handler:   loadtester.New(),
		instances: map[string]*instance{},
	}
	d.loadErr = d.load()
	return d
}

// record is the file of an instance.
type record struct {
	Handle     drivers.Handle `json:"handle"`
	HealthPath string         `json:"healthPath"`
	Knobs      knobs          `json:"knobs"`
	// StoppedAt is when Stop was called; zero while nobody did.
	StoppedAt time.Time `json:"stoppedAt,omitzero"`
	// Killed says that the grace of Stop was over before the instance obeyed.
	Killed bool `json:"killed,omitempty"`
}

type instance struct {
	record
	// changed is closed and replaced when StoppedAt is set or the instance is
	// removed; ended is done then, too, and cuts calls in flight.
	changed chan struct{}
	ended   context.Context
	end     context.CancelFunc
	removed bool
}

func newInstance(r record) *instance {
	ended, end := context.WithCancel(context.Background())
	return &instance{record: r, changed: make(chan struct{}), ended: ended, end: end}
}

func (d *Driver) load() error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("sim state directory: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(d.dir, "*.json"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("sim state: %w", err)
		}
		var r record
		// A file that cannot be read is not an instance; saving is atomic, so
		// this is not a half-written one.
		if json.Unmarshal(text, &r) != nil || r.Handle.InstanceID == "" {
			continue
		}
		d.instances[r.Handle.InstanceID] = newInstance(r)
	}
	return nil
}

// save replaces the file of an instance in one step.
func (d *Driver) save(r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	final := d.file(r.Handle.InstanceID)
	if err := os.WriteFile(final+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(final+".new", final)
}

func (d *Driver) file(id string) string { return filepath.Join(d.dir, id+".json") }

// Name implements drivers.Driver.
func (d *Driver) Name() string { return "sim" }

// Check implements drivers.Driver.
func (d *Driver) Check(context.Context) error {
	if d.loadErr != nil {
		return &drivers.Error{Kind: drivers.ErrUnavailable, Err: d.loadErr}
	}
	return nil
}

// Prepare implements drivers.Driver: every image is here, unless a knob says no.
func (d *Driver) Prepare(_ context.Context, spec drivers.Spec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	k, err := parseKnobs(spec)
	if err != nil {
		return err
	}
	kinds := map[string]error{
		"not-found":    drivers.ErrImageNotFound,
		"unauthorized": drivers.ErrUnauthorized,
		"unreachable":  drivers.ErrRegistryUnreachable,
	}
	if kind := kinds[k.FailPrepare]; kind != nil {
		return &drivers.Error{Kind: kind, Instance: spec.InstanceID, Detail: spec.Image + " (SIM_FAIL_PREPARE)"}
	}
	return nil
}

// Start implements drivers.Driver.
func (d *Driver) Start(_ context.Context, spec drivers.Spec) (drivers.Handle, error) {
	if err := spec.Validate(); err != nil {
		return drivers.Handle{}, err
	}
	k, err := parseKnobs(spec)
	if err != nil {
		return drivers.Handle{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if existing, ok := d.instances[spec.InstanceID]; ok {
		return existing.Handle, nil
	}
	if k.FailStart != "" {
		return drivers.Handle{}, &drivers.Error{Kind: drivers.ErrCreate, Instance: spec.InstanceID, Detail: k.FailStart}
	}
	r := record{
		Handle: drivers.Handle{
			Driver: d.Name(), InstanceID: spec.InstanceID, Generation: spec.Generation, Image: spec.Image,
			Ref: "sim:" + spec.InstanceID, Ports: map[int]string{}, StartedAt: d.clock.Now().UTC(), Dir: spec.Dir,
		},
		HealthPath: spec.HealthPath,
		Knobs:      k,
	}
	for _, port := range spec.Ports() {
		r.Handle.Ports[port] = fmt.Sprintf("%s:%d", spec.InstanceID, port)
	}
	if err := d.save(r); err != nil {
		return drivers.Handle{}, &drivers.Error{Kind: drivers.ErrCreate, Instance: spec.InstanceID, Err: err}
	}
	d.instances[spec.InstanceID] = newInstance(r)
	return r.Handle, nil
}

// end of an instance as its record tells it: when and how. The second value is
// false while it is not known to end.
func (r record) ending() (at time.Time, code int, known bool) {
	if r.Knobs.ExitAfter >= 0 {
		at, code, known = r.Handle.StartedAt.Add(r.Knobs.ExitAfter), r.Knobs.ExitCode, true
	}
	if !r.StoppedAt.IsZero() && (!known || r.StoppedAt.Before(at)) {
		at, code, known = r.StoppedAt, 143, true
		if r.Killed {
			code = 137
		}
	}
	return at, code, known
}

func (r record) status(now time.Time) drivers.Status {
	at, code, known := r.ending()
	if !known || now.Before(at) {
		return drivers.Status{Running: true}
	}
	oom := r.Knobs.OOM && r.StoppedAt.IsZero()
	reason := drivers.ReasonOf(code)
	if oom {
		reason = "hit its memory limit"
	}
	return drivers.Status{ExitCode: &code, OOM: oom, Reason: reason}
}

// find returns the instance and a copy of its record.
func (d *Driver) find(id string) (*instance, record, chan struct{}, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i, ok := d.instances[id]
	if !ok {
		return nil, record{}, nil, &drivers.Error{Kind: drivers.ErrInstanceNotFound, Instance: id, Detail: id}
	}
	return i, i.record, i.changed, nil
}

// Status implements drivers.Driver.
func (d *Driver) Status(_ context.Context, h drivers.Handle) (drivers.Status, error) {
	_, r, _, err := d.find(h.InstanceID)
	if err != nil {
		return drivers.Status{}, err
	}
	return r.status(d.clock.Now()), nil
}

// Wait implements drivers.Driver.
func (d *Driver) Wait(ctx context.Context, h drivers.Handle) (drivers.Status, error) {
	for {
		_, r, changed, err := d.find(h.InstanceID)
		if err != nil {
			return drivers.Status{}, err
		}
		now := d.clock.Now()
		if s := r.status(now); !s.Running {
			return s, nil
		}
		var due <-chan time.Time
		var timer *quartz.Timer
		if at, _, known := r.ending(); known {
			timer = d.clock.NewTimer(at.Sub(now), "sim", "wait")
			due = timer.C
		}
		select {
		case <-due:
		case <-changed:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if timer != nil {
			timer.Stop()
		}
		if err != nil {
			return drivers.Status{}, err
		}
	}
}

// Stop implements drivers.Driver.
func (d *Driver) Stop(ctx context.Context, h drivers.Handle, grace time.Duration) error {
	i, r, _, err := d.find(h.InstanceID)
	if drivers.IsNotFound(err) {
		return nil
	}
	if !r.status(d.clock.Now()).Running {
		i.end()
		return nil
	}
	if delay := min(r.Knobs.StopDelay, grace); delay > 0 {
		timer := d.clock.NewTimer(delay, "sim", "stop")
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if i.removed || !i.StoppedAt.IsZero() {
		return nil
	}
	i.StoppedAt = d.clock.Now().UTC()
	i.Killed = i.Knobs.StopDelay > grace
	i.end()
	close(i.changed)
	i.changed = make(chan struct{})
	return d.save(i.record)
}

// Logs implements drivers.Driver.
func (d *Driver) Logs(_ context.Context, h drivers.Handle, lines int) ([]string, error) {
	_, r, _, err := d.find(h.InstanceID)
	if err != nil {
		return nil, err
	}
	log := []string{"sim: started " + r.Handle.Image + " at " + r.Handle.StartedAt.Format(time.RFC3339)}
	if listening := r.Handle.StartedAt.Add(r.Knobs.StartDelay); !r.Knobs.NeverListens && !d.clock.Now().Before(listening) {
		log = append(log, "sim: listening since "+listening.Format(time.RFC3339))
	}
	if s := r.status(d.clock.Now()); !s.Running {
		log = append(log, "sim: "+s.Reason)
	}
	return drivers.LastLines(strings.Join(log, "\n"), lines), nil
}

// List implements drivers.Driver.
func (d *Driver) List(context.Context) ([]drivers.Handle, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	handles := make([]drivers.Handle, 0, len(d.instances))
	for _, i := range d.instances {
		handles = append(handles, i.Handle)
	}
	slices.SortFunc(handles, func(a, b drivers.Handle) int { return strings.Compare(a.InstanceID, b.InstanceID) })
	return handles, nil
}

// Remove implements drivers.Driver.
func (d *Driver) Remove(_ context.Context, h drivers.Handle) error {
	if err := drivers.CheckRemovable(h); err != nil {
		return err
	}
	d.mu.Lock()
	if i, ok := d.instances[h.InstanceID]; ok {
		delete(d.instances, h.InstanceID)
		i.removed = true
		i.end()
		close(i.changed)
	}
	d.mu.Unlock()
	if err := os.Remove(d.file(h.InstanceID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if h.Dir == "" {
		return nil
	}
	return os.RemoveAll(h.Dir)
}

// Transport implements drivers.Driver.
func (d *Driver) Transport(h drivers.Handle) drivers.Transport {
	return &transport{driver: d, id: h.InstanceID}
}

// Close implements drivers.Driver. There is nothing to end: the driver keeps no
// goroutine but those of calls in flight, which end with their request.
func (d *Driver) Close() error { return nil }

// knobs are the SIM_* variables. Only they are kept of the environment, which
// may hold secrets.
type knobs struct {
	FailPrepare    string        `json:"failPrepare,omitempty"`
	FailStart      string        `json:"failStart,omitempty"`
	StartDelay     time.Duration `json:"startDelay,omitempty"`
	NeverListens   bool          `json:"neverListens,omitempty"`
	Unhealthy      bool          `json:"unhealthy,omitempty"`
	UnhealthyAfter time.Duration `json:"unhealthyAfter"` // negative: never
	ExitAfter      time.Duration `json:"exitAfter"`      // negative: never
	ExitCode       int           `json:"exitCode,omitempty"`
	OOM            bool          `json:"oom,omitempty"`
	StopDelay      time.Duration `json:"stopDelay,omitempty"`
	Latency        time.Duration `json:"latency,omitempty"`
}

func parseKnobs(spec drivers.Spec) (knobs, error) {
	k := knobs{UnhealthyAfter: -1, ExitAfter: -1, ExitCode: 1}
	duration := func(into *time.Duration) func(string) error {
		return func(text string) (err error) {
			if *into, err = time.ParseDuration(text); err == nil && *into < 0 {
				err = errors.New("must not be negative")
			}
			return err
		}
	}
	boolean := func(into *bool) func(string) error {
		return func(text string) (err error) { *into, err = strconv.ParseBool(text); return err }
	}
	text := func(into *string) func(string) error {
		return func(t string) error { *into = t; return nil }
	}
	parsers := map[string]func(string) error{
		"SIM_FAIL_PREPARE": func(t string) error {
			if !slices.Contains([]string{"", "not-found", "unauthorized", "unreachable"}, t) {
				return errors.New("must be not-found, unauthorized or unreachable")
			}
			k.FailPrepare = t
			return nil
		},
		"SIM_FAIL_START":      text(&k.FailStart),
		"SIM_START_DELAY":     duration(&k.StartDelay),
		"SIM_NEVER_LISTENS":   boolean(&k.NeverListens),
		"SIM_UNHEALTHY":       boolean(&k.Unhealthy),
		"SIM_UNHEALTHY_AFTER": duration(&k.UnhealthyAfter),
		"SIM_EXIT_AFTER":      duration(&k.ExitAfter),
		"SIM_EXIT_CODE":       func(t string) (err error) { k.ExitCode, err = strconv.Atoi(t); return err },
		"SIM_OOM":             boolean(&k.OOM),
		"SIM_STOP_DELAY":      duration(&k.StopDelay),
		"SIM_LATENCY":         duration(&k.Latency),
	}
	for _, kv := range spec.Env {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "SIM_") {
			continue
		}
		parse, ok := parsers[name]
		if !ok {
			return k, &drivers.Error{Kind: drivers.ErrInvalidSpec, Instance: spec.InstanceID, Detail: name + " is not a knob of the sim driver"}
		}
		if err := parse(value); err != nil {
			return k, &drivers.Error{Kind: drivers.ErrInvalidSpec, Instance: spec.InstanceID, Detail: name, Err: err}
		}
	}
	return k, nil
}
