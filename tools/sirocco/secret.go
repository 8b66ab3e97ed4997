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

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

func newSecret(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "secret", Short: "Secrets of functions: values that no answer ever shows",
		Long: "A secret has a name and a value. The value is read from a terminal, a file or standard input, never from the arguments,\nand running instances see a new one without a restart.",
	}
	cmd.AddCommand(newSecretSet(s), newSecretList(s), newSecretUnset(s))
	return cmd
}

func secretsPath(f functions.Function) string {
	return "/v2/nvcf/secrets/functions/" + f.ID + "/versions/" + f.VersionID
}

func newSecretSet(s *session) *cobra.Command {
	var version, file string
	cmd := &cobra.Command{
		Use: "set FUNCTION NAME", Short: "Set a secret; a value that is a JSON object is kept as one",
		Example: "  sirocco secret set echo HF_TOKEN < token-file\n  sirocco secret set echo DB --from-file credentials.json",
		Args:    arguments("FUNCTION", "NAME"), ValidArgsFunction: s.completeFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := s.secretValue(cmd.Context(), args[1], file)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			c, f, err := s.version(ctx, args[0], version, anyStatus)
			if err != nil {
				return err
			}
			if err := putSecrets(ctx, c, f, []functions.Secret{{Name: args[1], Value: value}}); err != nil {
				return err
			}
			return s.say("secret %s of %s is set", args[1], label(f))
		},
	}
	cmd.Flags().StringVar(&version, "version", "", "version id (default: the newest)")
	cmd.Flags().StringVar(&file, "from-file", "", "file that holds the value (default: standard input)")
	return cmd
}

// secretValue reads a value: the whole file or input without its last line end, or the line a person types.
func (s *session) secretValue(ctx context.Context, name, file string) (json.RawMessage, error) {
	if file == "" && s.prompt != nil {
		text, err := s.ask(ctx, "Value of "+name, "")
		if err != nil {
			return nil, err
		}
		return secretJSON([]byte(text))
	}
	content, err := s.readFile(orDefault(file, "-"))
	if err != nil {
		return nil, err
	}
	return secretJSON(content)
}

// secretJSON is a secret as the API takes it: a JSON object as it is, all else as text.
func secretJSON(content []byte) (json.RawMessage, error) {
	value := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if strings.TrimSpace(value) == "" {
		return nil, errors.New("must not be empty")
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(content, &object) == nil {
		return content, nil
	}
	return json.Marshal(value)
}

// secretOf reads NAME=@FILE. A value on the command line is refused: arguments are visible to others.
func (s *session) secretOf(given string) (any, error) {
	name, file, ok := strings.Cut(given, "=@")
	if !ok || name == "" {
		// The text may be a secret, so it is not repeated.
		return nil, errors.New("must be NAME=@FILE, or NAME=@- for standard input")
	}
	content, err := s.readFile(file)
	if err != nil {
		return nil, err
	}
	value, err := secretJSON(content)
	return functions.Secret{Name: name, Value: value}, err
}

func putSecrets(ctx context.Context, c *client.Client, f functions.Function, secrets []functions.Secret) error {
	body, err := json.Marshal(map[string][]functions.Secret{"secrets": secrets})
	if err != nil {
		return fmt.Errorf("secrets: %w", err)
	}
	_, err = c.Answer(ctx, client.Request{Method: http.MethodPut, Path: secretsPath(f), Body: body})
	return err
}

func deleteSecret(ctx context.Context, c *client.Client, f functions.Function, name string) error {
	_, err := c.Answer(ctx, client.Request{Method: http.MethodDelete, Path: secretsPath(f) + "/" + escape(name)})
	return err
}

func newSecretList(s *session) *cobra.Command {
	var version string
	cmd := &cobra.Command{
		Use: "list FUNCTION", Short: "List the names of a version's secrets", Args: arguments("FUNCTION"), ValidArgsFunction: s.completeFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, f, err := s.version(ctx, args[0], version, anyStatus)
			if err != nil {
				return err
			}
			raw, err := c.Answer(ctx, client.Request{Method: http.MethodGet, Path: secretsPath(f)})
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error {
				return table{member: "secrets", columns: columns("Name", "name", "Changed", "lastUpdatedAt")}.write(w, raw)
			})
		},
	}
	cmd.Flags().StringVar(&version, "version", "", "version id (default: the newest)")
	return cmd
}

func newSecretUnset(s *session) *cobra.Command {
	var version string
	cmd := &cobra.Command{
		Use: "unset FUNCTION NAME", Aliases: []string{"delete"}, Short: "Delete a secret", Args: arguments("FUNCTION", "NAME"), ValidArgsFunction: s.completeFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, f, err := s.version(ctx, args[0], version, anyStatus)
			if err != nil {
				return err
			}
			if err := deleteSecret(ctx, c, f, args[1]); err != nil {
				return err
			}
			return s.say("secret %s of %s is deleted", args[1], label(f))
		},
	}
	cmd.Flags().StringVar(&version, "version", "", "version id (default: the newest)")
	return cmd
}

// say prints a sentence about something whose answer is empty; -o json prints nothing then.
func (s *session) say(format string, args ...any) error {
	if s.output == formatJSON {
		return nil
	}
	_, err := fmt.Fprintln(s.out, printable(fmt.Sprintf(format, args...)))
	return err
}
