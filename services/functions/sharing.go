package functions

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// Sharing has two levels (§5): the parties of a function, which every one of its versions repeats, and those of one
// version. A version is shared with both. The wildcard in either makes it public, which only a super administrator may do
// or undo.

// merged are the parties of both levels, those of the function first.
func (v version) merged() []contract.Party {
	all := slices.Clone(v.functionParties)
	for _, p := range v.versionParties {
		if !holds(all, p.NCAID) {
			all = append(all, p)
		}
	}
	return all
}

// authorized are the accounts of both levels, without the wildcard.
func (v version) authorized() []string {
	accounts := []string{}
	for _, p := range v.merged() {
		if p.NCAID != contract.Everyone {
			accounts = append(accounts, p.NCAID)
		}
	}
	return accounts
}

func (v version) public() bool { return holds(v.merged(), contract.Everyone) }

// sharedWith reports whether an account that is not the owner may see and invoke the version.
func (v version) sharedWith(account string) bool {
	return v.public() || slices.Contains(v.authorized(), account)
}

// sharedView is the version as another account sees it (§2.1): nothing of what runs inside.
func (v version) sharedView() contract.Function {
	fn := v.view()
	s := v.spec
	fn.Spec = contract.Spec{
		Name: s.Name, APIBodyFormat: s.APIBodyFormat, FunctionType: s.FunctionType, HealthURI: s.HealthURI, Health: s.Health,
		Description: s.Description, Tags: s.Tags, Telemetries: s.Telemetries, LLMInvocationConfig: s.LLMInvocationConfig,
	}
	fn.OwnedByDifferentAccount = true
	return fn
}

func holds(list []contract.Party, account string) bool { return indexOf(list, account) >= 0 }

func indexOf(list []contract.Party, account string) int {
	return slices.IndexFunc(list, func(p contract.Party) bool { return p.NCAID == account })
}

// GetShared returns the parties of both levels of one version.
func (f *Functions) GetShared(ctx context.Context, r contract.ShareTarget) (contract.SharedResponse, error) {
	caller, want, err := named(ctx, r.FunctionID, r.VersionID)
	if err != nil {
		return contract.SharedResponse{}, err
	}
	v, found, err := f.store.find(ctx, want.versionID)
	if err == nil {
		err = permit(access.ShareFunction, caller, want, v, found)
	}
	if err != nil {
		return contract.SharedResponse{}, err
	}
	return contract.SharedResponse{Function: v.shared(v.merged())}, nil
}

func (v version) shared(parties []contract.Party) contract.Shared {
	if parties == nil {
		parties = []contract.Party{}
	}
	return contract.Shared{ID: v.functionID, NCAID: v.account, VersionID: v.id, AuthorizedParties: parties}
}

// ListShared returns the parties of both levels of every version of a function.
func (f *Functions) ListShared(ctx context.Context, r contract.ShareTarget) (contract.SharedVersionsResponse, error) {
	none := contract.SharedVersionsResponse{}
	caller, err := client(ctx)
	if err != nil {
		return none, err
	}
	functionID, err := id("functionId", r.FunctionID)
	if err != nil {
		return none, err
	}
	all, err := f.store.ofFunction(ctx, caller.Account, functionID)
	if err != nil {
		return none, err
	}
	if len(all) == 0 {
		return none, functionNotFound(caller.Account, functionID)
	}
	for _, v := range all {
		if caller.CoversFunction(true, functionID, v.id) {
			none.Functions = append(none.Functions, v.shared(v.merged()))
		}
	}
	if len(none.Functions) == 0 {
		return none, access.NotCovered(access.ShareFunction, "function "+functionID)
	}
	return none, nil
}

// Share replaces the parties of a level.
func (f *Functions) Share(ctx context.Context, r contract.ShareRequest) (contract.SharedResponse, error) {
	none := contract.SharedResponse{}
	caller, err := client(ctx)
	if err != nil {
		return none, err
	}
	c := newChecker("authorizations")
	if len(r.AuthorizedParties) == 0 {
		c.refuse("authorizedParties", "is required: one account or more")
	}
	if !allDiffer(r.AuthorizedParties, func(p contract.Party) string { return p.NCAID }) {
		c.refuse("authorizedParties", "must name every ncaId once")
	}
	for i, p := range r.AuthorizedParties {
		at := fmt.Sprintf("authorizedParties[%d]", i)
		checkParty(c, at, caller.Account, p)
		if p.NCAID != contract.Everyone {
			continue
		}
		if !caller.CrossAccount {
			c.refuse(at+".ncaId", "only a super administrator may make a function public with *")
		}
		if len(r.AuthorizedParties) > 1 || p.ClientID != "" {
			c.refuse(at, "the wildcard * stands alone, without a clientId")
		}
	}
	field := func(i int) string { return fmt.Sprintf("authorizedParties[%d]", i) }
	return f.reshare(ctx, c, r.ShareTarget, mention{r.AuthorizedParties, field}, func([]contract.Party) ([]contract.Party, error) {
		return r.AuthorizedParties, nil
	})
}

// AddParty shares a level, which is shared already, with one more account.
func (f *Functions) AddParty(ctx context.Context, r contract.SharePartyRequest) (contract.SharedResponse, error) {
	p, c, err := single(ctx, r)
	if err != nil {
		return contract.SharedResponse{}, err
	}
	field := func(int) string { return "authorizedParty" }
	return f.reshare(ctx, c, r.ShareTarget, mention{[]contract.Party{p}, field}, func(have []contract.Party) ([]contract.Party, error) {
		switch {
		case len(have) == 0:
			return nil, unshared(r.ShareTarget)
		case holds(have, p.NCAID):
			return nil, problem.New(problem.Conflict, "account '%s' is an authorized party already", p.NCAID)
		}
		if holds(have, contract.Everyone) {
			return nil, problem.New(problem.IllegalState, "the wildcard * stands alone; POST the parties that shall replace it")
		}
		return append(slices.Clone(have), p), nil
	})
}

// RemoveParty takes one account out of a level.
func (f *Functions) RemoveParty(ctx context.Context, r contract.SharePartyRequest) (contract.SharedResponse, error) {
	p, c, err := single(ctx, r)
	if err != nil {
		return contract.SharedResponse{}, err
	}
	return f.reshare(ctx, c, r.ShareTarget, mention{}, func(have []contract.Party) ([]contract.Party, error) {
		at := indexOf(have, p.NCAID)
		switch {
		case len(have) == 0:
			return nil, unshared(r.ShareTarget)
		case at < 0:
			return nil, problem.New(problem.NotFound, "Authorized party '%s': Not found", p.NCAID)
		}
		return slices.Delete(slices.Clone(have), at, at+1), nil
	})
}

func unshared(t contract.ShareTarget) *problem.Problem {
	what := "Function id '" + t.FunctionID + "'"
	if t.VersionID != "" {
		what += ", version '" + t.VersionID + "'"
	}
	return problem.New(problem.NotFound, "%s: Not found: it has no authorized parties; POST the first ones", what)
}

// single checks the body of add and remove as far as it goes without a look at anything.
func single(ctx context.Context, r contract.SharePartyRequest) (contract.Party, *checker, error) {
	caller, err := client(ctx)
	if err != nil {
		return contract.Party{}, nil, err
	}
	c := newChecker("authorizations")
	if r.AuthorizedParty == nil {
		c.refuse("authorizedParty", "is required")
		return contract.Party{}, nil, c.Err()
	}
	checkParty(c, "authorizedParty", caller.Account, *r.AuthorizedParty)
	if r.AuthorizedParty.NCAID == contract.Everyone {
		c.refuse("authorizedParty.ncaId", "the wildcard * can only be set with POST and taken back with DELETE")
	}
	return *r.AuthorizedParty, c, nil
}

func checkParty(c *checker, at, owner string, p contract.Party) {
	switch {
	case !isText(p.NCAID):
		c.refuse(at+".ncaId", "is required")
	case p.NCAID == owner:
		c.refuse(at+".ncaId", "must be another account than the owner")
	}
	if p.ClientID != "" && !isText(p.ClientID) {
		c.refuse(at+".clientId", "must not be blank")
	}
}

// Unshare clears a level. Across accounts it also takes back the wildcard.
func (f *Functions) Unshare(ctx context.Context, r contract.ShareTarget) (contract.UnsharedResponse, error) {
	answer, err := f.reshare(ctx, newChecker("authorizations"), r, mention{}, func([]contract.Party) ([]contract.Party, error) { return nil, nil })
	return contract.UnsharedResponse{Function: contract.Unshared{
		ID: answer.Function.ID, NCAID: answer.Function.NCAID, VersionID: answer.Function.VersionID,
	}}, err
}

// mention is the parties of a request, with the place of each in it.
type mention struct {
	parties []contract.Party
	field   func(i int) string
}

// reshare replaces the parties of a level by what next makes of them. The accounts that are mentioned must exist, once
// the path and the body have passed c.
func (f *Functions) reshare(
	ctx context.Context, c *checker, r contract.ShareTarget, mentioned mention, next func([]contract.Party) ([]contract.Party, error),
) (contract.SharedResponse, error) {
	none := contract.SharedResponse{}
	caller, err := client(ctx)
	if err != nil {
		return none, err
	}
	want := pair{}
	if want.functionID, err = id("functionId", r.FunctionID); err != nil {
		return none, err
	}
	if r.VersionID != "" {
		if want.versionID, err = id("versionId", r.VersionID); err != nil {
			return none, err
		}
	}
	if err := c.Err(); err != nil {
		return none, err
	}
	// Foreign functions are unknown before anything is said about other accounts.
	if err := f.sharable(ctx, f.store.reads, caller, want); err != nil {
		return none, err
	}
	if err := f.partiesExist(ctx, mentioned); err != nil {
		return none, err
	}
	var answer contract.Shared
	err = f.store.change(ctx, func(u unit) error {
		family, err := u.lockFamily(ctx, caller.Account, want.functionID)
		if err != nil {
			return err
		}
		// Between the look and the lock it may have gone, or become public.
		if err := f.sharable(ctx, u.reads, caller, want); err != nil {
			return err
		}
		for _, v := range family {
			if want.versionID != "" && v.id != want.versionID {
				continue
			}
			before := v
			level := &v.functionParties
			if want.versionID != "" {
				level = &v.versionParties
			}
			if *level, err = next(*level); err != nil {
				return err
			}
			answer = v.shared(*level)
			if slices.Equal(before.functionParties, v.functionParties) && slices.Equal(before.versionParties, v.versionParties) {
				continue
			}
			v.updatedAt = f.now().UTC().Truncate(time.Millisecond)
			if err := u.share(ctx, v); err != nil {
				return err
			}
			if err := tell(ctx, u, contract.AuthorizationsUpdated, v, contract.AuthorizationsChanged{
				FunctionID: v.functionID, VersionID: v.id, Accounts: v.authorized(), Public: v.public(),
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if want.versionID == "" {
		answer.VersionID = ""
	}
	return contract.SharedResponse{Function: answer}, err
}

// sharable decides whether the caller may change the parties of a function or of one version.
func (f *Functions) sharable(ctx context.Context, from reads, caller access.Caller, want pair) error {
	all, err := from.ofFunction(ctx, caller.Account, want.functionID)
	if err != nil {
		return err
	}
	if len(all) == 0 && want.versionID == "" {
		return functionNotFound(caller.Account, want.functionID)
	}
	found, public := want.versionID == "", false
	for _, v := range all {
		if want.versionID == "" || want.versionID == v.id {
			found, public = true, public || v.public()
		}
	}
	switch {
	case !found:
		return versionNotFound(caller.Account, want)
	case !caller.CoversFunction(true, want.functionID, want.versionID):
		return access.NotCovered(access.ShareFunction, "function "+want.functionID)
	case public && !caller.CrossAccount:
		return isPublic("share")
	}
	return nil
}

// isPublic is the answer to an account that would change what everybody uses.
func isPublic(verb string) *problem.Problem {
	return problem.New(problem.IllegalState, "the function is public, so its account cannot %s it; a super administrator must make it private first", verb)
}

// partiesExist refuses accounts that the keys service does not know, and clients that are not of their account.
func (f *Functions) partiesExist(ctx context.Context, mentioned mention) error {
	c := newChecker("authorizations")
	for i, p := range mentioned.parties {
		if p.NCAID == contract.Everyone {
			continue
		}
		account, err := f.accounts(ctx, p.NCAID)
		at := mentioned.field(i)
		switch {
		case problem.HasCode(err, problem.NotFound):
			c.refuse(at+".ncaId", fmt.Sprintf("account '%s' does not exist", short(p.NCAID)))
		case err != nil:
			return err
		case p.ClientID != "" && !slices.Contains(account.AdminClientIDs, strings.TrimSpace(p.ClientID)):
			c.refuse(at+".clientId", "must be a client of the account")
		}
	}
	return c.Err()
}
