package directory

import (
	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// Serve answers the endpoints of the directory.
func (d *Directory) Serve(s *bus.Server) {
	bus.Serve(s, contract.Grant, d.Grant)
	bus.Serve(s, contract.Standing, d.Standing)

	bus.Serve(s, contract.CreateUser, d.CreateUser)
	bus.Serve(s, contract.ListUsers, d.ListUsers)
	bus.Serve(s, contract.CountUsers, d.CountUsers)
	bus.Serve(s, contract.GetUser, d.GetUser)
	bus.Serve(s, contract.DeleteUser, d.DeleteUser)
	bus.Serve(s, contract.SignOutUser, d.SignOutUser)
	bus.Serve(s, contract.ResetPassword, d.ResetPassword)
	bus.Serve(s, contract.ChangePassword, d.ChangePassword)

	bus.Serve(s, contract.CreateApplication, d.CreateApplication)
	bus.Serve(s, contract.ListApplications, d.ListApplications)
	bus.Serve(s, contract.GetApplication, d.GetApplication)
	bus.Serve(s, contract.UpdateApplication, d.UpdateApplication)
	bus.Serve(s, contract.DeleteApplication, d.DeleteApplication)
	bus.Serve(s, contract.RenewSecret, d.RenewSecret)
	bus.Serve(s, contract.CreateServiceAccount, d.CreateServiceAccount)
	bus.Serve(s, contract.RenewClientSecret, d.RenewClientSecret)

	bus.Serve(s, contract.CreateAccessKey, d.CreateAccessKey)
	bus.Serve(s, contract.ListAccessKeys, d.ListAccessKeys)
	bus.Serve(s, contract.GetAccessKey, d.GetAccessKey)
	bus.Serve(s, contract.DeleteAccessKey, d.DeleteAccessKey)
	bus.Serve(s, contract.RenewAccessKey, d.RenewAccessKey)
	bus.Serve(s, contract.ListAllAccessKeys, d.ListAllAccessKeys)
	bus.Serve(s, contract.GetAnyAccessKey, d.GetAnyAccessKey)
	bus.Serve(s, contract.DeleteAnyAccessKey, d.DeleteAnyAccessKey)

	bus.Serve(s, contract.CreateRule, d.CreateRule)
	bus.Serve(s, contract.ListRules, d.ListRules)
	bus.Serve(s, contract.CountRules, d.CountRules)
	bus.Serve(s, contract.GetRule, d.GetRule)
	bus.Serve(s, contract.DeleteRule, d.DeleteRule)
	bus.Serve(s, contract.DeleteRules, d.DeleteRules)
	bus.Serve(s, contract.CreateRules, d.CreateRules)
	bus.Serve(s, contract.MyRules, d.MyRules)
	bus.Serve(s, contract.ListRoles, d.ListRoles)
	bus.Serve(s, contract.ListPermissions, d.ListPermissions)
}
