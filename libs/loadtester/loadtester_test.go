package loadtester_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/libs/loadtester"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func serve(t *testing.T) (*httptest.Server, *http.Client) {
	t.Helper()
	server := httptest.NewServer(loadtester.New())
	t.Cleanup(server.Close)
	t.Cleanup(server.Client().CloseIdleConnections)
	return server, server.Client()
}

func post(t *testing.T, client *http.Client, url, body string, header http.Header) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	maps.Copy(req.Header, header)
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(out)
}

func TestEchoAnswersMessageTimesRepeats(t *testing.T) {
	t.Parallel()
	server, client := serve(t)
	for _, c := range []struct{ name, body, want string }{
		{"once", `{"message":"hello","repeats":1}`, "hello"},
		{"three times", `{"message":"ab","repeats":3}`, "ababab"},
		{"no repeats", `{"message":"hello"}`, ""},
		{"zero repeats", `{"message":"hello","repeats":0}`, ""},
		{"unicode", `{"message":"é","repeats":2}`, "éé"},
		{"stream without accept", `{"message":"x","repeats":2,"stream":true}`, "xx"},
		{"unknown fields are ignored", `{"message":"x","repeats":1,"more":1}`, "x"},
		{"large", `{"message":"0123456789","repeats":100000}`, strings.Repeat("0123456789", 100000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			resp, body := post(t, client, server.URL+"/echo", c.body, nil)
			require.Equal(t, http.StatusOK, resp.StatusCode)
			require.Equal(t, c.want, body)
			require.Equal(t, strconv.Itoa(len(c.want)), resp.Header.Get("Content-Length"))
			require.Contains(t, resp.Header.Get("Content-Type"), "text/plain")
		})
	}
}

func TestEchoSizeReplacesTheMessage(t *testing.T) {
	t.Parallel()
	server, client := serve(t)
	_, body := post(t, client, server.URL+"/echo", `{"message":"x","size":1000,"repeats":2}`, nil)
	require.Len(t, body, 2000)
	require.Equal(t, body[:1000], body[1000:])
	require.Regexp(t, `^[a-zA-Z]+$`, body)
}

func TestEchoDelaysTheAnswer(t *testing.T) {
	t.Parallel()
	server, client := serve(t)
	start := time.Now()
	_, body := post(t, client, server.URL+"/echo", `{"message":"x","repeats":2,"delay":0.05}`, nil)
	require.Equal(t, "xx", body)
	require.GreaterOrEqual(t, time.Since(start), 50*time.Millisecond)
}

func TestEchoStreamsEventsOneByOne(t *testing.T) {
	t.Parallel()
	server, client := serve(t)
	// An hour between events: the test passes only if the head arrives at once,
	// and leaving ends the handler.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/echo",
		strings.NewReader(`{"message":"x","repeats":2,"delay":3600,"stream":true}`))
	require.NoError(t, err)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := client.Do(req)
	require.NoError(t, err)
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	cancel()
	resp.Body.Close()

	accept := http.Header{"Accept": {"text/event-stream"}}
	_, body := post(t, client, server.URL+"/echo", `{"message":"a\nb","repeats":3,"delay":0.001,"stream":true}`, accept)
	require.Equal(t, strings.Repeat("data: a\ndata: b\n\n", 3), body)
}

func TestBadRequestsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	server, client := serve(t)
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		want                     string
	}{
		{"not json", "POST", "/echo", `hello`, 400, "JSON"},
		{"empty", "POST", "/echo", ``, 400, "JSON"},
		{"no message", "POST", "/echo", `{"repeats":1}`, 400, "message is required"},
		{"wrong type", "POST", "/echo", `{"message":1}`, 400, "message"},
		{"two documents", "POST", "/echo", `{"message":"a"}{"message":"a"}`, 400, "more than one"},
		{"negative repeats", "POST", "/echo", `{"message":"a","repeats":-1}`, 400, "repeats"},
		{"huge repeats", "POST", "/echo", `{"message":"aaaa","repeats":9223372036854775807}`, 400, "repeats"},
		{"negative delay", "POST", "/echo", `{"message":"a","delay":-1}`, 400, "delay"},
		{"endless delay", "POST", "/echo", `{"message":"a","delay":1e300}`, 400, "delay"},
		{"negative size", "POST", "/echo", `{"message":"a","size":-1}`, 400, "size"},
		{"huge size", "POST", "/echo", `{"message":"a","size":99999999999}`, 400, "size"},
		{"unknown path", "GET", "/nothing", ``, 404, "/nothing"},
		{"wrong method", "GET", "/echo", ``, 405, "POST"},
		{"health by post", "POST", "/health", ``, 405, "GET"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequestWithContext(t.Context(), c.method, server.URL+c.path, strings.NewReader(c.body))
			require.NoError(t, err)
			resp, err := client.Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			require.Equal(t, c.status, resp.StatusCode)
			require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
			var document struct {
				Error string `json:"error"`
			}
			require.NoError(t, json.NewDecoder(resp.Body).Decode(&document))
			require.Contains(t, document.Error, c.want)
		})
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	server, client := serve(t)
	resp, err := client.Get(server.URL + "/health")
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

func TestPingPongAnswersWhileTheRequestIsOpen(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*httptest.Server){
		"HTTP/1.1": func(s *httptest.Server) { s.Start() },
		"HTTP/2":   func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewUnstartedServer(loadtester.New())
			start(server)
			defer server.Close()
			defer server.Client().CloseIdleConnections()
			body, lines := io.Pipe()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/ping-pong", body)
			require.NoError(t, err)
			resp, err := server.Client().Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			require.Equal(t, name, strings.TrimSuffix(resp.Proto, ".0"))
			answers := bufio.NewReader(resp.Body)
			for range 3 {
				_, err = io.WriteString(lines, "other\nping\n")
				require.NoError(t, err)
				answer, err := answers.ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, "pong\n", answer)
			}
			require.NoError(t, lines.Close())
			_, err = answers.ReadByte()
			require.ErrorIs(t, err, io.EOF)
		})
	}
}

func FuzzEcho(f *testing.F) {
	f.Add(`{"message":"a","repeats":2}`)
	f.Add(`{"message":"a","size":3,"repeats":1,"stream":true}`)
	f.Add(`[]`)
	handler := loadtester.New()
	f.Fuzz(func(t *testing.T, body string) {
		var e loadtester.Echo
		if json.Unmarshal([]byte(body), &e) == nil && (e.Size > 1<<16 || e.Repeats > 1<<10 || e.Delay > 0.001) {
			t.Skip("valid but slow")
		}
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, "/echo", strings.NewReader(body)))
		require.Contains(t, []int{200, 400}, recorder.Code)
	})
}
