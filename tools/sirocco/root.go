package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

// defaultAddr is where a gateway listens unless SIROCCO_HTTP_ADDR says otherwise.
const defaultAddr = "127.0.0.1:8080"

// session is one run of the command line: the console, and what the global flags say.
type session struct {
	console
	url, token string
	output     format
	connected  *client.Client
	// like is the version that a new one takes after; nil for none.
	like *functions.Spec
}

// connect returns the client of the management API; nothing is sent yet.
func (s *session) connect() (*client.Client, error) {
	if s.connected != nil {
		return s.connected, nil
	}
	token := s.token
	if token == "" {
		token = s.getenv("SIROCCO_TOKEN")
	}
	c, err := client.New(s.address(), client.Options{Token: token, CacheDir: s.cacheDir, Now: s.now})
	if err != nil {
		return nil, &usage{err: err}
	}
	s.connected = c
	return c, nil
}

// address is --url, else SIROCCO_URL, else where a gateway with the same environment listens.
func (s *session) address() string {
	if s.url != "" {
		return s.url
	}
	if u := s.getenv("SIROCCO_URL"); u != "" {
		return u
	}
	addr := s.getenv("SIROCCO_HTTP_ADDR")
	if addr == "" {
		addr = defaultAddr
	}
	if host, port, err := net.SplitHostPort(addr); err == nil {
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			addr = net.JoinHostPort("127.0.0.1", port)
		}
	}
	return "http://" + addr
}

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, c console, args []string) int {
	s := &session{console: c, output: formatTable}
	root := newRoot(s)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if s.connected != nil {
		s.connected.Close()
	}
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		fmt.Fprintln(c.err, "interrupted")
		return exitInterrupted
	}
	report(c.err, err)
	return exitCode(err)
}

func newRoot(s *session) *cobra.Command {
	root := &cobra.Command{
		Use:   "sirocco",
		Short: "Run GPU functions: the platform and its operator's commands",
		Long: `Sirocco runs GPU functions. "sirocco up" is the whole platform in one process; every other command talks to
a gateway over HTTP.

The gateway is --url, else SIROCCO_URL, else http://SIROCCO_HTTP_ADDR (default 127.0.0.1:8080). Commands act
with the first of these that there is:

  1. --token
  2. SIROCCO_TOKEN
  3. the login of "sirocco login", renewed by itself, ended by "sirocco logout"
  4. an administrator token that they mint, where the gateway gives one to your network

Logins and minted tokens are kept, readable by you alone, in your configuration directory. "sirocco whoami" shows
which one is in use.

Exit codes:
  0    done
  1    failed
  2    wrong usage
  3    the gateway cannot be reached
  4    refused: not authenticated (401) or not allowed (403), or "key explain" says no
  5    not found
  130  interrupted`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	flags := root.PersistentFlags()
	flags.StringVar(&s.url, "url", "", "address of the gateway (SIROCCO_URL)")
	flags.StringVar(&s.token, "token", "", "bearer token instead of a login or a minted one (SIROCCO_TOKEN is safer: arguments are visible to others)")
	flags.VarP(&s.output, "output", "o", "table or json")
	// The flag was made in the line above, so completion finds it.
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{string(formatTable), string(formatJSON)}, cobra.ShellCompDirectiveNoFileComp))
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usage{command: cmd.CommandPath(), err: err} })
	root.AddCommand(
		newUp(), newLoadtester(), newStatus(s), newEvents(s), newAudit(s), newVersion(s),
		newFunction(s), newDeployment(s), newSecret(s), newTelemetry(s), newRegistry(s), newAsset(s), newImage(s), newApply(s), newExplain(s),
		newCluster(s), newQuota(s), newAccount(s),
		newKey(s), newAdmin(s), newLogin(s), newLogout(s), newWhoami(s), newUser(s), newApp(s), newRule(s),
	)
	explainUsage(root)
	return root
}

// explainUsage makes wrong arguments of every command an error of usage, and unknown verbs of a noun too.
func explainUsage(cmd *cobra.Command) {
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.SuggestionsMinimumDistance = 2
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			err := fmt.Errorf("there is no command %q", args[0])
			if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
				err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(like, " or "))
			}
			return err
		}
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	if accept := cmd.Args; accept != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := accept(cmd, args); err != nil {
				return &usage{command: cmd.CommandPath(), err: err}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		explainUsage(sub)
	}
}

// arguments is cobra.MinimumNArgs and cobra.MaximumNArgs with the names of what is missing.
func arguments(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return fmt.Errorf("missing %s", strings.Join(names[len(args):], " and "))
		case len(args) > len(names):
			return fmt.Errorf("unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// format is how answers are shown.
type format string

// The formats: a table for people, or the API's own answer.
const (
	formatTable format = "table"
	formatJSON  format = "json"
)

// String implements pflag.Value.
func (f *format) String() string { return string(*f) }

// Set implements pflag.Value.
func (f *format) Set(v string) error {
	if !slices.Contains([]format{formatTable, formatJSON}, format(v)) {
		return errors.New("must be table or json")
	}
	*f = format(v)
	return nil
}

// Type implements pflag.Value.
func (f *format) Type() string { return "format" }
