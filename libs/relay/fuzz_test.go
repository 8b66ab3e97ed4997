package relay

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func seedOffer() []byte {
	r := &Request{
		ID: "6f1c", Method: "POST", URI: "/a%2Fb?c", ContentLength: 3, Deadline: time.UnixMilli(1),
		Header: http.Header{"NVCF-REQID": {"1"}, "X": {"a", "b"}}, Trailer: http.Header{"T": nil},
		Attributes: []Attribute{{"k", "v"}},
	}
	b := appendRequest(nil, r, "_INBOX.x.")
	at := len(b)
	b = append(openData(b, 0), "abc"...)
	closeFrame(b, at)
	return appendEnd(b, 3, http.Header{"T": {"t"}})
}

// FuzzMessage feeds arbitrary bytes to every decoder, on both sides: none may panic, and what a decoder accepts must
// come out the same after it was encoded again.
func FuzzMessage(f *testing.F) {
	f.Add(seedOffer())
	answer := appendResponse(append([]byte(nil), acceptFrame...), 200, http.Header{"A": {"b"}}, http.Header{"T": nil}, nil)
	f.Add(appendEnd(answer, 0, nil))
	f.Add(appendError(nil, &Error{Code: "c", Message: "m"}))
	f.Add(appendNumber(nil, kindCredit, 1<<63))
	f.Add([]byte{byte(kindData), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	server := &Server{}
	f.Fuzz(func(t *testing.T, message []byte) {
		if call, err := server.Receive(message); err == nil {
			require.True(t, validID(call.Request.ID))
		}
		for rest := message; len(rest) > 0; {
			k, payload, next, err := nextFrame(rest)
			if err != nil {
				break
			}
			rest = next
			_, _, _ = decodeEnd(payload)
			_ = decodeError(payload)
			in := inflow{wake: make(chan struct{}, 1), allowed: window}
			_ = in.push(payload)
			_ = in.end(payload)
			if status, h, trailer, err := decodeResponse(payload); err == nil {
				again := appendResponse(nil, status, h, trailer, nil)
				_, p, _, err := nextFrame(again)
				require.NoError(t, err)
				status2, h2, trailer2, err := decodeResponse(p)
				require.NoError(t, err)
				require.Equal(t, status, status2)
				require.Equal(t, h, h2)
				require.Equal(t, trailer, trailer2)
			}
			if r, inbox, err := decodeRequest(payload); err == nil {
				_, p, _, err := nextFrame(appendRequest(nil, r, inbox))
				require.NoError(t, err)
				r2, inbox2, err := decodeRequest(p)
				require.NoError(t, err)
				require.Equal(t, inbox, inbox2)
				require.Equal(t, r, r2)
			}
			_ = k
		}
	})
}

func TestOfferRoundTrip(t *testing.T) {
	t.Parallel()
	call, err := (&Server{}).Receive(seedOffer())
	require.NoError(t, err)
	r := call.Request
	require.Equal(t, "/a%2Fb?c", r.URI)
	require.Equal(t, http.Header{"NVCF-REQID": {"1"}, "X": {"a", "b"}}, r.Header)
	require.Equal(t, http.Header{"T": {"t"}}, r.Trailer)
	require.Equal(t, "v", r.Attribute("k"))
	require.EqualValues(t, 3, r.ContentLength)
	require.Equal(t, "_INBOX.x.6f1c", call.inbox)
	for cut := range seedOffer() { // a truncated offer is an error, or is known to lack its body
		call, err := (&Server{}).Receive(seedOffer()[:cut])
		require.True(t, err != nil || call.in != nil, "cut at %d", cut)
	}
}
