package testkit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/store/private"
)

const (
	serverVariable = "SIROCCO_TEST_POSTGRES_URL"
	testPrefix     = "sirocco_test_"
	templatePrefix = "sirocco_template_"
	// maxTemplates bounds what old versions of migrations leave on disk, about eight megabytes each.
	maxTemplates   = 24
	cleanupTimeout = 30 * time.Second
)

// Database returns a pool on a database of the test's own, in which store.Migrate has brought schema up to date. The
// migrations run once per version of them; every test gets a copy of the result. The pool's search path starts with schema;
// pool.Config().ConnString() is the address for those who want one.
func Database(t testing.TB, schema string, migrations fs.FS) *pgxpool.Pool {
	t.Helper()
	server := usePostgres(t)
	template, err := server.template(t.Context(), schema, migrations)
	require.NoError(t, err)
	address := server.create(t, template)
	pool, err := store.Open(t.Context(), address, store.Options{Application: "test", Schema: schema})
	require.NoError(t, err)
	t.Cleanup(func() {
		closed := make(chan struct{})
		go func() { pool.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(cleanupTimeout):
			t.Error("testkit: the test has not given back all connections of its pool")
		}
	})
	return pool
}

// DatabaseURL returns the address of an empty database of the test's own.
func DatabaseURL(t testing.TB) string {
	t.Helper()
	return usePostgres(t).create(t, "template0")
}

// postgres is the server that this test process uses.
type postgres struct {
	address *url.URL
	admin   *pgxpool.Pool
	version int
	// release gives up this process's share of the server.
	release func() error
}

var shared struct {
	sync.Mutex
	server *postgres
	err    error
}

// usePostgres finds the server on first use. A failure is remembered, so that a machine without PostgreSQL fails every test
// with the reason and only one attempt.
func usePostgres(t testing.TB) *postgres {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil && shared.err == nil {
		// The server outlives the test that happens to come first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
		defer cancel()
		shared.server, shared.err = connectPostgres(ctx)
	}
	require.NoError(t, shared.err)
	return shared.server
}

func releasePostgres() error {
	shared.Lock()
	defer shared.Unlock()
	server := shared.server
	if server == nil {
		return nil
	}
	shared.server = nil
	server.admin.Close()
	return server.release()
}

func connectPostgres(ctx context.Context) (_ *postgres, err error) {
	server := &postgres{release: func() error { return nil }}
	address := os.Getenv(serverVariable)
	first := false
	if address == "" {
		if address, first, server.release, err = sharePostgres(ctx); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, server.release())
		}
	}()
	if server.address, err = url.Parse(address); err != nil || server.address.Scheme == "" {
		return nil, fmt.Errorf("testkit: %s is not a URL", serverVariable)
	}
	if server.admin, err = store.Open(ctx, address, store.Options{Application: "testkit", MaxConns: 4}); err != nil {
		return nil, err
	}
	err = server.admin.QueryRow(ctx, `SELECT current_setting('server_version_num')::int / 10000`).Scan(&server.version)
	if err == nil && first {
		err = server.tidy(ctx)
	}
	if err != nil {
		server.admin.Close()
		return nil, fmt.Errorf("testkit: %w", err)
	}
	return server, nil
}

// sharePostgres starts or joins the one private server that all test processes of this user share. Each holds a shared
// lock, and the last to leave stops the server. A process that is killed loses its lock, so it keeps nobody from being last.
func sharePostgres(ctx context.Context) (address string, first bool, release func() error, err error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("sirocco-test-postgres-%d", os.Getuid()))
	// Not closed to others: where root cannot have a user namespace, another user runs the server. Its socket is closed.
	if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // see above
		return "", false, nil, err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", false, nil, err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || !ok || int(stat.Uid) != os.Getuid() {
		return "", false, nil, fmt.Errorf("testkit: %s is not ours; remove it or set TMPDIR", dir)
	}
	gate, err := flock(filepath.Join(dir, "gate.lock"), syscall.LOCK_EX)
	if err != nil {
		return "", false, nil, err
	}
	defer gate.Close()
	first = true
	users, err := flock(filepath.Join(dir, "users.lock"), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		first = false
		users, err = flock(filepath.Join(dir, "users.lock"), syscall.LOCK_SH)
	}
	if err != nil {
		return "", false, nil, err
	}
	server, err := private.Start(ctx, private.Options{Dir: dir, Settings: map[string]string{
		"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200",
	}})
	if err == nil && first {
		err = relock(users, syscall.LOCK_SH)
	}
	if err != nil {
		return "", false, nil, errors.Join(err, users.Close())
	}
	release = func() error {
		gate, err := flock(filepath.Join(dir, "gate.lock"), syscall.LOCK_EX)
		if err != nil {
			return err
		}
		defer gate.Close()
		defer users.Close()
		if err := relock(users, syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
			return nil
		} else if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		return server.Stop(ctx)
	}
	return server.URL(), first, release, nil
}

func flock(path string, how int) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := relock(file, how); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

func relock(file *os.File, how int) error {
	for {
		err := syscall.Flock(int(file.Fd()), how)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		return nil
	}
}

// tidy drops what killed test processes left, and the templates when too many versions have piled up. Only the first
// process of a private server may do so: nobody else uses it yet.
func (p *postgres) tidy(ctx context.Context) error {
	left, err := p.databases(ctx, testPrefix)
	if err != nil {
		return err
	}
	templates, err := p.databases(ctx, templatePrefix)
	if err != nil {
		return err
	}
	if len(templates) > maxTemplates {
		left = append(left, templates...)
	}
	for _, name := range left {
		if _, err := p.admin.Exec(ctx, `ALTER DATABASE `+name+` IS_TEMPLATE false`); err != nil {
			return err
		}
		if err := p.drop(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (p *postgres) databases(ctx context.Context, prefix string) ([]string, error) {
	rows, err := p.admin.Query(ctx, `SELECT datname FROM pg_database WHERE starts_with(datname, $1)`, prefix)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func (p *postgres) drop(ctx context.Context, name string) error {
	_, err := p.admin.Exec(ctx, `DROP DATABASE IF EXISTS `+name+` WITH (FORCE)`)
	return err
}

// template returns the name of a migrated database, which it makes unless it exists. The mark IS_TEMPLATE comes last and
// tells a whole one from one whose maker was killed.
func (p *postgres) template(ctx context.Context, schema string, migrations fs.FS) (string, error) {
	digest, err := store.Digest(schema, migrations)
	if err != nil {
		return "", err
	}
	name := templatePrefix + digest[:24]
	// The lock is the session's, so this connection must not go back to the pool before it is given up.
	conn, err := p.admin.Acquire(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(hashtextextended($1, 0))`, name); err != nil {
		return "", err
	}
	defer func() {
		_, _ = conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock(hashtextextended($1, 0))`, name)
	}()
	var whole bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)`, name).Scan(&whole)
	if err != nil || whole {
		return name, err
	}
	for _, statement := range []string{`DROP DATABASE IF EXISTS ` + name + ` WITH (FORCE)`, `CREATE DATABASE ` + name + ` TEMPLATE template0`} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return "", err
		}
	}
	pool, err := store.Open(ctx, p.url(name), store.Options{Application: "testkit"})
	if err != nil {
		return "", err
	}
	err = store.Migrate(ctx, pool, schema, migrations)
	pool.Close()
	if err != nil {
		return "", err
	}
	_, err = conn.Exec(ctx, `ALTER DATABASE `+name+` IS_TEMPLATE true`)
	return name, err
}

// create makes a database for one test and returns its address.
func (p *postgres) create(t testing.TB, template string) string {
	t.Helper()
	random := make([]byte, 8)
	_, err := rand.Read(random)
	require.NoError(t, err)
	name := testPrefix + hex.EncodeToString(random)
	statement := `CREATE DATABASE ` + name + ` TEMPLATE ` + template
	if p.version >= 15 && template != "template0" {
		// With fsync off, copying files beats writing every page to the log.
		statement += ` STRATEGY FILE_COPY`
	}
	_, err = p.admin.Exec(t.Context(), statement)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := p.drop(ctx, name); err != nil {
			t.Errorf("testkit: drop the test's database: %v", err)
		}
	})
	return p.url(name)
}

func (p *postgres) url(database string) string {
	address := *p.address
	address.Path = "/" + database
	return address.String()
}
