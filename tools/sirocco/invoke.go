package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

// errNoAnswer ends an invocation whose response does not begin in time.
var errNoAnswer = errors.New("the gateway did not begin to answer in time")

// invocationRequest is what the flags of invoke say.
type invocationRequest struct {
	method, path, data string
	headers            []string
	version, key       string
	patience           time.Duration
}

func newInvoke(s *session) *cobra.Command {
	var q invocationRequest
	cmd := &cobra.Command{
		Use: "invoke FUNCTION", Short: "Call a function and print its answer as it comes",
		Long: `Call a function and print its answer as it comes.

The call is made with --key or SIROCCO_API_KEY. Without one, a key is made that is good for this function alone and
for 15 minutes, and revoked after the call.`,
		Example: `  sirocco function invoke echo -d '{"message":"hello"}'
  sirocco function invoke echo -X GET --path /metrics
  sirocco function invoke upscale -d @photo.jpg -H 'Content-Type: image/jpeg' > large.jpg`,
		Args: arguments("FUNCTION"), ValidArgsFunction: s.completeFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.path != "" && !strings.HasPrefix(q.path, "/") {
				return &usage{command: cmd.CommandPath(), err: errors.New("--path must start with /")}
			}
			if q.patience < invocation.MinPoll || q.patience > invocation.MaxPoll {
				return &usage{command: cmd.CommandPath(), err: fmt.Errorf("--timeout must be between %s and %s", invocation.MinPoll, invocation.MaxPoll)}
			}
			header, err := headers(q.headers)
			if err != nil {
				return &usage{command: cmd.CommandPath(), err: err}
			}
			return s.invoke(cmd.Context(), args[0], q, header)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&q.data, "data", "d", "", "body, or @FILE (@- for standard input); JSON unless a Content-Type header says otherwise")
	flags.StringVarP(&q.method, "request", "X", http.MethodPost, "method")
	flags.StringVar(&q.path, "path", "", "path and query (default: the function's inference URL)")
	flags.StringArrayVarP(&q.headers, "header", "H", nil, "'Name: value'; repeat for several")
	flags.StringVar(&q.version, "version", "", "version id (default: the gateway chooses among the active ones)")
	flags.StringVar(&q.key, "key", "", "API key (SIROCCO_API_KEY is safer: arguments are visible to others)")
	flags.DurationVar(&q.patience, "timeout", invocation.DefaultPoll, "how long to wait until the answer begins")
	return cmd
}

func headers(list []string) (http.Header, error) {
	h := http.Header{}
	for _, text := range list {
		name, value, ok := strings.Cut(text, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, errors.New("--header must be 'Name: value'")
		}
		h.Add(name, strings.TrimSpace(value))
	}
	return h, nil
}

func (s *session) invoke(ctx context.Context, ref string, q invocationRequest, header http.Header) error {
	c, err := s.connect()
	if err != nil {
		return err
	}
	key := orDefault(q.key, s.getenv("SIROCCO_API_KEY"))
	caller := c.As(key)
	if key == "" {
		caller = c
	}
	id, path, err := destination(ctx, caller, ref, q)
	if err != nil {
		return err
	}
	if key == "" {
		value, giveBack, err := s.borrow(ctx, c, "sirocco function invoke", loan{
			scopes: []access.Scope{access.InvokeFunction}, resource: access.Resource{ID: id + "/*", Type: string(access.Function)},
		})
		if err != nil {
			return err
		}
		defer giveBack()
		caller = c.As(value)
	}
	body, size, err := s.openBody(q.data)
	if err != nil {
		return err
	}
	if body != nil {
		defer body.Close()
		if header.Get("Content-Type") == "" {
			header.Set("Content-Type", "application/json")
		}
	}
	header.Set(invocation.HeaderFunctionID, id)
	if q.version != "" {
		header.Set(invocation.HeaderFunctionVersionID, q.version)
	}
	header.Set(invocation.HeaderPollSeconds, strconv.Itoa(int(math.Ceil(q.patience.Seconds()))))
	r := client.Request{Method: strings.ToUpper(q.method), Path: path, Header: header}
	if body != nil {
		r.Stream, r.Length = body, size
	}
	return invocationAdvice(s.exchange(ctx, caller, r, q.patience), id, q.patience)
}

// invocationAdvice says what to do about a call that the gateway refused.
func invocationAdvice(err error, id string, patience time.Duration) error {
	var refusal *client.Refusal
	if !errors.As(err, &refusal) {
		return err
	}
	switch refusal.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return next(err, "make a key for it: `sirocco key create --function %s`, or leave out --key and SIROCCO_API_KEY", id)
	case http.StatusNotFound, http.StatusServiceUnavailable:
		return next(err, "see whether it is deployed and ACTIVE: `sirocco function show %s`", id)
	case http.StatusGatewayTimeout:
		return next(err, "wait longer than %s with --timeout, or see how its instances are: `sirocco function show %s`", patience, id)
	}
	return err
}

// destination finds the function's id and the path to call. With an id and --path nothing has to be asked.
func destination(ctx context.Context, c *client.Client, ref string, q invocationRequest) (id, path string, err error) {
	if isID(ref) && q.path != "" {
		return strings.ToLower(ref), q.path, nil
	}
	f, err := oneVersion(ctx, c, ref, q.version, functions.Status.Invocable)
	if err != nil {
		switch refusal, _ := errors.AsType[*client.Refusal](err); {
		case refusal == nil:
		case refusal.Problem.Code == problem.ScopeMissing, refusal.Problem.Code == problem.ResourceType, refusal.Problem.Code == problem.ResourceNotCovered:
			err = next(err, "name the function by its id and give --path, or use a key with the scope %s that covers it", access.ListFunctions)
		case refusal.Status == http.StatusForbidden || refusal.Status == http.StatusUnauthorized:
			err = next(err, "bring another key, or leave out --key and SIROCCO_API_KEY so that one is made for the call")
		}
		return "", "", err
	}
	if q.path != "" {
		return f.ID, q.path, nil
	}
	return f.ID, "/" + strings.TrimPrefix(f.InferenceURL, "/"), nil
}

// openBody opens what -d names. The size is -1 where it is not known.
func (s *session) openBody(data string) (io.ReadCloser, int64, error) {
	file, isFile := strings.CutPrefix(data, "@")
	switch {
	case data == "":
		return nil, 0, nil
	case !isFile:
		return io.NopCloser(strings.NewReader(data)), int64(len(data)), nil
	case file == "-":
		return io.NopCloser(s.in), -1, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, err
	}
	size := int64(-1)
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	return f, size, nil
}

// exchange makes the call and copies the answer out. What the container answers is the answer, whatever its status; what
// the gateway answers in its place is a refusal.
func (s *session) exchange(ctx context.Context, c *client.Client, r client.Request, patience time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The gateway's own limit ends first and says more.
	limit := time.AfterFunc(patience+2*invocation.Grace, func() { cancel(errNoAnswer) })
	resp, err := c.Exchange(ctx, r)
	limit.Stop()
	if err != nil {
		return err
	}
	defer func(body io.Closer) { _ = body.Close() }(resp.Body)
	if resp.StatusCode >= http.StatusBadRequest && client.IsProblem(resp.Header) {
		var read bytes.Buffer
		answer := resp.Body
		resp.Body = io.NopCloser(io.TeeReader(answer, &read))
		if refusal := client.ReadRefusal(r.Method, r.Path, resp); refusal.Problem.Code != "" {
			return refusal
		}
		resp.Body = io.NopCloser(io.MultiReader(&read, answer)) // the container's own problem
	}
	if _, err := io.Copy(s.out, resp.Body); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("the answer broke off: %w", err)
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		return answeredWith(resp)
	}
	return nil
}

func answeredWith(resp *http.Response) error {
	err := fmt.Errorf("the function answered %s", resp.Status)
	if id := resp.Header.Get(invocation.HeaderRequestID); id != "" {
		err = fmt.Errorf("%w (request %s)", err, id)
	}
	return err
}
