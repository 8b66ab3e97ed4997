package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"syscall"

	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

// transport calls the handler of an instance as a server would, without a socket.
type transport struct {
	driver *Driver
	id     string
}

func (t *transport) CloseIdleConnections() {}

// refused is what dialling a port that nobody listens on gives.
func refused(id string) error {
	return &net.OpError{Op: "dial", Net: "sim", Err: fmt.Errorf("instance %s: %w", id, os.NewSyscallError("connect", syscall.ECONNREFUSED))}
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	fail := func(err error) (*http.Response, error) {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	i, r, _, err := t.driver.find(t.id)
	if err != nil {
		return fail(refused(t.id))
	}
	now := t.driver.clock.Now()
	if r.Knobs.NeverListens || now.Before(r.Handle.StartedAt.Add(r.Knobs.StartDelay)) || !r.status(now).Running {
		return fail(refused(t.id))
	}
	if !knownPort(r.Handle, req) {
		return fail(fmt.Errorf("the instance has no port %s", req.URL.Port()))
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	detach := context.AfterFunc(i.ended, func() { cancel(errReset) })
	served := req.Clone(ctx)
	served.RequestURI = req.URL.RequestURI()
	// A caller that keeps the request target byte for byte has it in URL.Opaque; a server sees it parsed.
	if u, err := url.ParseRequestURI(served.RequestURI); err == nil {
		served.URL = u
	}
	served.RemoteAddr = "127.0.0.1:0"
	if served.Host == "" {
		served.Host = req.URL.Host
	}
	if served.Body == nil {
		served.Body = http.NoBody
	}
	body, writes := io.Pipe()
	w := &writer{header: http.Header{}, pipe: writes, head: make(chan struct{}), proto: req.ProtoMajor}
	// Whoever leaves first, client or instance, ends both directions.
	unpipe := context.AfterFunc(ctx, func() {
		_ = writes.CloseWithError(context.Cause(ctx))
		_ = served.Body.Close()
	})
	go func() {
		err := t.driver.serve(w, served, r)
		unpipe()
		detach()
		cancel(cmp.Or(err, errors.New("the exchange is over")))
		_ = served.Body.Close()
		_ = writes.CloseWithError(err)
	}()
	select {
	case <-w.head:
	case <-ctx.Done():
		// A handler that was quick and a cancelled exchange look alike here.
		select {
		case <-w.head:
		default:
			return nil, context.Cause(ctx)
		}
	}
	resp := w.response(req)
	if req.Method == http.MethodHead {
		cancel(errors.New("HEAD has no body"))
		resp.Body = http.NoBody
		return resp, nil
	}
	resp.Body = &bodyReader{PipeReader: body, cancel: cancel}
	return resp, nil
}

// errReset is what a client sees of an instance that ends in the middle of a call.
var errReset = &net.OpError{Op: "read", Net: "sim", Err: os.NewSyscallError("read", syscall.ECONNRESET)}

func knownPort(h drivers.Handle, req *http.Request) bool {
	port, err := strconv.Atoi(req.URL.Port())
	if err != nil {
		port = 80
	}
	_, ok := h.Ports[port]
	return ok
}

// serve runs the handler and returns what ends the body; a panic is a broken
// connection, as in net/http.
func (d *Driver) serve(w *writer, req *http.Request, r record) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errReset
		}
		if err == nil {
			w.finish()
		}
	}()
	health := r.HealthPath != "" && req.URL.Path == r.HealthPath
	if k := r.Knobs; health || req.URL.Path == "/health" {
		sick := k.Unhealthy || k.UnhealthyAfter >= 0 && !d.clock.Now().Before(r.Handle.StartedAt.Add(k.UnhealthyAfter))
		if sick {
			w.WriteHeader(http.StatusServiceUnavailable)
		} else {
			w.WriteHeader(http.StatusOK)
		}
		return nil
	}
	if r.Knobs.Latency > 0 {
		timer := d.clock.NewTimer(r.Knobs.Latency, "sim", "latency")
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-req.Context().Done():
			return context.Cause(req.Context())
		}
	}
	d.handler.ServeHTTP(w, req)
	return nil
}

// writer is the server's end of one call. Like every ResponseWriter it belongs
// to the goroutine of the handler; the client reads code and sent only after
// head is closed.
type writer struct {
	header http.Header
	pipe   *io.PipeWriter
	proto  int

	once sync.Once
	head chan struct{}
	code int
	sent http.Header
}

func (w *writer) Header() http.Header { return w.header }

func (w *writer) WriteHeader(code int) {
	w.once.Do(func() {
		w.code, w.sent = code, w.header.Clone()
		close(w.head)
	})
}

func (w *writer) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.pipe.Write(p)
}

// finish is the return of the handler: a head that was never sent goes now.
func (w *writer) finish() {
	w.once.Do(func() {
		w.header.Set("Content-Length", "0")
		w.code, w.sent = http.StatusOK, w.header.Clone()
		close(w.head)
	})
}

// FlushError has nothing to do but send the head: the pipe holds no bytes back.
func (w *writer) FlushError() error { w.WriteHeader(http.StatusOK); return nil }

// Flush implements http.Flusher.
func (w *writer) Flush() { _ = w.FlushError() }

// EnableFullDuplex is how it always is.
func (w *writer) EnableFullDuplex() error { return nil }

func (w *writer) response(req *http.Request) *http.Response {
	resp := &http.Response{
		StatusCode: w.code, Status: fmt.Sprintf("%d %s", w.code, http.StatusText(w.code)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, ContentLength: -1, Request: req,
	}
	if w.proto == 2 {
		resp.Proto, resp.ProtoMajor, resp.ProtoMinor = "HTTP/2.0", 2, 0
	}
	if n, err := strconv.ParseInt(w.sent.Get("Content-Length"), 10, 64); err == nil {
		resp.ContentLength = n
	}
	return resp
}

// bodyReader ends the exchange when the client closes it.
type bodyReader struct {
	*io.PipeReader
	cancel context.CancelCauseFunc
}

func (b *bodyReader) Close() error {
	b.cancel(context.Canceled)
	return b.PipeReader.Close()
}
