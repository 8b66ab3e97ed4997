package directory

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestUsers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	admin := s.root(t)
	for i, email := range []string{"ann@corp.example", "bob@corp.example", "Cleo@other.example"} {
		s.clock.Advance(time.Second)
		call(t, admin, contract.CreateUser, contract.CreateUserRequest{Email: email, FirstName: fmt.Sprintf("first %d", i), LastName: "last"})
	}
	names := func(filter contract.UserFilter, page contract.Page) []string {
		var all []string
		for _, u := range call(t, admin, contract.ListUsers, contract.ListUsersRequest{UserFilter: filter, Page: page}) {
			all = append(all, u.Username)
		}
		return all
	}
	everybody := []string{"ann@corp.example", "bob@corp.example", "Cleo@other.example", root}
	require.ElementsMatch(t, everybody, names(contract.UserFilter{}, contract.Page{}))
	require.Equal(t, []string{"ann@corp.example", "bob@corp.example"}, names(contract.UserFilter{FilterBy: []string{"username=@corp.ex", "createdBy==" + root}}, contract.Page{}))
	require.Equal(t, []string{"Cleo@other.example"}, names(contract.UserFilter{Filter: []string{"username==cleo@OTHER.example"}}, contract.Page{}))
	require.Equal(t, []string{"Cleo@other.example"}, names(contract.UserFilter{Search: "OTHER"}, contract.Page{}))
	require.Equal(t, []string{root}, names(contract.UserFilter{FilterBy: []string{"lastLogin>=2031-01-01T00:00:00Z"}}, contract.Page{}))
	require.Empty(t, names(contract.UserFilter{FilterBy: []string{"isLocal==false"}}, contract.Page{}))
	require.Empty(t, names(contract.UserFilter{Search: "%"}, contract.Page{}))
	byAge := contract.Page{SortBy: "creationTime", SortOrder: "desc"}
	require.Equal(t, []string{"Cleo@other.example", "bob@corp.example", "ann@corp.example", root}, names(contract.UserFilter{}, byAge))
	byAge.Offset, byAge.Limit = new(1), new(2)
	require.Equal(t, []string{"bob@corp.example", "ann@corp.example"}, names(contract.UserFilter{}, byAge))
	require.Equal(t, 2, call(t, admin, contract.CountUsers, contract.UserFilter{Filter: []string{"username=@@corp.example"}, FilterBy: []string{"createdBy==" + root}}).Count)

	one := call(t, admin, contract.ListUsers, contract.ListUsersRequest{UserFilter: contract.UserFilter{Search: "bob"}})[0]
	b, err := json.Marshal(call(t, admin, contract.GetUser, contract.SubjectRequest{ID: one.ID}))
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"`+one.ID+`","username":"bob@corp.example","email":"bob@corp.example","firstName":"first 1","lastName":"last","createdBy":"root@corp.example",
		"createdAt":"2031-05-01T08:00:02.125Z","updatedAt":"2031-05-01T08:00:02.125Z","lastLogin":null,"isLocal":true,"groups":[]}`, string(b))

	for field, req := range map[string][]contract.ListUsersRequest{
		"filterBy": {
			{UserFilter: contract.UserFilter{FilterBy: []string{"username"}}},
			{UserFilter: contract.UserFilter{FilterBy: []string{"password==x"}}},
			{UserFilter: contract.UserFilter{FilterBy: []string{"username!=x"}}},
			{UserFilter: contract.UserFilter{FilterBy: []string{"lastLogin=@2031"}}},
			{UserFilter: contract.UserFilter{FilterBy: []string{"lastLogin==yesterday"}}},
			{UserFilter: contract.UserFilter{FilterBy: []string{"isLocal==1"}}},
			{UserFilter: contract.UserFilter{FilterBy: []string{"username==" + strings.Repeat("x", 300)}}},
			{UserFilter: contract.UserFilter{FilterBy: make([]string, 21)}},
			{UserFilter: contract.UserFilter{FilterBy: []string{"username==\x00"}}},
		},
		"filter":    {{UserFilter: contract.UserFilter{Filter: []string{"x"}}}},
		"search":    {{UserFilter: contract.UserFilter{Search: strings.Repeat("x", 300)}}},
		"sortBy":    {{Page: contract.Page{SortBy: "email; DROP TABLE"}}},
		"sortOrder": {{Page: contract.Page{SortOrder: "up"}}},
		"offset":    {{Page: contract.Page{Offset: new(-1)}}},
		"limit":     {{Page: contract.Page{Limit: new(0)}}, {Page: contract.Page{Limit: new(501)}}},
	} {
		for _, r := range req {
			require.Equal(t, field, refused(t, admin, 400, contract.ListUsers, r).Violations[0].Field)
		}
	}
}

func TestBadUsers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	admin := s.root(t)
	for _, email := range []string{
		"", "a@b", "a@b.c", "@b.co", "a b@c.com", "a@b.co\n", "a?b@c.com", "ä@b.co", "a@b.c0", strings.Repeat("x", 250) + "@b.co", "a@@b.co", "a\x00@b.co",
	} {
		p := refused(t, admin, 400, contract.CreateUser, contract.CreateUserRequest{Email: email})
		require.Equal(t, "email", p.Violations[0].Field, email)
	}
	p := refused(t, admin, 400, contract.CreateUser, contract.CreateUserRequest{Email: "a@b.co", FirstName: strings.Repeat("é", 256), LastName: "a\tb"})
	require.Len(t, p.Violations, 2)
	call(t, admin, contract.CreateUser, contract.CreateUserRequest{Email: "a@b.co", FirstName: strings.Repeat("é", 255)})
	for _, id := range []string{"", "x", uuid.NewString(), "../" + uuid.NewString()} {
		refused(t, admin, 404, contract.GetUser, contract.SubjectRequest{ID: id})
		refused(t, admin, 404, contract.DeleteUser, contract.SubjectRequest{ID: id})
		refused(t, admin, 404, contract.SignOutUser, contract.SubjectRequest{ID: id})
		refused(t, admin, 404, contract.ResetPassword, contract.SubjectRequest{ID: id})
	}
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	admin := s.root(t)
	call(t, admin, contract.CreateApplication, contract.CreateApplicationRequest{Name: "robot"})
	u := call(t, admin, contract.CreateUser, contract.CreateUserRequest{Email: "ops@corp.example", ResetPassword: true})
	call(t, admin, contract.CreateRule, contract.CreateRuleRequest{RuleGrant: contract.RuleGrant{SubjectID: u.ID, SubjectType: "user", RoleID: 1, ScopeType: "system"}})
	first := s.login(t, u.Username, u.TempPassword)
	require.Empty(t, first.Scopes, "a temporary password is good for choosing another one")
	me := s.as(t, first.AccessToken)
	refused(t, me, 403, contract.ListUsers, contract.ListUsersRequest{})
	refused(t, me, 403, contract.CreateAccessKey, contract.CreateApplicationRequest{Name: "mine"})

	change := func(current, next string) contract.ChangePasswordRequest {
		return contract.ChangePasswordRequest{CurrentPassword: current, NewPassword: next}
	}
	for field, req := range map[string]contract.ChangePasswordRequest{
		"currentPassword": change("", "long enough"), "newPassword": change("x", "short"),
	} {
		require.Equal(t, field, refused(t, me, 400, contract.ChangePassword, req).Violations[0].Field)
	}
	refused(t, me, 400, contract.ChangePassword, change(u.TempPassword, u.TempPassword))
	refused(t, me, 400, contract.ChangePassword, change(u.TempPassword, factoryPassword))
	refused(t, me, 400, contract.ChangePassword, change(u.TempPassword, strings.Repeat("x", 1025)))
	refused(t, me, 400, contract.ChangePassword, change("wrong", "long enough"))
	refused(t, s.as(t, call(t, s.anonymous(), contract.Grant, appGrant("robot", s.robotSecret(t, admin))).AccessToken), 400, contract.ChangePassword, change("wrong", "long enough"))
	call(t, me, contract.ChangePassword, change(u.TempPassword, "long enough"))
	require.True(t, s.withdrawn(t, first.AccessToken))
	refused(t, s.anonymous(), 400, contract.Grant, passwordOf(u.Username, u.TempPassword))
	full := s.login(t, u.Username, "long enough")
	require.NotEmpty(t, full.Scopes)
	require.False(t, s.withdrawn(t, full.AccessToken), "a sign-in in the second of the change is not refused with the others")

	call(t, admin, contract.SignOutUser, contract.SubjectRequest{ID: u.ID})
	require.True(t, s.withdrawn(t, full.AccessToken))
	refused(t, s.anonymous(), 400, contract.Grant, contract.GrantRequest{GrantType: contract.RefreshGrant, RefreshToken: full.RefreshToken, ClientID: "cli"})
	s.clock.Advance(time.Minute)
	full = s.login(t, u.Username, "long enough")

	reset := call(t, admin, contract.ResetPassword, contract.SubjectRequest{ID: u.ID})
	require.True(t, s.withdrawn(t, full.AccessToken))
	refused(t, s.anonymous(), 400, contract.Grant, passwordOf(u.Username, "long enough"))
	require.Empty(t, s.login(t, u.Username, reset.TempPassword).Scopes)

	guess := s.as(t, s.login(t, u.Username, reset.TempPassword).AccessToken)
	for range freeFailures {
		refused(t, guess, 400, contract.ChangePassword, change("wrong", "long enough"))
	}
	require.Positive(t, refused(t, guess, 400, contract.ChangePassword, change(reset.TempPassword, "long enough")).RetryAfterSeconds, "guessing here is braked too")
}

func (s *site) robotSecret(t *testing.T, admin caller) string {
	t.Helper()
	for _, a := range call(t, admin, contract.ListApplications, rpc.None{}) {
		if a.Name == "robot" {
			return call(t, admin, contract.RenewSecret, contract.SubjectRequest{ID: a.ID}).Secret
		}
	}
	return ""
}

func TestApplications(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	admin := s.root(t)
	require.Equal(t, []contract.Application{}, call(t, admin, contract.ListApplications, rpc.None{}))
	made := call(t, admin, contract.CreateApplication, contract.CreateApplicationRequest{Name: "app-123"})
	b, err := json.Marshal(call(t, admin, contract.GetApplication, contract.SubjectRequest{ID: made.ID}))
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"`+made.ID+`","name":"app-123","clientId":"app-123","enabled":true,"createdBy":"root@corp.example",
		"createdAt":"2031-05-01T08:00:00.125Z","updatedAt":"2031-05-01T08:00:00.125Z","tenantId":1,"lastLogin":null}`, string(b))
	rules := call(t, admin, contract.ListRules, contract.ListRulesRequest{RuleFilter: contract.RuleFilter{FilterBy: []string{"subjectId==" + made.ID}}})
	require.Equal(t, 1, rules.TotalRecords, "the creator's role, as a rule that can be seen and deleted")
	require.Equal(t, 1, rules.AccessRules[0].RoleID)

	tokens := call(t, s.anonymous(), contract.Grant, appGrant(made.ClientID, made.Secret))
	require.NotNil(t, call(t, admin, contract.GetApplication, contract.SubjectRequest{ID: made.ID}).LastLogin)
	call(t, admin, contract.UpdateApplication, contract.UpdateApplicationRequest{ID: made.ID, Enabled: new(false)})
	require.True(t, s.withdrawn(t, tokens.AccessToken))
	refused(t, s.anonymous(), 401, contract.Grant, appGrant(made.ClientID, made.Secret))
	refused(t, s.as(t, tokens.AccessToken), 403, contract.ListUsers, contract.ListUsersRequest{})
	call(t, admin, contract.UpdateApplication, contract.UpdateApplicationRequest{ID: made.ID, Enabled: new(true)})
	again := call(t, s.anonymous(), contract.Grant, appGrant(made.ClientID, made.Secret))
	require.False(t, s.withdrawn(t, again.AccessToken))
	renewed := call(t, admin, contract.RenewSecret, contract.SubjectRequest{ID: made.ID})
	refused(t, s.anonymous(), 401, contract.Grant, appGrant(made.ClientID, made.Secret))
	call(t, s.anonymous(), contract.Grant, appGrant(made.ClientID, renewed.Secret))
	refused(t, s.anonymous(), 400, contract.Grant, contract.GrantRequest{GrantType: contract.RefreshGrant, RefreshToken: again.RefreshToken, ClientID: made.ClientID})

	// The client id follows from the name, without underscores, and stays unique.
	first := call(t, admin, contract.CreateServiceAccount, contract.CreateApplicationRequest{Name: "my_robot"})
	require.Equal(t, "my-robot", first.ClientID)
	require.NotEmpty(t, first.ClientSecret)
	second := call(t, admin, contract.CreateApplication, contract.CreateApplicationRequest{Name: "my-robot"})
	require.Regexp(t, `^my-robot-[a-z2-9]{6}$`, second.ClientID)
	require.NotEmpty(t, call(t, admin, contract.RenewClientSecret, contract.SubjectRequest{ID: first.ID}).ClientSecret)

	for _, name := range []string{"", "a", "A1", "1a", "-a", "a-", "a_", "a b", "a.b", "aé", "a\n", "app-123\x00", strings.Repeat("a", 129)} {
		require.Equal(t, "name", refused(t, admin, 400, contract.CreateApplication, contract.CreateApplicationRequest{Name: name}).Violations[0].Field, name)
	}
	require.Equal(t, "enabled", refused(t, admin, 400, contract.UpdateApplication, contract.UpdateApplicationRequest{ID: made.ID}).Violations[0].Field)
	for _, id := range []string{"", "app-123", uuid.NewString()} {
		refused(t, admin, 404, contract.GetApplication, contract.SubjectRequest{ID: id})
		refused(t, admin, 404, contract.UpdateApplication, contract.UpdateApplicationRequest{ID: id, Enabled: new(true)})
		refused(t, admin, 404, contract.DeleteApplication, contract.SubjectRequest{ID: id})
		refused(t, admin, 404, contract.RenewSecret, contract.SubjectRequest{ID: id})
	}
	call(t, admin, contract.DeleteApplication, contract.SubjectRequest{ID: made.ID})
	refused(t, admin, 404, contract.DeleteApplication, contract.SubjectRequest{ID: made.ID})
	require.Zero(t, call(t, admin, contract.CountRules, contract.RuleFilter{FilterBy: []string{"subjectId==" + made.ID}}).Count)
	require.Equal(t, "app-123", call(t, admin, contract.CreateApplication, contract.CreateApplicationRequest{Name: "app-123"}).ClientID, "the name is free again")

	// Of many creations of one name at once, one succeeds.
	var wg sync.WaitGroup
	statuses := make(chan error, 6)
	for range cap(statuses) {
		wg.Go(func() {
			_, err := s.dir.CreateApplication(access.WithCaller(t.Context(), admin.who), contract.CreateApplicationRequest{Name: "raced"})
			statuses <- err
		})
	}
	wg.Wait()
	close(statuses)
	made1 := 0
	for err := range statuses {
		if err == nil {
			made1++
		} else {
			require.ErrorContains(t, err, "application name already in use")
		}
	}
	require.Equal(t, 1, made1)
}

func TestAccessKeys(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	admin := s.root(t)
	id, password := s.newUser(t, admin, "ops@corp.example")
	call(t, admin, contract.CreateRule, contract.CreateRuleRequest{RuleGrant: contract.RuleGrant{SubjectID: "OPS@corp.example", SubjectType: "user", RoleID: 2, ScopeType: "system"}})
	me := s.as(t, s.login(t, "ops@corp.example", password).AccessToken)
	key := call(t, me, contract.CreateAccessKey, contract.CreateApplicationRequest{Name: "laptop"})
	require.Regexp(t, `^laptop-[a-z2-9]{6}$`, key.ClientID)
	refused(t, me, 409, contract.CreateAccessKey, contract.CreateApplicationRequest{Name: "laptop"})
	tokens := call(t, s.anonymous(), contract.Grant, appGrant(key.ClientID, key.ClientSecret))
	require.Equal(t, functionScopes, tokens.Scopes, "an access key has its owner's rights")
	call(t, admin, contract.CreateApplication, contract.CreateApplicationRequest{Name: "laptop"})
	require.Len(t, call(t, admin, contract.ListApplications, rpc.None{}), 1, "an access key is no application")
	refused(t, admin, 404, contract.GetApplication, contract.SubjectRequest{ID: key.ID})

	require.Len(t, call(t, me, contract.ListAccessKeys, rpc.None{}).AccessKeys, 1)
	require.Empty(t, call(t, admin, contract.ListAccessKeys, rpc.None{}).AccessKeys)
	require.Equal(t, key.ID, call(t, me, contract.GetAccessKey, contract.SubjectRequest{ID: key.ID}).ID)
	refused(t, admin, 404, contract.GetAccessKey, contract.SubjectRequest{ID: key.ID})
	require.Equal(t, key.ID, call(t, admin, contract.GetAnyAccessKey, contract.SubjectRequest{ID: key.ID}).ID)
	require.Len(t, call(t, admin, contract.ListAllAccessKeys, rpc.None{}).AccessKeys, 1)
	refused(t, me, 403, contract.ListAllAccessKeys, rpc.None{})
	refused(t, me, 403, contract.DeleteAnyAccessKey, contract.SubjectRequest{ID: key.ID})
	refused(t, s.as(t, tokens.AccessToken), 403, contract.CreateAccessKey, contract.CreateApplicationRequest{Name: "nested"})
	renewed := call(t, me, contract.RenewAccessKey, contract.SubjectRequest{ID: key.ID})
	refused(t, s.anonymous(), 401, contract.Grant, appGrant(key.ClientID, key.ClientSecret))

	for i := range maxAccessKeys - 1 {
		call(t, me, contract.CreateAccessKey, contract.CreateApplicationRequest{Name: fmt.Sprintf("key-%d", i)})
	}
	refused(t, me, 400, contract.CreateAccessKey, contract.CreateApplicationRequest{Name: "one-more"})
	call(t, me, contract.DeleteAccessKey, contract.SubjectRequest{ID: call(t, me, contract.ListAccessKeys, rpc.None{}).AccessKeys[0].ID})
	call(t, me, contract.CreateAccessKey, contract.CreateApplicationRequest{Name: "one-more"})

	held := call(t, s.anonymous(), contract.Grant, appGrant(key.ClientID, renewed.ClientSecret))
	call(t, admin, contract.DeleteUser, contract.SubjectRequest{ID: id})
	require.True(t, s.withdrawn(t, held.AccessToken), "the keys of a deleted user end with it")
	refused(t, s.anonymous(), 401, contract.Grant, appGrant(key.ClientID, renewed.ClientSecret))
	refused(t, s.anonymous(), 400, contract.Grant, passwordOf("ops@corp.example", password))
	require.Empty(t, call(t, admin, contract.ListAllAccessKeys, rpc.None{}).AccessKeys)
	refused(t, admin, 404, contract.DeleteUser, contract.SubjectRequest{ID: id})
}

func TestRules(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	admin := s.root(t)
	id, password := s.newUser(t, admin, "ops@corp.example")
	grant := func(role int, scopeType, scopeID string) contract.CreateRuleRequest {
		return contract.CreateRuleRequest{RuleGrant: contract.RuleGrant{SubjectID: id, SubjectType: "user", RoleID: role, ScopeType: scopeType, ScopeID: scopeID}}
	}
	viewer := call(t, admin, contract.CreateRule, grant(6, "system", ""))
	require.Equal(t, "Viewer", viewer.RoleName)
	require.Equal(t, "1", viewer.ScopeID)
	require.Equal(t, root, viewer.CreatedBy)
	require.Equal(t, contract.TenantID, viewer.TenantID)
	refused(t, admin, 409, contract.CreateRule, grant(6, "system", ""))
	narrow := call(t, admin, contract.CreateRule, grant(1, "project", "p1"))
	require.Equal(t, "NotReady", narrow.Status.Phase)
	tokens := s.login(t, "ops@corp.example", password)
	require.Equal(t, roleOf(6).Permissions, tokens.Scopes, "a rule about a project is not widened to the install")
	group := call(t, admin, contract.CreateRule, contract.CreateRuleRequest{RuleGrant: contract.RuleGrant{SubjectID: "staff", SubjectType: "group", RoleID: 1, ScopeType: "system"}})
	require.Equal(t, "NotReady", group.Status.Phase)

	for field, change := range map[string][]func(*contract.RuleGrant){
		"subjectId": {
			func(g *contract.RuleGrant) { g.SubjectID = "" }, func(g *contract.RuleGrant) { g.SubjectID = uuid.NewString() },
			func(g *contract.RuleGrant) { g.SubjectID = "nobody@corp.example" }, func(g *contract.RuleGrant) { g.SubjectID = "a\x00" },
			func(g *contract.RuleGrant) { g.SubjectID = strings.Repeat("x", 257) }, func(g *contract.RuleGrant) { g.SubjectType = "app" },
		},
		"subjectType": {func(g *contract.RuleGrant) { g.SubjectType = "robot" }},
		"roleId":      {func(g *contract.RuleGrant) { g.RoleID = 0 }, func(g *contract.RuleGrant) { g.RoleID = 8 }, func(g *contract.RuleGrant) { g.RoleID = -1 }},
		"scopeType":   {func(g *contract.RuleGrant) { g.ScopeType = "" }},
		"scopeId": {
			func(g *contract.RuleGrant) { g.ScopeType, g.ScopeID = "project", "" }, func(g *contract.RuleGrant) { g.ScopeType, g.ScopeID = "tenant", "2" },
			func(g *contract.RuleGrant) { g.ScopeID = "\x00" },
		},
		"clusterId": {func(g *contract.RuleGrant) { g.ClusterID = "a\nb" }},
	} {
		for _, c := range change {
			req := grant(3, "system", "")
			c(&req.RuleGrant)
			require.Equal(t, field, refused(t, admin, 400, contract.CreateRule, req).Violations[0].Field, fmt.Sprint(req))
		}
	}

	list := func(page contract.Page, comparisons ...string) contract.RulesResponse {
		return call(t, admin, contract.ListRules, contract.ListRulesRequest{Page: page, RuleFilter: contract.RuleFilter{FilterBy: comparisons}})
	}
	all := list(contract.Page{})
	require.Equal(t, 4, all.TotalRecords)
	require.Equal(t, 4, all.DisplayRecords)
	part := list(contract.Page{Limit: new(1), Offset: new(1), SortBy: "roleName", SortOrder: "asc"})
	require.Equal(t, 4, part.TotalRecords)
	require.Equal(t, 1, part.DisplayRecords)
	for comparison, want := range map[string]int{
		"roleId==6": 1, "roleId>=1": 4, "roleId!=1": 1, "roleName=^view": 1, "roleName=$ADMINISTRATOR": 3, "roleName=@system": 3, "roleName!@system": 1,
		"scopeType==project": 1, "subjectId!=" + id: 2, "createdAt>=2031-05-01T08:00:00.125Z": 4, "createdAt<=2031-05-01T08:00:00.124Z": 0, "scopeName==System": 3,
		"deletedAt!=2031-05-01T08:00:00Z": 4,
	} {
		require.Equal(t, want, list(contract.Page{}, comparison).TotalRecords, comparison)
		require.Equal(t, want, call(t, admin, contract.CountRules, contract.RuleFilter{FilterBy: []string{comparison}}).Count)
	}
	mine := call(t, s.as(t, tokens.AccessToken), contract.MyRules, contract.ListRulesRequest{})
	require.Equal(t, 2, mine.TotalRecords)
	refused(t, s.as(t, tokens.AccessToken), 403, contract.ListRules, contract.ListRulesRequest{})
	refused(t, s.as(t, tokens.AccessToken), 403, contract.GetRule, contract.RuleRequest{ID: viewer.ID})
	refused(t, s.as(t, tokens.AccessToken), 403, contract.CreateRule, grant(1, "system", ""))

	call(t, admin, contract.DeleteRule, contract.RuleRequest{ID: viewer.ID})
	refused(t, admin, 404, contract.DeleteRule, contract.RuleRequest{ID: viewer.ID})
	refused(t, admin, 404, contract.GetRule, contract.RuleRequest{ID: 1 << 40})
	require.NotNil(t, call(t, admin, contract.GetRule, contract.RuleRequest{ID: viewer.ID}).DeletedAt)
	require.Equal(t, 3, list(contract.Page{}).TotalRecords)
	deleted := call(t, admin, contract.ListRules, contract.ListRulesRequest{RuleFilter: contract.RuleFilter{IncludeDeleted: true}})
	require.Equal(t, 4, deleted.TotalRecords)
	require.True(t, s.withdrawn(t, tokens.AccessToken))

	batch := call(t, admin, contract.CreateRules, contract.CreateRulesRequest{Payload: contract.RulesPayload{
		RoleID: 3, Subjects: []contract.RuleEnd{{ID: id, Type: "user"}, {SubjectID: "ghost", SubjectType: "app"}},
		Scopes: []contract.RuleSpan{{ID: "1", Type: "tenant"}, {ScopeType: "system"}},
	}})
	require.Len(t, batch.Succeeded, 2)
	require.Len(t, batch.Failed, 2)
	require.Equal(t, 400, batch.Failed[0].Code)
	require.Equal(t, "ghost", batch.Failed[0].Rule.SubjectID)
	ids := []int64{batch.Succeeded[0].ID, batch.Succeeded[1].ID, viewer.ID}
	for _, action := range []string{"validate_delete", "delete"} {
		done := call(t, admin, contract.DeleteRules, contract.RuleBatchRequest{IDs: ids, Action: action})
		require.Equal(t, ids[:2], done.Succeeded)
		require.Equal(t, []contract.FailedRule{{ID: viewer.ID, Code: 404, Message: "Access rule: Not found"}}, done.Failed)
	}
	refused(t, admin, 400, contract.DeleteRules, contract.RuleBatchRequest{Action: "delete"})
	refused(t, admin, 400, contract.DeleteRules, contract.RuleBatchRequest{IDs: ids, Action: "drop"})
	refused(t, admin, 400, contract.DeleteRules, contract.RuleBatchRequest{IDs: make([]int64, maxBatch+1), Action: "delete"})
	refused(t, admin, 400, contract.CreateRules, contract.CreateRulesRequest{})
}

func TestRolesAreSetsOfKnownScopes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	admin := s.root(t)
	all := call(t, admin, contract.ListRoles, rpc.None{})
	require.Len(t, all, 7)
	system := all[0].Permissions
	require.Contains(t, system, access.ManageAccess)
	require.Contains(t, system, access.AccountSetup)
	require.Contains(t, system, "admin:deploy_function")
	for i, r := range all {
		require.Equal(t, i+1, r.ID)
		require.Subset(t, system, r.Permissions, "%s grants nothing that the system administrator has not", r.Name)
		require.Equal(t, i == 0, slices.Contains(r.Permissions, access.ManageAccess), "only the system administrator manages people")
	}
	require.Len(t, call(t, admin, contract.ListPermissions, rpc.None{}), len(system))
	standing := call(t, admin, contract.Standing, contract.StandingRequest{Subject: admin.who.Subject})
	require.True(t, standing.Known)
	require.Equal(t, system, standing.Scopes)
	require.False(t, call(t, admin, contract.Standing, contract.StandingRequest{Subject: uuid.NewString()}).Known)
	require.False(t, call(t, admin, contract.Standing, contract.StandingRequest{Subject: "ncp"}).Known)
	// Other tokens are judged by their scopes.
	refused(t, caller{s, access.Caller{Kind: access.JWT, Subject: "ncp", Scopes: access.AdminDefaults()}}, 403, contract.ListUsers, contract.ListUsersRequest{})
	call(t, caller{s, access.Caller{Kind: access.JWT, Subject: "ncp", Scopes: []string{access.ManageAccess}}}, contract.ListUsers, contract.ListUsersRequest{})
	refused(t, s.anonymous(), 403, contract.ListUsers, contract.ListUsersRequest{})
}

func TestTidy(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	events := s.events(t)
	admin := s.root(t)
	s.newUser(t, admin, "ops@corp.example")
	for i := range 3 {
		refused(t, s.anonymous(), 400, contract.Grant, passwordOf("ops@corp.example", "wrong"))
		refused(t, s.anonymous(), 400, contract.Grant, passwordOf(fmt.Sprintf("nobody-%d", i), "wrong"))
	}
	count := func(table string) (n int) {
		require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM keys.`+table).Scan(&n))
		return n
	}
	_, err := s.dir.store.tidy(t.Context(), s.dir.now())
	require.NoError(t, err)
	require.Equal(t, 4, count("directory_failures"))
	require.Equal(t, 1, count("directory_refresh"))
	s.clock.Advance(failureWindow)
	_, err = s.dir.store.tidy(t.Context(), s.dir.now())
	require.NoError(t, err)
	require.Zero(t, count("directory_failures"))
	told := map[string]int{}
	for range 2 {
		_, fact := until(t, events, contract.SignInFailed)
		told[fact.Name] = fact.Count
	}
	require.Equal(t, map[string]int{"ops@corp.example": 3, "": 3}, told, "failures are told of folded, and those of nobody together")
	rule := call(t, admin, contract.ListRules, contract.ListRulesRequest{}).AccessRules[0]
	require.NoError(t, s.dir.store.deleteRule(t.Context(), rule.ID, s.dir.now()))
	s.clock.Advance(refreshIdle + time.Second)
	more, err := s.dir.store.tidy(t.Context(), s.dir.now())
	require.NoError(t, err)
	require.False(t, more)
	require.Zero(t, count("directory_refresh"))
	require.Zero(t, count("directory_rules"))
}

// TestNoSecretLeavesTheAnswer searches database, events and logs for every password, secret and token of a busy hour.
func TestNoSecretLeavesTheAnswer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	events := s.events(t)
	const canary = "canary-Pa55word-that-is-wrong"
	secrets := []string{rootPassword, canary, "my new password"}
	keep := func(g contract.GrantResponse) contract.GrantResponse {
		secrets = append(secrets, g.AccessToken, g.RefreshToken, g.IDToken)
		return g
	}
	admin := s.as(t, keep(s.login(t, root, rootPassword)).AccessToken)
	refused(t, s.anonymous(), 400, contract.Grant, passwordOf(canary, canary))
	app := call(t, admin, contract.CreateApplication, contract.CreateApplicationRequest{Name: "app-123"})
	renewed := call(t, admin, contract.RenewSecret, contract.SubjectRequest{ID: app.ID})
	secrets = append(secrets, app.Secret, renewed.Secret)
	first := keep(call(t, s.anonymous(), contract.Grant, appGrant(app.ClientID, renewed.Secret)))
	refresh := contract.GrantRequest{GrantType: contract.RefreshGrant, RefreshToken: first.RefreshToken, ClientID: app.ClientID}
	keep(call(t, s.anonymous(), contract.Grant, refresh))
	refused(t, s.anonymous(), 400, contract.Grant, refresh)
	for range freeFailures {
		refused(t, s.anonymous(), 401, contract.Grant, appGrant(app.ClientID, canary))
	}
	u := call(t, admin, contract.CreateUser, contract.CreateUserRequest{Email: "ops@corp.example"})
	reset := call(t, admin, contract.ResetPassword, contract.SubjectRequest{ID: u.ID})
	secrets = append(secrets, u.TempPassword, reset.TempPassword)
	me := s.as(t, keep(s.login(t, u.Username, reset.TempPassword)).AccessToken)
	call(t, me, contract.ChangePassword, contract.ChangePasswordRequest{CurrentPassword: reset.TempPassword, NewPassword: "my new password"})
	call(t, admin, contract.DeleteUser, contract.SubjectRequest{ID: u.ID})

	var said strings.Builder
	for {
		var last bool
		select {
		case e := <-events:
			b, err := json.Marshal(e)
			require.NoError(t, err)
			said.Write(b)
			last = e.Type == contract.UserDeleted.Type()
		case <-time.After(waitUp):
			require.FailNow(t, "no event of the deletion")
		}
		if last {
			break
		}
	}
	dump, logs := s.dump(t), s.logs.String()
	require.Contains(t, dump, app.ClientID)
	require.Contains(t, said.String(), app.ClientID)
	for i, secret := range secrets {
		require.NotEmpty(t, secret)
		require.NotContains(t, dump, secret, "database, %d", i)
		require.NotContains(t, said.String(), secret, "events, %d", i)
		require.NotContains(t, logs, secret, "logs, %d", i)
	}
	require.NotContains(t, said.String(), "argon2id")
	require.NotContains(t, logs, "argon2id")
}

// dump is every row of every table of the service as text.
func (s *site) dump(t *testing.T) string {
	t.Helper()
	return testkit.Dump(t, s.pool, "keys")
}

// FuzzFilter asserts that a filter is refused as a bad request or becomes SQL whose only foreign parts are arguments.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{"username==x", "lastLogin>=2031-05-01T08:00:00Z", "isLocal==true", "roleId!=1", "x", "==", "username=@'; DROP TABLE x --", "roleName=$a\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, l := range []listing{userListing, ruleListing} {
			var q query
			if err := l.filter(&q, "filterBy", []string{text}); err != nil {
				require.ErrorContains(t, err, "filterBy")
				continue
			}
			require.Len(t, q.where, 1)
			require.Len(t, q.args, 1)
			m := comparison.FindStringSubmatch(strings.TrimSpace(text))
			require.Contains(t, q.where[0], l.columns[m[1]].sql)
			require.Contains(t, q.where[0], "$1")
			if value := strings.TrimSpace(m[3]); len(value) > 12 && !strings.Contains(l.columns[m[1]].sql, value) {
				require.NotContains(t, q.where[0], value)
			}
		}
	})
}

func BenchmarkHash(b *testing.B) {
	h := newHasher()
	for b.Loop() {
		_ = h.matches("secret", nobodys)
	}
}
