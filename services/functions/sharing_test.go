package functions

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// adminOf is the administrator of an account, super one who acts in that account from outside.
func adminOf(name string) access.Caller {
	c := admin()
	c.Account = name
	return c
}

func super(name string) access.Caller {
	c := adminOf(name)
	c.CrossAccount, c.Scopes = true, nil
	return c
}

func partiesOf(accounts ...string) []contract.Party {
	list := []contract.Party{}
	for _, a := range accounts {
		list = append(list, contract.Party{NCAID: a})
	}
	return list
}

func target1(fn contract.Function) contract.ShareTarget {
	return contract.ShareTarget{FunctionID: fn.ID}
}

func target2(fn contract.Function) contract.ShareTarget {
	return contract.ShareTarget{FunctionID: fn.ID, VersionID: fn.VersionID}
}

func (w *world) share(c access.Caller, t contract.ShareTarget, accounts ...string) error {
	_, err := call(w, c, contract.Share, contract.ShareRequest{ShareTarget: t, AuthorizedParties: partiesOf(accounts...)})
	return err
}

// seen is what a caller lists, by version.
func (w *world) seen(c access.Caller, r contract.ListRequest) (versions []string) {
	w.t.Helper()
	all, err := call(w, c, contract.List, r)
	require.NoError(w.t, err)
	for _, fn := range all.Functions {
		versions = append(versions, fn.VersionID)
	}
	return versions
}

// Two levels are kept apart, shown together, and changed by every verb of §5.
func TestParties(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fn := w.create("", minimal())
	other := w.create(fn.ID, minimal())
	partyOf := func(account string) contract.SharePartyRequest {
		return contract.SharePartyRequest{ShareTarget: target1(fn), AuthorizedParty: &contract.Party{NCAID: account}}
	}
	versionPartyOf := func(account string) contract.SharePartyRequest {
		r := partyOf(account)
		r.VersionID = fn.VersionID
		return r
	}

	none, err := call(w, admin(), contract.GetShared, target2(fn))
	require.NoError(t, err)
	require.JSONEq(t, fmt.Sprintf(`{"function":{"id":%q,"ncaId":%q,"versionId":%q,"authorizedParties":[]}}`, fn.ID, account, fn.VersionID), mustJSON(t, none))
	_, err = call(w, admin(), contract.AddParty, partyOf("a"))
	requireProblem(t, err, problem.NotFound, "Not found")
	_, err = call(w, admin(), contract.RemoveParty, partyOf("a"))
	requireProblem(t, err, problem.NotFound, "Not found")

	shared, err := call(w, admin(), contract.Share, contract.ShareRequest{ShareTarget: target1(fn), AuthorizedParties: []contract.Party{
		{NCAID: "a", ClientID: "client-of-a"}, {NCAID: "b"},
	}})
	require.NoError(t, err)
	require.JSONEq(t, fmt.Sprintf(`{"function":{"id":%q,"ncaId":%q,"authorizedParties":[{"ncaId":"a","clientId":"client-of-a"},{"ncaId":"b"}]}}`, fn.ID, account), mustJSON(t, shared))
	versioned, err := call(w, admin(), contract.Share, contract.ShareRequest{ShareTarget: target2(fn), AuthorizedParties: partiesOf("c", "b")})
	require.NoError(t, err)
	require.Equal(t, contract.Shared{ID: fn.ID, NCAID: account, VersionID: fn.VersionID, AuthorizedParties: partiesOf("c", "b")}, versioned.Function)

	added, err := call(w, admin(), contract.AddParty, partyOf("d"))
	require.NoError(t, err)
	require.Len(t, added.Function.AuthorizedParties, 3)
	require.Empty(t, added.Function.VersionID)
	_, err = call(w, admin(), contract.AddParty, partyOf("d"))
	requireProblem(t, err, problem.Conflict)
	_, err = call(w, admin(), contract.RemoveParty, partyOf("c"))
	requireProblem(t, err, problem.NotFound) // it is one of the version, not of the function
	removed, err := call(w, admin(), contract.RemoveParty, versionPartyOf("b"))
	require.NoError(t, err)
	require.Equal(t, partiesOf("c"), removed.Function.AuthorizedParties)
	_, err = call(w, admin(), contract.RemoveParty, versionPartyOf("b"))
	requireProblem(t, err, problem.NotFound)

	merged, err := call(w, admin(), contract.GetShared, target2(fn))
	require.NoError(t, err)
	require.Equal(t, []contract.Party{{NCAID: "a", ClientID: "client-of-a"}, {NCAID: "b"}, {NCAID: "d"}, {NCAID: "c"}}, merged.Function.AuthorizedParties)
	all, err := call(w, admin(), contract.ListShared, target1(fn))
	require.NoError(t, err)
	require.Len(t, all.Functions, 2)
	require.Equal(t, other.VersionID, all.Functions[0].VersionID)
	require.Len(t, all.Functions[0].AuthorizedParties, 3)

	// A new version inherits what the function has, and only that.
	heir := w.create(fn.ID, minimal())
	inherited, err := call(w, admin(), contract.GetShared, target2(heir))
	require.NoError(t, err)
	require.Equal(t, all.Functions[0].AuthorizedParties, inherited.Function.AuthorizedParties)

	gone, err := call(w, admin(), contract.Unshare, target1(fn))
	require.NoError(t, err)
	require.JSONEq(t, fmt.Sprintf(`{"function":{"id":%q,"ncaId":%q}}`, fn.ID, account), mustJSON(t, gone))
	left, err := call(w, admin(), contract.GetShared, target2(fn))
	require.NoError(t, err)
	require.Equal(t, partiesOf("c"), left.Function.AuthorizedParties)
	gone, err = call(w, admin(), contract.Unshare, target2(fn))
	require.NoError(t, err)
	require.Equal(t, fn.VersionID, gone.Function.VersionID)

	_, events := w.story(fn.VersionID, 7)
	last, ok := bus.As[contract.AuthorizationsChanged](events[len(events)-1], contract.AuthorizationsUpdated)
	require.True(t, ok, events[len(events)-1].Type)
	require.Equal(t, contract.AuthorizationsChanged{FunctionID: fn.ID, VersionID: fn.VersionID, Accounts: []string{}}, last)
}

func TestBadParties(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fn := w.create("", minimal())
	require.NoError(t, w.share(admin(), target1(fn), "a"))
	for _, level := range []contract.ShareTarget{target1(fn), target2(fn)} {
		for body, field := range map[string]string{
			`{}`:                       "authorizedParties",
			`{"authorizedParties":[]}`: "authorizedParties",
			`{"authorizedParties":[{"ncaId":"b"},{"ncaId":"b"}]}`:        "authorizedParties",
			`{"authorizedParties":[{"ncaId":"nvcf-default"}]}`:           "authorizedParties[0].ncaId",
			`{"authorizedParties":[{"ncaId":" "}]}`:                      "authorizedParties[0].ncaId",
			`{"authorizedParties":[{"ncaId":"b","clientId":"  "}]}`:      "authorizedParties[0].clientId",
			`{"authorizedParties":[{"ncaId":"b"},{"ncaId":"nobody"}]}`:   "authorizedParties[1].ncaId",
			`{"authorizedParties":[{"ncaId":"b","clientId":"another"}]}`: "authorizedParties[0].clientId",
			`{"authorizedParties":[{"ncaId":"*"}]}`:                      "authorizedParties[0].ncaId",
		} {
			r := contract.ShareRequest{}
			require.NoError(t, json.Unmarshal([]byte(body), &r))
			r.ShareTarget = level
			_, err := call(w, admin(), contract.Share, r)
			requireProblem(t, err, problem.Validation, "field: "+field+",")
		}
		for _, bad := range [][]contract.Party{{{NCAID: "*"}, {NCAID: "b"}}, {{NCAID: "*", ClientID: "c"}}} {
			_, err := call(w, super(account), contract.Share, contract.ShareRequest{ShareTarget: level, AuthorizedParties: bad})
			requireProblem(t, err, problem.Validation, "alone")
		}
		for _, e := range []rpc.Endpoint[contract.SharePartyRequest, contract.SharedResponse]{contract.AddParty, contract.RemoveParty} {
			_, err := call(w, super(account), e, contract.SharePartyRequest{ShareTarget: level, AuthorizedParty: &contract.Party{NCAID: "*"}})
			requireProblem(t, err, problem.Validation, "authorizedParty.ncaId")
			_, err = call(w, admin(), e, contract.SharePartyRequest{ShareTarget: level})
			requireProblem(t, err, problem.Validation, "authorizedParty")
		}
	}
	_, err := call(w, admin(), contract.AddParty, contract.SharePartyRequest{ShareTarget: target1(fn), AuthorizedParty: &contract.Party{NCAID: "nobody"}})
	requireProblem(t, err, problem.Validation, "authorizedParty.ncaId")

	// Unknown and foreign ones are not found, by every verb; a key without the function is refused.
	absent := contract.Function{ID: fn.ID, VersionID: uuid.NewString()}
	narrow := key([]access.Scope{access.AuthorizeClients}, resource(access.Function, uuid.NewString()+"/*"))
	for _, c := range []struct {
		caller access.Caller
		target contract.ShareTarget
		code   problem.Code
	}{
		{admin(), contract.ShareTarget{FunctionID: uuid.NewString()}, problem.NotFound},
		{admin(), target2(absent), problem.NotFound},
		{adminOf("a"), target1(fn), problem.NotFound},
		{adminOf("a"), target2(fn), problem.NotFound},
		{narrow, target1(fn), problem.ResourceNotCovered},
		{narrow, target2(fn), problem.ResourceNotCovered},
		{admin(), contract.ShareTarget{FunctionID: "f"}, problem.Validation},
		{admin(), contract.ShareTarget{FunctionID: fn.ID, VersionID: "v"}, problem.Validation},
	} {
		party := contract.SharePartyRequest{ShareTarget: c.target, AuthorizedParty: &contract.Party{NCAID: "z"}}
		get := func() error {
			if c.target.VersionID == "" {
				_, err := call(w, c.caller, contract.ListShared, c.target)
				return err
			}
			_, err := call(w, c.caller, contract.GetShared, c.target)
			return err
		}
		_, addErr := call(w, c.caller, contract.AddParty, party)
		_, removeErr := call(w, c.caller, contract.RemoveParty, party)
		_, clearErr := call(w, c.caller, contract.Unshare, c.target)
		for _, err := range []error{w.share(c.caller, c.target, "z"), addErr, removeErr, clearErr, get()} {
			requireProblem(t, err, c.code)
		}
	}
}

// Another account may list, get and invoke what is shared with it, sees nothing of what runs inside, and can change nothing.
func TestSharedFunctions(t *testing.T) {
	t.Parallel()
	const friend = "friend"
	w := newWorld(t)
	spec := minimal()
	spec.Tags, spec.InferencePort, spec.ContainerArgs = []string{"t"}, 9000, "serve"
	spec.ContainerEnvironment = []contract.EnvironmentEntry{{Key: "A", Value: "b"}}
	spec.Models = []contract.Artifact{{Name: "m", Version: "1", URI: "https://h/m/files"}}
	spec.Resources = []contract.Artifact{{Name: "r", Version: "1", URI: "https://h/r/files"}}
	spec.RateLimit = &contract.RateLimit{RateLimit: "1-S"}
	fn := w.create("", spec, contract.Secret{Name: "s", Value: json.RawMessage(`"v"`)})
	hidden := w.create(fn.ID, minimal())
	w.setStatus(fn, "d", contract.Active)
	w.setStatus(hidden, "e", contract.Active)
	resolve := func(version string) (contract.ResolveResponse, error) {
		return asService(w, contract.Resolve, contract.ResolveRequest{Account: friend, FunctionID: fn.ID, VersionID: version})
	}
	_, err := resolve("")
	requireProblem(t, err, problem.NotFound)

	require.NoError(t, w.share(admin(), target2(fn), friend))
	require.Equal(t, []string{fn.VersionID}, w.seen(adminOf(friend), contract.ListRequest{}))
	require.Equal(t, []string{fn.VersionID}, w.seen(adminOf(friend), contract.ListRequest{Visibility: []string{"authorized"}}))
	require.Empty(t, w.seen(adminOf(friend), contract.ListRequest{Visibility: []string{"private,public"}}))
	require.Empty(t, w.seen(adminOf("stranger"), contract.ListRequest{}))
	require.Equal(t, []string{hidden.VersionID, fn.VersionID}, w.seen(admin(), contract.ListRequest{Visibility: []string{"private"}}), "it stays the owner's")

	got, err := call(w, adminOf(friend), contract.Get, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
	require.NoError(t, err)
	view := membersOf(t, got.Function)
	require.Equal(t, true, view["ownedByDifferentAccount"])
	require.Equal(t, account, view["ncaId"])
	for _, member := range []string{"id", "versionId", "name", "status", "functionType", "apiBodyFormat", "healthUri", "health", "description", "tags", "createdAt"} {
		require.Contains(t, view, member)
	}
	for _, member := range []string{
		"inferenceUrl", "inferencePort", "containerImage", "containerArgs", "containerEnvironment", "models", "resources", "helmChart",
		"helmChartServiceName", "rateLimit", "secrets", "activeInstances",
	} {
		require.NotContains(t, view, member)
	}
	all, err := call(w, adminOf(friend), contract.List, contract.ListRequest{})
	require.NoError(t, err)
	require.Equal(t, view, membersOf(t, all.Functions[0]), "the list says the same")
	versions, err := call(w, adminOf(friend), contract.ListVersions, contract.ListVersionsRequest{FunctionID: fn.ID})
	require.NoError(t, err)
	require.Equal(t, all.Functions, versions.Functions)
	ids, err := call(w, adminOf(friend), contract.ListIDs, contract.ListRequest{})
	require.NoError(t, err)
	require.Equal(t, []string{fn.ID}, ids.FunctionIDs)
	require.NotContains(t, membersOf(t, w.get(admin(), fn)), "ownedByDifferentAccount")

	found, err := resolve("")
	require.NoError(t, err)
	require.Equal(t, account, found.Owner)
	require.Len(t, found.Targets, 1)
	require.Equal(t, fn.VersionID, found.Targets[0].VersionID)
	_, err = resolve(hidden.VersionID)
	requireProblem(t, err, problem.NotFound)

	for name, err := range w.changes(adminOf(friend), fn) {
		requireProblem(t, err, problem.NotFound, "Not found")
		_ = name
	}
	_, err = call(w, adminOf(friend), contract.Get, contract.VersionRequest{FunctionID: hidden.ID, VersionID: hidden.VersionID})
	requireProblem(t, err, problem.NotFound)

	// Keys of the friend: shared functions need their own resource.
	keyOf := func(resources ...access.Resource) access.Caller {
		k := key([]access.Scope{access.ListFunctions}, resources...)
		k.Account = friend
		return k
	}
	require.Empty(t, w.seen(keyOf(resource(access.AllFunctions, "*")), contract.ListRequest{}))
	for _, r := range []access.Resource{
		resource(access.SharedFunctions, "*"), resource(access.Function, fn.ID+"/*"), resource(access.Function, fn.ID+"/"+fn.VersionID),
	} {
		require.Equal(t, []string{fn.VersionID}, w.seen(keyOf(r), contract.ListRequest{}), r)
		_, err = call(w, keyOf(r), contract.Get, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
		require.NoError(t, err, r)
	}
	_, err = call(w, keyOf(resource(access.AllFunctions, "*")), contract.Get, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
	requireProblem(t, err, problem.NotFound)
	_, err = call(w, keyOf(resource(access.AllFunctions, "*")), contract.ListVersions, contract.ListVersionsRequest{FunctionID: fn.ID})
	requireProblem(t, err, problem.NotFound)

	_, err = call(w, admin(), contract.Unshare, target2(fn))
	require.NoError(t, err)
	require.Empty(t, w.seen(adminOf(friend), contract.ListRequest{}), "at once")
	_, err = resolve("")
	requireProblem(t, err, problem.NotFound)
}

// changes tries everything that changes a version.
func (w *world) changes(c access.Caller, fn contract.Function) map[string]error {
	w.t.Helper()
	one := contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID}
	results := map[string]error{"share": w.share(c, target1(fn), "someone")}
	_, results["create version"] = call(w, c, contract.Create, contract.CreateRequest{FunctionID: fn.ID, Spec: minimal()})
	_, results["update"] = call(w, c, contract.Update, contract.UpdateRequest{FunctionID: fn.ID, VersionID: fn.VersionID, Tags: &[]string{"x"}})
	_, results["metadata"] = call(w, c, contract.UpdateMetadata, contract.MetadataRequest{UpdateRequest: contract.UpdateRequest{FunctionID: fn.ID, VersionID: fn.VersionID}})
	_, results["secrets"] = call(w, c, contract.PutSecrets, contract.SecretsRequest{FunctionID: fn.ID, VersionID: fn.VersionID, Secrets: []contract.Secret{{Name: "s", Value: json.RawMessage(`"w"`)}}})
	_, results["secret names"] = call(w, c, contract.ListSecrets, one)
	_, results["delete secret"] = call(w, c, contract.DeleteSecret, contract.SecretRequest{FunctionID: fn.ID, VersionID: fn.VersionID, Name: "s"})
	_, results["limit"] = call(w, c, contract.RemoveRateLimit, one)
	_, results["delete"] = call(w, c, contract.Delete, one)
	return results
}

// A super administrator makes a function public; then everyone sees it, and its owner cannot take it from them.
func TestPublicFunctions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fn := w.create("", minimal(), contract.Secret{Name: "s", Value: json.RawMessage(`"v"`)})
	mine := w.create("", minimal())
	w.clock.Advance(time.Second)
	theirs, err := call(w, adminOf("other"), contract.Create, contract.CreateRequest{Spec: minimal()})
	require.NoError(t, err)
	require.NoError(t, w.share(adminOf("other"), target1(theirs.Function), account))
	require.NoError(t, w.share(super(account), target1(fn), contract.Everyone))
	for _, version := range []string{"", fn.VersionID} { // that it is public is told before it is deployed
		found, err := asService(w, contract.Resolve, contract.ResolveRequest{Account: "stranger", FunctionID: fn.ID, VersionID: version})
		require.NoError(t, err)
		require.Equal(t, contract.ResolveResponse{FunctionID: fn.ID, Owner: account, Targets: []contract.Target{}, Public: true}, found)
	}
	w.setStatus(fn, "d", contract.Active)

	require.Equal(t, []string{fn.VersionID, mine.VersionID, theirs.Function.VersionID}, w.seen(admin(), contract.ListRequest{}), "public, private, authorized")
	ids, err := call(w, admin(), contract.ListIDs, contract.ListRequest{})
	require.NoError(t, err)
	require.Equal(t, []string{fn.ID, mine.ID, theirs.Function.ID}, ids.FunctionIDs)
	require.Equal(t, []string{fn.VersionID}, w.seen(adminOf("stranger"), contract.ListRequest{}))
	require.Equal(t, []string{fn.VersionID}, w.seen(admin(), contract.ListRequest{Visibility: []string{"PUBLIC"}}))
	require.NotContains(t, membersOf(t, w.get(admin(), fn)), "ownedByDifferentAccount")
	got, err := call(w, adminOf("stranger"), contract.Get, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
	require.NoError(t, err)
	require.True(t, got.Function.OwnedByDifferentAccount)
	found, err := asService(w, contract.Resolve, contract.ResolveRequest{Account: "stranger", FunctionID: fn.ID})
	require.NoError(t, err)
	require.Equal(t, account, found.Owner)
	require.True(t, found.Targets[0].Public)

	refused := w.changes(admin(), fn)
	for _, name := range []string{"share", "create version", "delete"} {
		requireProblem(t, refused[name], problem.IllegalState, "public")
	}
	require.NoError(t, refused["update"])
	require.NoError(t, refused["secrets"])
	_, err = call(w, admin(), contract.Unshare, target1(fn))
	requireProblem(t, err, problem.IllegalState, "public")
	_, err = call(w, super(account), contract.Delete, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
	requireProblem(t, err, problem.IllegalState, "public")
	_, err = call(w, super(account), contract.AddParty, contract.SharePartyRequest{ShareTarget: target1(fn), AuthorizedParty: &contract.Party{NCAID: "x"}})
	requireProblem(t, err, problem.IllegalState, "alone")
	for _, err := range w.changes(adminOf("stranger"), fn) {
		requireProblem(t, err, problem.NotFound)
	}

	_, err = call(w, super(account), contract.Unshare, target1(fn))
	require.NoError(t, err)
	require.Empty(t, w.seen(adminOf("stranger"), contract.ListRequest{}))
	_, err = call(w, admin(), contract.Delete, contract.VersionRequest{FunctionID: fn.ID, VersionID: fn.VersionID})
	require.NoError(t, err)
}

// A super administrator who acts in an account sees details only with the admin form of the scope.
func TestDetailsAcrossAccounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fn := w.create("", minimal(), contract.Secret{Name: "s", Value: json.RawMessage(`"v"`)})
	c := super(account)
	c.Scopes = []access.Scope{access.AdminPrefix + access.ListFunctions}
	require.Empty(t, w.get(c, fn).Secrets)
	c.Scopes = []access.Scope{access.AdminPrefix + access.ListFunctionDetails}
	require.Equal(t, []string{"s"}, w.get(c, fn).Secrets)
}

// Of writers at the same time, one wins and the others are told; nothing is half done.
func TestTwoWritersOnOneVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fn := w.create("", minimal())
	const writers = 12
	var all sync.WaitGroup
	var mu sync.Mutex
	won := []string{}
	for i := range writers {
		all.Go(func() {
			tag := fmt.Sprintf("writer-%d", i)
			_, err := call(w, admin(), contract.Update, contract.UpdateRequest{FunctionID: fn.ID, VersionID: fn.VersionID, Tags: &[]string{tag}, Description: &tag})
			switch {
			case err == nil:
				mu.Lock()
				won = append(won, tag)
				mu.Unlock()
			case !problem.HasCode(err, problem.Conflict):
				t.Errorf("unexpected: %v", err)
			}
		})
	}
	all.Wait()
	require.NotEmpty(t, won)
	now := w.get(admin(), fn)
	require.Contains(t, won, now.Description)
	require.Equal(t, []string{now.Description}, now.Tags, "one writer's whole request")
	types, _ := w.story(fn.VersionID, 1+len(won))
	require.Len(t, slices.DeleteFunc(types, func(s string) bool { return s != contract.Updated.Type() }), len(won), "each winner has its event")

	// Two that looked at the same revision: the one that comes second loses for certain.
	held, err := w.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = held.Exec(t.Context(), `SELECT FROM functions.versions WHERE version_id = $1 FOR UPDATE`, fn.VersionID)
	require.NoError(t, err)
	errs := make(chan error, 2)
	for i := range 2 {
		go func() {
			_, err := call(w, admin(), contract.Update, contract.UpdateRequest{FunctionID: fn.ID, VersionID: fn.VersionID, Tags: &[]string{fmt.Sprint("t", i)}})
			errs <- err
		}()
	}
	require.Eventually(t, func() bool { return w.waiting() == 2 }, patience, 5*time.Millisecond)
	require.NoError(t, held.Rollback(context.Background()))
	first, second := <-errs, <-errs
	if first != nil {
		first, second = second, first
	}
	require.NoError(t, first)
	requireProblem(t, second, problem.Conflict, fn.VersionID)
}

// waiting is how many sessions wait for a lock on a row.
func (w *world) waiting() (n int) {
	w.t.Helper()
	require.NoError(w.t, w.pool.QueryRow(w.t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n))
	return n
}
