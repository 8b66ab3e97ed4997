package gateway

import (
	"net/http"
	"reflect"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// managePeople is [access.ManagePeople] as the door applies it: every valid token passes, because the keys service judges
// administrators by their access rules of the moment, and a rule holds at once for tokens that were issued before it.
var managePeople = access.Row{
	Name: access.ManagePeople.Name, What: access.ManagePeople.What, Audience: access.ManagePeople.Audience,
	Ways: append([]access.Way{{}}, access.ManagePeople.Ways...),
}

// documented is a row as readers should see it: what passes the door is not yet allowed.
func documented(row *access.Row) *access.Row {
	if row == &managePeople {
		return &access.ManagePeople
	}
	return row
}

// consoleRoutes is the access API (keys §9), without its two token endpoints.
func consoleRoutes() []route {
	const (
		created       = http.StatusCreated
		apps          = "/api/v1/apps"
		accounts      = "/api/v1/service-accounts"
		users         = "/api/v1/users"
		authorization = "/api/v1/authorization"
		rules         = authorization + "/access-rules"
		allKeys       = "/api/v1/administration/access-keys"
	)
	people, anyone := &managePeople, &access.SignedIn
	table := []route{
		to(post, apps, people, created, directory.CreateApplication),
		to(post, apps+"/{id}/secret", people, ok, directory.RenewSecret),
		to(post, accounts, people, created, directory.CreateServiceAccount),
		to(post, accounts+"/{id}/secret", people, ok, directory.RenewClientSecret),

		to(post, users, people, created, directory.CreateUser),
		to(get, users, people, ok, directory.ListUsers),
		to(get, users+"/count", people, ok, directory.CountUsers),
		to(get, users+"/{id}", people, ok, directory.GetUser),
		to(remove, users+"/{id}", people, nothing, directory.DeleteUser),
		done(post, users+"/{id}/logout", people, directory.SignOutUser),
		to(post, users+"/{id}/password", people, ok, directory.ResetPassword),
		done(post, "/api/v1/me/password", anyone, directory.ChangePassword),

		to(post, rules, people, created, directory.CreateRule),
		to(get, rules, people, ok, directory.ListRules),
		to(get, rules+"/count", people, ok, directory.CountRules),
		to(post, rules+"/batch", people, ok, directory.DeleteRules),
		to(post, rules+"/batch-create", people, ok, directory.CreateRules),
		to(get, rules+"/{id}", people, ok, directory.GetRule),
		to(remove, rules+"/{id}", people, nothing, directory.DeleteRule),
		to(get, authorization+"/roles", people, ok, directory.ListRoles),
		to(get, authorization+"/permissions", people, ok, directory.ListPermissions),
		to(get, authorization+"/me/access-rules", anyone, ok, directory.MyRules),

		to(get, allKeys, people, ok, directory.ListAllAccessKeys),
		to(get, allKeys+"/{id}", people, ok, directory.GetAnyAccessKey),
		to(remove, allKeys+"/{id}", people, nothing, directory.DeleteAnyAccessKey),
	}
	for _, path := range []string{apps, accounts} {
		table = append(table,
			to(get, path, people, ok, directory.ListApplications),
			to(get, path+"/{id}", people, ok, directory.GetApplication),
			done(patch, path+"/{id}", people, directory.UpdateApplication),
			to(remove, path+"/{id}", people, nothing, directory.DeleteApplication),
		)
	}
	for _, path := range []string{"/api/v1/access-keys", "/api/v1/user-applications"} {
		table = append(table,
			to(post, path, anyone, created, directory.CreateAccessKey),
			to(get, path, anyone, ok, directory.ListAccessKeys),
			to(get, path+"/{id}", anyone, ok, directory.GetAccessKey),
			to(remove, path+"/{id}", anyone, nothing, directory.DeleteAccessKey),
			to(post, path+"/{id}/secret", anyone, ok, directory.RenewAccessKey),
		)
	}
	return table
}

// done makes a route whose success is 200 without a body.
func done[Req any](method, path string, row *access.Row, e rpc.Endpoint[Req, rpc.None]) route {
	bind := bindingOf(reflect.TypeFor[Req]())
	rt := to(method, path, row, ok, e)
	rt.serve = func(g *Gateway, w http.ResponseWriter, r *http.Request, caller access.Caller) error {
		var req Req
		ctx, err := g.receive(w, r, caller, bind, maxKeysBody, &req)
		if err != nil {
			return err
		}
		if _, err := bus.Call(ctx, g.conn, e, req); err != nil {
			return err
		}
		return writeEmpty(w, caller.RequestID)
	}
	return rt
}
