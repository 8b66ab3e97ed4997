package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

// verdict is the answer of POST /v1/keys/explain (keys §4.6).
type verdict struct {
	Allowed   bool     `json:"allowed"`
	Status    int      `json:"status"`
	Scopes    []string `json:"required_scopes"`
	Resources []string `json:"compatible_resource_types"`
	Rule      string   `json:"rule"`
	Reason    string   `json:"reason"`
	Detail    string   `json:"detail"`
}

func newKeyExplain(s *session) *cobra.Command {
	var key, method, path, host, from, service string
	var g grant
	cmd := &cobra.Command{
		Use: "explain", Short: "Say whether a key may make a request, by which rule, and what to do if not",
		Long: `Say whether a key may make a request. The key is --key, or SIROCCO_API_KEY; @FILE or @- keep it out of the process
list. With --scope and resource flags instead of a key, it says what such a key could do. Exit code 4: it may not.`,
		Example: `  sirocco key explain --method POST --path /v2/nvcf/functions
  sirocco key explain --scope deploy_function --all-functions --method POST \
    --path /v2/nvcf/deployments/functions/5e0c2a5c-…/versions/c2b8a0b4-…`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			order := map[string]any{"method": strings.ToUpper(method), "path": path}
			for member, value := range map[string]string{"host": host, "client_ip": from} {
				if value != "" {
					order[member] = value
				}
			}
			resources, err := g.resources(cmd.Context(), c)
			if err != nil {
				return err
			}
			if len(g.scopes) > 0 || len(resources) > 0 {
				p, err := productOf(service)
				if err != nil {
					return &usage{command: cmd.CommandPath(), err: err}
				}
				order["authorizations"] = p.authorizations(append([]string{}, g.scopes...), resources)
			} else if order["key"], err = s.keyOf(key); err != nil {
				return &usage{command: cmd.CommandPath(), err: err}
			}
			body, err := json.Marshal(order)
			if err != nil {
				return fmt.Errorf("explain: %w", err)
			}
			v, raw, err := ask[verdict](cmd.Context(), c, client.Request{Method: http.MethodPost, Path: keysPath + "/explain", Body: body})
			if err != nil {
				return err
			}
			if err := s.show(raw, v.write); err != nil || v.Allowed {
				return err
			}
			return v.refused(order)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&key, "key", "", "the key, or @FILE (@- for standard input) that holds it (SIROCCO_API_KEY)")
	flags.StringVar(&method, "method", http.MethodGet, "method of the request")
	flags.StringVar(&path, "path", "", "path of the request")
	flags.StringVar(&host, "host", "", "Host header of the request, where it decides")
	flags.StringVar(&from, "from", "", "IP address that the request would come from (default: this machine's)")
	flags.StringVar(&service, "for", products[0].name, "with --scope: what the key would be for, function or task")
	_ = cmd.MarkFlagRequired("path")
	g.register(s, cmd)
	return cmd
}

// keyOf reads a key from the command line, a file, or the environment.
func (s *session) keyOf(given string) (string, error) {
	value := orDefault(given, s.getenv("SIROCCO_API_KEY"))
	if file, ok := strings.CutPrefix(value, "@"); ok {
		b, err := s.readFile(file)
		if err != nil {
			return "", err
		}
		value = string(b)
	}
	if value = strings.TrimSpace(value); value == "" {
		return "", errors.New("missing --key, SIROCCO_API_KEY, or --scope with resources")
	}
	return value, nil
}

func (v verdict) write(w io.Writer) error {
	word := "no"
	if v.Allowed {
		word = "yes"
	}
	rows := [][]string{{"Allowed", word}}
	answer := ""
	if v.Status != 0 {
		answer = strings.TrimSpace(strconv.Itoa(v.Status) + " " + http.StatusText(v.Status))
	}
	for _, row := range [][]string{
		{"Answer", answer},
		{"Rule", v.Rule},
		{"Why", strings.TrimSpace(v.Reason + because(v.Detail))},
		{"Asks for scope", strings.Join(v.Scopes, ", ")},
		{"On one of", strings.Join(v.Resources, ", ")},
	} {
		if row[1] != "" {
			rows = append(rows, row)
		}
	}
	return writeTable(w, nil, rows)
}

// denied is a verdict that says no; the exit code says so, too.
type denied struct{ what string }

func (d *denied) Error() string { return d.what }

// flagOf is the flag of `sirocco key create` for a resource type of the wire.
var flagOf = map[string]string{
	"account-functions": "--all-functions", "authorized-functions": "--shared-functions", "function": "--function", "account-clusters": "--all-clusters",
	"cluster": "--cluster", "account-tasks": "--all-tasks", "task": "--task", "*": "--entity",
}

// refused says what would help: the flags with which a key would do.
func (v verdict) refused(order map[string]any) error {
	var flags []string
	for _, scope := range v.Scopes {
		flags = append(flags, "--scope "+scope)
	}
	if len(v.Resources) > 0 {
		kind, _, _ := strings.Cut(v.Resources[0], "/")
		if flag := flagOf[kind]; flag != "" {
			flags = append(flags, flag)
		}
	}
	advice := "see what the key holds: `sirocco key show`"
	switch {
	case strings.Contains(v.Reason, "unknown") || strings.Contains(v.Reason, "expired") || strings.Contains(v.Reason, "malformed"):
		advice = "make another key: `sirocco key create`"
	case v.Reason == "cidr_denied":
		advice = "add the network: `sirocco key update ID --cidr`, or ask with --from"
	case v.Reason == "rate_limited":
		advice = "wait, or raise the limit: `sirocco key update ID --rate`"
	case v.Reason == "owner_suspended":
		advice = "let the owner work again: PUT /v1/admin/users/OWNER/status"
	case strings.Contains(v.Reason, "suspended"):
		advice = "let it work again: `sirocco key activate`"
	case len(flags) > 0:
		advice = "use a key with at least `" + strings.Join(flags, " ") + "`: `sirocco key create`, or `sirocco key update`"
	}
	return next(&denied{fmt.Sprintf("the key may not %s %s", order["method"], order["path"])}, "%s", advice)
}
