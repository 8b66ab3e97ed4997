// Package gateway is the door: one HTTP port and one gRPC port in front of every API.
//
// A request takes one of two ways. A management request finds its route in the table of routes.go, which says what the
// credential must be allowed to do and which endpoint on the bus answers; the gateway only translates. An invocation is
// classified by host, header or path (classify.go), turned into an exchange (package relay) and offered to whoever runs
// the function; its bytes are never stored here.
//
// The gateway owns nothing but caches: of credentials and of routes to versions. Events make them forget at once, and
// a time to live of a minute makes them forget when no event comes through.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coder/quartz"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/health"
	"github.com/sirocco-cloud/sirocco/libs/relay"
)

// Config of the gateway.
type Config struct {
	// HTTPAddr serves every HTTP API.
	HTTPAddr string `env:"SIROCCO_HTTP_ADDR" envDefault:"127.0.0.1:8080"`
	// GRPCAddr serves gRPC functions without TLS and without Host matching.
	GRPCAddr string `env:"SIROCCO_GRPC_ADDR" envDefault:"127.0.0.1:10081"`
	// AdminNetworks may mint administrator tokens (keys §3, compat mode).
	AdminNetworks []string `env:"SIROCCO_ADMIN_NETWORKS" envDefault:"127.0.0.0/8,::1/128,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"`
	// TrustMode is compat or secured (keys §3).
	TrustMode TrustMode `env:"SIROCCO_TRUST_MODE" envDefault:"compat"`
	// BootstrapSecret is the bearer that mints administrator tokens in secured mode.
	BootstrapSecret string `env:"SIROCCO_BOOTSTRAP_SECRET,unset"`
	// BareDelete are networks that may delete keys without a credential in secured mode, as the published CLI does.
	BareDelete []string `env:"SIROCCO_KEYS_ALLOW_BARE_DELETE"`
	// Organisations maps those of /v2/orgs/{org}/… to accounts: org=account,….
	Organisations []string `env:"SIROCCO_ORGS"`
	// ConsoleDomain is that of the access API, whose tokens are accepted everywhere, or by that API alone when ConsoleAccepted is false.
	ConsoleDomain   string `env:"SIROCCO_CONSOLE_DOMAIN" envDefault:"sirocco.local"`
	ConsoleAccepted bool   `env:"SIROCCO_CONSOLE_ISSUER_ACCEPTED" envDefault:"true"`
	// Compat are the rows of the access matrix that can be read in two ways.
	Compat access.Compat
	// Region is reported to containers as the place that accepted a request.
	Region string `env:"SIROCCO_REGION" envDefault:"us-west-1"`
}

// limits of the listeners.
const (
	maxHeaderBytes    = 1 << 20
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
)

// Gateway is the HTTP handler and its two listeners.
type Gateway struct {
	cfg      Config
	log      *zap.Logger
	conn     *bus.Conn
	health   *health.Registry
	metrics  *prometheus.Registry
	router   *router
	clock    quartz.Clock
	auth     *authenticator
	accounts *accounts
	versions *versions
	relay    *relay.Client
	objects  *bus.Objects
	waker    *waker
	counters *counters
	// decisions is the audit record of every one.
	decisions *decisions

	settings

	// ctx ends when Stop begins: what would never end by itself listens to it.
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	waiting error
	// serving counts requests, and grows only while stopped is false.
	serving sync.WaitGroup
	stopped bool

	// Start and its goroutine fill these before done is closed.
	doors []door
	stops []func()
	done  chan struct{}
	// endRecord ends the audit record, after the last request; recorded is closed when it is written.
	endRecord context.CancelFunc
	recorded  chan struct{}
}

// door is one listener with its server.
type door struct {
	listener net.Listener
	server   *http.Server
}

// New makes a gateway; Start opens its doors.
func New(cfg Config, conn *bus.Conn, h *health.Registry, metrics *prometheus.Registry, log *zap.Logger) (*Gateway, error) {
	return timed(cfg, conn, h, metrics, log, quartz.NewReal())
}

// timed is New with a clock for what is decided by time: how long a credential counts.
func timed(cfg Config, conn *bus.Conn, h *health.Registry, metrics *prometheus.Registry, log *zap.Logger, clock quartz.Clock) (*Gateway, error) {
	from, err := cfg.settings()
	if err != nil {
		return nil, err
	}
	client, err := relay.NewClient(conn.NATS())
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	g := &Gateway{
		cfg: cfg, settings: from, log: log.Named("gateway"), conn: conn, health: h, metrics: metrics, relay: client, objects: conn.Objects(functions.ObjectsBucket, 0),
		clock: clock, accounts: newAccounts(conn), versions: newVersions(conn), waker: newWaker(conn, log), counters: newCounters(metrics),
		waiting: errors.New("not started"),
	}
	g.auth = newAuthenticator(conn, clock, newTokenVerifier(conn, clock, keys.ConsoleIssuer(cfg.ConsoleDomain)), g.accounts, cfg.Compat)
	g.auth.consoleApart = !cfg.ConsoleAccepted
	g.auth.cache.register(metrics)
	g.decisions = newDecisions(conn, clock, g.log)
	g.decisions.register(metrics)
	g.router = newRouter(g)
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g, nil
}

// Start opens both listeners at once, so that /readyz can be asked what is waited for, and becomes ready in the
// background when the caches follow their events.
func (g *Gateway) Start(ctx context.Context) error {
	g.log.Info("trust mode of the keys host", zap.String("mode", string(g.mode)), zap.Strings("admin networks", g.cfg.AdminNetworks))
	if g.mode == Secured && g.cfg.BootstrapSecret == "" {
		g.log.Warn("no administrator token can be minted: set SIROCCO_BOOTSTRAP_SECRET")
	}
	for _, d := range []struct {
		variable, addr string
		handler        http.Handler
	}{
		{"SIROCCO_HTTP_ADDR", g.cfg.HTTPAddr, http.HandlerFunc(g.ServeHTTP)},
		{"SIROCCO_GRPC_ADDR", g.cfg.GRPCAddr, http.HandlerFunc(g.serveGRPC)},
	} {
		if err := g.listen(ctx, d.variable, d.addr, d.handler); err != nil {
			for _, open := range g.doors {
				_ = open.server.Close()
			}
			return err
		}
	}
	g.done, g.recorded = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(g.done)
		g.follow(g.ctx)
		g.listenToBus(g.ctx)
	}()
	var recording context.Context
	recording, g.endRecord = context.WithCancel(context.Background())
	go func() {
		defer close(g.recorded)
		g.decisions.run(recording)
	}()
	return nil
}

func (g *Gateway) listen(ctx context.Context, variable, addr string, h http.Handler) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("%s: %w", variable, err)
	}
	srv := &http.Server{
		Handler: g.counted(h), MaxHeaderBytes: maxHeaderBytes, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout,
		ErrorLog: zap.NewStdLog(g.log.Named("http")), Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 10_000, MaxReceiveBufferPerConnection: 8 << 20, MaxReceiveBufferPerStream: 1 << 20},
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	g.doors = append(g.doors, door{l, srv})
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			g.log.Error("listener ended", zap.String("address", addr), zap.Error(err))
		}
	}()
	g.log.Info("listening", zap.String("setting", variable), zap.Stringer("address", l.Addr()))
	return nil
}

// counted lets Stop wait for every request, also for those whose connection the HTTP server gave away.
func (g *Gateway) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		stopped := g.stopped
		if !stopped {
			g.serving.Add(1)
		}
		g.mu.Unlock()
		if stopped {
			writeProblem(w, r, newRequestID(), problem.New(problem.Unavailable, "the gateway is stopping; try again"))
			return
		}
		defer g.serving.Done()
		h.ServeHTTP(w, whole(w, r))
	})
}

// follow starts the exchange client and the event watches, as often as it takes.
func (g *Gateway) follow(ctx context.Context) {
	steps := []func(context.Context) error{
		g.relay.Start,
		func(ctx context.Context) error { return g.conn.Declare(ctx, "gateway", watchedStreams...) },
		func(ctx context.Context) error { return g.watch(ctx, g.auth.watch) },
		g.learnRevocations,
		func(ctx context.Context) error { return g.watch(ctx, g.versions.watch) },
	}
	for _, step := range steps {
		for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 2*time.Second) {
			try, cancel := context.WithTimeout(ctx, 10*time.Second)
			err := step(try)
			cancel()
			if err == nil {
				break
			}
			g.setWaiting(fmt.Errorf("waiting for events: %w", err))
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	}
	if ctx.Err() == nil {
		g.setWaiting(nil)
	}
}

// learnRevocations reads the whole set of revoked tokens, and forgets those that it took for good until now.
func (g *Gateway) learnRevocations(ctx context.Context) error {
	revoked := g.auth.tokens.revoked
	if err := revoked.load(ctx, g.conn, g.clock.Now()); err != nil {
		return err
	}
	g.auth.abandon(true)
	g.auth.cache.drop(scope{about: func(k *access.Credential) bool { return k.Kind == access.JWT && revoked.covers(k) != nil }})
	return nil
}

// How often the bus is asked for a sign of life, and how long the answer may take.
const (
	heartbeat     = 5 * time.Second
	heartbeatLate = 3 * time.Second
	// heartbeatMissed is the pause after a question without an answer, so that an end of the silence is noticed soon.
	heartbeatMissed = time.Second
)

// listenToBus asks the bus for a sign of life, without which nothing is decided after a minute, and reads the revoked
// tokens again after every silence and whenever events may have been lost. It also sweeps the cache.
func (g *Gateway) listenToBus(ctx context.Context) {
	tick := g.clock.NewTicker(heartbeat)
	defer tick.Stop()
	silent := false
	for {
		at := g.clock.Now()
		asking, cancel := context.WithTimeout(ctx, heartbeatLate)
		err := g.conn.Check(asking)
		if g.auth.tokens.revoked.doubtful() {
			silent = true
		}
		if err == nil && silent {
			err = g.learnRevocations(asking)
		}
		cancel()
		if silent = err != nil; !silent {
			g.auth.heard(at)
		}
		g.auth.cache.sweep(at)
		if silent {
			tick.Reset(heartbeatMissed)
		} else {
			tick.Reset(heartbeat)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (g *Gateway) watch(ctx context.Context, start func(context.Context) (func(), error)) error {
	stop, err := start(ctx)
	if err == nil {
		g.stops = append(g.stops, stop)
	}
	return err
}

// Stop takes no new connection, lets requests in flight finish while ctx lasts, and closes the rest.
func (g *Gateway) Stop(ctx context.Context) error {
	g.health.Drain()
	g.cancel()
	if g.done == nil {
		return nil
	}
	<-g.done
	var errs []error
	for _, d := range g.doors {
		if err := d.server.Shutdown(ctx); err != nil {
			errs = append(errs, d.server.Close())
		}
	}
	g.mu.Lock()
	g.stopped = true
	g.mu.Unlock()
	errs = append(errs, g.relay.Close(ctx)) // ends what is left: exchanges out of time, and upgraded connections
	g.serving.Wait()
	g.waker.wait()
	g.endRecord()
	<-g.recorded
	for _, stop := range g.stops {
		stop()
	}
	return errors.Join(errs...)
}

// Check reports what the gateway waits for.
func (g *Gateway) Check(context.Context) error {
	g.mu.Lock()
	waiting := g.waiting
	g.mu.Unlock()
	if waiting == nil && !g.auth.hears(g.clock.Now(), credentialLife) {
		return errors.New("waiting for a sign of life of NATS; no credential counts until then")
	}
	return waiting
}

func (g *Gateway) setWaiting(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = err
}
