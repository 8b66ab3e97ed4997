package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// kills is how often TestKill9 kills the platform.
const kills = 20

// claims are what the platform has acknowledged, and what it was asked without an answer.
type claims struct {
	mu        sync.Mutex
	functions map[version]bool
	keys      []string
	// deployed versions run, idle ones do not; unsettled ones were being changed when the platform died.
	deployed, idle, unsettled map[version]bool
	// created and called count what happened, so that a test that did nothing is noticed.
	called int
}

// TestKill9 kills the whole platform in the middle of creates, deploys and invocations, and asserts after each restart
// that everything acknowledged is there, that instances are the same processes as before, and that none is left over or
// doubled. Every fourth time PostgreSQL is killed with it, every fifth time it dies again while it starts.
func TestKill9(t *testing.T) {
	p := up(t, []string{"--no-sample"}, "SIROCCO_START_TIMEOUT=60s", "SIROCCO_GPUS=H100:32")
	admin := p.administrator(t)
	caller := admin.caller()
	// Two versions that nobody touches: their processes must live through everything.
	one, two := admin.create("anchor-one"), admin.create("anchor-two")
	admin.deploy(one, scale{min: 1})
	admin.deploy(two, scale{min: 2, max: 2})
	anchors := map[version]map[string]int{one: p.instances(one), two: p.instances(two)}
	require.Len(t, anchors[two], 2)
	c := &claims{functions: map[version]bool{}, deployed: map[version]bool{}, idle: map[version]bool{}, unsettled: map[version]bool{}}
	c.functions[one], c.functions[two] = true, true
	admin.image("e2e/crash:1", healthy)

	var slowest time.Duration
	for n := range kills {
		c.work(admin, caller, []version{one, two}, func() {
			pause(time.Duration(150+rand.IntN(500)) * time.Millisecond)
			p.Processes["sirocco"].Kill()
			if n%4 == 3 {
				killPostgres(t, p)
			}
		})
		if n%5 == 2 { // and once more while it starts
			require.NoError(t, p.Processes["sirocco"].Start())
			pause(time.Duration(rand.IntN(900)) * time.Millisecond)
			p.Processes["sirocco"].Kill()
		}
		began := time.Now()
		p.start(t)
		slowest = max(slowest, time.Since(began))
		for v, pids := range anchors {
			require.Contains(t, sortedValues(pids), caller.runs(v, 0).PID, "kill %d: the instance that answers is one from before", n)
			require.Equal(t, pids, p.instances(v), "kill %d: instances are untouched", n)
		}
		c.check(t, p, admin, caller, n)
	}
	t.Logf("%d kills; %d functions, %d keys acknowledged, %d calls answered; slowest start %s",
		kills, len(c.functions), len(c.keys), c.called, slowest.Round(10*time.Millisecond))
	require.Greater(t, len(c.functions), kills/4)
	require.Greater(t, c.called, kills/4)

	var verdict struct {
		Checked int  `json:"checked"`
		Intact  bool `json:"intact"`
	}
	admin.must("POST", "/v1/audit/verify", &verdict, text("{}"))
	require.True(t, verdict.Intact)
	created := map[string]int{}
	soon(t, 10*time.Second, "the record of events holds every creation", func() bool {
		seen := map[string]bool{}
		clear(created)
		for _, e := range admin.events("domain=functions") {
			require.False(t, seen[e.Event.ID], "event %s is recorded twice", e.Event.ID)
			seen[e.Event.ID] = true
			if strings.Contains(e.Event.Type, "version_created") {
				created[e.Event.VersionID]++
			}
		}
		for v := range c.functions {
			if created[v.id] == 0 {
				return false
			}
		}
		return true
	})
	for v := range c.functions {
		require.Equal(t, 1, created[v.id], "the record of events holds the creation of %s once", v.id)
	}
}

// killPostgres is kill -9 of the private server, whose backends notice by themselves.
func killPostgres(t *testing.T, p *platform) {
	t.Helper()
	for _, proc := range scan(p.Dir) {
		if strings.Contains(proc.line, "postgres -D") {
			kill(t, proc.pid)
		}
	}
}

// work lets clients do things until during has killed the platform.
func (c *claims) work(admin, caller user, anchors []version, during func()) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var clients sync.WaitGroup
	for _, step := range []func(context.Context) bool{
		func(ctx context.Context) bool { return c.create(ctx, admin) },
		func(ctx context.Context) bool { return c.mint(ctx, admin) },
		func(ctx context.Context) bool { return c.change(ctx, admin) },
		func(ctx context.Context) bool { return c.invoke(ctx, caller, anchors) },
		func(ctx context.Context) bool { return c.invoke(ctx, caller, anchors) },
	} {
		clients.Go(func() {
			for ctx.Err() == nil && step(ctx) {
				pause(5 * time.Millisecond)
			}
		})
	}
	during()
	cancel()
	clients.Wait()
}

// create makes a function; every step ends its client when the platform is gone.
func (c *claims) create(ctx context.Context, admin user) bool {
	a, err := admin.try(ctx, "POST", "/v2/nvcf/functions", body(functionBody("crash", "e2e/crash:1")))
	if err != nil || a.status != 200 {
		return false
	}
	var made struct {
		Function details `json:"function"`
	}
	a.into(&made)
	c.mu.Lock()
	defer c.mu.Unlock()
	v := version{made.Function.ID, made.Function.VersionID}
	c.functions[v], c.idle[v] = true, true
	return true
}

func (c *claims) mint(ctx context.Context, admin user) bool {
	a, err := admin.with("").try(ctx, "POST", "/v1/keys", body(keyBody([]string{"list_functions"}, everyFunction)), issuer(nextOwner()))
	if err != nil || a.status != 200 {
		return false
	}
	var made struct {
		Value string `json:"value"`
	}
	a.into(&made)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys = append(c.keys, remember(made.Value))
	return true
}

// most is how many versions are deployed at a time, besides the anchors.
const most = 4

// change deploys an idle version or undeploys a deployed one.
func (c *claims) change(ctx context.Context, admin user) bool {
	c.mu.Lock()
	from, to, method, how := c.idle, c.deployed, "POST", scale{min: 1}.request()
	if len(c.deployed) >= most || len(c.idle) == 0 || len(c.deployed) > 0 && rand.IntN(3) == 0 {
		from, to, method, how = c.deployed, c.idle, "DELETE", func(*http.Request) {}
	}
	var v version
	for v = range from {
		break
	}
	if v.id == "" {
		c.mu.Unlock()
		return true
	}
	delete(from, v)
	c.unsettled[v] = true
	c.mu.Unlock()
	a, err := admin.try(ctx, method, v.deploymentPath(), how)
	if err != nil || a.status >= 500 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.status == 200 {
		delete(c.unsettled, v)
		to[v] = true
	}
	return true
}

func (c *claims) invoke(ctx context.Context, caller user, targets []version) bool {
	v := targets[rand.IntN(len(targets))]
	a, err := caller.try(ctx, "POST", "/run", v.host(), body(run{rand.IntN(40)}))
	if err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.status == 200 {
		c.called++
	}
	return a.status == 200
}

// check compares what the platform says and runs with what it has acknowledged.
func (c *claims) check(t *testing.T, p *platform, admin, caller user, n int) {
	t.Helper()
	var list struct {
		Functions []details `json:"functions"`
	}
	admin.must("GET", "/v2/nvcf/functions", &list)
	have := map[version]bool{}
	for _, f := range list.Functions {
		have[version{f.ID, f.VersionID}] = true
	}
	for v := range c.functions {
		require.True(t, have[v], "kill %d: acknowledged function %v is there", n, v)
	}
	for _, k := range lastOf(c.keys, 12) {
		require.Equal(t, 200, admin.with(k).call("GET", "/v2/nvcf/functions/ids").status, "kill %d: an acknowledged key opens", n)
	}
	for v := range c.unsettled {
		// It was asked without an answer: either outcome is right, but it must be one of the two.
		status := ""
		soon(t, 15*time.Second, "the version settles", func() bool {
			status = admin.look(v).Status
			return status == "ACTIVE" || status == "INACTIVE"
		}, func() string { return status + " " + admin.call("GET", v.deploymentPath()).String() })
		delete(c.unsettled, v)
		if status == "ACTIVE" {
			c.deployed[v] = true
		} else {
			c.idle[v] = true
		}
	}
	for v := range c.deployed {
		admin.awaitStatus(v, "ACTIVE", 15*time.Second)
		admin.awaitInstances(v, 1, 10*time.Second)
		caller.runs(v, 0)
	}
	// Nothing runs that is not wanted.
	wanted := slices.Collect(maps.Keys(c.deployed))
	soon(t, 10*time.Second, fmt.Sprintf("kill %d: only wanted instances run", n), func() bool { return len(c.unwanted(p, wanted)) == 0 },
		func() string { return fmt.Sprint(c.unwanted(p, wanted)) })
}

// unwanted lists instances of versions that are not deployed, or more than one of one that is; anchors are not counted.
func (c *claims) unwanted(p *platform, wanted []version) []string {
	seen := map[string]map[string]bool{}
	for _, proc := range scan(p.Dir) {
		if id := proc.environment["SIROCCO_INSTANCE_ID"]; id != "" && strings.HasPrefix(proc.environment["NVCF_FUNCTION_NAME"], "crash") {
			v := proc.environment["NVCF_FUNCTION_VERSION_ID"]
			if seen[v] == nil {
				seen[v] = map[string]bool{}
			}
			seen[v][id] = true
		}
	}
	var out []string
	for v, ids := range seen {
		limit := 0
		if slices.ContainsFunc(wanted, func(w version) bool { return w.id == v }) {
			limit = 1
		}
		if len(ids) > limit {
			out = append(out, fmt.Sprintf("version %s: %d instances instead of %d", v, len(ids), limit))
		}
	}
	return out
}

func lastOf[T any](all []T, n int) []T { return all[max(0, len(all)-n):] }
