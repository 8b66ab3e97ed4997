package gateway

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// fetched is a page on its way to the client.
type fetched struct {
	head     functions.PageHead
	elements []byte
	page     rpc.Rendered
	err      error
}

// listing makes a route that answers with a whole list, whose array has the name member. The service answers a page at a
// time; while the client takes one, the next is fetched, so that two are in memory however long the list is. A request
// that gives a limit gets one page with what belongs to it. The path parameters and the filters of a request are the same
// for all its pages; where gives access to the part that pages move.
func listing[Req, Resp any](path string, row *access.Row, member string, e rpc.Endpoint[Req, Resp], where func(*Req) *functions.ListRequest) route {
	rt := to(get, path, row, ok, e)
	bind := bindingOf(reflect.TypeFor[Req]())
	asText := rpc.AsText(e)
	rt.serve = func(g *Gateway, w http.ResponseWriter, r *http.Request, caller access.Caller) error {
		var req Req
		ctx, err := g.receive(w, r, caller, bind, rt.maxBody, &req)
		if err != nil {
			return err
		}
		fetch := func(ctx context.Context) (f fetched) {
			if f.page, f.err = bus.Call(ctx, g.conn, asText, req); f.err == nil {
				f.head, f.elements, f.err = functions.ParsePage(member, f.page)
			}
			return f
		}
		first := fetch(ctx)
		if first.err != nil {
			return first.err
		}
		h := w.Header()
		h.Set(invocation.HeaderRequestID, caller.RequestID)
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Type", "application/json")
		moving := where(&req)
		if moving.Limit != nil || first.head.NextCursor == "" {
			_, _ = w.Write(first.page)
			return nil
		}
		moving.Offset = 0
		if err := streamPages(ctx, w, member, first, func(ctx context.Context, cursor string) fetched {
			moving.Cursor = cursor
			return fetch(ctx)
		}); err != nil {
			if ctx.Err() == nil {
				g.log.Error("list broken off", zap.String("path", r.URL.Path), zap.String("request", caller.RequestID), zap.Error(err))
			}
			// The status has gone out; a connection that ends early is what is left to tell the client.
			panic(http.ErrAbortHandler) //nolint:forbidigo // the one way to tell net/http so
		}
		return nil
	}
	return rt
}

// streamPages writes page after page as one array. Only one fetch runs at a time, and none outlives it.
func streamPages(ctx context.Context, w http.ResponseWriter, member string, page fetched, fetch func(context.Context, string) fetched) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	deadline := http.NewResponseController(w)
	if _, err := w.Write([]byte(`{"` + member + `":[`)); err != nil {
		return err
	}
	separator := ""
	for {
		var next chan fetched
		if cursor := page.head.NextCursor; cursor != "" {
			next = make(chan fetched, 1)
			go func() { next <- fetch(ctx, cursor) }()
		}
		_ = deadline.SetWriteDeadline(time.Now().Add(longestAnswer))
		var err error
		if len(page.elements) > 0 {
			if _, err = w.Write([]byte(separator)); err == nil {
				_, err = w.Write(page.elements)
			}
			separator = ","
		}
		if next == nil {
			if err == nil {
				_, err = w.Write([]byte("]}"))
			}
			return err
		}
		if err != nil {
			cancel()
		}
		page = <-next
		if err != nil {
			return err
		}
		if page.err != nil {
			return page.err
		}
	}
}
