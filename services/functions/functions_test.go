package functions

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// A client that sends the least gets the whole, and every way of reading agrees (§18.1).
func TestMinimalFunctionComesBackWithItsDefaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fn := w.create("", minimal())
	members := membersOf(t, fn)
	require.NotEmpty(t, members["id"])
	require.NotEmpty(t, members["versionId"])
	for _, generated := range []string{"id", "versionId"} {
		delete(members, generated)
	}
	require.Equal(t, map[string]any{
		"ncaId": account, "status": "INACTIVE", "name": "echo", "inferenceUrl": "/echo",
		"containerImage": "registry.local/demo/echo:1.4", "description": "echo", "apiBodyFormat": "CUSTOM", "functionType": "DEFAULT",
		"healthUri": "/v2/health/ready",
		"health": map[string]any{
			"protocol": "HTTP", "uri": "/v2/health/ready", "port": 8000.0, "timeout": "PT10S", "expectedStatusCode": 200.0,
		},
		"createdAt": "2026-05-04T10:11:12.345Z", "creationTime": "2026-05-04T10:11:12.345Z", "lastUpdatedAt": "2026-05-04T10:11:12.345Z",
	}, members, "nothing is missing and nothing is invented")

	require.Equal(t, fn, w.get(admin(), fn))
	all, err := call(w, admin(), contract.List, contract.ListRequest{})
	require.NoError(t, err)
	require.Equal(t, []contract.Function{fn}, all.Functions)
	versions, err := call(w, admin(), contract.ListVersions, contract.ListVersionsRequest{FunctionID: fn.ID})
	require.NoError(t, err)
	require.Equal(t, []contract.Function{fn}, versions.Functions)
	ids, err := call(w, admin(), contract.ListIDs, contract.ListRequest{})
	require.NoError(t, err)
	require.Equal(t, []string{fn.ID}, ids.FunctionIDs)
	found, err := asService(w, contract.Lookup, contract.InternalRequest{VersionID: fn.VersionID})
	require.NoError(t, err)
	require.Equal(t, fn, found.Function)

	types, events := w.story(fn.VersionID, 1)
	require.Equal(t, []string{contract.Created.Type()}, types)
	require.Equal(t, account, events[0].Account)
	require.Equal(t, event.Actor{Type: "user", ID: "admin"}, events[0].Actor)
	require.Equal(t, "req-1", events[0].RequestID)
	told, ok := bus.As[contract.Changed](events[0], contract.Created)
	require.True(t, ok)
	require.Equal(t, fn, told.Function)
}

func TestEmptyAccountListsEmptyArrays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all, err := call(w, admin(), contract.List, contract.ListRequest{})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"functions": []any{}}, membersOf(t, all))
	ids, err := call(w, admin(), contract.ListIDs, contract.ListRequest{})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"functionIds": []any{}}, membersOf(t, ids))
}

func TestEverythingSentIsEchoed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sent := `{"name":"full","inferenceUrl":"/v1/predict?x=%20","inferencePort":8081,
		"containerImage":"registry.local:5000/a/b@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		"containerArgs":"serve --name 'a b' --q \"\\\"\"","containerEnvironment":[{"key":"B","value":" 2 "},{"key":"A","value":"<&>é"}],
		"models":[{"name":"m2","version":"1","uri":"https://h/m/files"},{"name":"m1","version":"2","uri":"ngc://o/m:1"}],
		"resources":[{"name":"r","version":"1","uri":"s3://b/r"}],"apiBodyFormat":"PREDICT_V2","functionType":"STREAMING",
		"health":{"protocol":"grpc","uri":"/ok","port":50051,"timeout":"PT60S","expectedStatusCode":204},
		"description":"d é","tags":["z:1","a=2","m"],
		"rateLimit":{"rateLimit":"100-S, 2000-M","exemptedNcaIds":["x","b"],"perNcaIdRate":{"y":"1-D"},"perUserRate":"5-H","syncCheck":true}}`
	var request contract.CreateRequest
	require.NoError(t, json.Unmarshal([]byte(sent), &request))
	answer, err := call(w, admin(), contract.Create, request)
	require.NoError(t, err)

	want := map[string]any{}
	require.NoError(t, json.Unmarshal([]byte(sent), &want))
	for _, got := range []map[string]any{membersOf(t, answer.Function), membersOf(t, w.get(admin(), answer.Function))} {
		for member, value := range want {
			require.Equal(t, value, got[member], member)
		}
		require.Equal(t, "/ok", got["healthUri"])
	}
}

func TestSecretsAreSealedAndOnlyNamed(t *testing.T) {
	t.Parallel()
	const canary, objectCanary = "canary-7f3a9-plain", "canary-7f3a9-object"
	w := newWorld(t)
	secrets := []contract.Secret{
		{Name: "ZULU", Value: json.RawMessage(`"` + canary + `"`)},
		{Name: "alpha.json", Value: json.RawMessage(`{"token":"` + objectCanary + `","n":1.0}`)},
	}
	fn := w.create("", minimal(), secrets...)
	require.Equal(t, []string{"ZULU", "alpha.json"}, fn.Secrets, "the answer of create names them")

	// Only details name them, and only when asked for.
	require.Equal(t, fn.Secrets, w.get(admin(), fn).Secrets)
	plain := key([]access.Scope{access.ListFunctions}, resource(access.AllFunctions, "*"))
	require.Empty(t, w.get(plain, fn).Secrets)
	no := false
	without, err := call(w, admin(), contract.Get, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID, IncludeSecrets: &no})
	require.NoError(t, err)
	require.Empty(t, without.Function.Secrets)
	all, err := call(w, admin(), contract.List, contract.ListRequest{})
	require.NoError(t, err)
	require.Empty(t, all.Functions[0].Secrets)

	launchable, err := asService(w, contract.Launch, contract.InternalRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
	require.NoError(t, err)
	require.Equal(t, secrets, launchable.Secrets, "the node gets the values as they were sent")
	require.Equal(t, fn.VersionID, launchable.Function.VersionID)
	_, err = call(w, admin(), contract.Launch, contract.InternalRequest{VersionID: fn.VersionID})
	requireProblem(t, err, problem.Forbidden)

	// A broken request carries a value as well, and its refusal must not.
	_, err = call(w, admin(), contract.Create, contract.CreateRequest{Spec: minimal(), Secrets: []contract.Secret{
		{Name: "bad name", Value: json.RawMessage(`"` + canary + `"`)}, {Name: "n", Value: json.RawMessage(`["` + canary + `"]`)},
	}})
	requireProblem(t, err, problem.Validation, "secrets[0].name", "secrets[1].value")
	require.NotContains(t, err.Error(), canary)

	_, err = call(w, admin(), contract.Delete, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
	require.NoError(t, err)
	_, events := w.story(fn.VersionID, 2)
	for _, e := range events {
		require.NotContains(t, string(e.Data), "canary-7f3a9")
		require.NotContains(t, string(e.Data), "ZULU", "not even the name")
	}
	for _, line := range w.logs.All() {
		require.NotContains(t, fmt.Sprint(line.Message, line.ContextMap()), "canary-7f3a9")
	}
	again := w.create("", minimal(), secrets...)
	require.NotContains(t, w.dump(), "canary-7f3a9", "nothing in the database is in the clear")
	var left int
	require.NoError(t, w.pool.QueryRow(t.Context(), `SELECT count(*) FROM functions.secrets WHERE version_id <> $1`, again.VersionID).Scan(&left))
	require.Zero(t, left, "the secrets of the deleted version are gone")
}

// dump is every row of every table of the schema, bytes written as text.
func (w *world) dump() string {
	w.t.Helper()
	return testkit.Dump(w.t, w.pool, schema)
}

func TestDetailsShowInstances(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fn := w.create("", minimal())
	require.Empty(t, w.get(admin(), fn).ActiveInstances, "no deployments service, no instances, and still an answer")

	live := instances.Brief{InstanceID: "i-1", FunctionID: fn.ID, VersionID: fn.VersionID, InstanceStatus: "RUNNING", Status: "RUNNING"}
	silent := make(chan struct{})
	var asked sync.Map
	w.serveDeployments(func(ctx context.Context, r deployments.InstancesRequest) (deployments.InstancesResponse, error) {
		if _, again := asked.LoadOrStore(r.VersionID, true); again {
			select {
			case <-silent:
			case <-ctx.Done():
			}
			return deployments.InstancesResponse{}, ctx.Err()
		}
		return deployments.InstancesResponse{Instances: []instances.Brief{live}}, nil
	})
	t.Cleanup(func() { close(silent) })
	plain := key([]access.Scope{access.ListFunctions}, resource(access.AllFunctions, "*"))
	require.Empty(t, w.get(plain, fn).ActiveInstances, "without the scope nobody even asks")
	require.Equal(t, []instances.Brief{live}, w.get(admin(), fn).ActiveInstances)

	began := time.Now()
	require.Empty(t, w.get(admin(), fn).ActiveInstances, "a deployments service that hangs is not waited for")
	require.Less(t, time.Since(began), patience/2)
}

func TestVersionsOfAFunction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.create("", minimal())
	w.setStatus(first, "d", contract.Active)
	second := minimal()
	second.Name = "another-name"
	further := w.create(strings.ToUpper(first.ID), second)
	require.Equal(t, first.ID, further.ID)
	require.NotEqual(t, first.VersionID, further.VersionID)
	require.Equal(t, contract.Inactive, further.Status)
	require.Equal(t, "another-name", further.Name)

	unknown := uuid.NewString()
	_, err := call(w, admin(), contract.Create, contract.CreateRequest{FunctionID: unknown, Spec: minimal()})
	requireProblem(t, err, problem.NotFound, fmt.Sprintf("Function id '%s': Not found in account '%s'", unknown, account))
	stranger := access.Caller{Account: "other", Kind: access.JWT, Subject: "s"}
	_, err = call(w, stranger, contract.Create, contract.CreateRequest{FunctionID: first.ID, Spec: minimal()})
	requireProblem(t, err, problem.NotFound, fmt.Sprintf("Function id '%s': Not found in account 'other'", first.ID))
}

// Newest first, and stable where the clock stands still.
func TestListsAreOrdered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var versions, functions []string
	for i := range 6 {
		if i == 3 {
			w.clock.Advance(time.Second)
		}
		fn := w.create("", minimal())
		further := w.create(fn.ID, minimal())
		versions = append([]string{further.VersionID, fn.VersionID}, versions...)
		functions = append([]string{fn.ID}, functions...)
	}
	for range 3 {
		all, err := call(w, admin(), contract.List, contract.ListRequest{})
		require.NoError(t, err)
		var got []string
		for _, fn := range all.Functions {
			got = append(got, fn.VersionID)
		}
		require.Equal(t, versions, got)
		ids, err := call(w, admin(), contract.ListIDs, contract.ListRequest{})
		require.NoError(t, err)
		require.Equal(t, functions, ids.FunctionIDs)
	}
}

func TestVisibility(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("", minimal())
	for _, c := range []struct {
		visibility []string
		want       int
	}{
		{nil, 1},
		{[]string{""}, 1},
		{[]string{"private"}, 1},
		{[]string{"PUBLIC,Private"}, 1},
		{[]string{"authorized", "private"}, 1},
		{[]string{"public", "authorized"}, 0},
	} {
		all, err := call(w, admin(), contract.List, contract.ListRequest{Visibility: c.visibility})
		require.NoError(t, err)
		require.Len(t, all.Functions, c.want, c.visibility)
		ids, err := call(w, admin(), contract.ListIDs, contract.ListRequest{Visibility: c.visibility})
		require.NoError(t, err)
		require.Len(t, ids.FunctionIDs, c.want, c.visibility)
	}
	_, err := call(w, admin(), contract.List, contract.ListRequest{Visibility: []string{"private,secret"}})
	requireProblem(t, err, problem.Validation, "visibility")
	_, err = call(w, admin(), contract.ListIDs, contract.ListRequest{Visibility: []string{"all"}})
	requireProblem(t, err, problem.Validation, "visibility")
}

// What a key may do is what its resources cover; what another account owns does not exist.
func TestCallersSeeAndChangeOnlyWhatIsTheirs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.create("", minimal())
	a2 := w.create(a.ID, minimal())
	b := w.create("", minimal())
	scopes := []access.Scope{access.ListFunctions}
	oneFunction := key(scopes, resource(access.Function, a.ID+"/*"))
	oneVersion := key(scopes, resource(access.Function, a.ID+"/"+a2.VersionID))
	everything := key(scopes, resource(access.AllFunctions, "*"))
	sharedOnly := key(scopes, resource(access.SharedFunctions, "*"))
	stranger := access.Caller{Account: "other", Kind: access.JWT, Subject: "s", Scopes: access.AdminDefaults()}

	seen := func(c access.Caller) (versions []string) {
		all, err := call(w, c, contract.List, contract.ListRequest{})
		require.NoError(t, err)
		for _, fn := range all.Functions {
			versions = append(versions, fn.VersionID)
		}
		return versions
	}
	require.Equal(t, []string{b.VersionID, a2.VersionID, a.VersionID}, seen(everything))
	require.Equal(t, []string{a2.VersionID, a.VersionID}, seen(oneFunction))
	require.Equal(t, []string{a2.VersionID}, seen(oneVersion))
	require.Empty(t, seen(sharedOnly))
	require.Empty(t, seen(stranger))
	ids, err := call(w, oneVersion, contract.ListIDs, contract.ListRequest{})
	require.NoError(t, err)
	require.Equal(t, []string{a.ID}, ids.FunctionIDs)
	some, err := call(w, oneVersion, contract.ListVersions, contract.ListVersionsRequest{FunctionID: a.ID})
	require.NoError(t, err)
	require.Len(t, some.Functions, 1)
	_, err = call(w, oneFunction, contract.ListVersions, contract.ListVersionsRequest{FunctionID: b.ID})
	requireProblem(t, err, problem.ResourceNotCovered, b.ID)
	_, err = call(w, stranger, contract.ListVersions, contract.ListVersionsRequest{FunctionID: b.ID})
	requireProblem(t, err, problem.NotFound, fmt.Sprintf("Function id '%s': Not found in account 'other'", b.ID))

	// One version, by every verb.
	verbs := map[string]func(access.Caller, contract.Function) error{
		"get": func(c access.Caller, fn contract.Function) error {
			_, err := call(w, c, contract.Get, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
			return err
		},
		"update": func(c access.Caller, fn contract.Function) error {
			_, err := call(w, c, contract.Update, contract.UpdateRequest{FunctionID: fn.ID, VersionID: fn.VersionID, Tags: &[]string{"t"}})
			return err
		},
		"delete": func(c access.Caller, fn contract.Function) error {
			_, err := call(w, c, contract.Delete, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
			return err
		},
	}
	for name, verb := range verbs {
		missing := contract.Function{ID: a.ID, VersionID: uuid.NewString()}
		mixed := contract.Function{ID: b.ID, VersionID: a.VersionID}
		for _, absent := range []contract.Function{missing, mixed} {
			requireProblem(t, verb(admin(), absent), problem.NotFound,
				fmt.Sprintf("Function id '%s', version '%s': Not found in account '%s'", absent.ID, absent.VersionID, account))
		}
		requireProblem(t, verb(stranger, a), problem.NotFound,
			fmt.Sprintf("Function id '%s', version '%s': Not found in account 'other'", a.ID, a.VersionID))
		requireProblem(t, verb(oneFunction, missing), problem.NotFound)
		requireProblem(t, verb(oneFunction, b), problem.ResourceNotCovered, b.VersionID)
		requireProblem(t, verb(oneVersion, a), problem.ResourceNotCovered, a.VersionID)
		requireProblem(t, verb(admin(), contract.Function{ID: "x", VersionID: a.VersionID}), problem.Validation, "functionId")
		requireProblem(t, verb(admin(), contract.Function{ID: a.ID, VersionID: "{" + a.VersionID + "}"}), problem.Validation, "versionId")
		requireProblem(t, verb(access.Caller{}, a), problem.Unauthorized)
		if name == "delete" {
			require.NoError(t, verb(oneVersion, a2))
			requireProblem(t, verb(oneVersion, a2), problem.NotFound)
		}
	}

	// New functions need all functions, new versions need the function.
	create := func(c access.Caller, functionID string) error {
		_, err := call(w, c, contract.Create, contract.CreateRequest{FunctionID: functionID, Spec: minimal()})
		return err
	}
	require.NoError(t, create(everything, ""))
	requireProblem(t, create(oneFunction, ""), problem.ResourceNotCovered)
	require.NoError(t, create(oneFunction, a.ID))
	requireProblem(t, create(oneFunction, b.ID), problem.ResourceNotCovered)
	requireProblem(t, create(oneVersion, a.ID), problem.ResourceNotCovered)
	requireProblem(t, create(oneFunction, uuid.NewString()), problem.NotFound)
	requireProblem(t, create(admin(), "nope"), problem.Validation, "functionId")
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	spec := minimal()
	spec.Tags = []string{"old"}
	fn := w.create("", spec, contract.Secret{Name: "s", Value: json.RawMessage(`"v"`)})
	w.setStatus(fn, "d", contract.Active)
	w.clock.Advance(time.Minute)
	update := func(body string) (contract.Function, error) {
		r := contract.UpdateRequest{FunctionID: fn.ID, VersionID: fn.VersionID}
		require.NoError(t, json.Unmarshal([]byte(body), &r))
		answer, err := call(w, admin(), contract.Update, r)
		return answer.Function, err
	}

	got, err := update(`{"tags":["b","a","b"],"description":"new","rateLimit":{"rateLimit":"5-S"}}`)
	require.NoError(t, err)
	require.Equal(t, []string{"b", "a"}, got.Tags)
	require.Equal(t, "new", got.Description)
	require.Equal(t, &contract.RateLimit{RateLimit: "5-S"}, got.RateLimit)
	require.Equal(t, contract.Active, got.Status)
	require.Empty(t, got.Secrets)
	require.Equal(t, fn.CreatedAt.Add(time.Minute), *got.LastUpdatedAt)
	require.Equal(t, got.Spec, w.get(admin(), fn).Spec)

	// The same again writes nothing.
	w.clock.Advance(time.Minute)
	again, err := update(`{"tags":["b","a"],"rateLimit":{"rateLimit":"5-S"}}`)
	require.NoError(t, err)
	require.Equal(t, got, again)

	got, err = update(`{"tags":[]}`)
	require.NoError(t, err)
	require.NotContains(t, membersOf(t, got), "tags")
	require.Equal(t, "new", got.Description, "what is not named stays")
	require.NotContains(t, membersOf(t, w.get(admin(), fn)), "tags")

	for body, field := range map[string]string{
		`{}`: "body",
		`{"tags":null,"description":null,"rateLimit":null,"modelUpdates":[]}`: "body",
		`{"description":""}`:                                 "body",
		`{"name":"other"}`:                                   "body",
		`{"tags":["ok","no spaces"]}`:                        "tags[1]",
		`{"tags":[""]}`:                                      "tags[0]",
		`{"rateLimit":{}}`:                                   "rateLimit",
		`{"rateLimit":{"rateLimit":"5-X"}}`:                  "rateLimit.rateLimit",
		`{"modelUpdates":[{"modelName":""}]}`:                "modelUpdates[0].modelName",
		`{"description":"` + strings.Repeat("é", 257) + `"}`: "description",
		`{"modelUpdates":[{"modelName":"m"}]}`:               "modelUpdates[0].llmConfig",
		`{"modelUpdates":[{"modelName":"m","llmConfig":{"routingMethod":"x"}}]}`:                                                                    "modelUpdates[0].llmConfig.routingMethod",
		`{"modelUpdates":[{"modelName":"m","llmConfig":{"tokenRateLimit":"0-S"}}]}`:                                                                 "modelUpdates[0].llmConfig.tokenRateLimit",
		`{"modelUpdates":[{"modelName":"m","llmConfig":{"routingMethod":"random"}},{"modelName":"m","llmConfig":{"routingMethod":"round-robin"}}]}`: "modelUpdates",
	} {
		_, err := update(body)
		requireProblem(t, err, problem.Validation, "field: "+field+",")
	}
	_, err = update(`{"modelUpdates":[{"modelName":"m","llmConfig":{"routingMethod":"random"}}]}`)
	requireProblem(t, err, problem.BadRequest, "LLM")

	types, _ := w.story(fn.VersionID, 5)
	require.Equal(t, []string{
		contract.Created.Type(), contract.StatusMoved.Type(), contract.Updated.Type(), contract.RateLimitUpdated.Type(), contract.Updated.Type(),
	}, types)
}

func TestDeleteInAnyState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, status := range states {
		fn := w.create("", minimal())
		events := 1
		if status != contract.Inactive {
			w.setStatus(fn, "dep", status)
			events++
		}
		_, err := call(w, admin(), contract.Delete, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
		require.NoError(t, err, status)
		_, err = call(w, admin(), contract.Get, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
		requireProblem(t, err, problem.NotFound)
		_, err = call(w, admin(), contract.ListVersions, contract.ListVersionsRequest{FunctionID: fn.ID})
		requireProblem(t, err, problem.NotFound, fn.ID) // the function is gone with its last version
		_, err = asService(w, contract.SetStatus, contract.SetStatusRequest{VersionID: fn.VersionID, Status: contract.Active})
		requireProblem(t, err, problem.NotFound, "Not found")
		_, err = asService(w, contract.Launch, contract.InternalRequest{VersionID: fn.VersionID})
		requireProblem(t, err, problem.NotFound)

		_, story := w.story(fn.VersionID, events+1)
		last, ok := bus.As[contract.Changed](story[events], contract.Deleted)
		require.True(t, ok)
		require.Equal(t, status, last.Function.Status, "the event has the last state")
	}
}

func TestSetStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fn := w.create("", minimal())
	set := func(deployment string, status contract.Status, code string) {
		t.Helper()
		_, err := asService(w, contract.SetStatus, contract.SetStatusRequest{
			VersionID: fn.VersionID, DeploymentID: deployment, Status: status, Reason: contract.Reason{Code: code},
		})
		require.NoError(t, err)
	}
	status := func() contract.Status { t.Helper(); return w.get(admin(), fn).Status }

	set("d1", contract.Deploying, "pulling")
	set("d1", contract.Deploying, "pulling")
	set("d1", contract.Deploying, "starting") // a new reason is kept, but the version did not move
	set("d1", contract.Active, "")
	require.Equal(t, contract.Active, status())
	set("d2", contract.Deploying, "")
	set("d1", contract.Inactive, "late")
	require.Equal(t, contract.Deploying, status(), "the end of the last deployment does not stop this one")
	set("d2", contract.Error, "image-pull-issues")
	set("d2", contract.Inactive, "undeployed")
	set("d2", contract.Inactive, "undeployed")
	require.Equal(t, contract.Inactive, status())

	types, events := w.story(fn.VersionID, 6)
	require.Len(t, types, 6)
	var moves []string
	for _, e := range events[1:] {
		m, ok := bus.As[contract.StatusChanged](e, contract.StatusMoved)
		require.True(t, ok, e.Type)
		require.Equal(t, m.DeploymentID, e.DeploymentID)
		require.Equal(t, fn.ID, m.FunctionID)
		moves = append(moves, fmt.Sprintf("%s %s>%s %s", m.DeploymentID, m.From, m.To, m.Reason.Code))
	}
	require.Equal(t, []string{
		"d1 INACTIVE>DEPLOYING pulling", "d1 DEPLOYING>ACTIVE ", "d2 ACTIVE>DEPLOYING ",
		"d2 DEPLOYING>ERROR image-pull-issues", "d2 ERROR>INACTIVE undeployed",
	}, moves)

	for _, bad := range []contract.Status{"", "DELETED", "active", "RUNNING"} {
		_, err := asService(w, contract.SetStatus, contract.SetStatusRequest{VersionID: fn.VersionID, Status: bad})
		requireProblem(t, err, problem.Validation, "status")
	}
	_, err := asService(w, contract.SetStatus, contract.SetStatusRequest{VersionID: uuid.NewString(), Status: contract.Active})
	requireProblem(t, err, problem.NotFound)
	_, err = asService(w, contract.SetStatus, contract.SetStatusRequest{VersionID: "v", Status: contract.Active})
	requireProblem(t, err, problem.Validation, "versionId")
}

func TestResolve(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inactive := w.create("", minimal())
	active := w.create(inactive.ID, minimal())
	failed := w.create(inactive.ID, minimal())
	resolve := func(account, version string) (contract.ResolveResponse, error) {
		return asService(w, contract.Resolve, contract.ResolveRequest{Account: account, FunctionID: inactive.ID, VersionID: version})
	}
	none, err := resolve(account, "")
	require.NoError(t, err)
	require.Equal(t, contract.ResolveResponse{FunctionID: inactive.ID, Owner: account, Targets: []contract.Target{}}, none)

	w.setStatus(active, "d", contract.Active)
	w.setStatus(failed, "e", contract.Error)
	want := func(fn contract.Function, s contract.Status) contract.Target {
		return contract.Target{VersionID: fn.VersionID, Name: "echo", Status: s, InferenceURL: "/echo", Type: contract.Default}
	}
	all, err := resolve(account, "")
	require.NoError(t, err)
	require.Equal(t, []contract.Target{want(failed, contract.Error), want(active, contract.Active)}, all.Targets)
	one, err := resolve(account, active.VersionID)
	require.NoError(t, err)
	require.Equal(t, []contract.Target{want(active, contract.Active)}, one.Targets)
	empty, err := resolve(account, inactive.VersionID)
	require.NoError(t, err)
	require.Empty(t, empty.Targets)

	_, err = resolve("other", "")
	requireProblem(t, err, problem.NotFound, fmt.Sprintf("Function id '%s': Not found in account 'other'", inactive.ID))
	_, err = resolve(account, uuid.NewString())
	requireProblem(t, err, problem.NotFound, "Not found in account")
	_, err = resolve("other", active.VersionID)
	requireProblem(t, err, problem.NotFound)
	unknown := uuid.NewString()
	_, err = asService(w, contract.Resolve, contract.ResolveRequest{Account: account, FunctionID: unknown})
	requireProblem(t, err, problem.NotFound, unknown)
	_, err = asService(w, contract.Resolve, contract.ResolveRequest{Account: account, FunctionID: "f"})
	requireProblem(t, err, problem.Validation, "functionId")
}

func llm(models ...contract.Artifact) contract.Spec {
	spec := minimal()
	spec.FunctionType, spec.APIBodyFormat, spec.Models = "llm", "openai_chat", models
	return spec
}

func llmModel(name, rate string) contract.Artifact {
	return contract.Artifact{Name: name, LLMConfig: &contract.LLMConfig{URIs: []string{"/v1/chat/completions"}, TokenRateLimit: rate}}
}

func TestLLMFamily(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	spec := llm(llmModel("m", "10-S"), llmModel("n", ""))
	spec.LLMInvocationConfig = json.RawMessage(`{"priority": {"defaultPriority": 7}}`)
	first := w.create("", spec)
	require.Equal(t, "OPENAI_CHAT", first.APIBodyFormat)
	require.Equal(t, contract.LLM, first.FunctionType)

	version := func(spec contract.Spec) error {
		_, err := call(w, admin(), contract.Create, contract.CreateRequest{FunctionID: first.ID, Spec: spec})
		return err
	}
	requireProblem(t, version(minimal()), problem.BadRequest, "functionType")
	plain := w.create("", minimal())
	_, err := call(w, admin(), contract.Create, contract.CreateRequest{FunctionID: plain.ID, Spec: llm(llmModel("m", ""))})
	requireProblem(t, err, problem.BadRequest, "functionType")
	moved := llmModel("m", "")
	moved.LLMConfig.URIs = []string{"/v1/embeddings"}
	requireProblem(t, version(llm(moved)), problem.BadRequest, `"m"`)
	tokenizer := llmModel("m", "")
	tokenizer.LLMConfig.Tokenizer = "other"
	requireProblem(t, version(llm(tokenizer)), problem.BadRequest, `"m"`)

	// A new version tells its limits to the others, and inherits the priorities.
	second := w.create(first.ID, llm(llmModel("m", "20-S")))
	require.JSONEq(t, `{"priority":{"defaultPriority":7}}`, string(second.LLMInvocationConfig))
	rate := func(fn contract.Function, i int) string { return w.get(admin(), fn).Models[i].LLMConfig.TokenRateLimit }
	require.Equal(t, "20-S", rate(first, 0))
	require.Empty(t, rate(first, 1))

	// So does an update.
	updated, err := call(w, admin(), contract.Update, contract.UpdateRequest{FunctionID: first.ID, VersionID: first.VersionID, ModelUpdates: []contract.ModelUpdate{
		{ModelName: "m", LLMConfig: contract.LLMConfig{TokenRateLimit: "30-S", RoutingMethod: "ROUND_ROBIN"}},
	}})
	require.NoError(t, err)
	require.Equal(t, "30-S", updated.Function.Models[0].LLMConfig.TokenRateLimit)
	require.Equal(t, "30-S", rate(second, 0))
	require.Equal(t, "ROUND_ROBIN", w.get(admin(), second).Models[0].LLMConfig.RoutingMethod)
	_, err = call(w, admin(), contract.Update, contract.UpdateRequest{FunctionID: first.ID, VersionID: second.VersionID, LLMInvocationConfig: json.RawMessage(`{ "priority": {"defaultPriority": 9} }`)})
	require.NoError(t, err)
	require.JSONEq(t, `{"priority":{"defaultPriority":9}}`, string(w.get(admin(), first).LLMInvocationConfig))
	_, err = call(w, admin(), contract.Update, contract.UpdateRequest{FunctionID: plain.ID, VersionID: plain.VersionID, LLMInvocationConfig: json.RawMessage(`{}`)})
	requireProblem(t, err, problem.BadRequest, "LLM")
	types, _ := w.story(second.VersionID, 3)
	require.Equal(t, []string{contract.Created.Type(), contract.Updated.Type(), contract.Updated.Type()}, types)
	_, err = call(w, admin(), contract.Update, contract.UpdateRequest{FunctionID: first.ID, VersionID: second.VersionID, ModelUpdates: []contract.ModelUpdate{
		{ModelName: "n", LLMConfig: contract.LLMConfig{TokenRateLimit: "30-S"}},
	}})
	requireProblem(t, err, problem.NotFound, "Not found")
}

func TestMigrationsCanBeUndone(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, schema, app.Migrations(migrations))
	require.NoError(t, store.MigrateDown(t.Context(), pool, schema, app.Migrations(migrations)))
	require.NoError(t, store.Migrate(t.Context(), pool, schema, app.Migrations(migrations)))
	records, err := store.NewKeyring(pool, schema, sealedColumns()...).Keys(t.Context())
	require.NoError(t, err)
	require.Empty(t, records)
}

func TestUnknownTelemetryIsNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	spec := minimal()
	id := uuid.NewString()
	spec.Telemetries = &contract.Telemetries{Metrics: id}
	_, err := call(w, admin(), contract.Create, contract.CreateRequest{Spec: spec})
	requireProblem(t, err, problem.NotFound, fmt.Sprintf("Account '%s' Telemetry '%s': Not found", account, id))
}

func TestLargeSpecifications(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	spec := minimal()
	spec.ContainerEnvironment = []contract.EnvironmentEntry{{Key: "BIG", Value: strings.Repeat("x", 3<<19)}}
	fn := w.create("", spec)
	_, events := w.story(fn.VersionID, 1)
	require.Greater(t, len(events[0].Data), 3<<19, "what is accepted has its event")
	// The largest body that a client may send fits, with what its defaults add.
	const body = 6 << 20
	spec.ContainerEnvironment[0].Value = ""
	text, err := json.Marshal(spec)
	require.NoError(t, err)
	spec.ContainerEnvironment[0].Value = strings.Repeat("x", body-len(text))
	fn = w.create("", spec)
	_, events = w.story(fn.VersionID, 1)
	require.Greater(t, len(events[0].Data), body)
	require.Len(t, w.get(admin(), fn).ContainerEnvironment[0].Value, body-len(text))
	spec.ContainerEnvironment[0].Value = strings.Repeat("x", 7<<20)
	_, err = call(w, admin(), contract.Create, contract.CreateRequest{Spec: spec})
	requireProblem(t, err, problem.TooLarge)
}

// Many writers at once: every version is created once, deleted once and never moved after its end.
func TestConcurrentWriters(t *testing.T) {
	t.Parallel()
	const writers, rounds = 6, 4
	w := newWorld(t)
	family := w.create("", llm(llmModel("m", "1-S")))
	fn := w.create("", minimal())
	var all sync.WaitGroup
	var mu sync.Mutex
	deleted, missing := map[string]int{}, 0
	for i := range writers {
		all.Go(func() {
			for round := range rounds {
				created, err := call(w, admin(), contract.Create, contract.CreateRequest{FunctionID: fn.ID, Spec: minimal()})
				if err != nil {
					t.Errorf("create: %v", err)
					return
				}
				_, err = call(w, admin(), contract.Create, contract.CreateRequest{FunctionID: family.ID, Spec: llm(llmModel("m", fmt.Sprintf("%d-S", 1+i*rounds+round)))})
				if err != nil {
					t.Errorf("create in the family: %v", err)
				}
				version := created.Function.VersionID
				var rivals sync.WaitGroup
				for rival := range 3 {
					rivals.Go(func() {
						var err error
						if rival == 0 {
							_, err = asService(w, contract.SetStatus, contract.SetStatusRequest{VersionID: version, DeploymentID: "d", Status: contract.Deploying})
							if err == nil || problem.HasCode(err, problem.NotFound) {
								return
							}
						} else {
							_, err = call(w, admin(), contract.Delete, contract.VersionRequest{FunctionID: fn.ID, VersionID: version})
						}
						mu.Lock()
						defer mu.Unlock()
						switch {
						case err == nil:
							deleted[version]++
						case problem.HasCode(err, problem.NotFound):
							missing++
						default:
							t.Errorf("unexpected: %v", err)
						}
					})
				}
				rivals.Wait()
			}
		})
	}
	all.Wait()
	require.Len(t, deleted, writers*rounds)
	require.Equal(t, writers*rounds, missing, "of two deletes one finds nothing")
	for version, times := range deleted {
		require.Equal(t, 1, times)
		types, _ := w.story(version, 2)
		require.Equal(t, contract.Created.Type(), types[0])
		if types[1] != contract.Deleted.Type() { // it had moved before
			types, _ = w.story(version, 3)
		}
		require.Equal(t, contract.Deleted.Type(), types[len(types)-1])
	}
	left, err := call(w, admin(), contract.ListVersions, contract.ListVersionsRequest{FunctionID: fn.ID})
	require.NoError(t, err)
	require.Len(t, left.Functions, 1)

	// Whoever came last told everybody, so the family agrees.
	kin, err := call(w, admin(), contract.ListVersions, contract.ListVersionsRequest{FunctionID: family.ID})
	require.NoError(t, err)
	require.Len(t, kin.Functions, 1+writers*rounds)
	for _, k := range kin.Functions {
		require.Equal(t, kin.Functions[0].Models[0].LLMConfig.TokenRateLimit, k.Models[0].LLMConfig.TokenRateLimit)
	}
}

func mustJSON(tb testing.TB, v any) string {
	tb.Helper()
	text, err := json.Marshal(v)
	require.NoError(tb, err)
	return string(text)
}
