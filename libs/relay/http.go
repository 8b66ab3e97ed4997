package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// hopByHop reports whether a header speaks of one connection only. Keys are canonical, as net/http makes them.
func hopByHop(key string) bool {
	switch len(key) {
	case 2:
		return key == "Te"
	case 7:
		return key == "Trailer" || key == "Upgrade"
	case 10:
		return key == "Connection" || key == "Keep-Alive"
	case 16:
		return key == "Proxy-Connection"
	case 17:
		return key == "Transfer-Encoding"
	case 18:
		return key == "Proxy-Authenticate"
	case 19:
		return key == "Proxy-Authorization"
	}
	return false
}

// private reports whether key is hop-by-hop, by itself or because h's Connection names it. It is nil-safe and cheap
// for the usual header without Connection.
func private(h http.Header) func(string) bool {
	named := h["Connection"]
	if len(named) == 0 {
		return hopByHop
	}
	return func(key string) bool {
		if hopByHop(key) {
			return true
		}
		for _, line := range named {
			for name := range strings.SplitSeq(line, ",") {
				if strings.EqualFold(strings.TrimSpace(name), key) {
					return true
				}
			}
		}
		return false
	}
}

// linger is how long a client may go on sending a request of which the response is complete.
const linger = 500 * time.Millisecond

// Forward writes a relay response to an HTTP client: each piece as soon as it comes when more is to follow, trailers
// after the body, hop-by-hop headers left out. After a 101 it connects both sides until one ends. Headers that are set
// on w already stay, and win over those of the response.
func Forward(w http.ResponseWriter, resp *Response) error {
	if resp.Status == http.StatusSwitchingProtocols {
		return connect(w, resp)
	}
	if resp.Status < 200 {
		return fmt.Errorf("relay: response status %d is informational", resp.Status)
	}
	ex := resp.ex
	var control *http.ResponseController
	if ex.uploaded != nil {
		control = http.NewResponseController(w)
		_ = control.EnableFullDuplex() // HTTP/2 always is
		defer func() {
			if !ex.complete() {
				// The response is over before the request. Whoever reads the rest for the upload must stop, or the
				// HTTP server would wait for it; but a client whose connection is reset while it still sends would
				// lose the response.
				_ = control.SetReadDeadline(time.Now().Add(linger))
			}
		}()
	}
	h := w.Header()
	drop := private(resp.Header)
	for k, vv := range resp.Header {
		if _, set := h[k]; !set && !drop(k) {
			h[k] = vv
		}
	}
	for k := range resp.Trailer {
		h.Add("Trailer", k)
	}
	announced := len(resp.Trailer)
	w.WriteHeader(resp.Status)
	if err := pump(w, resp.Body); err != nil {
		return err
	}
	for k, vv := range resp.Trailer {
		if len(resp.Trailer) != announced {
			k = http.TrailerPrefix + k
		}
		h[k] = vv
	}
	return nil
}

// pump copies the body, flushing whenever more is to come.
func pump(w http.ResponseWriter, body *Body) error {
	flusher, _ := w.(http.Flusher)
	if flusher != nil && !body.ready() {
		flusher.Flush() // the head does not wait for the body
	}
	for {
		p, more, err := body.next(math.MaxInt)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if flusher != nil {
				flusher.Flush() // what came is the client's, even if the rest never will be
			}
			return err
		}
		if _, err := w.Write(p); err != nil {
			return fmt.Errorf("relay: client: %w", err)
		}
		if !more {
			body.trailers()
			return nil
		}
		if flusher != nil && !body.ready() {
			flusher.Flush()
		}
	}
}

// connect is Forward for an upgraded connection.
func connect(w http.ResponseWriter, resp *Response) error {
	ex := resp.ex
	if ex.tunnel == nil {
		return errors.New("relay: answer 101 to a request that did not ask for it")
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("relay: upgrade: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Time{})
	h := w.Header()
	for k, vv := range resp.Header {
		if _, set := h[k]; !set {
			h[k] = vv
		}
	}
	_, _ = fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(rw)
	_, _ = io.WriteString(rw, "\r\n")
	if err := rw.Flush(); err != nil {
		return fmt.Errorf("relay: client: %w", err)
	}
	// rw may hold bytes that the client sent ahead, so it is read instead of conn. The upload ends with the exchange
	// or with conn; the deferred Close of conn ends a Read that is under way.
	ex.tunnel <- rw.Reader
	_, err = resp.Body.WriteTo(conn)
	return err
}

// Proxy is the body of a [Handler] that calls an HTTP server at host:port. The path and query, the header keys and the
// method go out byte for byte; only hop-by-hop headers are left out. When ctx ends, the connection closes at once.
func Proxy(ctx context.Context, rt http.RoundTripper, target string, w *Writer, r *Request) error {
	out := outgoing(ctx, target, r)
	resp, err := rt.RoundTrip(out)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return &Error{Code: codeUnreachable, Message: err.Error()}
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return splice(ctx, w, r, resp)
	}
	if err := w.writeHead(resp.StatusCode, resp.Header, resp.Trailer, private(resp.Header)); err != nil {
		return err
	}
	if resp.ContentLength != 0 {
		if err := w.CopyFrom(resp.Body, resp.ContentLength); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return &Error{Code: codeBroken, Message: err.Error()}
		}
	}
	w.SetTrailer(resp.Trailer)
	return nil
}

func outgoing(ctx context.Context, target string, r *Request) *http.Request {
	h := r.Header
	drop := private(h)
	if r.Upgrade {
		upgrade := h["Upgrade"]
		remove(h, drop)
		h["Connection"], h["Upgrade"] = []string{"Upgrade"}, upgrade
	} else {
		remove(h, drop)
	}
	if _, set := h["User-Agent"]; !set {
		h["User-Agent"] = []string{""} // none, instead of Go's own
	}
	u := &url.URL{Scheme: "http", Host: target, Opaque: r.URI}
	if strings.HasPrefix(r.URI, "//") || r.URI == "" {
		// net/http would take an opaque "//…" for an authority.
		path, query, found := strings.Cut(r.URI, "?")
		plain, err := url.PathUnescape(path)
		if err != nil {
			plain = path
		}
		u = &url.URL{Scheme: "http", Host: target, Path: plain, RawPath: path, RawQuery: query, ForceQuery: found}
	}
	out := &http.Request{
		Method: r.Method, URL: u, Host: target, Header: h,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: r.ContentLength, Trailer: r.Trailer,
	}
	if ct := h["Content-Type"]; len(ct) > 0 && strings.HasPrefix(ct[0], "application/grpc") {
		// gRPC speaks HTTP/2 only, and its servers insist on this header although it is hop-by-hop.
		out.Proto, out.ProtoMajor, out.ProtoMinor = "HTTP/2.0", 2, 0
		h["Te"] = []string{"trailers"}
	}
	switch body := r.Body.(type) {
	case *bytesBody:
		if len(body.rest) > 0 {
			// A body that net/http knows to be in memory goes out in one write with the head.
			out.Body = io.NopCloser(bytes.NewReader(body.rest))
		}
	case nil:
	default:
		if r.ContentLength != 0 && !r.Upgrade {
			out.Body = io.NopCloser(r.Body)
		}
	}
	return out.WithContext(ctx)
}

func remove(h http.Header, drop func(string) bool) {
	for k := range h {
		if drop(k) {
			delete(h, k)
		}
	}
}

// splice joins an upgraded container connection with the exchange until either side ends.
func splice(ctx context.Context, w *Writer, r *Request, resp *http.Response) error {
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		return &Error{Code: codeBroken, Message: "the container's upgraded connection cannot be written to"}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(conn, r.Body)
		_ = conn.Close()
	}()
	err := w.WriteHead(resp.StatusCode, resp.Header, nil)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = w.CopyFrom(conn, -1)
	}
	_ = conn.Close()
	w.call.stopReading()
	<-done
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && w.sent {
		return nil // a raw connection ends as it ends
	}
	return err
}
