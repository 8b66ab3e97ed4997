package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// refuse answers with the problem document of err; an error that is no problem is logged here, once.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, requestID string, err error) {
	p, expected := problem.From(err)
	if !expected {
		if r.Context().Err() != nil {
			// The client has left, and nobody reads an answer. If somebody does, silence would be a success to him.
			writeProblem(w, r, requestID, problem.New(problem.Unavailable, "the request was cut off; try again"))
			return
		}
		g.log.Error("request failed", zap.String("path", r.URL.Path), zap.String("request", requestID), zap.Error(err))
	}
	writeProblem(w, r, requestID, p)
}

// linger is how long a client that was refused may go on sending its body before the connection closes.
const linger = 500 * time.Millisecond

// whole is a request whose context is not over before it began. The HTTP server looks ahead on a connection whose
// request was read to its end; on a busy machine the time to linger is up before that request is finished, and the
// server takes this for the end of the connection: the contexts of all that follow on it are over. Such a request is
// served, and is the last of its connection.
func whole(w http.ResponseWriter, r *http.Request) *http.Request {
	if r.ProtoMajor != 1 || r.Context().Err() == nil {
		return r
	}
	w.Header().Set("Connection", "close")
	return r.WithContext(context.WithoutCancel(r.Context()))
}

// askedPath is the path as the client wrote it; that of r.URL may be the canonical one of an alias.
func askedPath(r *http.Request) string {
	if u, err := url.ParseRequestURI(r.RequestURI); err == nil {
		return u.EscapedPath()
	}
	return r.URL.Path
}

func writeProblem(w http.ResponseWriter, r *http.Request, requestID string, p *problem.Problem) {
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		// The HTTP server reads on to the end of a body that is not wanted, so that the connection can be used again.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(linger))
	}
	p = quoting(r, p)
	doc := p.Document(askedPath(r), requestID)
	if strings.HasPrefix(doc.Instance, "/v2/orgs/") {
		doc.RequestStatus = &problem.RequestStatus{StatusCode: strings.ToUpper(string(p.Code)), StatusDescription: p.Detail, RequestID: requestID}
	}
	h := w.Header()
	h.Set("Content-Type", problem.ContentType)
	h.Set("Cache-Control", "no-store")
	h.Del("Content-Length")
	if requestID != "" {
		h.Set(invocation.HeaderRequestID, requestID)
	}
	switch doc.Status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	case http.StatusForbidden:
		if len(p.RequiredScopes) > 0 {
			h.Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="`+strings.Join(p.RequiredScopes, " ")+`"`)
		} else if p.Code == problem.ResourceType || p.Code == problem.ResourceNotCovered {
			h.Set("WWW-Authenticate", `Bearer error="insufficient_scope"`)
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		h.Set("Retry-After", strconv.Itoa(max(p.RetryAfterSeconds, 1)))
	}
	if grpc, ok := w.(*grpcWriter); ok {
		grpc.setMessage(p.Detail)
	}
	var body any = doc
	switch faceFor(r) {
	case inventoryFace:
		body = inventoryErrorOf(p, requestID)
		h.Set("Content-Type", "application/json")
	case consoleFace:
		body = consoleBody(r, p, h)
	case functionsFace, keysFace:
	}
	w.WriteHeader(doc.Status)
	if r.Method == http.MethodHead {
		return
	}
	b, err := json.Marshal(body)
	if err == nil {
		_, _ = w.Write(b)
	}
}
