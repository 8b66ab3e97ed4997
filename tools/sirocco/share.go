package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

// shareLoan is what sharing takes: no token of the default kind has its scope, and no other resource is accepted.
var shareLoan = &loan{scopes: []access.Scope{access.AuthorizeClients}, resource: everyFunction}

// sharePath finds where the parties of a function, or of one version, are.
func (s *session) sharePath(ctx context.Context, ref, version string) (string, error) {
	id, err := s.functionID(ctx, ref)
	if err != nil {
		return "", err
	}
	path := "/v2/nvcf/authorizations/functions/" + id
	if version != "" {
		path += "/versions/" + version
	}
	return path, nil
}

func newShare(s *session) *cobra.Command {
	var version string
	cmd := &cobra.Command{
		Use: "share FUNCTION [ACCOUNT…]", Short: "Let other accounts call a function; without ACCOUNT, show who may",
		Example: "  sirocco function share echo team-vision team-speech\n  sirocco function share echo",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("missing FUNCTION")
			}
			return nil
		},
		ValidArgsFunction: s.completeFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := s.sharePath(cmd.Context(), args[0], version)
			if err != nil {
				return err
			}
			var raw []byte
			if len(args) == 1 {
				raw, err = s.answer(cmd.Context(), shareLoan, client.Request{Method: http.MethodGet, Path: path})
			} else {
				raw, err = s.shareWith(cmd.Context(), path, args[1:])
			}
			if err != nil {
				return err
			}
			return s.showParties(raw)
		},
	}
	cmd.Flags().StringVar(&version, "version", "", "share this version only")
	return cmd
}

// shareWith adds accounts. The first ones must be set, since nobody can be added to none (§5).
func (s *session) shareWith(ctx context.Context, path string, accounts []string) (raw []byte, err error) {
	for i, account := range accounts {
		party := functions.Party{NCAID: account}
		raw, err = s.sendParties(ctx, http.MethodPatch, path+"/add", map[string]functions.Party{"authorizedParty": party})
		var refusal *client.Refusal
		switch {
		case errors.As(err, &refusal) && refusal.Status == http.StatusConflict:
			// It is there already, which is what was asked for.
			if raw, err = s.answer(ctx, shareLoan, client.Request{Method: http.MethodGet, Path: path}); err != nil {
				return nil, err
			}
		case errors.As(err, &refusal) && refusal.Status == http.StatusNotFound && i == 0:
			if raw, err = s.sendParties(ctx, http.MethodPost, path, map[string][]functions.Party{"authorizedParties": {party}}); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, err
		}
	}
	return raw, nil
}

func (s *session) sendParties(ctx context.Context, method, path string, content any) ([]byte, error) {
	body, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("share: %w", err)
	}
	return s.answer(ctx, shareLoan, client.Request{Method: method, Path: path, Body: body})
}

func newUnshare(s *session) *cobra.Command {
	var version string
	var all bool
	cmd := &cobra.Command{
		Use: "unshare FUNCTION [ACCOUNT…]", Short: "Stop sharing a function with accounts, or with --all with everybody",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return errors.New("missing FUNCTION")
			case (len(args) == 1) != all:
				return errors.New("give either ACCOUNT or --all")
			}
			return nil
		},
		ValidArgsFunction: s.completeFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := s.sharePath(cmd.Context(), args[0], version)
			if err != nil {
				return err
			}
			var raw []byte
			if all {
				raw, err = s.answer(cmd.Context(), shareLoan, client.Request{Method: http.MethodDelete, Path: path})
			}
			for _, account := range args[1:] {
				if err == nil {
					raw, err = s.sendParties(cmd.Context(), http.MethodPatch, path+"/remove", map[string]functions.Party{"authorizedParty": {NCAID: account}})
				}
			}
			if err != nil {
				return err
			}
			return s.showParties(raw)
		},
	}
	cmd.Flags().StringVar(&version, "version", "", "this version only")
	cmd.Flags().BoolVar(&all, "all", false, "with everybody")
	return cmd
}

// showParties shows whom a function or its versions are shared with.
func (s *session) showParties(raw []byte) error {
	return s.show(raw, func(w io.Writer) error {
		var answer struct {
			Function  *functions.Shared  `json:"function"`
			Functions []functions.Shared `json:"functions"`
		}
		if err := json.Unmarshal(raw, &answer); err != nil {
			return fmt.Errorf("share: %w", err)
		}
		if answer.Function != nil {
			answer.Functions = append(answer.Functions, *answer.Function)
		}
		var rows [][]string
		for _, f := range answer.Functions {
			var parties []string
			for _, p := range f.AuthorizedParties {
				parties = append(parties, p.NCAID)
			}
			rows = append(rows, []string{f.ID, orDefault(f.VersionID, "all"), orDefault(strings.Join(parties, ", "), "nobody")})
		}
		return writeTable(w, []string{"FUNCTION", "VERSION", "SHARED WITH"}, rows)
	})
}

// functionID finds the id of a function with the credential of the session.
func (s *session) functionID(ctx context.Context, ref string) (string, error) {
	c, err := s.connect()
	if err != nil {
		return "", err
	}
	return functionID(ctx, c, ref)
}
