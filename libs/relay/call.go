package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// Call is one exchange as the worker sees it.
//
// Its messages are published with the lock held, so that the client sees them in the order of the decisions: a
// response head or a "detached", never both.
type Call struct {
	Request *Request

	server *Server
	in     *inflow // nil when the offer held the whole request

	mu       sync.Mutex
	inbox    string // where the client waits
	wake     chan struct{}
	cancel   context.CancelCauseFunc
	accepted bool // the first message was sent; from then on the client knows our address
	granted  bool // the client confirmed; from then on more may be sent
	credit   int
	headSent bool
	head     []byte // accept frame and response head that wait in the writer for the first bytes of the body
	headGone int    // how much of the writer's next message the timer sent already
	detached bool
	patience time.Duration // zero unless the client detached once
	forsaken *time.Timer   // ends the patience
	early    *time.Timer   // accepts when the response takes its time
	err      error         // why nobody wants this call any more
	over     bool
	beats    int
	missed   int
	sent     uint64 // messages to this client
	got      uint64 // messages of this client
}

// acceptFrame leads the first message of a worker. It has a fixed size, so that the writer can leave room for it.
var acceptFrame = appendNumber(nil, kindAccept, window)

// Refuse tells the client to look elsewhere.
func (c *Call) Refuse(reason Reason) error {
	if err := c.server.conn.Publish(c.inbox, []byte{byte(kindRefuse), 1, byte(reason)}); err != nil {
		return fmt.Errorf("relay: refuse: %w", err)
	}
	return nil
}

// Claim accepts the call and waits until the client confirms that it still wants it: for calls that come from a queue,
// before anything is done for them. [ErrGone] says that it does not, or that another worker has it. A claimed call must
// be served.
func (c *Call) Claim(ctx context.Context) error {
	err := c.accept()
	for err == nil {
		c.mu.Lock()
		granted := c.granted
		err = c.err
		c.mu.Unlock()
		if err != nil || granted {
			break
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			err = fmt.Errorf("%w: no confirmation: %w", ErrGone, context.Cause(ctx))
		}
	}
	if err != nil {
		c.drop()
	}
	return err
}

// accept tells the client our address, unless something did already, and the response head if it is known.
func (c *Call) accept() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.accepted || c.over || c.err != nil {
		return c.err
	}
	if c.head == nil {
		return c.first(acceptFrame)
	}
	c.headSent, c.headGone = true, len(c.head)-len(acceptFrame)
	return c.first(c.head)
}

// offerHead lets the timer send the head when the body takes its time. It reports whether it is too late for that.
func (c *Call) offerHead(message []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.accepted {
		c.head = message
	}
	return c.accepted
}

// first sends the first message, which must begin with the accept frame. It is called with the lock.
func (c *Call) first(message []byte) error {
	if err := c.server.register(c); err != nil {
		c.end(err)
		return err
	}
	c.accepted = true
	if c.wake == nil {
		c.wake = make(chan struct{}, 1)
	}
	return c.publish(message, true)
}

// publish sends to the client. With the address as reply, NATS tells us at once when the client's process is gone. It
// is called with the lock.
func (c *Call) publish(message []byte, address bool) (err error) {
	c.sent++
	if address {
		err = c.server.conn.PublishRequest(c.inbox, c.server.prefix+c.Request.ID, message)
	} else {
		err = c.server.conn.Publish(c.inbox, message)
	}
	if err != nil {
		return fmt.Errorf("relay: publish: %w", err)
	}
	return nil
}

// begin ties the call to its handler's context.
func (c *Call) begin(cancel context.CancelCauseFunc) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel = cancel
	if c.err != nil || c.accepted {
		return c.err
	}
	if c.in != nil {
		return c.first(acceptFrame)
	}
	c.early = time.AfterFunc(c.server.delay, func() { _ = c.accept() })
	return nil
}

// send publishes a message of the response, accept frame first, once the client may get it. cost is what its data
// costs; last says that it completes the response.
func (c *Call) send(ctx context.Context, message []byte, cost int, last bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.err != nil:
			return c.err
		case !c.accepted && last:
			// Everything in one message: the client needs no address, and nobody can mix anything in.
			c.accepted, c.headSent, c.over = true, true, true
			return c.publish(message, false)
		case !c.accepted:
			c.headSent = true
			return c.first(message)
		case c.granted && c.credit >= cost:
			c.credit -= cost
			c.headSent = true
			c.over = last
			message = message[len(acceptFrame)+c.headGone:]
			c.headGone = 0
			if len(message) == 0 {
				return nil
			}
			return c.publish(message, false)
		}
		c.mu.Unlock()
		select {
		case <-c.wake:
		case <-ctx.Done():
		}
		c.mu.Lock()
		if c.err == nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// sorry tells the client that there will be no (more) response, because of err, and returns err. A detached client
// hears it when it attaches.
func (c *Call) sorry(ctx context.Context, err error) error {
	c.mu.Lock()
	for c.detached && c.err == nil && ctx.Err() == nil {
		c.mu.Unlock()
		select {
		case <-c.wake:
		case <-ctx.Done():
		}
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if c.over || c.detached {
		return err
	}
	c.over = true
	message := append([]byte(nil), acceptFrame...) // binds the error to us: a client of another worker drops it
	_ = c.publish(appendError(message, asError(err)), c.accepted)
	return err
}

// leave ends the call from our side: the client hears e, the handler's context ends with err.
func (c *Call) leave(e *Error, err error) {
	c.mu.Lock()
	if c.err == nil && !c.over && c.accepted && !c.detached {
		_ = c.publish(appendError(append([]byte(nil), acceptFrame...), e), true)
	}
	c.end(err)
	c.mu.Unlock()
}

// end makes err the reason why nobody wants the call. It is called with the lock.
func (c *Call) end(err error) {
	if c.err != nil || c.over {
		return
	}
	c.err = err
	if c.cancel != nil {
		c.cancel(err)
	}
	if c.in != nil {
		c.in.fail(err)
	}
	c.rouse()
}

// drop forgets the call.
func (c *Call) drop() {
	c.mu.Lock()
	c.over = true
	for _, t := range []*time.Timer{c.early, c.forsaken} {
		if t != nil {
			t.Stop()
		}
	}
	accepted := c.accepted
	c.mu.Unlock()
	c.stopReading()
	if accepted {
		c.server.forget(c)
	}
}

func (c *Call) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// abandoned is called with the lock when the client is gone without a word of its own. A client that was promised the
// response may come back, from anywhere.
func (c *Call) abandoned(err error) {
	if c.patience > 0 && !c.headSent {
		c.hold(c.patience)
		return
	}
	c.end(err)
}

// hold lets the handler go on without a client. It is called with the lock.
func (c *Call) hold(patience time.Duration) {
	c.detached, c.granted, c.credit = true, false, 0
	c.patience = patience
	if c.forsaken != nil {
		c.forsaken.Stop()
	}
	var t *time.Timer
	t = time.AfterFunc(patience, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.detached && c.forsaken == t {
			c.end(ErrGone)
		}
	})
	c.forsaken = t
}

// tick is called at each beat.
func (c *Call) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.detached || c.over || c.err != nil {
		return
	}
	c.beats++
	c.missed++
	switch {
	case c.missed > maxMissed:
		c.missed = 0
		c.abandoned(ErrPeerLost)
	case c.beats > 1:
		_ = c.publish(appendNumber(nil, kindPing, c.sent+1), true)
	}
}

// receive takes a message of the client, on the subscription's goroutine.
func (c *Call) receive(reply string, data []byte, nobody bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.err != nil {
		if len(data) > 0 && reply != "" && (kind(data[0]) == kindAttach || kind(data[0]) == kindDetach) {
			_ = c.server.conn.Publish(reply, signal(kindUnknown))
		}
		return
	}
	c.missed = 0
	if nobody {
		if !c.detached {
			c.abandoned(ErrGone)
		}
		return
	}
	c.got++
	for len(data) > 0 {
		k, payload, rest, err := nextFrame(data)
		if err == nil {
			err = c.frame(k, payload, reply)
		}
		if err != nil {
			c.tell(err)
			return
		}
		data = rest
	}
}

// tell ends the exchange for the client, because of what came from it. It is called with the lock.
func (c *Call) tell(err error) {
	e := &Error{Code: codeProtocol, Message: err.Error()}
	if errors.Is(err, ErrPeerLost) {
		e.Code = codeLost
	}
	_ = c.publish(appendError(append([]byte(nil), acceptFrame...), e), true)
	c.abandoned(err)
}

// frame takes one frame, with the lock. An error ends the call.
func (c *Call) frame(k kind, payload []byte, reply string) error {
	switch k {
	case kindCredit, kindDetach, kindAttach:
		n, _, err := number(payload)
		if err != nil {
			return ErrProtocol
		}
		switch k {
		case kindCredit:
			c.grow(n)
		case kindDetach:
			c.detach(n, reply)
		default:
			c.attach(n, reply)
		}
	case kindData:
		if c.in == nil {
			return ErrProtocol
		}
		return c.in.push(payload)
	case kindEnd:
		if c.in == nil {
			return ErrProtocol
		}
		return c.in.end(payload)
	case kindPing:
		return c.pinged(payload, reply)
	case kindCancel:
		c.end(ErrCanceled)
	case kindGone:
		c.abandoned(ErrGone)
	default: // of a later version, or not for a worker
	}
	return nil
}

// grow takes credit, of which the first confirms that the client is there and ours.
func (c *Call) grow(n uint64) {
	if c.detached {
		return
	}
	c.granted = true
	c.credit = int(min(uint64(c.credit)+min(n, 1<<30), 1<<30))
	c.rouse()
}

// pinged compares what the client says that it sent with what came.
func (c *Call) pinged(payload []byte, reply string) error {
	n, _, err := number(payload)
	switch {
	case err != nil:
		return ErrProtocol
	case reply != c.inbox:
		c.got-- // a client that was superseded and does not know it yet
	case n != c.got:
		return ErrPeerLost
	}
	return nil
}

func (c *Call) detach(milliseconds uint64, reply string) {
	if reply != c.inbox { // a client that was superseded and does not know it yet
		c.got--
		if reply != "" {
			_ = c.server.conn.Publish(reply, signal(kindCancel))
		}
		return
	}
	if c.headSent || c.detached {
		return // the head is on its way: the client sees it instead of an answer
	}
	c.hold(time.Duration(min(milliseconds, uint64(maxPatience.Milliseconds()))) * time.Millisecond)
	_ = c.publish(signal(kindDetached), false)
}

func (c *Call) attach(credit uint64, reply string) {
	if reply == "" {
		return
	}
	if c.headSent {
		_ = c.server.conn.Publish(reply, signal(kindUnknown))
		return
	}
	if !c.detached && reply != c.inbox {
		_ = c.publish(signal(kindCancel), false) // the other client is superseded
	}
	if c.forsaken != nil {
		c.forsaken.Stop()
		c.forsaken = nil
	}
	c.detached, c.inbox, c.credit, c.beats = false, reply, 0, 0
	c.sent, c.got = 0, 1
	_ = c.publish(acceptFrame, true)
	c.grow(credit)
}

// grant gives the client credit for the request body.
func (c *Call) grant(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over && c.err == nil {
		_ = c.publish(appendNumber(nil, kindCredit, uint64(n)), false)
	}
}

// requestBody reads what the client uploads.
type requestBody struct{ call *Call }

func (b *requestBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c := b.call
	part, _, err := c.in.pull(context.Background(), len(p)) // the end of the call ends the flow
	if errors.Is(err, io.EOF) {
		fill(c.Request.Trailer, c.in.trailers())
	}
	return copy(p, part), err
}

// fill sets the announced keys.
func fill(announced, trailer http.Header) {
	for k, vv := range trailer {
		if announced != nil {
			announced[k] = vv
		}
	}
}

// bytesBody is a request body that came with the offer.
type bytesBody struct{ rest []byte }

func (b *bytesBody) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// stopReading ends the request body for whoever reads it on a goroutine of a handler.
func (c *Call) stopReading() {
	if c.in != nil {
		c.in.fail(ErrClosed)
	}
}
