// Package stack starts a whole Sirocco from the binaries in bin/, as a person would, for the end-to-end tests and the
// benchmark: everything in one process ([AllInOne]), or one process per service ([Separate]). It talks to it through
// its HTTP door only.
package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Options of a stack.
type Options struct {
	// Bin is the folder of the binaries; Dir keeps the data.
	Bin, Dir string
	// Env is added to every process.
	Env []string
	// Args are added to sirocco up.
	Args []string
	// Log gets what the processes write; nil discards it.
	Log io.Writer
	// Health gives each process of a separate stack a door for /readyz, at Process.Health.
	Health bool
}

// Stack is a running Sirocco.
type Stack struct {
	// URL of the HTTP door and address of the gRPC one.
	URL, GRPC string
	Options

	Processes map[string]*Process
	// order is the one in which they are started; they are stopped in the opposite one.
	order []string
}

// Process is one of its processes.
type Process struct {
	Name string
	// Health is the URL of its private door, when the stack was made with one.
	Health string

	cmd  *exec.Cmd
	done chan struct{}
	err  error
	make func() *exec.Cmd
}

// Ports of a stack lie below those that the system gives to outgoing connections: a client that keeps trying to reach a
// process that is away could otherwise be given the very port it dials, and hold it when the process comes back.
const firstPort, lastPort = 10_000, 19_999

// given are the ports handed out by this process: one that is not bound yet looks free.
var given sync.Map

// FreePort finds a TCP port that nobody listens on now and that it has not handed out before.
func FreePort() (int, error) {
	for range 100 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if _, taken := given.LoadOrStore(port, true); taken {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("no free port found between %d and %d", firstPort, lastPort)
}

// AllInOne prepares bin/sirocco up on free ports; Start runs it.
func AllInOne(o Options) (*Stack, error) {
	s, err := prepare(o)
	if err != nil {
		return nil, err
	}
	s.add("sirocco", "sirocco", nil, append([]string{"up"}, o.Args...)...)
	return s, nil
}

// client makes the stack's own few calls; the request's context bounds them.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// Services in the order in which [Separate] starts them.
var Services = []string{"keys", "functions", "cluster-inventory", "deployments", "invocation", "tasks", "ledger", "agent", "gateway"}

// Separate prepares one process per service over a NATS and a Postgres that the caller runs.
func Separate(o Options, natsURL, postgresURL string) (*Stack, error) {
	o.Env = append(o.Env, "SIROCCO_NATS_URL="+natsURL, "SIROCCO_POSTGRES_URL="+postgresURL)
	s, err := prepare(o)
	if err != nil {
		return nil, err
	}
	for _, name := range Services {
		if err := s.AddService(name, name); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// AddService adds a process of a service under a name of its own, for example a second gateway, with settings that only
// it has. It is started by the next Start.
func (s *Stack) AddService(name, service string, env ...string) error {
	if !s.Health {
		s.add(name, service, env)
		return nil
	}
	port, err := FreePort()
	if err != nil {
		return err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	s.add(name, service, append(env, "SIROCCO_HEALTH_ADDR="+addr))
	s.Processes[name].Health = "http://" + addr
	return nil
}

func prepare(o Options) (*Stack, error) {
	http, err := FreePort()
	if err != nil {
		return nil, err
	}
	grpc, err := FreePort()
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	o.Log = &locked{w: o.Log}
	s := &Stack{
		URL: fmt.Sprintf("http://127.0.0.1:%d", http), GRPC: fmt.Sprintf("127.0.0.1:%d", grpc),
		Options: o, Processes: map[string]*Process{},
	}
	s.Env = append([]string{
		"SIROCCO_DATA_DIR=" + o.Dir, "SIROCCO_HTTP_ADDR=" + s.URL[len("http://"):], "SIROCCO_GRPC_ADDR=" + s.GRPC,
	}, s.Env...)
	return s, nil
}

func (s *Stack) add(name, program string, env []string, args ...string) {
	s.order = append(s.order, name)
	s.Processes[name] = &Process{Name: name, make: func() *exec.Cmd {
		cmd := exec.Command(filepath.Join(s.Bin, program), args...)
		cmd.Env = slices.Concat(os.Environ(), s.Env, env)
		cmd.Stdout, cmd.Stderr = s.Log, s.Log
		// A group of its own, so that a Ctrl-C at the tests is not one at the platform.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return cmd
	}}
}

type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// Start runs every process that does not run and waits until a function can be called.
func (s *Stack) Start(ctx context.Context) error {
	for _, name := range s.order {
		if p := s.Processes[name]; !p.Running() {
			if err := p.Start(); err != nil {
				return err
			}
		}
	}
	return s.WaitReady(ctx)
}

// Start runs the process.
func (p *Process) Start() error {
	p.cmd, p.done = p.make(), make(chan struct{})
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return nil
}

// Running reports whether the process was started and has not ended.
func (p *Process) Running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// PID of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill is kill -9, and waits for the end.
func (p *Process) Kill() {
	if p.Running() {
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// Stop is SIGTERM, and waits for the end; after limit it is kill -9 and an error.
func (p *Process) Stop(limit time.Duration) error {
	if !p.Running() {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(limit):
		p.Kill()
		return fmt.Errorf("%s did not stop within %s", p.Name, limit)
	}
}

// Stop stops every process, the last started first.
func (s *Stack) Stop() error {
	var errs []error
	for _, name := range slices.Backward(s.order) {
		if err := s.Processes[name].Stop(time.Minute); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// WaitReady waits until GET /readyz is 200; the error holds what it waits for.
func (s *Stack) WaitReady(ctx context.Context) error {
	last := "nothing answers"
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/readyz?verbose", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			b, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			last = string(b)
		}
		for _, p := range s.Processes {
			if p.cmd != nil && !p.Running() {
				return fmt.Errorf("%s ended: %w; last seen: %s", p.Name, p.err, last)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %s", last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Request makes one management call and decodes a JSON answer into out, when out is not nil.
func (s *Stack) Request(ctx context.Context, method, path, bearer string, body, out any, headers ...string) (int, error) {
	var rd io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		rd = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, rd)
	if err != nil {
		return 0, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, err
	}
	if resp.StatusCode >= 300 {
		return resp.StatusCode, fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, b)
	}
	if out != nil && len(b) > 0 {
		if err := json.Unmarshal(b, out); err != nil {
			return resp.StatusCode, fmt.Errorf("%s %s: %w in %s", method, path, err, b)
		}
	}
	return resp.StatusCode, nil
}

// AdminToken mints an administrator token.
func (s *Stack) AdminToken(ctx context.Context) (string, error) {
	var key struct {
		Value string `json:"value"`
	}
	_, err := s.Request(ctx, http.MethodPost, "/v1/admin/keys", "", map[string]any{}, &key)
	return key.Value, err
}

// FunctionsService is the issuer of function keys.
const FunctionsService = "nvidia-cloud-functions-ncp-service-id-aketm"

// FunctionKey creates a key with the given scopes on all functions of the account.
func (s *Stack) FunctionKey(ctx context.Context, owner string, scopes ...string) (id, value string, err error) {
	var key struct {
		ID    string `json:"id"`
		Value string `json:"value"`
	}
	_, err = s.Request(ctx, http.MethodPost, "/v1/keys", "", map[string]any{
		"description": "made by the stack", "expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
		"authorizations": map[string]any{"policies": []any{map[string]any{
			"aud": FunctionsService, "auds": []string{FunctionsService}, "product": "nv-cloud-functions",
			"resources": []any{map[string]string{"id": "*", "type": "account-functions"}}, "scopes": scopes,
		}}},
	}, &key, "Key-Issuer-Service", "nvcf-api", "Key-Issuer-Id", FunctionsService, "Key-Owner-Id", owner)
	return key.ID, key.Value, err
}

// Function is what the stack needs to know of a version.
type Function struct {
	ID        string `json:"id"`
	VersionID string `json:"versionId"`
	Name      string `json:"name"`
	Status    string `json:"status"`
}

// Functions lists the account's versions.
func (s *Stack) Functions(ctx context.Context, bearer string) ([]Function, error) {
	var list struct {
		Functions []Function `json:"functions"`
	}
	_, err := s.Request(ctx, http.MethodGet, "/v2/nvcf/functions", bearer, nil, &list)
	return list.Functions, err
}
