package loadtester

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
)

// maxLineBytes bounds one line of a ping-pong; a longer one ends the session.
const maxLineBytes = 64 << 10

// pingPong reads lines while it writes answers. HTTP/1.1 servers normally close
// the request body at the first response byte, hence EnableFullDuplex; HTTP/2
// needs nothing.
func pingPong(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	if err := control.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		writeError(w, http.StatusInternalServerError, "full duplex: "+err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(http.StatusOK)
	if control.Flush() != nil {
		return
	}
	lines := bufio.NewReaderSize(r.Body, maxLineBytes)
	for {
		line, err := lines.ReadSlice('\n')
		if bytes.Equal(bytes.TrimSpace(line), []byte("ping")) {
			if _, werr := io.WriteString(w, "pong\n"); werr != nil || control.Flush() != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
