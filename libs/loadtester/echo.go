package loadtester

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// randomLetters is load, not a secret: the fast generator is meant.
func randomLetters(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = letters[rand.IntN(len(letters))]
	}
	return out
}

func echo(w http.ResponseWriter, r *http.Request) {
	e, status, err := decode(w, r)
	if err != nil {
		writeError(w, status, err.Error())
		return
	}
	message := []byte(e.Message)
	if e.Size > 0 {
		message = randomLetters(e.Size)
	}
	if e.Stream && strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		echoEvents(w, r, e, message)
		return
	}
	if !wait(r.Context(), e.delay()) {
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.FormatInt(int64(len(message))*int64(e.Repeats), 10))
	w.WriteHeader(http.StatusOK)
	writeRepeated(w, message, e.Repeats)
}

// writeRepeated sends message n times through a chunk of bounded size, so that
// a gigabyte answer costs neither a gigabyte of memory nor a write per byte.
func writeRepeated(w http.ResponseWriter, message []byte, n int) {
	const chunkBytes = 64 << 10
	perChunk := min(n, max(1, chunkBytes/len(message)))
	chunk := message
	if perChunk > 1 {
		chunk = bytes.Repeat(message, perChunk)
	}
	for n > 0 {
		take := min(n, perChunk)
		if _, err := w.Write(chunk[:take*len(message)]); err != nil {
			return
		}
		n -= take
	}
}

func echoEvents(w http.ResponseWriter, r *http.Request, e Echo, message []byte) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	if flush.Flush() != nil {
		return
	}
	event := eventOf(message)
	// The n-th event has a due time, so that lateness of one sleep is not added
	// to the next and the rate stays what the client asked for.
	start := time.Now()
	for i := range e.Repeats {
		due := start.Add(time.Duration(i+1) * e.delay())
		if !wait(r.Context(), time.Until(due)) {
			return
		}
		if _, err := w.Write(event); err != nil {
			return
		}
		if flush.Flush() != nil {
			return
		}
	}
}

// eventOf frames a message as one server-sent event; a line break inside the
// message becomes a further data line, as the format demands.
func eventOf(message []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.SplitSeq(message, []byte("\n")) {
		out.WriteString("data: ")
		out.Write(line)
		out.WriteByte('\n')
	}
	out.WriteByte('\n')
	return out.Bytes()
}
