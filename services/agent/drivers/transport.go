package drivers

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Pool sizes of one instance. The idle time stays below the five seconds after
// which popular Python servers drop an idle connection, so that a request never
// meets a connection that is being closed.
const (
	maxIdlePerInstance = 1024
	idleTimeout        = 4 * time.Second
	dialTimeout        = 5 * time.Second
)

// NewTransport calls an instance over TCP. The port of a request's URL is the
// container port; ports says where to dial instead.
func NewTransport(ports map[int]string) Transport {
	dialer := &net.Dialer{Timeout: dialTimeout}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		_, portText, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		port, err := strconv.Atoi(portText)
		if err != nil {
			return nil, err
		}
		target, ok := ports[port]
		if !ok {
			return nil, fmt.Errorf("the instance has no port %d", port)
		}
		return dialer.DialContext(ctx, network, target)
	}
	base := func(protocols func(*http.Protocols)) *http.Transport {
		t := &http.Transport{
			DialContext:         dial,
			MaxIdleConns:        maxIdlePerInstance,
			MaxIdleConnsPerHost: maxIdlePerInstance,
			IdleConnTimeout:     idleTimeout,
			// The exchange is carried unchanged: no proxy, no added
			// Accept-Encoding, no silent decompression.
			DisableCompression: true,
			Protocols:          new(http.Protocols),
		}
		protocols(t.Protocols)
		return t
	}
	return &tcpTransport{
		http1: base(func(p *http.Protocols) { p.SetHTTP1(true) }),
		http2: base(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }),
	}
}

type tcpTransport struct{ http1, http2 *http.Transport }

func (t *tcpTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.ProtoMajor == 2 {
		return t.http2.RoundTrip(req)
	}
	return t.http1.RoundTrip(req)
}

func (t *tcpTransport) CloseIdleConnections() {
	t.http1.CloseIdleConnections()
	t.http2.CloseIdleConnections()
}
