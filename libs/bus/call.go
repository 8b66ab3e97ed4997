package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Headers that travel with every request.
const (
	headerCaller   = "Sirocco-Caller"
	headerDeadline = "Sirocco-Deadline"
	headerTrace    = "traceparent"
)

// Call sends one request and waits for its answer. Every error is a problem: what the service answered, unavailable
// when nobody serves the endpoint (at once, not after a time-out), gateway_timeout when the answer is late.
func Call[Req, Resp any](ctx context.Context, c *Conn, e rpc.Endpoint[Req, Resp], req Req) (Resp, error) {
	var resp Resp
	if _, ok := ctx.Deadline(); !ok {
		timeout := e.Timeout
		if timeout == 0 {
			timeout = rpc.DefaultTimeout
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	body, err := json.Marshal(req)
	if err != nil {
		return resp, fmt.Errorf("%s: encode request: %w", e.Subject(), err)
	}
	if len(body) > MaxPayload-(64<<10) {
		return resp, problem.New(problem.TooLarge, "the request is larger than %d bytes", MaxPayload-(64<<10))
	}
	if !c.reached(ctx) {
		return resp, problem.New(problem.Unavailable, "the %s service cannot be reached, because NATS cannot; try again", e.Service)
	}
	msg := &nats.Msg{Subject: e.Subject(), Data: body, Header: outgoing(ctx)}
	answer, err := c.nc.RequestMsgWithContext(ctx, msg)
	switch {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed):
		return resp, problem.New(problem.Unavailable, "the %s service does not answer; try again", e.Service)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return resp, problem.New(problem.GatewayTimeout, "the %s service did not answer in time", e.Service)
	case err != nil:
		return resp, fmt.Errorf("%s: %w", e.Subject(), err)
	}
	if answer.Header.Get(micro.ErrorCodeHeader) != "" {
		p, err := problem.Parse(answer.Data)
		if err != nil {
			return resp, fmt.Errorf("%s: decode problem: %w", e.Subject(), err)
		}
		return resp, p
	}
	if text, ok := any(&resp).(*rpc.Rendered); ok {
		*text = answer.Data
		return resp, nil
	}
	if err := json.Unmarshal(answer.Data, &resp); err != nil {
		return resp, fmt.Errorf("%s: decode answer: %w", e.Subject(), err)
	}
	return resp, nil
}

// A call waits this long for a connection that is being made again. One that stays away is told, and nothing was sent.
const (
	reconnectPatience = 2 * time.Second
	reconnectLook     = 20 * time.Millisecond
)

// reached waits for the connection, for a moment.
func (c *Conn) reached(ctx context.Context) bool {
	for end := time.Now().Add(reconnectPatience); !c.nc.IsConnected(); pause(ctx, reconnectLook) {
		if ctx.Err() != nil || c.nc.IsClosed() || time.Now().After(end) {
			return false
		}
	}
	return true
}

func outgoing(ctx context.Context) nats.Header {
	h := nats.Header{}
	if caller := access.CallerFrom(ctx); caller.Kind != "" {
		if b, err := json.Marshal(caller); err == nil {
			h[headerCaller] = []string{string(b)}
		}
	}
	if d, ok := ctx.Deadline(); ok {
		h[headerDeadline] = []string{strconv.FormatInt(d.UnixMilli(), 10)}
	}
	if tp := TraceParent(ctx); tp != "" {
		h[headerTrace] = []string{tp}
	}
	return h
}

// incoming is the inverse of outgoing: the context a handler runs in.
func incoming(ctx context.Context, h micro.Headers, longest time.Duration) (context.Context, context.CancelFunc) {
	if v := h.Get(headerCaller); v != "" {
		var caller access.Caller
		if json.Unmarshal([]byte(v), &caller) == nil {
			ctx = access.WithCaller(ctx, caller)
		}
	}
	if tp := h.Get(headerTrace); tp != "" {
		ctx = WithTraceParent(ctx, tp)
	}
	deadline := time.Now().Add(longest)
	if ms, err := strconv.ParseInt(h.Get(headerDeadline), 10, 64); err == nil {
		if d := time.UnixMilli(ms); d.Before(deadline) {
			deadline = d
		}
	}
	return context.WithDeadline(ctx, deadline)
}

type traceKey struct{}

// WithTraceParent puts a W3C traceparent into the context; it follows every message sent from there.
func WithTraceParent(ctx context.Context, tp string) context.Context {
	return context.WithValue(ctx, traceKey{}, tp)
}

// TraceParent is the W3C traceparent of the context, or empty.
func TraceParent(ctx context.Context) string {
	tp, _ := ctx.Value(traceKey{}).(string)
	return tp
}

// Serves reports whether some replica of a service answers on the bus.
func (c *Conn) Serves(ctx context.Context, service string) bool {
	subj, err := micro.ControlSubject(micro.PingVerb, service, "")
	if err != nil {
		return false
	}
	_, err = c.nc.RequestWithContext(ctx, subj, nil)
	return err == nil
}
