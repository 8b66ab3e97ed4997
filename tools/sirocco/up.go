package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/spf13/cobra"
	"go.uber.org/fx"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/health"
	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/store/private"
	"github.com/sirocco-cloud/sirocco/services/agent"
	clusterinventory "github.com/sirocco-cloud/sirocco/services/cluster-inventory"
	"github.com/sirocco-cloud/sirocco/services/deployments"
	"github.com/sirocco-cloud/sirocco/services/functions"
	"github.com/sirocco-cloud/sirocco/services/gateway"
	"github.com/sirocco-cloud/sirocco/services/invocation"
	"github.com/sirocco-cloud/sirocco/services/keys"
	"github.com/sirocco-cloud/sirocco/services/ledger"
	"github.com/sirocco-cloud/sirocco/services/tasks"
)

// upConfig is what only the all-in-one process understands.
type upConfig struct {
	DataDir string `env:"SIROCCO_DATA_DIR" envDefault:"./.sirocco"`
	// NATSAddr opens the embedded NATS for agents on other machines; empty keeps it inside the process.
	NATSAddr string `env:"SIROCCO_NATS_ADDR"`
	// Sample deploys the sample function once.
	Sample bool `env:"SIROCCO_SAMPLE" envDefault:"true"`
}

// poolSize is shared by all services of the process; each holds a connection or two at a time.
const poolSize = 24

func newUp() *cobra.Command {
	var keep, noSample bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run the whole platform in this process",
		Long: `Run every service, an agent with this machine's GPUs (or simulated ones), an embedded NATS and a private
PostgreSQL in this process, with one sample function deployed. Everything is kept in SIROCCO_DATA_DIR
(default ./.sirocco) and found again at the next start.

Ctrl-C drains and stops the instances too; with --keep-instances they go on and the next start attaches to them.

  SIROCCO_HTTP_ADDR   127.0.0.1:8080     every HTTP API
  SIROCCO_GRPC_ADDR   127.0.0.1:10081    gRPC functions
  SIROCCO_GPUS        auto               or none, or simulated ones such as H100:8
  SIROCCO_DRIVERS     auto               or a list of docker, process, sim`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := app.Load[upConfig]()
			if err != nil {
				return err
			}
			cfg.Sample = cfg.Sample && !noSample
			// The agent reads its own configuration, as it does when it is a process of its own.
			if err := os.Setenv("SIROCCO_STOP_INSTANCES", strconv.FormatBool(!keep)); err != nil {
				return fmt.Errorf("environment: %w", err)
			}
			return runUp(cmd.Context(), cfg, cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&keep, "keep-instances", false, "leave instances running when this process stops")
	cmd.Flags().BoolVar(&noSample, "no-sample", false, "do not deploy the sample function")
	return cmd
}

// gcPercent trades memory for throughput: the process idles far below the 150 MiB it may take, and every invocation
// makes garbage. GOGC still overrides it.
const gcPercent = 400

func runUp(ctx context.Context, cfg upConfig, out io.Writer) error {
	began := time.Now()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	dir, err := dataDir(cfg.DataDir)
	if err != nil {
		return fmt.Errorf("SIROCCO_DATA_DIR: %w", err)
	}
	ctx, stopSignals := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stopSignals()
	unlock, err := lockDir(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()
	base, err := app.Load[app.Config]()
	if err != nil {
		return err
	}
	log, err := app.NewLogger(base)
	if err != nil {
		return err
	}
	db, nats, err := ground(ctx, dir, cfg, log)
	if err != nil {
		return err
	}
	defer func() {
		nats.Shutdown()
		nats.WaitForShutdown()
		stop, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := db.Stop(stop); err != nil {
			log.Error("private PostgreSQL not stopped", zap.Error(err))
		}
	}()
	example := fx.Options()
	if cfg.Sample {
		example = sampleIn(dir)
	}
	var registry *health.Registry
	platform := fx.New(
		app.Core,
		fx.Supply(db, nats),
		fx.Provide(connectEmbedded, openPrivate),
		keys.Module, functions.Module, clusterinventory.Module, deployments.Module, invocation.Module, tasks.Module, ledger.Module,
		example, agent.Module,
		// Last to start and so first to stop: nothing new comes in while the rest drains.
		gateway.Module,
		fx.Populate(&registry),
	)
	if err := platform.Err(); err != nil {
		return fmt.Errorf("wiring: %w", err)
	}
	if err := platform.Start(ctx); err != nil {
		return err
	}
	go announce(ctx, registry, out, began, cfg.Sample)
	select {
	case <-ctx.Done():
	case <-platform.Wait():
	}
	stopSignals() // a second Ctrl-C ends the process at once
	fmt.Fprintln(out, "stopping: requests in flight finish first")
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), base.DrainTimeout+30*time.Second)
	defer cancel()
	return platform.Stop(stop)
}

// dataDir makes the data directory and returns its absolute path.
func dataDir(setting string) (string, error) {
	dir, err := filepath.Abs(setting)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o711) //nolint:gosec // PostgreSQL and instances of other users pass through
}

// sampleIn deploys the sample function; that it was deployed is remembered in dir.
func sampleIn(dir string) fx.Option {
	return fx.Invoke(func(lc fx.Lifecycle, conn *bus.Conn, h *health.Registry, log *zap.Logger) {
		s := newSample(conn, log, dir)
		h.Add("sample function", s.check)
		lc.Append(fx.Hook{OnStart: s.start, OnStop: s.stop})
	})
}

// ground starts the two things that services stand on, side by side.
func ground(ctx context.Context, dir string, cfg upConfig, log *zap.Logger) (db *private.Server, nats *server.Server, err error) {
	var g errgroup.Group
	g.Go(func() (err error) {
		db, err = private.Start(ctx, private.Options{Dir: dir, Log: log})
		return err
	})
	g.Go(func() (err error) {
		o := bus.EmbeddedOptions{Dir: filepath.Join(dir, "nats"), Log: log}
		if cfg.NATSAddr != "" {
			if o.Host, o.Port, err = hostPort(cfg.NATSAddr); err != nil {
				return fmt.Errorf("SIROCCO_NATS_ADDR: %w", err)
			}
		}
		nats, err = bus.StartEmbedded(o)
		return err
	})
	if err := g.Wait(); err != nil {
		if nats != nil {
			nats.Shutdown()
		}
		if db != nil {
			err = errors.Join(err, db.Stop(context.WithoutCancel(ctx)))
		}
		return nil, nil, err
	}
	return db, nats, nil
}

func connectEmbedded(lc fx.Lifecycle, s *server.Server, h *health.Registry, log *zap.Logger) (*bus.Conn, error) {
	conn, err := bus.Connect(bus.Config{Embedded: s, Name: app.Instance("sirocco"), Log: log})
	if err != nil {
		return nil, err
	}
	h.Add("nats", conn.Check)
	lc.Append(fx.StopHook(conn.Close))
	return conn, nil
}

func openPrivate(lc fx.Lifecycle, db *private.Server, h *health.Registry) (*pgxpool.Pool, error) {
	pool, err := store.Open(context.Background(), db.URL(), store.Options{Application: "sirocco", MaxConns: poolSize})
	if err != nil {
		return nil, err
	}
	h.Add("postgres", func(ctx context.Context) error { return store.Ping(ctx, pool) })
	lc.Append(fx.StopHook(pool.Close))
	return pool, nil
}

// lockPatience is how long a start waits for the lock. A sirocco that was killed while it was starting a process leaves
// the lock to that process, which lets go of it as soon as it becomes its own program.
const lockPatience = 2 * time.Second

// lockDir makes sure that one process at a time works in a data directory.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("SIROCCO_DATA_DIR: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		select {
		case <-again.C:
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("another sirocco already runs in %s; stop it, or set SIROCCO_DATA_DIR to a directory of its own", dir)
		}
	}
	return func() { _ = f.Close() }, nil
}

// announce prints where the platform is once it is ready.
func announce(ctx context.Context, h *health.Registry, out io.Writer, began time.Time, sample bool) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, ready := h.Results(ctx); ready {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	cfg, err := app.Load[gateway.Config]()
	if err != nil {
		return
	}
	try := ""
	if sample {
		try = `         bin/sirocco function invoke sample-echo -d '{"message":"hello","repeats":1}'` + "\n"
	}
	fmt.Fprintf(out, `
Sirocco is ready after %s.

  HTTP   http://%s      gRPC   %s
  Next   bin/sirocco status
         bin/sirocco function list
%s
Ctrl-C stops it.
`, time.Since(began).Round(10*time.Millisecond), cfg.HTTPAddr, cfg.GRPCAddr, try)
}
