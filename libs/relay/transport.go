package relay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// idleLimit is how long a connection to a container may wait for its next request.
const idleLimit = 90 * time.Second

// Transport is an [http.RoundTripper] for containers on this node. It speaks HTTP/1.1 over plain TCP, on the caller's
// goroutine, and does exactly what it is told: request target, method and header keys go out byte for byte (the target
// is Request.RequestURI when that is set), and nothing is added, followed, decompressed or retried. The end of the
// request's context closes the connection at once. It keeps as many connections as were in use at once.
type Transport struct {
	mu   sync.Mutex
	idle map[string][]*containerConn // by host:port, the last used at the end
}

// NewTransport returns a transport without connections.
func NewTransport() *Transport { return &Transport{idle: make(map[string][]*containerConn)} }

var dialer = net.Dialer{Timeout: 10 * time.Second}

type containerConn struct {
	net.Conn
	br    *bufio.Reader
	host  string
	since time.Time // idle since
}

// CloseIdleConnections closes the connections that wait for a request.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	idle := t.idle
	t.idle = make(map[string][]*containerConn)
	t.mu.Unlock()
	for _, conns := range idle {
		for _, c := range conns {
			_ = c.Close()
		}
	}
}

// CloseIdle closes the connections to one container that wait for a request, as when it stops.
func (t *Transport) CloseIdle(host string) {
	t.mu.Lock()
	conns := t.idle[host]
	delete(t.idle, host)
	t.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

func (t *Transport) get(ctx context.Context, host string) (*containerConn, error) {
	for {
		t.mu.Lock()
		conns := t.idle[host]
		if len(conns) == 0 {
			t.mu.Unlock()
			break
		}
		c := conns[len(conns)-1]
		conns[len(conns)-1] = nil
		t.idle[host] = conns[:len(conns)-1]
		t.mu.Unlock()
		// A server may have closed the connection while it was idle. Seeing it now is what makes retries unnecessary.
		if quiet(c.Conn) {
			return c, nil
		}
		_ = c.Close()
	}
	conn, err := dialer.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, fmt.Errorf("relay: container: %w", err)
	}
	return &containerConn{Conn: conn, br: bufio.NewReaderSize(conn, 8<<10), host: host}, nil
}

func (t *Transport) put(c *containerConn) {
	c.since = time.Now()
	t.mu.Lock()
	conns := t.idle[c.host]
	old := 0
	for old < len(conns) && c.since.Sub(conns[old].since) > idleLimit {
		old++
	}
	expired := conns[:old:old]
	t.idle[c.host] = append(conns[old:], c)
	t.mu.Unlock()
	for _, c := range expired {
		_ = c.Close()
	}
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	head, err := requestHead(req)
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	defer giveBack(head)
	ctx := req.Context()
	c, err := t.get(ctx, req.URL.Host)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	resp, uploaded, err := c.exchange(req, head)
	if err != nil {
		stop()
		_ = c.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("relay: container: %w", err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = &rawBody{c, stop}
		return resp, nil
	}
	body := &containerBody{t: t, c: c, resp: resp, body: resp.Body, uploaded: uploaded, stop: stop}
	if resp.Body == http.NoBody {
		body.release(true)
		return resp, nil
	}
	resp.Body = body
	return resp, nil
}

// exchange writes the request and reads the response head. uploaded is nil when the whole request was written; else it
// is closed when it was.
func (c *containerConn) exchange(req *http.Request, head *[]byte) (resp *http.Response, uploaded chan struct{}, err error) {
	small, inline := req.Body.(*inlineRequest)
	if inline {
		*head = append(*head, small.rest...)
	}
	if _, err := c.Write(*head); err != nil {
		return nil, nil, err
	}
	if req.Body != nil && !inline {
		// Full duplex: the container may answer while the body still comes.
		uploaded = make(chan struct{})
		go c.upload(req, uploaded)
	}
	for {
		resp, err := http.ReadResponse(c.br, req)
		if err != nil {
			return nil, nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, uploaded, nil
		}
	}
}

// upload writes a request body of which the end is not known to be near. It ends with the body, or when the connection
// closes; it closes done only if everything was written.
func (c *containerConn) upload(req *http.Request, done chan struct{}) {
	defer func() { _ = req.Body.Close() }()
	buf := lend()
	defer giveBack(buf)
	const front = 8 // room for the size of a chunk
	if cap(*buf) < front+chunkLimit+2 {
		*buf = make([]byte, 0, chunkLimit+chunkRoom)
	}
	b := (*buf)[:front+chunkLimit+2]
	left := req.ContentLength
	for {
		room := b[front : front+chunkLimit]
		if left >= 0 {
			room = room[:min(left, chunkLimit)]
		}
		n, err := req.Body.Read(room)
		if err != nil && err != io.EOF {
			_ = c.Close() // the container must not take it for complete
			return
		}
		out := b[front : front+n]
		switch {
		case left >= 0:
			left -= int64(n)
		case n > 0:
			size := strconv.FormatInt(int64(n), 16)
			at := front - len(size) - 2
			copy(b[at:], size)
			copy(b[front-2:], "\r\n")
			copy(b[front+n:], "\r\n")
			out = b[at : front+n+2]
		}
		if len(out) > 0 {
			if _, err := c.Write(out); err != nil {
				return
			}
		}
		if left == 0 {
			close(done)
			return
		}
		if err == io.EOF {
			if left > 0 {
				_ = c.Close()
				return
			}
			end, err := appendFields([]byte("0\r\n"), req.Trailer, nil)
			if err == nil {
				_, err = c.Write(append(end, "\r\n"...))
			}
			if err == nil {
				close(done)
			}
			return
		}
	}
}

// inlineRequest is a request body that is written together with the head.
type inlineRequest struct{ bytesBody }

func (*inlineRequest) Close() error { return nil }

// requestHead builds what is written before the body.
func requestHead(req *http.Request) (*[]byte, error) {
	target := req.RequestURI
	if target == "" {
		target = req.URL.RequestURI()
	}
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	if strings.ContainsFunc(req.Method+target+host, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, errors.New("relay: a request line cannot hold this method or target")
	}
	lent := lend()
	b := append(*lent, req.Method...)
	b = append(b, ' ')
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	b = append(b, "\r\n"...)
	b, err := appendFields(b, req.Header, framing)
	if err != nil {
		giveBack(lent)
		return nil, err
	}
	_, stated := req.Header["Content-Length"]
	switch {
	case req.ContentLength > 0 && req.Body != nil:
		b = strconv.AppendInt(append(b, "Content-Length: "...), req.ContentLength, 10)
		b = append(b, "\r\n"...)
	case req.Body != nil && req.ContentLength < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for k := range req.Trailer {
			b = append(append(append(b, "Trailer: "...), k...), "\r\n"...)
		}
	case stated || req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodPatch:
		b = append(b, "Content-Length: 0\r\n"...)
	}
	b = append(b, "\r\n"...)
	*lent = b
	return lent, nil
}

// framing reports whether the transport writes this header itself.
func framing(k string) bool {
	return k == "Host" || k == "Content-Length" || k == "Transfer-Encoding" || k == "Trailer"
}

// appendFields writes header lines with the exact keys of h.
func appendFields(b []byte, h http.Header, skip func(string) bool) ([]byte, error) {
	for k, vv := range h {
		if skip != nil && skip(k) {
			continue
		}
		if k == "" || strings.ContainsAny(k, " \r\n\t:") {
			return nil, fmt.Errorf("relay: %q cannot be a header", k)
		}
		for _, v := range vv {
			if strings.ContainsAny(v, "\r\n\x00") {
				return nil, fmt.Errorf("relay: the value of header %s breaks the line", k)
			}
			if k == "User-Agent" && v == "" {
				continue // net/http's way to say none
			}
			b = append(b, k...)
			b = append(b, ": "...)
			b = append(b, v...)
			b = append(b, "\r\n"...)
		}
	}
	return b, nil
}

// containerBody gives the connection back at the end of the body.
type containerBody struct {
	t        *Transport
	c        *containerConn
	resp     *http.Response
	body     io.ReadCloser
	uploaded chan struct{}
	stop     func() bool
	done     bool
}

func (b *containerBody) Read(p []byte) (int, error) {
	if b.done {
		return 0, io.EOF
	}
	n, err := b.body.Read(p)
	if err != nil {
		b.release(err == io.EOF)
	}
	return n, err
}

// Close ends the connection unless the body was read to its end.
func (b *containerBody) Close() error {
	b.release(false)
	return nil
}

func (b *containerBody) release(clean bool) {
	if b.done {
		return
	}
	b.done = true
	if b.uploaded != nil {
		select {
		case <-b.uploaded:
		default:
			clean = false
		}
	}
	// stop reports false when the context ended: then the connection is closed, or will be.
	if b.stop() && clean && !b.resp.Close && b.c.br.Buffered() == 0 {
		b.t.put(b.c)
		return
	}
	_ = b.c.Close()
}

// rawBody is an upgraded connection.
type rawBody struct {
	c    *containerConn
	stop func() bool
}

func (b *rawBody) Read(p []byte) (int, error)  { return b.c.br.Read(p) }
func (b *rawBody) Write(p []byte) (int, error) { return b.c.Write(p) }

func (b *rawBody) Close() error {
	b.stop()
	return b.c.Close()
}
