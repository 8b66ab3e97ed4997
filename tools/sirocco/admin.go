package main

import (
	"net/http"

	"github.com/spf13/cobra"
)

// newAdmin is what an operator does with the keys of the platform itself, and with owners (keys §4.11, §6.4).
func newAdmin(s *session) *cobra.Command {
	signing := table{member: "keys", columns: columns("Key", "kid", "State", "state", "Created", "created_at", "Since", "state_since", "Until", "state_until")}
	sealing := table{columns: columns("Current", "current", "Previous", "previous", "Moved", "rewrapped")}
	owner := table{columns: columns("Owner", "owner_id", "Status", "status", "Since", "status_updated_at")}
	const owners = "/v1/admin/users/{OWNER}"
	return noun(s, "admin", "Keys of the platform itself, and the owners of API keys",
		"These take the scope account_setup, or the network that administrator tokens are minted for.", []verb{
			{use: "signing-keys", short: "List the keys that tokens are signed with", method: http.MethodGet, path: "/v1/admin/signing-keys", table: signing},
			{
				use: "rotate-signing-key", short: "Replace the signing key; tokens that it signed stay valid until they expire", method: http.MethodPost,
				path: "/v1/admin/signing-keys/rotate", table: signing,
				members: []member{
					{flag: "compromised", name: "compromised", kind: yesNo, usage: "drop the key at once, with every token that it signed"},
					{flag: "kid", name: "kid", usage: "with --compromised: the key to drop"},
				},
			},
			{use: "revoke-token JTI", short: "Refuse a token before it expires", method: http.MethodPost, path: "/v1/admin/tokens/revoke", argument: "jti", done: "revoked %s", members: []member{
				{flag: "reason", name: "reason", usage: "why, for the record"},
			}},
			{
				use: "encryption SERVICE", short: "Show which keys seal the secrets of a service: keys or functions", method: http.MethodGet,
				path: "/v1/admin/encryption/{SERVICE}", table: sealing,
			},
			{
				use: "rotate-encryption SERVICE", short: "Move the secrets of a service under its current key", method: http.MethodPost,
				path: "/v1/admin/encryption/{SERVICE}/rotate", table: sealing,
			},
			{use: "owner OWNER", short: "Show an owner of API keys", method: http.MethodGet, path: owners, table: owner},
			{
				use: "suspend-owner OWNER", short: "Refuse every key of an owner until it is activated again", method: http.MethodPut, path: owners + "/status",
				always: map[string]any{"status": "SUSPENDED"}, table: owner,
			},
			{
				use: "activate-owner OWNER", short: "Let the keys of an owner work again", method: http.MethodPut, path: owners + "/status",
				always: map[string]any{"status": "ACTIVE"}, table: owner,
			},
		})
}
