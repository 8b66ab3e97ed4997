package functions

import (
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// serve lists what the service answers: first for clients, then for other services.
func (f *Functions) serve(s *bus.Server) {
	bus.Serve(s, contract.Create, f.Create)
	bus.Serve(s, contract.Get, f.Get)
	bus.Serve(s, contract.List, f.List)
	bus.Serve(s, contract.ListIDs, f.ListIDs)
	bus.Serve(s, contract.ListVersions, f.ListVersions)
	bus.Serve(s, contract.Update, f.Update)
	bus.Serve(s, contract.Delete, f.Delete)

	bus.Serve(s, contract.Lookup, f.Lookup)
	bus.Serve(s, contract.Launch, f.Launch)
	bus.Serve(s, contract.SetStatus, f.SetStatus)
	bus.Serve(s, contract.Resolve, f.Resolve)
}
