package deployments

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func as(ctx context.Context, change func(*access.Caller)) context.Context {
	c := access.Caller{Account: account, Kind: access.JWT, Subject: "test"}
	change(&c)
	return access.WithCaller(ctx, c)
}

// counted counts the events of one kind, by deployment.
func (w *world) counted(name string) func(entity string) int {
	w.t.Helper()
	var mu sync.Mutex
	counts := map[string]int{}
	testkit.Watch(w.t, w.conn, event.Deployments, func(env event.Envelope) {
		mu.Lock()
		defer mu.Unlock()
		if env.Type == name {
			counts[env.DeploymentID]++
		}
	})
	return func(entity string) int {
		mu.Lock()
		defer mu.Unlock()
		return counts[entity]
	}
}

func TestUndeployingWhatIsNotDeployed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 1))
	w.start()
	f := w.version()
	_, err := w.undeploy(f, false)
	require.ErrorContains(t, err, "Function version '"+f.VersionID+"': Deployment not found")
	alias := as(t.Context(), func(c *access.Caller) { c.Alias = true })
	r, err := bus.Call(alias, w.conn, contract.Delete, contract.DeleteRequest{FunctionID: f.ID, VersionID: f.VersionID})
	require.NoError(t, err, "a client of the aliases updates a resource without specifications")
	require.Equal(t, functions.Inactive, r.Function.Status)
	require.Empty(t, r.Function.Secrets)
	_, err = bus.Call(alias, w.conn, contract.Delete, contract.DeleteRequest{FunctionID: f.ID, VersionID: uuid.NewString()})
	require.ErrorContains(t, err, "Not found")
}

func TestGracePeriodBoundsTheDrainAndTheDrainStartsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 1))
	started := w.counted(contract.DrainStarted.Type())
	removed := w.counted(contract.Removed.Type())
	w.start()
	f := w.version()
	d := w.deploy(f, one(1, 1))
	w.becomes(f, functions.Active)
	drop := func(graceful bool, period string) error {
		_, err := bus.Call(admin(t.Context()), w.conn, contract.Delete, contract.DeleteRequest{FunctionID: f.ID, VersionID: f.VersionID, Graceful: graceful, GracePeriod: period})
		return err
	}
	for _, bad := range []string{"soon", "-1", "P2D", "PT", "1.5", "P1Y"} {
		err := drop(true, bad)
		require.True(t, problem.HasCode(err, problem.Validation), bad)
		require.ErrorContains(t, err, "gracePeriod", bad)
	}
	w.behave(nil, func(e ended) {
		if e.order.DrainSeconds == 0 {
			w.goesDown(e)
		}
	})
	require.NoError(t, drop(true, "PT7S"))
	e := w.end()
	require.Equal(t, 7, e.order.DrainSeconds)
	require.True(t, e.order.FinishQueue)
	require.NoError(t, drop(true, "0"), "no patience left: the drain is hurried")
	e = w.end()
	require.Zero(t, e.order.DrainSeconds)
	require.False(t, e.order.FinishQueue)
	w.vanishes(f)
	require.Eventually(t, func() bool { return removed(d.ID) == 1 }, soon, 5*time.Millisecond)
	require.Equal(t, 1, started(d.ID))
}

func TestListIsFilteredAndPaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 1))
	w.start()
	var all []functions.Function
	for range 5 {
		f := w.version()
		w.deploy(f, one(0, 1))
		all = append(all, f)
	}
	waiting := w.version()
	large := one(1, 1)
	large.InstanceType = "NCP.GPU.H100_4x"
	w.deploy(waiting, large)
	list := func(r contract.ListRequest) contract.ListResponse {
		t.Helper()
		got, err := bus.Call(admin(t.Context()), w.conn, contract.List, r)
		require.NoError(t, err)
		return got
	}
	require.Len(t, list(contract.ListRequest{}).Deployments, 6)
	got := list(contract.ListRequest{Status: []string{"deploying", "ERROR"}})
	require.Len(t, got.Deployments, 1)
	require.Equal(t, waiting.VersionID, got.Deployments[0].VersionID)
	got = list(contract.ListRequest{FunctionID: all[2].ID})
	require.Len(t, got.Deployments, 1)
	require.Equal(t, all[2].VersionID, got.Deployments[0].VersionID)
	var seen []string
	page := contract.ListRequest{Limit: new(2)}
	for n := 0; n == 0 || page.Cursor != ""; n++ {
		got := list(page)
		require.LessOrEqual(t, len(got.Deployments), 2)
		for _, d := range got.Deployments {
			seen = append(seen, d.VersionID)
		}
		page.Cursor = got.NextCursor
	}
	require.Equal(t, []string{waiting.VersionID, all[4].VersionID, all[3].VersionID, all[2].VersionID, all[1].VersionID, all[0].VersionID}, seen)
	for field, bad := range map[string]contract.ListRequest{
		"status": {Status: []string{"SLEEPY"}}, "functionId": {FunctionID: "x"}, "limit": {Limit: new(0)}, "cursor": {Cursor: "!"},
	} {
		_, err := bus.Call(admin(t.Context()), w.conn, contract.List, bad)
		require.True(t, problem.HasCode(err, problem.Validation), field)
		require.ErrorContains(t, err, "field: "+field)
	}
}

func TestHealthInfoHasEveryErrorAndGoesWithThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 2))
	told := w.counted(contract.HealthChanged.Type())
	w.start()
	f := w.version()
	s := one(2, 2)
	s.GPU = "h100"
	w.behave(w.idles, nil)
	d := w.deploy(f, s)
	first, second := w.launch(), w.launch()
	die := func(l launched, cause instances.Cause, why string) {
		w.report(l, instances.Terminated, func(r *instances.Report) { r.Cause, r.Message = cause, why })
	}
	die(first, instances.ImagePull, "no such tag")
	require.Eventually(t, func() bool { // reports of different instances come in any order
		d, err := w.get(f)
		return err == nil && slices.ContainsFunc(d.Instances, func(i instances.Brief) bool { return i.Status == errored })
	}, soon, 5*time.Millisecond)
	die(second, instances.OutOfMemory, "killed")
	got := w.becomes(f, functions.Error)
	require.Len(t, got.HealthInfo, 2, "each different error once")
	for _, h := range got.HealthInfo {
		require.Equal(t, "H100", h.GPU, "the real name")
		require.Equal(t, "lab", h.Backend, "the real cluster")
		require.Equal(t, "NCP.GPU.H100_1x", h.InstanceType)
		require.Equal(t, h.ICMSRequestID, h.SISRequestID)
	}
	require.Equal(t, "oom-killed: killed", got.HealthInfo[0].Error)
	require.Equal(t, "image-pull-issues: no such tag", got.HealthInfo[1].Error)
	require.Zero(t, w.count("deployments.devices"))
	_, err := w.create(f, one(1, 1))
	require.ErrorContains(t, err, "Status ERROR")
	_, err = bus.Call(admin(t.Context()), w.conn, contract.Patch, contract.PatchRequest{DeploymentID: d.ID, ID: d.Specifications[0].ID, MinInstances: new(1)})
	require.True(t, problem.HasCode(err, problem.IllegalState), "a failed deployment is not patched")
	require.Eventually(t, func() bool { return told(d.ID) > 0 }, soon, 5*time.Millisecond)

	_, err = w.undeploy(f, false)
	require.NoError(t, err)
	require.Equal(t, functions.Inactive, w.status(f.VersionID))
	d = w.deploy(f, one(1, 1))
	l := w.launch()
	w.comesUp(l)
	require.Empty(t, w.becomes(f, functions.Active).HealthInfo)
	w.report(l, instances.Unhealthy)
	got = w.becomes(f, functions.Degraded)
	require.Len(t, got.HealthInfo, 1, "a version that fails after a clean start shows why")
	require.Contains(t, got.HealthInfo[0].Error, "degraded-worker")
	w.report(l, instances.Running)
	require.Empty(t, w.becomes(f, functions.Active).HealthInfo)
	require.Eventually(t, func() bool { return told(d.ID) == 2 }, soon, 5*time.Millisecond, "once that it is ill, once that it is not")
}

func TestAFailedDeploymentEndsAfterItsTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 1))
	w.cfg.ErrorKept = 50 * time.Millisecond
	started := w.counted(contract.DrainStarted.Type())
	w.start()
	f := w.version()
	w.behave(w.crashes, nil)
	d := w.deploy(f, one(1, 1))
	w.vanishes(f)
	require.Equal(t, functions.Inactive, w.status(f.VersionID))
	require.Regexp(t, `^DEPLOYING( ERROR)? INACTIVE$`, w.path(f.VersionID), "a short ERROR may pass before it is told")
	require.Eventually(t, func() bool { return started(d.ID) == 1 }, soon, 5*time.Millisecond)
	_, err := w.get(f)
	require.ErrorContains(t, err, "Deployment not found")
}

func TestARepeatedDeployWithItsKeyHasTheFirstAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 2))
	w.start()
	f := w.version()
	deploy := func(key string, s contract.Specification) (contract.Deployment, error) {
		r, err := bus.Call(admin(t.Context()), w.conn, contract.Create, contract.CreateRequest{FunctionID: f.ID, VersionID: f.VersionID, IdempotencyKey: key, Specifications: []contract.Specification{s}})
		return r.Deployment, err
	}
	var mu sync.Mutex
	ids := map[string]int{}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			d, err := deploy("a", one(1, 1))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Errorf("deploy: %v", err)
			}
			ids[d.ID]++
		})
	}
	wg.Wait()
	require.Len(t, ids, 1, "one deployment, whoever was first")
	require.Equal(t, 1, w.count("deployments.deployments"))
	_, err := deploy("a", one(1, 2))
	require.True(t, problem.HasCode(err, problem.Unprocessable), "%v", err)
	for _, key := range []string{"", "b"} {
		_, err = deploy(key, one(1, 1))
		require.ErrorContains(t, err, "use PATCH endpoint", "key %q", key)
	}
	_, err = w.undeploy(f, false)
	require.NoError(t, err)
	w.vanishes(f)
	d, err := deploy("a", one(1, 1))
	require.NoError(t, err)
	require.Positive(t, ids[d.ID], "the answer is that of the first call, not a new deployment")
	require.Zero(t, w.count("deployments.deployments"))
}

func TestQuotaIsAskedWheneverADeploymentGrows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 8))
	w.rules[account] = []clusters.QuotaRule{{ID: "r1", NCAID: account, GPU: "h100", Limit: 3}, {ID: "r2", NCAID: account, GPU: "*", Limit: 1}}
	w.start()
	f, g := w.version(), w.version()
	double := one(1, 4)
	double.InstanceType = "NCP.GPU.H100_2x"
	d := w.deploy(f, double)
	_, err := w.create(g, double)
	require.True(t, problem.HasCode(err, problem.Forbidden), "%v", err)
	require.ErrorContains(t, err, "requested 2, used 2, limit 3")
	require.Equal(t, 1, w.count("deployments.deployments"), "nothing is half done")
	other := w.deploy(g, one(1, 4))
	patch := func(d contract.Deployment, low int) error {
		_, err := bus.Call(admin(t.Context()), w.conn, contract.Patch, contract.PatchRequest{DeploymentID: d.ID, ID: d.Specifications[0].ID, MinInstances: &low})
		return err
	}
	require.ErrorContains(t, patch(other, 2), "requested 2, used 2, limit 3")
	require.NoError(t, patch(other, 1), "what is as it was needs nothing")
	_, err = bus.Call(admin(t.Context()), w.conn, contract.Replace, contract.CreateRequest{FunctionID: f.ID, VersionID: f.VersionID, Specifications: []contract.Specification{{MinInstances: new(2), MaxInstances: new(4)}}})
	require.ErrorContains(t, err, "requested 4, used 1, limit 3")
	require.NoError(t, patch(d, 0))
	require.NoError(t, patch(other, 3))
	w.mu.Lock()
	w.rules[account][0].Limit = 1
	w.mu.Unlock()
	require.NoError(t, patch(other, 2), "less is never refused")
}

func TestQuotaHoldsBackWhatWorkRaises(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 8))
	w.rules[account] = []clusters.QuotaRule{{ID: "r1", NCAID: account, GPU: "*", Limit: 1}}
	w.start()
	f, g := w.version(), w.version()
	first := w.deploy(f, one(1, 2))
	w.becomes(f, functions.Active)
	w.launch()
	w.deploy(g, one(0, 2))
	_, err := bus.Call(t.Context(), w.conn, contract.Wake, contract.WakeRequest{VersionID: g.VersionID})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		d, err := w.get(g)
		return err == nil && len(d.HealthInfo) == 1 && d.HealthInfo[0].Reason == "quota-limited"
	}, soon, 5*time.Millisecond)
	require.Empty(t, w.launches)
	_, err = bus.Call(admin(t.Context()), w.conn, contract.Patch, contract.PatchRequest{DeploymentID: first.ID, ID: first.Specifications[0].ID, MinInstances: new(0)})
	require.NoError(t, err)
	w.end()
	require.Equal(t, g.VersionID, w.launch().order.VersionID, "what is free again is used")
}

func TestTheMostSpecificRuleCounts(t *testing.T) {
	t.Parallel()
	rules := []clusters.QuotaRule{
		{ID: "any", GPU: "*"}, {ID: "gpu", GPU: "H100"}, {ID: "lab", GPU: "*", Clusters: []string{"lab", "annex"}}, {ID: "both", GPU: "H100", Clusters: []string{"lab"}},
	}
	for want, s := range map[string]contract.Specification{
		"any":  {GPU: "A100"},
		"gpu":  {GPU: "h100"},
		"both": {GPU: "H100", Clusters: []string{"LAB"}},
		"lab":  {GPU: "H100", Clusters: []string{"lab", "annex"}},
	} {
		require.Equal(t, want, ruleFor(rules, &specification{Specification: s}).ID)
	}
	require.Equal(t, "both", ruleFor(rules, &specification{Specification: contract.Specification{GPU: "H100", Backend: "Lab"}}).ID)
	require.Equal(t, "gpu", ruleFor(rules, &specification{Specification: contract.Specification{GPU: "H100", Clusters: []string{"lab", "elsewhere"}}}).ID)
	require.Nil(t, ruleFor(nil, &specification{Specification: contract.Specification{GPU: "H100"}}))
}

func TestRollOverReplacesEveryInstanceOnce(t *testing.T) {
	t.Parallel()
	for name, gpus := range map[string]int{"with room": 4, "without room": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, node("n1", gpus))
			w.start()
			f := w.version()
			w.deploy(f, one(2, 2))
			w.becomes(f, functions.Active)
			old := map[string]bool{w.launch().order.InstanceID: true, w.launch().order.InstanceID: true}
			w.behave(nil, func(e ended) {
				w.goesDown(e)
				w.mu.Lock()
				for _, n := range w.nodes { // the devices are free again
					n.Sequence++
				}
				w.mu.Unlock()
				w.capacity("n1", func(*clusters.Node) {})
			})
			super := as(t.Context(), func(c *access.Caller) { c.CrossAccount = true })
			roll := func(specs ...contract.Rollover) (contract.RolloverResponse, error) {
				return bus.Call(super, w.conn, contract.RollOver, contract.RolloverRequest{FunctionID: f.ID, VersionID: f.VersionID, Specifications: specs})
			}
			for field, bad := range map[string]contract.Rollover{
				"numInstances": {GPU: "H100", InstanceType: "NCP.GPU.H100_1x", NumInstances: new(3)},
				"instanceType": {GPU: "H100", InstanceType: "NCP.GPU.H100_2x", NumInstances: new(1)},
				"gpu":          {InstanceType: "NCP.GPU.H100_2x", NumInstances: new(1)},
			} {
				_, err := roll(bad)
				require.True(t, problem.HasCode(err, problem.Validation), field)
				require.ErrorContains(t, err, field)
			}
			got, err := roll()
			require.NoError(t, err)
			require.Len(t, got.ICMSRequestIDs, 2)
			for range 2 {
				require.False(t, old[w.launch().order.InstanceID])
				e := w.end()
				require.True(t, old[e.order.InstanceID])
				require.Equal(t, drainScaleDown, e.order.DrainSeconds)
				delete(old, e.order.InstanceID)
			}
			require.Eventually(t, func() bool {
				d, err := w.get(f)
				return err == nil && len(d.Instances) == 2 && d.Instances[0].Status == "RUNNING" && d.Instances[1].Status == "RUNNING" && d.Status == functions.Active
			}, soon, 5*time.Millisecond)
			w.quiet(f)
			if gpus == 4 {
				require.Equal(t, "DEPLOYING ACTIVE", w.path(f.VersionID), "it served all the time")
			}
		})
	}
}

func TestAnAdministratorRemovesAnInstance(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 2))
	w.start()
	f := w.version()
	w.deploy(f, one(1, 1))
	w.becomes(f, functions.Active)
	l := w.launch()
	remove := func(ctx context.Context, id string) error {
		_, err := bus.Call(ctx, w.conn, contract.RemoveInstance, contract.InstanceRequest{InstanceID: id})
		return err
	}
	elsewhere := as(t.Context(), func(c *access.Caller) { c.Account, c.CrossAccount = "other", true })
	require.True(t, problem.HasCode(remove(elsewhere, l.order.InstanceID), problem.NotFound))
	require.True(t, problem.HasCode(remove(admin(t.Context()), uuid.NewString()), problem.NotFound))
	require.True(t, problem.HasCode(remove(admin(t.Context()), "x"), problem.Validation))
	require.NoError(t, remove(admin(t.Context()), l.order.InstanceID))
	require.Equal(t, l.order.InstanceID, w.end().order.InstanceID)
	require.NotEqual(t, l.order.InstanceID, w.launch().order.InstanceID, "another one takes its place")
	w.becomes(f, functions.Active)
	images, err := bus.Call(admin(t.Context()), w.conn, contract.ListGoldenImages, struct{}{})
	require.NoError(t, err)
	require.Equal(t, []string{}, images.GoldenImages)
}

func TestUsageAndCapacity(t *testing.T) {
	t.Parallel()
	big := node("n1", 4)
	big.Attributes, big.Types[0].CPUArch = []string{"CacheOptimized"}, "amd64"
	w := newWorld(t, big)
	w.start()
	f := w.version()
	s := one(2, 3)
	s.Attributes = []string{"cacheoptimized"}
	d := w.deploy(f, s)
	require.Equal(t, "amd64", d.Specifications[0].CPUArch, "filled in from the inventory")
	w.becomes(f, functions.Active)
	ctx := admin(t.Context())
	usage, err := bus.Call(ctx, w.conn, contract.GetUsage, contract.UsageRequest{Account: account})
	require.NoError(t, err)
	require.Len(t, usage.GPUs, 1)
	require.Equal(t, [2]int{2, 3}, [2]int{usage.GPUs[0].CurrentMinUsage, usage.GPUs[0].CurrentMaxUsage})
	require.Len(t, usage.GPUs[0].Placements, 1)
	require.Equal(t, [2]int{2, 3}, [2]int{usage.GPUs[0].Placements[0].CurrentMinUsage, usage.GPUs[0].Placements[0].CurrentMaxUsage})
	require.Equal(t, big.ClusterID, usage.GPUs[0].Placements[0].ClusterID)
	want := []contract.LiveGPU{{GPUName: "H100", Instances: []contract.LiveType{{InstanceName: "NCP.GPU.H100_1x", Regions: []contract.LiveRegion{{
		RegionName: "eu-north-1", Clusters: []contract.LiveCluster{{ClusterID: big.ClusterID, ClusterGroupName: "lab", Status: contract.LiveCounts{ActiveInstances: 2}}},
	}}}}}}
	live, err := bus.Call(ctx, w.conn, contract.GetLiveUsage, clusters.ListingRequest{Account: account})
	require.NoError(t, err)
	require.Equal(t, want, live.GPUs)
	live, err = bus.Call(ctx, w.conn, contract.GetLiveUsage, clusters.ListingRequest{Account: account, Filter: clusters.Filter{Regions: []string{"mars-1"}}})
	require.NoError(t, err)
	require.Empty(t, live.GPUs)
	of, err := bus.Call(ctx, w.conn, contract.GetDeploymentUsage, contract.DeploymentUsageRequest{Account: account, DeploymentID: d.ID})
	require.NoError(t, err)
	require.Equal(t, []contract.DeploymentUsage{{DeploymentID: d.ID, GPUs: want}}, of.Deployments)
	_, err = bus.Call(ctx, w.conn, contract.GetDeploymentUsage, contract.DeploymentUsageRequest{Account: "other", DeploymentID: d.ID})
	require.True(t, problem.HasCode(err, problem.NotFound))

	w.capacity("n1", func(n *clusters.Node) {
		n.Devices[0].State, n.Devices[1].State = clusters.Allocated, clusters.Allocated
	})
	offers, err := bus.Call(ctx, w.conn, contract.GetOffers, contract.CapacityRequest{GPUs: []string{"h100"}})
	require.NoError(t, err)
	require.Len(t, offers["H100"], 3)
	require.Equal(t, [2]int{2, 4}, [2]int{offers["H100"][0].CurrentInstances, offers["H100"][0].MaxInstances})
	require.Equal(t, []string{"lab"}, offers["H100"][0].Clusters)
	capacity, err := bus.Call(ctx, w.conn, contract.GetCapacity, contract.CapacityRequest{})
	require.NoError(t, err)
	require.Equal(t, contract.CapacityCounts{MinInstances: 2, MaxInstances: 3, ActiveInstances: 2, AvailableInstances: 2, ActiveGPUs: 2, AvailableGPUs: 2},
		capacity["H100"][0].Regions[0].Clusters[0].Usage)
	none, err := bus.Call(ctx, w.conn, contract.GetCapacity, contract.CapacityRequest{GPUs: []string{"B200"}})
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestAClusterOpenedToAnAccountTakesItsInstances(t *testing.T) {
	t.Parallel()
	foreign := node("n1", 1)
	foreign.Account, foreign.Authorized = "owner", []string{account}
	w := newWorld(t, foreign)
	w.start()
	f := w.version()
	w.deploy(f, one(1, 1))
	w.becomes(f, functions.Active)
}

func TestAPublicFunctionIsDeployedByTheSuperAdministrator(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 1))
	w.start()
	f := w.version()
	w.mu.Lock()
	w.public[f.VersionID] = true
	w.mu.Unlock()
	_, err := w.create(f, one(0, 1))
	require.True(t, problem.HasCode(err, problem.IllegalState), "%v", err)
	super := as(t.Context(), func(c *access.Caller) { c.CrossAccount = true })
	_, err = bus.Call(super, w.conn, contract.Create, contract.CreateRequest{FunctionID: f.ID, VersionID: f.VersionID, Specifications: []contract.Specification{one(0, 1)}})
	require.NoError(t, err)
}

// Of writers that come at the same time one wins; the others hear 400 or 404, and what is left is one of the states
// that some order of them leads to.
func TestWritersAtTheSameTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 8))
	w.start()
	w.start()
	for round := range 4 {
		f := w.version()
		var mu sync.Mutex
		won := map[string]int{}
		note := func(what string, err error) {
			mu.Lock()
			defer mu.Unlock()
			var p *problem.Problem
			switch {
			case err == nil:
				won[what]++
			case !errors.As(err, &p) || p.Status() != 400 && p.Status() != 404 && p.Status() != 409:
				t.Errorf("%s: %v", what, err)
			}
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { _, err := w.create(f, one(1, 2)); note("deploy", err) })
		}
		wg.Go(func() { _, err := w.undeploy(f, round%2 == 0); note("undeploy", err) })
		wg.Go(func() {
			d, err := w.get(f)
			if err == nil {
				_, err = bus.Call(admin(t.Context()), w.conn, contract.Patch, contract.PatchRequest{DeploymentID: d.ID, ID: d.Specifications[0].ID, MaxInstances: new(3)})
			}
			note("patch", err)
		})
		wg.Wait()
		require.LessOrEqual(t, won["deploy"], 1+won["undeploy"], fmt.Sprint(won))
		require.Positive(t, won["deploy"])
		if won["deploy"] > won["undeploy"] {
			w.becomes(f, functions.Active)
			_, err := w.undeploy(f, false)
			require.NoError(t, err)
		}
		w.vanishes(f)
		require.Eventually(t, func() bool { return w.status(f.VersionID) == functions.Inactive }, soon, 5*time.Millisecond)
	}
	require.Zero(t, w.count("deployments.instances"))
	require.Zero(t, w.count("deployments.devices"))
}

// A version that is deleted while it is deployed leaves nothing behind, whichever comes first.
func TestDeployRacingWithDeleteOfTheVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 8))
	w.start()
	for range 5 {
		f := w.version()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := w.create(f, one(1, 1))
			if err != nil && !problem.HasCode(err, problem.NotFound) {
				t.Errorf("deploy: %v", err)
			}
		})
		wg.Go(func() {
			w.mu.Lock()
			delete(w.functions, f.VersionID)
			w.mu.Unlock()
			err := bus.Announce(context.Background(), w.conn, "functions", uuid.NewString(), functions.Deleted,
				bus.Fact{Account: account, Entity: f.VersionID}, functions.Changed{Function: f})
			if err != nil {
				t.Errorf("delete: %v", err)
			}
		})
		wg.Wait()
		_, err := w.get(f)
		require.ErrorContains(t, err, "Deployment not found", "at once, whatever is still on its way")
		w.vanishes(f)
	}
	require.Zero(t, w.count("deployments.devices"))
}

func TestNewSecretsAreOrderedToEveryInstance(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 2), node("n2", 2))
	w.start()
	f, other := w.version(), w.version()
	w.deploy(f, one(3, 3))
	w.deploy(other, one(1, 1))
	w.becomes(f, functions.Active)
	w.becomes(other, functions.Active)
	mine := map[string]bool{}
	for range 4 {
		if l := w.launch(); l.order.VersionID == f.VersionID {
			mine[l.order.InstanceID] = true
		}
	}
	require.NoError(t, bus.Announce(t.Context(), w.conn, "functions", uuid.NewString(), functions.SecretsUpdated,
		bus.Fact{Account: account, Entity: f.VersionID}, functions.SecretsChanged{FunctionID: f.ID, VersionID: f.VersionID, Changed: []string{"TOKEN"}}))
	for range 3 {
		o := <-w.renewals
		require.True(t, mine[o.InstanceID])
		delete(mine, o.InstanceID)
	}
	w.quiet(f)
	require.Empty(t, w.renewals)
}

func TestWhatABetterSpecificationHasNoRoomForGoesToTheNext(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 2))
	w.start()
	f := w.version()
	large, small, last := one(0, 1), one(0, 1), one(0, 1)
	large.InstanceType = "NCP.GPU.H100_4x"
	small.PreferredOrder, last.PreferredOrder = new(2), new(3)
	d := w.deploy(f, last, small, large)
	_, err := bus.Call(t.Context(), w.conn, contract.Wake, contract.WakeRequest{VersionID: f.VersionID})
	require.NoError(t, err)
	require.Equal(t, d.Specifications[1].ID, w.launch().order.GPUSpecificationID)
	require.Eventually(t, func() bool {
		d, err := w.get(f)
		return err == nil && len(d.Instances) == 1 && d.Instances[0].Status == "RUNNING" && len(d.HealthInfo) == 0
	}, soon, 5*time.Millisecond)
	w.quiet(f)
	require.Equal(t, "ACTIVE", w.path(f.VersionID))
}

func TestIfMatchLetsOneOfTwoWritersWin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 4))
	w.start()
	f := w.version()
	ctx := admin(t.Context())
	made, err := bus.Call(ctx, w.conn, contract.Create, contract.CreateRequest{FunctionID: f.ID, VersionID: f.VersionID, Specifications: []contract.Specification{one(0, 2)}})
	require.NoError(t, err)
	read, err := bus.Call(ctx, w.conn, contract.Get, contract.VersionRequest{FunctionID: f.ID, VersionID: f.VersionID})
	require.NoError(t, err)
	require.Equal(t, made.ETag, read.ETag)
	patch := func(tag string, high int) (contract.PatchResponse, error) {
		return bus.Call(ctx, w.conn, contract.Patch, contract.PatchRequest{DeploymentID: made.Deployment.ID, ID: made.Deployment.Specifications[0].ID, MaxInstances: &high, IfMatch: tag})
	}
	first, err := patch(made.ETag, 3)
	require.NoError(t, err)
	require.NotEqual(t, made.ETag, first.ETag)
	_, err = patch(made.ETag, 4)
	require.True(t, problem.HasCode(err, problem.PreconditionFailed), "%v", err)
	_, err = bus.Call(ctx, w.conn, contract.Replace, contract.CreateRequest{FunctionID: f.ID, VersionID: f.VersionID, IfMatch: made.ETag, Specifications: []contract.Specification{{MinInstances: new(0), MaxInstances: new(4)}}})
	require.True(t, problem.HasCode(err, problem.PreconditionFailed), "%v", err)
	_, err = bus.Call(ctx, w.conn, contract.Delete, contract.DeleteRequest{FunctionID: f.ID, VersionID: f.VersionID, IfMatch: made.ETag})
	require.True(t, problem.HasCode(err, problem.PreconditionFailed), "%v", err)
	again, err := patch(first.ETag, 3)
	require.NoError(t, err)
	require.Equal(t, first.ETag, again.ETag, "equal values change nothing")
	_, err = patch("*", 4)
	require.NoError(t, err)
}
