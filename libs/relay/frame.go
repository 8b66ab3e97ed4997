package relay

import (
	"encoding/binary"
	"errors"
)

// A message is a sequence of frames: kind u8, length uvarint, payload. The receiver looks at the frames of a message
// in order; a frame of an unknown kind is skipped, so that a later version may add some.
type kind byte

const (
	kindRequest  kind = iota + 1 // client: request head; opens an offer
	kindResponse                 // worker: response head
	kindData                     // both: offset uvarint, bytes
	kindEnd                      // both: total length uvarint, trailers
	kindCredit                   // both: uvarint more bytes may be sent; the first one confirms an accept
	kindAccept                   // worker: credit for the request body; the NATS reply is the worker's address
	kindRefuse                   // worker: reason u8
	kindGone                     // client: nobody waits for this exchange, or another worker has it
	kindCancel                   // both: stop, nobody will read the rest
	kindDetach                   // client: go on without me; patience in milliseconds uvarint
	kindDetached                 // worker: the answer to detach
	kindAttach                   // client: send the response to the NATS reply of this message; credit uvarint
	kindUnknown                  // worker: the answer to detach, attach and ping of an exchange it does not have
	kindError                    // worker: code and message; ends the exchange
	kindPing                     // both: I am here; number of messages sent to you, this one included
)

var errFrame = errors.New("relay: malformed frame")

// paddedLen is the size of a length that is written before the payload is known: a uvarint of always four bytes.
const paddedLen = 4

// nextFrame splits the first frame off a message.
func nextFrame(b []byte) (k kind, payload, rest []byte, err error) {
	if len(b) < 2 {
		return 0, nil, nil, errFrame
	}
	n, w := binary.Uvarint(b[1:])
	if w <= 0 || n > uint64(len(b)-1-w) {
		return 0, nil, nil, errFrame
	}
	at := 1 + w
	end := at + int(n)
	return kind(b[0]), b[at:end:end], b[end:], nil
}

// openFrame begins a frame whose length is not known yet; closeFrame, given the same position, completes it.
func openFrame(b []byte, k kind) []byte {
	return append(b, byte(k), 0, 0, 0, 0)
}

func closeFrame(b []byte, at int) {
	n := len(b) - at - 1 - paddedLen
	b[at+1] = byte(n) | 0x80
	b[at+2] = byte(n>>7) | 0x80
	b[at+3] = byte(n>>14) | 0x80
	b[at+4] = byte(n>>21) & 0x7f
}

// appendNumber adds a frame that holds one number.
func appendNumber(b []byte, k kind, n uint64) []byte {
	at := len(b)
	b = append(b, byte(k), 0)
	b = binary.AppendUvarint(b, n)
	b[at+1] = byte(len(b) - at - 2)
	return b
}

// number reads the number at the beginning of a payload.
func number(payload []byte) (n uint64, rest []byte, err error) {
	n, w := binary.Uvarint(payload)
	if w <= 0 {
		return 0, nil, errFrame
	}
	return n, payload[w:], nil
}

// signal is a message of one frame without payload.
func signal(k kind) []byte { return []byte{byte(k), 0} }
