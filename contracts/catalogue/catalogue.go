// Package catalogue lists every message that is declared in contracts, without its type parameters. The reference under
// docs/reference and the permissions of each service are generated from it, and a test keeps it complete. Each package of
// contracts has a file of its own here.
package catalogue

import (
	"slices"

	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Entry is one message with the name that Go code knows it by: package.Variable.
type Entry struct {
	Name    string
	Message rpc.Described
}

// Entries lists every message, package by package: requests, then events, then commands.
var Entries = slices.Concat(
	accessEntries,
	auditEntries,
	clustersEntries,
	deploymentsEntries,
	directoryEntries,
	functionsEntries,
	instancesEntries,
	invocationEntries,
	keysEntries,
	tasksEntries,
)

// All describes every message of [Entries], in the same order.
func All() []rpc.Description {
	all := make([]rpc.Description, len(Entries))
	for i, e := range Entries {
		all[i] = e.Message.Describe()
	}
	return all
}
