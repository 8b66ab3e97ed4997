package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/audit"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// streamWait is how long one question to the ledger stays open, in seconds; between two the client gets a comment, so
// that a broken connection is noticed.
const streamWait = 15

// streamRetry is the pause after a question that was not answered.
const streamRetry = time.Second

// auditStream is the stream as the audit record itself names it.
var auditStream = &station{service: "ledger", method: http.MethodGet, route: "/v1/audit/stream", scopes: []access.Scope{access.AuditRead}}

// streamEvents serves GET /v1/audit/stream: the audit record as server-sent events, from ?since, ?after or
// Last-Event-ID on, until the client leaves or its credential stops counting. The id of each event is its sequence in the
// ledger.
func (g *Gateway) streamEvents(w http.ResponseWriter, r *http.Request) {
	id := newRequestID()
	e, caller, err := g.listener(r)
	release := noRelease
	if err == nil {
		var p *problem.Problem
		if release, p = e.admit(r, g.clock.Now()); p != nil {
			err = p
		}
	}
	defer release()
	g.decisions.note(auditStream, whom(e, err), refusalReason(err), r, id)
	var q audit.EventsRequest
	if err == nil {
		q, err = streamFrom(r)
	}
	if err != nil {
		g.refuse(w, r, id, err)
		return
	}
	ctx, cancel := context.WithCancel(access.WithCaller(r.Context(), caller))
	defer cancel()
	stop := context.AfterFunc(g.ctx, cancel) // a stream has no end of its own for Stop to wait for
	defer stop()
	page, err := bus.Call(ctx, g.conn, audit.Events, q) // without a wait: the client hears at once that it is connected
	if err != nil {
		g.refuse(w, r, id, err)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	for q.WaitSeconds = streamWait; sendEvents(w, page) == nil; {
		q.After = max(q.After, page.Next)
		if _, _, err := g.listener(r); err != nil {
			return
		}
		if page, err = bus.Call(ctx, g.conn, audit.Events, q); err != nil {
			// The ledger restarts; the client's place is kept.
			select {
			case <-ctx.Done():
				return
			case <-time.After(streamRetry):
			}
		}
	}
}

// listener is who may hear the stream.
func (g *Gateway) listener(r *http.Request) (*entry, access.Caller, error) {
	e, err := g.auth.authenticate(r.Context(), r.Header)
	caller, err := decided(&access.ReadAudit, e, err)
	return e, caller, err
}

// streamFrom reads where a stream begins and what it is about.
func streamFrom(r *http.Request) (q audit.EventsRequest, err error) {
	query := r.URL.Query()
	q = audit.EventsRequest{Since: query.Get("since"), Entity: query.Get("entity"), Domain: query.Get("domain")}
	from := r.Header.Get("Last-Event-ID")
	if from == "" {
		from = query.Get("after")
	}
	if from == "" {
		return q, nil
	}
	if q.After, err = strconv.ParseInt(from, 10, 64); err != nil {
		return q, problem.New(problem.BadRequest, "after must be a whole number")
	}
	return q, nil
}

// sendEvents writes a page of events, or a comment when there is none.
func sendEvents(w http.ResponseWriter, page audit.EventsResponse) error {
	for _, rec := range page.Events {
		b, err := json.Marshal(rec)
		if err != nil {
			continue
		}
		if _, err := fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", rec.Sequence, rec.Event.Type, b); err != nil {
			return err
		}
	}
	if len(page.Events) == 0 {
		if _, err := fmt.Fprint(w, ": waiting\n\n"); err != nil {
			return err
		}
	}
	return http.NewResponseController(w).Flush()
}
