package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/fx"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// Service is the life of one service in a process. A module makes it with [NewService], adds endpoints, subscribers
// and loops, and hands it to [Attach]; the order of start and stop is the same for all:
//
//	start: migrations → streams → outbox relay → subscribers → loops → endpoints (only now it is ready)
//	stop:  endpoints → loops → subscribers → outbox relay
//
// Start never fails because Postgres or NATS is away: it waits for them in the background and says so in /readyz.
type Service struct {
	Platform

	Name    string
	Schema  string
	Log     *zap.Logger
	Outbox  *store.Outbox
	Inbox   *store.Inbox
	Journal *bus.Journal
	Server  *bus.Server

	migrations  fs.FS
	relay       *store.Relay
	subscribers []*bus.Subscriber
	loops       []loop
	streams     []string
	onReady     []func(context.Context) error

	mu      sync.Mutex
	waiting error
	cancel  context.CancelFunc
	done    chan struct{}
	working sync.WaitGroup
	started []func(context.Context)
}

type loop struct {
	name string
	run  func(context.Context) error
}

// outboxPatience is how long an event may stay unpublished before the service says that it is not ready.
const outboxPatience = 5 * time.Second

// NewService prepares a service with its own schema in Postgres.
func NewService(p Platform, name, schema string, migrations fs.FS) *Service {
	outbox := store.NewOutbox(schema)
	log := p.Log.Named(name)
	return &Service{
		Platform: p, Name: name, Schema: schema, Log: log, migrations: migrations,
		Outbox: outbox, Inbox: store.NewInbox(schema), Journal: bus.NewJournal(name, outbox, func() time.Time { return p.Clock.Now() }),
		Server:  bus.NewServer(p.Conn, name),
		relay:   store.NewRelay(p.Pool, outbox, p.Conn.PublishBatch, store.RelayOptions{Log: log}),
		waiting: errors.New("not started"),
	}
}

// Subscribe prepares the consumer of one event domain.
func (s *Service) Subscribe(domain string) *bus.Subscriber {
	sub := bus.NewSubscriber(s.Conn, s.Pool, s.Name, domain, s.Inbox, s.Outbox)
	s.subscribers = append(s.subscribers, sub)
	s.streams = append(s.streams, sub.Stream())
	return sub
}

// Uses names streams of others that must exist before this service starts.
func (s *Service) Uses(streams ...string) { s.streams = append(s.streams, streams...) }

// Loop adds background work. It runs until its context ends; when it returns an error it is started again with a
// growing pause, so it must be safe to run twice.
func (s *Service) Loop(name string, run func(context.Context) error) {
	s.loops = append(s.loops, loop{name, run})
}

// OnReady adds a step that must succeed after the migrations and before the first request, such as loading keys.
func (s *Service) OnReady(step func(context.Context) error) { s.onReady = append(s.onReady, step) }

// Tx runs fn in a transaction and lets the outbox publish what fn recorded.
func (s *Service) Tx(ctx context.Context, fn func(tx pgx.Tx) error) error {
	return store.InTx(ctx, s.Pool, fn, s.Outbox)
}

// Attach ties the service to the life of the process.
func Attach(lc fx.Lifecycle, s *Service) {
	s.Health.Add(s.Name, s.Check)
	lc.Append(fx.Hook{OnStart: s.Start, OnStop: s.Stop})
}

// Check reports what the service waits for, nil when it serves.
func (s *Service) Check(ctx context.Context) error {
	s.mu.Lock()
	waiting := s.waiting
	s.mu.Unlock()
	if waiting != nil {
		return waiting
	}
	return s.relay.Check(ctx, outboxPatience)
}

// Start begins in the background and returns at once.
func (s *Service) Start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel, s.done = cancel, make(chan struct{})
	go func() {
		defer close(s.done)
		s.bringUp(run)
	}()
	return nil
}

// Stop undoes Start in reverse order; ctx bounds how long requests in flight may take.
func (s *Service) Stop(ctx context.Context) error {
	if s.cancel == nil {
		return nil
	}
	s.wait(errors.New("stopping"))
	s.cancel()
	<-s.done
	for _, undo := range slices.Backward(s.started) {
		undo(ctx)
	}
	s.working.Wait()
	return nil
}

// bringUp performs the steps of a start, each as often as it takes.
func (s *Service) bringUp(ctx context.Context) {
	s.step(ctx, "migrations", func(ctx context.Context) error {
		return store.Migrate(ctx, s.Pool, s.Schema, s.migrations)
	})
	s.step(ctx, "streams", func(ctx context.Context) error { return s.Conn.Declare(ctx, s.Name, s.streams...) })
	s.step(ctx, "outbox", func(ctx context.Context) error {
		s.undo(func(ctx context.Context) { s.report("outbox", s.relay.Stop(ctx)) })
		return s.relay.Start(ctx)
	})
	for _, ready := range s.onReady {
		s.step(ctx, "preparation", ready)
	}
	for _, sub := range s.subscribers {
		s.step(ctx, "consumer of "+sub.Stream(), func(ctx context.Context) error {
			if err := sub.Start(ctx); err != nil {
				return err
			}
			s.undo(func(context.Context) { sub.Stop() })
			return nil
		})
	}
	if ctx.Err() != nil {
		return
	}
	for _, l := range s.loops {
		loopCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		s.undo(func(context.Context) { cancel() })
		s.working.Go(func() { s.repeat(loopCtx, l) })
	}
	s.step(ctx, "endpoints", func(ctx context.Context) error {
		if err := s.Server.Start(ctx); err != nil {
			return err
		}
		s.undo(func(ctx context.Context) { s.report("endpoints", s.Server.Stop(ctx)) })
		return nil
	})
	if ctx.Err() == nil {
		s.wait(nil)
		s.Log.Info("service is ready")
	}
}

// stepTimeout bounds one try of one step.
const stepTimeout = 30 * time.Second

func (s *Service) step(ctx context.Context, name string, do func(context.Context) error) {
	delay := 100 * time.Millisecond
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, stepTimeout)
		err := do(try)
		cancel()
		if err == nil {
			return
		}
		s.wait(fmt.Errorf("waiting in %s: %w", name, err))
		s.Log.Warn("start is waiting", zap.String("step", name), zap.Error(err))
		t := time.NewTimer(delay)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		delay = min(2*delay, 2*time.Second)
	}
}

func (s *Service) repeat(ctx context.Context, l loop) {
	delay := 100 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		err := l.run(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Minute {
			delay = 100 * time.Millisecond
		}
		s.Log.Warn("loop ended, starting it again", zap.String("loop", l.name), zap.Error(err))
		t := time.NewTimer(delay)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		delay = min(2*delay, 5*time.Second)
	}
}

func (s *Service) undo(f func(context.Context)) { s.started = append(s.started, f) }

func (s *Service) wait(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = err
}

func (s *Service) report(what string, err error) {
	if err != nil {
		s.Log.Warn("stopped with an error", zap.String("part", what), zap.Error(err))
	}
}

// Migrations is the "migrations" folder of a service's embedded files.
func Migrations(embedded fs.FS) fs.FS {
	sub, err := fs.Sub(embedded, "migrations")
	if err != nil {
		return embedded // only a malformed path fails, and this one is a constant
	}
	return sub
}
