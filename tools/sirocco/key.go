package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

// callerScopes are what a key is for that only calls functions.
var callerScopes = []string{access.InvokeFunction, access.ListFunctions, access.QueueDetails, access.ListFunctionDetails}

func newKey(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "key", Short: "API keys for those who call functions",
		Long: "Keys belong to an owner; every command here is about the keys of one --owner.",
	}
	var owner string
	cmd.PersistentFlags().StringVar(&owner, "owner", s.owner, "whose keys")
	cmd.AddCommand(newKeyCreate(s, &owner), newKeyList(s, &owner), newKeyRevoke(s, &owner))
	return cmd
}

// issuer are the headers that every call about keys needs.
func issuer(owner string) http.Header {
	return http.Header{"Key-Owner-Id": {owner}, "Key-Issuer-Id": {access.FunctionsAudience}, "Key-Issuer-Service": {"nvcf-api"}}
}

func newKeyCreate(s *session, owner *string) *cobra.Command {
	var description, ttl string
	var scopes, functions []string
	cmd := &cobra.Command{
		Use: "create", Short: "Create a key and print its value, which is shown only this once",
		Long: `Create a key. Its value alone goes to standard output, everything else to standard error:

  export SIROCCO_API_KEY=$(sirocco key create --description laptop)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			life, err := lifetime(ttl)
			if err != nil {
				return &usage{command: cmd.CommandPath(), err: fmt.Errorf("--ttl: %w", err)}
			}
			c, err := s.connect()
			if err != nil {
				return err
			}
			order := keyOrder{owner: *owner, description: description, scopes: scopes, expires: s.now().Add(life)}
			for _, ref := range functions {
				id, err := functionID(cmd.Context(), c, ref)
				if err != nil {
					return err
				}
				order.functions = append(order.functions, id)
			}
			key, raw, err := createKey(cmd.Context(), c, order)
			if err != nil {
				return err
			}
			if s.output == formatJSON {
				return writeJSON(s.out, raw)
			}
			fmt.Fprintf(s.err, "key %s of %s may %s until %s; its value is not shown again\n",
				key.ID, printable(key.OwnerID), strings.Join(scopes, ", "), shown(key.ExpiresAt))
			_, err = fmt.Fprintln(s.out, key.Value)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&description, "description", "made by sirocco", "what the key is for: letters, digits, spaces, - and _")
	flags.StringVar(&ttl, "ttl", "24h", "how long the key is good, such as 90m, 24h, 30d, 2w")
	flags.StringSliceVar(&scopes, "scope", callerScopes, "what the key may do; repeat for several")
	flags.StringArrayVar(&functions, "function", nil, "the function, by id or name, that the key is good for (default: all); repeat for several")
	_ = cmd.RegisterFlagCompletionFunc("function", s.completeFunctions)
	return cmd
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

// keyOrder says what a new key is for.
type keyOrder struct {
	owner, description string
	scopes             []string
	// functions narrows the key to some functions; empty means all, those that are shared included.
	functions []string
	expires   time.Time
}

func createKey(ctx context.Context, c *client.Client, o keyOrder) (keys.Key, []byte, error) {
	resources := []access.Resource{{ID: "*", Type: string(access.AllFunctions)}, {ID: "*", Type: string(access.SharedFunctions)}}
	if len(o.functions) > 0 {
		resources = nil
		for _, id := range o.functions {
			resources = append(resources, access.Resource{ID: id + "/*", Type: string(access.Function)})
		}
	}
	authorizations, err := json.Marshal(map[string][]access.Policy{"policies": {{
		Audience: access.FunctionsAudience, Audiences: []string{access.FunctionsAudience}, Product: "nv-cloud-functions",
		Resources: resources, Scopes: o.scopes,
	}}})
	if err != nil {
		return keys.Key{}, nil, fmt.Errorf("key: %w", err)
	}
	body, err := json.Marshal(map[string]any{
		"description": o.description, "expires_at": o.expires.UTC().Format("2006-01-02T15:04:05.000Z"),
		"authorizations": json.RawMessage(authorizations), "audience_service_ids": []string{access.FunctionsAudience},
	})
	if err != nil {
		return keys.Key{}, nil, fmt.Errorf("key: %w", err)
	}
	return ask[keys.Key](ctx, c, client.Request{Method: http.MethodPost, Path: keysPath, Header: issuer(o.owner), Body: body})
}

func revokeKey(ctx context.Context, c *client.Client, owner, id string) error {
	_, err := c.Answer(ctx, client.Request{Method: http.MethodDelete, Path: keysPath + "/" + escape(id), Header: issuer(owner)})
	return err
}

func newKeyList(s *session, owner *string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List an owner's keys, without their values", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			list, raw, err := ask[keys.ListResponse](cmd.Context(), c, client.Request{Method: http.MethodGet, Path: keysPath, Header: issuer(*owner)})
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error {
				var rows [][]string
				for _, k := range list.Keys {
					rows = append(rows, []string{k.ID, string(k.Status), k.Value, k.Description, shown(k.CreatedAt), shown(k.ExpiresAt)})
				}
				return writeTable(w, []string{"ID", "STATUS", "KEY", "DESCRIPTION", "CREATED", "EXPIRES"}, rows)
			})
		},
	}
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
				if err := revokeKey(cmd.Context(), c, *owner, id); err != nil {
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
