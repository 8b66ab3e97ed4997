package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/access"
)

// knownScopes are the scopes that the rows of the matrix ask of keys.
func knownScopes() []string {
	var scopes []string
	for _, row := range access.Matrix {
		for _, way := range row.Ways {
			if len(way.Reaches) > 0 {
				scopes = append(scopes, way.Scopes...)
			}
		}
	}
	slices.Sort(scopes)
	return slices.Compact(scopes)
}

func newScopes(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "scopes", Short: "List what keys may be allowed to do, and which resources that takes", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			type line struct {
				Scopes    []string `json:"scopes"`
				Opens     string   `json:"opens"`
				Resources []string `json:"resources"`
			}
			var lines []line
			for _, row := range access.Matrix {
				for _, way := range row.Ways {
					l := line{Scopes: way.Scopes, Opens: row.What}
					for _, reach := range way.Reaches {
						l.Resources = append(l.Resources, reach.Wire())
					}
					if len(l.Resources) > 0 {
						lines = append(lines, l)
					}
				}
			}
			slices.SortFunc(lines, func(a, b line) int {
				return strings.Compare(strings.Join(a.Scopes, "+")+a.Opens, strings.Join(b.Scopes, "+")+b.Opens)
			})
			raw, err := json.Marshal(lines)
			if err != nil {
				return fmt.Errorf("scopes: %w", err)
			}
			return s.show(raw, func(w io.Writer) error {
				var rows [][]string
				for _, l := range lines {
					rows = append(rows, []string{strings.Join(l.Scopes, " + "), l.Opens, strings.Join(l.Resources, ", ")})
				}
				return writeTable(w, []string{"SCOPE", "OPENS", "ON ONE OF"}, rows)
			})
		},
	}
}
