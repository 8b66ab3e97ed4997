package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/loadtester"
)

// The sample function: the load tester of this very binary, run as a process from the image catalogue.
const (
	sampleName  = "sample-echo"
	sampleImage = "sirocco/loadtester:sample"
)

// sample deploys the sample function once per data directory. A person who removes it is not given another one.
type sample struct {
	conn *bus.Conn
	log  *zap.Logger
	path string

	mu      sync.Mutex
	waiting error
	cancel  context.CancelFunc
	done    chan struct{}
}

func newSample(conn *bus.Conn, log *zap.Logger, dir string) *sample {
	return &sample{conn: conn, log: log.Named("sample"), path: filepath.Join(dir, "sample.json"), waiting: errors.New("not deployed yet"), done: make(chan struct{})}
}

func (s *sample) check(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

func (s *sample) start(ctx context.Context) error {
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(s.done)
		for ctx.Err() == nil {
			err := s.ensure(ctx)
			s.mu.Lock()
			s.waiting = err
			s.mu.Unlock()
			if err == nil {
				return
			}
			s.log.Debug("sample function is not ready", zap.Error(err))
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return nil
}

func (s *sample) stop(context.Context) error {
	s.cancel()
	<-s.done
	return nil
}

// ensure makes one step towards an active sample and returns nil when nothing is left to do.
func (s *sample) ensure(ctx context.Context) error {
	ctx = access.WithCaller(ctx, access.Caller{
		Account: access.DefaultAccount, Kind: access.JWT, ID: "sirocco-up", Subject: "sirocco-up", Scopes: access.AdminDefaults(),
	})
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	known, err := s.remembered()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("sample: %w", err)
	}
	if _, err := bus.Call(ctx, s.conn, clusters.PutImage, clusters.ImageRequest{Reference: sampleImage, Command: []string{self, "loadtester"}}); err != nil {
		return err
	}
	if known.VersionID == "" {
		if known, err = s.find(ctx); err != nil {
			return err
		}
	}
	if known.VersionID == "" {
		return s.deploy(ctx)
	}
	current, err := bus.Call(ctx, s.conn, functions.Get, functions.VersionRequest{FunctionID: known.ID, VersionID: known.VersionID})
	switch {
	case problem.HasCode(err, problem.NotFound):
		return nil // somebody deleted it
	case err != nil:
		return err
	}
	switch status := current.Function.Status; status {
	case functions.Active:
		if len(current.Function.ActiveInstances) == 0 {
			return errors.New("the sample has no running instance yet")
		}
		return nil
	case functions.Inactive:
		return nil // somebody undeployed it
	case functions.Error:
		s.log.Error("the sample function failed to start; see: sirocco function show " + sampleName)
		return fmt.Errorf("the sample function is in state %s", status)
	default:
		return fmt.Errorf("the sample function is in state %s", status)
	}
}

// find looks for a sample that an earlier start made but did not live to remember.
func (s *sample) find(ctx context.Context) (sampleRecord, error) {
	list, err := bus.Call(ctx, s.conn, functions.List, functions.ListRequest{Name: sampleName, Visibility: []string{"private"}})
	if err != nil {
		return sampleRecord{}, err
	}
	for _, f := range list.Functions {
		if f.Name == sampleName && f.ContainerImage == sampleImage && f.Status != functions.Inactive {
			return sampleRecord{ID: f.ID, VersionID: f.VersionID}, s.remember(f)
		}
	}
	return sampleRecord{}, nil
}

func (s *sample) deploy(ctx context.Context) error {
	groups, err := bus.Call(ctx, s.conn, clusters.Groups, clusters.GroupsRequest{})
	if err != nil {
		return err
	}
	gpu, instanceType := defaultType(groups.ClusterGroups)
	if gpu == "" {
		return errors.New("no GPU has been reported yet")
	}
	created, err := bus.Call(ctx, s.conn, functions.Create, functions.CreateRequest{Spec: functions.Spec{
		Name: sampleName, ContainerImage: sampleImage, InferenceURL: "/echo", InferencePort: 8000,
		Description: "Answers what it is sent; made by sirocco up.", Tags: []string{"sample"},
		Health: &functions.Health{Protocol: "HTTP", URI: "/health", Port: 8000, Timeout: "PT10S", ExpectedStatusCode: http.StatusOK},
	}})
	if err != nil {
		return err
	}
	one, slots := 1, 64
	if _, err := bus.Call(ctx, s.conn, deployments.Create, deployments.CreateRequest{
		FunctionID: created.Function.ID, VersionID: created.Function.VersionID,
		Specifications: []deployments.Specification{{GPU: gpu, InstanceType: instanceType, MinInstances: &one, MaxInstances: &one, MaxRequestConcurrency: &slots}},
	}); err != nil {
		return errors.Join(err, s.undo(ctx, created.Function))
	}
	if err := s.remember(created.Function); err != nil {
		return err
	}
	return errors.New("the sample function is being deployed")
}

// undo keeps a failed attempt from leaving a second sample behind.
func (s *sample) undo(ctx context.Context, f functions.Function) error {
	_, err := bus.Call(ctx, s.conn, functions.Delete, functions.VersionRequest{FunctionID: f.ID, VersionID: f.VersionID})
	return err
}

func defaultType(groups []clusters.Group) (gpu, instanceType string) {
	for _, g := range groups {
		for _, name := range g.GPUs {
			for _, t := range name.InstanceTypes {
				if t.Default && t.Available > 0 {
					return name.Name, t.Name
				}
			}
		}
	}
	return "", ""
}

type sampleRecord struct {
	ID        string `json:"functionId"`
	VersionID string `json:"versionId"`
}

func (s *sample) remembered() (sampleRecord, error) {
	var r sampleRecord
	b, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("sample: %w", err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("sample: %s: %w", s.path, err)
	}
	return r, nil
}

func (s *sample) remember(f functions.Function) error {
	b, err := json.Marshal(sampleRecord{ID: f.ID, VersionID: f.VersionID})
	if err != nil {
		return fmt.Errorf("sample: %w", err)
	}
	if err := os.WriteFile(s.path, b, 0o600); err != nil {
		return fmt.Errorf("sample: %w", err)
	}
	return nil
}

// newLoadtester is the hidden command that instances of the sample run.
func newLoadtester() *cobra.Command {
	return &cobra.Command{
		Use: "loadtester", Short: "Serve the load tester on $HOST:$PORT", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			port := os.Getenv("PORT")
			if port == "" {
				port = "8000"
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(os.Getenv("HOST"), port))
			if err != nil {
				return fmt.Errorf("load tester: %w", err)
			}
			srv := &http.Server{Handler: loadtester.New(), ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
			srv.Protocols.SetHTTP1(true)
			srv.Protocols.SetUnencryptedHTTP2(true)
			go func() {
				<-ctx.Done()
				_ = srv.Shutdown(context.WithoutCancel(ctx))
			}()
			fmt.Fprintln(cmd.OutOrStdout(), "load tester listens on", l.Addr())
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("load tester: %w", err)
			}
			return nil
		},
	}
}

func hostPort(addr string) (string, int, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not a port", port)
	}
	return host, n, nil
}
