package relay

import (
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"sync"
)

// inflow is the receiving half of one direction of an exchange: the bytes that have come and were not read yet. The
// subscription callback pushes, one reader pulls. What it can hold is bounded by the credit that it granted.
type inflow struct {
	mu      sync.Mutex
	wake    chan struct{} // holds one token when there is something new for the reader
	grant   func(n int)   // sends credit; called without the lock, by the reader
	parts   [][]byte
	allowed int    // credit that the sender has left
	owed    int    // credit for bytes that were read and not granted again yet
	offset  uint64 // bytes received so far
	ended   bool
	trailer http.Header
	err     error
}

// open lets the sender send n more than the first message.
func (f *inflow) open(n int) {
	f.mu.Lock()
	f.allowed += n
	f.mu.Unlock()
}

// push takes the payload of a data frame; it keeps a reference to it.
func (f *inflow) push(payload []byte) error {
	offset, data, err := number(payload)
	if err != nil {
		return ErrProtocol
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil // nobody reads any more; what is still on its way does not matter
	}
	if offset != f.offset {
		return ErrPeerLost
	}
	cost := len(data) + frameCost
	if f.ended || cost > f.allowed {
		return ErrProtocol
	}
	f.allowed -= cost
	f.offset += uint64(len(data))
	f.parts = append(f.parts, data)
	f.rouse()
	return nil
}

func (f *inflow) end(payload []byte) error {
	total, trailer, err := decodeEnd(payload)
	if err != nil {
		return ErrProtocol
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil && total != f.offset {
		return ErrPeerLost
	}
	f.ended, f.trailer = true, trailer
	f.rouse()
	return nil
}

// fail ends the flow for its reader, after what has already come.
func (f *inflow) fail(err error) {
	f.mu.Lock()
	if f.err == nil && !f.ended {
		f.err = err
	}
	f.rouse()
	f.mu.Unlock()
}

func (f *inflow) rouse() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// pull waits for bytes and returns at most limit of them without copying. The bytes belong to the caller. At the end of
// the body it returns io.EOF. more is false when what it returns is known to be the last.
func (f *inflow) pull(ctx context.Context, limit int) (p []byte, more bool, err error) {
	for {
		f.mu.Lock()
		switch {
		case len(f.parts) > 0:
			return f.take(limit)
		case f.err != nil:
			err = f.err
			f.mu.Unlock()
			return nil, false, err
		case f.ended:
			f.mu.Unlock()
			return nil, false, io.EOF
		}
		f.mu.Unlock()
		select {
		case <-f.wake:
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		}
	}
}

// take is called with the lock and returns without it.
func (f *inflow) take(limit int) (p []byte, more bool, err error) {
	p = f.parts[0]
	cost := frameCost
	if len(p) > limit {
		f.parts[0] = p[limit:]
		p = p[:limit]
		cost = 0
	} else {
		f.parts[0] = nil
		f.parts = f.parts[1:]
	}
	f.owed += len(p) + cost
	more = !f.ended || len(f.parts) > 0
	give := 0
	if !f.ended && f.owed >= window/2 {
		give, f.owed = f.owed, 0
		f.allowed += give
	}
	f.mu.Unlock()
	if give > 0 {
		f.grant(give)
	}
	return p, more, nil
}

// trailers returns what came with the end, once.
func (f *inflow) trailers() http.Header {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.trailer
	f.trailer = nil
	return t
}

// outflow is the credit that the sending half of one direction has left.
type outflow struct {
	mu      sync.Mutex
	wake    chan struct{}
	stopped chan struct{} // closed by fail
	credit  int
	err     error
}

func newOutflow() *outflow {
	return &outflow{wake: make(chan struct{}, 1), stopped: make(chan struct{})}
}

// add takes a grant. A peer that grants absurd amounts is only cheating itself, but the sum must not overflow.
func (f *outflow) add(n uint64) {
	f.mu.Lock()
	f.credit = int(min(uint64(f.credit)+min(n, 1<<30), 1<<30))
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *outflow) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
		close(f.stopped)
	}
}

func (f *outflow) cause() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// spend waits until the cost of n bytes in one frame can be paid.
func (f *outflow) spend(n int) error {
	for {
		f.mu.Lock()
		if err := f.err; err != nil {
			f.mu.Unlock()
			return err
		}
		if f.credit >= n+frameCost {
			f.credit -= n + frameCost
			f.mu.Unlock()
			return nil
		}
		f.mu.Unlock()
		select {
		case <-f.wake:
		case <-f.stopped:
		}
	}
}

// chunkRoom is what a message needs beside its data: the frame head, the offset, and an end frame without trailers.
const chunkRoom = 64

// buffers lends the buffers in which messages are built.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, 0, 4<<10)
	return &b
}}

func lend() *[]byte {
	b, _ := buffers.Get().(*[]byte)
	return b
}

func giveBack(b *[]byte) {
	if cap(*b) <= 2*chunkLimit {
		*b = (*b)[:0]
		buffers.Put(b)
	}
}

// openData begins a data frame at the end of b.
func openData(b []byte, offset uint64) []byte {
	return binary.AppendUvarint(openFrame(b, kindData), offset)
}
