package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

func TestEveryCommandIsExplained(t *testing.T) {
	t.Parallel()
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		require.NotEmpty(t, cmd.Short, cmd.CommandPath())
		for line := range strings.SplitSeq(cmd.Example, "\n") {
			if _, after, ok := strings.Cut(line, "sirocco "); ok {
				found, _, err := cmd.Root().Find(strings.Fields(after))
				require.NoError(t, err, line)
				require.True(t, found.Runnable(), "%s: the example %q names no command", cmd.CommandPath(), line)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(&session{output: formatTable}))
}

func TestAVerbIsOneCall(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("s3cr3t\n"), 0o600))
	nothing := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	cases := map[string]struct {
		line               []string
		route, answer      string
		path, body, prints string
	}{
		"an argument in the path": {
			[]string{"app", "disable", "a/b"}, "PATCH /api/v1/apps/{id}", "", "/api/v1/apps/a%2Fb", `{"enabled":false}`, "disabled a/b\n",
		},
		"an argument in the body": {
			[]string{"rule", "create", "ops@corp.example", "--role", "2"},
			"POST /api/v1/authorization/access-rules", `{"id":7,"roleName":"Function administrator"}`,
			"/api/v1/authorization/access-rules", `{"subjectId":"ops@corp.example","subjectType":"user","roleId":2,"scopeId":"system","scopeType":"system"}`, "Function administrator",
		},
		"a query": {
			[]string{"audit", "keys", "--decision", "deny", "--limit", "3"},
			"GET /v1/admin/audit", `{"decisions":[{"at":"2031-04-02T08:00:00Z","reason":"scope_missing"}]}`,
			"/v1/admin/audit?decision=deny&limit=3", "", "scope_missing",
		},
		"a secret of a file": {
			[]string{"telemetry", "create", "https://x", "--provider", "SPLUNK", "--type", "logs", "--secret", "key=@" + secret},
			"POST /v2/nvcf/telemetries",
			`{"telemetry":{"telemetryId":"t","types":["LOGS"]}}`, "/v2/nvcf/telemetries",
			`{"endpoint":"https://x","provider":"SPLUNK","protocol":"HTTP","types":["LOGS"],"secret":{"name":"key","value":"s3cr3t"}}`, "LOGS",
		},
		"a bare list": {[]string{"user", "list"}, "GET /api/v1/users", `[{"id":"u","username":"ann","isLocal":true}]`, "/api/v1/users", "", "ann    yes"},
		"limits": {
			[]string{"account", "update", "lab", "--functions", "5"},
			"PATCH /v2/nvcf/accounts/lab", `{"account":{"ncaId":"lab","maxFunctionsAllowed":5}}`,
			"/v2/nvcf/accounts/lab", `{"maxFunctionsAllowed":5}`, "Functions at most",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			handler := nothing
			if c.answer != "" {
				handler = answer(c.answer)
			}
			g := newStandIn(t, map[string]http.HandlerFunc{c.route: handler})
			got := sirocco(t, g, c.line)
			require.Zero(t, got.code, got.err)
			require.Contains(t, got.out, c.prints)
			require.NotContains(t, got.out+got.err, "s3cr3t")
			asked := g.asked()
			require.Len(t, asked, 1)
			require.Equal(t, c.path, asked[0].path)
			if c.body != "" {
				require.JSONEq(t, c.body, asked[0].body)
			}
		})
	}
}

func TestWhatIsShownOnceIsAloneOnStandardOutput(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{"POST /api/v1/apps": answer(`{"id":"a","name":"ci","clientId":"ci","secret":"s3cr3t"}`)})
	got := sirocco(t, g, []string{"app", "create", "ci"})
	require.Zero(t, got.code, got.err)
	require.Equal(t, "s3cr3t\n", got.out)
	require.NotContains(t, got.err, "s3cr3t")
	require.Contains(t, got.err, "application ci was created")
}

func TestAMissingMemberIsNamed(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, nil)
	for flag, line := range map[string][]string{
		"--role":     {"rule", "create", "ann"},
		"--secret":   {"telemetry", "set-secret", "t"},
		"--scope":    {"rule", "create", "ann", "--role", "2", "--scope-type", "cluster"},
		"NAME=@FILE": {"telemetry", "set-secret", "t", "--secret", "s3cr3t"},
	} {
		got := sirocco(t, g, line)
		require.Equal(t, exitUsage, got.code)
		require.Contains(t, got.err, flag)
		require.NotContains(t, got.err, "s3cr3t")
	}
	require.Empty(t, g.asked())
}

// What a minted token cannot do is done with a key of its own, which is revoked whatever comes of the call.
func TestALoanIsGivenBack(t *testing.T) {
	t.Parallel()
	for _, refused := range []bool{false, true} {
		assets := answer(`{"assets":[]}`)
		if refused {
			assets = refuse(problem.New(problem.Unavailable, "assets are away"))
		}
		g := newStandIn(t, map[string]http.HandlerFunc{
			"POST /v1/keys":        answer(`{"id":"loan","value":"nvapi-loan"}`),
			"GET /v2/nvcf/assets":  assets,
			"DELETE /v1/keys/loan": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		})
		got := sirocco(t, g, []string{"asset", "list"})
		require.Equal(t, refused, got.code != 0, got.err)
		asked := g.asked()
		require.Len(t, asked, 3)
		require.Contains(t, asked[0].body, `"scopes":["invoke_function"]`)
		require.Equal(t, "nvapi-loan", asked[1].bearer)
		require.Equal(t, "DELETE", asked[2].method)
		require.NotContains(t, got.out+got.err, "nvapi-loan")
	}
	g := newStandIn(t, map[string]http.HandlerFunc{"GET /v2/nvcf/assets": answer(`{"assets":[]}`)})
	require.Zero(t, sirocco(t, g, []string{"asset", "list"}, env("SIROCCO_TOKEN", "mine")).code)
	require.Equal(t, "mine", g.asked()[0].bearer, "a given token is used as it is")
}

func TestTables(t *testing.T) {
	t.Parallel()
	shape := table{member: "things", columns: columns("Name", "name|id", "Size", "size", "On", "on", "Parts", "parts", "Deep", "deep.er")}
	write := func(raw string) string {
		var b strings.Builder
		require.NoError(t, shape.write(&b, []byte(raw)))
		return b.String()
	}
	require.Equal(t, "NAME   SIZE                ON   PARTS   DEEP\na      12345678901234567   no   x, y    z\nb      -                   -    -       -\n",
		write(`{"things":[{"name":"a","size":12345678901234567,"on":false,"parts":["x",{"name":"y"}],"deep":{"er":"z"}},{"id":"b"}]}`))
	require.Equal(t, "Name   a\n", write(`{"things":{"name":"a"}}`), "one object is a list of what it has")
	require.Equal(t, "Name   a\n", write(`{"name":"a"}`))
	require.Equal(t, "NAME   SIZE   ON   PARTS   DEEP\n", write(`{"things":[]}`))
	require.Equal(t, "NAME   SIZE   ON   PARTS   DEEP\n", write(`{}`), "an empty list that was left out")
}

func FuzzTables(f *testing.F) {
	f.Add([]byte(`{"things":[{"name":"a"}]}`))
	f.Add([]byte(`[[1,null,{"a":"b"}]]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var b strings.Builder
		if (table{member: "things", columns: columns("Name", "name|a.b")}).write(&b, raw) == nil {
			require.NotContains(t, b.String(), "\x1b")
		}
	})
}
