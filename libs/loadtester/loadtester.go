// Package loadtester is the HTTP half of the platform's test function: the
// container that load tests, samples and conformance suites call.
//
// It is a plain [http.Handler] so that the same behaviour can run as a process,
// in a container image, or inside the sim driver without any socket:
//
//	GET  /health     200
//	POST /echo       {"message","repeats","delay","size","stream"}
//	POST /ping-pong  for each line "ping" answers "pong" while the request is still open
//
// An echo answers with message × repeats as text and a Content-Length. With
// size > 0 the message is replaced by that many random letters. With repeats 0
// or absent the body is empty. When stream is true and the client accepts
// text/event-stream the answer is one server-sent event per repeat, one each
// delay seconds; otherwise delay is waited once, before the answer.
package loadtester

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"time"
)

// Bounds of one echo. They keep a single request from holding a test function
// for ever or from filling its memory; all are far above what load tests send.
const (
	// MaxRequestBytes is the largest JSON document that /echo reads.
	MaxRequestBytes = 64 << 20
	// MaxMessageBytes is the largest random message that size may ask for.
	MaxMessageBytes = 256 << 20
	// MaxResponseBytes is the largest answer, message × repeats.
	MaxResponseBytes = 16 << 30
	// MaxDelay is the longest delay.
	MaxDelay = time.Hour
)

// Echo is the request document of POST /echo.
type Echo struct {
	// Message is what comes back; it must not be empty.
	Message string `json:"message"`
	// Repeats is how often the message comes back.
	Repeats int `json:"repeats"`
	// Delay is in seconds.
	Delay float64 `json:"delay"`
	// Size replaces the message by so many random letters when it is positive.
	Size int `json:"size"`
	// Stream asks for server-sent events.
	Stream bool `json:"stream"`
}

// validate names the first field that breaks a rule.
func (e Echo) validate() error {
	switch {
	case e.Message == "":
		return errors.New("message is required and must not be empty")
	case e.Repeats < 0:
		return errors.New("repeats must not be negative")
	case e.Size < 0 || e.Size > MaxMessageBytes:
		return fmt.Errorf("size must lie between 0 and %d", MaxMessageBytes)
	case math.IsNaN(e.Delay) || e.Delay < 0 || e.Delay > MaxDelay.Seconds():
		return fmt.Errorf("delay must lie between 0 and %.0f seconds", MaxDelay.Seconds())
	}
	if length := max(e.Size, len(e.Message)); e.Repeats > MaxResponseBytes/length {
		return fmt.Errorf("message × repeats must not exceed %d bytes", int64(MaxResponseBytes))
	}
	return nil
}

func (e Echo) delay() time.Duration { return time.Duration(e.Delay * float64(time.Second)) }

// New returns the test function. It keeps no state, so one value may serve any
// number of instances.
func New() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("POST /echo", echo)
	mux.HandleFunc("POST /ping-pong", pingPong)
	mux.HandleFunc("/health", methodNotAllowed("GET, HEAD"))
	mux.HandleFunc("/echo", methodNotAllowed("POST"))
	mux.HandleFunc("/ping-pong", methodNotAllowed("POST"))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, http.StatusNotFound, "no such path: "+r.URL.Path)
	})
	return mux
}

func methodNotAllowed(allow string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allow)
		writeError(w, http.StatusMethodNotAllowed, r.URL.Path+" takes "+allow)
	}
}

func writeError(w http.ResponseWriter, status int, message string) {
	body, err := json.Marshal(map[string]string{"error": message})
	if err != nil { // a map of strings always marshals
		body = []byte(`{"error":"internal"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// wait sleeps for d and reports whether the client is still there.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// decode reads one echo document and the status to answer when it is wrong.
func decode(w http.ResponseWriter, r *http.Request) (Echo, int, error) {
	var e Echo
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, MaxRequestBytes))
	if err := decoder.Decode(&e); err != nil {
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			return e, http.StatusRequestEntityTooLarge, fmt.Errorf("the body exceeds %d bytes", tooLarge.Limit)
		}
		return e, http.StatusBadRequest, fmt.Errorf("the body is not a JSON echo document: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return e, http.StatusBadRequest, errors.New("the body holds more than one JSON document")
	}
	if err := e.validate(); err != nil {
		return e, http.StatusBadRequest, err
	}
	return e, 0, nil
}
