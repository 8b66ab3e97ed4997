package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

// signInFirst is in the help of what only an administrator of the access API may do.
const signInFirst = "\n\nThese commands need a login: `sirocco login`."

var userTable = columns("ID", "id", "Name", "username|email", "Local", "isLocal", "Last login", "lastLogin", "Created", "createdAt", "Created by", "createdBy")

// newUser is local users (keys §9.4).
func newUser(s *session) *cobra.Command {
	const one, all = "/api/v1/users/{ID}", "/api/v1/users"
	return noun(s, "user", "Local users", "Local users sign in with `sirocco login`. What they may do is said by access rules: `sirocco rule`."+signInFirst, []verb{
		{
			use: "create EMAIL", short: "Create a user and print its temporary password, which is shown only this once",
			example: "  sirocco user create ops@example.com --must-change",
			method:  http.MethodPost, path: all, argument: "email", table: table{columns: userTable}, once: "tempPassword",
			done: "user %s was created; its temporary password is not shown again; give it a role with `sirocco rule create`",
			members: []member{
				{flag: "must-change", name: "resetPassword", kind: yesNo, usage: "the temporary password must be changed at the first login"},
				{flag: "first-name", name: "firstName", usage: "first name"},
				{flag: "last-name", name: "lastName", usage: "last name"},
			},
		},
		{
			use: "list", short: "List users", method: http.MethodGet, path: all, table: table{columns: userTable},
			members: []member{
				{flag: "search", name: "search", place: inQuery, usage: "only users whose name has this text"},
				{flag: "limit", name: "limit", kind: wholeNumber, place: inQuery, usage: "how many at most (default and maximum 500)"},
				{flag: "offset", name: "offset", kind: wholeNumber, place: inQuery, usage: "how many to leave out first"},
			},
		},
		{use: "show ID", short: "Show one user", method: http.MethodGet, path: one, table: table{columns: userTable}},
		{use: "delete ID", short: "Delete a user; its tokens stop working", method: http.MethodDelete, path: one, done: "deleted %s"},
		{
			use: "reset-password ID", short: "Set a new temporary password and print it, only this once", method: http.MethodPost, path: one + "/password",
			once: "tempPassword", done: "the old password of %s is dead; this one is not shown again",
		},
		{use: "logout ID", short: "End every login of a user", method: http.MethodPost, path: one + "/logout", done: "every login of %s has ended"},
	}, newPassword(s))
}

var appTable = columns("ID", "id", "Name", "name", "Client id", "clientId", "Enabled", "enabled", "Last login", "lastLogin", "Created", "createdAt", "Created by", "createdBy")

// newApp is applications (keys §9.3).
func newApp(s *session) *cobra.Command {
	const one, all = "/api/v1/apps/{ID}", "/api/v1/apps"
	return noun(s, "app", "Applications: logins for programs", "An application signs in with its client id and secret: `sirocco login --app`."+signInFirst, []verb{
		{
			use: "create NAME", short: "Create an application and print its secret, which is shown only this once",
			example: "  sirocco app create ci-deployer > secret-file",
			method:  http.MethodPost, path: all, argument: "name", table: table{columns: appTable}, once: "secret|clientSecret",
			done: "application %s was created; its secret is not shown again",
		},
		{use: "list", short: "List applications", method: http.MethodGet, path: all, table: table{columns: appTable}},
		{use: "show ID", short: "Show one application", method: http.MethodGet, path: one, table: table{columns: appTable}},
		{use: "enable ID", short: "Let an application sign in again", method: http.MethodPatch, path: one, always: map[string]any{"enabled": true}, done: "enabled %s"},
		{
			use: "disable ID", short: "Keep an application from signing in; its tokens are refused at once",
			method: http.MethodPatch, path: one, always: map[string]any{"enabled": false}, done: "disabled %s",
		},
		{
			use: "rotate-secret ID", short: "Make a new secret and print it, only this once; the old one is dead", method: http.MethodPost, path: one + "/secret",
			once: "secret|clientSecret", done: "the old secret of %s is dead; this one is not shown again",
		},
		{use: "delete ID", short: "Delete an application; its tokens are refused at once", method: http.MethodDelete, path: one, done: "deleted %s"},
	})
}

var ruleTable = columns("ID", "id", "Subject", "subjectId", "Type", "subjectType", "Role", "roleName|roleId", "Scope", "scopeName|scopeId", "Of type", "scopeType",
	"State", "status.phase", "Created", "createdAt")

// newRule is access rules (keys §9.5).
func newRule(s *session) *cobra.Command {
	const all = "/api/v1/authorization/access-rules"
	return noun(s, "rule", "Access rules: which role a user or application has where",
		"A rule gives a subject a role. The roles are listed by `sirocco rule roles`."+signInFirst, []verb{
			{
				use: "create SUBJECT", short: "Give a user or application a role", method: http.MethodPost, path: all, argument: "subjectId",
				table:   table{columns: ruleTable},
				example: "  sirocco rule create ops@example.com --role 2\n  sirocco rule create ci-deployer --type app --role 3",
				members: []member{
					{flag: "role", name: "roleId", kind: wholeNumber, required: true, usage: "number of the role; see `sirocco rule roles`"},
					{flag: "type", name: "subjectType", usage: "what the subject is: user (default), app, service-account or group"},
					{flag: "scope", name: "scopeId", usage: "where the role holds (default: everywhere)"},
					{flag: "scope-type", name: "scopeType", usage: "what --scope is: tenant, cluster, department or project (default system)"},
					{flag: "cluster", name: "clusterId", usage: "cluster of the rule"},
				},
				complete: everywhere,
			},
			{
				use: "list", short: "List rules", method: http.MethodGet, path: all, table: table{member: "accessRules", columns: ruleTable},
				members: []member{
					{flag: "filter", name: "filterBy", place: inQuery, usage: "such as subjectId==ops@example.com"},
					{flag: "limit", name: "limit", kind: wholeNumber, place: inQuery, usage: "how many at most (default 50, maximum 500)"},
					{flag: "offset", name: "offset", kind: wholeNumber, place: inQuery, usage: "how many to leave out first"},
				},
			},
			{use: "show ID", short: "Show one rule", method: http.MethodGet, path: all + "/{ID}", table: table{columns: ruleTable}},
			{use: "delete ID", short: "Take the role away again", method: http.MethodDelete, path: all + "/{ID}", done: "deleted %s"},
			{
				use: "roles", short: "List roles", method: http.MethodGet, path: "/api/v1/authorization/roles",
				table: table{member: "roles", columns: columns("ID", "id", "Name", "name", "Description", "description")},
			},
		})
}

// everywhere completes a rule that names neither the kind of its subject nor where it holds.
func everywhere(rule map[string]any) error {
	if rule["subjectType"] == nil {
		rule["subjectType"] = "user"
	}
	switch scope, kind := rule["scopeId"], rule["scopeType"]; {
	case scope == nil && kind == nil:
		rule["scopeId"], rule["scopeType"] = "system", "system"
	case scope == nil || kind == nil:
		return errors.New("give --scope and --scope-type together")
	}
	return nil
}

// newPassword changes the password of whoever is signed in.
func newPassword(s *session) *cobra.Command {
	var current, changed string
	cmd := &cobra.Command{
		Use: "password", Short: "Change your own password", Args: cobra.NoArgs,
		Long: "Change the password of whoever is signed in. Both passwords are asked for on a terminal, else they are read from files.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if s.prompt == nil && (current == "" || changed == "") {
				return &usage{command: cmd.CommandPath(), err: errors.New("without a terminal, give --current-file and --new-file")}
			}
			before, err := s.ask(cmd.Context(), "Present password", current)
			if err != nil {
				return err
			}
			after, err := s.ask(cmd.Context(), "New password", changed)
			if err != nil {
				return err
			}
			body, err := json.Marshal(map[string]string{"currentPassword": before, "newPassword": after})
			if err != nil {
				return fmt.Errorf("password: %w", err)
			}
			if _, err := s.answer(cmd.Context(), nil, client.Request{Method: http.MethodPost, Path: "/api/v1/me/password", Body: body}); err != nil {
				return err
			}
			_, err = fmt.Fprintln(s.out, "your password is changed")
			return err
		},
	}
	cmd.Flags().StringVar(&current, "current-file", "", "file whose first line is the present password")
	cmd.Flags().StringVar(&changed, "new-file", "", "file whose first line is the new password")
	return cmd
}
