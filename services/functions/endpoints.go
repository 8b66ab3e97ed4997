package functions

import (
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// serve lists what the service answers: first for clients, then for other services.
func (f *Functions) serve(s *bus.Server) {
	bus.Serve(s, contract.Create, f.Create)
	bus.Serve(s, contract.Get, f.Get)
	bus.Serve(s, rpc.AsText(contract.List), f.List)
	bus.Serve(s, rpc.AsText(contract.ListIDs), f.ListIDs)
	bus.Serve(s, rpc.AsText(contract.ListVersions), f.ListVersions)
	bus.Serve(s, contract.Update, f.Update)
	bus.Serve(s, contract.UpdateMetadata, f.UpdateMetadata)
	bus.Serve(s, contract.RemoveRateLimit, f.RemoveRateLimit)
	bus.Serve(s, contract.Delete, f.Delete)
	bus.Serve(s, contract.PutSecrets, f.PutSecrets)
	bus.Serve(s, contract.DeleteSecret, f.DeleteSecret)
	bus.Serve(s, contract.ListSecrets, f.ListSecrets)
	bus.Serve(s, contract.Share, f.Share)
	bus.Serve(s, contract.AddParty, f.AddParty)
	bus.Serve(s, contract.RemoveParty, f.RemoveParty)
	bus.Serve(s, contract.Unshare, f.Unshare)
	bus.Serve(s, contract.GetShared, f.GetShared)
	bus.Serve(s, contract.ListShared, f.ListShared)

	bus.Serve(s, contract.Lookup, f.Lookup)
	bus.Serve(s, contract.Launch, f.Launch)
	bus.Serve(s, contract.SetStatus, f.SetStatus)
	bus.Serve(s, contract.Resolve, f.Resolve)

	bus.Serve(s, contract.GetEncryption, f.Encryption)
	bus.Serve(s, contract.RotateEncryption, f.RotateEncryption)
}
