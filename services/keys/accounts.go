package keys

import (
	"context"
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/coder/quartz"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

const (
	// accountsMost bounds a page of accounts.
	accountsMost = 1000
	// createdHoldings and changedHoldings bound how many telemetry endpoints, and how many registry credentials, an
	// account may be allowed at its creation and later.
	createdHoldings = 25
	changedHoldings = 50
)

var (
	accountShape     = regexp.MustCompile(`^[a-zA-Z0-9]`)
	accountNameShape = regexp.MustCompile(`^[a-z0-9A-Z][a-z0-9A-Z\-_]{3,35}$`)
)

// Accounts are the use cases of tenants and their clients (functions-deployments §10). What an account has in other
// services is asked there.
type Accounts struct {
	store *Store
	conn  *bus.Conn
	clock quartz.Clock
	cfg   Config
	log   *zap.Logger
}

// NewAccounts makes the use cases.
func NewAccounts(store *Store, conn *bus.Conn, clock quartz.Clock, cfg Config, log *zap.Logger) *Accounts {
	return &Accounts{store: store, conn: conn, clock: clock, cfg: cfg, log: log}
}

// Create makes an account, binds its client and gives it its registry credentials.
func (a *Accounts) Create(ctx context.Context, req contract.CreateAccountRequest) (contract.AccountResponse, error) {
	check := problem.NewCheck("account")
	check.Require(accountShape.MatchString(req.NCAID) && storable(req.NCAID), "ncaId", "must start with a letter or digit, have at most %d characters and none of them a control character", maxName)
	check.Require(accountNameShape.MatchString(req.Name), "name", "must be 4 to 36 letters, digits, hyphens and underscores and start with a letter or digit")
	check.Require(req.AdminClientID == "" || storable(req.AdminClientID), "adminClientId", "must have at most %d characters, not only spaces and none of them a control character", maxName)
	a.checkLimits(check, req.AccountLimits, 1, createdHoldings)
	a.checkCredentials(check, req.RegistryCredentials)
	if err := check.Err(); err != nil {
		return contract.AccountResponse{}, err
	}
	account := contract.Account{
		NCAID: req.NCAID, Name: req.Name, AdminClientIDs: []string{}, MaxFunctionsAllowed: a.cfg.MaxFunctions, MaxTasksAllowed: a.cfg.MaxTasks,
		MaxTelemetriesAllowed: createdHoldings, MaxRegistryCredentialsAllowed: createdHoldings,
	}
	setLimits(&account, req.AccountLimits)
	if req.AdminClientID != "" {
		account.AdminClientIDs = []string{req.AdminClientID}
	}
	if err := a.store.accountIsFree(ctx, req.NCAID, req.AdminClientID); err != nil {
		return contract.AccountResponse{}, err
	}
	for _, c := range req.RegistryCredentials {
		if err := a.credential(ctx, req.NCAID, c, true); err != nil {
			return contract.AccountResponse{}, err
		}
	}
	account.LastUpdatedAt = a.clock.Now().UTC().Truncate(time.Millisecond)
	if err := a.store.createAccount(ctx, account); err != nil {
		return contract.AccountResponse{}, err
	}
	for _, c := range req.RegistryCredentials {
		if err := a.credential(ctx, req.NCAID, c, false); err != nil {
			if _, undo := a.store.deleteAccount(ctx, req.NCAID, a.clock.Now().UTC()); undo != nil {
				a.log.Warn("account kept without its registry credentials", zap.String("account", req.NCAID), zap.Error(undo))
			}
			return contract.AccountResponse{}, err
		}
	}
	return contract.AccountResponse{Account: account}, nil
}

func (a *Accounts) credential(ctx context.Context, account string, c functions.NewRegistryCredential, checkOnly bool) error {
	_, err := bus.Call(ctx, a.conn, functions.AddRegistryCredential, functions.AddRegistryCredentialRequest{
		Account: account, ProvisionedBy: functions.BySystem, CheckOnly: checkOnly, NewRegistryCredential: c,
	})
	return err
}

// checkCredentials wants, of an account that brings registry credentials, one for each type that the operator requires,
// and never two for one type.
func (a *Accounts) checkCredentials(check *problem.Check, credentials []functions.NewRegistryCredential) {
	if len(credentials) == 0 {
		return
	}
	var served []functions.ArtifactType
	for _, c := range credentials {
		for _, t := range c.ArtifactTypes {
			check.Require(!slices.Contains(served, t), "registryCredentials", "must not have two credentials for artifacts of type %s", t)
			served = append(served, t)
		}
	}
	for _, t := range a.cfg.RequiredArtifacts {
		required := functions.ArtifactType(strings.ToUpper(strings.TrimSpace(t)))
		check.Require(required == "" || slices.Contains(served, required), "registryCredentials", "must have a credential for artifacts of type %s", required)
	}
}

func (a *Accounts) checkLimits(check *problem.Check, l contract.AccountLimits, least, most int) {
	for _, limit := range []struct {
		field       string
		value       *int
		least, most int
	}{
		{"maxFunctionsAllowed", l.MaxFunctionsAllowed, 1, a.cfg.MaxFunctions},
		{"maxTasksAllowed", l.MaxTasksAllowed, 1, a.cfg.MaxTasks},
		{"maxTelemetriesAllowed", l.MaxTelemetriesAllowed, least, most},
		{"maxRegistryCredentialsAllowed", l.MaxRegistryCredentialsAllowed, least, most},
	} {
		if limit.value != nil {
			check.Require(*limit.value >= limit.least && *limit.value <= limit.most, limit.field, "must be between %d and %d", limit.least, limit.most)
		}
	}
}

func setLimits(account *contract.Account, l contract.AccountLimits) {
	for _, limit := range []struct {
		from *int
		to   *int
	}{
		{l.MaxFunctionsAllowed, &account.MaxFunctionsAllowed},
		{l.MaxTasksAllowed, &account.MaxTasksAllowed},
		{l.MaxTelemetriesAllowed, &account.MaxTelemetriesAllowed},
		{l.MaxRegistryCredentialsAllowed, &account.MaxRegistryCredentialsAllowed},
	} {
		if limit.from != nil {
			*limit.to = *limit.from
		}
	}
}

// List returns the accounts by id; a key sees its own.
func (a *Accounts) List(ctx context.Context, req contract.AccountsRequest) (contract.AccountsResponse, error) {
	limit, err := pageLimit(req.Page, accountsMost)
	if err != nil {
		return contract.AccountsResponse{}, err
	}
	after, err := base64.RawURLEncoding.DecodeString(req.Cursor)
	if err != nil || len(after) > 0 && !storable(string(after)) {
		return contract.AccountsResponse{}, badCursor()
	}
	only := ""
	if caller := access.CallerFrom(ctx); caller.Kind == access.Key {
		only = caller.Account
	}
	found, err := a.store.accounts(ctx, only, string(after), limit+1)
	if err != nil {
		return contract.AccountsResponse{}, err
	}
	answer := contract.AccountsResponse{CloudAccounts: found}
	if len(found) > limit {
		answer.CloudAccounts = found[:limit]
		answer.NextCursor = base64.RawURLEncoding.EncodeToString([]byte(found[limit-1].NCAID))
	}
	return answer, nil
}

// Lookup is [contract.LookupAccount].
func (a *Accounts) Lookup(ctx context.Context, req contract.AccountRequest) (contract.AccountResponse, error) {
	account, err := a.find(ctx, req.NCAID)
	return contract.AccountResponse{Account: account}, err
}

func (a *Accounts) find(ctx context.Context, id string) (contract.Account, error) {
	if !storable(id) {
		return contract.Account{}, noAccount(id)
	}
	account, err := a.store.accountByID(ctx, id)
	if err == nil && account == nil {
		err = noAccount(id)
	}
	if err != nil {
		return contract.Account{}, err
	}
	return *account, nil
}

// Get returns an account with what it has elsewhere.
func (a *Accounts) Get(ctx context.Context, req contract.AccountRequest) (contract.AccountDetailsResponse, error) {
	if err := own(ctx, req.NCAID); err != nil {
		return contract.AccountDetailsResponse{}, err
	}
	account, err := a.find(ctx, req.NCAID)
	if err != nil {
		return contract.AccountDetailsResponse{}, err
	}
	use, err := bus.Call(ctx, a.conn, functions.AccountUse, functions.AccountUseRequest{Account: req.NCAID})
	if err != nil {
		return contract.AccountDetailsResponse{}, err
	}
	d := contract.AccountDetails{
		NCAID: account.NCAID, ClientIDs: account.AdminClientIDs, Name: account.Name, Telemetries: use.Telemetries, RegistryCredentials: use.RegistryCredentials,
		MaxFunctionsAllowed: account.MaxFunctionsAllowed, MaxTasksAllowed: account.MaxTasksAllowed, MaxTelemetriesAllowed: account.MaxTelemetriesAllowed,
		MaxRegistryCredentialsAllowed: account.MaxRegistryCredentialsAllowed, CurrentNumberFunctions: use.Functions, LastUpdatedAt: account.LastUpdatedAt,
	}
	if d.Telemetries == nil {
		d.Telemetries = []functions.Telemetry{}
	}
	if d.RegistryCredentials == nil {
		d.RegistryCredentials = []functions.RegistryCredential{}
	}
	return contract.AccountDetailsResponse{Account: d}, nil
}

// own keeps a key in its own account; a token may set up any.
func own(ctx context.Context, account string) error {
	if caller := access.CallerFrom(ctx); caller.Kind == access.Key && caller.Account != account {
		return problem.New(problem.AccountMismatch, "this credential does not belong to account '%s'", account)
	}
	return nil
}

// Update changes the name and limits of an account.
func (a *Accounts) Update(ctx context.Context, req contract.UpdateAccountRequest) (contract.AccountResponse, error) {
	if err := own(ctx, req.NCAID); err != nil {
		return contract.AccountResponse{}, err
	}
	check := problem.NewCheck("account")
	check.Require(req.Name != nil || req.AccountLimits != (contract.AccountLimits{}), "body", "must have one of name, maxFunctionsAllowed, maxTasksAllowed, maxTelemetriesAllowed and maxRegistryCredentialsAllowed")
	check.Require(req.Name == nil || accountNameShape.MatchString(*req.Name), "name", "must be 4 to 36 letters, digits, hyphens and underscores and start with a letter or digit")
	a.checkLimits(check, req.AccountLimits, 0, changedHoldings)
	if err := check.Err(); err != nil {
		return contract.AccountResponse{}, err
	}
	return a.change(ctx, req.NCAID, func(account *contract.Account) error {
		if req.Name != nil {
			account.Name = *req.Name
		}
		setLimits(account, req.AccountLimits)
		return nil
	})
}

func (a *Accounts) change(ctx context.Context, id string, edit func(*contract.Account) error) (contract.AccountResponse, error) {
	if !storable(id) {
		return contract.AccountResponse{}, noAccount(id)
	}
	account, err := a.store.changeAccount(ctx, id, a.clock.Now().UTC(), edit)
	switch {
	case err != nil:
		return contract.AccountResponse{}, err
	case account == nil:
		return contract.AccountResponse{}, noAccount(id)
	}
	return contract.AccountResponse{Account: *account}, nil
}

// Associate binds a client that is bound to no account yet. Keys that are made from then on for an owner of that name are
// of the account, too; those it has stay where they are.
func (a *Accounts) Associate(ctx context.Context, req contract.AccountClientRequest) (contract.AccountResponse, error) {
	if err := a.checkClient(ctx, req); err != nil {
		return contract.AccountResponse{}, err
	}
	return a.change(ctx, req.NCAID, func(account *contract.Account) error {
		account.AdminClientIDs = append(account.AdminClientIDs, req.AdminClientID)
		return nil
	})
}

func (a *Accounts) checkClient(ctx context.Context, req contract.AccountClientRequest) error {
	if err := own(ctx, req.NCAID); err != nil {
		return err
	}
	if !storable(req.AdminClientID) {
		return invalid("adminClientId", "must be present, at most %d characters and none of them a control character", maxName)
	}
	return nil
}

// Disassociate takes a client away; the tokens that it has stop working. A key is of the account, not of who asked for it,
// and goes on.
func (a *Accounts) Disassociate(ctx context.Context, req contract.AccountClientRequest) (contract.AccountResponse, error) {
	if err := a.checkClient(ctx, req); err != nil {
		return contract.AccountResponse{}, err
	}
	if req.AdminClientID == contract.TokenSubject {
		return contract.AccountResponse{}, problem.New(problem.BadRequest, "client '%s' is that of the administrator tokens and stays with its account", req.AdminClientID)
	}
	if _, err := a.find(ctx, req.NCAID); err != nil {
		return contract.AccountResponse{}, err
	}
	bound, err := a.store.account(ctx, req.AdminClientID)
	switch {
	case err != nil:
		return contract.AccountResponse{}, err
	case bound == "":
		return contract.AccountResponse{}, noClient(req.AdminClientID)
	}
	return a.change(ctx, req.NCAID, func(account *contract.Account) error {
		at := slices.Index(account.AdminClientIDs, req.AdminClientID)
		if at < 0 {
			return problem.New(problem.BadRequest, "client '%s' is not bound to account '%s'", req.AdminClientID, req.NCAID)
		}
		account.AdminClientIDs = slices.Delete(account.AdminClientIDs, at, at+1)
		return nil
	})
}

// Delete removes an account that owns no function and is no authorized party. Its keys and the tokens of its clients stop
// working.
func (a *Accounts) Delete(ctx context.Context, req contract.AccountRequest) (rpc.None, error) {
	if err := own(ctx, req.NCAID); err != nil {
		return rpc.None{}, err
	}
	if _, err := a.find(ctx, req.NCAID); err != nil {
		return rpc.None{}, err
	}
	if req.NCAID == access.DefaultAccount {
		return rpc.None{}, problem.New(problem.BadRequest, "account '%s' is that of the administrator and cannot be deleted", req.NCAID)
	}
	use, err := bus.Call(ctx, a.conn, functions.AccountUse, functions.AccountUseRequest{Account: req.NCAID})
	switch {
	case err != nil:
		return rpc.None{}, err
	case use.Functions > 0 || use.Versions > 0:
		return rpc.None{}, problem.New(problem.BadRequest, "account '%s' owns %d functions; delete them first", req.NCAID, use.Functions)
	case use.AuthorizedParty:
		return rpc.None{}, problem.New(problem.BadRequest, "account '%s' is an authorized party of functions of other accounts; remove it there first", req.NCAID)
	}
	found, err := a.store.deleteAccount(ctx, req.NCAID, a.clock.Now().UTC())
	switch {
	case err != nil:
		return rpc.None{}, err
	case !found:
		return rpc.None{}, noAccount(req.NCAID)
	}
	// The keys are dead already, without their account. Their events are what caches wait for; what this does not get to,
	// the reaper does.
	for n := reapBatch; n == reapBatch; {
		if n, err = a.store.endOrphans(ctx, reapBatch); err != nil {
			return rpc.None{}, err
		}
	}
	return rpc.None{}, nil
}

// Client tells about a client.
func (a *Accounts) Client(ctx context.Context, req contract.ReadClientRequest) (contract.AccountClientResponse, error) {
	if !storable(req.ClientID) {
		return contract.AccountClientResponse{}, noClient(req.ClientID)
	}
	client, err := a.store.client(ctx, req.ClientID)
	switch {
	case err != nil:
		return contract.AccountClientResponse{}, err
	case client == nil || req.NCAID != "" && client.NCAID != req.NCAID:
		return contract.AccountClientResponse{}, noClient(req.ClientID)
	}
	return contract.AccountClientResponse{Client: *client}, own(ctx, client.NCAID)
}

func noAccount(id string) error {
	if !storable(id) {
		return problem.New(problem.NotFound, "Account not found")
	}
	return problem.New(problem.NotFound, "Account with ncaId '%s' not found", id)
}

func noClient(id string) error {
	if !storable(id) {
		return problem.New(problem.NotFound, "Client id: Not found")
	}
	return problem.New(problem.NotFound, "Client id '%s': Not found", id)
}
