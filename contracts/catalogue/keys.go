package catalogue

import "github.com/sirocco-cloud/sirocco/contracts/keys"

var keysEntries = []Entry{
	{"keys.MintAdminToken", keys.MintAdminToken},
	{"keys.PublicKeys", keys.PublicKeys},
	{"keys.Client", keys.Client},
	{"keys.Create", keys.Create},
	{"keys.List", keys.List},
	{"keys.Get", keys.Get},
	{"keys.Delete", keys.Delete},
	{"keys.Introspect", keys.Introspect},
	{"keys.Resolve", keys.Resolve},
	{"keys.Services", keys.Services},
	{"keys.Service", keys.Service},
	{"keys.Created", keys.Created},
	{"keys.Updated", keys.Updated},
	{"keys.Revoked", keys.Revoked},
	{"keys.Issued", keys.Issued},
	{"keys.LookupAccount", keys.LookupAccount},
	{"keys.Revocations", keys.Revocations},
	{"keys.Restored", keys.Restored},
	{"keys.TokenRevoked", keys.TokenRevoked},
	{"keys.OwnerMoved", keys.OwnerMoved},
	{"keys.KeysRotated", keys.KeysRotated},
	{"keys.AccountCreated", keys.AccountCreated},
	{"keys.AccountUpdated", keys.AccountUpdated},
	{"keys.AccountDeleted", keys.AccountDeleted},
}
