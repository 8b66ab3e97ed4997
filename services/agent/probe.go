package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A health check that does not say how long it may take gets defaultProbeTime, and none gets more than maxProbeTime.
const (
	defaultProbeTime = 10 * time.Second
	maxProbeTime     = 5 * time.Minute
)

// probe makes one health check of the function (functions-deployments §2.4).
func (i *instance) probe(ctx context.Context) error {
	h := i.rec.Function.Health
	timeout := isoDuration(h.Timeout)
	if timeout <= 0 {
		timeout = defaultProbeTime
	}
	ctx, cancel := context.WithTimeout(ctx, min(timeout, maxProbeTime))
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

// isoDuration reads the weeks, days, hours, minutes and seconds of an ISO-8601 duration such as PT1M30S or P1DT12H; 0 when
// it is none. Years and months have no fixed length, so they are refused.
func isoDuration(s string) time.Duration {
	date, clock, timed := strings.Cut(strings.ToUpper(s), "T")
	date, ok := strings.CutPrefix(date, "P")
	if !ok || timed && clock == "" {
		return 0
	}
	const day = 24 * time.Hour
	days, ok1 := sumUnits(date, "WD", []time.Duration{7 * day, day})
	times, ok2 := sumUnits(clock, "HMS", []time.Duration{time.Hour, time.Minute, time.Second})
	total := days + times
	if !ok1 || !ok2 || total >= float64(math.MaxInt64) {
		return 0
	}
	return time.Duration(total)
}

// sumUnits adds up numbers that are each followed by a letter of units, in their order, in nanoseconds.
func sumUnits(s, units string, lengths []time.Duration) (total float64, ok bool) {
	for s != "" {
		end := strings.IndexFunc(s, func(c rune) bool { return c != '.' && (c < '0' || c > '9') })
		if end <= 0 {
			return 0, false
		}
		n, err := strconv.ParseFloat(s[:end], 64)
		unit := strings.IndexByte(units, s[end])
		if err != nil || unit < 0 {
			return 0, false
		}
		total += n * float64(lengths[unit])
		units, lengths, s = units[unit+1:], lengths[unit+1:], s[end+1:]
	}
	return total, true
}
