package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

func newFunctionUpdate(s *session) *cobra.Command {
	var version, description, rate, perUser string
	var tags []string
	cmd := &cobra.Command{
		Use: "update FUNCTION", Short: "Change a version's tags, description or rate limit; all else takes a new version",
		Example: "  sirocco function update echo --tag team:vision,stable\n  sirocco function update echo --rate-limit 100-S,2000-M\n  sirocco function update echo --tag '' --rate-limit none",
		Args:    arguments("FUNCTION"), ValidArgsFunction: s.completeFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			given := cmd.Flags().Changed
			change := map[string]any{}
			if given("tag") {
				change["tags"] = append([]string{}, tags...)
			}
			if given("description") {
				change["description"] = description
			}
			lifted := rate == "none"
			if given("rate-limit") && !lifted || given("rate-per-user") {
				limit := functions.RateLimit{PerUserRate: perUser}
				if !lifted {
					limit.RateLimit = rate
				}
				change["rateLimit"] = limit
			}
			if len(change) == 0 && !lifted {
				return &usage{command: cmd.CommandPath(), err: errors.New("nothing to change: give --tag, --description or --rate-limit")}
			}
			ctx := cmd.Context()
			c, f, err := s.version(ctx, args[0], version, anyStatus)
			if err != nil {
				return err
			}
			if lifted {
				path := "/v2/nvcf/ratelimit/functions/" + f.ID + "/versions/" + f.VersionID
				if _, err := c.Answer(ctx, client.Request{Method: http.MethodDelete, Path: path}); err != nil {
					return err
				}
			}
			r := client.Request{Method: http.MethodGet, Path: versionPath(f)}
			if len(change) > 0 {
				r.Method = http.MethodPut
				if r.Body, err = json.Marshal(change); err != nil {
					return fmt.Errorf("function: %w", err)
				}
			}
			answer, raw, err := ask[functions.FunctionResponse](ctx, c, r)
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error { return writeFunctions(w, []functions.Function{answer.Function}) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&version, "version", "", "version id (default: the newest)")
	flags.StringSliceVar(&tags, "tag", nil, "tags that replace those it has; '' clears them")
	flags.StringVar(&description, "description", "", "what the function does")
	flags.StringVar(&rate, "rate-limit", "", "requests per unit of time, such as 100-S or 100-S,2000-M; none lifts it")
	flags.StringVar(&perUser, "rate-per-user", "", "the same for each caller")
	return cmd
}

// newQueue shows what waits for a function (functions-deployments §9).
func newQueue(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "queue FUNCTION", Short: "Show how many requests wait for each deployed version", Args: arguments("FUNCTION"), ValidArgsFunction: s.completeFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := s.functionID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			raw, err := s.answer(cmd.Context(), &loan{scopes: []access.Scope{access.QueueDetails}, resource: everyFunction},
				client.Request{Method: http.MethodGet, Path: "/v2/nvcf/queues/functions/" + id})
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error {
				return table{member: "queues", columns: columns("Version", "functionVersionId", "Name", "functionName", "Status", "functionStatus", "Waiting", "queueDepth", "In flight", "inFlight")}.write(w, raw)
			})
		},
	}
}
