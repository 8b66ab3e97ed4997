package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

func newLogin(s *session) *cobra.Command {
	var app, file string
	cmd := &cobra.Command{
		Use: "login [USER]", Short: "Sign in as a person, or with --app as an application",
		Long: `Sign in with a local user's name and password, or an application's client id and secret. The password is asked for
on a terminal, else it is the first line of standard input or of --password-file; it is never an argument.

The login is kept in a file that only you can read, is renewed before it expires, and is used by every command until
"sirocco logout". --token and SIROCCO_TOKEN go before it.`,
		Example: `  sirocco login admin@example.com
  sirocco login --app ci-deployer < secret-file`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return fmt.Errorf("unexpected argument %q", args[1])
			case (len(args) == 1) == (app != ""):
				return errors.New("give either USER or --app")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if s.token != "" || s.getenv("SIROCCO_TOKEN") != "" {
				return &usage{command: cmd.CommandPath(), err: errors.New("a token is given with --token or SIROCCO_TOKEN, and would go before the login")}
			}
			g := client.Grant{GrantType: "client_credentials", ClientID: app}
			prompt, kept := "Secret of "+app, &g.ClientSecret
			if app == "" {
				g = client.Grant{GrantType: "password", Username: args[0], ClientID: client.LoginClient}
				prompt, kept = "Password of "+args[0], &g.Password
			}
			var err error
			if *kept, err = s.ask(cmd.Context(), prompt, file); err != nil {
				return err
			}
			c, err := s.connect()
			if err != nil {
				return err
			}
			l, err := c.SignIn(cmd.Context(), g)
			if refusal, ok := errors.AsType[*client.Refusal](err); ok && (refusal.Status == http.StatusBadRequest || refusal.Status == http.StatusUnauthorized) {
				return next(err, "check the name and the password, and try again; an administrator sets a new one with `sirocco user reset-password` or `sirocco app rotate-secret`")
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(s.out, "signed in at %s as %s\n", c.URL(), printable(l.Name))
			return nil
		},
	}
	cmd.Flags().StringVar(&app, "app", "", "client id of an application")
	cmd.Flags().StringVar(&file, "password-file", "", "file whose first line is the password or secret")
	return cmd
}

// ask reads a secret: from a file, from a terminal that does not show it, or from standard input.
func (s *session) ask(ctx context.Context, prompt, file string) (string, error) {
	var text []byte
	var err error
	switch {
	case file != "":
		text, err = s.readFile(file)
	case s.prompt != nil:
		text, err = s.prompt(ctx, prompt+": ")
	default:
		text, err = s.readFile("-")
	}
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", next(errors.New("no password was given"), "type it when asked, or give it on standard input or with --password-file")
	}
	return line, nil
}

func newLogout(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "Forget the login of this gateway", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			_, was := c.SignedIn()
			if err := c.SignOut(); err != nil {
				return err
			}
			words := "nobody was signed in at "
			if was {
				words = "signed out of "
			}
			_, err = fmt.Fprintln(s.out, words+c.URL())
			return err
		},
	}
}

// identity is what is known about the credential of the calls, without its value.
type identity struct {
	URL     string     `json:"url"`
	Source  string     `json:"source"`
	Kind    string     `json:"kind"`
	Name    string     `json:"name,omitempty"`
	Subject string     `json:"subject,omitempty"`
	Scopes  []string   `json:"scopes,omitempty"`
	Expires *time.Time `json:"expiresAt,omitempty"`
	KeyID   string     `json:"keyId,omitempty"`
}

func newWhoami(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Show as whom the commands act, and what that credential may do", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			who := identity{URL: c.URL(), Source: "administrator token, minted by this command"}
			login, signedIn := c.SignedIn()
			switch {
			case s.token != "":
				who.Source = "--token"
			case s.getenv("SIROCCO_TOKEN") != "":
				who.Source = "SIROCCO_TOKEN"
			case signedIn:
				who.Source, who.Name = "sirocco login", login.Name
			}
			bearer, err := c.Bearer(cmd.Context())
			if err != nil {
				return err
			}
			if strings.HasPrefix(bearer, keys.Prefix) {
				err = who.readKey(cmd, c, bearer)
			} else {
				err = who.readToken(bearer)
			}
			if err != nil {
				return err
			}
			raw, err := json.Marshal(who)
			if err != nil {
				return fmt.Errorf("whoami: %w", err)
			}
			return s.show(raw, func(w io.Writer) error {
				return table{columns: columns("Gateway", "url", "Credential", "kind", "From", "source", "Name", "name", "Subject", "subject",
					"Key", "keyId", "Scopes", "scopes", "Expires", "expiresAt")}.write(w, raw)
			})
		},
	}
}

// readToken reads the claims of a token. They are shown, not believed: the gateway judges the token.
func (who *identity) readToken(bearer string) error {
	who.Kind = "token"
	parts := strings.Split(bearer, ".")
	if len(parts) != 3 {
		who.Kind = "unknown: neither a key nor a token"
		return nil
	}
	var claims struct {
		Subject string   `json:"sub"`
		Name    string   `json:"preferred_username"`
		Scopes  []string `json:"scopes"`
		Expires int64    `json:"exp"`
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(payload, &claims)
	}
	if err != nil {
		return errors.New("the token's claims cannot be read")
	}
	who.Subject, who.Scopes, who.Name = claims.Subject, claims.Scopes, orDefault(claims.Name, who.Name)
	if claims.Expires > 0 {
		at := time.Unix(claims.Expires, 0).UTC()
		who.Expires = &at
	}
	return nil
}

// readKey asks what a key is good for.
func (who *identity) readKey(cmd *cobra.Command, c *client.Client, bearer string) error {
	who.Kind = "key"
	for _, audience := range []string{access.FunctionsAudience, access.TasksAudience} {
		body, err := json.Marshal(keys.IntrospectRequest{AudienceServiceID: audience, Key: bearer})
		if err != nil {
			return fmt.Errorf("whoami: %w", err)
		}
		answer, _, err := ask[keys.IntrospectResponse](cmd.Context(), c, client.Request{Method: http.MethodPost, Path: "/v1/introspect", Body: body})
		if refusal, ok := errors.AsType[*client.Refusal](err); ok && refusal.Status < http.StatusInternalServerError {
			continue
		}
		if err != nil {
			return err
		}
		who.KeyID, who.Name = answer.KeyID, answer.OwnerID
		for _, p := range policiesOf(answer.Authorizations) {
			who.Scopes = append(who.Scopes, p.Scopes...)
		}
		return nil
	}
	return next(errors.New("the key is unknown, expired, suspended or deleted"), "make another with `sirocco key create`")
}
