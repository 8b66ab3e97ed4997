//go:build unix

package private

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

const installHint = "install PostgreSQL (Debian, Ubuntu: apt install postgresql; Fedora: dnf install postgresql-server; " +
	"Homebrew: brew install postgresql@17), or set SIROCCO_POSTGRES_BIN to the directory that holds initdb, pg_ctl and postgres"

var programs = []string{"initdb", "pg_ctl", "postgres"}

// downloads are the releases that can be fetched, by major version.
var downloads = map[int]embeddedpostgres.PostgresVersion{
	13: embeddedpostgres.V13, 14: embeddedpostgres.V14, 15: embeddedpostgres.V15,
	16: embeddedpostgres.V16, 17: embeddedpostgres.V17, 18: embeddedpostgres.V18,
}

// newestDownload is the major version fetched for a new cluster.
const newestDownload = 17

// finder knows where PostgreSQL's programs may be.
type finder struct {
	// named is the operator's word, which beats everything.
	named string
	// path is a list like PATH.
	path string
	// patterns are the places where packages put one directory per major version.
	patterns []string
	// cache holds what was downloaded.
	cache string
	// mirror replaces the default place to download from.
	mirror string
}

func systemFinder(dir string) finder {
	cache := filepath.Join(dir, "postgres-binaries")
	if base, err := os.UserCacheDir(); err == nil {
		cache = filepath.Join(base, "sirocco", "postgres")
	}
	return finder{
		named: os.Getenv("SIROCCO_POSTGRES_BIN"),
		path:  os.Getenv("PATH"),
		patterns: []string{
			"/usr/lib/postgresql/*/bin",
			"/usr/pgsql-*/bin",
			"/usr/libexec/postgresql*",
			"/usr/local/pgsql/bin",
			"/usr/local/postgresql*/bin",
			"/opt/homebrew/opt/postgresql@*/bin",
			"/usr/local/opt/postgresql@*/bin",
			"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
		},
		cache:  cache,
		mirror: os.Getenv("SIROCCO_POSTGRES_MIRROR"),
	}
}

// binaries returns a directory with PostgreSQL's programs. A cluster can be served by its own major version only; zero means
// that there is no cluster yet and any version will do.
func (f finder) binaries(ctx context.Context, major int) (string, error) {
	if f.named != "" {
		if !complete(f.named) {
			return "", fmt.Errorf("SIROCCO_POSTGRES_BIN=%s lacks one of %s", f.named, strings.Join(programs, ", "))
		}
		return f.named, fits(ctx, f.named, major)
	}
	for _, bin := range f.installed() {
		if fits(ctx, bin, major) == nil {
			return bin, nil
		}
	}
	bin, err := f.download(ctx, major)
	if err == nil {
		return bin, nil
	}
	if major != 0 {
		return "", fmt.Errorf("the data was made by PostgreSQL %d, which is not installed and could not be downloaded (%w); %s", major, err, installHint)
	}
	return "", fmt.Errorf("PostgreSQL is not installed and could not be downloaded (%w); %s", err, installHint)
}

// installed lists complete directories: those of PATH first, then the packages' places, newest version first.
func (f finder) installed() []string {
	var found []string
	for _, dir := range filepath.SplitList(f.path) {
		// A link into a versioned directory finds the programs that the package did not link.
		if target, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres")); err == nil && filepath.IsAbs(target) {
			found = append(found, filepath.Dir(target))
		}
	}
	var packaged []string
	for _, pattern := range f.patterns {
		// The patterns are constants, and a bad one matches nothing.
		matches, _ := filepath.Glob(pattern)
		packaged = append(packaged, matches...)
	}
	slices.SortStableFunc(packaged, func(a, b string) int { return packagedVersion(b) - packagedVersion(a) })
	return slices.DeleteFunc(append(found, packaged...), func(dir string) bool { return !complete(dir) })
}

var number = regexp.MustCompile(`\d+`)

// versionIn is the first number in text, zero when there is none.
func versionIn(text string) int {
	version, _ := strconv.Atoi(number.FindString(text))
	return version
}

// packagedVersion is the number in the innermost folder that has one.
func packagedVersion(path string) int {
	for ; path != filepath.Dir(path); path = filepath.Dir(path) {
		if version := versionIn(filepath.Base(path)); version > 0 {
			return version
		}
	}
	return 0
}

func complete(dir string) bool {
	for _, program := range programs {
		if info, err := os.Stat(filepath.Join(dir, program)); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

// fits asks the program itself for its version. Releases before 13 cannot drop a database in use and are out of support.
func fits(ctx context.Context, bin string, major int) error {
	output, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return fmt.Errorf("%s/postgres --version: %w", bin, err)
	}
	version := versionIn(string(output))
	if version < 13 {
		return fmt.Errorf("%s holds PostgreSQL %d, want 13 or newer", bin, version)
	}
	if major != 0 && version != major {
		return fmt.Errorf("%s holds PostgreSQL %d, the data was made by %d", bin, version, major)
	}
	return nil
}

// clusterMajor is the major version that made the cluster, zero when there is none.
func clusterMajor(data string) int {
	text, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if err != nil {
		return 0
	}
	return versionIn(string(text))
}

// download fetches a release once and moves it to its place when it is whole.
func (f finder) download(ctx context.Context, major int) (string, error) {
	if major == 0 {
		major = newestDownload
	}
	version, ok := downloads[major]
	if !ok {
		return "", fmt.Errorf("no download of PostgreSQL %d", major)
	}
	place := filepath.Join(f.cache, string(version))
	if bin := filepath.Join(place, "bin"); complete(bin) {
		return bin, nil
	}
	if err := os.MkdirAll(f.cache, 0o755); err != nil { //nolint:gosec // public programs, which another user may have to run
		return "", err
	}
	fresh, err := os.MkdirTemp(f.cache, "fetch-*")
	if err != nil {
		return "", err
	}
	// The library takes no context. When ctx ends first its download is left to finish into a directory that it then clears.
	fetched := make(chan error, 1)
	go func() { fetched <- errors.Join(f.fetch(version, fresh, place), os.RemoveAll(fresh)) }()
	select {
	case err = <-fetched:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return "", err
	}
	return filepath.Join(place, "bin"), nil
}

// fetch uses the library for its knowledge of what to download for this machine. The library knows only how to start a
// server, so it is given a data directory that cannot be made, and stops after it has unpacked the programs.
func (f finder) fetch(version embeddedpostgres.PostgresVersion, fresh, place string) error {
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return err
	}
	free := listener.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // a TCP listener has a TCP address
	if err := listener.Close(); err != nil {
		return err
	}
	obstacle := filepath.Join(fresh, "no-data")
	if err := os.WriteFile(obstacle, nil, 0o600); err != nil {
		return err
	}
	unpacked := filepath.Join(fresh, "unpacked")
	config := embeddedpostgres.DefaultConfig().Version(version).Port(uint32(free)).
		CachePath(filepath.Join(fresh, "archive")).
		RuntimePath(filepath.Join(fresh, "runtime")).
		BinariesPath(unpacked).
		DataPath(filepath.Join(obstacle, "data")).
		Logger(io.Discard)
	if f.mirror != "" {
		config = config.BinaryRepositoryURL(f.mirror)
	}
	server := embeddedpostgres.NewDatabase(config)
	err = server.Start()
	if err == nil {
		err = server.Stop()
	}
	if !complete(filepath.Join(unpacked, "bin")) {
		return errors.Join(errors.New("download incomplete"), err)
	}
	if err := os.Chmod(unpacked, 0o755); err != nil { //nolint:gosec // public programs, which another user may have to run
		return err
	}
	// Another process may have been faster; then its copy is as good.
	if err := os.Rename(unpacked, place); err != nil && !complete(filepath.Join(place, "bin")) {
		return err
	}
	return nil
}
