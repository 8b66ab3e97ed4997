package agent

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
)

// writeFiles lays out the directory of an instance. Nobody but the agent's user gets into it from the host; inside a
// container, where the sub-directories are mounted, any user must read the secrets and write to inf.
func writeFiles(dir string, l functions.Launchable) error {
	for _, d := range []struct {
		path string
		mode fs.FileMode
	}{{dir, 0o700}, {filepath.Join(dir, "secrets"), 0o755}, {filepath.Join(dir, "inf"), 0o777}} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return fmt.Errorf("instance directory: %w", err)
		}
		if err := os.Chmod(d.path, d.mode); err != nil { // past the umask
			return fmt.Errorf("instance directory: %w", err)
		}
	}
	for path, secrets := range secretFiles(dir, l) {
		b, err := secretsDocument(secrets)
		if err != nil {
			return err
		}
		if err := replaceFile(path, b, 0o444, false); err != nil {
			return fmt.Errorf("secrets: %w", err)
		}
	}
	return nil
}

func secretsPath(dir string) string { return filepath.Join(dir, "secrets", "secrets.json") }

func accountSecretsPath(dir string) string {
	return filepath.Join(dir, "secrets", "accounts-secrets.json")
}

// shortestSecret is the shortest value that is looked for; hiding shorter ones would hide half of any text.
const shortestSecret = 4

// hideSecrets takes the secret values of an instance out of what it wrote, because that becomes part of an event.
func (e *end) hideSecrets(dir string) {
	var documents []json.RawMessage
	for path := range secretFiles(dir, functions.Launchable{}) {
		if b, err := os.ReadFile(path); err == nil { // else it never got any
			documents = append(documents, b)
		}
	}
	var values []string
	var collect func(any)
	collect = func(v any) {
		switch v := v.(type) {
		case string:
			if len(v) >= shortestSecret {
				values = append(values, v)
			}
		case []any:
			for _, x := range v {
				collect(x)
			}
		case map[string]any:
			for _, x := range v {
				collect(x)
			}
		}
	}
	for _, document := range append(documents, retiredSecrets(dir)...) {
		var secrets any
		if err := json.Unmarshal(document, &secrets); err == nil {
			collect(secrets)
		}
	}
	// The longest first: of two that begin alike, the shorter one must not leave the rest of the longer one to be read.
	slices.SortFunc(values, func(a, b string) int { return len(b) - len(a) })
	pairs := make([]string, 0, 2*len(values))
	for _, v := range values {
		pairs = append(pairs, v, "[secret]")
	}
	hide := strings.NewReplacer(pairs...)
	e.Message = hide.Replace(e.Message)
	for n := range e.Logs {
		e.Logs[n] = hide.Replace(e.Logs[n])
	}
}
