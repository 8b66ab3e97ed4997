package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

// The exit codes, as the help of the root command lists them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitRefused     = 4
	exitNotFound    = 5
	exitInterrupted = 130
)

// usage is a command line that means nothing.
type usage struct {
	// command is the path of the command whose help would have told.
	command string
	err     error
}

func (u *usage) Error() string { return u.err.Error() }
func (u *usage) Unwrap() error { return u.err }

// failure is an error with what a person needs to get on: details, one per line, and what to do next.
type failure struct {
	err     error
	details []string
	next    string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// next adds to an error what to do about it.
func next(err error, format string, args ...any) error {
	return &failure{err: err, next: fmt.Sprintf(format, args...)}
}

// missing is a thing that was looked for by name and is not there.
type missing struct{ what string }

func (m *missing) Error() string { return m.what + " was not found" }

func exitCode(err error) int {
	var refusal *client.Refusal
	var unreachable *client.Unreachable
	var wrong *usage
	var absent *missing
	var no *denied
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &no), errors.Is(err, client.ErrLoginEnded):
		return exitRefused
	case errors.As(err, &wrong):
		return exitUsage
	case errors.As(err, &unreachable):
		return exitUnreachable
	case errors.As(err, &absent):
		return exitNotFound
	case errors.As(err, &refusal):
		switch refusal.Status {
		case http.StatusUnauthorized, http.StatusForbidden:
			return exitRefused
		case http.StatusNotFound:
			return exitNotFound
		}
	}
	return exitFailed
}

// report prints one sentence, the details, and what to do next.
func report(w io.Writer, err error) {
	if err == nil {
		return
	}
	sentence, details, advice := err.Error(), []string(nil), ""
	if refusal, ok := errors.AsType[*client.Refusal](err); ok {
		sentence, details = inWords(refusal, sentence)
		advice = remedy(refusal)
	}
	if errors.Is(err, client.ErrLoginEnded) {
		advice = "sign in again with `sirocco login`, or go on without a login after `sirocco logout`"
	}
	if _, ok := errors.AsType[*client.Unreachable](err); ok {
		advice = "start the platform with `sirocco up`, or say where it is with --url or SIROCCO_URL"
	}
	if wrong, ok := errors.AsType[*usage](err); ok {
		advice = "see " + strings.TrimSpace(orDefault(wrong.command, "sirocco")+" --help")
	}
	if f, ok := errors.AsType[*failure](err); ok {
		details = append(details, f.details...)
		advice = orDefault(f.next, advice)
	}
	fmt.Fprintln(w, "sirocco:", printable(sentence))
	for _, line := range details {
		fmt.Fprintln(w, "  "+printable(line))
	}
	if advice != "" {
		fmt.Fprintln(w, "next:", printable(advice))
	}
}

// inWords turns a problem document into a sentence and one line for each broken rule.
func inWords(r *client.Refusal, sentence string) (string, []string) {
	p := r.Problem
	var details []string
	for _, v := range p.Violations {
		details = append(details, v.Field+": "+v.Rule)
	}
	if p.Code == problem.Validation && len(details) > 0 {
		sentence = "the request breaks " + count(len(details), "rule")
	}
	if r.Status >= http.StatusInternalServerError && p.RequestID != "" {
		details = append(details, "request "+p.RequestID)
	}
	return sentence, details
}

// remedy is what to do about a refusal when the command knows nothing better.
func remedy(r *client.Refusal) string {
	p := r.Problem
	if strings.HasPrefix(r.Path, "/api/") && (r.Status == http.StatusUnauthorized || r.Status == http.StatusForbidden) {
		return "sign in as an administrator of users and applications: `sirocco login`"
	}
	switch p.Code {
	case problem.Unauthorized:
		return "leave out --token and SIROCCO_TOKEN, so that a fresh administrator token is minted; for a function make a key with `sirocco key create`"
	case problem.ScopeMissing:
		return "use a credential with the scope " + strings.Join(p.RequiredScopes, " and ") + ": `sirocco key create --scope …`, or sign in with `sirocco login` as somebody who may"
	case problem.ResourceType, problem.ResourceNotCovered:
		return "use a credential that covers " + strings.Join(p.RequiredResourceTypes, " or ") + ", such as one of `sirocco key create`"
	case problem.Forbidden:
		if strings.HasPrefix(r.Path, "/v1/admin/") {
			return "run this on a machine in SIROCCO_ADMIN_NETWORKS of the gateway, or bring a token with SIROCCO_TOKEN"
		}
		return "leave out --token and SIROCCO_TOKEN to act as administrator"
	case problem.AudienceMismatch:
		return "use a key of the right kind: `sirocco key create --for function` or `--for task`"
	case problem.AccountMismatch:
		return "use a credential of that account; `sirocco whoami` shows which one is in use"
	case problem.CIDRDenied:
		return "call from a network of the key, or change them: `sirocco key update --cidr …`"
	case problem.IllegalState:
		return "look at its present state: " + listing(r.Path)
	case problem.NotFound:
		return "see what there is: " + listing(r.Path)
	case problem.RouteNotFound, problem.MethodNotAllowed:
		return "check that --url names a Sirocco gateway of this version"
	case problem.BadRequest, problem.Validation, problem.Unprocessable:
		return "correct what is named above and try again"
	case problem.TooLarge, problem.HeadersTooLarge:
		return "send less at once"
	case problem.TooManyRequests, problem.QueueFull, problem.RateLimited:
		return fmt.Sprintf("wait %s and try again", count(max(r.RetryAfter, 1), "second"))
	case problem.Unavailable, problem.GatewayTimeout, problem.Timeout:
		return "see `sirocco status` for what the platform waits for, then try again"
	case problem.Internal, problem.Upstream:
		return "look for the request in the platform's log; `sirocco status` shows whether a part is down"
	case problem.Conflict, problem.PreconditionFailed:
		return "look at the present state and try again"
	case problem.PaymentRequired:
		return "ask whoever runs this platform to raise the account's limit"
	case problem.UnsupportedMedia:
		return "send JSON, or what the sentence above names"
	}
	// Without a known code it was no gateway that answered, or one of another version.
	return "check that --url names a Sirocco gateway and no proxy in front of it answers instead"
}

// listing is the command that lists the kind of thing a path is about.
func listing(path string) string {
	switch {
	case strings.HasPrefix(path, "/v1/keys"):
		return "`sirocco key list`, with the --owner of the key"
	case strings.HasPrefix(path, "/api/v1/authorization"):
		return "`sirocco rule list`"
	}
	for _, noun := range [][2]string{
		{"/v2/nvcf/images", "image"},
		{"/v2/nvcf/telemetries", "telemetry"},
		{"/v2/nvcf/secrets/telemetries", "telemetry"},
		{registriesPath, "registry"},
		{assetsPath, "asset"},
		{"/v2/nvcf/accounts", "account"},
		{"/api/v1/users", "user"},
		{"/api/v1/apps", "app"},
		{"/v2/nvcf/deployments", "deployment"},
	} {
		if strings.HasPrefix(path, noun[0]) {
			return "`sirocco " + noun[1] + " list`"
		}
	}
	return "`sirocco function list`"
}

func orDefault(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
