package gateway

import (
	"net/http"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// mirrored are the trees in which every operation also exists for a named account (keys §7.4, rows 22 and 28).
var mirrored = []string{"/v2/nvcf/", "/v1/nvct/"}

// withMirrors adds to a table the same operations under /accounts/{ncaId}, for super administrators. A line that a
// table spells out stays as it is.
func withMirrors(table []route) []route {
	taken := map[string]bool{}
	for _, line := range table {
		taken[line.method+" "+shape(line.path)] = true
	}
	all := slices.Clone(table)
	for _, line := range table {
		path, ok := mirrorPath(line.path)
		if !ok || line.row == nil || taken[line.method+" "+shape(path)] {
			continue
		}
		row := line.row.ForAccount()
		line.path, line.row, line.mirror = path, &row, true
		all = append(all, line)
	}
	return all
}

func mirrorPath(path string) (string, bool) {
	for _, tree := range mirrored {
		rest, ok := strings.CutPrefix(path, tree)
		if ok && rest != "accounts" && !strings.HasPrefix(rest, "accounts/") && rest != "clients" && !strings.HasPrefix(rest, "clients/") {
			return tree + "accounts/{ncaId}/" + rest, true
		}
	}
	return "", false
}

// shape is a path pattern without the names of its parameters.
func shape(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if strings.HasPrefix(p, "{") {
			parts[i] = "{}"
		}
	}
	return strings.Join(parts, "/")
}

// accountIn names the path parameter that holds an account, if the pattern has one: /accounts/{ncaId}/….
func accountIn(path string) string {
	_, rest, ok := strings.Cut(path, "/accounts/{")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "}")
	return name
}

// ofAccount applies step 3 of keys §7.3 to a caller whose path names an account: a key stays in its own, a token needs
// an admin scope to leave it. Rows of account_setup are the exception: whoever sets up accounts names many.
func ofAccount(line *route, r *http.Request, caller access.Caller) (access.Caller, *problem.Problem) {
	account := r.PathValue(line.account)
	switch {
	case line.acrossAccounts(), line.mirror && line.row.CrossesAccounts(caller.Scopes):
		caller.Account, caller.CrossAccount = account, true
	case account == caller.Account:
	case line.mirror, caller.Kind == access.Key:
		return caller, line.foreignAccount(account)
	case line.setsUpAccounts():
	case slices.ContainsFunc(caller.Scopes, func(s access.Scope) bool { return strings.HasPrefix(s, access.AdminPrefix) }):
		caller.Account, caller.CrossAccount = account, true
	default:
		return caller, line.foreignAccount(account)
	}
	return caller, nil
}

// foreignAccount refuses a credential of another account, and names the scope that leads across accounts if there is one.
func (line *route) foreignAccount(account string) *problem.Problem {
	p := problem.New(problem.AccountMismatch, "this credential does not belong to account '%s'", account)
	if line.mirror {
		p.RequiredScopes, _ = line.row.Asks()
		p.Detail += "; only " + strings.Join(p.RequiredScopes, " and ") + " leads there"
	}
	return p
}

// acrossAccounts reports whether only admin scopes pass the row.
func (line *route) acrossAccounts() bool {
	return line.row != nil && !slices.ContainsFunc(line.row.Ways, func(w access.Way) bool {
		return !slices.ContainsFunc(w.Scopes, func(s access.Scope) bool { return strings.HasPrefix(s, access.AdminPrefix) })
	})
}

func (line *route) setsUpAccounts() bool {
	return line.row != nil && slices.ContainsFunc(line.row.Ways, func(w access.Way) bool { return slices.Contains(w.Scopes, access.AccountSetup) })
}
