package relay

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// gateway is an http.Handler as a gateway has it, reduced to the relay.
func gateway(c *Client) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ex, err := c.Open(&Request{
			ID: uuid.NewString(), Method: r.Method, URI: r.RequestURI, Header: r.Header,
			Body: r.Body, ContentLength: r.ContentLength, Trailer: r.Trailer, Upgrade: r.Header.Get("Upgrade") != "",
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		defer ex.Cancel()
		if err := ex.Offer(r.Context(), subject); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		resp, err := ex.Response(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		if err := Forward(w, resp); err != nil {
			panic(http.ErrAbortHandler)
		}
	})
}

// chain is a client-facing HTTP server whose every call goes through the relay to the container at target.
func chain(t *testing.T, target string) *httptest.Server {
	t.Helper()
	rt := containers()
	t.Cleanup(rt.CloseIdleConnections)
	c, _, _ := pair(t, func(ctx context.Context, w *Writer, r *Request) error {
		return Proxy(ctx, rt, target, w, r)
	})
	front := httptest.NewServer(gateway(c))
	t.Cleanup(front.Close)
	return front
}

func container(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func dial(t *testing.T, s *httptest.Server) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patient)))
	return conn
}

// What the container reads must be what the client wrote, except for what concerns one connection only.
func TestBytesOnTheWire(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	heads := make(chan string, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				br := bufio.NewReader(conn)
				for { // it stays open: a request on a connection that is about to close would be lost
					var head strings.Builder
					for !strings.HasSuffix(head.String(), "\r\n\r\n") {
						line, err := br.ReadString('\n')
						if err != nil {
							return
						}
						head.WriteString(line)
					}
					heads <- head.String()
					_, _ = io.WriteString(conn, "HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nX-Twice: 1\r\nX-Twice: 2\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n")
				}
			}()
		}
	}()
	rt := containers()
	t.Cleanup(rt.CloseIdleConnections)
	target := l.Addr().String()
	c, _, _ := pair(t, func(ctx context.Context, w *Writer, r *Request) error {
		r.Header["NVCF-REQID"] = []string{r.ID}
		return Proxy(ctx, rt, target, w, r)
	})
	front := httptest.NewServer(gateway(c))
	defer front.Close()
	for _, uri := range []string{"/a%2Fb/../c;d?a=%2F&b&&=%zz", "//double//slash?x", "/", "/é|\"?q=%", "/?"} {
		conn := dial(t, front)
		_, err := fmt.Fprintf(conn, "BREW %s HTTP/1.1\r\nHost: f.example\r\nX-A: 1\r\nTE: trailers\r\nConnection: X-Private\r\nX-Private: 1\r\n\r\n", uri)
		require.NoError(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		if resp.StatusCode == http.StatusBadRequest {
			continue // net/http in front did not let it in
		}
		head := <-heads
		require.True(t, strings.HasPrefix(head, "BREW "+uri+" HTTP/1.1\r\nHost: "+target+"\r\n"), "%s: %s", uri, head)
		require.Contains(t, head, "\r\nX-A: 1\r\n")
		require.Contains(t, head, "\r\nNVCF-REQID: ")
		for _, absent := range []string{"Te:", "X-Private", "Connection", "Accept-Encoding", "User-Agent", "Transfer-Encoding"} {
			require.NotContains(t, head, absent)
		}
		require.Equal(t, 302, resp.StatusCode)
		require.Equal(t, "http://elsewhere/", resp.Header.Get("Location"))
		require.Equal(t, []string{"1", "2"}, resp.Header["X-Twice"])
		require.NotContains(t, resp.Header, "X-Hop")
	}
}

func TestHTTPLargeBodiesAndLengths(t *testing.T) {
	t.Parallel()
	front := chain(t, container(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Length", fmt.Sprint(r.ContentLength))
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	}))
	for _, size := range []int{0, 1, inlineLimit, inlineLimit + 1, 20 << 20} {
		body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		resp, err := front.Client().Post(front.URL, "", bytes.NewReader(body))
		require.NoError(t, err)
		got, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.True(t, bytes.Equal(body, got), "%d of %d", len(got), size)
		require.Equal(t, fmt.Sprint(size), resp.Header.Get("X-Length"))

		resp, err = front.Client().Post(front.URL, "", io.MultiReader(bytes.NewReader(body)))
		require.NoError(t, err)
		got, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.True(t, bytes.Equal(body, got))
	}
}

func TestHTTPPingPong(t *testing.T) {
	t.Parallel()
	front := chain(t, container(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		w.WriteHeader(http.StatusOK)
		_ = rc.Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			_, _ = fmt.Fprintf(w, "pong %s\n", lines.Text())
			_ = rc.Flush()
		}
	}))
	pr, pw := io.Pipe()
	resp, err := front.Client().Post(front.URL, "", pr)
	require.NoError(t, err)
	defer resp.Body.Close()
	answers := bufio.NewReader(resp.Body)
	for i := range 50 {
		_, err := fmt.Fprintf(pw, "%d\n", i)
		require.NoError(t, err)
		line, err := answers.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("pong %d\n", i), line)
	}
	require.NoError(t, pw.Close())
	_, err = answers.ReadByte()
	require.Equal(t, io.EOF, err)
}

// A response that ends while the client still uploads must not wait for the rest of the upload.
func TestHTTPEarlyAnswer(t *testing.T) {
	t.Parallel()
	front := chain(t, container(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no thanks", http.StatusTeapot)
	}))
	conn := dial(t, front)
	_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nonly a little")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusTeapot, resp.StatusCode)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "no thanks\n", string(body))
}

func TestHTTPEventStreamAndHeadFirst(t *testing.T) {
	t.Parallel()
	step := make(chan struct{})
	front := chain(t, container(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for i := range 5 {
			<-step
			_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
		}
	}))
	resp, err := front.Client().Get(front.URL) // returns although no event has been made
	require.NoError(t, err)
	defer resp.Body.Close()
	for i := range 5 {
		step <- struct{}{}
		want := fmt.Sprintf("data: %d\n\n", i)
		got := make([]byte, len(want))
		_, err := io.ReadFull(resp.Body, got)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
}

func TestHTTPTrailers(t *testing.T) {
	t.Parallel()
	front := chain(t, container(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Announced")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Announced", r.Trailer.Get("X-Up"))
		w.Header().Set(http.TrailerPrefix+"X-Surprise", "2")
	}))
	r, err := http.NewRequest(http.MethodPost, front.URL, nil)
	require.NoError(t, err)
	r.Trailer = http.Header{"X-Up": nil}
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader("abc"), readerFunc(func([]byte) (int, error) {
		r.Trailer.Set("X-Up", "1")
		return 0, io.EOF
	})))
	resp, err := front.Client().Do(r)
	require.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "1", resp.Trailer.Get("X-Announced"))
	require.Equal(t, "2", resp.Trailer.Get("X-Surprise"))
}

// The client leaves: the container's connection closes at once, before and after the response head.
func TestHTTPClientLeaves(t *testing.T) {
	t.Parallel()
	entered, left := make(chan struct{}), make(chan struct{})
	front := chain(t, container(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			_, _ = io.WriteString(w, "x")
			w.(http.Flusher).Flush()
		}
		entered <- struct{}{}
		<-r.Context().Done()
		left <- struct{}{}
	}))
	for _, path := range []string{"/", "/stream"} {
		conn := dial(t, front)
		_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		require.NoError(t, err)
		<-entered
		if path == "/stream" {
			_, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
		}
		require.NoError(t, conn.Close())
		select {
		case <-left:
		case <-time.After(told):
			t.Fatal("the container was not told")
		}
	}
}

func TestHTTPBrokenContainer(t *testing.T) {
	t.Parallel()
	front := chain(t, container(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "part")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}))
	resp, err := front.Client().Get(front.URL)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF) // cut off, not silently short
	require.Equal(t, "part", string(body))

	nowhere := chain(t, "127.0.0.1:1")
	resp, err = nowhere.Client().Get(nowhere.URL)
	require.NoError(t, err)
	body, err = io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Contains(t, string(body), "unreachable")
}

func TestWebSocketUpgrade(t *testing.T) {
	t.Parallel()
	front := chain(t, container(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" {
			dump, _ := httputil.DumpRequest(r, false)
			http.Error(w, string(dump), http.StatusBadRequest)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		for {
			line, err := rw.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, strings.ToUpper(line))
			if line == "bye\n" {
				return
			}
		}
	}))
	for _, last := range []string{"bye\n", ""} { // either side may end it
		conn := dial(t, front)
		_, err := io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly\n")
		require.NoError(t, err)
		br := bufio.NewReader(conn)
		resp, err := http.ReadResponse(br, nil)
		require.NoError(t, err)
		require.Equal(t, 101, resp.StatusCode)
		require.Equal(t, "websocket", resp.Header.Get("Upgrade"))
		line, err := br.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "EARLY\n", line)
		for range 20 {
			_, err = io.WriteString(conn, "hello\n")
			require.NoError(t, err)
			line, err = br.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "HELLO\n", line)
		}
		if last == "" {
			require.NoError(t, conn.Close())
			continue
		}
		_, err = io.WriteString(conn, last)
		require.NoError(t, err)
		rest, err := io.ReadAll(br)
		require.NoError(t, err)
		require.Equal(t, "BYE\n", string(rest))
	}
}

// containers calls HTTP servers as an agent does.
func containers() *http.Transport {
	return &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 1024}
}
