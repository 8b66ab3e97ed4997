package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

var registryTable = columns("ID", "registryCredentialId", "Host", "registryHostname", "Name", "registryCredentialName", "Registry", "registryName", "Types", "artifactTypes",
	"By", "provisionedBy", "Tags", "tags", "Description", "description", "Created", "createdAt")

const registriesPath = "/v2/nvcf/registry-credentials"

// newRegistry is registry credentials (functions-deployments §7).
func newRegistry(s *session) *cobra.Command {
	const one = registriesPath + "/{ID}"
	shown := table{member: "registryCredential", columns: registryTable}
	return noun(s, "registry", "Registry credentials: what images, charts and models are pulled with",
		"A credential is a user and a password for one registry host. The password is read from a terminal, a file or standard\ninput, never from the arguments.", []verb{
			{
				use: "list", short: "List credentials, without their secrets", method: http.MethodGet, path: registriesPath, table: table{member: "registryCredentials", columns: registryTable},
				members: []member{
					{flag: "type", name: "artifactType", kind: inCapitals, place: inQuery, usage: "only those for CONTAINER, HELM, MODEL or RESOURCE"},
					{flag: "by", name: "provisionedBy", place: inQuery, usage: "only those of SYSTEM or USER"},
				},
			},
			{use: "show ID", aliases: []string{"get"}, short: "Show one", method: http.MethodGet, path: one, table: shown},
			{use: "delete ID", aliases: []string{"remove"}, short: "Delete one that no function uses", method: http.MethodDelete, path: one, done: "deleted %s"},
		}, newRegistryAdd(s), newRegistryUpdate(s), newRecognized(s))
}

// registrySecret is what the API wants of a user and a password.
func (s *session) registrySecret(ctx context.Context, name, user, file string) (map[string]string, error) {
	password, err := s.ask(ctx, "Password of "+user, file)
	if err != nil {
		return nil, err
	}
	return map[string]string{"name": name, "value": base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}, nil
}

func newRegistryAdd(s *session) *cobra.Command {
	var user, file, name, description string
	var types, tags []string
	cmd := &cobra.Command{
		Use: "add HOST", Aliases: []string{"create"}, Short: "Add a credential", Args: arguments("HOST"),
		Example: "  sirocco registry add nvcr.io --user '$oauthtoken' --password-file ngc-key\n  sirocco registry add ghcr.io --user ann --type CONTAINER,HELM < token",
		RunE: func(cmd *cobra.Command, args []string) error {
			secret, err := s.registrySecret(cmd.Context(), name, user, file)
			if err != nil {
				return err
			}
			body := map[string]any{"registryHostname": args[0], "secret": secret, "artifactTypes": types}
			if len(tags) > 0 {
				body["tags"] = tags
			}
			if description != "" {
				body["description"] = description
			}
			return s.sendRegistry(cmd, http.MethodPost, registriesPath, body)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&user, "user", "", "user name at the registry")
	flags.StringVar(&file, "password-file", "", "file whose first line is the password")
	flags.StringVar(&name, "name", "credentials", "name of the credential; one name once per host")
	flags.StringSliceVar(&types, "type", []string{"CONTAINER"}, "what is pulled: CONTAINER, HELM, MODEL, RESOURCE; repeat for several")
	flags.StringSliceVar(&tags, "tag", nil, "tag; repeat for several")
	flags.StringVar(&description, "description", "", "what the credential is for")
	_ = cmd.MarkFlagRequired("user")
	return cmd
}

func newRegistryUpdate(s *session) *cobra.Command {
	var user, file, name string
	var types []string
	cmd := &cobra.Command{
		Use: "update ID", Short: "Replace a credential's password with --user, or add types with --type", Args: arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			body := map[string]any{}
			if user != "" {
				secret, err := s.registrySecret(cmd.Context(), name, user, file)
				if err != nil {
					return err
				}
				body["secret"] = secret
			}
			if len(types) > 0 {
				body["artifactTypeEnums"] = types
			}
			if len(body) == 0 {
				return &usage{command: cmd.CommandPath(), err: errors.New("nothing to change: give --user or --type")}
			}
			return s.sendRegistry(cmd, http.MethodPatch, registriesPath+"/"+escape(args[0]), body)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&user, "user", "", "user name at the registry, with a new password")
	flags.StringVar(&file, "password-file", "", "file whose first line is the password")
	flags.StringVar(&name, "name", "credentials", "name of the credential")
	flags.StringSliceVar(&types, "type", nil, "what else is pulled with it: CONTAINER, HELM, MODEL, RESOURCE")
	return cmd
}

func (s *session) sendRegistry(cmd *cobra.Command, method, path string, content map[string]any) error {
	body, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	raw, err := s.answer(cmd.Context(), nil, client.Request{Method: method, Path: path, Body: body})
	if err != nil {
		return err
	}
	return s.show(raw, func(w io.Writer) error {
		return table{member: "registryCredential", columns: registryTable}.write(w, raw)
	})
}

func newRecognized(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "hosts", Short: "List the registries that artifacts may come from", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			answer, raw, err := ask[functions.RecognizedRegistriesResponse](cmd.Context(), c, client.Request{Method: http.MethodGet, Path: "/v2/nvcf/recognized-registries"})
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error {
				var rows [][]string
				for kind, hosts := range answer.RecognizedRegistries {
					for _, host := range hosts {
						rows = append(rows, []string{string(kind), host.Name, host.Hostname})
					}
				}
				slices.SortFunc(rows, slices.Compare[[]string])
				return writeTable(w, []string{"TYPE", "NAME", "HOST"}, rows)
			})
		},
	}
}
