package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Server is the side of an exchange that answers. It is safe for concurrent use.
type Server struct {
	conn   *nats.Conn
	prefix string // of the subject of every call, with the dot at its end
	beat   time.Duration
	delay  time.Duration // before an accept without a response

	mu     sync.Mutex
	calls  map[string]*Call // those whose client was told an address
	closed bool
	sub    *nats.Subscription
	quit   chan struct{}
	active sync.WaitGroup // the keep-alive goroutine and every Serve
}

// Handler answers one call. The context ends when the client leaves, the peer is lost, or nobody attaches in time. An
// error that it returns goes to the client, as it is when it is an [*Error], instead of the rest of the response.
type Handler func(ctx context.Context, w *Writer, r *Request) error

// NewServer returns a server whose address is a private subject of conn. Start it before use.
func NewServer(conn *nats.Conn) (*Server, error) {
	if conn == nil {
		return nil, fmt.Errorf("relay: no connection")
	}
	return &Server{
		conn: conn, prefix: conn.NewInbox() + ".", beat: beat, delay: acceptDelay,
		calls: make(map[string]*Call), quit: make(chan struct{}),
	}, nil
}

// Start subscribes to the address and begins to send keep-alive frames.
func (s *Server) Start(ctx context.Context) error {
	sub, err := subscribe(ctx, s.conn, s.prefix, s.receive)
	if err != nil {
		return err
	}
	s.sub = sub
	s.active.Go(func() { every(s.beat, s.quit, s.sweep) })
	return nil
}

// Close ends every call with [ErrClosed] and waits for their handlers, at most as long as ctx.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.quit)
	s.mu.Unlock()
	for _, c := range s.all() {
		c.leave(&Error{Code: codeClosing, Message: "the worker is closing"}, ErrClosed)
	}
	err := wait(ctx, &s.active)
	if s.sub != nil {
		_ = s.sub.Unsubscribe()
	}
	return err
}

// Address is what clients know as the worker of an exchange.
func (s *Server) Address() string { return s.prefix[:len(s.prefix)-1] }

// Receive decodes an offer that came from a subject or a queue. The caller must then refuse or serve the call. The
// call keeps a reference to the offer.
func (s *Server) Receive(offer []byte) (*Call, error) {
	k, payload, rest, err := nextFrame(offer)
	if err != nil {
		return nil, err
	}
	if k != kindRequest {
		return nil, errFrame
	}
	r, inbox, err := decodeRequest(payload)
	if err != nil {
		return nil, err
	}
	c := &Call{Request: r, server: s, inbox: inbox + r.ID}
	if len(rest) == 0 {
		in := &inflow{wake: make(chan struct{}, 1), allowed: window, grant: c.grant}
		c.in = in
		r.Body = &requestBody{call: c}
		return c, nil
	}
	body, err := inlineBody(rest, r)
	if err != nil {
		return nil, err
	}
	r.Body = body
	return c, nil
}

// inlineBody reads the request body that came within the offer.
func inlineBody(b []byte, r *Request) (*bytesBody, error) {
	k, payload, rest, err := nextFrame(b)
	if err != nil {
		return nil, err
	}
	body := &bytesBody{}
	if k == kindData {
		offset, data, err := number(payload)
		if err != nil || offset != 0 {
			return nil, errFrame
		}
		body.rest = data
		if k, payload, _, err = nextFrame(rest); err != nil {
			return nil, err
		}
	}
	if k != kindEnd {
		return nil, errFrame
	}
	total, trailer, err := decodeEnd(payload)
	if err != nil || total != uint64(len(body.rest)) {
		return nil, errFrame
	}
	for key, vv := range trailer {
		if r.Trailer != nil {
			r.Trailer[key] = vv
		}
	}
	return body, nil
}

// receive is the subscription callback: it must not block.
func (s *Server) receive(m *nats.Msg) {
	s.mu.Lock()
	c := s.calls[token(m.Subject)]
	s.mu.Unlock()
	if c != nil {
		c.receive(m.Reply, m.Data, noResponders(m))
		return
	}
	if m.Reply != "" && len(m.Data) > 0 {
		switch kind(m.Data[0]) {
		case kindDetach, kindAttach, kindPing:
			_ = s.conn.Publish(m.Reply, signal(kindUnknown))
		default: // nobody waits for an answer to the others
		}
	}
}

// register makes the call reachable. It fails when the same exchange is here already, as after a redelivery.
func (s *Server) register(c *Call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if _, taken := s.calls[c.Request.ID]; taken {
		return fmt.Errorf("%w: exchange %s is served here already", ErrGone, c.Request.ID)
	}
	s.calls[c.Request.ID] = c
	return nil
}

func (s *Server) forget(c *Call) {
	s.mu.Lock()
	if s.calls[c.Request.ID] == c {
		delete(s.calls, c.Request.ID)
	}
	s.mu.Unlock()
}

func (s *Server) all() []*Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Call, 0, len(s.calls))
	for _, c := range s.calls {
		all = append(all, c)
	}
	return all
}

func (s *Server) sweep() {
	for _, c := range s.all() {
		c.tick()
	}
}

// Serve runs the handler and completes the exchange. It returns when the whole response is sent, and why if it was not.
// A client that detached is waited for here, so whoever counts slots may count calls of Serve.
func (s *Server) Serve(parent context.Context, c *Call, handle Handler) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = c.Refuse(Draining)
		c.drop()
		return ErrClosed
	}
	s.active.Add(1)
	s.mu.Unlock()
	defer s.active.Done()

	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	w := newWriter(ctx, c)
	defer w.release()
	defer c.drop() // before release: the timer may look at the writer's buffer until then
	if err := c.begin(cancel); err != nil {
		return err
	}
	err := handle(ctx, w, c.Request)
	if err == nil {
		err = w.finish()
		if err == nil {
			return nil
		}
	}
	return c.sorry(ctx, err)
}

// asError makes what a handler returned fit to be sent.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: codeFailed, Message: err.Error()}
}
