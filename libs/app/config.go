// Package app is the base every Sirocco process stands on: configuration from SIROCCO_* variables, logging, the
// connections to NATS and Postgres, health, and the life of a service from its migrations to its drain.
//
// One graph per process: a service's own main composes [Base] with that service's module, the all-in-one composes it
// with all modules, and nothing else differs.
package app

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// Config is what every process understands.
type Config struct {
	// NATSURL is where services meet when NATS runs as its own process.
	NATSURL string `env:"SIROCCO_NATS_URL" envDefault:"nats://127.0.0.1:4222"`
	// NATSReplicas of every stream; 3 on a NATS cluster.
	NATSReplicas int `env:"SIROCCO_NATS_REPLICAS" envDefault:"1"`
	// PostgresURL is a connection string; its password is never logged.
	PostgresURL string `env:"SIROCCO_POSTGRES_URL" envDefault:"postgres://sirocco:sirocco@127.0.0.1:5432/sirocco"`
	// HealthAddr serves /livez, /readyz and /metrics of a process that has no other HTTP door; empty for none.
	HealthAddr string `env:"SIROCCO_HEALTH_ADDR"`
	// ProfileAddr serves Go's profiles under /debug/pprof; empty, the default, serves none. Keep it on loopback.
	ProfileAddr string `env:"SIROCCO_PROFILE_ADDR"`
	// LogLevel is debug, info, warn or error.
	LogLevel string `env:"SIROCCO_LOG_LEVEL" envDefault:"info"`
	// LogFormat is json, console, or auto: console on a terminal.
	LogFormat string `env:"SIROCCO_LOG_FORMAT" envDefault:"auto"`
	// DrainTimeout bounds an orderly stop.
	DrainTimeout time.Duration `env:"SIROCCO_DRAIN_TIMEOUT" envDefault:"30s"`
}

// Load reads a configuration struct from the environment. An error names the variable and what would be accepted.
func Load[T any]() (T, error) {
	cfg, err := env.ParseAs[T]()
	if err != nil {
		return cfg, fmt.Errorf("configuration: %w", err)
	}
	return cfg, nil
}

// Instance names this process among its replicas.
func Instance(service string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return strings.ToLower(service + "@" + host)
}
