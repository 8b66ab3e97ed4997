package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/subject"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/relay"
)

// call is one invocation on its way through the gateway.
type call struct {
	id       string
	caller   access.Caller
	function string
	target   functions.Target
	window   time.Duration
	// detachable calls (pexec) may answer 202 and go on; direct ones answer 504 instead (invocation §1.9).
	detachable bool
	// compatible calls have container errors rewritten to problem documents (invocation §5.5).
	compatible bool
	// session calls (gRPC) wait for their first byte as long as they like once a worker has them (invocation §2.3).
	session bool
	began   time.Time
	queued  bus.Entry
	inQueue bool
	// release ends the call for the limits of its key.
	release func()
}

// linkWindow is how long a session waits for a worker (invocation §2.4).
const linkWindow = 30 * time.Second

// patience is how long the client is kept waiting: the window, and the grace in which the answer must leave.
func (c *call) patience() time.Duration {
	if c.session {
		return c.window
	}
	return c.window + invocation.Grace
}

// newRequestID is the NVCF-REQID of a call.
func newRequestID() string { return uuid.NewString() }

// invokeDirect serves a host-routed or header-routed request: any method, any path, byte for byte.
func (g *Gateway) invokeDirect(w http.ResponseWriter, r *http.Request, d destination) {
	c, err := g.admit(r, d, true)
	if err != nil {
		g.refuseCall(w, r, c, err)
		return
	}
	defer c.release()
	uri := r.RequestURI
	if !strings.HasPrefix(uri, "/") {
		uri = r.URL.RequestURI() // the absolute form, which is for proxies
	}
	g.carry(w, r, c, r.Method, uri)
}

// Where invocations are decided, as the audit record names the places. The target is set from the call.
var (
	directCall = &station{service: "invocation", route: "/{path...} of a function's host or header", scopes: []access.Scope{access.InvokeFunction}}
	grpcCall   = &station{service: "invocation", method: "GRPC", route: "/{service}/{method} of a function", scopes: []access.Scope{access.InvokeFunction}}
	pexecCall  = &station{
		service: "invocation", method: http.MethodPost, route: "/v2/nvcf/pexec/functions/{functionId}", scopes: []access.Scope{access.InvokeFunction},
		target: "function", parameter: "functionId",
	}
	pexecPoll = &station{service: "invocation", method: http.MethodGet, route: "/v2/nvcf/pexec/status/{requestId}", scopes: []access.Scope{access.InvokeFunction}}
)

func (c *call) station() *station {
	switch {
	case c.session:
		return grpcCall
	case c.detachable:
		return pexecCall
	}
	return directCall
}

// admit decides about a call and chooses the version. The call it returns has an id even when it is refused, and a
// release that must be called when it is over.
func (g *Gateway) admit(r *http.Request, d destination, direct bool) (*call, error) {
	c := &call{id: newRequestID(), function: d.functionID, detachable: !direct, session: direct && isGRPC(r), began: time.Now(), release: noRelease}
	e, err := g.invoker(r)
	if err != nil {
		g.decisions.note(c.station(), whom(nil, err), refusalReason(err), r, c.id)
		return c, err
	}
	if err = g.choose(r, e, c, d, direct); err != nil {
		c.release()
		c.release = noRelease
	}
	g.decisions.note(c.station(), e, reasonOf(err), r, c.id)
	return c, err
}

// choose applies the row, the limits of the key and the resources of the caller, in this order.
func (g *Gateway) choose(r *http.Request, e *entry, c *call, d destination, direct bool) (err error) {
	var p *problem.Problem
	if c.caller, p = g.auth.cache.invoker(e); p != nil {
		return p
	}
	if c.release, p = e.admit(r, c.began); p != nil {
		return p
	}
	if !direct {
		if p := pathUUIDs(r); p != nil {
			return p
		}
	}
	window, p := pollWindow(r.Header, direct)
	if p != nil {
		return p
	}
	if c.window = window; c.session {
		c.window = linkWindow
	}
	c.target, err = g.versions.route(r.Context(), c.caller, d.functionID, d.versionID)
	return err
}

// carry takes the request to an instance and its answer back.
func (g *Gateway) carry(w http.ResponseWriter, r *http.Request, c *call, method, uri string) {
	status := 0
	g.counters.accepted(c)
	defer func() { g.counters.finished(c, status, time.Since(c.began)) }()
	ctx, cancel := context.WithTimeout(r.Context(), invocation.Longest)
	defer cancel()
	if !g.conn.Connected() {
		// An offer sent now would reach its worker when the server is back, perhaps long after the client gave up.
		status = g.refuseCall(w, r, c, problem.New(problem.Unavailable, "the gateway is reconnecting to NATS; try again in a moment"))
		return
	}
	body := &upload{from: r.Body}
	ex, err := g.relay.Open(g.exchange(r, c, method, uri, body))
	if err != nil {
		status = g.refuseCall(w, r, c, openProblem(err))
		return
	}
	defer ex.Cancel()
	resp, err := g.respond(ctx, ex, c)
	if err != nil {
		ex.Cancel()
		if c.inQueue {
			g.withdraw(c)
		}
		if errors.Is(err, errDetached) {
			status = http.StatusAccepted
			answerInProgress(w, c)
			return
		}
		status = g.refuseCall(w, r, c, g.exchangeProblem(ctx, c, err))
		return
	}
	status = resp.Status
	if r.ProtoMajor == 1 && !body.ended.Load() {
		// The rest of the request must not be taken for the next one.
		w.Header().Set("Connection", "close")
	}
	g.forward(w, r, c, resp)
}

// upload is the body of a request. It knows whether it was read to its end, and marks what goes wrong on the client's
// side.
type upload struct {
	from  io.Reader
	ended atomic.Bool
}

// Read implements [io.Reader].
func (u *upload) Read(p []byte) (int, error) {
	n, err := u.from.Read(p)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		u.ended.Store(true)
	default:
		err = &uploadError{err}
	}
	return n, err
}

// uploadError says that the client's body could not be read.
type uploadError struct{ error }

// Unwrap lets errors.Is see what the HTTP server said.
func (e *uploadError) Unwrap() error { return e.error }

// exchange describes the request for the relay. Headers that containers trust are taken out here; the agent writes the
// real ones from the attributes.
func (g *Gateway) exchange(r *http.Request, c *call, method, uri string, body *upload) *relay.Request {
	h := r.Header
	upgrade := isUpgrade(r)
	scrub(h)
	if c.compatible && h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	req := &relay.Request{
		ID: c.id, Method: method, URI: uri, Header: h, Body: body, ContentLength: r.ContentLength, Trailer: r.Trailer,
		Upgrade: upgrade, Deadline: c.began.Add(c.window + invocation.Grace),
		Attributes: []relay.Attribute{
			{Name: invocation.HeaderContainerFunction, Value: c.function},
			{Name: invocation.HeaderContainerVersion, Value: c.target.VersionID},
			{Name: invocation.HeaderFunctionName, Value: c.target.Name},
			{Name: invocation.HeaderSubject, Value: c.caller.Subject},
			{Name: invocation.HeaderAccount, Value: c.caller.Account},
			{Name: invocation.HeaderRegion, Value: g.cfg.Region},
			{Name: invocation.HeaderPollSeconds, Value: strconv.Itoa(int(c.window / time.Second))},
		},
	}
	if r.ContentLength == 0 {
		req.Body = nil
		body.ended.Store(true)
	}
	return req
}

// isUpgrade reports whether the client asks for a raw connection, such as a WebSocket. An offer to speak HTTP/2 is none.
func isUpgrade(r *http.Request) bool {
	asked := r.Header.Get("Upgrade")
	return r.ProtoMajor == 1 && r.ContentLength == 0 && asked != "" && !strings.EqualFold(asked, "h2c")
}

// scrub removes the credential and every header that only the platform may write.
func scrub(h http.Header) {
	for k := range h {
		if k == "Authorization" || len(k) > 5 && k[:5] == "Nvcf-" {
			delete(h, k)
		}
	}
}

var (
	// errDetached ends a call that goes on without its client.
	errDetached = errors.New("detached")
	// errWindow says that the response did not begin in time.
	errWindow = errors.New("no response within the poll window")
)

// respond finds a worker for the exchange and waits for the response head while the client's patience lasts.
func (g *Gateway) respond(ctx context.Context, ex *relay.Exchange, c *call) (*relay.Response, error) {
	waiting, cancel := context.WithDeadlineCause(ctx, c.began.Add(c.patience()), errWindow)
	defer cancel()
	if err := g.place(waiting, ex, c); err != nil {
		return nil, err
	}
	switch {
	case c.session:
	case c.detachable:
		// The client hears 202 when its window ends, not after the grace.
		window, cancel := context.WithDeadlineCause(ctx, c.began.Add(c.window), errWindow)
		defer cancel()
		if err := ex.Wait(window); errors.Is(err, errWindow) {
			return g.detach(ctx, ex, c)
		}
	default:
		if err := ex.Wait(waiting); err != nil {
			return nil, err
		}
	}
	return ex.Response(ctx)
}

// place offers the exchange, directly first and by the queue when nobody is free, until a worker has it.
func (g *Gateway) place(ctx context.Context, ex *relay.Exchange, c *call) error {
	err := ex.Offer(ctx, subject.Direct(c.target.VersionID))
	if !errors.Is(err, relay.ErrBusy) && !errors.Is(err, relay.ErrNoResponders) {
		return err
	}
	if errors.Is(err, relay.ErrNoResponders) {
		g.waker.wake(c.target.VersionID)
	}
	if err := g.enqueue(ctx, ex, c); err != nil {
		return err
	}
	again := time.NewTicker(wakeEvery)
	defer again.Stop()
	for {
		select {
		case <-ex.Accepted():
			return nil
		case <-again.C:
			if err := g.abandoned(ctx, ex, c); err != nil {
				return err
			}
			g.waker.wake(c.target.VersionID)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// abandoned reports that a queued call waits in vain: its version was undeployed meanwhile, and no instance is left that
// finishes the queue.
func (g *Gateway) abandoned(ctx context.Context, ex *relay.Exchange, c *call) error {
	_, gone := g.versions.route(ctx, c.caller, c.function, c.target.VersionID)
	if !problem.HasCode(gone, problem.NotFound) {
		return nil
	}
	err := ex.Offer(ctx, subject.Direct(c.target.VersionID))
	switch {
	case errors.Is(err, relay.ErrNoResponders):
		return gone
	case errors.Is(err, relay.ErrPeerLost):
		return err
	}
	return nil
}

// detach lets a call go on without its client, which hears 202. The record is durable before that, and before the
// worker is told to wait for the next poll.
func (g *Gateway) detach(ctx context.Context, ex *relay.Exchange, c *call) (*relay.Response, error) {
	worker := ex.Worker()
	if worker == "" {
		return ex.Response(ctx) // the answer came complete in one message
	}
	if err := g.remember(ctx, c, worker); err != nil {
		return nil, err
	}
	err := letGo(ctx, ex, c)
	if err == nil {
		return nil, errDetached
	}
	status := http.StatusGatewayTimeout
	var resp *relay.Response
	if errors.Is(err, relay.ErrTooLate) {
		if resp, err = ex.Response(ctx); err == nil {
			status = resp.Status
		}
	}
	g.finish(ctx, c.id, status)
	return resp, err
}

// letGo detaches as soon as the worker has the whole request: a client that still sends it reads no answer yet.
func letGo(ctx context.Context, ex *relay.Exchange, c *call) error {
	for {
		err := ex.Detach(ctx, max(2*c.window, minPatience))
		if !errors.Is(err, relay.ErrNotReady) {
			return err
		}
		second, cancel := context.WithTimeoutCause(ctx, time.Second, errWindow)
		err = ex.Wait(second)
		cancel()
		if err == nil {
			return relay.ErrTooLate
		}
		if !errors.Is(err, errWindow) {
			return err
		}
	}
}

// minPatience is how long a worker keeps a response for the next poll at least (invocation §1.10).
const minPatience = 10 * time.Second

func (g *Gateway) remember(ctx context.Context, c *call, worker string) error {
	_, err := bus.Call(ctx, g.conn, invocation.Detach, invocation.DetachRequest{
		RequestID: c.id, Account: c.caller.Account, Subject: c.caller.Subject, FunctionID: c.function,
		VersionID: c.target.VersionID, Worker: worker, At: time.Now().UTC(),
	})
	return err
}

// queuePatience is how long the queue may take to store an offer.
const queuePatience = 5 * time.Second

// enqueue puts the offer into the version's queue, which is made when it does not exist yet.
func (g *Gateway) enqueue(ctx context.Context, ex *relay.Exchange, c *call) error {
	ctx, cancel := context.WithTimeout(ctx, queuePatience)
	defer cancel()
	entry, err := g.conn.Enqueue(ctx, c.target.VersionID, c.id, ex.Payload())
	if errors.Is(err, bus.ErrNoQueue) {
		if _, err = bus.Call(ctx, g.conn, invocation.EnsureQueue, invocation.QueueRequest{VersionID: c.target.VersionID}); err == nil {
			entry, err = g.conn.Enqueue(ctx, c.target.VersionID, c.id, ex.Payload())
		}
	}
	if _, known := problem.From(err); err != nil && !known && !errors.Is(ctx.Err(), context.Canceled) {
		g.log.Error("request not queued", zap.String("request", c.id), zap.String("version", c.target.VersionID), zap.Error(err))
		return problem.New(problem.Unavailable, "no instance is free and the request could not be queued; try again")
	}
	if err != nil {
		return err
	}
	c.queued, c.inQueue = entry, true
	return nil
}

// withdraw removes what is left of the call in the queue; it runs after the client may have left, so it has its own
// short time.
func (g *Gateway) withdraw(c *call) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := g.conn.Withdraw(ctx, c.queued); err != nil {
		g.log.Debug("queue entry not withdrawn", zap.String("request", c.id), zap.Error(err))
	}
}

// forward writes the container's answer.
func (g *Gateway) forward(w http.ResponseWriter, r *http.Request, c *call, resp *relay.Response) {
	if c.compatible && resp.Status >= http.StatusBadRequest {
		writeContainerProblem(w, r, c, resp)
		return
	}
	stamp(w.Header(), c.id, resp.Status)
	for _, k := range []string{"Access-Control-Expose-Headers", "Vary"} {
		w.Header()[k] = append(w.Header()[k], resp.Header[k]...)
	}
	if err := relay.Forward(w, resp); err != nil && r.Context().Err() == nil {
		g.log.Debug("response broke off", zap.String("request", c.id), zap.Error(err))
		// The head is out; only a broken connection tells the client that the body is not whole.
		panic(http.ErrAbortHandler) //nolint:forbidigo // the one way to tell net/http so
	}
}

// stamp sets the headers that only the gateway writes; set first, they win over the container's.
func stamp(h http.Header, id string, status int) {
	h["Nvcf-Reqid"] = []string{id}
	h["Nvcf-Status"] = []string{statusWord(status)}
	h["Access-Control-Expose-Headers"] = []string{"nvcf-reqid"}
}

func statusWord(status int) string {
	switch {
	case status == http.StatusAccepted:
		return invocation.InProgress
	case status >= 200 && status < 400, status == http.StatusSwitchingProtocols:
		return invocation.Fulfilled
	}
	return invocation.Errored
}

func answerInProgress(w http.ResponseWriter, c *call) {
	stamp(w.Header(), c.id, http.StatusAccepted)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
}

// refuseCall answers an invocation with a problem and returns its status.
func (g *Gateway) refuseCall(w http.ResponseWriter, r *http.Request, c *call, err error) int {
	p, expected := problem.From(err)
	if !expected && r.Context().Err() != nil {
		return statusClientLeft
	}
	stamp(w.Header(), c.id, p.Status())
	g.refuse(w, r, c.id, err)
	return p.Status()
}

func openProblem(err error) error {
	var unread *uploadError
	switch {
	case errors.Is(err, relay.ErrTooLarge):
		return problem.New(problem.HeadersTooLarge, "the request head is too large")
	case errors.Is(err, relay.ErrClosed):
		return problem.New(problem.Unavailable, "the gateway is stopping; try again")
	case errors.As(err, &unread), errors.Is(err, io.ErrUnexpectedEOF):
		return problem.New(problem.BadRequest, "failed to read request body: it is broken or ended early")
	}
	return err
}

// exchangeProblem says in the client's words why no response came.
func (g *Gateway) exchangeProblem(ctx context.Context, c *call, err error) error {
	var failed *relay.Error
	var unread *uploadError
	switch {
	case errors.Is(err, relay.ErrPeerLost), errors.Is(err, relay.ErrClosed):
		return problem.New(problem.GatewayTimeout, "the instance that had the request was lost; whether it was executed is unknown")
	case errors.As(err, &failed):
		if c.detachable {
			return inferenceConnection(failed)
		}
		return problem.New(problem.Upstream, "the function's container did not answer: %s", failed.Message)
	case errors.Is(err, errWindow):
		if c.inQueue {
			return problem.New(problem.GatewayTimeout, "no instance took the request within %s; send a larger %s, or raise the instances of the function", c.window, invocation.HeaderPollSeconds)
		}
		return problem.New(problem.GatewayTimeout, "the function did not begin to answer within %s; send a larger %s", c.window, invocation.HeaderPollSeconds)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return problem.New(problem.Timeout, "the request took longer than %s", invocation.Longest)
	case errors.As(err, &unread):
		return problem.New(problem.BadRequest, "failed to read request body: it is broken or ended early")
	case errors.Is(err, relay.ErrSuperseded):
		return problem.New(problem.Conflict, "another request polls for the same answer")
	}
	return err
}

func inferenceConnection(failed *relay.Error) error {
	return problem.New(problem.Internal, "Inference connection error while making inference request: %s", strings.TrimSpace(failed.Message))
}
