package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

const assetsPath = "/v2/nvcf/assets"

// assetLoan is what assets take: they belong to whoever invokes.
var assetLoan = &loan{scopes: []access.Scope{access.InvokeFunction}, resource: everyFunction}

var assetTable = columns("ID", "assetId", "Type", "contentType", "Description", "description", "Created", "createdAt")

// newAsset is assets (functions-deployments §8).
func newAsset(s *session) *cobra.Command {
	const one = assetsPath + "/{ID}"
	return noun(s, "asset", "Assets: files that invocations refer to", "A file is uploaded once and named by its id in the header NVCF-INPUT-ASSET-REFERENCES of invocations.", []verb{
		{use: "list", short: "List assets", method: http.MethodGet, path: assetsPath, needs: assetLoan, table: table{member: "assets", columns: assetTable}},
		{use: "show ID", aliases: []string{"get"}, short: "Show one", method: http.MethodGet, path: one, needs: assetLoan, table: table{member: "asset", columns: assetTable}},
		{use: "delete ID", short: "Delete one with its bytes", method: http.MethodDelete, path: one, needs: assetLoan, done: "deleted %s"},
	}, newAssetUpload(s), newAssetDownload(s))
}

func newAssetUpload(s *session) *cobra.Command {
	var kind, description string
	cmd := &cobra.Command{
		Use: "upload FILE", Short: "Upload a file and print its asset id", Args: arguments("FILE"),
		Example: "  ID=$(sirocco asset upload photo.jpg)",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				return err
			}
			if !info.Mode().IsRegular() {
				return next(fmt.Errorf("%s is no regular file", args[0]), "write it to a file first: its size must be known")
			}
			if kind == "" {
				kind = orDefault(mime.TypeByExtension(filepath.Ext(args[0])), "application/octet-stream")
			}
			if description == "" {
				description = filepath.Base(args[0])
			}
			body, err := json.Marshal(functions.CreateAssetRequest{ContentType: kind, Description: description})
			if err != nil {
				return fmt.Errorf("asset: %w", err)
			}
			raw, err := s.answer(ctx, assetLoan, client.Request{Method: http.MethodPost, Path: assetsPath, Body: body})
			if err != nil {
				return err
			}
			var made functions.CreateAssetResponse
			if err := json.Unmarshal(raw, &made); err != nil {
				return fmt.Errorf("asset: %w", err)
			}
			resp, err := s.signed(cmd, client.Request{Method: http.MethodPut, Stream: f, Length: info.Size(), Header: http.Header{
				"Content-Type": {made.ContentType}, http.CanonicalHeaderKey(functions.AssetDescription): {made.Description},
			}}, made.UploadURL)
			if err != nil {
				return next(fmt.Errorf("asset %s was made, its bytes were not taken: %w", made.AssetID, err), "delete it with `sirocco asset delete %s` and try again", made.AssetID)
			}
			_ = resp.Body.Close()
			return s.show(raw, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, made.AssetID)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&kind, "type", "", "content type (default: by the file's extension)")
	cmd.Flags().StringVar(&description, "description", "", "what it is (default: the file's name)")
	return cmd
}

// signed makes a call to an address that carries its own permission, here or at another object store.
func (s *session) signed(cmd *cobra.Command, r client.Request, address string) (*http.Response, error) {
	c, err := s.connect()
	if err != nil {
		return nil, err
	}
	return c.Signed(cmd.Context(), r, address)
}

func newAssetDownload(s *session) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "download ID", Short: "Write an asset's bytes to a file or standard output", Args: arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := s.answer(cmd.Context(), assetLoan, client.Request{Method: http.MethodGet, Path: assetsPath + "/" + escape(args[0]) + "/content-redirect"})
			if err != nil {
				return err
			}
			var where functions.ContentRedirectResponse
			if err := json.Unmarshal(raw, &where); err != nil {
				return fmt.Errorf("asset: %w", err)
			}
			resp, err := s.signed(cmd, client.Request{Method: http.MethodGet}, where.PresignedURL)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if file == "" || file == "-" {
				_, err = io.Copy(s.out, resp.Body)
				return err
			}
			return save(file, resp.Body)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file to write (default: standard output)")
	return cmd
}

// save writes a file whole or not at all.
func save(name string, content io.Reader) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+strings.TrimPrefix(filepath.Base(name), ".")+"-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
