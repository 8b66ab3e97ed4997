// Command generate writes what is derived from contracts: the AsyncAPI and OpenAPI documents, the reference pages of access rows,
// problems, streams and settings, and the NATS permissions of each service. Running it twice writes the same bytes.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

//go:generate go run github.com/sirocco-cloud/sirocco/tools/generate

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run() error {
	root, err := repository()
	if err != nil {
		return err
	}
	files, err := generate(root)
	if err != nil {
		return err
	}
	for path, content := range files {
		path = filepath.Join(root, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // documentation is for everybody
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil { //nolint:gosec // documentation is for everybody
			return err
		}
	}
	return nil
}

// generate makes every file, by its path in the repository.
func generate(root string) (map[string][]byte, error) {
	comments, err := readComments(root)
	if err != nil {
		return nil, err
	}
	asyncapi, err := asyncAPI(comments)
	if err != nil {
		return nil, err
	}
	openapi, err := openAPI(comments)
	if err != nil {
		return nil, err
	}
	permissions, err := permissions(root)
	if err != nil {
		return nil, err
	}
	settings, err := settingsPage(root)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		"docs/reference/asyncapi.json":      asyncapi,
		"docs/reference/access.md":          accessPage(),
		"docs/reference/problems.md":        problemsPage(),
		"docs/reference/streams.md":         streamsPage(),
		"docs/reference/settings.md":        settings,
		"deployments/nats/permissions.json": permissions,
		"services/gateway/openapi.json":     openapi,
	}, nil
}

// repository finds the root, which holds go.work, from anywhere inside.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("run inside the repository: no go.work found")
		}
		dir = parent
	}
}
