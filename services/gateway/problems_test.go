package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestARefusalSpoilsNoRequestAfterIt: when the time to linger after a refusal is up too early, the HTTP server takes
// the connection for ended, although the next request is on its way.
func TestARefusalSpoilsNoRequestAfterIt(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.token(t, nil)
	spoil := true
	door := httptest.NewServer(s.gw.counted(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if spoil { // as a refusal does on a machine that then stands still
			spoil = false
			_, _ = io.Copy(io.Discard, r.Body)
			_ = http.NewResponseController(w).SetReadDeadline(time.Now())
			<-r.Context().Done()
			return
		}
		s.gw.ServeHTTP(w, r)
	})))
	t.Cleanup(door.Close)
	conn := dial(t, door.URL)
	in := bufio.NewReader(conn)
	for _, line := range []string{"GET /first", "POST /v2/nvcf/functions"} {
		_, err := fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 2\r\n\r\n{}", line, token)
		require.NoError(t, err)
		resp, err := http.ReadResponse(in, nil)
		require.NoError(t, err)
		var body strings.Builder
		_, err = bufio.NewReader(resp.Body).WriteTo(&body)
		require.NoError(t, err)
		if line == "GET /first" {
			continue
		}
		require.Equal(t, http.StatusOK, resp.StatusCode, body.String())
		require.NotEmpty(t, resp.Header.Get("Nvcf-Reqid"), "it was served: %s", body.String())
		require.True(t, resp.Close, "the connection is not used again")
	}
}
