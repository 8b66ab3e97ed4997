package deployments

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

func TestARuleAboutARegionIsForWhatStaysThere(t *testing.T) {
	t.Parallel()
	rules := []clusters.QuotaRule{
		{ID: "any", GPU: "*"},
		{ID: "gpu", GPU: "H100"},
		{ID: "north", GPU: "*", Regions: []string{"eu-north-1"}},
		{ID: "lab", GPU: "*", Clusters: []string{"lab"}},
		{ID: "lab north", GPU: "*", Clusters: []string{"lab"}, Regions: []string{"eu-north-1"}},
	}
	for want, s := range map[string]contract.Specification{
		"gpu":       {GPU: "H100"},
		"north":     {GPU: "H100", Regions: []string{"EU-north-1"}},
		"any":       {GPU: "A100", Regions: []string{"eu-north-1", "us-west-1"}},
		"lab":       {GPU: "H100", Clusters: []string{"lab"}},
		"lab north": {GPU: "H100", Clusters: []string{"lab"}, Regions: []string{"eu-north-1"}},
	} {
		require.Equal(t, want, ruleFor(rules, &specification{Specification: s}).ID)
	}
}

func TestAQuotaOfInstances(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 8))
	w.rules[account] = []clusters.QuotaRule{{ID: "r1", NCAID: account, GPU: "*", Limit: 8, MaxInstances: 2}}
	w.start()
	f, g := w.version(), w.version()
	_, err := w.create(f, one(3, 3))
	require.True(t, problem.HasCode(err, problem.Forbidden), "%v", err)
	require.ErrorContains(t, err, "requested 3, used 0, limit 2")
	w.deploy(f, one(2, 2))
	w.becomes(f, functions.Active)
	w.launch()
	w.launch()
	w.deploy(g, one(0, 1))
	w.wake(g)
	w.waitsFor(g, quotaLimited)
	require.Empty(t, w.launches)
}

// waitsFor waits until a version has no place for the reason.
func (w *world) waitsFor(f functions.Function, code string) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		d, err := w.get(f)
		return err == nil && len(d.HealthInfo) == 1 && d.HealthInfo[0].Reason == code
	}, soon, 5*time.Millisecond, code)
}

func TestWorkMayGoBeyondTheLimitByTheBurst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, node("n1", 8))
	w.rules[account] = []clusters.QuotaRule{{ID: "r1", NCAID: account, GPU: "H100", Limit: 1, Burst: 1}}
	w.start()
	f, g, h := w.version(), w.version(), w.version()
	w.deploy(f, one(1, 1))
	w.launch()
	_, err := w.create(g, one(1, 1))
	require.ErrorContains(t, err, "requested 1, used 1, limit 1", "no minimum counts on the burst")
	w.deploy(g, one(0, 1))
	w.wake(g)
	require.Equal(t, g.VersionID, w.launch().order.VersionID)
	w.deploy(h, one(0, 1))
	w.wake(h)
	w.waitsFor(h, quotaLimited)
}

func TestReservedGPUsStayFreeForTheirAccount(t *testing.T) {
	t.Parallel()
	n := node("n1", 3)
	n.Authorized = []string{"friend"}
	w := newWorld(t, n)
	w.rules["friend"] = []clusters.QuotaRule{{ID: "r1", NCAID: "friend", GPU: "H100", Limit: 4, Reserved: 2}}
	w.start()
	f, g := w.version(), w.version()
	w.deploy(f, one(1, 1))
	w.launch()
	w.becomes(f, functions.Active)
	w.deploy(g, one(1, 1))
	w.waitsFor(g, "gpu-reserved")
	theirs := w.version()
	w.mu.Lock()
	w.functions[theirs.VersionID].NCAID = "friend"
	w.mu.Unlock()
	friend := as(t.Context(), func(c *access.Caller) { c.Account = "friend" })
	_, err := bus.Call(friend, w.conn, contract.Create, contract.CreateRequest{FunctionID: theirs.ID, VersionID: theirs.VersionID, Specifications: []contract.Specification{one(1, 1)}})
	require.NoError(t, err)
	require.Equal(t, theirs.VersionID, w.launch().order.VersionID, "one of theirs")
	w.waitsFor(g, "gpu-reserved")
	w.mu.Lock()
	w.rules["friend"][0].Reserved = 1
	w.mu.Unlock()
	w.capacity("n1", func(*clusters.Node) {})
	require.Equal(t, g.VersionID, w.launch().order.VersionID, "they use what is kept for them, the rest is for all")
}

func TestTheHigherPriorityIsServedFirst(t *testing.T) {
	t.Parallel()
	n := node("n1", 1)
	n.Account = "" // anybody's
	w := newWorld(t, n)
	w.start()
	var ids []string
	for _, who := range []string{account, "friend", account} {
		f := w.version()
		w.mu.Lock()
		w.functions[f.VersionID].NCAID = who
		w.mu.Unlock()
		ctx := as(t.Context(), func(c *access.Caller) { c.Account = who })
		d, err := bus.Call(ctx, w.conn, contract.Create, contract.CreateRequest{FunctionID: f.ID, VersionID: f.VersionID, Specifications: []contract.Specification{one(0, 1)}})
		require.NoError(t, err)
		ids = append(ids, d.Deployment.ID)
	}
	r := &Reconciler{store: newStore(w.pool, nil)}
	got, err := r.urgent(t.Context(), ids, []clusters.QuotaRule{{NCAID: account}, {NCAID: "friend", Priority: 7}})
	require.NoError(t, err)
	require.Equal(t, []string{ids[1], ids[0], ids[2]}, got)
	got, err = r.urgent(t.Context(), ids, []clusters.QuotaRule{{NCAID: account}})
	require.NoError(t, err)
	require.Equal(t, ids, got, "without a rule, by age")
}
