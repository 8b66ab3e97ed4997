//go:build unix

package private

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// hostVariable makes the test binary a process that starts a server and waits to be killed.
const hostVariable = "PRIVATE_TEST_HOST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(hostVariable); dir != "" {
		server, err := Start(context.Background(), Options{Dir: dir})
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println(server.URL())
		select {}
	}
	code := m.Run()
	// On a busy machine goroutines that are about to end need longer than goleak waits by itself.
	left := goleak.Find()
	for give := time.Now().Add(startTimeout); left != nil && time.Now().Before(give); {
		left = goleak.Find()
	}
	if code == 0 && left != nil {
		fmt.Fprintln(os.Stderr, "goroutines left over:", left)
		code = 1
	}
	os.Exit(code)
}

func TestServerKeepsItsDataAcrossStopAndStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()

	begin := time.Now()
	server := startServer(t, dir)
	// Six and three seconds on two idle cores; the rest is for what else the machine does.
	require.Less(t, time.Since(begin), startTimeout, "first start")
	execute(t, server, `CREATE TABLE kept (n int)`, `INSERT INTO kept VALUES (42)`)
	address := server.URL()
	require.NoError(t, server.Stop(t.Context()))
	require.Error(t, connects(t, address))
	require.NoError(t, server.Stop(t.Context()), "stopping twice is no error")

	begin = time.Now()
	server = startServer(t, dir)
	require.Less(t, time.Since(begin), startTimeout, "next start")
	require.Equal(t, address, server.URL())
	require.Equal(t, 42, query[int](t, server, `SELECT n FROM kept`))
	require.Empty(t, query[string](t, server, `SHOW listen_addresses`))
	require.Equal(t, "on", query[string](t, server, `SHOW fsync`))
	require.Equal(t, "C", query[string](t, server, `SELECT datcollate FROM pg_database WHERE datname = current_database()`))
}

func TestServersRunSideBySide(t *testing.T) {
	t.Parallel()
	// Together with a long name the socket would not fit below the directory itself.
	one := startServer(t, filepath.Join(t.TempDir(), strings.Repeat("long", 30)))
	other := startServer(t, t.TempDir())
	require.NotEqual(t, one.URL(), other.URL())
	execute(t, one, `CREATE TABLE mine ()`)
	require.Equal(t, 0, query[int](t, other, `SELECT count(*) FROM pg_class WHERE relname = 'mine'`))

	info, err := os.Stat(one.socket)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm(), "nobody else may connect")
}

func TestServerIsAdoptedAfterItsStarterWasKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	host := exec.CommandContext(t.Context(), os.Args[0])
	host.Env = append(os.Environ(), hostVariable+"="+dir)
	output, err := host.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, host.Start())
	address, err := bufio.NewReader(output).ReadString('\n')
	require.NoError(t, err)
	address = strings.TrimSpace(address)

	conn, err := pgx.Connect(t.Context(), address)
	require.NoError(t, err, address)
	defer conn.Close(context.Background())
	require.NoError(t, host.Process.Kill())
	require.Error(t, host.Wait())

	server := startServer(t, dir)
	require.Equal(t, address, server.URL())
	require.NoError(t, conn.Ping(t.Context()), "the open connection survives, so the server was not restarted")

	require.NoError(t, server.Stop(t.Context()), "an adopted server can be stopped")
	require.Error(t, connects(t, address))
}

func TestServerRecoversFromKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := startServer(t, dir)
	execute(t, server, `CREATE TABLE kept (n int)`, `INSERT INTO kept VALUES (7)`)
	// A client's backend outlives the server for a moment, and holds its shared memory.
	conn, err := pgx.Connect(t.Context(), server.URL())
	require.NoError(t, err)
	defer conn.Close(context.Background())
	pid, _ := server.postmaster()
	require.NotZero(t, pid)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))

	server = startServer(t, dir)
	require.Equal(t, 7, query[int](t, server, `SELECT n FROM kept`))
}

func TestStalePidFileOfAStrangerDoesNotBlockTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := startServer(t, dir)
	require.NoError(t, server.Stop(t.Context()))
	// After a reboot the pid may be anybody's; here it is ours.
	stale := fmt.Sprintf("%d\n%s\n1\n5432\n%s\n\n0 0\nready\n", os.Getpid(), server.data, server.socket)
	require.NoError(t, os.WriteFile(filepath.Join(server.data, "postmaster.pid"), []byte(stale), 0o600))

	server = startServer(t, dir)
	require.Equal(t, 1, query[int](t, server, `SELECT 1`))
}

func TestServerOfAKilledStartIsAdoptedEvenWhenItShowsLate(t *testing.T) {
	dir := t.TempDir()
	running := startServer(t, dir)
	pid, _ := running.postmaster()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	bin, err := systemFinder(dir).binaries(ctx, clusterMajor(running.data))
	require.NoError(t, err)
	who, err := chooseIdentity(ctx, running.dir, running.data, bin)
	require.NoError(t, err)

	// As far as this start had looked, nobody ran.
	late := &Server{dir: running.dir, data: running.data, socket: running.socket, log: running.log}
	require.NoError(t, late.launch(ctx, bin, who))
	now, _ := late.postmaster()
	require.Equal(t, pid, now)
	require.NoError(t, connects(t, late.URL()))
}

func TestLostSocketCausesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := startServer(t, dir)
	require.NoError(t, os.RemoveAll(server.socket))

	server = startServer(t, dir)
	require.Equal(t, 1, query[int](t, server, `SELECT 1`))
}

func TestHalfMadeClusterIsThrownAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	half := filepath.Join(dir, "postgres.init-123")
	require.NoError(t, os.MkdirAll(filepath.Join(half, "base"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(half, "PG_VERSION"), []byte("15\n"), 0o600))

	server := startServer(t, dir)
	require.Equal(t, 1, query[int](t, server, `SELECT 1`))
	require.NoDirExists(t, half)
}

func TestConcurrentStartsShareOneServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pids := make(chan int, 3)
	errs := make(chan error, 3)
	for range 3 {
		go func() {
			server, err := Start(t.Context(), Options{Dir: dir})
			errs <- err
			if err == nil {
				pid, _ := server.postmaster()
				pids <- pid
			}
		}()
	}
	for range 3 {
		require.NoError(t, <-errs)
	}
	server := startServer(t, dir)
	pid, _ := server.postmaster()
	for range 3 {
		require.Equal(t, pid, <-pids)
	}
}

func TestRootRunsTheServerInADirectoryClosedToOthers(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root has to run the server as somebody else")
	}
	closed := t.TempDir()
	require.NoError(t, os.Chmod(closed, 0o700))
	requireNamespaces(t)
	server := startServer(t, filepath.Join(closed, "data"))
	require.Equal(t, 1, query[int](t, server, `SELECT 1`))
	requireOwner(t, server.data, 0)
	require.NoError(t, server.Stop(t.Context()))
	startServer(t, filepath.Join(closed, "data"))
}

func TestRootRunsTheServerAsAnotherUserWhereThatUserMayGo(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root has to run the server as somebody else")
	}
	uid, gid, err := lookup("postgres")
	if err != nil {
		uid, gid, err = lookup("nobody")
	}
	if err != nil {
		t.Skip("neither a user postgres nor a user nobody here")
	}
	open, err := os.MkdirTemp("", "sirocco-private-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(open)) })
	require.NoError(t, os.Chmod(open, 0o711))
	if !reachable(open, uid, gid) {
		t.Skip("the temporary directory is closed to other users")
	}
	server := startServer(t, open)
	requireOwner(t, server.data, uid)
	execute(t, server, `CREATE TABLE kept (n int)`)

	// Closing a directory later does not change whose cluster it is.
	require.NoError(t, server.Stop(t.Context()))
	server = startServer(t, open)
	requireOwner(t, server.data, uid)
	require.Equal(t, 0, query[int](t, server, `SELECT count(*) FROM kept`))
}

func TestAnyoneElseRunsTheServerAsThemselves(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("runs as a plain user only; as root, rerun the test binary through setpriv")
	}
	server := startServer(t, t.TempDir())
	requireOwner(t, server.data, os.Geteuid())
}

func TestSocketDirectoryOfAStrangerIsRefused(t *testing.T) {
	t.Parallel()
	who := identity{uid: os.Geteuid(), gid: os.Getegid()}
	path := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(t.TempDir(), path))
	require.ErrorContains(t, who.ownSocketDir(path), "is not ours")
}

func TestMissingBinariesSayWhatToInstall(t *testing.T) {
	t.Parallel()
	mirror := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(func() { mirror.Close(); http.DefaultTransport.(*http.Transport).CloseIdleConnections() })
	nothing := finder{path: t.TempDir(), cache: filepath.Join(t.TempDir(), "cache"), mirror: mirror.URL}

	_, err := start(t.Context(), Options{Dir: t.TempDir()}, nothing)
	for _, want := range []string{"apt install postgresql", "postgresql-server", "postgresql@17", "SIROCCO_POSTGRES_BIN"} {
		require.ErrorContains(t, err, want)
	}
	left, err := os.ReadDir(nothing.cache)
	require.NoError(t, err)
	require.Empty(t, left, "a failed download leaves nothing behind")

	named := finder{named: t.TempDir()}
	_, err = named.binaries(t.Context(), 0)
	require.ErrorContains(t, err, "lacks one of")
}

func TestBinariesFollowThePathThenTheNewestPackage(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, major := range []string{"9", "15", "17"} {
		bin := filepath.Join(root, major, "bin")
		require.NoError(t, os.MkdirAll(bin, 0o755))
		for _, program := range programs {
			script := "#!/bin/sh\necho 'postgres (PostgreSQL) " + major + ".3'\n"
			require.NoError(t, os.WriteFile(filepath.Join(bin, program), []byte(script), 0o755))
		}
	}
	linked := t.TempDir()
	require.NoError(t, os.Symlink(filepath.Join(root, "15", "bin", "postgres"), filepath.Join(linked, "postgres")))
	patterns := []string{filepath.Join(root, "*", "bin")}
	mirror := "http://127.0.0.1:1"

	cases := map[string]struct {
		path  string
		major int
		want  string
	}{
		"newest package":                   {want: "17"},
		"path first":                       {path: linked, want: "15"},
		"the cluster's version beats both": {path: linked, major: 17, want: "17"},
		"no program of that version":       {major: 16},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := finder{path: c.path, patterns: patterns, cache: t.TempDir(), mirror: mirror}
			bin, err := found.binaries(t.Context(), c.major)
			if c.want == "" {
				require.ErrorContains(t, err, "made by PostgreSQL "+strconv.Itoa(c.major))
				return
			}
			require.NoError(t, err)
			require.Equal(t, filepath.Join(root, c.want, "bin"), bin)
		})
	}
}

func startServer(t *testing.T, dir string) *Server {
	t.Helper()
	server, err := Start(t.Context(), Options{Dir: dir})
	require.NoError(t, err)
	pid, _ := server.postmaster()
	require.NotZero(t, pid)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		require.NoError(t, server.Stop(ctx))
		require.False(t, runsCluster(pid, server.data), "the server outlived its Stop")
	})
	return server
}

func connects(t *testing.T, address string) error {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		return err
	}
	return conn.Close(t.Context())
}

func execute(t *testing.T, server *Server, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.URL())
	require.NoError(t, err)
	defer conn.Close(context.Background())
	for _, statement := range statements {
		_, err = conn.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
}

func query[T any](t *testing.T, server *Server, text string) (value T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.URL())
	require.NoError(t, err)
	defer conn.Close(context.Background())
	require.NoError(t, conn.QueryRow(t.Context(), text).Scan(&value))
	return value
}

func requireOwner(t *testing.T, path string, uid int) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, uid, info.Sys().(*syscall.Stat_t).Uid)
}

func requireNamespaces(t *testing.T) {
	t.Helper()
	bin, err := systemFinder(t.TempDir()).binaries(t.Context(), 0)
	if err != nil {
		t.Skip("no PostgreSQL here:", err)
	}
	if _, err := namespaced(t.Context(), bin); err != nil {
		t.Skip("no user namespaces here:", err)
	}
}
