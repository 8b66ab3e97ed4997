package relay

import (
	"encoding/binary"
	"errors"
	"net/http"
	"time"
)

// Heads are written as plain fields: numbers as uvarint, strings with their length before them. A decoder copies the
// payload once and cuts every string out of that copy.

var errHead = errors.New("relay: malformed head")

// version is the first byte of a request head. A worker refuses what it does not know.
const version = 1

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// appendHeader writes a header: the number of keys, the number of values, then each key with its values. Keys for
// which drop reports true are left out; drop may be nil.
func appendHeader(b []byte, h http.Header, drop func(string) bool) []byte {
	keys, values := 0, 0
	for k, vv := range h {
		if drop == nil || !drop(k) {
			keys++
			values += len(vv)
		}
	}
	b = binary.AppendUvarint(b, uint64(keys))
	b = binary.AppendUvarint(b, uint64(values))
	for k, vv := range h {
		if drop != nil && drop(k) {
			continue
		}
		b = appendString(b, k)
		b = binary.AppendUvarint(b, uint64(len(vv)))
		for _, v := range vv {
			b = appendString(b, v)
		}
	}
	return b
}

// appendNames writes the keys of a trailer that is announced.
func appendNames(b []byte, h http.Header) []byte {
	b = binary.AppendUvarint(b, uint64(len(h)))
	for k := range h {
		b = appendString(b, k)
	}
	return b
}

// decoder cuts fields off a string. After the first malformed field everything reads as zero and bad is true.
type decoder struct {
	s   string
	bad bool
}

func (d *decoder) uvarint() uint64 {
	var n uint64
	for i := 0; i < len(d.s) && i < binary.MaxVarintLen64; i++ {
		c := d.s[i]
		if i == binary.MaxVarintLen64-1 && c > 1 {
			break
		}
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.s = d.s[i+1:]
			return n
		}
	}
	d.fail()
	return 0
}

func (d *decoder) fail() { d.s, d.bad = "", true }

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.s)) {
		d.fail()
		return ""
	}
	s := d.s[:n]
	d.s = d.s[n:]
	return s
}

// count reads a number of things of which each takes at least one byte of what is left, so that a lie cannot make the
// decoder allocate more than the message is long.
func (d *decoder) count() int {
	n := d.uvarint()
	if n > uint64(len(d.s)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) header(room int) http.Header {
	keys, total := d.count(), d.count()
	if d.bad {
		return nil
	}
	h := make(http.Header, keys+room)
	values := make([]string, total)
	for range keys {
		k := d.string()
		n := d.count()
		if n > len(values) {
			d.fail()
		}
		if d.bad {
			return nil
		}
		vv := values[:n:n]
		values = values[n:]
		for i := range vv {
			vv[i] = d.string()
		}
		h[k] = vv
	}
	return h
}

func (d *decoder) names() http.Header {
	n := d.count()
	if n == 0 || d.bad {
		return nil
	}
	h := make(http.Header, n)
	for range n {
		h[d.string()] = nil
	}
	return h
}

// appendRequest writes the request head frame. inbox is the prefix of the client that waits for the answer.
func appendRequest(b []byte, r *Request, inbox string) []byte {
	at := len(b)
	b = openFrame(b, kindRequest)
	b = append(b, version)
	b = appendString(b, inbox)
	b = appendString(b, r.ID)
	b = appendString(b, r.Method)
	b = appendString(b, r.URI)
	b = binary.AppendUvarint(b, uint64(r.ContentLength+1))
	var deadline uint64
	if !r.Deadline.IsZero() {
		deadline = uint64(max(r.Deadline.UnixMilli(), 1))
	}
	b = binary.AppendUvarint(b, deadline)
	var flags byte
	if r.Upgrade {
		flags = 1
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(len(r.Attributes)))
	for _, a := range r.Attributes {
		b = appendString(b, a.Name)
		b = appendString(b, a.Value)
	}
	b = appendHeader(b, r.Header, nil)
	b = appendNames(b, r.Trailer)
	closeFrame(b, at)
	return b
}

func decodeRequest(payload []byte) (r *Request, inbox string, err error) {
	if len(payload) == 0 || payload[0] != version {
		return nil, "", errHead
	}
	d := decoder{s: string(payload[1:])}
	inbox = d.string()
	r = &Request{ID: d.string(), Method: d.string(), URI: d.string()}
	r.ContentLength = int64(d.uvarint()) - 1
	if ms := d.uvarint(); ms > 0 {
		r.Deadline = time.UnixMilli(int64(ms))
	}
	r.Upgrade = d.uvarint()&1 != 0
	if n := d.count(); n > 0 {
		r.Attributes = make([]Attribute, n)
		for i := range r.Attributes {
			r.Attributes[i] = Attribute{Name: d.string(), Value: d.string()}
		}
	}
	r.Header = d.header(8) // the worker adds a few of its own
	r.Trailer = d.names()
	if d.bad || !validID(r.ID) || !validSubject(inbox) || r.Method == "" || r.ContentLength < -1 {
		return nil, "", errHead
	}
	return r, inbox, nil
}

// validSubject keeps a malformed offer from making the worker publish to a subject that NATS would reject.
func validSubject(s string) bool {
	if s == "" || len(s) > 256 || s[len(s)-1] != '.' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '*' || c == '>' {
			return false
		}
	}
	return true
}

func appendResponse(b []byte, status int, h, trailer http.Header, drop func(string) bool) []byte {
	at := len(b)
	b = openFrame(b, kindResponse)
	b = binary.AppendUvarint(b, uint64(status))
	b = appendHeader(b, h, drop)
	b = appendNames(b, trailer)
	closeFrame(b, at)
	return b
}

func decodeResponse(payload []byte) (status int, h, trailer http.Header, err error) {
	d := decoder{s: string(payload)}
	n := d.uvarint()
	h = d.header(0)
	trailer = d.names()
	if d.bad || n < 100 || n > 999 {
		return 0, nil, nil, errHead
	}
	return int(n), h, trailer, nil
}

// appendEnd writes the end of a body of total bytes, with its trailers.
func appendEnd(b []byte, total uint64, trailer http.Header) []byte {
	if len(trailer) == 0 {
		return appendNumber(b, kindEnd, total)
	}
	at := len(b)
	b = openFrame(b, kindEnd)
	b = binary.AppendUvarint(b, total)
	b = appendHeader(b, trailer, nil)
	closeFrame(b, at)
	return b
}

func decodeEnd(payload []byte) (total uint64, trailer http.Header, err error) {
	total, rest, err := number(payload)
	if err != nil || len(rest) == 0 {
		return total, nil, err
	}
	d := decoder{s: string(rest)}
	trailer = d.header(0)
	if d.bad {
		return 0, nil, errHead
	}
	return total, trailer, nil
}

func appendError(b []byte, e *Error) []byte {
	at := len(b)
	b = openFrame(b, kindError)
	b = appendString(b, e.Code)
	b = appendString(b, e.Message)
	closeFrame(b, at)
	return b
}

func decodeError(payload []byte) *Error {
	d := decoder{s: string(payload)}
	return &Error{Code: d.string(), Message: d.string()}
}
