package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store/private"
	"github.com/sirocco-cloud/sirocco/tools/stack"
)

// ground is the NATS and the PostgreSQL under separate services, which a test starts and stops.
type ground struct {
	t        *testing.T
	dir      string
	natsPort int
	nats     *server.Server
	postgres *private.Server
}

func (g *ground) startNATS() {
	g.t.Helper()
	var err error
	g.nats, err = bus.StartEmbedded(bus.EmbeddedOptions{Dir: filepath.Join(g.dir, "nats"), Host: "127.0.0.1", Port: g.natsPort, Log: zap.NewNop()})
	require.NoError(g.t, err)
}

func (g *ground) stopNATS() {
	if g.nats != nil {
		g.nats.Shutdown()
		g.nats.WaitForShutdown()
		g.nats = nil
	}
}

func (g *ground) startPostgres() {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	g.postgres, err = private.Start(ctx, private.Options{Dir: g.dir})
	require.NoError(g.t, err)
}

func (g *ground) stopPostgres() {
	g.t.Helper()
	if g.postgres != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(g.t, g.postgres.Stop(ctx))
		g.postgres = nil
	}
}

// services is a Sirocco of many processes, with two gateways and two invocation services.
type services struct {
	*stack.Stack
	*ground

	log    *logFile
	second string // URL of the second gateway
}

const secondGateway, secondInvocation = "gateway-2", "invocation-2"

// apart prepares the processes over a ground that is known but not there.
func apart(t *testing.T) *services {
	t.Helper()
	needBinaries(t)
	base, err := newDir()
	require.NoError(t, err)
	dir := filepath.Join(base, "data")
	require.NoError(t, os.Mkdir(dir, 0o755))
	log, err := openLog(base)
	require.NoError(t, err)
	port, err := stack.FreePort()
	require.NoError(t, err)
	g := &ground{t: t, dir: dir, natsPort: port}
	g.startPostgres() // makes the database, and tells where it will be
	url := g.postgres.URL()
	g.stopPostgres()

	s, err := stack.Separate(stack.Options{
		Bin: binDir, Dir: dir, Health: true, Log: log,
		Env: []string{"SIROCCO_GPUS=H100:8", "SIROCCO_DRIVERS=process", "SIROCCO_STOP_INSTANCES=true", "SIROCCO_LOG_FORMAT=json", "SIROCCO_START_TIMEOUT=20s"},
	}, fmt.Sprintf("nats://127.0.0.1:%d", port), url)
	require.NoError(t, err)
	http, err := stack.FreePort()
	require.NoError(t, err)
	grpc, err := stack.FreePort()
	require.NoError(t, err)
	second := fmt.Sprintf("127.0.0.1:%d", http)
	require.NoError(t, s.AddService(secondInvocation, "invocation"))
	require.NoError(t, s.AddService(secondGateway, "gateway", "SIROCCO_HTTP_ADDR="+second, fmt.Sprintf("SIROCCO_GRPC_ADDR=127.0.0.1:%d", grpc)))
	all := &services{Stack: s, ground: g, log: log, second: "http://" + second}
	t.Cleanup(func() {
		if t.Failed() {
			log.show(t)
		}
		require.NoError(t, s.Stop())
		g.stopNATS()
		g.stopPostgres()
		require.Empty(t, processesOf(dir), "processes after an orderly stop")
		require.NoError(t, log.check())
		require.NoError(t, os.RemoveAll(base))
	})
	return all
}

// ready is what /readyz?verbose of a process says.
func (s *services) ready(name string) (ready bool, text string) {
	u := user{url: s.Processes[name].Health}
	if u.url == "" {
		u.url = s.URL
	}
	a, err := u.try(context.Background(), "GET", "/readyz?verbose")
	if err != nil {
		return false, err.Error()
	}
	return a.status == 200, string(a.body)
}

// awaitReady waits until every process that runs is ready.
func (s *services) awaitReady(limit time.Duration) {
	s.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(s.Processes)) {
		soon(s.t, limit, name+" is ready", func() bool {
			ok, _ := s.ready(name)
			return ok
		}, func() string { _, text := s.ready(name); return text })
	}
}

// load calls a function all the time, and counts.
type load struct {
	answered, failed atomic.Int64
	mu               sync.Mutex
	last             string
	stop             func()
}

func (u user) load(v version, clients int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{}
	var running sync.WaitGroup
	l.stop = func() { cancel(); running.Wait() }
	for range clients {
		running.Go(func() {
			for ctx.Err() == nil {
				a, err := u.try(ctx, "POST", "/run", v.host(), body(run{1}), header("NVCF-POLL-SECONDS", "5"))
				switch {
				case ctx.Err() != nil:
				case err == nil && a.status == 200:
					l.answered.Add(1)
				default:
					l.failed.Add(1)
					l.mu.Lock()
					l.last = fmt.Sprint(err, " ", a)
					l.mu.Unlock()
				}
				pause(5 * time.Millisecond)
			}
		})
	}
	return l
}

// during counts what is answered and what fails while something happens, in all for at least half a second.
func (l *load) during(what func()) (answered, failed int64) {
	a, f := l.answered.Load(), l.failed.Load()
	what()
	pause(500 * time.Millisecond)
	return l.answered.Load() - a, l.failed.Load() - f
}

func (l *load) lastFailure() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// TestSeparate is the life of a platform of one process per service: it starts before its ground, loses each service
// and its ground in turn, and goes on serving what can be served.
func TestSeparate(t *testing.T) {
	s := apart(t)
	names := slices.Sorted(maps.Keys(s.Processes))
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		require.NoError(t, s.Processes[name].Start())
	}
	for _, name := range names {
		needs := []string{"nats"}
		if !slices.Contains([]string{"agent", "gateway", secondGateway}, name) {
			needs = append(needs, "postgres")
		}
		for _, need := range needs {
			soon(t, 10*time.Second, name+" says that it waits for "+need, func() bool {
				ok, text := s.ready(name)
				return !ok && strings.Contains(text, "[-] "+need)
			}, func() string { _, text := s.ready(name); return text })
		}
	}
	s.startPostgres()
	pause(300 * time.Millisecond)
	for _, name := range names {
		require.True(t, s.Processes[name].Running(), "%s waits and does not give up", name)
	}
	began := time.Now()
	s.startNATS()
	s.awaitReady(20 * time.Second)
	t.Logf("all ready %s after NATS came", time.Since(began).Round(10*time.Millisecond))

	admin := administrator(t, s.URL, s.dir)
	v := admin.create("apart")
	admin.deploy(v, scale{min: 2, max: 2, slots: 64})
	caller := admin.caller()
	caller.runs(v, 0)
	caller.through(s.second).runs(v, 0)
	pids := instancesOf(s.dir, v.id)
	require.Len(t, pids, 2)

	t.Run("poll through the other gateway", func(t *testing.T) {
		u := caller
		u.t = t
		a := u.call("POST", "/v2/nvcf/pexec/functions/"+v.function, header("NVCF-POLL-SECONDS", "1"), body(run{1800}))
		require.Equal(t, 202, a.status, a)
		a = u.through(s.second).call("GET", "/v2/nvcf/pexec/status/"+a.header.Get("NVCF-REQID"))
		require.Equal(t, 200, a.status, a)
	})
	for _, name := range []string{"gateway", "invocation", "deployments"} {
		t.Run("a detached request survives the end of "+name, func(t *testing.T) {
			u := caller
			u.t, s.t = t, t
			a := u.call("POST", "/v2/nvcf/pexec/functions/"+v.function, header("NVCF-POLL-SECONDS", "1"), body(run{2000}))
			require.Equal(t, 202, a.status, a)
			s.Processes[name].Kill()
			if name != "gateway" {
				require.NoError(t, s.Processes[name].Start())
			}
			a = u.through(s.second).call("GET", "/v2/nvcf/pexec/status/"+a.header.Get("NVCF-REQID"), header("NVCF-POLL-SECONDS", "60"))
			require.Equal(t, 200, a.status, a)
			if name == "gateway" {
				require.NoError(t, s.Processes[name].Start())
			}
			s.awaitReady(15 * time.Second)
		})
	}
	s.t = t
	t.Run("a detached request that its agent took with it", func(t *testing.T) {
		u := caller
		u.t, s.t = t, t
		a := u.call("POST", "/v2/nvcf/pexec/functions/"+v.function, header("NVCF-POLL-SECONDS", "1"), body(run{60_000})) // never done before the end
		require.Equal(t, 202, a.status, a)
		s.Processes["agent"].Kill()
		require.NoError(t, s.Processes["agent"].Start())
		a = u.through(s.second).call("GET", "/v2/nvcf/pexec/status/"+a.header.Get("NVCF-REQID"), header("NVCF-POLL-SECONDS", "60"))
		a.refused(504) // invocation §1.14: poll, worker gone
		s.awaitReady(15 * time.Second)
	})
	s.t = t
	t.Run("revocation in both gateways", func(t *testing.T) {
		a := admin
		a.t = t
		holder, ref := a.key([]string{"invoke_function"})
		holder.runs(v, 0)
		holder.through(s.second).runs(v, 0)
		a.revoke(ref)
		soon(t, propagation, "both refuse", func() bool {
			return holder.run(v, 0).status != 200 && holder.through(s.second).run(v, 0).status != 200
		})
	})
	for _, c := range []struct {
		name           string
		method, path   string
		request        asked
		hurtsInvoking  bool
		answeredByPeer bool
	}{
		{name: "keys", method: "GET", path: "/v1/keys"},
		{name: "functions", method: "GET", path: "/v2/nvcf/functions/ids"},
		{name: "deployments", method: "GET", path: v.deploymentPath()},
		{name: "cluster-inventory", method: "GET", path: "/v2/nvcf/clusterGroups"},
		{name: "ledger", method: "GET", path: "/v1/audit/events?limit=1"},
		{name: "tasks"},
		{name: "invocation", answeredByPeer: true, method: "GET", path: "/v2/nvcf/queues/functions/" + v.function},
		{name: "agent", hurtsInvoking: true},
	} {
		t.Run("kill "+c.name, func(t *testing.T) {
			u, a := caller, admin
			u.t, a.t = t, t
			s.t = t
			own := func() answer {
				who := a
				if c.name == "invocation" {
					who, _ = a.key([]string{"queue_details"})
				}
				return who.call(c.method, c.path, issuer("nobody@e2e.example"))
			}
			if c.path != "" {
				require.Equal(t, 200, own().status, "%s", own())
			}
			calls := u.load(v, 2)
			defer calls.stop()
			soon(t, 5*time.Second, "calls are answered", func() bool { return calls.answered.Load() > 0 })
			answered, failed := calls.during(func() {
				s.Processes[c.name].Kill()
				if c.path != "" && !c.answeredByPeer {
					var refusal answer
					soon(t, 3*time.Second, "refused at once, not after a time-out", func() bool {
						refusal = own()
						return refusal.status == 503 && refusal.took < 3*time.Second
					}, func() string { return refusal.took.String() + " " + refusal.String() })
					refusal.refused(503)
				}
			})
			if !c.hurtsInvoking {
				require.Zero(t, failed, "warm calls do not notice that %s is gone: %s", c.name, calls.lastFailure())
				require.Positive(t, answered)
			}
			require.Equal(t, pids, instancesOf(s.dir, v.id), "instances do not notice either")
			require.NoError(t, s.Processes[c.name].Start())
			s.awaitReady(15 * time.Second)
			if c.path != "" {
				require.Equal(t, 200, own().status)
			}
			soon(t, 5*time.Second, "calls are answered again", func() bool { return u.run(v, 0, header("NVCF-POLL-SECONDS", "1")).status == 200 })
			require.Contains(t, sortedValues(pids), u.runs(v, 0).PID)
			require.Equal(t, pids, instancesOf(s.dir, v.id))
		})
	}
	s.t = t
	t.Run("kill the first gateway", func(t *testing.T) {
		u := caller
		u.t = t
		s.Processes["gateway"].Kill()
		u.through(s.second).runs(v, 0)
		require.NoError(t, s.Processes["gateway"].Start())
		s.awaitReady(15 * time.Second)
		u.runs(v, 0)
	})
	t.Run("PostgreSQL restarts", func(t *testing.T) {
		u, a := caller, admin
		u.t, a.t = t, t
		calls := u.load(v, 2)
		defer calls.stop()
		answered, failed := calls.during(func() {
			s.stopPostgres()
			var refusal answer
			soon(t, 5*time.Second, "refused at once, not after a time-out", func() bool {
				refusal = a.call("GET", "/v2/nvcf/functions")
				return refusal.status == 503 && refusal.took < 5*time.Second
			}, func() string { return refusal.took.String() + " " + refusal.String() })
			refusal.refused(503)
			soon(t, 5*time.Second, "functions says that it waits for postgres", func() bool {
				ready, text := s.ready("functions")
				return !ready && strings.Contains(text, "[-] postgres")
			})
		})
		require.Zero(t, failed, "warm calls need no database: %s", calls.lastFailure())
		require.Positive(t, answered)
		s.startPostgres()
		s.awaitReady(15 * time.Second)
		a.remove(a.create("after-postgres"))
		require.Equal(t, pids, instancesOf(s.dir, v.id))
	})
	t.Run("NATS restarts", func(t *testing.T) {
		u, a := caller, admin
		u.t, a.t = t, t
		calls := u.load(v, 2)
		defer calls.stop()
		s.stopNATS()
		refusal := u.run(v, 0, header("NVCF-POLL-SECONDS", "1"))
		require.GreaterOrEqual(t, refusal.status, 500)
		t.Logf("without NATS a call is refused after %s: %s", refusal.took.Round(time.Millisecond), refusal.problem().Detail)
		soon(t, 3*time.Second, "a call without NATS is refused at once", func() bool {
			r := u.run(v, 0, header("NVCF-POLL-SECONDS", "30"))
			return r.status == 503 && r.took < time.Second
		})
		for _, name := range names {
			soon(t, 5*time.Second, name+" says that it waits for nats", func() bool {
				ok, text := s.ready(name)
				return !ok && strings.Contains(text, "[-] nats")
			}, func() string { _, text := s.ready(name); return text })
		}
		require.Equal(t, pids, instancesOf(s.dir, v.id), "instances go on")
		back := time.Now()
		s.startNATS()
		s.awaitReady(20 * time.Second)
		soon(t, 10*time.Second, "calls are answered again", func() bool { return u.run(v, 0, header("NVCF-POLL-SECONDS", "1")).status == 200 })
		t.Logf("all well %s after NATS came back", time.Since(back).Round(10*time.Millisecond))
		before := calls.answered.Load()
		soon(t, 5*time.Second, "those who called all the time are answered again", func() bool { return calls.answered.Load() > before+10 }, calls.lastFailure)
		w := a.create("after-nats")
		a.deploy(w, scale{min: 1})
		u.runs(w, 0)
		a.awaitStory(w, "version_created", "deployment_created", "instance_running", "version_status_changed DEPLOYING→ACTIVE")
		a.remove(w)
		require.Equal(t, pids, instancesOf(s.dir, v.id))
	})
	t.Run("a gateway stops in order", func(t *testing.T) {
		u, a := caller, admin
		u.t, a.t = t, t
		w := a.create("in-flight")
		a.deploy(w, scale{min: 1})
		slow := inFlight(u.through(s.second), w, 2500)
		require.NoError(t, s.Processes[secondGateway].Stop(20*time.Second))
		r := take(t, slow, 5*time.Second)
		require.NoError(t, r.err, "the request in flight is finished")
		require.Equal(t, 200, r.answer.status, r.answer)
		require.NoError(t, s.Processes[secondGateway].Start())
		s.awaitReady(15 * time.Second)
		a.remove(w)
	})
	var verdict struct {
		Intact bool `json:"intact"`
	}
	admin.must("POST", "/v1/audit/verify", &verdict, text("{}"))
	require.True(t, verdict.Intact)
}
