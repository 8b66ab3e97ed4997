package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxProbeTime bounds one health check, whatever the function asks for.
const maxProbeTime = 30 * time.Second

// probe makes one health check of the function (functions-deployments §2.4).
func (i *instance) probe(ctx context.Context) error {
	h := i.rec.Function.Health
	timeout := isoDuration(h.Timeout)
	if timeout <= 0 || timeout > maxProbeTime {
		timeout = maxProbeTime
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	port := h.Port
	if port == 0 {
		port = i.rec.Function.Port
	}
	address := "http://127.0.0.1:" + strconv.Itoa(port)
	if strings.EqualFold(h.Protocol, "grpc") {
		return probeGRPC(ctx, i.transport, address)
	}
	return probeHTTP(ctx, i.transport, address, h.URI, h.ExpectedStatusCode)
}

func probeHTTP(ctx context.Context, rt http.RoundTripper, address, uri string, want int) error {
	if !strings.HasPrefix(uri, "/") {
		uri = "/" + uri
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+uri, nil)
	if err != nil {
		return fmt.Errorf("health check %s: %w", uri, err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("health check GET %s: %w", uri, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if want == 0 {
		want = http.StatusOK
	}
	if resp.StatusCode != want {
		return fmt.Errorf("health check GET %s answered %d instead of %d", uri, resp.StatusCode, want)
	}
	return nil
}

// probeGRPC calls grpc.health.v1.Health/Check. The message is empty and the answer two bytes, so no stub is needed:
// field 1 with value 1 means SERVING.
func probeGRPC(ctx context.Context, rt http.RoundTripper, address string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/grpc.health.v1.Health/Check", bytes.NewReader(make([]byte, 5)))
	if err != nil {
		return fmt.Errorf("gRPC health check: %w", err)
	}
	req.Proto, req.ProtoMajor, req.ProtoMinor = "HTTP/2.0", 2, 0
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("gRPC health check: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return fmt.Errorf("gRPC health check: %w", err)
	}
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status")
	}
	switch {
	case status != "0":
		return fmt.Errorf("gRPC health check answered status %s", status)
	case !bytes.Equal(body, []byte{0, 0, 0, 0, 2, 8, 1}):
		return errors.New("gRPC health check does not answer SERVING")
	}
	return nil
}

// isoDuration reads the days, hours, minutes and seconds of an ISO-8601 duration such as PT10S; 0 when it has none.
func isoDuration(s string) time.Duration {
	rest, ok := strings.CutPrefix(strings.ToUpper(s), "P")
	if !ok {
		return 0
	}
	var total float64
	number := ""
	for _, c := range rest {
		switch {
		case c >= '0' && c <= '9' || c == '.':
			number += string(c)
			continue
		case c == 'T':
			continue
		}
		n, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return 0
		}
		number = ""
		switch c {
		case 'D':
			total += n * 24 * 3600
		case 'H':
			total += n * 3600
		case 'M':
			total += n * 60
		case 'S':
			total += n
		default:
			return 0
		}
	}
	return time.Duration(total * float64(time.Second))
}
