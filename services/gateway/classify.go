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
	// invocationHost is set when the host is invocation.<domain>.
	invocationHost bool
}

// classify applies the rules of invocation §1.2, in their order: header, then host, then path.
func classify(r *http.Request) (destination, *problem.Problem) {
	d := byHost(hostname(r.Host))
	switch header := r.Header.Get(invocation.HeaderFunctionID); {
	case header == "":
	case isUUID(header):
		if header = strings.ToLower(header); d.functionID != "" && d.functionID != header {
			return d, contradiction(invocation.HeaderFunctionID, d.functionID, header)
		}
		d.functionID = header
	case d.functionID != "" || d.invocationHost:
		return d, badHeader(invocation.HeaderFunctionID)
	}
	version := r.Header.Get(invocation.HeaderFunctionVersionID)
	if d.functionID == "" || version == "" {
		return d, nil
	}
	if !isUUID(version) {
		return d, badHeader(invocation.HeaderFunctionVersionID)
	}
	if version = strings.ToLower(version); d.versionID != "" && d.versionID != version {
		return d, contradiction(invocation.HeaderFunctionVersionID, d.versionID, version)
	}
	d.versionID = version
	return d, nil
}

// byHost reads <functionId>.<suffix> and <versionId>.<functionId>.<suffix>; a suffix is needed and may be any.
func byHost(host string) destination {
	first, rest, _ := strings.Cut(host, ".")
	second, suffix, _ := strings.Cut(rest, ".")
	switch {
	case !isUUID(first) || rest == "":
		return destination{invocationHost: first == "invocation"}
	case isUUID(second) && suffix != "":
		return destination{functionID: second, versionID: first}
	}
	return destination{functionID: first}
}

func contradiction(header, host, value string) *problem.Problem {
	return problem.New(problem.BadRequest, "the host names %s and the header %s names %s; send one of them", host, header, value)
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

// canonicalPath rewrites the organisation-prefixed aliases of functions-deployments §13 to the plain paths; org and
// team widen nothing. An organisation that is left out of a path with routes of its own is written as "-".
func canonicalPath(path string) (canonical, org string, aliased bool) {
	version, rest, ok := strings.Cut(path, "/orgs/")
	if !ok || version != "/v2" && version != "/v3" {
		return path, "", false
	}
	org, rest, ok = strings.Cut(rest, "/") // the organisation, which may be empty
	if !ok {
		return path, "", false
	}
	plain := rest
	if after, teamed := strings.CutPrefix(rest, "teams/"); teamed {
		if _, plain, ok = strings.Cut(after, "/"); !ok {
			return path, "", false
		}
	}
	switch {
	case version == "/v2" && strings.HasPrefix(plain, "nvcf/"):
		return "/v2/" + plain, org, true
	case version == "/v2" && strings.HasPrefix(plain, "nvct/"):
		return "/v1/" + plain, org, true
	case org == "":
		return version + "/orgs/-/" + rest, "", true
	}
	return path, "", false
}
