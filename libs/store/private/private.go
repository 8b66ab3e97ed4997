//go:build unix

// Package private runs a PostgreSQL server for one machine: the all-in-one form and the tests need a real database and
// nobody to administer it.
//
// The server belongs to a directory. Start finds or downloads the binaries, makes the cluster once, and starts the server,
// or adopts the one that already runs there because the process that started it was killed. The server is no child of that
// process: it lives in a session of its own, so that neither a terminal's Ctrl-C nor a crash of its user takes the data
// base down. It listens on a Unix socket only, in a directory that nobody else may enter.
//
//	Dir/postgres/        the cluster
//	Dir/postgres.log     the server's log, one older generation kept as postgres.log.1
//	Dir/postgres.lock    held while a process starts or stops the server
//	Dir/postgres.init-*  a cluster in the making; removed by the next Start when a crash left it behind
//
// PostgreSQL refuses to run as root. For root it runs as the user postgres or nobody where that user can reach the
// directory, and else as root in a user namespace in which root's id is another one. The owner of the cluster keeps the choice.
package private

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

const (
	superuser = "sirocco"
	dbname    = "sirocco"
	// port only names the socket file; nothing listens on TCP.
	port = "5432"
	// startTimeout bounds crash recovery when the caller's context has no deadline.
	startTimeout = 60 * time.Second
	// orphansTimeout is how long the children of a killed server may hold its shared memory.
	orphansTimeout = 5 * time.Second
	// maxSocketDir leaves room for "/.s.PGSQL.5432.lock" in the 103 bytes that the strictest system allows a socket path.
	maxSocketDir = 80
	maxLogBytes  = 10 << 20
)

// Options say where the server lives.
type Options struct {
	// Dir holds everything that must survive a restart. It is created when missing.
	Dir string
	// Log receives one line per start, adoption and stop. Nil means none.
	Log *zap.Logger
	// Settings override the server's configuration, for example fsync=off in tests.
	Settings map[string]string
}

// Server is a handle on a running server. Dropping the handle leaves the server running.
type Server struct {
	dir    string
	data   string
	socket string
	log    *zap.Logger
}

// settings are small and durable: a few services on one machine, data that survives kill -9 and power loss, and no standby
// servers for which the log would have to say more than recovery needs.
func settings(socket string) map[string]string {
	return map[string]string{
		"cluster_name":                    "sirocco",
		"listen_addresses":                "",
		"port":                            port,
		"unix_socket_directories":         socket,
		"unix_socket_permissions":         "0700",
		"max_connections":                 "60",
		"shared_buffers":                  "32MB",
		"huge_pages":                      "off",
		"wal_level":                       "minimal",
		"max_wal_senders":                 "0",
		"max_wal_size":                    "256MB",
		"fsync":                           "on",
		"synchronous_commit":              "on",
		"jit":                             "off",
		"max_parallel_workers_per_gather": "0",
		"autovacuum_max_workers":          "1",
		"autovacuum_naptime":              "5s", // tables here grow from nothing within seconds, and plans want to know
		"log_checkpoints":                 "off",
		"log_line_prefix":                 "%m [%p] ",
		"log_timezone":                    "UTC",
		"timezone":                        "UTC",
	}
}

// Start returns a handle on the server of opts.Dir, ready for connections. Processes that call it at once for one directory
// share one server.
func Start(ctx context.Context, opts Options) (*Server, error) {
	server, err := start(ctx, opts, systemFinder(opts.Dir))
	if err != nil {
		return nil, fmt.Errorf("private PostgreSQL in %s: %w", opts.Dir, err)
	}
	return server, nil
}

func start(ctx context.Context, opts Options, find finder) (*Server, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, startTimeout)
		defer cancel()
	}
	log := opts.Log
	if log == nil {
		log = zap.NewNop()
	}
	dir, err := ownDir(opts.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, data: filepath.Join(dir, "postgres"), socket: socketDir(dir), log: log}
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()

	if adopted, err := s.adopt(ctx); err != nil || adopted {
		return s, err
	}
	begin := time.Now()
	if err := s.removeLeftovers(); err != nil {
		return nil, err
	}
	bin, err := find.binaries(ctx, clusterMajor(s.data))
	if err != nil {
		return nil, err
	}
	who, err := chooseIdentity(ctx, dir, s.data, bin)
	if err != nil {
		return nil, err
	}
	made, err := s.initialise(ctx, bin, who, opts.Settings)
	if err != nil {
		return nil, err
	}
	if err := s.configure(who, opts.Settings); err != nil {
		return nil, err
	}
	if err := s.launch(ctx, bin, who); err != nil {
		return nil, err
	}
	if err := s.createDatabase(ctx); err != nil {
		return nil, err
	}
	log.Info("private PostgreSQL started", zap.String("dir", dir), zap.String("binaries", bin), zap.Bool("new", made),
		zap.String("runs_as", who.name), zap.Duration("took", time.Since(begin)))
	return s, nil
}

// URL is where to connect. It holds no secret: the socket's directory is closed to others.
func (s *Server) URL() string { return s.url(dbname) }

func (s *Server) url(database string) string {
	query := url.Values{"host": {s.socket}, "port": {port}}
	return (&url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + database, RawQuery: query.Encode()}).String()
}

// Stop shuts the server down, open connections included, and waits for its end; an adopted server too. When ctx ends first
// the server is told to quit at once, which costs the next start a recovery but no data.
func (s *Server) Stop(ctx context.Context) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return fmt.Errorf("stop private PostgreSQL in %s: %w", s.dir, err)
	}
	defer unlock()
	if err := s.stop(ctx); err != nil {
		return fmt.Errorf("stop private PostgreSQL in %s: %w", s.dir, err)
	}
	// Best effort: an empty directory in the temporary directory harms nobody.
	_ = os.Remove(s.socket)
	s.log.Info("private PostgreSQL stopped", zap.String("dir", s.dir))
	return nil
}

// ownDir makes dir and returns the one name for it from which socket and lock derive, whichever way the caller came.
func ownDir(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("no directory given")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}

func socketDir(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	name := "sirocco-" + hex.EncodeToString(sum[:6])
	if path := filepath.Join(os.TempDir(), name); len(path) <= maxSocketDir {
		return path
	}
	return filepath.Join("/tmp", name)
}

// lock keeps two processes from starting or stopping one server at once. The kernel drops it when its holder dies.
func (s *Server) lock(ctx context.Context) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(s.dir, "postgres.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = poll(ctx, func() (bool, error) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for another process that starts or stops it: %w", err), file.Close())
	}
	return func() { _ = file.Close() }, nil
}

// adopt takes over a server that runs already. One that runs but cannot be reached, say because a cleaner of temporary files
// took its socket, is stopped instead.
func (s *Server) adopt(ctx context.Context) (bool, error) {
	pid, socket := s.postmaster()
	if pid == 0 {
		return false, nil
	}
	// The address is the one it was started with, whatever TMPDIR says today.
	here := s.socket
	if socket != "" {
		s.socket = socket
	}
	probe, cancel := context.WithTimeout(ctx, startTimeout/4)
	defer cancel()
	err := poll(probe, func() (bool, error) {
		if now, _ := s.postmaster(); now == 0 {
			return false, errors.New("it ended")
		}
		if _, err := os.Stat(filepath.Join(s.socket, ".s.PGSQL."+port)); err != nil && s.reportsReady() {
			return false, errors.New("its socket is gone")
		}
		return s.createDatabase(probe) == nil, nil
	})
	if err == nil {
		s.log.Info("private PostgreSQL adopted", zap.String("dir", s.dir), zap.Int("pid", pid))
		return true, nil
	}
	if ctx.Err() != nil {
		return false, fmt.Errorf("a server runs (pid %d) but does not answer: %w", pid, ctx.Err())
	}
	s.log.Warn("private PostgreSQL runs but cannot be reached, restarting it", zap.String("dir", s.dir), zap.Int("pid", pid), zap.Error(err))
	s.socket = here
	return false, s.stop(ctx)
}

// removeLeftovers clears what a crash left: half a cluster, and the lock files of a dead server, which would keep the next one
// from starting where the pid in them is a zombie's or has been given to another process. What keeps it from starting beside
// the dead server's children is not the lock files but the shared memory, which PostgreSQL finds by the cluster's inode.
func (s *Server) removeLeftovers() error {
	half, err := filepath.Glob(filepath.Join(globQuote(s.dir), "postgres.init-*"))
	if err != nil {
		return err
	}
	for _, path := range half {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	for _, path := range []string{filepath.Join(s.data, "postmaster.pid"), filepath.Join(s.socket, ".s.PGSQL."+port+".lock")} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// globQuote keeps a directory's name from being read as a pattern.
func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// initialise makes the cluster in a directory beside its place and moves it there when it is whole.
func (s *Server) initialise(ctx context.Context, bin string, who identity, override map[string]string) (made bool, err error) {
	switch _, err := os.Stat(filepath.Join(s.data, "PG_VERSION")); {
	case err == nil:
		return false, nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	if entries, err := os.ReadDir(s.data); err == nil && len(entries) > 0 {
		return false, fmt.Errorf("%s holds files but no cluster; move it away", s.data)
	}
	fresh, err := os.MkdirTemp(s.dir, "postgres.init-*")
	if err != nil {
		return false, err
	}
	defer func() {
		if !made {
			err = errors.Join(err, os.RemoveAll(fresh))
		}
	}()
	if err := who.own(fresh); err != nil {
		return false, err
	}
	// Syncing once at the end costs a fraction of syncing along the way.
	steps := [][]string{{"--username=" + superuser, "--locale=C", "--encoding=UTF8", "--auth-local=trust", "--auth-host=reject", "--no-sync", "--no-instructions"}}
	if override["fsync"] != "off" {
		steps = append(steps, []string{"--sync-only"})
	}
	for _, arguments := range steps {
		command := who.command(ctx, filepath.Join(bin, "initdb"), append(arguments, "--pgdata="+fresh)...)
		if output, err := command.CombinedOutput(); err != nil {
			return false, fmt.Errorf("initdb: %w: %s", err, lastLines(string(output)))
		}
	}
	base := filepath.Join(fresh, "postgresql.conf")
	file, err := os.OpenFile(base, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return false, err
	}
	_, err = io.WriteString(file, "\ninclude 'sirocco.conf'\n")
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return false, err
	}
	if err := os.Remove(s.data); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, os.Rename(fresh, s.data)
}

// configure writes the settings anew, so that a new release's settings reach old clusters, and prepares socket and log.
func (s *Server) configure(who identity, override map[string]string) error {
	all := settings(s.socket)
	maps.Copy(all, override)
	var text strings.Builder
	text.WriteString("# Written at every start; changes made here are lost.\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "%s = '%s'\n", name, strings.ReplaceAll(all[name], "'", "''"))
	}
	path := filepath.Join(s.data, "sirocco.conf")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		return err
	}
	if err := who.own(path); err != nil {
		return err
	}
	if err := who.ownSocketDir(s.socket); err != nil {
		return err
	}
	if info, err := os.Stat(s.logPath()); err == nil && info.Size() > maxLogBytes {
		if err := os.Rename(s.logPath(), s.logPath()+".1"); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(file.Close(), who.own(s.logPath()))
}

func (s *Server) logPath() string { return filepath.Join(s.dir, "postgres.log") }

// pidFileTaken is what a server says that finds another one in its directory.
const pidFileTaken = `lock file "postmaster.pid" already exists`

// launch starts the server and waits until it is ready. pg_ctl puts it in a session of its own and tells its early death
// from slowness. A server that somebody else has started meanwhile is adopted.
func (s *Server) launch(ctx context.Context, bin string, who identity) error {
	deadline, _ := ctx.Deadline()
	seconds := max(int(time.Until(deadline).Seconds()), 1)
	orphans := time.Now().Add(orphansTimeout)
	for {
		before := s.logSize()
		command := who.command(ctx, filepath.Join(bin, "pg_ctl"), "start", "--wait", "--silent",
			fmt.Sprintf("--timeout=%d", seconds), "--pgdata="+s.data, "--log="+s.logPath())
		output, err := command.CombinedOutput()
		if err == nil {
			return nil
		}
		tail := s.logSince(before)
		// The children of a server that was killed end by themselves, a moment after it.
		if strings.Contains(tail, "shared memory block") && time.Now().Before(orphans) && pause(ctx) == nil {
			continue
		}
		// A start that was killed may have left a server on its way, which shows its pid file only now.
		if strings.Contains(tail, pidFileTaken) && time.Now().Before(orphans) {
			adopted, err := s.adopt(ctx)
			if err != nil || adopted {
				return err
			}
			continue
		}
		return fmt.Errorf("server did not start: %w: %s%s (log: %s)", err, lastLines(string(output)), lastLines(tail), s.logPath())
	}
}

func (s *Server) logSize() int64 {
	info, err := os.Stat(s.logPath())
	if err != nil {
		return 0
	}
	return info.Size()
}

func (s *Server) logSince(offset int64) string {
	file, err := os.Open(s.logPath())
	if err != nil {
		return ""
	}
	defer file.Close()
	text, _ := io.ReadAll(io.NewSectionReader(file, offset, 64<<10))
	return string(text)
}

// lastLines shortens a program's output to what says why it failed.
func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "; ")
}

// createDatabase makes the database that URL names, on the first start. Its success also proves that the server answers.
func (s *Server) createDatabase(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var there bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, dbname).Scan(&there); err != nil || there {
		return err
	}
	_, err = conn.Exec(ctx, `CREATE DATABASE `+dbname)
	return err
}

func (s *Server) stop(ctx context.Context) error {
	pid, _ := s.postmaster()
	if pid == 0 {
		return nil
	}
	// SIGINT is PostgreSQL's fast shutdown: roll back, checkpoint, exit.
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	// The process itself counts: it removes its pid file a moment before it ends.
	gone := func() (bool, error) { return !alive(pid) || !runsCluster(pid, s.data), nil }
	err := poll(ctx, gone)
	if err == nil {
		return nil
	}
	_ = syscall.Kill(pid, syscall.SIGQUIT)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), orphansTimeout)
	defer cancel()
	if poll(last, gone) == nil {
		return fmt.Errorf("no orderly shutdown in time, made it quit: %w", err)
	}
	return fmt.Errorf("pid %d does not end: %w", pid, err)
}

// poll asks until done; files and processes of others give no signal to wait on.
func poll(ctx context.Context, done func() (bool, error)) error {
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context) error {
	timer := time.NewTimer(20 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// environment is what the server's programs get: messages in English, and none of the PG* variables that would redirect them.
func environment() []string {
	kept := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "PG") || strings.HasPrefix(entry, "LC_") || strings.HasPrefix(entry, "LANG") || strings.HasPrefix(entry, "SIROCCO_")
	})
	return append(kept, "LC_ALL=C")
}
