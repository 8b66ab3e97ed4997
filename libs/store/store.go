// Package store is the one door to PostgreSQL.
//
// Every service owns one schema of one database and reads nobody else's. Open gives it a bounded pool, Migrate brings its
// schema up to date, InTx runs a unit of work, and three small mechanisms keep state and messages consistent:
//
//   - the outbox: a row written in the transaction that changes the state, so that a fact and its event are stored together or not at all;
//   - the relay: one loop per schema that publishes outbox rows in order and deletes them once the broker has them;
//   - the inbox: a row written in the transaction that applies an event, so that an event delivered twice takes effect once.
//
// Together they turn at-least-once delivery into exactly-once effect without a distributed transaction.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	defaultMaxConns = 8
	connectTimeout  = 5 * time.Second
	// pingTimeout keeps a readiness probe quicker than the probers that give up after three to five seconds.
	pingTimeout = 2 * time.Second
	// idleInTransaction bounds how long a process that is stopped, or whose host is frozen, holds its locks: more than any
	// transaction waits for another service.
	idleInTransaction = time.Minute
)

// Options are the choices a service may make about its pool. The zero value is right for most.
type Options struct {
	// Application is what pg_stat_activity shows; by convention the service name.
	Application string
	// Schema, when set, comes first on the search path, so that queries may name their tables without it.
	Schema string
	// MaxConns bounds the pool. Zero means the URL's pool_max_conns or else 8.
	MaxConns int32
}

// Open returns a pool for the database at url. It does not connect, so a service can start before Postgres does; Ping tells
// whether the database answers. The caller closes the pool.
func Open(ctx context.Context, url string, opts Options) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("store: database URL: %w", err)
	}
	switch {
	case opts.MaxConns > 0:
		config.MaxConns = opts.MaxConns
	case !strings.Contains(url, "pool_max_conns"):
		config.MaxConns = defaultMaxConns
	}
	// A pool that connects ahead of need would log failures while Postgres is still starting.
	config.MinConns = 0
	config.MaxConnLifetimeJitter = config.MaxConnLifetime / 10
	conn := config.ConnConfig
	if conn.ConnectTimeout == 0 || conn.ConnectTimeout > connectTimeout {
		conn.ConnectTimeout = connectTimeout
	}
	conn.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	if _, chosen := conn.RuntimeParams["idle_in_transaction_session_timeout"]; !chosen {
		conn.RuntimeParams["idle_in_transaction_session_timeout"] = strconv.FormatInt(idleInTransaction.Milliseconds(), 10)
	}
	if opts.Application != "" {
		conn.RuntimeParams["application_name"] = opts.Application
	}
	if opts.Schema != "" {
		if err := checkSchema(opts.Schema); err != nil {
			return nil, err
		}
		conn.RuntimeParams["search_path"] = searchPath(opts.Schema)
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("store: open: %w", err)
	}
	return pool, nil
}

// Ping asks the database for a sign of life and waits two seconds at most. The error names the server that is waited for and
// why, never the password.
func Ping(ctx context.Context, pool *pgxpool.Pool) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := pool.Ping(ctx); err != nil {
		return fmt.Errorf("waiting for PostgreSQL at %s: %w", where(pool), err)
	}
	return nil
}

// where names a server and database for people, without user or password.
func where(pool *pgxpool.Pool) string {
	conn := pool.Config().ConnConfig
	if strings.HasPrefix(conn.Host, "/") {
		return conn.Host + ", database " + conn.Database
	}
	return net.JoinHostPort(conn.Host, strconv.Itoa(int(conn.Port))) + ", database " + conn.Database
}

var schemaName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

func checkSchema(schema string) error {
	if !schemaName.MatchString(schema) || strings.HasPrefix(schema, "pg_") {
		return fmt.Errorf("store: schema %q: want a lower-case letter, then letters, digits and underscores (63 at most), not pg_", schema)
	}
	return nil
}

// searchPath keeps public second, where extensions live.
func searchPath(schema string) string { return schema + ", public" }

func table(schema, name string) string { return pgx.Identifier{schema, name}.Sanitize() }

// IsNotFound tells whether err says that a query which had to return a row returned none.
func IsNotFound(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

// IsAway tells whether err says that the database cannot be reached, so that trying again later may help: no connection, one
// that broke, or a server that starts, stops or is full. A refused login is not among them, it needs a person.
func IsAway(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.HasPrefix(pg.Code, "08") ||
			hasCode(err, codeTooManyConnections, codeAdminShutdown, codeCrashShutdown, codeCannotConnectNow, codeIdleInTransaction, codeIdleSession)
	}
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) || pgconn.SafeToRetry(err) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
