package functions

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// collect follows the cursors of a list to its end.
func (w *world) collect(c access.Caller, r contract.ListRequest) (versions []string, pages int) {
	w.t.Helper()
	for pages = 1; ; pages++ {
		page, err := call(w, c, contract.List, r)
		require.NoError(w.t, err)
		for _, fn := range page.Functions {
			versions = append(versions, fn.VersionID)
		}
		if page.NextCursor == "" {
			return versions, pages
		}
		r.Cursor, r.Offset = page.NextCursor, 0
	}
}

func (w *world) collectIDs(c access.Caller, r contract.ListRequest) (ids []string) {
	w.t.Helper()
	for {
		page, err := call(w, c, contract.ListIDs, r)
		require.NoError(w.t, err)
		ids = append(ids, page.FunctionIDs...)
		if page.NextCursor == "" {
			return ids
		}
		r.Cursor, r.Offset = page.NextCursor, 0
	}
}

// Pages of any size, cut anywhere, make up the list that comes in one piece; filters and orders apply to all of it.
func TestPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var mine []contract.Function
	for i := range 7 {
		if i%3 == 0 {
			w.clock.Advance(time.Second)
		}
		spec := minimal()
		spec.Name, spec.Tags = fmt.Sprintf("n%d", (i*3)%7), []string{"all", fmt.Sprintf("mod-%d", i%2)}
		if i == 4 {
			spec.FunctionType = contract.Streaming
		}
		functionID := ""
		if i > 4 {
			functionID = mine[0].ID
		}
		mine = append(mine, w.create(functionID, spec))
	}
	w.setStatus(mine[1], "d", contract.Active)
	for i := range 3 {
		answer, err := call(w, adminOf("other"), contract.Create, contract.CreateRequest{Spec: minimal()})
		require.NoError(t, err)
		require.NoError(t, w.share(adminOf("other"), target1(answer.Function), account))
		if i == 1 {
			require.NoError(t, w.share(super("other"), target1(answer.Function), contract.Everyone))
		}
	}
	require.NoError(t, w.share(super(account), target1(mine[2]), contract.Everyone))

	for _, c := range []struct {
		request contract.ListRequest
		want    int
	}{
		{contract.ListRequest{}, 10},
		{contract.ListRequest{Visibility: []string{"private"}}, 6},
		{contract.ListRequest{Visibility: []string{"public"}}, 2},
		{contract.ListRequest{Visibility: []string{"authorized,public"}}, 4},
		{contract.ListRequest{Sort: "createdAt"}, 10},
		{contract.ListRequest{Sort: "name"}, 10},
		{contract.ListRequest{Sort: "-NAME"}, 10},
		{contract.ListRequest{Status: []string{"active"}}, 1},
		{contract.ListRequest{Status: []string{"ACTIVE", "inactive"}}, 10},
		{contract.ListRequest{FunctionType: []string{"streaming"}}, 1},
		{contract.ListRequest{Name: "n3"}, 1},
		{contract.ListRequest{Tag: []string{"all", "mod-0"}}, 4},
		{contract.ListRequest{Tag: []string{"none"}}, 0},
	} {
		whole, pages := w.collect(admin(), c.request)
		require.Len(t, whole, c.want, "%+v", c.request)
		require.Equal(t, 1, pages)
		wholeIDs := w.collectIDs(admin(), c.request)
		for size := 1; size <= 4; size++ {
			paged := c.request
			paged.Limit = new(size)
			got, pages := w.collect(admin(), paged)
			require.Equal(t, whole, got, "%+v", paged)
			require.Equal(t, max(1, (c.want+size-1)/size), pages)
			require.Equal(t, wholeIDs, w.collectIDs(admin(), paged), "%+v", paged)
			for offset := range c.want + 2 {
				from := paged
				from.Offset = offset
				got, _ := w.collect(admin(), from)
				require.Equal(t, append([]string(nil), whole[min(offset, len(whole)):]...), append([]string(nil), got...), "%+v", from)
			}
		}
		first := c.request
		first.Limit = new(1)
		page, err := call(w, admin(), contract.List, first)
		require.NoError(t, err)
		require.Equal(t, c.want, *page.Total)
		ids, err := call(w, admin(), contract.ListIDs, first)
		require.NoError(t, err)
		require.Equal(t, len(wholeIDs), *ids.Total)
	}
	byName, _ := w.collect(admin(), contract.ListRequest{Sort: "name", Visibility: []string{"private"}})
	require.Equal(t, []string{mine[0].VersionID, mine[5].VersionID, mine[3].VersionID, mine[1].VersionID, mine[6].VersionID, mine[4].VersionID}, byName)
	versions, err := call(w, admin(), contract.ListVersions, contract.ListVersionsRequest{FunctionID: mine[0].ID, ListRequest: contract.ListRequest{Limit: new(2)}})
	require.NoError(t, err)
	require.Len(t, versions.Functions, 2)
	require.Equal(t, 3, *versions.Total)
	empty, err := call(w, admin(), contract.ListVersions, contract.ListVersionsRequest{FunctionID: mine[0].ID, ListRequest: contract.ListRequest{Name: "other"}})
	require.NoError(t, err)
	require.Empty(t, empty.Functions, "the function exists, only nothing matches")

	// A narrow key pages through what it covers.
	narrow := key([]access.Scope{access.ListFunctions}, resource(access.Function, mine[0].ID+"/*"))
	page, err := call(w, narrow, contract.List, contract.ListRequest{Limit: new(2)})
	require.NoError(t, err)
	require.Equal(t, 3, *page.Total)
	require.Len(t, page.Functions, 2)

	for field, r := range map[string]contract.ListRequest{
		"limit":        {Limit: new(0)},
		"offset":       {Offset: -1},
		"cursor":       {Cursor: "x"},
		"status":       {Status: []string{"DELETED"}},
		"functionType": {FunctionType: []string{"BATCH"}},
		"sort":         {Sort: "size"},
		"visibility":   {Visibility: []string{"secret"}},
	} {
		_, err := call(w, admin(), contract.List, r)
		requireProblem(t, err, problem.Validation, "field: "+field+",")
	}
	_, err = call(w, admin(), contract.List, contract.ListRequest{Cursor: page.NextCursor, Offset: 3})
	requireProblem(t, err, problem.Validation, "offset")
	_, err = call(w, admin(), contract.List, contract.ListRequest{Cursor: page.NextCursor, Sort: "name"})
	requireProblem(t, err, problem.Validation, "cursor")
}

// However large its elements are, a page fits into a message, and none is lost.
func TestPagesOfLargeElements(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 3 {
		spec := minimal()
		spec.ContainerEnvironment = []contract.EnvironmentEntry{{Key: "BIG", Value: noise(3 << 19)}}
		w.create("", spec)
	}
	whole, pages := w.collect(admin(), contract.ListRequest{})
	require.Len(t, whole, 3)
	require.Equal(t, 3, pages)
}

// noise does not compress.
func noise(n int) string {
	b := make([]byte, 0, n+36)
	for len(b) < n {
		b = append(b, uuid.NewString()...)
	}
	return string(b[:n])
}

// What a list writes from a row is what the owner gets of one version.
func TestListsAreWrittenLikeVersions(t *testing.T) {
	t.Parallel()
	const strange = `acc"ount<é>`
	w := newWorld(t)
	spec := minimal()
	spec.Description, spec.Tags = `"quoted" <&> é`+"\u2028", []string{"a"}
	answer, err := call(w, adminOf(strange), contract.Create, contract.CreateRequest{Spec: spec})
	require.NoError(t, err)
	text, err := json.Marshal(answer.Function)
	require.NoError(t, err)
	f := New(newStore(w.pool, nil, nil), nil, nil, nil, nil)
	page, err := f.List(access.WithCaller(t.Context(), adminOf(strange)), contract.ListRequest{})
	require.NoError(t, err)
	require.Equal(t, `{"functions":[`+string(text)+`]}`, string(page))
}

func FuzzCursor(f *testing.F) {
	f.Add(cursor{Group: ownOnes, Created: 1, Position: 2}.text())
	f.Add("e30")
	f.Fuzz(func(t *testing.T, text string) {
		c := parseCursor(text, order{})
		if c == nil {
			return
		}
		require.Equal(t, c, parseCursor(c.text(), order{}))
	})
}

// many fills an account with n functions of three versions each.
func (w *world) many(n int) {
	w.t.Helper()
	spec := complete(minimal())
	spec.Tags, spec.ContainerArgs = []string{"team:vision", "stage:production"}, "serve --port 8000 --workers 4"
	spec.ContainerEnvironment = []contract.EnvironmentEntry{{Key: "LOG_LEVEL", Value: "info"}, {Key: "MODEL", Value: "resnet"}}
	_, err := w.pool.Exec(w.t.Context(), `INSERT INTO functions.versions (version_id, function_id, account, function_type, status, spec, created_at, updated_at)
		SELECT md5('v' || i)::uuid, md5('f' || i / 3)::uuid, $1, 'DEFAULT', 'INACTIVE', $2::json, now() - i * interval '1 s', now() FROM generate_series(0, $3 * 3 - 1) i`,
		account, mustJSON(w.t, spec), n)
	require.NoError(w.t, err)
	_, err = w.pool.Exec(w.t.Context(), `INSERT INTO functions.accounts (account, functions) VALUES ($1, $2)`, account, n)
	require.NoError(w.t, err)
	_, err = w.pool.Exec(w.t.Context(), `ANALYZE functions.versions`)
	require.NoError(w.t, err)
}

var asPages = rpc.AsText(contract.List)

// The measures of the management API: 10,000 functions with 30,000 versions.
func BenchmarkTenThousandFunctions(b *testing.B) {
	w := newWorld(b)
	w.many(10_000)
	b.Run("List", func(b *testing.B) {
		for b.Loop() {
			all, _ := w.collect(admin(), contract.ListRequest{})
			require.Len(b, all, 30_000)
		}
	})
	b.Run("Pages", func(b *testing.B) {
		for b.Loop() {
			n := 0
			for r := (contract.ListRequest{}); ; {
				text, err := call(w, admin(), asPages, r)
				require.NoError(b, err)
				head, elements, err := contract.ParsePage("functions", text)
				require.NoError(b, err)
				n += len(elements)
				if head.NextCursor == "" {
					break
				}
				r.Cursor = head.NextCursor
			}
			b.ReportMetric(float64(n), "bytes/list")
		}
	})
	b.Run("IDs", func(b *testing.B) {
		for b.Loop() {
			require.Len(b, w.collectIDs(admin(), contract.ListRequest{}), 10_000)
		}
	})
	b.Run("Get", func(b *testing.B) {
		first, err := call(w, admin(), contract.List, contract.ListRequest{Limit: new(1)})
		require.NoError(b, err)
		plain := key([]access.Scope{access.ListFunctions}, resource(access.AllFunctions, "*"))
		for b.Loop() {
			w.get(plain, first.Functions[0])
		}
	})
	b.Run("Create", func(b *testing.B) {
		for b.Loop() {
			w.create("", minimal())
		}
	})
}
