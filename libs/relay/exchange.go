package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Exchange is one HTTP call as the client sees it. Its methods that wait are for one goroutine at a time; Cancel,
// Accepted and Worker may be called from any.
type Exchange struct {
	client   *Client
	id       string
	token    string // the last one of inbox: the id, or when attached one of its own
	inbox    string
	offer    []byte
	body     io.Reader // what the offer does not hold; nil when it holds all
	trailer  http.Header
	uploaded chan struct{} // closed when the worker has the whole request; nil when the offer holds it
	tunnel   chan io.Reader
	attached bool // begun by Attach; the worker has our credit already

	in   inflow
	out  *outflow
	wake chan struct{} // shared with in: one goroutine waits, for whatever comes next

	mu       sync.Mutex
	worker   string // subject of the worker's side; empty until it accepts, or when its answer came complete
	taken    bool
	offering bool          // Offer waits for the word of whoever got it
	accepted chan struct{} // made on demand
	refused  Reason
	nobody   bool // nobody listened on the subject of the last offer
	response *Response
	err      error
	over     bool
	beats    int

	missed atomic.Int32
	got    uint64 // messages of the worker; only the subscription's goroutine touches it

	sending sync.Mutex // makes counting and publishing one step
	sent    uint64     // messages to the worker
}

// Response is the answer of an exchange.
type Response struct {
	Status int
	Header http.Header
	// Trailer has the announced keys, and is complete once Body has ended.
	Trailer http.Header
	Body    *Body

	ex *Exchange
}

// Open prepares an exchange. A request body of known and small length is read here, since it travels in the offer.
// The caller must call Cancel when it is done with the exchange, whatever the outcome.
func (c *Client) Open(r *Request) (*Exchange, error) {
	if !validID(r.ID) {
		return nil, fmt.Errorf("relay: %q cannot be the id of an exchange", r.ID)
	}
	ex := c.exchange(r.ID, r.ID)
	size := 256 + len(r.URI) + len(ex.inbox)
	for k, vv := range r.Header {
		for _, v := range vv {
			size += len(k) + len(v) + 8
		}
	}
	inline := -1
	switch {
	case r.Upgrade:
	case r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0:
		inline = 0
	case r.ContentLength > 0 && r.ContentLength <= inlineLimit:
		inline = int(r.ContentLength)
	}
	b := appendRequest(make([]byte, 0, size+max(inline, 0)), r, c.prefix)
	if len(b) > headLimit {
		return nil, ErrTooLarge
	}
	if inline > 0 {
		at := len(b)
		b = openData(b, 0)
		from := len(b)
		b = append(b, make([]byte, inline)...)
		if _, err := io.ReadFull(r.Body, b[from:]); err != nil {
			return nil, fmt.Errorf("relay: request body: %w", err)
		}
		closeFrame(b, at)
	}
	if inline >= 0 {
		if len(r.Trailer) > 0 { // announced trailers become known by reading on to the end
			if _, err := r.Body.Read(make([]byte, 1)); err != nil && err != io.EOF {
				return nil, fmt.Errorf("relay: request body: %w", err)
			}
		}
		b = appendEnd(b, uint64(inline), r.Trailer)
	} else {
		ex.body, ex.trailer = r.Body, r.Trailer
		ex.out, ex.uploaded = newOutflow(), make(chan struct{})
		if r.Upgrade {
			ex.tunnel = make(chan io.Reader, 1)
			ex.body = &tunnelSource{ex: ex}
		}
	}
	ex.offer = b
	return ex, c.register(ex)
}

func (c *Client) exchange(id, token string) *Exchange {
	ex := &Exchange{client: c, id: id, token: token, inbox: c.prefix + token, wake: make(chan struct{}, 1)}
	ex.in.wake = ex.wake
	ex.in.grant = ex.grant
	ex.in.allowed = inlineLimit + frameCost // what comes with an accept needs no credit
	return ex
}

// Offer publishes the exchange on a subject on which workers listen, and waits until one took it. The errors are
// [ErrBusy], [ErrNoResponders], that of ctx, and whatever ended the exchange. After the first two the exchange may be
// offered again, or queued with Payload. After that of ctx it is not known whether a worker has it. Neither is it after
// [ErrPeerLost], which comes when a worker got the offer and died before it could say anything.
func (ex *Exchange) Offer(ctx context.Context, subject string) error {
	ex.mu.Lock()
	ex.refused, ex.nobody, ex.offering = 0, false, true
	ex.mu.Unlock()
	ex.missed.Store(0)
	defer func() {
		ex.mu.Lock()
		ex.offering = false
		ex.mu.Unlock()
	}()
	if err := ex.client.conn.PublishRequest(subject, ex.inbox, ex.offer); err != nil {
		return fmt.Errorf("relay: offer: %w", err)
	}
	return ex.await(ctx, func() (bool, error) {
		switch {
		case ex.taken:
			return true, nil
		case ex.err != nil:
			return true, ex.err
		case ex.refused != 0:
			return true, fmt.Errorf("%w: %s", ErrBusy, ex.refused)
		case ex.nobody:
			return true, ErrNoResponders
		}
		return false, nil
	})
}

// Payload returns the offer for a queue. Whoever takes it from there gives it to [Server.Receive].
func (ex *Exchange) Payload() []byte { return ex.offer }

// Accepted returns a channel that is closed once a worker took the exchange.
func (ex *Exchange) Accepted() <-chan struct{} {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	if ex.accepted == nil {
		ex.accepted = make(chan struct{})
		if ex.taken {
			close(ex.accepted)
		}
	}
	return ex.accepted
}

// Worker returns the address of the worker that has the exchange, for Attach. It is empty before the exchange is
// accepted, and when the answer came at once.
func (ex *Exchange) Worker() string {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	if ex.worker == "" {
		return ""
	}
	return ex.worker[:len(ex.worker)-len(ex.id)-1]
}

// Response waits for the response head. The end of ctx cancels the exchange, here and while the body is read.
func (ex *Exchange) Response(ctx context.Context) (*Response, error) {
	err := ex.await(ctx, func() (bool, error) {
		if ex.response != nil {
			return true, nil
		}
		return ex.err != nil, ex.err
	})
	if err != nil {
		ex.Cancel()
		return nil, err
	}
	ex.response.Body.ctx = ctx
	return ex.response, nil
}

// await waits until done, which is called with the lock, says so.
func (ex *Exchange) await(ctx context.Context, done func() (bool, error)) error {
	for {
		ex.mu.Lock()
		ok, err := done()
		ex.mu.Unlock()
		if ok {
			return err
		}
		select {
		case <-ex.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Cancel tells the worker to stop, if one has the exchange, and forgets it. It does nothing after the end of the
// response. A worker that takes the exchange later hears that the client is gone.
func (ex *Exchange) Cancel() { ex.abort(ErrCanceled, true) }

// Detach asks the worker to go on alone and to keep the response for patience. It returns nil once the worker does so;
// the exchange is then over for this client. [ErrTooLate] says that the response came first: call Response.
func (ex *Exchange) Detach(ctx context.Context, patience time.Duration) error {
	ex.mu.Lock()
	worker, err := ex.worker, ex.err
	switch {
	case ex.response != nil:
		err = ErrTooLate
	case err == nil && (worker == "" || !ex.complete()):
		err = ErrNotReady
	}
	ex.mu.Unlock()
	if err != nil {
		return err
	}
	if err := ex.publish(worker, ex.inbox, appendNumber(nil, kindDetach, uint64(max(patience.Milliseconds(), 1)))); err != nil {
		return err
	}
	err = ex.await(ctx, func() (bool, error) {
		if ex.response != nil {
			return true, ErrTooLate
		}
		return ex.err != nil, ex.err
	})
	if errors.Is(err, ErrDetached) {
		return nil
	}
	return err
}

// complete reports whether the worker has the whole request.
func (ex *Exchange) complete() bool {
	if ex.uploaded == nil {
		return true
	}
	select {
	case <-ex.uploaded:
		return true
	default:
		return false
	}
}

// Attach takes up an exchange that was detached, here or in another process: worker is what [Exchange.Worker] returned
// there. If another client is attached, this one takes its place. The errors are [ErrUnknown], [ErrNoResponders] and
// that of ctx.
func (c *Client) Attach(ctx context.Context, worker, id string) (*Exchange, error) {
	if !validID(id) || !validSubject(worker+".") {
		return nil, ErrUnknown
	}
	// An inbox of its own: this client may have been attached before, and what is still on its way to that exchange must
	// not reach this one.
	c.mu.Lock()
	c.attached++
	token := id + "_" + strconv.FormatUint(c.attached, 10)
	c.mu.Unlock()
	ex := c.exchange(id, token)
	ex.worker, ex.attached = worker+"."+id, true
	ex.in.allowed = window
	if err := c.register(ex); err != nil {
		return nil, err
	}
	err := ex.publish(ex.worker, ex.inbox, appendNumber(nil, kindAttach, window))
	if err == nil {
		err = ex.await(ctx, func() (bool, error) {
			if ex.taken {
				return true, nil
			}
			return ex.err != nil, ex.err
		})
	}
	if err != nil {
		ex.abort(err, false) // not a cancel: the call belongs to whoever attaches next
		return nil, err
	}
	return ex, nil
}

// publish sends b to the worker. With an inbox as reply, NATS says at once when the worker is not there any more.
func (ex *Exchange) publish(worker, inbox string, b []byte) error {
	ex.sending.Lock()
	defer ex.sending.Unlock()
	ex.sent++
	var err error
	if inbox == "" {
		err = ex.client.conn.Publish(worker, b)
	} else {
		err = ex.client.conn.PublishRequest(worker, inbox, b)
	}
	if err != nil {
		return fmt.Errorf("relay: publish: %w", err)
	}
	return nil
}

// ping tells the worker that we are here, and how many messages it should have had.
func (ex *Exchange) ping(worker string) {
	ex.sending.Lock()
	defer ex.sending.Unlock()
	ex.sent++
	_ = ex.client.conn.PublishRequest(worker, ex.inbox, appendNumber(nil, kindPing, ex.sent))
}

func (ex *Exchange) grant(n int) {
	ex.mu.Lock()
	worker := ex.worker
	ex.mu.Unlock()
	_ = ex.publish(worker, "", appendNumber(nil, kindCredit, uint64(n)))
}

func (ex *Exchange) rouse() {
	select {
	case ex.wake <- struct{}{}:
	default:
	}
}

// abort ends the exchange before its response is complete; tell says whether the worker should hear of it.
func (ex *Exchange) abort(err error, tell bool) {
	ex.mu.Lock()
	if ex.over {
		ex.mu.Unlock()
		return
	}
	ex.over, ex.err = true, err
	worker := ex.worker
	ex.mu.Unlock()
	ex.client.forget(ex)
	if tell && worker != "" {
		_ = ex.publish(worker, "", signal(kindCancel))
	}
	ex.in.fail(err)
	if ex.out != nil {
		ex.out.fail(err)
	}
	ex.rouse()
}

// finish ends the exchange with its response.
func (ex *Exchange) finish() {
	ex.mu.Lock()
	ex.over = true
	ex.mu.Unlock()
	ex.client.forget(ex)
	if ex.out != nil {
		ex.out.fail(ErrClosed)
	}
}

// tick is called at each beat.
func (ex *Exchange) tick() {
	ex.mu.Lock()
	worker := ex.worker
	if worker != "" {
		ex.beats++
	}
	old := ex.beats > 1
	offering := ex.offering
	ex.mu.Unlock()
	if worker == "" && !offering {
		return
	}
	if ex.missed.Add(1) > maxMissed {
		ex.abort(ErrPeerLost, true)
	} else if old {
		ex.ping(worker)
	}
}

// receive takes a message of the worker, on the subscription's goroutine.
func (ex *Exchange) receive(reply string, data []byte, nobody bool) {
	ex.missed.Store(0)
	if nobody {
		ex.mu.Lock()
		waiting := !ex.taken && !ex.attached
		ex.nobody = true
		ex.mu.Unlock()
		switch {
		case waiting:
			ex.rouse()
		case ex.attached:
			ex.abort(ErrNoResponders, false)
		default:
			ex.abort(ErrPeerLost, false)
		}
		return
	}
	ex.got++
	for len(data) > 0 {
		k, payload, rest, err := nextFrame(data)
		if err != nil {
			ex.abort(ErrProtocol, true)
			return
		}
		data = rest
		if k == kindAccept {
			if !ex.take(reply, payload) {
				return
			}
			continue
		}
		if err := ex.frame(k, payload); err != nil {
			ex.abort(err, true)
			return
		}
	}
}

// take binds the exchange to the worker that accepts it. It returns false when another one has it: then the whole
// message is void.
func (ex *Exchange) take(reply string, payload []byte) bool {
	credit, _, err := number(payload)
	if err != nil {
		ex.abort(ErrProtocol, true)
		return false
	}
	ex.mu.Lock()
	if ex.over || ex.taken || ex.attached {
		mine := !ex.over && ex.worker != "" && reply == ex.worker
		fresh := mine && !ex.taken
		ex.mu.Unlock()
		if fresh {
			ex.markTaken()
		}
		switch {
		case fresh:
			ex.got = 1
		case !mine:
			ex.got-- // not from our worker
			if reply != "" {
				_ = ex.client.conn.Publish(reply, signal(kindGone))
			}
		}
		return mine
	}
	ex.worker, ex.got = reply, 1
	ex.mu.Unlock()
	if reply != "" {
		ex.in.open(window)
		ex.grant(window)
		if ex.out != nil && ex.client.begin() {
			ex.out.add(credit)
			go ex.upload()
		}
	}
	ex.markTaken()
	return true
}

func (ex *Exchange) markTaken() {
	ex.mu.Lock()
	ex.taken = true
	if ex.accepted != nil {
		close(ex.accepted)
	}
	ex.mu.Unlock()
	ex.rouse()
}

// frame takes one frame. An error ends the exchange.
func (ex *Exchange) frame(k kind, payload []byte) error {
	switch k {
	case kindResponse:
		return ex.head(payload)
	case kindData:
		return ex.in.push(payload)
	case kindEnd:
		if err := ex.in.end(payload); err != nil {
			return err
		}
		ex.finish()
	case kindCredit:
		n, _, err := number(payload)
		if err != nil || ex.out == nil {
			return ErrProtocol
		}
		ex.out.add(n)
	case kindRefuse:
		ex.mu.Lock()
		ex.refused = Busy
		if len(payload) == 1 && payload[0] != 0 {
			ex.refused = Reason(payload[0])
		}
		ex.mu.Unlock()
		ex.rouse()
	case kindDetached:
		ex.abort(ErrDetached, false)
	case kindCancel:
		ex.abort(ErrSuperseded, false)
	case kindUnknown:
		if ex.attached {
			ex.abort(ErrUnknown, false)
		} else {
			ex.abort(ErrPeerLost, false)
		}
	case kindError:
		ex.abort(decodeError(payload), false)
	case kindPing:
		if n, _, err := number(payload); err != nil || n != ex.got {
			return ErrPeerLost
		}
	default: // of a later version, or not for a client
	}
	return nil
}

func (ex *Exchange) head(payload []byte) error {
	status, h, trailer, err := decodeResponse(payload)
	if err != nil {
		return ErrProtocol
	}
	ex.mu.Lock()
	defer ex.mu.Unlock()
	if ex.response != nil {
		return ErrProtocol
	}
	ex.response = &Response{Status: status, Header: h, Trailer: trailer, Body: &Body{ex: ex}, ex: ex}
	ex.rouse()
	return nil
}

// upload sends the request body that the offer did not hold. It ends with the body or with the exchange; a Read that
// blocks must be ended by whoever owns the body.
func (ex *Exchange) upload() {
	defer ex.client.running.Done()
	ex.mu.Lock()
	worker := ex.worker
	ex.mu.Unlock()
	buf := lend()
	defer giveBack(buf)
	if cap(*buf) < chunkLimit+chunkRoom {
		*buf = make([]byte, 0, chunkLimit+chunkRoom)
	}
	var offset uint64
	for {
		b := openData((*buf)[:0], offset)
		from := len(b)
		n, err := ex.body.Read(b[from : from+chunkLimit])
		if n > 0 {
			b = b[:from+n]
			closeFrame(b, 0)
			offset += uint64(n)
			if ex.out.spend(n) != nil {
				return
			}
		} else {
			b = b[:0]
		}
		if err == io.EOF {
			b = appendEnd(b, offset, ex.trailer)
		} else if err != nil {
			ex.abort(fmt.Errorf("relay: request body: %w", err), true)
			return
		}
		if len(b) > 0 {
			if perr := ex.publish(worker, "", b); perr != nil {
				ex.abort(perr, true)
				return
			}
		}
		if err == io.EOF {
			close(ex.uploaded)
			return
		}
	}
}

// tunnelSource is the request body of an upgraded connection: nothing until the answer is known to be 101.
type tunnelSource struct {
	ex   *Exchange
	from io.Reader
}

func (t *tunnelSource) Read(p []byte) (int, error) {
	for t.from == nil {
		select {
		case t.from = <-t.ex.tunnel:
		case <-t.ex.out.stopped:
			return 0, t.ex.out.cause()
		}
	}
	return t.from.Read(p)
}

// Body is the response body: a reader that grants credit as it is read.
type Body struct {
	ex  *Exchange
	ctx context.Context
}

// next returns the next bytes as they came; more is false when they are the last.
func (b *Body) next(limit int) (p []byte, more bool, err error) {
	p, more, err = b.ex.in.pull(b.ctx, limit)
	if errors.Is(err, io.EOF) {
		b.trailers()
	} else if err != nil {
		b.ex.Cancel()
	}
	return p, more, err
}

// trailers moves what came with the end into the response. It runs on the reader's goroutine.
func (b *Body) trailers() {
	trailer := b.ex.in.trailers()
	if len(trailer) == 0 {
		return
	}
	r := b.ex.response
	if r.Trailer == nil {
		r.Trailer = make(http.Header, len(trailer))
	}
	maps.Copy(r.Trailer, trailer)
}

// Read implements [io.Reader].
func (b *Body) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	part, _, err := b.next(len(p))
	return copy(p, part), err
}

// WriteTo implements [io.WriterTo]: it saves a copy.
func (b *Body) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		part, _, err := b.next(math.MaxInt)
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(part)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// Close cancels the exchange unless the response is complete.
func (b *Body) Close() error {
	b.ex.Cancel()
	return nil
}

// ready reports whether next would return at once.
func (b *Body) ready() bool {
	f := &b.ex.in
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.parts) > 0 || f.ended || f.err != nil
}
