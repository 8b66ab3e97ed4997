package keys

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// neighbour stands where the functions service is: it says what an account has, and takes registry credentials.
type neighbour struct {
	mu    sync.Mutex
	use   functions.AccountUseResponse
	added []functions.AddRegistryCredentialRequest
	// refuse refuses a credential: the check of it, or only what follows.
	refuse func(functions.AddRegistryCredentialRequest) error
}

func (s *site) functions(t testing.TB) *neighbour {
	t.Helper()
	n := &neighbour{}
	server := bus.NewServer(s.connect(t), "functions")
	bus.Serve(server, functions.AccountUse, func(_ context.Context, req functions.AccountUseRequest) (functions.AccountUseResponse, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		answer := n.use
		answer.Account = req.Account
		return answer, nil
	})
	bus.Serve(server, functions.AddRegistryCredential, func(_ context.Context, req functions.AddRegistryCredentialRequest) (functions.RegistryCredentialResponse, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.refuse != nil {
			if err := n.refuse(req); err != nil {
				return functions.RegistryCredentialResponse{}, err
			}
		}
		n.added = append(n.added, req)
		return functions.RegistryCredentialResponse{}, nil
	})
	testkit.Run(t, server)
	return n
}

func (n *neighbour) has(use functions.AccountUseResponse) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.use = use
}

func (s *site) account(t testing.TB, id, client string) contract.Account {
	t.Helper()
	return call(t, s, contract.CreateAccount, contract.CreateAccountRequest{NCAID: id, Name: id + "-corp", AdminClientID: client}).Account
}

// as calls with a key of an account.
func as(t testing.TB, account string) context.Context {
	t.Helper()
	return access.WithCaller(t.Context(), access.Caller{Kind: access.Key, Account: account, ID: "k"})
}

func toldAccount(t testing.TB, events *news, e rpc.Event[contract.AccountResponse]) contract.Account {
	t.Helper()
	p, ok := bus.As[contract.AccountResponse](find(t, events, func(env event.Envelope) bool { return env.Type == e.Type() }), e)
	require.True(t, ok)
	return p.Account
}

func TestAccount(t *testing.T) {
	t.Parallel()
	s := start(t)
	n := s.functions(t)
	events := s.events(t)
	made := s.account(t, "acme", "acme-admin")
	want := contract.Account{
		NCAID: "acme", Name: "acme-corp", AdminClientIDs: []string{"acme-admin"}, MaxFunctionsAllowed: 2147483647, MaxTasksAllowed: 2147483647,
		MaxTelemetriesAllowed: 25, MaxRegistryCredentialsAllowed: 25, LastUpdatedAt: s.clock.Now().UTC(),
	}
	require.Equal(t, want, made)
	require.Equal(t, want, toldAccount(t, events, contract.AccountCreated))
	require.Equal(t, want, call(t, s, contract.LookupAccount, contract.AccountRequest{NCAID: "acme"}).Account)
	require.Equal(t, "acme", call(t, s, contract.Client, contract.ClientRequest{ClientID: "acme-admin"}).Account)
	require.Equal(t, contract.AccountClient{ClientID: "acme-admin", NCAID: "acme", Name: "acme-corp"},
		call(t, s, contract.ReadClient, contract.ReadClientRequest{ClientID: "acme-admin"}).Client)

	n.has(functions.AccountUseResponse{Functions: 3, Versions: 5})
	got := call(t, s, contract.GetAccount, contract.AccountRequest{NCAID: "acme"})
	b, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, `{"account":{"ncaId":"acme","clientIds":["acme-admin"],"name":"acme-corp","telemetries":[],"registryCredentials":[],
		"maxFunctionsAllowed":2147483647,"maxTasksAllowed":2147483647,"maxTelemetriesAllowed":25,"maxRegistryCredentialsAllowed":25,
		"currentNumberFunctions":3,"lastUpdatedAt":"2031-05-01T08:00:00.125Z"}}`, string(b))

	all := call(t, s, contract.Accounts, contract.AccountsRequest{}).CloudAccounts
	require.Len(t, all, 2)
	require.Equal(t, []string{"acme", "nvcf-default"}, []string{all[0].NCAID, all[1].NCAID})
	page := call(t, s, contract.Accounts, contract.AccountsRequest{Page: contract.Page{Limit: new(1)}})
	require.Len(t, page.CloudAccounts, 1)
	page = call(t, s, contract.Accounts, contract.AccountsRequest{Page: contract.Page{Limit: new(1), Cursor: page.NextCursor}})
	require.Equal(t, "nvcf-default", page.CloudAccounts[0].NCAID)
	require.Empty(t, page.NextCursor)
	refused(t, s, 400, contract.Accounts, contract.AccountsRequest{Page: contract.Page{Limit: new(0)}})
	refused(t, s, 400, contract.Accounts, contract.AccountsRequest{Page: contract.Page{Cursor: "!"}})

	changed := call(t, s, contract.UpdateAccount, contract.UpdateAccountRequest{
		NCAID: "acme", Name: new("acme_2"), AccountLimits: contract.AccountLimits{MaxTelemetriesAllowed: new(0), MaxRegistryCredentialsAllowed: new(50), MaxTasksAllowed: new(7)},
	}).Account
	require.Equal(t, "acme_2", changed.Name)
	require.Equal(t, []int{2147483647, 7, 0, 50}, []int{changed.MaxFunctionsAllowed, changed.MaxTasksAllowed, changed.MaxTelemetriesAllowed, changed.MaxRegistryCredentialsAllowed})
	require.Equal(t, changed, toldAccount(t, events, contract.AccountUpdated))
}

func TestAccountRules(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.functions(t)
	ok := contract.CreateAccountRequest{NCAID: "acme", Name: "acme-corp"}
	limits := func(l contract.AccountLimits) func(*contract.CreateAccountRequest) {
		return func(r *contract.CreateAccountRequest) { r.AccountLimits = l }
	}
	for _, tc := range []struct {
		field  string
		change func(*contract.CreateAccountRequest)
	}{
		{"ncaId", func(r *contract.CreateAccountRequest) { r.NCAID = "-acme" }},
		{"ncaId", func(r *contract.CreateAccountRequest) { r.NCAID = "_acme" }},
		{"ncaId", func(r *contract.CreateAccountRequest) { r.NCAID = "é" }},
		{"ncaId", func(r *contract.CreateAccountRequest) { r.NCAID = "a\x00" }},
		{"name", func(r *contract.CreateAccountRequest) { r.Name = "" }},
		{"name", func(r *contract.CreateAccountRequest) { r.Name = "abc" }},
		{"name", func(r *contract.CreateAccountRequest) { r.Name = strings.Repeat("a", 37) }},
		{"name", func(r *contract.CreateAccountRequest) { r.Name = "-acme" }},
		{"name", func(r *contract.CreateAccountRequest) { r.Name = "acme corp" }},
		{"name", func(r *contract.CreateAccountRequest) { r.Name = "acme\n" }},
		{"adminClientId", func(r *contract.CreateAccountRequest) { r.AdminClientID = "a\x01" }},
		{"adminClientId", func(r *contract.CreateAccountRequest) { r.AdminClientID = " \u2003" }},
		{"maxFunctionsAllowed", limits(contract.AccountLimits{MaxFunctionsAllowed: new(0)})},
		{"maxFunctionsAllowed", limits(contract.AccountLimits{MaxFunctionsAllowed: new(2147483648)})},
		{"maxTasksAllowed", limits(contract.AccountLimits{MaxTasksAllowed: new(-1)})},
		{"maxTelemetriesAllowed", limits(contract.AccountLimits{MaxTelemetriesAllowed: new(0)})},
		{"maxTelemetriesAllowed", limits(contract.AccountLimits{MaxTelemetriesAllowed: new(26)})},
		{"maxRegistryCredentialsAllowed", limits(contract.AccountLimits{MaxRegistryCredentialsAllowed: new(26)})},
		{"registryCredentials", func(r *contract.CreateAccountRequest) { r.RegistryCredentials = credentials("CONTAINER") }},
		{"registryCredentials", func(r *contract.CreateAccountRequest) {
			r.RegistryCredentials = credentials("CONTAINER", "HELM", "HELM")
		}},
	} {
		req := ok
		tc.change(&req)
		require.Equal(t, tc.field, refused(t, s, 400, contract.CreateAccount, req).Violations[0].Field)
	}
	for _, name := range []string{"abcd", strings.Repeat("a", 36), "A-_9"} {
		req := ok
		req.NCAID, req.Name = "x"+name, name
		call(t, s, contract.CreateAccount, req)
	}
	ok.AdminClientID = "acme-admin"
	call(t, s, contract.CreateAccount, ok)
	require.Equal(t, problem.Conflict, refused(t, s, 409, contract.CreateAccount, ok).Code)
	ok.NCAID = "acme-2"
	require.Contains(t, refused(t, s, 409, contract.CreateAccount, ok).Detail, "acme-admin")
	refused(t, s, 404, contract.LookupAccount, contract.AccountRequest{NCAID: "acme-2"})

	for _, tc := range []struct {
		field string
		req   contract.UpdateAccountRequest
	}{
		{"body", contract.UpdateAccountRequest{}},
		{"name", contract.UpdateAccountRequest{Name: new("abc")}},
		{"maxFunctionsAllowed", contract.UpdateAccountRequest{AccountLimits: contract.AccountLimits{MaxFunctionsAllowed: new(0)}}},
		{"maxTelemetriesAllowed", contract.UpdateAccountRequest{AccountLimits: contract.AccountLimits{MaxTelemetriesAllowed: new(51)}}},
		{"maxRegistryCredentialsAllowed", contract.UpdateAccountRequest{AccountLimits: contract.AccountLimits{MaxRegistryCredentialsAllowed: new(-1)}}},
	} {
		tc.req.NCAID = "acme"
		require.Equal(t, tc.field, refused(t, s, 400, contract.UpdateAccount, tc.req).Violations[0].Field)
	}
	for _, id := range []string{"nobody", "a\x00b"} {
		require.Equal(t, problem.NotFound, refused(t, s, 404, contract.LookupAccount, contract.AccountRequest{NCAID: id}).Code)
		refused(t, s, 404, contract.GetAccount, contract.AccountRequest{NCAID: id})
		refused(t, s, 404, contract.UpdateAccount, contract.UpdateAccountRequest{NCAID: id, Name: new("abcd")})
		refused(t, s, 404, contract.DeleteAccount, contract.AccountRequest{NCAID: id})
		refused(t, s, 404, contract.AssociateClient, contract.AccountClientRequest{NCAID: id, AdminClientID: "x"})
		refused(t, s, 404, contract.DisassociateClient, contract.AccountClientRequest{NCAID: id, AdminClientID: "x"})
		refused(t, s, 404, contract.ReadClient, contract.ReadClientRequest{ClientID: id})
	}
	require.Equal(t, "Account with ncaId 'nobody' not found", refused(t, s, 404, contract.LookupAccount, contract.AccountRequest{NCAID: "nobody"}).Detail)
}

func credentials(types ...functions.ArtifactType) (all []functions.NewRegistryCredential) {
	for _, typ := range types {
		all = append(all, functions.NewRegistryCredential{RegistryHostname: "registry.example", ArtifactTypes: []functions.ArtifactType{typ}})
	}
	return all
}

func TestAccountBringsItsRegistryCredentials(t *testing.T) {
	t.Parallel()
	s := start(t)
	n := s.functions(t)
	req := contract.CreateAccountRequest{NCAID: "acme", Name: "acme-corp", RegistryCredentials: credentials("CONTAINER", "HELM")}
	n.refuse = func(r functions.AddRegistryCredentialRequest) error {
		if r.CheckOnly && r.ArtifactTypes[0] == functions.HelmArtifact {
			return problem.New(problem.BadRequest, "no such registry")
		}
		return nil
	}
	require.Equal(t, "no such registry", refused(t, s, 400, contract.CreateAccount, req).Detail)
	n.refuse = func(r functions.AddRegistryCredentialRequest) error {
		if !r.CheckOnly && r.ArtifactTypes[0] == functions.HelmArtifact {
			return problem.New(problem.Unavailable, "try again")
		}
		return nil
	}
	refused(t, s, 503, contract.CreateAccount, req)
	refused(t, s, 404, contract.LookupAccount, contract.AccountRequest{NCAID: "acme"})
	n.refuse, n.added = nil, nil
	call(t, s, contract.CreateAccount, req)
	require.Len(t, n.added, 4)
	for i, added := range n.added {
		require.Equal(t, "acme", added.Account)
		require.Equal(t, functions.BySystem, added.ProvisionedBy)
		require.Equal(t, i < 2, added.CheckOnly)
	}
}

func TestClientsOfAnAccount(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.functions(t)
	events := s.events(t)
	s.account(t, "acme", "acme-admin")
	s.account(t, "globex", "")
	req := contract.AccountClientRequest{NCAID: "acme", AdminClientID: "second"}
	require.Equal(t, []string{"acme-admin", "second"}, call(t, s, contract.AssociateClient, req).Account.AdminClientIDs)
	require.Len(t, toldAccount(t, events, contract.AccountUpdated).AdminClientIDs, 2)
	require.Equal(t, problem.Conflict, refused(t, s, 409, contract.AssociateClient, req).Code)
	refused(t, s, 409, contract.AssociateClient, contract.AccountClientRequest{NCAID: "globex", AdminClientID: "second"})
	require.Contains(t, refused(t, s, 400, contract.DisassociateClient, contract.AccountClientRequest{NCAID: "globex", AdminClientID: "second"}).Detail, "not bound")
	require.Contains(t, refused(t, s, 404, contract.DisassociateClient, contract.AccountClientRequest{NCAID: "acme", AdminClientID: "nobody"}).Detail, "nobody")
	for _, client := range []string{"", " ", "a\x00"} {
		bad := contract.AccountClientRequest{NCAID: "acme", AdminClientID: client}
		require.Equal(t, "adminClientId", refused(t, s, 400, contract.AssociateClient, bad).Violations[0].Field)
		refused(t, s, 400, contract.DisassociateClient, bad)
	}
	refused(t, s, 400, contract.DisassociateClient, contract.AccountClientRequest{NCAID: access.DefaultAccount, AdminClientID: "ncp"})
	refused(t, s, 404, contract.ReadClient, contract.ReadClientRequest{NCAID: "globex", ClientID: "second"})

	require.Equal(t, []string{"second"}, call(t, s, contract.DisassociateClient, contract.AccountClientRequest{NCAID: "acme", AdminClientID: "acme-admin"}).Account.AdminClientIDs)
	refused(t, s, 404, contract.Client, contract.ClientRequest{ClientID: "acme-admin"})
	revocations := call(t, s, contract.Revocations, rpc.None{}).Revocations
	require.Len(t, revocations, 1, "its tokens stop working")
	require.Equal(t, "acme-admin", revocations[0].Subject)
	require.True(t, revocations[0].IssuedBefore.After(s.clock.Now()))
	call(t, s, contract.AssociateClient, contract.AccountClientRequest{NCAID: "globex", AdminClientID: "acme-admin"})
	require.Equal(t, "globex", call(t, s, contract.Client, contract.ClientRequest{ClientID: "acme-admin"}).Account)
}

func TestKeysOfAClientAreOfItsAccount(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.functions(t)
	bind := contract.AccountClientRequest{NCAID: s.account(t, "acme", "").NCAID, AdminClientID: "team-a@corp.example"}
	account := func(value string) string { return s.grants(t, value).Credential.Account }
	before := s.create(t)
	require.Equal(t, bind.AdminClientID, before.OwnerID)
	require.Equal(t, access.DefaultAccount, account(before.Value))

	call(t, s, contract.AssociateClient, bind)
	acme := s.create(t)
	require.Equal(t, "acme", account(acme.Value))
	require.Equal(t, access.DefaultAccount, account(before.Value), "a key never changes its account")

	call(t, s, contract.DisassociateClient, bind)
	require.Equal(t, access.DefaultAccount, account(s.create(t).Value))
	rotated := call(t, s, contract.Rotate, contract.RotateRequest{KeyRequest: keyRequest(acme.ID)})
	require.Equal(t, "acme", account(rotated.Value))
}

func TestKeyStaysInItsAccount(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.functions(t)
	s.account(t, "acme", "acme-admin")
	ctx := as(t, "acme")
	list, err := bus.Call(ctx, s.conn, contract.Accounts, contract.AccountsRequest{})
	require.NoError(t, err)
	require.Len(t, list.CloudAccounts, 1)
	require.Equal(t, "acme", list.CloudAccounts[0].NCAID)
	_, err = bus.Call(ctx, s.conn, contract.GetAccount, contract.AccountRequest{NCAID: "acme"})
	require.NoError(t, err)
	_, err = bus.Call(ctx, s.conn, contract.UpdateAccount, contract.UpdateAccountRequest{NCAID: "acme", Name: new("acme")})
	require.NoError(t, err)
	other := contract.AccountRequest{NCAID: access.DefaultAccount}
	_, err = bus.Call(ctx, s.conn, contract.GetAccount, other)
	require.True(t, problem.HasCode(err, problem.AccountMismatch))
	_, err = bus.Call(ctx, s.conn, contract.UpdateAccount, contract.UpdateAccountRequest{NCAID: other.NCAID, Name: new("acme")})
	require.True(t, problem.HasCode(err, problem.AccountMismatch))
	_, err = bus.Call(ctx, s.conn, contract.AssociateClient, contract.AccountClientRequest{NCAID: other.NCAID, AdminClientID: "x"})
	require.True(t, problem.HasCode(err, problem.AccountMismatch))
	_, err = bus.Call(ctx, s.conn, contract.DeleteAccount, other)
	require.True(t, problem.HasCode(err, problem.AccountMismatch))
	_, err = bus.Call(ctx, s.conn, contract.ReadClient, contract.ReadClientRequest{ClientID: "ncp"})
	require.True(t, problem.HasCode(err, problem.AccountMismatch))
}

func TestDeletedAccountStopsItsKeysAndTokens(t *testing.T) {
	t.Parallel()
	s := start(t)
	n := s.functions(t)
	events := s.events(t)
	s.account(t, "acme", "acme-admin")
	ctx := access.WithCaller(t.Context(), access.Caller{Kind: access.JWT, Account: "acme", Subject: "acme-admin"})
	req := s.wanted()
	req.OwnerID = "wile@acme.example"
	key, err := bus.Call(ctx, s.conn, contract.Create, req)
	require.NoError(t, err)
	account := contract.AccountRequest{NCAID: "acme"}

	n.has(functions.AccountUseResponse{Functions: 1, Versions: 2})
	require.Contains(t, refused(t, s, 400, contract.DeleteAccount, account).Detail, "owns 1 functions")
	n.has(functions.AccountUseResponse{AuthorizedParty: true})
	require.Contains(t, refused(t, s, 400, contract.DeleteAccount, account).Detail, "authorized party")
	require.True(t, s.grants(t, key.Value).Known)
	n.has(functions.AccountUseResponse{})
	call(t, s, contract.DeleteAccount, account)

	require.Equal(t, "acme", toldAccount(t, events, contract.AccountDeleted).NCAID)
	require.Equal(t, "account_deleted", told(t, events, contract.Revoked, key.ID).Reason)
	require.False(t, s.grants(t, key.Value).Known)
	refused(t, s, 404, contract.Client, contract.ClientRequest{ClientID: "acme-admin"})
	require.Equal(t, "acme-admin", call(t, s, contract.Revocations, rpc.None{}).Revocations[0].Subject)
	refused(t, s, 404, contract.DeleteAccount, account)
	refused(t, s, 404, contract.GetOwner, contract.OwnerRequest{OwnerID: "wile@acme.example"})
	require.Contains(t, refused(t, s, 400, contract.DeleteAccount, contract.AccountRequest{NCAID: access.DefaultAccount}).Detail, "cannot be deleted")
	require.Len(t, call(t, s, contract.Accounts, contract.AccountsRequest{}).CloudAccounts, 1)
}

func TestAccountWithoutTheFunctionsService(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.account(t, "acme", "") // needs nobody
	refused(t, s, 503, contract.DeleteAccount, contract.AccountRequest{NCAID: "acme"})
	refused(t, s, 503, contract.GetAccount, contract.AccountRequest{NCAID: "acme"})
	call(t, s, contract.LookupAccount, contract.AccountRequest{NCAID: "acme"})
}
