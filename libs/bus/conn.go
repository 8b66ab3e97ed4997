// Package bus is the one door to NATS. It turns the declarations of contracts/rpc into traffic: [Serve] and [Call] for
// requests, [Record] and [Order] for events and commands that leave through a service's outbox, [Subscriber] and
// [Watch] for events that come in, [Commands] for a node, [Queue] for the work of one function version.
//
// No other package names a subject or holds a NATS handle, except relay, which frames exchanges on core NATS.
package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// Config says how to reach NATS. Exactly one of URL and Embedded is used; Embedded wins.
type Config struct {
	// URL is one or more comma-separated server URLs.
	URL string
	// Embedded is a server in this process, reached without a socket.
	Embedded *server.Server
	// Name is shown in the server's connection list: service and instance.
	Name string
	// Replicas of every stream; 1 on a single server.
	Replicas int
	Log      *zap.Logger
}

// Conn is a connection to NATS that never gives up: it reconnects for ever, and a process may start before NATS does.
type Conn struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	log      *zap.Logger
	name     string
	replicas int

	mu sync.Mutex
	// declared are the streams that owners have asked for; see Declare.
	declared map[string][]string
}

const (
	reconnectWait = 250 * time.Millisecond
	drainTimeout  = 10 * time.Second
	flushTimeout  = 10 * time.Second
	// writeBuffer bounds what is kept in memory while the server is away; beyond it a publish fails at once.
	writeBuffer = 8 << 20
)

// Connect opens the connection. It fails only on a configuration that can never work; an absent server is waited for.
func Connect(cfg Config) (*Conn, error) {
	log := cfg.Log.Named("bus")
	opts := []nats.Option{
		nats.Name(cfg.Name),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectWait/2, reconnectWait),
		nats.ReconnectBufSize(writeBuffer),
		nats.DrainTimeout(drainTimeout),
		nats.IgnoreAuthErrorAbort(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("disconnected from NATS, reconnecting", zap.Error(err))
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("reconnected to NATS") }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Error("NATS reported an error", zap.String("subject", subject), zap.Error(err))
		}),
	}
	if cfg.Embedded != nil {
		opts = append(opts, nats.InProcessServer(cfg.Embedded))
	}
	nc, err := nats.Connect(cfg.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return &Conn{nc: nc, js: js, log: log, name: cfg.Name, replicas: max(cfg.Replicas, 1), declared: map[string][]string{}}, nil
}

// NATS is the raw connection, for package relay only.
func (c *Conn) NATS() *nats.Conn { return c.nc }

// Name is the name this connection was opened with.
func (c *Conn) Name() string { return c.name }

// Check reports what is waited for when NATS or JetStream does not answer.
func (c *Conn) Check(ctx context.Context) error {
	if !c.nc.IsConnected() {
		return errors.New("waiting for NATS")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := c.js.AccountInfo(ctx); err != nil {
		return fmt.Errorf("waiting for JetStream: %w", err)
	}
	return nil
}

// Connected reports whether the server can be reached now. What is sent while it cannot leaves when it is back.
func (c *Conn) Connected() bool { return c.nc.IsConnected() }

// Flush waits until the server has seen everything sent so far, such as new subscriptions; ten seconds at most.
func (c *Conn) Flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if err := c.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("flush to NATS: %w", err)
	}
	return nil
}

// Close lets handlers in flight finish, bounded by the drain timeout, and disconnects.
func (c *Conn) Close() {
	if c.nc.IsClosed() {
		return
	}
	closed := make(chan struct{})
	c.nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	if err := c.nc.Drain(); err != nil {
		c.nc.Close()
	}
	select {
	case <-closed:
	case <-time.After(drainTimeout + time.Second):
		c.nc.Close()
	}
}
