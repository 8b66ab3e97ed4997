package main

import (
	"net/http"

	"github.com/spf13/cobra"
)

// newAudit reads the record of decisions (keys §10); the record of events is `sirocco events`.
func newAudit(s *session) *cobra.Command {
	return noun(s, "audit", "What was allowed and what was refused", "The newest decision comes first. The record of everything that happened is `sirocco events`.", []verb{{
		use: "keys", short: "List decisions about credentials",
		example: "  sirocco audit keys --decision deny --since 2031-05-01T00:00:00Z\n  sirocco audit keys --key-id 5d0c7c0e-…",
		method:  http.MethodGet, path: "/v1/admin/audit",
		table: table{member: "decisions", columns: columns("At", "at", "Decision", "decision", "Reason", "reason", "Method", "method", "Route", "route",
			"Key", "credential.key_id|credential.subject|credential.kind", "Owner", "credential.owner_id", "From", "client_ip", "Needs", "required_scopes", "Times", "count")},
		members: []member{
			{flag: "key-id", name: "key_id", place: inQuery, usage: "only decisions about this key"},
			{flag: "owner-id", name: "owner_id", place: inQuery, usage: "only decisions about keys of this owner"},
			{flag: "decision", name: "decision", place: inQuery, usage: "allow or deny"},
			{flag: "since", name: "since", place: inQuery, usage: "first moment, such as 2031-05-01T00:00:00Z"},
			{flag: "until", name: "until", place: inQuery, usage: "last moment"},
			{flag: "limit", name: "limit", kind: wholeNumber, place: inQuery, usage: "how many at most"},
			{flag: "cursor", name: "cursor", place: inQuery, usage: "where the page before ended"},
		},
	}})
}
