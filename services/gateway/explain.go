package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// explainRoutes is the one question about access that the gateway answers itself: it alone knows every route.
func explainRoutes() []route {
	bind := bindingOf(reflect.TypeFor[access.ExplainRequest]())
	return []route{{
		method: post, path: "/v1/keys/explain", row: &access.ExplainKey, status: ok, maxBody: maxManagementBody,
		endpoint: rpc.Description{
			Owner: "gateway", Doc: "Says whether a key may make a request, and which rule decides; nothing happens.",
			Input: reflect.TypeFor[access.ExplainRequest](), Output: reflect.TypeFor[access.Explanation](),
		},
		serve: func(g *Gateway, w http.ResponseWriter, r *http.Request, caller access.Caller) error {
			var req access.ExplainRequest
			if _, err := g.receive(w, r, caller, bind, maxManagementBody, &req); err != nil {
				return err
			}
			answer, err := g.explain(r, caller, req)
			if err != nil {
				return err
			}
			return writeJSON(w, caller.RequestID, ok, answer)
		},
	}}
}

// explain decides about a request that is not made.
func (g *Gateway) explain(asking *http.Request, caller access.Caller, req access.ExplainRequest) (access.Explanation, error) {
	r, err := imagined(asking, req)
	if err != nil {
		return access.Explanation{}, err
	}
	e, err := g.explicable(asking, caller, req)
	d, refused := errors.AsType[*denial](err)
	if err != nil && (!refused || d.reason == access.ReasonBackend) {
		return access.Explanation{}, err
	}
	at := g.locate(r)
	switch {
	case at.line == nil:
		return explained(at, access.ReasonMalformed, at.unknown), nil
	case refused:
		return explained(at, d.reason, asProblem(err).Detail), nil
	}
	if at.line.open || at.line.row == nil {
		return explained(at, access.ReasonOK, "this needs no credential"), nil
	}
	return g.verdict(r, at, e), nil
}

// place is a route with the parameters that a path has there.
type place struct {
	line *route
	// invocation is set when the request goes to a function as it stands.
	invocation bool
	// unknown says why there is no line.
	unknown string
}

// invocations stands for every path of a function's own.
var invocations = &route{row: &access.Invoke}

// locate finds where a request would be decided, exactly as ServeHTTP does.
func (g *Gateway) locate(r *http.Request) place {
	d, p := classify(r)
	switch {
	case p != nil:
		return place{unknown: p.Detail}
	case d.functionID != "":
		r.SetPathValue("functionId", d.functionID)
		r.SetPathValue("versionId", d.versionID)
		return place{line: invocations, invocation: true}
	}
	if canonical, _, aliased := canonicalPath(r.URL.Path); aliased {
		r.URL.Path = canonical
	}
	pattern := ""
	if path.Clean(r.URL.Path) == r.URL.Path {
		_, pattern = g.router.mux.Handler(r)
	}
	if pattern == "" {
		return place{unknown: "no route " + r.Method + " " + r.URL.Path + ": Not found"}
	}
	line := g.router.lines[pattern]
	if line == nil {
		_, template, _ := strings.Cut(pattern, " ")
		line = &route{path: template, row: described[pattern].Row, entrance: entrance{open: described[pattern].Row == nil}}
	}
	want, have := strings.Split(line.path, "/"), strings.Split(r.URL.Path, "/")
	for i := range min(len(want), len(have)) {
		if name, ok := strings.CutPrefix(want[i], "{"); ok {
			r.SetPathValue(strings.TrimSuffix(name, "}"), have[i])
		}
	}
	if p := pathUUIDs(r); p != nil {
		return place{unknown: p.Detail}
	}
	return place{line: line, invocation: line.row != nil && line.row.Name == access.Invoke.Name}
}

// imagined is the request that is asked about.
func imagined(asking *http.Request, req access.ExplainRequest) (*http.Request, error) {
	check := problem.NewCheck("request")
	u, err := url.ParseRequestURI(req.Path)
	check.Require(err == nil && strings.HasPrefix(req.Path, "/"), "path", "must be the path of a request, such as /v2/nvcf/functions")
	check.Require(req.Method != "" && !strings.ContainsAny(req.Method, " \t\r\n/"), "method", "must be an HTTP method, such as GET")
	check.Require((req.Key == "") != (len(req.Authorizations) == 0), "key", "must be given, or authorizations, but not both")
	if err := check.Err(); err != nil {
		return nil, err
	}
	r := &http.Request{Method: strings.ToUpper(req.Method), URL: u, Host: req.Host, Header: http.Header{}, RequestURI: req.Path, RemoteAddr: asking.RemoteAddr}
	return r.WithContext(asking.Context()), nil
}

// explicable is the credential that is asked about.
func (g *Gateway) explicable(asking *http.Request, caller access.Caller, req access.ExplainRequest) (*entry, error) {
	if req.Key != "" {
		return g.auth.recognise(asking.Context(), req.Key)
	}
	var doc struct {
		Policies []access.Policy `json:"policies"`
	}
	if err := json.Unmarshal(req.Authorizations, &doc); err != nil {
		return nil, violation("authorizations", "must be an object whose policies are as in POST /v1/keys")
	}
	c := access.Credential{Kind: access.Key, Account: caller.Account, Policies: doc.Policies, ExpiresAt: time.Now().Add(time.Hour)}
	every := []string{access.FunctionsAudience, access.TasksAudience, access.EventsAudience}
	for _, p := range doc.Policies {
		named := append(slices.Clone(p.Audiences), p.Audience)
		c.Audiences = append(c.Audiences, slices.DeleteFunc(named, func(s string) bool { return s == "" })...)
	}
	if len(c.Audiences) == 0 {
		c.Audiences = every
	}
	e := &entry{credential: c}
	g.auth.cache.share(e)
	return e, nil
}

// verdict applies the row and then, as far as the path names the object, its resources.
func (g *Gateway) verdict(r *http.Request, at place, e *entry) access.Explanation {
	caller, p := access.Decide(*at.line.row, e.credential)
	switch account := r.PathValue(at.line.account); {
	case at.line.account == "":
	case p != nil && e.credential.Kind == access.Key && account != e.credential.Account:
		p = foreignAccount(account) // comes before scopes (keys §7.3)
	case p == nil:
		caller, p = ofAccount(at.line, r, caller)
	}
	if p != nil {
		return explained(at, refusalReason(p), p.Detail)
	}
	if what := g.uncovered(r, at, caller); what != "" {
		return explained(at, access.ReasonResourceNotCovered, access.NotCovered(*at.line.row, what).Detail)
	}
	return explained(at, access.ReasonOK, "this credential may "+at.line.row.What)
}

// uncovered names the object of a path that lies outside the resources of a caller; empty when there is none. Resources
// for shared functions count unless the function is known to be the account's own.
func (g *Gateway) uncovered(r *http.Request, at place, caller access.Caller) string {
	function, version := r.PathValue("functionId"), r.PathValue("versionId")
	task, cluster := r.PathValue("taskId"), r.PathValue("clusterId")
	switch {
	case caller.Kind != access.Key:
	case function != "":
		answer, err := g.versions.resolve(r.Context(), caller.Account, function)
		own := err == nil && answer.Owner == caller.Account
		covers := func(own bool) bool {
			if version == "" && (at.invocation || r.Method == http.MethodGet) { // what the key covers of it is enough
				return caller.CoversSomeOf(own, function)
			}
			return caller.CoversFunction(own, function, version)
		}
		if !covers(true) && (own || !covers(false)) {
			return strings.TrimSuffix("function "+function+", version "+version, ", version ")
		}
	case task != "" && !caller.CoversTask(task):
		return "task " + task
	case cluster != "" && !caller.CoversCluster(cluster):
		return "cluster " + cluster
	}
	return ""
}

func explained(at place, reason access.Reason, detail string) access.Explanation {
	e := access.Explanation{Allowed: reason == access.ReasonOK, Reason: reason, Detail: detail, RequiredScopes: []access.Scope{}, CompatibleResourceTypes: []string{}}
	if at.line != nil && at.line.row != nil && len(at.line.row.Ways) > 0 {
		scopes, types := at.line.row.Asks()
		e.Rule, e.RequiredScopes, e.CompatibleResourceTypes = at.line.row.Name, append(e.RequiredScopes, scopes...), append(e.CompatibleResourceTypes, types...)
	}
	return e
}
