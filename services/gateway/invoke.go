package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
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
	queued     bus.Entry
	inQueue    bool
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
	g.carry(w, r, c, r.Method, r.RequestURI)
}

// admit authenticates the caller, chooses the version and reads the window. The call it returns has an id even when
// it is refused.
func (g *Gateway) admit(r *http.Request, d destination, direct bool) (*call, error) {
	c := &call{id: newRequestID(), function: d.functionID, detachable: !direct}
	e, err := g.auth.authenticate(r.Context(), r.Header)
	if err != nil {
		return c, err
	}
	if e.refusal != nil {
		return c, e.refusal
	}
	c.caller = e.invoker
	window, p := pollWindow(r.Header, direct)
	if p != nil {
		return c, p
	}
	c.window = window
	c.target, err = g.versions.route(r.Context(), c.caller, d.functionID, d.versionID)
	return c, err
}

// carry takes the request to an instance and its answer back.
func (g *Gateway) carry(w http.ResponseWriter, r *http.Request, c *call, method, uri string) {
	began := time.Now()
	status := 0
	g.counters.accepted(c)
	defer func() { g.counters.finished(c, status, time.Since(began)) }()
	ctx, cancel := context.WithTimeout(r.Context(), invocation.Longest)
	defer cancel()
	ex, err := g.relay.Open(g.exchange(r, c, method, uri, began))
	if err != nil {
		status = g.refuseCall(w, r, c, openProblem(err))
		return
	}
	defer ex.Cancel()
	resp, err := g.respond(ctx, ex, c)
	if err != nil {
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
	g.forward(w, r, c, resp)
}

// exchange describes the request for the relay. Headers that containers trust are taken out here; the agent writes the
// real ones from the attributes.
func (g *Gateway) exchange(r *http.Request, c *call, method, uri string, began time.Time) *relay.Request {
	h := r.Header
	upgrade := h.Get("Upgrade") != "" && r.ProtoMajor == 1
	scrub(h)
	if c.compatible && h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	req := &relay.Request{
		ID: c.id, Method: method, URI: uri, Header: h, Body: r.Body, ContentLength: r.ContentLength, Trailer: r.Trailer,
		Upgrade: upgrade, Deadline: began.Add(c.window + invocation.Grace),
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
	if upgrade {
		req.Body, req.ContentLength = nil, 0
	}
	return req
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

// respond offers the exchange, directly first and by the queue when nobody is free, and waits for the response head
// until the window closes.
func (g *Gateway) respond(ctx context.Context, ex *relay.Exchange, c *call) (*relay.Response, error) {
	window, cancel := context.WithTimeoutCause(ctx, c.window+invocation.Grace, errWindow)
	if c.detachable {
		// The client of a detachable call hears 202 at the end of its window, within the grace.
		cancel()
		window, cancel = context.WithTimeoutCause(ctx, c.window, errWindow)
	}
	defer cancel()
	err := ex.Offer(window, subject.Direct(c.target.VersionID))
	if errors.Is(err, relay.ErrBusy) || errors.Is(err, relay.ErrNoResponders) {
		if errors.Is(err, relay.ErrNoResponders) {
			g.waker.wake(c.target.VersionID)
		}
		err = g.enqueue(window, ex, c)
	}
	if err == nil {
		err = g.await(window, ex, c)
	}
	switch {
	case err == nil:
		return ex.Response(ctx)
	case ctx.Err() == nil && errors.Is(err, errWindow):
		return g.windowClosed(ctx, ex, c)
	}
	return nil, err
}

// await waits for the head until the window closes. A queued exchange first needs a worker, so it keeps asking for one.
func (g *Gateway) await(window context.Context, ex *relay.Exchange, c *call) error {
	if c.inQueue {
		if err := g.awaitWorker(window, ex, c); err != nil {
			return err
		}
	}
	return ex.Wait(window)
}

func (g *Gateway) awaitWorker(window context.Context, ex *relay.Exchange, c *call) error {
	again := time.NewTicker(wakeEvery)
	defer again.Stop()
	for {
		select {
		case <-ex.Accepted():
			return nil
		case <-again.C:
			g.waker.wake(c.target.VersionID)
		case <-window.Done():
			return context.Cause(window)
		}
	}
}

// windowClosed ends the wait: a detachable call that a worker has goes on alone, anything else is over.
func (g *Gateway) windowClosed(ctx context.Context, ex *relay.Exchange, c *call) (*relay.Response, error) {
	if !c.detachable {
		return nil, errWindow
	}
	worker := ex.Worker()
	if worker == "" {
		return nil, errWindow
	}
	// The record is durable before the client is told to come back, and before the worker is told to wait for it.
	err := g.remember(ctx, c, worker)
	if err != nil {
		return nil, err
	}
	err = ex.Detach(ctx, max(2*c.window, minPatience))
	switch {
	case err == nil:
		return nil, errDetached
	case errors.Is(err, relay.ErrTooLate):
		resp, err := ex.Response(ctx)
		if err == nil {
			g.finish(ctx, c.id, resp.Status)
		}
		return resp, err
	}
	return nil, err
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

// enqueue puts the offer into the version's queue, which is made when it does not exist yet.
func (g *Gateway) enqueue(ctx context.Context, ex *relay.Exchange, c *call) error {
	entry, err := g.conn.Enqueue(ctx, c.target.VersionID, c.id, ex.Payload())
	if errors.Is(err, bus.ErrNoQueue) {
		if _, err = bus.Call(ctx, g.conn, invocation.EnsureQueue, invocation.QueueRequest{VersionID: c.target.VersionID}); err == nil {
			entry, err = g.conn.Enqueue(ctx, c.target.VersionID, c.id, ex.Payload())
		}
	}
	if err == nil {
		c.queued, c.inQueue = entry, true
	}
	return err
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
	for _, v := range resp.Header["Access-Control-Expose-Headers"] {
		w.Header().Add("Access-Control-Expose-Headers", v)
	}
	if err := relay.Forward(w, resp); err != nil && r.Context().Err() == nil {
		g.log.Debug("response broke off", zap.String("request", c.id), zap.Error(err))
		// The head is out; only a broken connection tells the client that the body is not whole.
		panic(http.ErrAbortHandler)
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
		return 499
	}
	stamp(w.Header(), c.id, p.Status())
	g.refuse(w, r, c.id, err)
	return p.Status()
}

func openProblem(err error) error {
	if errors.Is(err, relay.ErrTooLarge) {
		return problem.New(problem.HeadersTooLarge, "the request head is too large")
	}
	if errors.Is(err, relay.ErrClosed) {
		return problem.New(problem.Unavailable, "the gateway is stopping; try again")
	}
	return problem.New(problem.BadRequest, "failed to read request body: %v", err)
}

// exchangeProblem says in the client's words why no response came.
func (g *Gateway) exchangeProblem(ctx context.Context, c *call, err error) error {
	var failed *relay.Error
	switch {
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
	case errors.Is(err, relay.ErrPeerLost), errors.Is(err, relay.ErrClosed):
		return problem.New(problem.GatewayTimeout, "the instance that had the request was lost; whether it was executed is unknown")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return problem.New(problem.BadRequest, "failed to read request body: it ended early")
	}
	return err
}

func inferenceConnection(failed *relay.Error) error {
	return problem.New(problem.Internal, "Inference connection error while making inference request: %s", strings.TrimSpace(failed.Message))
}
