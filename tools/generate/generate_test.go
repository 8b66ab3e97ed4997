package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"go.uber.org/fx"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/health"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
	"github.com/sirocco-cloud/sirocco/services/functions"
	"github.com/sirocco-cloud/sirocco/services/invocation"
	"github.com/sirocco-cloud/sirocco/services/ledger"
	"github.com/sirocco-cloud/sirocco/services/tasks"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func files(t *testing.T) (root string, made map[string][]byte) {
	t.Helper()
	root, err := repository()
	require.NoError(t, err)
	made, err = generate(root)
	require.NoError(t, err)
	return root, made
}

func TestGeneratedFilesAreCurrent(t *testing.T) {
	t.Parallel()
	root, made := files(t)
	for path, want := range made {
		have, err := os.ReadFile(filepath.Join(root, path))
		require.NoError(t, err)
		require.Equal(t, string(want), string(have), "%s is stale: run `make generate`", path)
	}
}

func TestGeneratingTwiceMakesTheSameBytes(t *testing.T) {
	t.Parallel()
	_, once := files(t)
	for range 5 {
		_, again := files(t)
		require.Equal(t, once, again)
	}
}

// Every reference in the document leads somewhere.
func TestAsyncAPIReferencesResolve(t *testing.T) {
	t.Parallel()
	_, made := files(t)
	var doc map[string]any
	require.NoError(t, json.Unmarshal(made["docs/reference/asyncapi.json"], &doc))
	refs := 0
	var walk func(any)
	walk = func(v any) {
		switch x := v.(type) {
		case []any:
			for _, e := range x {
				walk(e)
			}
		case map[string]any:
			if ref, ok := x["$ref"].(string); ok {
				refs++
				var at any = doc
				for step := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
					m, ok := at.(map[string]any)
					require.True(t, ok, ref)
					at = m[step]
				}
				require.NotNil(t, at, ref)
			}
			for _, e := range x {
				walk(e)
			}
		}
	}
	walk(doc)
	require.Greater(t, refs, 300)
	operations, ok := doc["operations"].(map[string]any)
	require.True(t, ok)
	require.Contains(t, operations, "keys.key.create")
	require.Contains(t, operations, "nvcf.instances.instance_running.v1")
	require.Contains(t, operations, "cmd.launch")
}

func TestPermissionsSaySomethingAboutEverybody(t *testing.T) {
	t.Parallel()
	_, made := files(t)
	var all map[string]permission
	require.NoError(t, json.Unmarshal(made["deployments/nats/permissions.json"], &all))
	for _, service := range []string{"gateway", "keys", "functions", "deployments", "cluster-inventory", "invocation", "tasks", "ledger", "agent"} {
		require.Contains(t, all, service)
	}
	for service, p := range all {
		require.Equal(t, service == "agent", slices.Contains(p.Publish, "svc.functions.version.launch"), "only agents may ask for secrets: %s", service)
		require.Equal(t, service == "deployments", slices.Contains(p.Publish, "cmd.>"), "only deployments gives orders: %s", service)
		require.Equal(t, service == "keys", slices.Contains(p.Publish, "evt.keys.>"), service)
		require.NotContains(t, p.Publish, ">", service)
		require.NotContains(t, p.Subscribe, ">", service)
	}
}

// Services start and serve with no more than their permissions, against a server that enforces them.
func TestPermissionsSuffice(t *testing.T) {
	t.Parallel()
	_, made := files(t)
	var all map[string]permission
	require.NoError(t, json.Unmarshal(made["deployments/nats/permissions.json"], &all))
	options := &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), MaxPayload: bus.MaxPayload, NoLog: true, NoSigs: true,
		// What streams may hold is promised, not used; the default would be what is free on this machine's disk.
		JetStreamMaxStore: 64 << 30,
	}
	for service, p := range all {
		options.Users = append(options.Users, &server.User{Username: service, Password: "x", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: p.Publish}, Subscribe: &server.SubjectPermission{Allow: p.Subscribe},
			Response: &server.ResponsePermission{MaxMsgs: server.DEFAULT_ALLOW_RESPONSE_MAX_MSGS, Expires: time.Minute},
		}})
	}
	nats, err := server.NewServer(options)
	require.NoError(t, err)
	nats.Start()
	t.Cleanup(func() { nats.Shutdown(); nats.WaitForShutdown() })
	require.True(t, nats.ReadyForConnections(time.Minute))
	address, ok := nats.Addr().(*net.TCPAddr)
	require.True(t, ok)
	database := testkit.DatabaseURL(t)

	for name, module := range map[string]fx.Option{"functions": functions.Module, "ledger": ledger.Module, "invocation": invocation.Module, "tasks": tasks.Module} {
		core, logs := observer.New(zapcore.DebugLevel)
		var checks *health.Registry
		service := fx.New(app.Base(name), module, fx.Populate(&checks),
			fx.Decorate(func() *zap.Logger { return zap.New(core) }),
			fx.Decorate(func(c app.Config) app.Config {
				c.NATSURL, c.PostgresURL = fmt.Sprintf("nats://%s:x@127.0.0.1:%d", name, address.Port), database
				return c
			}))
		require.NoError(t, service.Start(t.Context()))
		t.Cleanup(func() { require.NoError(t, service.Stop(context.Background())) })
		require.Eventually(t, func() bool { _, ready := checks.Results(t.Context()); return ready }, time.Minute, 20*time.Millisecond, name)
		for _, line := range logs.FilterLevelExact(zapcore.ErrorLevel).All() {
			require.NotContains(t, fmt.Sprint(line.ContextMap()), "ermissions", "%s may not do what it does", name)
		}
	}
}

// TestTheDocumentIsValidWithItsExamples: generators of clients and mock servers read the examples too.
func TestTheDocumentIsValidWithItsExamples(t *testing.T) {
	t.Parallel()
	root, err := repository()
	require.NoError(t, err)
	source, err := readComments(root)
	require.NoError(t, err)
	document, err := openAPI(source)
	require.NoError(t, err)
	loader := openapi3.NewLoader()
	loaded, err := loader.LoadFromData(document)
	require.NoError(t, err)
	require.NoError(t, loaded.Validate(loader.Context))
}
