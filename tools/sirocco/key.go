package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

const keysPath = "/v1/keys"

func newKey(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "key", Short: "API keys: for those who call functions, and for programs",
		Long: `Keys belong to an owner; every command here is about the keys of one --owner. A key holds scopes, which say what it
may do, and resources, which say to what. A key's value is shown once, when it is made.`,
	}
	var owner string
	cmd.PersistentFlags().StringVar(&owner, "owner", s.owner, "whose keys")
	cmd.AddCommand(
		newKeyCreate(s, &owner), newKeyList(s, &owner), newKeyShow(s, &owner), newKeyUpdate(s, &owner), newKeyRotate(s, &owner), newKeyRevoke(s, &owner),
		newKeyStatus(s, &owner, "suspend ID", "Refuse a key until it is activated again", keys.Suspended, "suspended"),
		newKeyStatus(s, &owner, "activate ID", "Let a suspended key work again", keys.Active, "activated"),
		newKeyExplain(s), newScopes(s),
	)
	return cmd
}

func newKeyCreate(s *session, owner *string) *cobra.Command {
	var description, ttl, service string
	var g grant
	var l limits
	cmd := &cobra.Command{
		Use: "create", Short: "Create a key and print its value, which is shown only this once",
		Long: `Create a key. Its value alone goes to standard output, everything else to standard error. Without --scope and
resources it is a key that calls every function of the account, or with --for task runs every task.`,
		Example: `  export SIROCCO_API_KEY=$(sirocco key create --description laptop)
  sirocco key create --scope invoke_function --function echo --ttl 7d
  sirocco key create --scope deploy_function,list_functions --all-functions --description "ci deployer"
  sirocco key create --scope manage_registry_credentials --entity`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			life, err := lifetime(ttl)
			if err != nil {
				return &usage{command: cmd.CommandPath(), err: fmt.Errorf("--ttl: %w", err)}
			}
			p, err := productOf(service)
			if err != nil {
				return &usage{command: cmd.CommandPath(), err: err}
			}
			c, err := s.connect()
			if err != nil {
				return err
			}
			order := keyOrder{product: p, owner: *owner, description: description, scopes: g.scopes, expires: s.now().Add(life), limits: l.members(cmd)}
			if order.resources, err = g.resources(cmd.Context(), c); err != nil {
				return err
			}
			key, raw, err := createKey(cmd.Context(), c, order)
			if err != nil {
				return err
			}
			return s.showNewKey(key, raw)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&description, "description", "made by sirocco", "what the key is for: letters, digits, spaces, - and _")
	flags.StringVar(&ttl, "ttl", "24h", "how long the key is good, such as 90m, 24h, 30d, 2w")
	flags.StringVar(&service, "for", products[0].name, "what the key is for: function or task")
	g.register(s, cmd)
	l.register(cmd)
	return cmd
}

// showNewKey prints a value that no later answer has.
func (s *session) showNewKey(key keys.Key, raw []byte) error {
	if s.output == formatJSON {
		return writeJSON(s.out, raw)
	}
	fmt.Fprintf(s.err, "key %s of %s may %s until %s; its value is not shown again\n",
		key.ID, printable(key.OwnerID), printable(rights(key.Authorizations)), shown(key.ExpiresAt))
	_, err := fmt.Fprintln(s.out, key.Value)
	return err
}

// lifetime is a Go duration, or a number of days or weeks.
func lifetime(text string) (time.Duration, error) {
	const day = 24 * time.Hour
	life, err := time.ParseDuration(text)
	for suffix, unit := range map[string]time.Duration{"d": day, "w": 7 * day} {
		if number, ok := strings.CutSuffix(text, suffix); ok {
			var n int
			n, err = strconv.Atoi(number)
			life = time.Duration(n) * unit
		}
	}
	if err != nil || life <= 0 || life > 100*365*day {
		return 0, errors.New("must be a duration such as 90m, 24h, 30d or 2w")
	}
	return life, nil
}

// keyOrder says what a new key is for; without scopes or resources it has those of its product.
type keyOrder struct {
	product
	owner, description string
	scopes             []string
	resources          []access.Resource
	expires            time.Time
	limits             map[string]any
}

func createKey(ctx context.Context, c *client.Client, o keyOrder) (keys.Key, []byte, error) {
	if len(o.scopes) == 0 {
		o.scopes = o.product.scopes
	}
	if len(o.resources) == 0 {
		o.resources = o.product.resources
	}
	order := map[string]any{
		"description": o.description, "expires_at": instant(o.expires), "authorizations": o.authorizations(o.scopes, o.resources),
		"audience_service_ids": []string{o.audience},
	}
	maps.Copy(order, o.limits)
	body, err := json.Marshal(order)
	if err != nil {
		return keys.Key{}, nil, fmt.Errorf("key: %w", err)
	}
	return ask[keys.Key](ctx, c, client.Request{Method: http.MethodPost, Path: keysPath, Header: o.issued(o.owner), Body: body})
}

// instant is a moment as the keys service reads it.
func instant(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000Z") }

// aboutKey makes a call about a key of whichever product has it.
func aboutKey(ctx context.Context, c *client.Client, owner string, r client.Request) (raw []byte, err error) {
	for _, p := range products {
		r.Header = p.issued(owner)
		raw, err = c.Answer(ctx, r)
		if refusal, ok := errors.AsType[*client.Refusal](err); !ok || refusal.Status != http.StatusNotFound {
			return raw, err
		}
	}
	return raw, err
}

func newKeyList(s *session, owner *string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List an owner's keys, without their values", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			var all keys.ListResponse
			for _, p := range products {
				list, _, err := ask[keys.ListResponse](cmd.Context(), c, client.Request{Method: http.MethodGet, Path: keysPath, Header: p.issued(*owner)})
				if err != nil {
					return err
				}
				all.Keys = append(all.Keys, list.Keys...)
			}
			raw, err := json.Marshal(all)
			if err != nil {
				return fmt.Errorf("keys: %w", err)
			}
			return s.show(raw, func(w io.Writer) error {
				return table{member: "keys", columns: columns("ID", "id", "Status", "status", "Key", "value", "Description", "description",
					"Created", "created_at", "Expires", "expires_at", "Last used", "last_used_at")}.write(w, raw)
			})
		},
	}
}

func newKeyShow(s *session, owner *string) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Aliases: []string{"get"}, Short: "Show a key: its rights, limits, and when it was used", Args: arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			raw, err := aboutKey(cmd.Context(), c, *owner, client.Request{Method: http.MethodGet, Path: keysPath + "/" + escape(args[0])})
			if err != nil {
				return err
			}
			return s.showKey(raw)
		},
	}
}

// showKey prints a key with its policies, one scope-and-resource pair of lines for each.
func (s *session) showKey(raw []byte) error {
	return s.show(raw, func(w io.Writer) error {
		t := table{columns: columns("ID", "id", "Status", "status", "Key", "value", "Owner", "owner_id", "Description", "description",
			"Created", "created_at", "Expires", "expires_at", "Changed", "updated_at", "Last used", "last_used_at", "Rotated from", "rotated_from",
			"Requests per second", "rate_limit.rps", "At once above that", "rate_limit.burst", "In flight", "rate_limit.concurrent", "Networks", "allowed_cidrs")}
		var answer any
		var key keys.Key
		if err := errors.Join(json.Unmarshal(raw, &answer), json.Unmarshal(raw, &key)); err != nil {
			return fmt.Errorf("key: %w", err)
		}
		rows := t.members(answer)
		for _, p := range policiesOf(key.Authorizations) {
			rows = append(rows, []string{"May", strings.Join(p.Scopes, ", ")}, []string{"  on", resourcesOf(p)})
		}
		return writeTable(w, nil, rows)
	})
}

func newKeyUpdate(s *session, owner *string) *cobra.Command {
	var description, ttl string
	var g grant
	var l limits
	cmd := &cobra.Command{
		Use: "update ID", Short: "Change a key's rights, description, life or limits; its value stays",
		Long: `Change a key. --scope and the resource flags each replace what the key has of that kind; what is not named stays.
A change holds everywhere within a second.`,
		Example: `  sirocco key update 5d0c7c0e-… --scope invoke_function,list_functions
  sirocco key update 5d0c7c0e-… --ttl 30d --rate 10 --burst 20 --cidr 10.0.0.0/8`,
		Args: arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := s.connect()
			if err != nil {
				return err
			}
			changes := l.members(cmd)
			if cmd.Flags().Changed("description") {
				changes["description"] = description
			}
			if cmd.Flags().Changed("ttl") {
				life, err := lifetime(ttl)
				if err != nil {
					return &usage{command: cmd.CommandPath(), err: fmt.Errorf("--ttl: %w", err)}
				}
				changes["expires_at"] = instant(s.now().Add(life))
			}
			resources, err := g.resources(ctx, c)
			if err != nil {
				return err
			}
			if len(changes) == 0 && len(resources) == 0 && len(g.scopes) == 0 {
				return &usage{command: cmd.CommandPath(), err: errors.New("nothing to change: give a flag")}
			}
			path := keysPath + "/" + escape(args[0])
			var raw []byte
			if len(resources) > 0 || len(g.scopes) > 0 {
				if raw, err = regrant(ctx, c, *owner, path, g.scopes, resources); err != nil {
					return err
				}
			}
			if len(changes) > 0 {
				body, err := json.Marshal(changes)
				if err != nil {
					return fmt.Errorf("key: %w", err)
				}
				if raw, err = aboutKey(ctx, c, *owner, client.Request{Method: http.MethodPatch, Path: path, Body: body}); err != nil {
					return err
				}
			}
			return s.showKey(raw)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&description, "description", "", "what the key is for: letters, digits, spaces, - and _")
	flags.StringVar(&ttl, "ttl", "", "how long the key is good from now, such as 90m, 24h, 30d, 2w")
	g.register(s, cmd)
	l.register(cmd)
	return cmd
}

func newKeyRotate(s *session, owner *string) *cobra.Command {
	var grace, ttl string
	cmd := &cobra.Command{
		Use: "rotate ID", Short: "Replace a key by a new one with the same rights and print its value, only this once",
		Long: `Replace a key. The new value goes to standard output. The old key works for --grace longer, so that whoever uses it
has time to change; without --grace it is dead at once.`,
		Example: "  sirocco key rotate 5d0c7c0e-… --grace 1h",
		Args:    arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			order := map[string]any{}
			if cmd.Flags().Changed("grace") {
				overlap, err := lifetime(grace)
				if err != nil {
					return &usage{command: cmd.CommandPath(), err: fmt.Errorf("--grace: %w", err)}
				}
				order["grace_seconds"] = int64(overlap.Seconds())
			}
			if cmd.Flags().Changed("ttl") {
				life, err := lifetime(ttl)
				if err != nil {
					return &usage{command: cmd.CommandPath(), err: fmt.Errorf("--ttl: %w", err)}
				}
				order["expires_at"] = instant(s.now().Add(life))
			}
			body, err := json.Marshal(order)
			if err != nil {
				return fmt.Errorf("key: %w", err)
			}
			c, err := s.connect()
			if err != nil {
				return err
			}
			raw, err := aboutKey(cmd.Context(), c, *owner, client.Request{Method: http.MethodPost, Path: keysPath + "/" + escape(args[0]) + "/rotate", Body: body})
			if err != nil {
				return err
			}
			var key keys.Key
			if err := json.Unmarshal(raw, &key); err != nil {
				return fmt.Errorf("key: %w", err)
			}
			return s.showNewKey(key, raw)
		},
	}
	cmd.Flags().StringVar(&grace, "grace", "", "how long the old key still works, such as 1h; at most 7d (default: not at all)")
	cmd.Flags().StringVar(&ttl, "ttl", "", "how long the new key is good (default: until the old one would have expired)")
	return cmd
}

func newKeyRevoke(s *session, owner *string) *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID…", Aliases: []string{"delete"}, Short: "Delete keys; they stop working everywhere within a second",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("missing ID")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			for _, id := range args {
				if _, err := aboutKey(cmd.Context(), c, *owner, client.Request{Method: http.MethodDelete, Path: keysPath + "/" + escape(id)}); err != nil {
					return fmt.Errorf("key %s: %w", id, err)
				}
				if s.output == formatTable {
					fmt.Fprintln(s.out, "revoked", printable(id))
				}
			}
			return nil
		},
	}
}

func newKeyStatus(s *session, owner *string, use, short string, status keys.Status, done string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			body, err := json.Marshal(map[string]keys.Status{"status": status})
			if err != nil {
				return fmt.Errorf("key: %w", err)
			}
			path := "/v1/service-admin/users/" + escape(*owner) + "/keys/" + escape(args[0]) + "/status"
			raw, err := aboutKey(cmd.Context(), c, *owner, client.Request{Method: http.MethodPut, Path: path, Body: body})
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, done, printable(args[0]))
				return err
			})
		},
	}
}
