package functions

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// put sends the body of a request to change secrets.
func (w *world) put(c access.Caller, fn contract.Function, secrets string) error {
	w.t.Helper()
	r := contract.SecretsRequest{FunctionID: fn.ID, VersionID: fn.VersionID}
	require.NoError(w.t, json.Unmarshal([]byte(`{"secrets":`+secrets+`}`), &r))
	_, err := call(w, c, contract.PutSecrets, r)
	return err
}

// values are what an instance would get.
func (w *world) values(fn contract.Function) map[string]string {
	w.t.Helper()
	l, err := asService(w, contract.Launch, contract.InternalRequest{VersionID: fn.VersionID})
	require.NoError(w.t, err)
	values := map[string]string{}
	for _, s := range l.Secrets {
		values[s.Name] = string(s.Value)
	}
	return values
}

// Secrets merge by name, in any state once there are some, and nobody but the instance sees a value.
func TestSecretsChange(t *testing.T) {
	t.Parallel()
	const canary = "canary-91fe"
	w := newWorld(t)
	fn := w.create("", minimal(), contract.Secret{Name: "old", Value: json.RawMessage(`"` + canary + `-0"`)})
	w.setStatus(fn, "d", contract.Active)
	w.clock.Advance(time.Minute)
	require.NoError(t, w.put(admin(), fn, `[{"name":"new","value":{"k":"`+canary+`-1"}},{"name":"old","value":"`+canary+`-2"}]`))
	require.Equal(t, map[string]string{"old": `"` + canary + `-2"`, "new": `{"k":"` + canary + `-1"}`}, w.values(fn))
	w.clock.Advance(time.Minute)
	require.NoError(t, w.put(admin(), fn, `[{"name":"third","value":"`+canary+`-3"},{"name":"old","value":null}]`))
	require.Equal(t, []string{"new", "third"}, w.get(admin(), fn).Secrets)
	names, err := call(w, admin(), contract.ListSecrets, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
	require.NoError(t, err)
	require.Equal(t, []contract.SecretName{
		{Name: "new", LastUpdatedAt: fn.CreatedAt.Add(time.Minute)}, {Name: "third", LastUpdatedAt: fn.CreatedAt.Add(2 * time.Minute)},
	}, names.Secrets)
	_, err = call(w, admin(), contract.DeleteSecret, contract.SecretRequest{FunctionID: fn.ID, VersionID: fn.VersionID, Name: "third"})
	require.NoError(t, err)
	_, err = call(w, admin(), contract.DeleteSecret, contract.SecretRequest{FunctionID: fn.ID, VersionID: fn.VersionID, Name: "third"})
	requireProblem(t, err, problem.NotFound, "Not found")
	requireProblem(t, w.put(admin(), fn, `[{"name":"absent","value":null}]`), problem.NotFound, "absent")

	_, events := w.story(fn.VersionID, 5)
	var changes []contract.SecretsChanged
	for _, e := range events {
		require.NotContains(t, string(e.Data), canary)
		if c, ok := bus.As[contract.SecretsChanged](e, contract.SecretsUpdated); ok {
			changes = append(changes, c)
		}
	}
	require.Equal(t, []contract.SecretsChanged{
		{FunctionID: fn.ID, VersionID: fn.VersionID, Changed: []string{"new", "old"}},
		{FunctionID: fn.ID, VersionID: fn.VersionID, Changed: []string{"third"}, Deleted: []string{"old"}},
		{FunctionID: fn.ID, VersionID: fn.VersionID, Deleted: []string{"third"}},
	}, changes)
	require.NotContains(t, w.dump(), canary)
	for _, line := range w.logs.All() {
		require.NotContains(t, fmt.Sprint(line.Message, line.ContextMap()), canary)
	}

	// The first secrets need an inactive version.
	bare := w.create("", minimal())
	for _, status := range states[1:] {
		w.setStatus(bare, "d", status)
		requireProblem(t, w.put(admin(), bare, `[{"name":"a","value":"v"}]`), problem.IllegalState, "INACTIVE")
	}
	w.setStatus(bare, "d", contract.Inactive)
	require.NoError(t, w.put(admin(), bare, `[{"name":"a","value":"v"}]`))
	w.setStatus(bare, "d2", contract.Active)
	require.NoError(t, w.put(admin(), bare, `[{"name":"b","value":"v"}]`))

	for body, field := range map[string]string{
		`[]`:   "secrets",
		`null`: "secrets",
		`[{"name":"a","value":"1"},{"name":"a","value":"2"}]`:  "secrets",
		`[{"name":"a","value":"1"},{"name":"a","value":null}]`: "secrets",
		`[{"name":"_a","value":"1"}]`:                          "secrets[0].name",
		`[{"name":"_a","value":null}]`:                         "secrets[0].name",
		`[{"name":"a","value":" "}]`:                           "secrets[0].value",
		`[{"name":"a","value":7}]`:                             "secrets[0].value",
		`[{"name":"a"}]`:                                       "secrets[0].value",
		`[{"name":"a","value":` + quoted(32769) + `}]`:         "secrets[0].value",
	} {
		requireProblem(t, w.put(admin(), fn, body), problem.Validation, "field: "+field+",")
	}
	_, err = call(w, admin(), contract.DeleteSecret, contract.SecretRequest{FunctionID: fn.ID, VersionID: fn.VersionID, Name: "no name"})
	requireProblem(t, err, problem.Validation, "name")

	// Others.
	scopes := []access.Scope{access.UpdateSecrets}
	require.NoError(t, w.put(key(scopes, resource(access.Function, fn.ID+"/"+fn.VersionID)), fn, `[{"name":"new","value":"v"}]`))
	narrow := key(scopes, resource(access.Function, bare.ID+"/*"))
	requireProblem(t, w.put(narrow, fn, `[{"name":"new","value":"v"}]`), problem.ResourceNotCovered)
	requireProblem(t, w.put(adminOf("other"), fn, `[{"name":"new","value":"v"}]`), problem.NotFound, "Not found in account 'other'")
	requireProblem(t, w.put(admin(), contract.Function{ID: fn.ID, VersionID: uuid.NewString()}, `[{"name":"new","value":"v"}]`), problem.NotFound)
	_, err = call(w, narrow, contract.ListSecrets, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
	requireProblem(t, err, problem.ResourceNotCovered)
	_, err = call(w, narrow, contract.DeleteSecret, contract.SecretRequest{FunctionID: fn.ID, VersionID: fn.VersionID, Name: "new"})
	requireProblem(t, err, problem.ResourceNotCovered)
}

// All secrets together must fit into the message to the node.
func TestSecretsFit(t *testing.T) {
	t.Parallel()
	sealed := func(name string, size int) []sealedSecret {
		return []sealedSecret{{name: name, value: make([]byte, size)}}
	}
	spec := minimal()
	const most = maxRequest - 1000
	require.NoError(t, fitsWith(spec, nil, sealed("a", most), nil))
	requireProblem(t, fitsWith(spec, nil, sealed("a", maxRequest), nil), problem.TooLarge)
	requireProblem(t, fitsWith(spec, sealed("a", most), sealed("b", 1000), nil), problem.TooLarge)
	require.NoError(t, fitsWith(spec, sealed("a", most), sealed("a", most), nil), "what is replaced does not count")
	require.NoError(t, fitsWith(spec, sealed("a", most), sealed("b", most), []string{"a"}), "nor what is deleted")
	spec.ContainerArgs = string(make([]byte, most))
	requireProblem(t, fitsWith(spec, nil, sealed("a", 1000), nil), problem.TooLarge)
}

func TestRateLimitComesAndGoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fn := w.create("", minimal())
	one := contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID}
	_, err := call(w, admin(), contract.Update, contract.UpdateRequest{FunctionID: fn.ID, VersionID: fn.VersionID, RateLimit: &contract.RateLimit{RateLimit: "5-S"}})
	require.NoError(t, err)
	_, err = call(w, admin(), contract.RemoveRateLimit, one)
	require.NoError(t, err)
	require.NotContains(t, membersOf(t, w.get(admin(), fn)), "rateLimit")
	_, err = call(w, admin(), contract.RemoveRateLimit, one)
	require.NoError(t, err, "what is gone may go again")
	types, events := w.story(fn.VersionID, 5)
	require.Equal(t, []string{
		contract.Created.Type(), contract.Updated.Type(), contract.RateLimitUpdated.Type(), contract.Updated.Type(), contract.RateLimitUpdated.Type(),
	}, types)
	last, ok := bus.As[contract.RateLimitChanged](events[4], contract.RateLimitUpdated)
	require.True(t, ok)
	require.Nil(t, last.RateLimit)
	_, err = call(w, adminOf("other"), contract.RemoveRateLimit, one)
	requireProblem(t, err, problem.NotFound)
}

// An empty body clears the tags on the path of old, and is refused on the other.
func TestMetadataPathClearsTags(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	spec := minimal()
	spec.Tags = []string{"a"}
	fn := w.create("", spec)
	empty := contract.UpdateRequest{FunctionID: fn.ID, VersionID: fn.VersionID}
	_, err := call(w, admin(), contract.Update, empty)
	requireProblem(t, err, problem.Validation)
	got, err := call(w, admin(), contract.UpdateMetadata, contract.MetadataRequest{UpdateRequest: empty})
	require.NoError(t, err)
	require.NotContains(t, membersOf(t, got.Function), "tags")
	described := empty
	text := "new"
	described.Description = &text
	_, err = call(w, admin(), contract.Update, contract.UpdateRequest{FunctionID: fn.ID, VersionID: fn.VersionID, Tags: &[]string{"b"}})
	require.NoError(t, err)
	got, err = call(w, admin(), contract.UpdateMetadata, contract.MetadataRequest{UpdateRequest: described})
	require.NoError(t, err)
	require.Equal(t, []string{"b"}, got.Function.Tags, "a body with something in it changes only that")
}

// A change that names a revision happens to that one only.
func TestIfMatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	created, err := call(w, admin(), contract.Create, contract.CreateRequest{Spec: minimal(), Secrets: []contract.Secret{{Name: "s", Value: json.RawMessage(`"v"`)}}})
	require.NoError(t, err)
	fn := created.Function
	get := func() string {
		t.Helper()
		answer, err := call(w, admin(), contract.Get, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
		require.NoError(t, err)
		return answer.ETag
	}
	require.Equal(t, created.ETag, get())
	update := func(match, tag string) (string, error) {
		answer, err := call(w, admin(), contract.Update, contract.UpdateRequest{FunctionID: fn.ID, VersionID: fn.VersionID, Tags: &[]string{tag}, IfMatch: match})
		return answer.ETag, err
	}
	second, err := update(created.ETag, "a")
	require.NoError(t, err)
	require.NotEqual(t, created.ETag, second)
	require.Equal(t, second, get())
	_, err = update(created.ETag, "b")
	requireProblem(t, err, problem.PreconditionFailed, second)
	third, err := update(`"x", `+second, "b")
	require.NoError(t, err)
	same, err := update("*", "b")
	require.NoError(t, err)
	require.Equal(t, third, same, "nothing changed, so the revision did not")

	_, err = call(w, admin(), contract.PutSecrets, contract.SecretsRequest{FunctionID: fn.ID, VersionID: fn.VersionID, IfMatch: second, Secrets: []contract.Secret{{Name: "s", Value: json.RawMessage(`"w"`)}}})
	requireProblem(t, err, problem.PreconditionFailed)
	require.NoError(t, w.put(admin(), fn, `[{"name":"s","value":"w"}]`))
	require.NotEqual(t, third, get(), "secrets are part of a revision")
	_, err = call(w, admin(), contract.RemoveRateLimit, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID, IfMatch: third})
	requireProblem(t, err, problem.PreconditionFailed)
	_, err = call(w, admin(), contract.Delete, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID, IfMatch: third})
	requireProblem(t, err, problem.PreconditionFailed)
	_, err = call(w, admin(), contract.Delete, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID, IfMatch: get()})
	require.NoError(t, err)
}

// The same creation with the same key happens once, however often and however closely it is sent.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	const canary = "canary-idem-55"
	w := newWorld(t)
	request := contract.CreateRequest{Spec: minimal(), IdempotencyKey: "key-1", Secrets: []contract.Secret{{Name: "s", Value: json.RawMessage(`"` + canary + `"`)}}}
	const rivals = 6
	answers := make([]contract.FunctionResponse, rivals)
	var all sync.WaitGroup
	for i := range rivals {
		all.Go(func() {
			var err error
			if answers[i], err = call(w, admin(), contract.Create, request); err != nil {
				t.Errorf("create: %v", err)
			}
		})
	}
	all.Wait()
	for _, a := range answers {
		require.Equal(t, answers[0], a)
	}
	require.Len(t, w.seen(admin(), contract.ListRequest{}), 1)

	other := request
	other.Name = "another"
	_, err := call(w, admin(), contract.Create, other)
	requireProblem(t, err, problem.Unprocessable, "Idempotency-Key")
	other = request
	other.Secrets = []contract.Secret{{Name: "s", Value: json.RawMessage(`"another"`)}}
	_, err = call(w, admin(), contract.Create, other)
	requireProblem(t, err, problem.Unprocessable)
	version := request
	version.FunctionID, version.IdempotencyKey = answers[0].Function.ID, "key-2"
	first, err := call(w, admin(), contract.Create, version)
	require.NoError(t, err)
	again, err := call(w, admin(), contract.Create, version)
	require.NoError(t, err)
	require.Equal(t, first, again)

	elsewhere, err := call(w, adminOf("other"), contract.Create, request)
	require.NoError(t, err)
	require.NotEqual(t, answers[0].Function.ID, elsewhere.Function.ID, "a key belongs to its account")
	refused := request
	refused.IdempotencyKey, refused.Name = "key-3", "not a name"
	_, err = call(w, admin(), contract.Create, refused)
	requireProblem(t, err, problem.Validation)
	refused.Name = "name"
	_, err = call(w, admin(), contract.Create, refused)
	require.NoError(t, err, "what was refused may be corrected under the same key")

	var kept string
	require.NoError(t, w.pool.QueryRow(t.Context(), `SELECT string_agg(encode(answer, 'escape'), ' ') FROM functions.idempotency`).Scan(&kept))
	require.NotContains(t, kept, canary)
	memory := store.NewIdempotency(schema)
	forgotten, err := memory.Prune(t.Context(), w.pool, w.clock.Now().Add(store.IdempotencyLife-time.Second))
	require.NoError(t, err)
	require.Zero(t, forgotten)
	forgotten, err = memory.Prune(t.Context(), w.pool, w.clock.Now().Add(store.IdempotencyLife))
	require.NoError(t, err)
	require.Positive(t, forgotten)
	late, err := call(w, admin(), contract.Create, request)
	require.NoError(t, err)
	require.NotEqual(t, answers[0].Function.ID, late.Function.ID, "after a day the key is new")
}

// The limit of an account counts functions, not versions, and rivals cannot pass it together.
func TestFunctionsAllowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	create := func(functionID string) (contract.Function, error) {
		answer, err := call(w, adminOf("small"), contract.Create, contract.CreateRequest{FunctionID: functionID, Spec: minimal()})
		return answer.Function, err
	}
	first, err := create("")
	require.NoError(t, err)
	further, err := create(first.ID)
	require.NoError(t, err)
	var all sync.WaitGroup
	var mu sync.Mutex
	made, refused := 0, 0
	for range 5 {
		all.Go(func() {
			_, err := create("")
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				made++
			case problem.HasCode(err, problem.IllegalState):
				refused++
			default:
				t.Errorf("unexpected: %v", err)
			}
		})
	}
	all.Wait()
	require.Equal(t, []int{1, 4}, []int{made, refused})
	_, err = create("")
	requireProblem(t, err, problem.IllegalState, "maxFunctionsAllowed is 2")
	_, err = create(first.ID)
	require.NoError(t, err, "versions are not functions")

	remove := func(fn contract.Function) {
		_, err := call(w, adminOf("small"), contract.Delete, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
		require.NoError(t, err)
	}
	remove(further)
	_, err = create("")
	requireProblem(t, err, problem.IllegalState)
	versions, err := call(w, adminOf("small"), contract.ListVersions, contract.ListVersionsRequest{FunctionID: first.ID})
	require.NoError(t, err)
	for _, fn := range versions.Functions {
		remove(fn)
	}
	_, err = create("")
	require.NoError(t, err, "with its last version a function makes room")
}

func TestVersionsAllowed(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, Config{MaxVersions: 2})
	fn := w.create("", minimal())
	w.create(fn.ID, minimal())
	_, err := call(w, admin(), contract.Create, contract.CreateRequest{FunctionID: fn.ID, Spec: minimal()})
	requireProblem(t, err, problem.IllegalState, "SIROCCO_FUNCTIONS_MAX_VERSIONS")
}
