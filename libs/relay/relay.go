// Package relay carries any HTTP exchange over NATS, in both directions at once.
//
// # The two sides
//
// A [Client] lives in a gateway: it opens an [Exchange] for each HTTP call, offers it to workers, and reads the
// response. A [Server] lives in a worker: it turns an offer into a [Call] and serves it with a [Handler], usually
// [Proxy]. Each side owns one wildcard subscription on a private subject prefix; the last token of a subject is the
// exchange id, so an exchange costs no subscription of its own.
//
//	gateway                                      worker
//	   │ offer: request head (+ small body)         │   subject chosen by the gateway, or a queue
//	   ├───────────────────────────────────────────►│
//	   │ response head + body + end                 │   small and quick: one message each way, nothing else
//	   │◄───────────────────────────────────────────┤
//	   │ accept, later or with the first bytes      │   anything longer: the NATS reply subject is the worker's address
//	   │◄───────────────────────────────────────────┤
//	   │ credit, or gone                            │   the client confirms; only then may more follow
//	   ├───────────────────────────────────────────►│
//	   │ data, end  ⇄  head, data, end, credit      │   full duplex
//
// # Rules
//
// A message is a sequence of frames (see frame.go). A worker that did not answer completely in its first message sends
// nothing more until the client granted credit. This one rule makes acceptance exact: of two workers that answer the
// same offer, the second hears "gone" before it can mix its bytes into the body, and a queued offer whose client has
// left is never executed (see [Call.Claim]).
//
// Data is flow controlled by credit in each direction, so an exchange holds a bounded amount of memory and a slow
// reader delays nobody else: subscription callbacks never block. Every data frame names its offset, so a message lost
// by a reconnect ends the exchange with [ErrPeerLost]; a body is never silently wrong.
//
// A client may detach from an exchange whose response has not begun. The worker goes on, holds the response, and any
// client may attach to it by worker address and id.
package relay

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Sizes of the protocol, in bytes.
const (
	// inlineLimit is the largest request body that travels inside the offer, and the largest response body that
	// waits for its end before anything is sent.
	inlineLimit = 32 << 10
	// chunkLimit is the largest payload of one data frame.
	chunkLimit = 64 << 10
	// window is the credit that a receiver keeps open for its sender.
	window = 256 << 10
	// frameCost is charged for each data frame on top of its bytes, so that very small frames are bounded too.
	frameCost = 64
	// headLimit is the largest encoded head; it stays below the usual NATS payload limit of 1 MiB.
	headLimit = 512 << 10
)

const (
	// acceptDelay is how long a worker waits for a quick response before it says that it took the exchange. An accept
	// costs two messages: with a shorter delay a busy machine would make itself busier.
	acceptDelay = 10 * time.Millisecond
	// beat is the time between keep-alive frames.
	beat = 5 * time.Second
	// maxMissed is how many beats a peer may be silent.
	maxMissed = 3
	// maxPatience bounds how long a detached call waits for somebody to attach, whatever the client asks.
	maxPatience = 24 * time.Hour
)

// The ways in which an exchange can end other than by its response.
var (
	// ErrBusy says that a worker saw the offer and refused it.
	ErrBusy = errors.New("relay: worker refused the exchange")
	// ErrNoResponders says that nobody listens on the subject of the offer, or on the worker's address.
	ErrNoResponders = errors.New("relay: no worker listens")
	// ErrTooLate says that the response began before the worker could let the client go.
	ErrTooLate = errors.New("relay: response has begun")
	// ErrNotReady says that an exchange cannot be detached yet: no worker has it, or its request body is still on its way.
	ErrNotReady = errors.New("relay: exchange is not wholly with a worker")
	// ErrUnknown says that the worker does not know the exchange.
	ErrUnknown = errors.New("relay: exchange is unknown")
	// ErrGone says that the client has left.
	ErrGone = errors.New("relay: client has left")
	// ErrCanceled says that the exchange was cancelled.
	ErrCanceled = errors.New("relay: exchange cancelled")
	// ErrDetached says that this client let the exchange go.
	ErrDetached = errors.New("relay: exchange detached")
	// ErrSuperseded says that another client attached to the exchange.
	ErrSuperseded = errors.New("relay: another client attached")
	// ErrPeerLost says that the other side vanished, or that a message of it was lost.
	ErrPeerLost = errors.New("relay: peer lost")
	// ErrProtocol says that the other side broke the protocol, for example by sending more than it had credit for.
	ErrProtocol = errors.New("relay: protocol violation")
	// ErrClosed says that this process is closing its side.
	ErrClosed = errors.New("relay: closed")
	// ErrTooLarge says that a head is larger than a message may be.
	ErrTooLarge = errors.New("relay: head too large")
)

// Error is a failure of the worker's handler, carried to the client instead of a response or of its rest.
type Error struct {
	Code    string // stable, for programs
	Message string // for people
}

func (e *Error) Error() string { return "relay: " + e.Code + ": " + e.Message }

// Is makes what the worker noticed about the link the same as what the client would have noticed.
func (e *Error) Is(target error) bool {
	return e.Code == codeLost && target == ErrPeerLost || e.Code == codeProtocol && target == ErrProtocol
}

// The codes of this package itself, beside those of a handler.
const (
	codeLost        = "lost"
	codeProtocol    = "protocol"
	codeNoResponse  = "no-response"
	codeFailed      = "failed"
	codeClosing     = "closing"
	codeUnreachable = "unreachable" // Proxy: no connection to the container, or no response head from it
	codeBroken      = "broken"      // Proxy: the container's response broke off
)

// Reason says why a worker refuses an offer.
type Reason uint8

// The reasons for a refusal.
const (
	Busy      Reason = iota + 1 // every slot is taken
	Draining                    // the instance is about to stop
	Unhealthy                   // the instance fails its health check
)

func (r Reason) String() string {
	switch r {
	case Busy:
		return "busy"
	case Draining:
		return "draining"
	case Unhealthy:
		return "unhealthy"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Attribute is a fact that travels beside the HTTP head, out of reach of the HTTP client: who calls, what is called.
type Attribute struct{ Name, Value string }

// Request is the request of an exchange, on both sides.
type Request struct {
	// ID names the exchange: a UUID, or any short token of letters, digits, '-' and '_'.
	ID     string
	Method string
	// URI is the path and query as the client wrote them, byte for byte.
	URI string
	// Header is written to the container with the exact keys of the map.
	Header http.Header
	// Body may be nil. The client side reads it on a goroutine of the exchange unless it is small.
	Body io.Reader
	// ContentLength is -1 when unknown.
	ContentLength int64
	// Trailer has the announced keys; its values are valid once Body has ended, as in net/http.
	Trailer http.Header
	// Upgrade asks for a raw connection in both directions if the answer is 101. Body must be nil.
	Upgrade    bool
	Attributes []Attribute
	// Deadline is zero when there is none. It has millisecond resolution on the wire.
	Deadline time.Time
}

// Attribute returns the value of the named attribute, or "".
func (r *Request) Attribute(name string) string {
	for _, a := range r.Attributes {
		if a.Name == name {
			return a.Value
		}
	}
	return ""
}

// validID reports whether id can be the last token of a subject.
func validID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	return strings.IndexFunc(id, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0
}

// token returns the last token of a subject.
func token(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }
