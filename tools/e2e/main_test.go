package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sirocco-cloud/sirocco/tools/stack"
)

// binDir is the folder of the binaries; empty skips every test.
var binDir = os.Getenv("SIROCCO_BIN")

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == containerRole {
		os.Exit(runContainer(os.Args[2:]))
	}
	code := m.Run()
	if p := shared.platform; p != nil {
		if err := p.close(); err != nil {
			fmt.Fprintln(os.Stderr, "shared platform:", err)
			code = 1
		}
	}
	if d, err := document(); err != nil || d.verdict() != nil {
		fmt.Fprintln(os.Stderr, cmp.Or(err, d.verdict()))
		code = 1
	}
	client.CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// needBinaries skips a test that has no platform to drive.
func needBinaries(t *testing.T) {
	t.Helper()
	if binDir == "" {
		t.Skip("SIROCCO_BIN names no folder of binaries; make e2e builds them and sets it")
	}
}

// newDir makes a directory for a platform's data. t.TempDir would be closed to the user that runs PostgreSQL, and its
// path would be long.
func newDir() (string, error) {
	dir, err := os.MkdirTemp("", "sirocco-e2e-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// platform is an all-in-one Sirocco with what a test wants to know about it.
type platform struct {
	*stack.Stack

	log *logFile
}

// newPlatform prepares sirocco up over a new directory; nothing runs yet.
func newPlatform(args []string, env ...string) (*platform, error) {
	dir, err := newDir()
	if err != nil {
		return nil, err
	}
	log, err := openLog(dir)
	if err != nil {
		return nil, err
	}
	s, err := stack.AllInOne(stack.Options{
		Bin: binDir, Dir: filepath.Join(dir, "data"), Args: args, Log: log,
		Env: append([]string{"SIROCCO_GPUS=H100:16", "SIROCCO_DRIVERS=process", "SIROCCO_START_TIMEOUT=15s", "SIROCCO_LOG_FORMAT=json"}, env...),
	})
	if err != nil {
		return nil, err
	}
	return &platform{Stack: s, log: log}, nil
}

// up starts a platform of the test's own and stops it at its end.
func up(t *testing.T, args []string, env ...string) *platform {
	t.Helper()
	needBinaries(t)
	p, err := newPlatform(args, env...)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			p.log.show(t)
		}
		require.NoError(t, p.close())
	})
	p.start(t)
	return p
}

// start runs the platform until it is ready.
func (p *platform) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	require.NoError(t, p.Start(ctx))
}

// stop is SIGTERM; nothing of the platform may be left.
func (p *platform) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, p.Stop())
}

// close stops the platform, looks for what it should not have left behind, and removes its directory.
func (p *platform) close() error {
	if err := p.Stop(); err != nil {
		return err
	}
	if left := processesOf(p.Dir); len(left) > 0 {
		return fmt.Errorf("processes are left after an orderly stop: %s", strings.Join(left, "; "))
	}
	if err := p.log.check(); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Dir(p.Dir))
}

// shared is the platform of every test that leaves it as it was.
var shared struct {
	once     sync.Once
	platform *platform
	err      error
}

// common returns the shared platform, which the first test to ask for it starts.
func common(t *testing.T) *platform {
	t.Helper()
	needBinaries(t)
	shared.once.Do(func() {
		p, err := newPlatform([]string{"--no-sample"}, "SIROCCO_ADMIN_USER="+firstAdmin, "SIROCCO_ADMIN_PASSWORD="+firstPassword)
		if err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			err = p.Start(ctx)
			shared.platform = p
		}
		shared.err = err
	})
	require.NoError(t, shared.err)
	t.Cleanup(func() {
		if t.Failed() {
			shared.platform.log.show(t)
		}
	})
	return shared.platform
}

// logFile is what the processes of a platform write.
type logFile struct {
	mu   sync.Mutex
	file *os.File
}

func openLog(dir string) (*logFile, error) {
	f, err := os.Create(filepath.Join(dir, "log"))
	return &logFile{file: f}, err
}

// Write implements [io.Writer].
func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Write(b)
}

func (l *logFile) read() []byte {
	b, err := os.ReadFile(l.file.Name())
	if err != nil {
		return []byte(err.Error())
	}
	return b
}

// show prints the last lines that are no information but trouble.
func (l *logFile) show(t *testing.T) {
	t.Helper()
	var lines []string
	scan := bufio.NewScanner(bytes.NewReader(l.read()))
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		if !strings.Contains(scan.Text(), `"level":"info"`) {
			lines = append(lines, scan.Text())
		}
	}
	t.Logf("the platform's last warnings:\n%s", strings.Join(lines[max(0, len(lines)-30):], "\n"))
}

// check looks for what must never be in a log: a panic, or the value of a credential that a test was given.
func (l *logFile) check() error {
	text := l.read()
	defer l.file.Close()
	for _, trouble := range []string{"panic:", "goroutine 1 [", "DATA RACE"} {
		if n := bytes.Index(text, []byte(trouble)); n >= 0 {
			return fmt.Errorf("the log holds %q: %s", trouble, text[n:min(len(text), n+2000)])
		}
	}
	secrets.Lock()
	defer secrets.Unlock()
	for _, value := range secrets.values {
		if bytes.Contains(text, []byte(value)) {
			return fmt.Errorf("the log holds a secret that begins with %.12s", value)
		}
	}
	return nil
}

// secrets are all credentials and secret values that tests were given or made.
var secrets struct {
	sync.Mutex

	values []string
}

func remember(secret string) string {
	secrets.Lock()
	defer secrets.Unlock()
	if secret != "" {
		secrets.values = append(secrets.values, secret)
	}
	return secret
}

// slack is how much later than on an idle machine a thing may be: a machine that runs tests does other things too, and
// what is broken does not come at all.
const slack = 10

// lenient is the limit at which something is grossly late.
func lenient(limit time.Duration) time.Duration { return max(limit, min(slack*limit, 2*time.Minute)) }

// soon waits for something that another process brings about, and tells when that takes longer than it should. why is
// asked only when it does not happen.
func soon(t *testing.T, limit time.Duration, what string, is func() bool, why ...func() string) {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	defer func() {
		if took := time.Since(began); took > limit {
			t.Logf("%s: after %s, which should be less than %s", what, took.Round(time.Millisecond), limit)
		}
	}()
	for !is() {
		if time.Since(began) > lenient(limit) {
			text := what + ": not within " + lenient(limit).String()
			for _, w := range why {
				text += "\n" + w()
			}
			require.Fail(t, text)
		}
		<-tick.C
	}
}

// pause lets time pass where the passing of time is the subject of a test.
func pause(d time.Duration) { <-time.After(d) }

// client makes every call of the tests. It adds no header of its own and follows no redirect.
var client = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

var _ io.Writer = (*logFile)(nil)
