package client

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// Unreachable says that no gateway answered.
type Unreachable struct {
	URL string
	Err error
}

// Error makes Unreachable an error.
func (u *Unreachable) Error() string {
	return fmt.Sprintf("the gateway at %s does not answer: %v", u.URL, u.Err)
}

// Unwrap returns the cause.
func (u *Unreachable) Unwrap() error { return u.Err }

// Refusal is an answer whose status says no.
type Refusal struct {
	Method, Path string
	Status       int
	// Problem is the document of the gateway; its code is empty when something else answered.
	Problem problem.Document
	// RetryAfter is in seconds, 0 when the answer does not say.
	RetryAfter int
}

// Error makes Refusal an error: the problem's own sentence.
func (r *Refusal) Error() string {
	if r.Problem.Detail != "" {
		return r.Problem.Detail
	}
	return fmt.Sprintf("%s %s was answered with %d %s", r.Method, r.Path, r.Status, http.StatusText(r.Status))
}

// maxProblem is how much of a refusal is read, in bytes.
const maxProblem = 1 << 20

// ReadRefusal reads a refusal from an answer. It does not close the body.
func ReadRefusal(method, path string, resp *http.Response) *Refusal {
	r := &Refusal{Method: method, Path: path, Status: resp.StatusCode}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		r.RetryAfter = n
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	switch {
	case err != nil:
	case !IsProblem(resp.Header):
		r.Problem = readPlain(resp.StatusCode, body)
	case json.Unmarshal(body, &r.Problem) != nil:
		r.Problem = problem.Document{}
	}
	return r
}

// plain is the error body of the APIs that have no problem documents: the access API says message and details, the
// OAuth token endpoint error and error_description, the cluster inventory error.
type plain struct {
	Message     string `json:"message"`
	Details     string `json:"details"`
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

// codes are the general codes of statuses, for answers that name none.
var codes = map[int]problem.Code{
	http.StatusBadRequest: problem.BadRequest, http.StatusUnauthorized: problem.Unauthorized, http.StatusForbidden: problem.Forbidden,
	http.StatusNotFound: problem.NotFound, http.StatusConflict: problem.Conflict, http.StatusTooManyRequests: problem.TooManyRequests,
	http.StatusInternalServerError: problem.Internal, http.StatusServiceUnavailable: problem.Unavailable,
}

func readPlain(status int, body []byte) problem.Document {
	var p plain
	if json.Unmarshal(body, &p) != nil {
		return problem.Document{}
	}
	text := p.Message
	for _, more := range []string{p.Details, p.Error, p.Description} {
		if more != "" && text != "" {
			more = ": " + more
		}
		text += more
	}
	if text == "" {
		return problem.Document{}
	}
	return problem.Document{Status: status, Detail: text, Code: codes[status]}
}

// IsProblem reports whether an answer calls itself a problem document.
func IsProblem(h http.Header) bool {
	return strings.HasPrefix(h.Get("Content-Type"), problem.ContentType)
}
