package functions

import (
	"context"
	"fmt"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// client is the caller of a request that acts for an account.
func client(ctx context.Context) (access.Caller, error) {
	caller := access.CallerFrom(ctx)
	if caller.Account == "" {
		return caller, problem.New(problem.Unauthorized, "this request needs a credential")
	}
	return caller, nil
}

// named is the caller and the version that a path names.
func named(ctx context.Context, functionID, versionID string) (caller access.Caller, want pair, err error) {
	if caller, err = client(ctx); err != nil {
		return caller, want, err
	}
	if want.functionID, err = id("functionId", functionID); err != nil {
		return caller, want, err
	}
	want.versionID, err = id("versionId", versionID)
	return caller, want, err
}

// permit decides whether the caller may act on v, which it asked for as want.
func permit(row access.Row, caller access.Caller, want pair, v version, found bool) error {
	if !found || v.functionID != want.functionID || v.account != caller.Account {
		return versionNotFound(caller.Account, want)
	}
	if !caller.CoversFunction(true, v.functionID, v.id) {
		return access.NotCovered(row, fmt.Sprintf("version %s of function %s", v.id, v.functionID))
	}
	return nil
}

// findFor returns the version that a caller asked for, if it may act on it.
func (r reads) findFor(ctx context.Context, row access.Row, caller access.Caller, want pair) (version, error) {
	v, found, err := r.find(ctx, want.versionID)
	if err != nil {
		return v, err
	}
	return v, permit(row, caller, want, v, found)
}

// lockFor is findFor for a change: others wait until the transaction ends, and the version is at the revision that the
// caller knows.
func (u unit) lockFor(ctx context.Context, row access.Row, caller access.Caller, want pair, ifMatch string) (version, error) {
	v, found, err := u.lock(ctx, want.versionID)
	if err != nil {
		return v, err
	}
	if err := permit(row, caller, want, v, found); err != nil {
		return v, err
	}
	return v, v.matches(ifMatch)
}

// Clients look for these texts (§1.2).

func versionNotFound(account string, want pair) *problem.Problem {
	return problem.New(problem.NotFound, "Function id '%s', version '%s': Not found in account '%s'", want.functionID, want.versionID, account)
}

func functionNotFound(account, functionID string) *problem.Problem {
	return problem.New(problem.NotFound, "Function id '%s': Not found in account '%s'", functionID, account)
}
