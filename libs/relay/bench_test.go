package relay

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// BenchmarkEcho compares a small echo through the relay with the same through net/http/httputil.ReverseProxy: a real
// listener in front, a real HTTP server behind, everything in this process.
func BenchmarkEcho(b *testing.B) {
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	}))
	b.Cleanup(echo.Close)
	target, err := url.Parse(echo.URL)
	require.NoError(b, err)
	rt := containers()
	b.Cleanup(rt.CloseIdleConnections)

	standard := http.DefaultTransport.(*http.Transport).Clone()
	standard.MaxIdleConnsPerHost = 64
	b.Cleanup(standard.CloseIdleConnections)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = standard
	proxy.BufferPool = &bytesPool{}

	client, srv := benchPair(b, func(ctx context.Context, w *Writer, r *Request) error {
		return Proxy(ctx, rt, target.Host, w, r)
	})
	_ = srv
	front := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ex, err := client.Open(&Request{
			ID: uuid.NewString(), Method: r.Method, URI: r.RequestURI, Header: r.Header,
			Body: r.Body, ContentLength: r.ContentLength, Trailer: r.Trailer,
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
	for _, through := range []struct {
		name    string
		handler http.Handler
	}{{"proxy", proxy}, {"relay", front}} {
		door := httptest.NewServer(through.handler)
		b.Cleanup(door.Close)
		for _, n := range []int{1, 32} {
			b.Run(through.name+"/"+strconv.Itoa(n), func(b *testing.B) { hammer(b, door.URL, n) })
		}
	}
}

type bytesPool struct{ pool sync.Pool }

func (p *bytesPool) Get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}
func (p *bytesPool) Put(b []byte) { p.pool.Put(&b) }

func benchPair(b *testing.B, handle Handler) (*Client, *Server) {
	n := startNATS(b)
	conn := connect1(b, n)
	s := newTestServer(b, connect1(b, n))
	sub, err := s.conn.QueueSubscribe(subject, "workers", func(m *nats.Msg) {
		call, err := s.Receive(m.Data)
		if err != nil {
			b.Error(err)
			return
		}
		go func() { _ = s.Serve(context.Background(), call, handle) }()
	})
	require.NoError(b, err)
	b.Cleanup(func() { _ = sub.Unsubscribe() })
	require.NoError(b, s.conn.Flush())
	return newTestClient(b, conn), s
}

// hammer sends b.N requests over n connections, with a client that costs as little as possible.
func hammer(b *testing.B, door string, n int) {
	u, err := url.Parse(door)
	require.NoError(b, err)
	body := bytes.Repeat([]byte("x"), 256)
	request := append([]byte("POST /echo?a=%2F HTTP/1.1\r\nHost: f.example\r\nUser-Agent: bench\r\nAuthorization: Bearer abc\r\nContent-Type: text/plain\r\nContent-Length: 256\r\n\r\n"), body...)
	var wg sync.WaitGroup
	b.ReportAllocs()
	before := cpu(b)
	for i := range n {
		share := b.N / n
		if i < b.N%n {
			share++
		}
		wg.Go(func() {
			conn, err := net.Dial("tcp", u.Host)
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			buf := make([]byte, 4096)
			for range share {
				if _, err := conn.Write(request); err != nil {
					b.Error(err)
					return
				}
				got := 0
				for {
					m, err := conn.Read(buf[got:])
					if err != nil {
						b.Error(err)
						return
					}
					got += m
					if at := bytes.Index(buf[:got], []byte("\r\n\r\n")); at >= 0 && got >= at+4+len(body) {
						if !bytes.HasPrefix(buf[:got], []byte("HTTP/1.1 200")) || !bytes.Equal(buf[at+4:got], body) {
							b.Errorf("answer %q", buf[:got])
							return
						}
						break
					}
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/req")
}

// cpu returns the processor time of this process: unlike the rate, it hardly depends on what else the machine does.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
