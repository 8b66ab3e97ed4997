package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/coder/quartz"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/fx"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/health"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// Platform is what the process gives to each of its services.
type Platform struct {
	fx.In

	Config  Config
	Log     *zap.Logger
	Conn    *bus.Conn
	Pool    *pgxpool.Pool
	Health  *health.Registry
	Metrics *prometheus.Registry
	Clock   quartz.Clock
}

// Core is logging, clock, health and metrics, without any connection.
var Core = fx.Options(
	fxLogger,
	fx.StartTimeout(time.Minute), fx.StopTimeout(2*time.Minute),
	fx.Provide(Load[Config], NewLogger, health.NewRegistry, quartz.NewReal, newMetrics),
	fx.Invoke(serveProfiles),
)

// Connections opens NATS and Postgres from the configuration.
var Connections = fx.Module("connections", fx.Provide(connect, open))

// Node is the ground of an agent: [Base] without a database.
func Node(service string) fx.Option {
	return fx.Options(Core, fx.Provide(connect), fx.Supply(fx.Annotate(service, fx.ResultTags(`name:"process"`))), fx.Invoke(serveHealth))
}

// Base is the ground of a process that runs one service: [Core], [Connections] and a door for health.
func Base(service string) fx.Option {
	return fx.Options(Core, Connections, fx.Supply(fx.Annotate(service, fx.ResultTags(`name:"process"`))), fx.Invoke(serveHealth))
}

func newMetrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

type connectParams struct {
	fx.In

	Lifecycle fx.Lifecycle
	Config    Config
	Log       *zap.Logger
	Health    *health.Registry
	Process   string `name:"process"`
}

func connect(p connectParams) (*bus.Conn, error) {
	conn, err := bus.Connect(bus.Config{URL: p.Config.NATSURL, Name: Instance(p.Process), Replicas: p.Config.NATSReplicas, Log: p.Log})
	if err != nil {
		return nil, err
	}
	p.Health.Add("nats", conn.Check)
	p.Lifecycle.Append(fx.StopHook(conn.Close))
	return conn, nil
}

func open(p connectParams) (*pgxpool.Pool, error) {
	pool, err := store.Open(context.Background(), p.Config.PostgresURL, store.Options{Application: p.Process})
	if err != nil {
		return nil, err
	}
	p.Health.Add("postgres", func(ctx context.Context) error { return store.Ping(ctx, pool) })
	p.Lifecycle.Append(fx.StopHook(pool.Close))
	return pool, nil
}

// serveHealth opens the private door of a process: health, metrics. It binds only where SIROCCO_HEALTH_ADDR says.
func serveHealth(lc fx.Lifecycle, cfg Config, h *health.Registry, metrics *prometheus.Registry, log *zap.Logger) {
	mux := http.NewServeMux()
	h.Register(mux)
	mux.HandleFunc("GET /health", h.ServeReady)
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	openDoor(lc, "SIROCCO_HEALTH_ADDR", cfg.HealthAddr, mux, log)
}

// serveProfiles opens the door for go tool pprof, where SIROCCO_PROFILE_ADDR says.
func serveProfiles(lc fx.Lifecycle, cfg Config, log *zap.Logger) {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	openDoor(lc, "SIROCCO_PROFILE_ADDR", cfg.ProfileAddr, mux, log)
}

func openDoor(lc fx.Lifecycle, setting, addr string, h http.Handler, log *zap.Logger) {
	if addr == "" {
		return
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	lc.Append(fx.Hook{
		OnStart: func(ctx context.Context) error {
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
			if err != nil {
				return fmt.Errorf("%s: %w", setting, err)
			}
			go func() {
				if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
					log.Error("listener ended", zap.String("setting", setting), zap.Error(err))
				}
			}()
			return nil
		},
		OnStop: srv.Shutdown,
	})
}

// Run is the main of every service process.
func Run(service string, modules ...fx.Option) {
	fx.New(append([]fx.Option{Base(service)}, modules...)...).Run()
}
