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
	if err != nil || !IsProblem(resp.Header) || json.Unmarshal(body, &r.Problem) != nil {
		r.Problem = problem.Document{}
	}
	return r
}

// IsProblem reports whether an answer calls itself a problem document.
func IsProblem(h http.Header) bool {
	return strings.HasPrefix(h.Get("Content-Type"), problem.ContentType)
}
