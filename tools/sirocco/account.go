package main

import (
	"net/http"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/access"
)

var accountTable = columns("Account", "ncaId", "Name", "name", "Clients", "adminClientIds|clientIds", "Functions", "currentNumberFunctions", "Functions at most", "maxFunctionsAllowed",
	"Tasks at most", "maxTasksAllowed", "Telemetry at most", "maxTelemetriesAllowed", "Registries at most", "maxRegistryCredentialsAllowed", "Changed", "lastUpdatedAt")

// newAccount is accounts and their clients (functions-deployments §10).
func newAccount(s *session) *cobra.Command {
	const one, all = "/v2/nvcf/accounts/{ACCOUNT}", "/v2/nvcf/accounts"
	bounds := []member{
		{flag: "functions", name: "maxFunctionsAllowed", kind: wholeNumber, usage: "how many functions it may have"},
		{flag: "tasks", name: "maxTasksAllowed", kind: wholeNumber, usage: "how many tasks it may have"},
		{flag: "telemetries", name: "maxTelemetriesAllowed", kind: wholeNumber, usage: "how many telemetry endpoints it may have"},
		{flag: "registries", name: "maxRegistryCredentialsAllowed", kind: wholeNumber, usage: "how many registry credentials it may have"},
	}
	reading := &loan{scopes: []access.Scope{access.AccountSetup}, resource: everything}
	shown := table{member: "account", columns: accountTable}
	client := member{flag: "client", name: "adminClientId", required: true, usage: "client id"}
	return noun(s, "account", "Accounts: the tenants that own functions, tasks and credentials",
		"Changing accounts takes the scope account_setup in a token: sign in as a system administrator with `sirocco login`.", []verb{
			{use: "list", short: "List accounts", method: http.MethodGet, path: all, needs: reading, table: table{member: "cloudAccounts", columns: accountTable}},
			{use: "show ACCOUNT", aliases: []string{"get"}, short: "Show an account and what it has", method: http.MethodGet, path: one, needs: reading, table: shown},
			{
				use: "create ACCOUNT", short: "Create an account", method: http.MethodPost, path: one, table: shown,
				example: "  sirocco account create team-vision --name team-vision --functions 50",
				members: append([]member{
					{flag: "name", name: "name", required: true, usage: "4 to 36 letters, digits, - and _"},
					{flag: "client", name: "adminClientId", usage: "client id whose tokens act for the account"},
				}, bounds...),
			},
			{
				use: "update ACCOUNT", short: "Change an account's name or limits", method: http.MethodPatch, path: one, table: shown,
				members: append([]member{{flag: "name", name: "name", usage: "4 to 36 letters, digits, - and _"}}, bounds...),
			},
			{use: "associate ACCOUNT", short: "Let a client's tokens, and keys made for an owner of that name, act for an account", method: http.MethodPatch, path: one + "/clients/associate", members: []member{client}, table: shown},
			{use: "disassociate ACCOUNT", short: "Take a client away", method: http.MethodPatch, path: one + "/clients/disassociate", members: []member{client}, table: shown},
			{use: "delete ACCOUNT", short: "Delete an account that owns nothing", method: http.MethodDelete, path: one, done: "deleted %s"},
		})
}
