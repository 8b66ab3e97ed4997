package keys

import (
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/seal"
)

// useCases is what the service answers with; those of people and programs are in the package directory.
type useCases struct {
	vault     *seal.Vault
	rotation  *Rotation
	tokens    *Tokens
	keys      *Keys
	owners    *Owners
	accounts  *Accounts
	decisions *Decisions
	registry  *Registry
}

func (u useCases) serve(s *bus.Server) {
	bus.Serve(s, contract.GetEncryption, encryption(u.vault.Status))
	bus.Serve(s, contract.RotateEncryption, encryption(u.vault.Rotate))
	bus.Serve(s, contract.SigningKeys, u.rotation.Keys)
	bus.Serve(s, contract.RotateSigningKeys, u.rotation.Rotate)
	bus.Serve(s, contract.Revocations, u.tokens.Revocations)
	bus.Serve(s, contract.RevokeToken, u.tokens.Revoke)
	bus.Serve(s, contract.MintAdminToken, u.tokens.Mint)
	bus.Serve(s, contract.PublicKeys, u.tokens.PublicKeys)
	bus.Serve(s, contract.Create, u.keys.Create)
	bus.Serve(s, contract.List, u.keys.List)
	bus.Serve(s, contract.Get, u.keys.Get)
	bus.Serve(s, contract.Delete, u.keys.Delete)
	bus.Serve(s, contract.Authorize, u.keys.Authorize)
	bus.Serve(s, contract.Change, u.keys.Change)
	bus.Serve(s, contract.Rotate, u.keys.Rotate)
	bus.Serve(s, contract.CreateHosted, u.keys.CreateHosted)
	bus.Serve(s, contract.Introspect, u.keys.Introspect)
	bus.Serve(s, contract.Evaluate, u.keys.Evaluate)
	bus.Serve(s, contract.Resolve, u.keys.Resolve)
	bus.Serve(s, contract.OwnersKeys, u.owners.List)
	bus.Serve(s, contract.OwnersKey, u.owners.Get)
	bus.Serve(s, contract.DeleteOwnersKey, u.owners.Delete)
	bus.Serve(s, contract.SetKeyStatus, u.owners.SetStatus)
	bus.Serve(s, contract.SuspendKeys, u.owners.Suspend)
	bus.Serve(s, contract.Lookup, u.owners.Lookup)
	bus.Serve(s, contract.ReportLeak, u.owners.ReportLeak)
	bus.Serve(s, contract.GetOwner, u.owners.Owner)
	bus.Serve(s, contract.SetOwnerStatus, u.owners.SetOwnerStatus)
	bus.Serve(s, contract.OwnerKeys, u.owners.Keys)
	bus.Serve(s, contract.DeleteOwnerKeys, u.owners.DeleteKeys)
	bus.Serve(s, contract.Decisions, u.decisions.List)
	bus.Serve(s, contract.CreateAccount, u.accounts.Create)
	bus.Serve(s, contract.Accounts, u.accounts.List)
	bus.Serve(s, contract.LookupAccount, u.accounts.Lookup)
	bus.Serve(s, contract.GetAccount, u.accounts.Get)
	bus.Serve(s, contract.UpdateAccount, u.accounts.Update)
	bus.Serve(s, contract.DeleteAccount, u.accounts.Delete)
	bus.Serve(s, contract.AssociateClient, u.accounts.Associate)
	bus.Serve(s, contract.DisassociateClient, u.accounts.Disassociate)
	bus.Serve(s, contract.ReadClient, u.accounts.Client)
	bus.Serve(s, contract.Client, u.registry.Client)
	bus.Serve(s, contract.Services, u.registry.Services)
	bus.Serve(s, contract.Service, u.registry.Service)
}
