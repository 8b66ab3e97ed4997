package gateway

import (
	"bytes"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
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

// explain decides about a request that is not made, by the steps and in the order in which a real one is decided.
func (g *Gateway) explain(asking *http.Request, caller access.Caller, req access.ExplainRequest) (access.Explanation, error) {
	r, err := imagined(asking, req)
	if err != nil {
		return access.Explanation{}, err
	}
	e, refused, err := g.explicable(asking, caller, req)
	if err != nil {
		return access.Explanation{}, err
	}
	at := g.locate(r)
	if e, ok := at.alone(r); ok {
		return e, nil
	}
	if at.invocation && refused != nil {
		refused = keysFace.refusal(refused)
	}
	as, err := g.judge(r, at.line, e, refused)
	if err == nil && e != nil && !at.line.open {
		if p := e.wouldAdmit(r, g.clock.Now()); p != nil {
			err = p
		}
	}
	if err != nil {
		reason := refusalReason(err)
		p := *asProblem(err)
		if p.Detail == deadKey {
			p.Detail = whyDead[reason]
		}
		return explained(at, reason, &p), nil
	}
	if at.line.open || at.line.row == nil {
		return passed(at, "this needs no credential"), nil
	}
	if !counts(at.line.row, e, refused) {
		return passed(at, "the network that this comes from stands for a credential"), nil
	}
	return g.objectOf(r, at, as, e)
}

// alone explains what no credential decides: that there is no such place, and what its guard says.
func (at place) alone(r *http.Request) (e access.Explanation, ok bool) {
	switch {
	case at.unknown != nil:
		return explained(at, access.ReasonMalformed, at.unknown), true
	case at.guard != nil:
		p := at.guard(r)
		return explained(at, mintReason(p), p), true
	}
	return e, false
}

// counts reports whether the credential itself opens the row, so that no network had to stand for it.
func counts(row *access.Row, e *entry, refused error) bool {
	_, err := decided(row, e, refused)
	return err == nil
}

// whyDead says of a key what its holder is never told.
var whyDead = map[access.Reason]string{
	access.ReasonMalformed: "this is no key of this install: it has another prefix, or its checksum is wrong", access.ReasonUnknownKey: "there is no such key; it may have been deleted",
	access.ReasonExpired: "the time of this key is over, or has not come", access.ReasonSuspended: "this key is suspended", access.ReasonOwnerSuspended: "the owner of this key is suspended",
}

// place is a route with the parameters that a path has there.
type place struct {
	line *route
	// invocation is set when the request goes to a function as it stands.
	invocation bool
	// guard decides instead of a row of the matrix, where there is one.
	guard func(*http.Request) *problem.Problem
	// unknown says why there is no line.
	unknown *problem.Problem
}

// locate finds where a request would be decided, exactly as ServeHTTP does.
func (g *Gateway) locate(r *http.Request) place {
	d, p := classify(r)
	switch {
	case p != nil:
		return place{unknown: p}
	case d.functionID != "":
		r.SetPathValue("functionId", d.functionID)
		r.SetPathValue("versionId", d.versionID)
		invocations := g.auth.cache.invocations
		return place{line: &route{row: &invocations}, invocation: true}
	}
	if canonical, _, aliased := canonicalPath(r.URL.Path); aliased {
		r.URL.Path = canonical
	}
	pattern := ""
	if path.Clean(r.URL.Path) == r.URL.Path {
		_, pattern = g.router.mux.Handler(r)
	}
	if pattern == "" {
		return place{unknown: problem.New(problem.RouteNotFound, "no route %s %s: Not found", r.Method, r.URL.Path)}
	}
	if guard := map[string]func(*http.Request) *problem.Problem{"POST /v1/admin/keys": g.mayMint, "GET /metrics": g.mayScrape}[pattern]; guard != nil {
		return place{guard: guard}
	}
	line := g.router.lines[pattern]
	if line == nil {
		_, template, _ := strings.Cut(pattern, " ")
		line = g.prepared(route{path: template, row: described[pattern].Row})
	}
	want, have := strings.Split(line.path, "/"), strings.Split(r.URL.Path, "/")
	for i := range min(len(want), len(have)) {
		if name, ok := strings.CutPrefix(want[i], "{"); ok {
			r.SetPathValue(strings.TrimSuffix(name, "}"), have[i])
		}
	}
	if p := pathUUIDs(r); p != nil {
		return place{unknown: p}
	}
	return place{line: line, invocation: line.row != nil && line.row.Name == access.Invoke.Name}
}

// imagined is the request that is asked about.
func imagined(asking *http.Request, req access.ExplainRequest) (*http.Request, error) {
	check := problem.NewCheck("request")
	u, err := url.ParseRequestURI(req.Path)
	check.Require(err == nil && strings.HasPrefix(req.Path, "/"), "path", "must be the path of a request, such as /v2/nvcf/functions")
	check.Require(req.Method != "" && !strings.ContainsAny(req.Method, " \t\r\n/"), "method", "must be an HTTP method, such as GET")
	from, badIP := netip.ParseAddr(req.ClientIP)
	check.Require(req.ClientIP == "" || badIP == nil, "client_ip", "must be an IP address, such as 10.0.0.9")
	check.Require((req.Key == "") != (len(req.Authorizations) == 0), "key", "must be given, or authorizations, but not both")
	if err := check.Err(); err != nil {
		return nil, err
	}
	r := &http.Request{Method: strings.ToUpper(req.Method), URL: u, Host: req.Host, Header: http.Header{}, RequestURI: req.Path, RemoteAddr: asking.RemoteAddr}
	if req.ClientIP != "" {
		r.RemoteAddr = netip.AddrPortFrom(from, 0).String()
	}
	if req.Key != "" {
		r.Header.Set(headerAuthorization, "Bearer "+req.Key)
	}
	return r.WithContext(asking.Context()), nil
}

// explicable is the credential that is asked about, or the refusal that it meets; err tells that neither can be known.
func (g *Gateway) explicable(asking *http.Request, caller access.Caller, req access.ExplainRequest) (e *entry, refused, err error) {
	if req.Key != "" {
		e, err = g.auth.recognise(asking.Context(), req.Key)
		if d, ok := errors.AsType[*denial](err); ok && d.reason != access.ReasonBackend {
			return e, err, nil
		}
		return e, nil, err
	}
	if b := bytes.TrimSpace(req.Authorizations); len(b) == 0 || b[0] != '{' {
		return nil, nil, violation("authorizations", "must be an object whose policies are as in POST /v1/keys")
	}
	if err := access.CheckPolicies(req.Authorizations); err != nil {
		return nil, nil, err
	}
	policies := access.Policies(req.Authorizations)
	c := access.Credential{Kind: access.Key, Account: caller.Account, Policies: policies, ExpiresAt: time.Now().Add(time.Hour)}
	every := []string{access.FunctionsAudience, access.TasksAudience, access.EventsAudience}
	for _, p := range policies {
		named := append(slices.Clone(p.Audiences), p.Audience)
		c.Audiences = append(c.Audiences, slices.DeleteFunc(named, func(s string) bool { return s == "" })...)
	}
	if len(c.Audiences) == 0 {
		c.Audiences = every
	}
	e = &entry{credential: c}
	g.auth.cache.share(e)
	return e, nil, nil
}

// objectOf is the last step: whether the resources of a key cover what the path names, and whether that is there at all.
// What belongs to another account is not told from what does not exist.
func (g *Gateway) objectOf(r *http.Request, at place, caller access.Caller, e *entry) (access.Explanation, error) {
	may := "this credential may " + at.line.row.What
	if at.line.owned && !actsForOthers(&e.credential) {
		may += ", those of the owner " + e.credential.Subject + " only"
	}
	function, version := r.PathValue("functionId"), r.PathValue("versionId")
	task, cluster, deployment := r.PathValue("taskId"), r.PathValue("clusterId"), r.PathValue("deploymentId")
	switch {
	case function != "":
		return g.functionOf(r, at, caller, may, function, version)
	case deployment != "" && at.line.endpoint.Owner == deployments.GetByID.Service:
		_, err := bus.Call(access.WithCaller(r.Context(), caller), g.conn, deployments.GetByID, deployments.IDRequest{ID: deployment})
		if p, known := problem.From(err); err != nil && known && (p.Code == problem.NotFound || p.Code == problem.ResourceNotCovered) {
			return absent(at, p.Code == problem.NotFound, may, p), nil
		}
		return passed(at, may), err
	case task != "" && !caller.CoversTask(task):
		return explained(at, access.ReasonResourceNotCovered, access.NotCovered(*at.line.row, "task "+task)), nil
	case cluster != "" && !caller.CoversCluster(cluster):
		return explained(at, access.ReasonResourceNotCovered, access.NotCovered(*at.line.row, "cluster "+cluster)), nil
	}
	return passed(at, may), nil
}

// functionOf asks whose function a path names.
func (g *Gateway) functionOf(r *http.Request, at place, caller access.Caller, may, function, version string) (access.Explanation, error) {
	what := strings.TrimSuffix("function "+function+", version "+version, ", version ")
	covers := func(own bool) bool {
		if caller.Kind == access.Key && version == "" && (at.invocation || r.Method == http.MethodGet) { // what the key covers of it is enough
			return caller.CoversSomeOf(own, function)
		}
		return caller.CoversFunction(own, function, version)
	}
	found, err := bus.Call(r.Context(), g.conn, functions.Resolve, functions.ResolveRequest{Account: caller.Account, FunctionID: function, VersionID: version})
	if err != nil && !problem.HasCode(err, problem.NotFound) {
		return access.Explanation{}, err
	}
	own := err == nil && found.Owner == caller.Account
	public := at.invocation && slices.ContainsFunc(found.Targets, func(t functions.Target) bool { return t.Public && (version == "" || t.VersionID == version) })
	shared := err == nil && !own && at.line.row.Takes(access.SF)
	switch {
	case public, (own || shared) && covers(own):
		return passed(at, may), nil
	case own:
		return explained(at, access.ReasonResourceNotCovered, access.NotCovered(*at.line.row, what)), nil
	}
	missing := problem.New(problem.NotFound, "there is no %s in account %s, or shared with it: Not found", what, caller.Account)
	return absent(at, covers(true), may, missing), nil
}

// absent explains a request for something that is not there for the account. A credential that would hold for it were it
// there is not what is wrong.
func absent(at place, permitted bool, may string, p *problem.Problem) access.Explanation {
	e := explained(at, access.ReasonResourceNotCovered, p)
	if permitted {
		e = explained(at, access.ReasonOK, p)
		e.Detail = may + ", but " + p.Detail
	}
	return e
}

// passed explains a request that is let through.
func passed(at place, detail string) access.Explanation {
	e := explained(at, access.ReasonOK, nil)
	e.Detail = detail
	return e
}

// explained states a decision; p is the refusal, or nil.
func explained(at place, reason access.Reason, p *problem.Problem) access.Explanation {
	e := access.Explanation{
		Allowed: reason == access.ReasonOK, Reason: reason, Status: http.StatusOK, Detail: "this credential may do this", RequiredScopes: []access.Scope{}, CompatibleResourceTypes: []string{},
	}
	if p != nil {
		e.Status, e.Detail = p.Status(), p.Detail
	} else if at.line != nil && at.line.status != 0 {
		e.Status = at.line.status
	}
	if at.line != nil && at.line.row != nil && len(at.line.row.Ways) > 0 {
		scopes, types := at.line.row.Asks()
		e.Rule, e.RequiredScopes, e.CompatibleResourceTypes = at.line.row.Name, append(e.RequiredScopes, scopes...), append(e.CompatibleResourceTypes, types...)
	}
	return e
}
