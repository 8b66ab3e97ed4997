package gateway

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// gRPC status codes that the gateway itself answers with.
const (
	grpcInvalidArgument   = 3
	grpcDeadlineExceeded  = 4
	grpcNotFound          = 5
	grpcPermissionDenied  = 7
	grpcResourceExhausted = 8
	grpcFailedPrecond     = 9
	grpcInternal          = 13
	grpcUnavailable       = 14
	grpcUnauthenticated   = 16
)

func isGRPC(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// servingFrame is a length-prefixed grpc.health.v1.HealthCheckResponse that says SERVING.
var servingFrame = []byte{0, 0, 0, 0, 2, 8, 1}

// serveGRPC is the gRPC port: every service and method passes to the function that the metadata names; plain HTTP and
// WebSocket with the same headers do too (invocation §2).
func (g *Gateway) serveGRPC(w http.ResponseWriter, r *http.Request) {
	grpc := isGRPC(r)
	functionID := r.Header.Get(invocation.HeaderFunctionID)
	switch {
	case functionID == "" && !grpc && r.URL.Path == "/health":
		g.serveHealth(w, destination{})
		return
	case functionID == "" && grpc && r.URL.Path == "/grpc.health.v1.Health/Check":
		h := w.Header()
		h.Set("Content-Type", "application/grpc")
		h.Set("Trailer", "Grpc-Status")
		_, _ = w.Write(servingFrame)
		h.Set("Grpc-Status", "0")
		return
	}
	if grpc {
		w = &grpcWriter{ResponseWriter: w}
	}
	c := &call{id: newRequestID()}
	if p := ambiguous(r); p != nil {
		g.refuseCall(w, r, c, p)
		return
	}
	if _, p := bearer(r.Header); p != nil {
		g.decisions.note(grpcCall, nil, access.ReasonNoCredential, r, c.id)
		g.refuseCall(w, r, c, p)
		return
	}
	if !isUUID(functionID) {
		g.refuseCall(w, r, c, problem.New(problem.BadRequest, "no function-id was passed in the metadata, or it is not a UUID"))
		return
	}
	d := destination{functionID: strings.ToLower(functionID)}
	if v := r.Header.Get(invocation.HeaderFunctionVersionID); v != "" {
		if !isUUID(v) {
			g.refuseCall(w, r, c, badHeader(invocation.HeaderFunctionVersionID))
			return
		}
		d.versionID = strings.ToLower(v)
	}
	g.invokeDirect(w, r, d)
}

// grpcWriter turns problems into gRPC statuses: a failure is HTTP 200 with grpc-status in the head, which gRPC calls a
// trailers-only response. Answers of the function pass untouched.
type grpcWriter struct {
	http.ResponseWriter
	refused bool
}

// Unwrap lets http.ResponseController reach the real writer.
func (w *grpcWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush implements http.Flusher for the relay.
func (w *grpcWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

func (w *grpcWriter) WriteHeader(status int) {
	h := w.Header()
	if h.Get("Content-Type") != problem.ContentType {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.refused = true
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(grpcStatus(status)))
	w.ResponseWriter.WriteHeader(http.StatusOK)
}

// Write drops the problem body; its detail went into grpc-message when the head was written.
func (w *grpcWriter) Write(b []byte) (int, error) {
	if w.refused {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// setMessage is called with the detail before the head is written.
func (w *grpcWriter) setMessage(detail string) {
	w.Header().Set("Grpc-Message", url.PathEscape(detail))
}

func grpcStatus(status int) int {
	switch status {
	case http.StatusBadRequest:
		return grpcInvalidArgument
	case http.StatusUnauthorized:
		return grpcUnauthenticated
	case http.StatusForbidden:
		return grpcPermissionDenied
	case http.StatusNotFound:
		return grpcNotFound
	case http.StatusTooManyRequests:
		return grpcResourceExhausted
	case http.StatusPreconditionFailed:
		return grpcFailedPrecond
	case http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return grpcDeadlineExceeded
	case http.StatusServiceUnavailable, http.StatusBadGateway:
		return grpcUnavailable
	}
	return grpcInternal
}
