package relay

import (
	"context"
	"errors"
	"io"
	"net/http"
)

// Writer sends the response of a call. What is written waits in one buffer until Flush, until the buffer is full, or
// until the handler returns; a response that is complete by then is one message. It is for one goroutine.
type Writer struct {
	ctx     context.Context
	call    *Call
	lent    *[]byte
	buf     []byte // accept frame, head, one open data frame
	data    int    // where the open data frame begins; 0 when none is open
	from    int    // where its bytes begin
	offset  uint64 // bytes of the body in front of buf
	begun   bool
	sent    bool
	late    bool // the head came after the accept: nobody but us will send it
	trailer http.Header
}

func newWriter(ctx context.Context, c *Call) *Writer {
	lent := lend()
	return &Writer{ctx: ctx, call: c, lent: lent, buf: append(*lent, acceptFrame...)}
}

func (w *Writer) release() {
	*w.lent = w.buf
	giveBack(w.lent)
	w.buf = nil
}

// WriteHead begins the response. trailer has the keys that are announced, or is nil.
func (w *Writer) WriteHead(status int, h, trailer http.Header) error {
	return w.writeHead(status, h, trailer, nil)
}

func (w *Writer) writeHead(status int, h, trailer http.Header, drop func(string) bool) error {
	if w.begun {
		return errors.New("relay: response has begun already")
	}
	if status < 100 || status > 999 {
		return errors.New("relay: status out of range")
	}
	at := len(w.buf)
	w.buf = appendResponse(w.buf, status, h, trailer, drop)
	if len(w.buf)-at > headLimit {
		w.buf = w.buf[:at]
		return ErrTooLarge
	}
	w.begun = true
	w.late = w.call.offerHead(w.buf)
	return nil
}

// SetTrailer sets what follows the body.
func (w *Writer) SetTrailer(h http.Header) { w.trailer = h }

// Begun reports whether the head was written.
func (w *Writer) Begun() bool { return w.begun }

// room opens a data frame if there is none, and returns how many bytes may still go into it, after flushing a full one.
func (w *Writer) room() (int, error) {
	if !w.begun {
		if err := w.WriteHead(http.StatusOK, nil, nil); err != nil {
			return 0, err
		}
	}
	limit := chunkLimit
	if !w.sent {
		limit = inlineLimit
	}
	if w.data > 0 && len(w.buf)-w.from >= limit {
		if err := w.Flush(); err != nil {
			return 0, err
		}
		limit = chunkLimit
	}
	if w.data == 0 {
		w.data = len(w.buf)
		w.buf = openData(w.buf, w.offset)
		w.from = len(w.buf)
	}
	return limit - (len(w.buf) - w.from), nil
}

// Write adds to the body.
func (w *Writer) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		room, err := w.room()
		if err != nil {
			return done, err
		}
		n := min(room, len(p)-done)
		w.buf = append(w.buf, p[done:done+n]...)
		done += n
	}
	return done, nil
}

// CopyFrom adds all of r to the body and sends each piece as it is read, except when the body is then known to be
// complete. length is that of the body, or -1.
func (w *Writer) CopyFrom(r io.Reader, length int64) error {
	if !w.begun {
		if err := w.WriteHead(http.StatusOK, nil, nil); err != nil {
			return err
		}
	}
	if w.late && !w.sent && w.data == 0 && length != 0 {
		if err := w.Flush(); err != nil { // the head must not wait for a body that may take long
			return err
		}
	}
	var total int64
	for {
		room, err := w.room()
		if err != nil {
			return err
		}
		if length >= 0 {
			room = min(room, int(min(length-total, chunkLimit))+1) // one more byte, to meet the end
		}
		w.reserve(room, length >= 0)
		at := len(w.buf)
		n, err := r.Read(w.buf[at:min(at+room, cap(w.buf)-chunkRoom)])
		w.buf = w.buf[:at+n]
		total += int64(n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n > 0 && total != length {
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
}

// reserve makes the buffer large enough to read up to n bytes; when it is not known that there are so many, a first
// piece may be smaller, since most bodies are small.
func (w *Writer) reserve(n int, sure bool) {
	free := cap(w.buf) - len(w.buf) - chunkRoom
	if free >= n || free >= 2<<10 && !w.sent && !sure {
		return
	}
	grown := make([]byte, len(w.buf), len(w.buf)+n+chunkRoom)
	copy(grown, w.buf)
	w.buf = grown
}

// Flush sends what was written, once the client has room for it.
func (w *Writer) Flush() error { return w.send(false) }

func (w *Writer) send(last bool) error {
	n, cost := 0, 0
	if w.data > 0 {
		n = len(w.buf) - w.from
		if n == 0 {
			w.buf = w.buf[:w.data]
		} else {
			closeFrame(w.buf, w.data)
			cost = n + frameCost
		}
		w.data = 0
	}
	w.offset += uint64(n)
	if last {
		w.buf = appendEnd(w.buf, w.offset, w.trailer)
	}
	if len(w.buf) == len(acceptFrame) {
		return nil
	}
	if err := w.call.send(w.ctx, w.buf, cost, last); err != nil {
		return err
	}
	w.sent = true
	w.buf = w.buf[:len(acceptFrame)]
	return nil
}

// finish completes the response.
func (w *Writer) finish() error {
	if !w.begun {
		return &Error{Code: codeNoResponse, Message: "the handler returned without a response"}
	}
	return w.send(true)
}
