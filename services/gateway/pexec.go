package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/relay"
)

// invokePexec serves POST /v2/nvcf/pexec/functions/{functionId}[/versions/{versionId}]: the body goes to the function's
// inference URL, and a call that outlives its window goes on behind a 202.
func (g *Gateway) invokePexec(w http.ResponseWriter, r *http.Request) {
	d := destination{functionID: strings.ToLower(r.PathValue("functionId")), versionID: strings.ToLower(r.PathValue("versionId"))}
	crossOrigin(w, r)
	c, err := g.admit(r, d, false)
	if err != nil {
		g.refuseCall(w, r, c, err)
		return
	}
	defer c.release()
	c.compatible = wantsCompatible(r.Header)
	uri := c.target.InferenceURL
	if !strings.HasPrefix(uri, "/") {
		uri = "/" + uri
	}
	if r.URL.RawQuery != "" {
		uri += "?" + r.URL.RawQuery
	}
	g.carry(w, r, c, http.MethodPost, uri)
}

// wantsCompatible reports whether container errors are to be rewritten (invocation §1.6).
func wantsCompatible(h http.Header) bool {
	return h.Get("Accept") != "text/event-stream" && !strings.EqualFold(h.Get("nvcf-feature-disable-worker-compatibility"), "true")
}

// pollPexec serves GET /v2/nvcf/pexec/status/{requestId}: it attaches to the worker that has the request, wherever the
// first part of the call went through.
func (g *Gateway) pollPexec(w http.ResponseWriter, r *http.Request) {
	id := strings.ToLower(r.PathValue("requestId"))
	c := &call{id: id, detachable: true, release: noRelease}
	crossOrigin(w, r)
	if err := g.poll(w, r, c); err != nil {
		g.refuseCall(w, r, c, err)
	}
}

// admitPoll decides who may have the answer of a request, and finds it.
func (g *Gateway) admitPoll(r *http.Request, c *call) (record invocation.RequestRecord, err error) {
	e, err := g.invoker(r)
	if err == nil {
		var p *problem.Problem
		if c.caller, p = g.auth.cache.invoker(e); p == nil {
			c.release, p = e.admit(r, g.clock.Now())
		}
		if p != nil {
			err = p
		}
	}
	g.decisions.note(pexecPoll, whom(e, err), refusalReason(err), r, newRequestID())
	if err != nil {
		return record, err
	}
	if p := pathUUIDs(r); p != nil {
		return record, p
	}
	window, p := pollWindow(r.Header, false)
	if p != nil {
		return record, p
	}
	c.window = window
	record, err = bus.Call(access.WithCaller(r.Context(), c.caller), g.conn, invocation.Find, invocation.RequestQuery{RequestID: c.id})
	if err != nil {
		return record, err
	}
	if record.Account != c.caller.Account {
		return record, problem.New(problem.NotFound, "Request id '%s': Not found", c.id)
	}
	c.function, c.target = record.FunctionID, functions.Target{VersionID: record.VersionID}
	covered := c.caller.CoversFunction(true, record.FunctionID, record.VersionID) || c.caller.CoversFunction(false, record.FunctionID, record.VersionID)
	if !covered && !g.versions.public(r.Context(), c.caller.Account, record.FunctionID, record.VersionID) {
		return record, access.NotCovered(access.Invoke, "function "+record.FunctionID)
	}
	return record, nil
}

func (g *Gateway) poll(w http.ResponseWriter, r *http.Request, c *call) error {
	record, err := g.admitPoll(r, c)
	defer func() { c.release() }()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), invocation.Longest)
	defer cancel()
	attaching, attached := context.WithTimeout(ctx, attachPatience)
	ex, err := g.relay.Attach(attaching, record.Worker, c.id)
	attached()
	if errors.Is(err, relay.ErrUnknown) || errors.Is(err, relay.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded) {
		return problem.New(problem.GatewayTimeout, "worker did not acknowledge the status request.")
	}
	if err != nil {
		return g.exchangeProblem(ctx, c, err)
	}
	defer ex.Cancel()
	timed, stop := context.WithTimeoutCause(ctx, c.window, errWindow)
	defer stop()
	if err = ex.Wait(timed); timed.Err() != nil && err != nil {
		// The window ended, or the client left: the work goes on for whoever polls next.
		leaving, left := context.WithTimeout(context.WithoutCancel(ctx), attachPatience)
		defer left()
		if err = ex.Detach(leaving, max(2*c.window, minPatience)); err == nil {
			answerInProgress(w, c)
			return nil
		}
	}
	if err != nil && !errors.Is(err, relay.ErrTooLate) {
		return g.exchangeProblem(ctx, c, err)
	}
	resp, err := ex.Response(ctx)
	if err != nil {
		return g.exchangeProblem(ctx, c, err)
	}
	g.finish(ctx, c.id, resp.Status)
	c.compatible = wantsCompatible(r.Header)
	g.forward(w, r, c, resp)
	return nil
}

// attachPatience is how long a worker may take to say that it has the request.
const attachPatience = 5 * time.Second

// finish ends the record before the last answer goes out, so that a second poll finds nothing (invocation §1.10).
func (g *Gateway) finish(ctx context.Context, id string, status int) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if _, err := bus.Call(ctx, g.conn, invocation.Finish, invocation.FinishRequest{RequestID: id, Status: status}); err != nil {
		g.log.Warn("detached request not finished in the record", zap.String("request", id), zap.Error(err))
	}
}

// containerDetail is the most of a container's error body that is looked at.
const containerDetail = 64 << 10

// writeContainerProblem rewrites a container's error for pexec clients (invocation §5.5).
func writeContainerProblem(w http.ResponseWriter, r *http.Request, c *call, resp *relay.Response) {
	defer resp.Body.Close()
	title := http.StatusText(resp.Status)
	if title == "" {
		title = "Status " + strconv.Itoa(resp.Status)
	}
	doc := struct {
		Type      string `json:"type"`
		Title     string `json:"title"`
		Status    int    `json:"status"`
		Detail    string `json:"detail"`
		Instance  string `json:"instance"`
		RequestID string `json:"requestId"`
	}{
		"urn:inference-service:problem-details:" + strings.ReplaceAll(strings.ToLower(title), " ", "-"),
		title, resp.Status, "Inference error", r.URL.Path, c.id,
	}
	if b, err := io.ReadAll(io.LimitReader(resp.Body, containerDetail)); err == nil {
		var body struct {
			Error any `json:"error"`
		}
		if json.Unmarshal(b, &body) == nil {
			switch e := body.Error.(type) {
			case nil:
			case string:
				doc.Detail = e
			default:
				if text, err := json.Marshal(e); err == nil {
					doc.Detail = string(text)
				}
			}
		}
	}
	stamp(w.Header(), c.id, resp.Status)
	w.Header().Set("Content-Type", problem.ContentType)
	w.WriteHeader(resp.Status)
	if b, err := json.Marshal(doc); err == nil {
		_, _ = w.Write(b)
	}
}

// crossOrigin lets browsers call the path API (invocation §1.3); direct calls leave that to the container.
func crossOrigin(w http.ResponseWriter, r *http.Request) {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Add("Vary", "origin, access-control-request-method, access-control-request-headers")
}

// preflight answers OPTIONS on the path API.
func preflight(allow string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		crossOrigin(w, r)
		h := w.Header()
		h.Set("Allow", allow)
		h.Set("Access-Control-Max-Age", "86400")
		h.Set("Access-Control-Allow-Methods", allow)
		if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
			h.Set("Access-Control-Allow-Headers", asked)
		}
		w.WriteHeader(http.StatusOK)
	}
}
