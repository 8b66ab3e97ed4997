package gateway

import (
	"net"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// destination is what a request is for: a function to invoke as it stands, or nothing, and then the path decides.
type destination struct {
	functionID string
	versionID  string
	// invocationHost is set when the host is in the invocation family, where no management API answers.
	invocationHost bool
}

// classify applies the rules of invocation §1.2, in their order: header, then host, then path.
func classify(r *http.Request) (destination, *problem.Problem) {
	var d destination
	host := hostname(r.Host)
	first, rest, _ := strings.Cut(host, ".")
	d.invocationHost = first == "invocation"
	if len(first) == uuidLength && isUUID(first) {
		second, after, _ := strings.Cut(rest, ".")
		d.invocationHost = true
		if len(second) == uuidLength && isUUID(second) {
			d.versionID, d.functionID, second = strings.ToLower(first), strings.ToLower(second), label(after)
		} else {
			d.functionID = strings.ToLower(first)
		}
		if second != "invocation" {
			return d, problem.New(problem.RouteNotFound, "host %q: Not found; a function answers at <functionId>.invocation.<domain>", r.Host)
		}
	}
	header := r.Header.Get(invocation.HeaderFunctionID)
	if header == "" {
		return d, nil
	}
	if !isUUID(header) {
		if d.functionID == "" && !d.invocationHost {
			return d, nil // §1.2: only a valid UUID makes a direct invocation
		}
		return d, badHeader(invocation.HeaderFunctionID)
	}
	header = strings.ToLower(header)
	if d.functionID != "" && d.functionID != header {
		return d, problem.New(problem.BadRequest, "the host names function %s and the header %s names %s; send one of them", d.functionID, invocation.HeaderFunctionID, header)
	}
	d.functionID = header
	if v := r.Header.Get(invocation.HeaderFunctionVersionID); v != "" {
		if !isUUID(v) {
			return d, badHeader(invocation.HeaderFunctionVersionID)
		}
		d.versionID = strings.ToLower(v)
	}
	return d, nil
}

const uuidLength = 36

func isUUID(s string) bool { return len(s) == uuidLength && uuid.Validate(s) == nil }

func badHeader(name string) *problem.Problem {
	return &problem.Problem{
		Code: problem.BadRequest, Detail: "header " + name + " must be a UUID",
		Violations: []problem.Violation{{Field: name, Rule: "must be a UUID"}},
	}
}

func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(host)
}

func label(host string) string {
	first, _, _ := strings.Cut(host, ".")
	return first
}

// canonicalPath rewrites the organisation-prefixed aliases of functions-deployments §13 to the plain paths; org and
// team widen nothing. aliased tells that the error body needs the alias's envelope.
func canonicalPath(path string) (canonical string, aliased bool) {
	rest, ok := strings.CutPrefix(path, "/v2/orgs/")
	if !ok {
		return path, false
	}
	_, rest, ok = strings.Cut(rest, "/") // the organisation, which may be empty
	if !ok {
		return path, false
	}
	if after, teamed := strings.CutPrefix(rest, "teams/"); teamed {
		if _, rest, ok = strings.Cut(after, "/"); !ok {
			return path, false
		}
	}
	switch {
	case strings.HasPrefix(rest, "nvcf/"):
		return "/v2/" + rest, true
	case strings.HasPrefix(rest, "nvct/"):
		return "/v1/" + rest, true
	}
	return path, false
}
