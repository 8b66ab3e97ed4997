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
// Last-Event-ID on, without end. The id of each event is its sequence in the ledger.
func (g *Gateway) streamEvents(w http.ResponseWriter, r *http.Request) {
	id := newRequestID()
	e, err := g.auth.authenticate(r.Context(), r.Header)
	caller, err := decided(&access.ReadAudit, e, err)
	if err == nil {
		release, p := e.admit(r, g.clock.Now())
		defer release()
		if p != nil {
			err = p
		}
	}
	g.decisions.note(auditStream, whom(e, err), refusalReason(err), r, id)
	if err != nil {
		g.refuse(w, r, id, err)
		return
	}
	q := audit.EventsRequest{Since: r.URL.Query().Get("since"), Entity: r.URL.Query().Get("entity"), Domain: r.URL.Query().Get("domain")}
	from := r.Header.Get("Last-Event-ID")
	if from == "" {
		from = r.URL.Query().Get("after")
	}
	if from != "" {
		if q.After, err = strconv.ParseInt(from, 10, 64); err != nil {
			g.refuse(w, r, id, problem.New(problem.BadRequest, "after must be a whole number"))
			return
		}
	}
	ctx, cancel := context.WithCancel(access.WithCaller(r.Context(), caller))
	defer cancel()
	stop := context.AfterFunc(g.ctx, cancel) // a stream has no end of its own for Stop to wait for
	defer stop()
	started := false
	for ctx.Err() == nil {
		q.WaitSeconds = streamWait
		if !started {
			q.WaitSeconds = 0 // the client hears at once that it is connected
		}
		page, err := bus.Call(ctx, g.conn, audit.Events, q)
		if err != nil {
			if !started {
				g.refuse(w, r, id, err)
				return
			}
			// The ledger restarts; the client's place is kept.
			select {
			case <-ctx.Done():
				return
			case <-time.After(streamRetry):
			}
		}
		if !started {
			h := w.Header()
			h.Set("Content-Type", "text/event-stream")
			h.Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusOK)
			started = true
			if r.Method == http.MethodHead {
				return
			}
		}
		for _, rec := range page.Events {
			b, err := json.Marshal(rec)
			if err != nil {
				continue
			}
			if _, err := fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", rec.Sequence, rec.Event.Type, b); err != nil {
				return
			}
		}
		if len(page.Events) == 0 {
			if _, err := fmt.Fprint(w, ": waiting\n\n"); err != nil {
				return
			}
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		q.After = max(q.After, page.Next)
	}
}
