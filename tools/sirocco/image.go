package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

const imagesPath = "/v2/nvcf/images"

func newImage(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "image", Short: "The catalogue of images that run as local processes",
		Long: `Where there is no Docker, an agent runs a function's image as a local command. This catalogue says which.
Each instance gets a port of its own in PORT, and its own directory and log.`,
	}
	cmd.AddCommand(newImageAdd(s), newImageList(s), newImageRemove(s))
	return cmd
}

func newImageAdd(s *session) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "add REFERENCE -- COMMAND [ARGUMENT…]", Short: "Run a command in the place of an image",
		Example: "  sirocco image add demo/echo:1 -- ./bin/loadtester\n  sirocco image add demo/model:2 --dir ~/model -- python3 serve.py",
		Args: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); len(args) < 2 || dash != 1 {
				return errors.New("give one reference, then --, then the command with its arguments")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			command := append([]string(nil), args[1:]...)
			program, err := program(command[0])
			if err != nil {
				return err
			}
			command[0] = program
			if dir != "" {
				if dir, err = filepath.Abs(dir); err != nil {
					return fmt.Errorf("--dir: %w", err)
				}
			}
			c, err := s.connect()
			if err != nil {
				return err
			}
			body, err := json.Marshal(clusters.ImageRequest{Reference: args[0], Command: command, Directory: dir})
			if err != nil {
				return fmt.Errorf("image: %w", err)
			}
			img, raw, err := ask[clusters.Image](cmd.Context(), c, client.Request{Method: http.MethodPut, Path: imagesPath, Body: body})
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error { return writeImages(w, []clusters.Image{img}) })
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "directory to run the command in (default: one of the instance's own)")
	return cmd
}

// program is the absolute path of what a shell in this directory would run.
func program(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		if cause, ok := errors.AsType[*exec.Error](err); ok {
			err = cause.Err
		}
		return "", next(fmt.Errorf("command %s: %w", name, err), "give a program of this machine, by its path or found in PATH")
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", fmt.Errorf("command %s: %w", name, err)
	}
	return path, nil
}

func newImageList(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the catalogue", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			list, raw, err := ask[clusters.ImagesResponse](cmd.Context(), c, client.Request{Method: http.MethodGet, Path: imagesPath})
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error { return writeImages(w, list.Images) })
		},
	}
}

func newImageRemove(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "remove REFERENCE", Aliases: []string{"rm"}, Short: "Remove an image from the catalogue; running instances stay",
		Args: arguments("REFERENCE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			raw, err := c.Answer(cmd.Context(), client.Request{Method: http.MethodDelete, Path: imagesPath, Query: url.Values{"reference": {args[0]}}})
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, "removed", printable(args[0]))
				return err
			})
		},
	}
}

func writeImages(w io.Writer, images []clusters.Image) error {
	var rows [][]string
	for _, img := range images {
		rows = append(rows, []string{img.Reference, strings.Join(img.Command, " "), orDash(img.Directory), shown(img.CreatedAt)})
	}
	return writeTable(w, []string{"REFERENCE", "COMMAND", "DIRECTORY", "ADDED"}, rows)
}
