package gateway

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"path"
	"reflect"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// maxManagementBody is the largest management body (functions-deployments §1.1) and maxKeysBody that of the keys API
// (keys §2 rule 4), in bytes.
const (
	maxManagementBody = 6 << 20
	maxKeysBody       = 4 << 10
)

// bodyPatience is how long a management request may take to arrive, longestAnswer how long its answer may take to be
// made and to leave.
const (
	bodyPatience  = 30 * time.Second
	longestAnswer = 2 * time.Minute
)

// route is one line of the table in routes.go.
type route struct {
	method, path string
	// row is what the credential must be allowed to do; nil needs no credential.
	row *access.Row
	// endpoint answers on the bus.
	endpoint rpc.Description
	// status of success; 204 sends no body.
	status int
	// maxBody in bytes; 0 means maxManagementBody.
	maxBody int64
	// mirror marks a twin under /accounts/{ncaId}, and account names the parameter of any path that names an account.
	mirror  bool
	account string
	entrance
	serve func(g *Gateway, w http.ResponseWriter, r *http.Request, caller access.Caller) error
}

// to makes a route whose request and answer are those of an endpoint.
func to[Req, Resp any](method, path string, row *access.Row, status int, e rpc.Endpoint[Req, Resp]) route {
	bind := bindingOf(reflect.TypeFor[Req]())
	rt := route{method: method, path: path, row: row, endpoint: e.Describe(), status: status, maxBody: maxManagementBody}
	if f := rt.face(); f == keysFace || f == consoleFace {
		rt.maxBody = maxKeysBody
	}
	tell := headersOf(reflect.TypeFor[Resp]())
	rt.serve = func(g *Gateway, w http.ResponseWriter, r *http.Request, caller access.Caller) error {
		var req Req
		ctx, err := g.receive(w, r, caller, bind, rt.maxBody, &req)
		if err != nil {
			return err
		}
		resp, err := bus.Call(ctx, g.conn, e, req)
		if err != nil {
			return err
		}
		tell.move(&resp, w.Header())
		return writeJSON(w, caller.RequestID, status, resp)
	}
	return rt
}

// receive reads a request into the fields of req, and returns the context in which the services act for its caller.
func (g *Gateway) receive(w http.ResponseWriter, r *http.Request, caller access.Caller, bind binding, maxBody int64, req any) (context.Context, error) {
	if p := pathUUIDs(r); p != nil {
		return nil, p
	}
	// Read and write deadlines are for a client that stops in the middle; the HTTP server resets them afterwards.
	deadline := http.NewResponseController(w)
	_ = deadline.SetWriteDeadline(time.Now().Add(bodyPatience + longestAnswer))
	_ = deadline.SetReadDeadline(time.Now().Add(bodyPatience))
	if err := bind.fill(r, maxBody, req); err != nil {
		return nil, err
	}
	_ = deadline.SetReadDeadline(time.Time{})
	ctx := access.WithCaller(r.Context(), caller)
	if tp := r.Header.Get("Traceparent"); tp != "" {
		ctx = bus.WithTraceParent(ctx, tp)
	}
	if caller.CrossAccount {
		if err := g.accounts.require(ctx, caller.Account); err != nil {
			return nil, err
		}
	}
	return ctx, nil
}

// prepared is a line with what follows from its path and from the settings.
func (g *Gateway) prepared(line route) *route {
	line.account = accountIn(line.path)
	line.row, line.entrance = g.entranceOf(line)
	if line.row != nil {
		row := g.cfg.Compat.Row(*line.row)
		line.row = &row
	}
	return &line
}

// handle serves one line of the table.
func (g *Gateway) handle(line *route) http.HandlerFunc {
	at := line.station()
	audited := !line.open || line.face() == keysFace
	return func(w http.ResponseWriter, r *http.Request) {
		r = withInput(r, line.endpoint.Input)
		id := newRequestID()
		if p := line.face().tooLarge(r.Header); p != nil {
			g.refuse(w, r, id, p)
			return
		}
		caller, e, err := g.enter(r, line)
		reason := refusalReason(err)
		if err == nil {
			caller.RequestID, caller.Address, caller.Origin = id, remoteHost(r), origin(r)
			caller.Alias = strings.HasPrefix(askedPath(r), "/v2/orgs/")
			err = g.metered(r, line, e, func() error { return line.serve(g, w, r, caller) })
			reason = reasonOf(err)
		}
		if audited {
			g.decisions.note(at, whom(e, err), reason, r, id)
		}
		if err != nil {
			g.refuse(w, r, id, err)
		}
	}
}

// metered serves a request within the limits of its key.
func (g *Gateway) metered(r *http.Request, line *route, e *entry, serve func() error) error {
	if e == nil || line.open {
		return serve()
	}
	release, p := e.admit(r, g.clock.Now())
	if p != nil {
		return p
	}
	defer release()
	return serve()
}

// station is the line as the audit record names it.
func (line *route) station() *station {
	at := &station{service: line.endpoint.Owner, method: line.method, route: line.path}
	if line.row != nil && len(line.row.Ways) > 0 {
		at.scopes = line.row.Ways[len(line.row.Ways)-1].Scopes
	}
	for _, p := range []struct{ parameter, target string }{
		{"versionId", "version"}, {"functionId", "function"}, {"taskId", "task"}, {"clusterId", "cluster"}, {"deploymentId", "deployment"}, {"id", "key"},
	} {
		if strings.Contains(line.path, "{"+p.parameter+"}") {
			at.target, at.parameter = p.target, p.parameter
			break
		}
	}
	return at
}

// enter decides who may use a route (keys §3 and §7.3, steps 1 to 5). The entry is nil when nobody was recognised.
func (g *Gateway) enter(r *http.Request, line *route) (access.Caller, *entry, error) {
	recognise := g.auth.authenticate
	if line.face() == consoleFace {
		recognise = g.auth.identify
	}
	e, err := recognise(r.Context(), r.Header)
	caller, err := g.judge(r, line, e, err)
	return caller, e, err
}

// judge decides who may use a route, by what authentication brought.
func (g *Gateway) judge(r *http.Request, line *route, e *entry, err error) (caller access.Caller, _ error) {
	if line.open || line.row == nil {
		caller = actor(e)
	} else if caller, err = decided(line.row, e, err); err != nil {
		if !line.lets(r) {
			if account := r.PathValue(line.account); e != nil && e.credential.Kind == access.Key && line.account != "" && account != e.credential.Account {
				return caller, line.foreignAccount(account) // comes before scopes (keys §7.3)
			}
			return caller, line.face().refusal(err)
		}
		caller = actor(e)
	}
	if line.owned && e != nil {
		if p := ofOwner(r, e); p != nil {
			return caller, p
		}
	}
	if line.account != "" && !line.open {
		var p *problem.Problem
		if caller, p = ofAccount(line, r, caller); p != nil {
			return caller, p
		}
	}
	return caller, g.ofOrganisation(r, caller)
}

// decided applies a row of the matrix to what authentication brought.
func decided(row *access.Row, e *entry, err error) (access.Caller, error) {
	if err != nil {
		return access.Caller{}, err
	}
	caller, p := access.Decide(*row, e.credential)
	if p != nil {
		return access.Caller{}, p
	}
	return caller, nil
}

// actor names who asks where no credential is needed: a valid one is recorded, anything else counts as nobody (keys §3).
func actor(e *entry) access.Caller {
	if e == nil {
		return nobody()
	}
	c := &e.credential
	return access.Caller{Kind: c.Kind, Account: c.Account, ID: c.ID, Subject: c.Subject, Scopes: c.Scopes}
}

type organisationKey struct{}

// ofOrganisation refuses a path whose organisation is mapped to another account than the credential's
// (functions-deployments §13). An organisation without a mapping says nothing.
func (g *Gateway) ofOrganisation(r *http.Request, caller access.Caller) error {
	if len(g.orgs) == 0 {
		return nil
	}
	org := r.PathValue("org")
	if aliased, ok := r.Context().Value(organisationKey{}).(string); ok {
		org = aliased
	}
	if account, mapped := g.orgs[org]; mapped && account != caller.Account {
		return problem.New(problem.AccountMismatch, "this credential does not belong to organisation '%s'", org)
	}
	return nil
}

// nobody is the caller of an open route without a good credential.
func nobody() access.Caller {
	return access.Caller{Kind: "anonymous", Account: access.DefaultAccount, Subject: "anonymous"}
}

func writeJSON(w http.ResponseWriter, requestID string, status int, body any) error {
	h := w.Header()
	h.Set(invocation.HeaderRequestID, requestID)
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return nil
	}
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	_, _ = w.Write(b)
	return nil
}

// router finds the route of a management request.
type router struct {
	g   *Gateway
	mux *http.ServeMux
	// lines are the table, by pattern of the mux.
	lines map[string]*route
}

func newRouter(g *Gateway) *router {
	rt := &router{g: g, mux: http.NewServeMux(), lines: map[string]*route{}}
	for _, line := range withMirrors(routes()) {
		pattern := line.method + " " + muxPattern(line.path)
		rt.lines[pattern] = g.prepared(line)
		rt.mux.HandleFunc(pattern, g.handle(rt.lines[pattern]))
	}
	for pattern, handler := range g.special() {
		rt.mux.HandleFunc(pattern, handler)
	}
	return rt
}

// ServeHTTP is the HTTP port.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := ambiguous(r)
	var d destination
	if p == nil {
		d, p = classify(r)
	}
	if p != nil {
		writeProblem(w, r, newRequestID(), p)
		return
	}
	if d.functionID != "" {
		g.invokeDirect(w, r, d)
		return
	}
	if canonical, org, aliased := canonicalPath(r.URL.Path); aliased {
		r.URL.Path, r.URL.RawPath = canonical, ""
		r = r.WithContext(context.WithValue(r.Context(), organisationKey{}, org))
	}
	if led := muxPath(r.URL.Path); led != r.URL.Path {
		r.URL.Path, r.URL.RawPath = led, ""
	}
	switch {
	case r.URL.Path == "/health":
		g.serveHealth(w, d)
		return
	case d.invocationHost && strings.HasPrefix(r.URL.Path, "/.well-known/"): // a function may have its own (keys §6.4)
		writeProblem(w, r, newRequestID(), problem.New(problem.RouteNotFound, "no route %s %s: Not found", r.Method, askedPath(r)))
		return
	}
	g.router.serve(w, r)
}

// serve answers unknown paths and methods with problems instead of the mux's own texts.
func (rt *router) serve(w http.ResponseWriter, r *http.Request) {
	if path.Clean(r.URL.Path) != r.URL.Path { // the mux would redirect, which no client of these APIs expects
		writeProblem(w, r, newRequestID(), problem.New(problem.RouteNotFound, "no route %s %s: Not found", r.Method, askedPath(r)))
		return
	}
	handler, pattern := rt.mux.Handler(r)
	if pattern != "" {
		rt.mux.ServeHTTP(w, r)
		return
	}
	probe := &discard{header: http.Header{}}
	handler.ServeHTTP(probe, r)
	if probe.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", probe.header.Get("Allow"))
		writeProblem(w, r, newRequestID(), problem.New(problem.MethodNotAllowed, "%s is not allowed here; use %s", r.Method, probe.header.Get("Allow")))
		return
	}
	writeProblem(w, r, newRequestID(), problem.New(problem.RouteNotFound, "no route %s %s: Not found", r.Method, askedPath(r)))
}

// discard learns what the mux would answer.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(status int) {
	if d.status == 0 {
		d.status = status
	}
}

func (g *Gateway) serveHealth(w http.ResponseWriter, d destination) {
	ctx, cancel := context.WithTimeout(context.Background(), healthPatience)
	defer cancel()
	w.Header().Set("Content-Type", "application/json")
	word := "UP"
	if d.invocationHost {
		word = "OK"
	}
	if err := g.conn.Check(ctx); err != nil || g.Check(ctx) != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		word = "DOWN"
	}
	_, _ = w.Write([]byte(`{"status":"` + word + `"}`))
}

// uuids are the path parameters that must be UUIDs.
var uuids = []string{
	"functionId", "versionId", "deploymentId", "gpuSpecificationId", "requestId", "telemetryId", "assetId", "taskId",
	"clusterId", "credentialId", "registryCredentialId",
}

// pathUUIDs refuses a path parameter that must be a UUID and is not, and writes the others in lower case.
func pathUUIDs(r *http.Request) *problem.Problem {
	for _, name := range uuids {
		v := r.PathValue(name)
		switch {
		case v == "":
		case isUUID(v):
			r.SetPathValue(name, strings.ToLower(v))
		default:
			return invalid("path", name, "must be a UUID")
		}
	}
	return nil
}

func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
