package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/libs/app"
)

func newVersion(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this binary", Args: cobra.NoArgs,
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
}
