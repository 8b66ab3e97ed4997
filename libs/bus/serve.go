package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/micro"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// handlersPerService bounds the requests that one replica of a service works on at once; more wait in NATS, whose
// pending limits bound them in turn.
const handlersPerService = 128

// Server answers the endpoints of one service. Replicas share the load through one queue group per service.
type Server struct {
	conn      *Conn
	name      string
	log       *zap.Logger
	endpoints []endpoint
	slots     chan struct{}
	svc       micro.Service
	ctx       context.Context
	cancel    context.CancelFunc

	// mu orders the last requests against Stop: running grows only while closed is false.
	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

type endpoint struct {
	name, subject, doc string
	timeout            time.Duration
	handle             func(context.Context, []byte) (any, error)
}

// NewServer prepares a server; endpoints are added with [Serve] before Start.
func NewServer(c *Conn, service string) *Server {
	return &Server{conn: c, name: service, log: c.log.Named(service), slots: make(chan struct{}, handlersPerService)}
}

// Serve adds an endpoint. The handler returns its answer or an error; an error that is not a problem is logged here
// and answered as internal.
func Serve[Req, Resp any](s *Server, e rpc.Endpoint[Req, Resp], h func(context.Context, Req) (Resp, error)) {
	timeout := e.Timeout
	if timeout == 0 {
		timeout = rpc.DefaultTimeout
	}
	s.endpoints = append(s.endpoints, endpoint{
		name: e.Resource + "-" + e.Verb, subject: e.Subject(), doc: e.Doc, timeout: timeout,
		handle: func(ctx context.Context, body []byte) (any, error) {
			var req Req
			if err := json.Unmarshal(body, &req); err != nil {
				return nil, problem.New(problem.BadRequest, "%s: the request does not decode: %v", e.Subject(), err)
			}
			return h(ctx, req)
		},
	})
}

// Start subscribes to every endpoint and returns when NATS knows of them.
func (s *Server) Start(ctx context.Context) error {
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	svc, err := micro.AddService(s.conn.nc, micro.Config{Name: s.name, Version: "1.0.0", QueueGroup: s.name})
	if err != nil {
		return fmt.Errorf("serve %s: %w", s.name, err)
	}
	s.svc = svc
	for _, e := range s.endpoints {
		err := svc.AddEndpoint(e.name, micro.HandlerFunc(func(r micro.Request) { s.dispatch(e, r) }),
			micro.WithEndpointSubject(e.subject), micro.WithEndpointMetadata(map[string]string{"doc": e.doc}))
		if err != nil {
			return errors.Join(fmt.Errorf("serve %s: %w", e.subject, err), svc.Stop())
		}
	}
	return s.conn.Flush(ctx)
}

// Stop takes no more requests, waits for those in flight while ctx lasts, then cancels them.
func (s *Server) Stop(ctx context.Context) error {
	if s.svc == nil {
		return nil
	}
	err := s.svc.Stop()
	// What the server had sent before it heard of the stop is in our hands after the flush, and is still answered.
	if ferr := s.conn.Flush(ctx); ferr != nil {
		s.log.Debug("stopping without NATS", zap.Error(ferr))
	}
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	idle := make(chan struct{})
	go func() { s.running.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	s.cancel()
	<-idle
	if err != nil {
		return fmt.Errorf("stop %s: %w", s.name, err)
	}
	return nil
}

// dispatch runs on the endpoint's subscription, which delivers one message at a time; the work itself runs beside it,
// within the bound of slots.
func (s *Server) dispatch(e endpoint, r micro.Request) {
	s.slots <- struct{}{}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.running.Add(1)
	}
	s.mu.Unlock()
	if closed {
		<-s.slots
		s.refuse(e, r, problem.New(problem.Unavailable, "the %s service is stopping; try again", s.name))
		return
	}
	go func() {
		defer func() { <-s.slots; s.running.Done() }()
		ctx, cancel := incoming(s.ctx, r.Headers(), e.timeout)
		defer cancel()
		answer, err := s.run(ctx, e, r.Data())
		if err == nil {
			err = s.respond(r, answer)
		}
		if err != nil {
			s.refuse(e, r, err)
		}
	}()
}

// run turns a panic of a handler into an error, so that one bad request cannot take the service down.
func (s *Server) run(ctx context.Context, e endpoint, body []byte) (answer any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("handler panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return e.handle(ctx, body)
}

func (s *Server) respond(r micro.Request, answer any) error {
	b, rendered := answer.(rpc.Rendered)
	if !rendered {
		var err error
		if b, err = json.Marshal(answer); err != nil {
			return fmt.Errorf("encode answer: %w", err)
		}
	}
	if len(b) > MaxPayload-(64<<10) {
		return problem.New(problem.TooLarge, "the answer is larger than %d bytes; ask for less", MaxPayload-(64<<10))
	}
	return r.Respond(b)
}

func (s *Server) refuse(e endpoint, r micro.Request, err error) {
	p, expected := problem.From(err)
	if !expected {
		if errors.Is(err, context.DeadlineExceeded) {
			p = problem.New(problem.GatewayTimeout, "the %s service did not finish in time", s.name)
		} else if store.IsAway(err) || errors.Is(err, context.Canceled) {
			p = problem.New(problem.Unavailable, "the %s service waits for its database; try again", s.name)
		}
		s.log.Error("request failed", zap.String("subject", e.subject), zap.Error(err))
	}
	body, merr := json.Marshal(p)
	if merr != nil {
		s.log.Error("problem does not encode", zap.Error(merr))
		return
	}
	// Not r.Error: it writes to the request, which micro reads again after dispatch has returned.
	headers := micro.Headers{micro.ErrorCodeHeader: {strconv.Itoa(p.Status())}, micro.ErrorHeader: {string(p.Code)}}
	if rerr := r.Respond(body, micro.WithHeaders(headers)); rerr != nil {
		s.log.Warn("answer not sent", zap.String("subject", e.subject), zap.Error(rerr))
	}
}
