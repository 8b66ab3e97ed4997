package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/libs/app"
)

// newVersion prints the version of this binary; its verbs are about the versions of functions.
func newVersion(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version of this binary; with a verb, versions of functions", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if s.output == formatJSON {
				b, err := json.Marshal(map[string]string{"version": app.Version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
				if err != nil {
					return fmt.Errorf("version: %w", err)
				}
				return writeJSON(s.out, b)
			}
			_, err := fmt.Fprintf(s.out, "sirocco %s (%s, %s/%s)\n", app.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
	list := newFunctionList(s)
	list.Use, list.Short, list.Args = "list FUNCTION", "List the versions of a function", arguments("FUNCTION")
	cmd.AddCommand(
		newVersionCreate(s), list,
		ofVersion(newFunctionGet(s), "show FUNCTION VERSION", "Show one version, its deployment and its instances"),
		ofVersion(newFunctionDelete(s), "delete FUNCTION VERSION", "Delete one version; what is deployed of it is torn down"),
	)
	return cmd
}

// ofVersion makes a verb of functions, which names the version with a flag, one whose second argument names it.
func ofVersion(cmd *cobra.Command, use, short string) *cobra.Command {
	run := cmd.RunE
	cmd.Use, cmd.Short, cmd.Args = use, short, arguments("FUNCTION", "VERSION")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := cmd.Flags().Set("version", args[1]); err != nil {
			return err
		}
		return run(cmd, args[:1])
	}
	_ = cmd.Flags().MarkHidden("version")
	return cmd
}

// newVersionCreate is the creation of functions for one that exists: what no flag says is as in its newest version.
func newVersionCreate(s *session) *cobra.Command {
	cmd := newFunctionCreate(s)
	run := cmd.RunE
	cmd.Use, cmd.Short, cmd.Args = "create FUNCTION", "Create a version; what no flag says is as in the newest one", arguments("FUNCTION")
	cmd.Long = "Create a version of a function. What no flag says is as in the newest version, or as in the file of -f where there is one.\nSecrets are not taken over: no answer has their values."
	cmd.Example = "  sirocco version create echo --image demo/echo:2\n  sirocco version create echo -f echo.json"
	cmd.ValidArgsFunction = s.completeFunctions
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := s.connect()
		if err != nil {
			return err
		}
		versions, err := versionsOf(cmd.Context(), c, args[0])
		if err != nil {
			return err
		}
		newest := versions[0]
		if err := cmd.Flags().Set("version-of", newest.ID); err != nil {
			return err
		}
		s.like = nil
		if !cmd.Flags().Changed("file") {
			s.like = &newest.Spec
		}
		return run(cmd, []string{newest.Name})
	}
	_ = cmd.Flags().MarkHidden("version-of")
	return cmd
}
