package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// message is one length-prefixed gRPC message.
func message(payload string) string {
	return "\x00\x00\x00\x00" + string(rune(len(payload))) + payload
}

// greeter is a gRPC server at the level of HTTP/2: it answers every message, and ends with a status in the trailers.
func greeter(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" {
		w.WriteHeader(http.StatusHTTPVersionNotSupported)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	if r.URL.Path == "/echo.Echo/Fail" { // trailers only
		h.Set("Grpc-Status", "9")
		h.Set("Grpc-Message", "not today")
		return
	}
	h.Set("X-Method", r.URL.Path)
	h.Set("X-Saw-Credential", r.Header.Get("Authorization"))
	h.Set("X-Meta", r.Header.Get("X-Meta"))
	buf := make([]byte, 64)
	for {
		n, err := r.Body.Read(buf)
		if n > 0 {
			_, _ = w.Write(buf[:n])
			_ = http.NewResponseController(w).Flush()
		}
		if err != nil {
			break
		}
	}
	h.Set(http.TrailerPrefix+"Grpc-Status", "0")
	h.Set(http.TrailerPrefix+"X-Tail", "end")
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, vid := s.deployed(t, greeter)
	c := client(t, true)
	call := func(path string, body io.Reader, headers ...string) *http.Request {
		return request(t, "POST", "http://"+s.grpc+path, body, append([]string{"Content-Type", "application/grpc+proto", "Te", "trailers"}, headers...)...)
	}
	bearer := s.invoker()

	t.Run("unary", func(t *testing.T) {
		got := do(t, c, call("/echo.Echo/Say", strings.NewReader(message("hello")), "Authorization", auth(bearer), "function-id", fid, "function-version-id", vid, "X-Meta", "custom"))
		require.Equal(t, http.StatusOK, got.StatusCode, got.body)
		require.Equal(t, message("hello"), got.body)
		require.Equal(t, "0", got.Trailer.Get("Grpc-Status"))
		require.Equal(t, "end", got.Trailer.Get("X-Tail"))
		require.Equal(t, "/echo.Echo/Say", got.Header.Get("X-Method"))
		require.Equal(t, "custom", got.Header.Get("X-Meta"))
		require.Empty(t, got.Header.Get("X-Saw-Credential"))
		require.NoError(t, uuid.Validate(got.Header.Get("Nvcf-Reqid")))
	})
	t.Run("bidirectional, in lock-step", func(t *testing.T) {
		body, in := io.Pipe()
		done := make(chan *http.Response, 1)
		go func() {
			resp, err := c.Do(call("/echo.Echo/Talk", body, "Authorization", auth(bearer), "function-id", fid))
			if err == nil {
				done <- resp
			}
			close(done)
		}()
		_, err := io.WriteString(in, message("0"))
		require.NoError(t, err)
		resp := <-done
		require.NotNil(t, resp)
		for i := range 5 {
			want := message(string(rune('0' + i)))
			got := make([]byte, len(want))
			_, err := io.ReadFull(resp.Body, got)
			require.NoError(t, err)
			require.Equal(t, want, string(got))
			if i < 4 {
				_, err = io.WriteString(in, message(string(rune('1'+i))))
				require.NoError(t, err)
			}
		}
		require.NoError(t, in.Close())
		_, err = resp.Body.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, "0", resp.Trailer.Get("Grpc-Status"))
		require.NoError(t, resp.Body.Close())
	})
	t.Run("trailers only", func(t *testing.T) {
		got := do(t, c, call("/echo.Echo/Fail", strings.NewReader(message("x")), "Authorization", auth(bearer), "function-id", fid))
		require.Equal(t, "9", got.Header.Get("Grpc-Status"))
		require.Equal(t, "not today", got.Header.Get("Grpc-Message"))
	})
	t.Run("a stream may be silent longer than a window", func(t *testing.T) {
		slow, _ := s.deployed(t, func(w http.ResponseWriter, r *http.Request) {
			<-time.After(3500 * time.Millisecond)
			greeter(w, r)
		})
		got := do(t, c, call("/echo.Echo/Say", strings.NewReader(message("late")), "Authorization", auth(bearer), "function-id", slow, "nvcf-poll-seconds", "1"))
		require.Equal(t, message("late"), got.body)
		require.Equal(t, "0", got.Trailer.Get("Grpc-Status"))
	})
	t.Run("refusals", func(t *testing.T) {
		narrow, _ := s.key([]string{"list_functions"}, allFunctions)
		for _, tc := range []struct {
			status  string
			headers []string
		}{
			{"16", nil},
			{"16", []string{"Authorization", "Basic x", "function-id", fid}},
			{"16", []string{"Authorization", "Bearer not-a-token", "function-id", fid}},
			{"3", []string{"Authorization", auth(bearer)}},
			{"3", []string{"Authorization", auth(bearer), "function-id", "x"}},
			{"3", []string{"Authorization", auth(bearer), "function-id", fid, "function-version-id", "x"}},
			{"5", []string{"Authorization", auth(bearer), "function-id", uuid.NewString()}},
			{"7", []string{"Authorization", auth(narrow), "function-id", fid}},
			{"16", []string{"Authorization", "Bearer nvapi-unknown", "function-id", fid}},
		} {
			got := do(t, c, call("/echo.Echo/Say", strings.NewReader(message("x")), tc.headers...))
			require.Equal(t, http.StatusOK, got.StatusCode)
			require.Equal(t, tc.status, got.Header.Get("Grpc-Status"), got.Header)
			require.Equal(t, "application/grpc", got.Header.Get("Content-Type"))
			require.NotEmpty(t, got.Header.Get("Grpc-Message"))
			require.NotContains(t, got.Header.Get("Grpc-Message"), " ")
			require.NoError(t, uuid.Validate(got.Header.Get("Nvcf-Reqid")))
			require.Empty(t, got.body)
		}
	})
	t.Run("health without metadata", func(t *testing.T) {
		got := do(t, c, call("/grpc.health.v1.Health/Check", strings.NewReader(message(""))))
		require.Equal(t, message("\x08\x01"), got.body)
		require.Equal(t, "0", got.Trailer.Get("Grpc-Status"))
		plain := do(t, client(t, false), request(t, "GET", "http://"+s.grpc+"/health", nil))
		require.Equal(t, http.StatusOK, plain.StatusCode)
	})
	t.Run("plain HTTP with the same metadata", func(t *testing.T) {
		fid, _ := s.deployed(t, tell)
		got := told(t, do(t, client(t, false), request(t, "PUT", "http://"+s.grpc+"/any?x=1", nil, "Authorization", auth(bearer), "function-id", fid)))
		require.Equal(t, "/any?x=1", got.URI)
		refused(t, do(t, client(t, false), request(t, "GET", "http://"+s.grpc+"/any", nil)), 401)
	})
}
