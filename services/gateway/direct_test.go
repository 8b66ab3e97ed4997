package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/subject"
)

// seen is what a container tells about the request that it got.
type seen struct {
	Method, URI string
	Header      http.Header
	Length      int
	Sum         string
}

func tell(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	n, _ := io.Copy(sum, r.Body)
	_ = json.NewEncoder(w).Encode(seen{Method: r.Method, URI: r.RequestURI, Header: r.Header, Length: int(n), Sum: fmt.Sprintf("%x", sum.Sum(nil))})
}

func told(t testing.TB, r reply) (s seen) {
	t.Helper()
	require.Equal(t, http.StatusOK, r.StatusCode, r.body)
	require.NoError(t, json.Unmarshal([]byte(r.body), &s), r.body)
	return s
}

func TestDirectCallsPassByteForByte(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, _ := s.deployed(t, tell)
	bearer := s.invoker()
	for _, h2 := range []bool{false, true} {
		c := client(t, h2)
		for _, tc := range []struct{ method, target string }{
			{"GET", "/"},
			{"BREW", "/pot?a=%2F&b"},
			{"DELETE", "//a//b/../c;x=1"},
			{"PATCH", "/%7Euser/%E2%82%AC?x=%zz&&=;"},
			{"OPTIONS", "/v2/nvcf/functions"},
			{"POST", "/v2/nvcf/pexec/functions/" + uuid.NewString()},
			{"GET", "/health"},
			{"GET", "/livez"},
			{"PUT", "/a:b@c/$&'()*+,=!"},
			{"GET", "/?"},
			{"GET", "/\xc3\xa9?\xc3\xa9"},
		} {
			var got seen
			if h2 {
				if strings.HasPrefix(tc.target, "//") {
					continue // net/http's client cannot send it
				}
				r := request(t, tc.method, s.url, nil, "Host", direct(fid), "Authorization", auth(bearer))
				path, query, found := strings.Cut(tc.target, "?")
				r.URL.Opaque, r.URL.Path, r.URL.RawQuery, r.URL.ForceQuery = path, "", query, found
				got = told(t, do(t, c, r))
			} else {
				conn := dial(t, s.url)
				_, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", tc.method, tc.target, direct(fid), bearer)
				require.NoError(t, err)
				got = told(t, read(t, conn))
			}
			require.Equal(t, tc.method, got.Method)
			require.Equal(t, strconv.QuoteToASCII(tc.target), strconv.QuoteToASCII(got.URI))
		}
		for _, body := range []string{"small", strings.Repeat("0123456789abcdef", 1<<16)} {
			for _, length := range []int64{int64(len(body)), -1} {
				r := request(t, "POST", s.url+"/echo", strings.NewReader(body), "Host", direct(fid), "Authorization", auth(bearer))
				r.ContentLength = length
				got := told(t, do(t, c, r))
				require.Equal(t, len(body), got.Length)
				require.Equal(t, fmt.Sprintf("%x", sha256.Sum256([]byte(body))), got.Sum)
			}
		}
	}
}

func TestAnAbsoluteRequestTargetIsForTheProxyNotForTheContainer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, _ := s.deployed(t, tell)
	conn := dial(t, s.url)
	_, err := fmt.Fprintf(conn, "GET http://%s/a%%2Fb?c HTTP/1.1\r\nHost: ignored\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", direct(fid), s.invoker())
	require.NoError(t, err)
	require.Equal(t, "/a%2Fb?c", told(t, read(t, conn)).URI)
}

// read takes one response off a raw connection.
func read(t testing.TB, conn io.Reader) reply {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return reply{resp, string(b)}
}

func dial(t testing.TB, url string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patient)))
	return conn
}

func TestLargeBodiesComeBackWhole(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, _ := s.deployed(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	})
	body := bytes.Repeat([]byte("sirocco "), 20<<17)
	for _, h2 := range []bool{false, true} {
		got := do(t, client(t, h2), request(t, "POST", s.url+"/", bytes.NewReader(body), "Host", direct(fid), "Authorization", auth(s.invoker())))
		require.Equal(t, http.StatusOK, got.StatusCode)
		require.Equal(t, sha256.Sum256(body), sha256.Sum256([]byte(got.body)))
		require.Equal(t, "fulfilled", got.Header.Get("Nvcf-Status"))
	}
}

func TestContainersSeeTrustedHeadersOnly(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, vid := s.deployed(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["NVCF-REQID"] = []string{"forged"}
		w.Header()["nvcf-status"] = []string{"forged"}
		w.Header().Set("Access-Control-Expose-Headers", "x-mine")
		tell(w, r)
	})
	got := do(t, client(t, false), request(t, "POST", s.url+"/", strings.NewReader("{}"), "Host", direct(fid), "Authorization", auth(s.invoker()),
		"NVCF-NCAID", "forged", "NVCF-SUB", "forged", "nvcf-reqid", "forged", "NVCF-FUNCTION-ID", "forged", "NVCF-INVOCATION-REGION", "forged", "NVCF-Anything", "forged",
		"NVCF-POLL-SECONDS", "7", "X-Mine", "kept", "Te", "trailers", "Connection", "X-Hop", "X-Hop", "1"))
	require.NotContains(t, got.body, "forged")
	require.NotContains(t, got.body, "Bearer")
	id := got.Header.Get("NVCF-REQID")
	require.NoError(t, uuid.Validate(id))
	require.Equal(t, []string{"fulfilled"}, got.Header.Values("Nvcf-Status"))
	require.Equal(t, []string{id}, got.Header.Values("Nvcf-Reqid"))
	require.ElementsMatch(t, []string{"nvcf-reqid", "x-mine"}, got.Header.Values("Access-Control-Expose-Headers"))
	h := told(t, got).Header
	for k, want := range map[string]string{
		"Nvcf-Reqid": id, "Nvcf-Ncaid": "nvcf-default", "Nvcf-Sub": "owner@corp.example", "Nvcf-Function-Id": fid, "Nvcf-Function-Version-Id": vid,
		"Nvcf-Function-Name": "echo", "Nvcf-Invocation-Region": "here", "Nvcf-Poll-Seconds": "7", "X-Mine": "kept", "X-Hop": "", "Te": "",
	} {
		require.Equal(t, want, h.Get(k), k)
	}
}

func TestAnswersOfContainersPassUnchanged(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, _ := s.deployed(t, func(w http.ResponseWriter, r *http.Request) {
		var status int
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &status)
		w.Header().Set("X-Odd", "a, b;c")
		w.Header().Set("Location", "http://elsewhere/")
		w.Header().Set("Content-Type", "text/strange")
		w.WriteHeader(status)
		if status != 204 && status != 304 && r.Method != http.MethodHead {
			_, _ = io.WriteString(w, "body "+r.URL.Path)
		}
	})
	bearer := s.invoker()
	for _, h2 := range []bool{false, true} {
		c := client(t, h2)
		for status, word := range map[int]string{200: "fulfilled", 202: "in-progress", 204: "fulfilled", 301: "fulfilled", 302: "fulfilled", 304: "fulfilled", 307: "fulfilled", 400: "errored", 404: "errored", 418: "errored", 500: "errored", 503: "errored", 599: "errored"} {
			for _, method := range []string{"GET", "HEAD", "POST"} {
				got := do(t, c, request(t, method, fmt.Sprintf("%s/%d", s.url, status), nil, "Host", direct(fid), "Authorization", auth(bearer)))
				require.Equal(t, status, got.StatusCode)
				require.Equal(t, word, got.Header.Get("Nvcf-Status"))
				require.Equal(t, "a, b;c", got.Header.Get("X-Odd"))
				require.Equal(t, "http://elsewhere/", got.Header.Get("Location"))
				if status == 204 || status == 304 || method == "HEAD" {
					require.Empty(t, got.body)
				} else {
					require.Equal(t, fmt.Sprintf("body /%d", status), got.body)
					require.Equal(t, "text/strange", got.Header.Get("Content-Type"))
				}
			}
		}
	}
}

func TestEventsArriveAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	next := make(chan struct{})
	fid, _ := s.deployed(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			<-next
		}
	})
	for _, h2 := range []bool{false, true} {
		resp, err := client(t, h2).Do(request(t, "GET", s.url+"/", nil, "Host", direct(fid), "Authorization", auth(s.invoker())))
		require.NoError(t, err)
		lines := bufio.NewReader(resp.Body)
		for i := range 3 { // the container goes on only after the client has seen the event
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("data: %d\n", i), line)
			_, err = lines.ReadString('\n')
			require.NoError(t, err)
			next <- struct{}{}
		}
		_, err = lines.ReadByte()
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, resp.Body.Close())
	}
}

func TestFullDuplex(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, _ := s.deployed(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		lines := bufio.NewReader(r.Body)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(w, "pong "+line)
			_ = http.NewResponseController(w).Flush()
		}
	})
	for _, h2 := range []bool{false, true} {
		body, in := io.Pipe()
		resp, err := client(t, h2).Do(request(t, "POST", s.url+"/", body, "Host", direct(fid), "Authorization", auth(s.invoker())))
		require.NoError(t, err)
		lines := bufio.NewReader(resp.Body)
		for i := range 5 {
			_, err := fmt.Fprintf(in, "%d\n", i)
			require.NoError(t, err)
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("pong %d\n", i), line)
		}
		require.NoError(t, in.Close())
		_, err = lines.ReadByte()
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, resp.Body.Close())
	}
}

func TestAClientThatLeavesCancelsTheContainer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	began, gone := make(chan struct{}), make(chan struct{}, 1)
	fid, _ := s.deployed(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/begun" {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		}
		began <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	})
	for _, h2 := range []bool{false, true} {
		for _, path := range []string{"/silent", "/begun"} {
			ctx, leave := context.WithCancel(t.Context())
			r := request(t, "POST", s.url+path, strings.NewReader("x"), "Host", direct(fid), "Authorization", auth(s.invoker())).WithContext(ctx)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if resp, err := client(t, h2).Do(r); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			}()
			<-began
			leave()
			select {
			case <-gone:
			case <-time.After(10 * time.Second): // sooner than either side would miss the other by itself
				require.FailNow(t, "the container was not told")
			}
			<-ended
		}
	}
}

func depth(t testing.TB, s *site, version string) int64 {
	t.Helper()
	waiting, _, err := s.conn.Depth(t.Context(), version)
	require.NoError(t, err)
	return waiting
}

func TestAClientThatLeavesTheQueueLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	vid := uuid.NewString()
	fid := s.function(vid)
	ctx, leave := context.WithCancel(t.Context())
	r := request(t, "POST", s.url+"/", strings.NewReader("x"), "Host", direct(fid), "Authorization", auth(s.invoker())).WithContext(ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := client(t, false).Do(r)
		ended <- err
	}()
	require.Equal(t, vid, <-s.woken)
	require.Eventually(t, func() bool { return depth(t, s, vid) == 1 }, patient, tick)
	leave()
	require.Error(t, <-ended)
	require.Eventually(t, func() bool { return depth(t, s, vid) == 0 }, patient, tick)
}

func TestAFunctionAtZeroIsWokenAndServesWhatWaits(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	vid := uuid.NewString()
	fid := s.function(vid)
	bearer := s.invoker()
	for _, body := range []string{"small", strings.Repeat("large", 1<<20)} {
		got := make(chan reply, 1)
		vid2 := vid
		go func() {
			got <- do(t, client(t, false), request(t, "POST", s.url+"/", strings.NewReader(body), "Host", direct(fid), "Authorization", auth(bearer)))
		}()
		for range 2 { // again while it waits; a last word for the one before may still come
			for <-s.woken != vid2 {
				continue
			}
		}
		w := s.worker(t, vid2, container(t, tell), 1)
		require.Equal(t, len(body), told(t, <-got).Length)
		require.Eventually(t, func() bool { return depth(t, s, vid2) == 0 }, patient, tick)
		_ = w
		vid = uuid.NewString()
		fid = s.function(vid)
	}
}

func TestBusyInstancesQueueTheRest(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	vid := uuid.NewString()
	fid := s.function(vid)
	entered, proceed := make(chan struct{}, 8), make(chan struct{})
	s.worker(t, vid, container(t, func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-proceed
		tell(w, r)
	}), 1)
	got := make(chan reply, 3)
	for range 3 {
		go func() {
			got <- do(t, client(t, false), request(t, "GET", s.url+"/", nil, "Host", direct(fid), "Authorization", auth(s.invoker())))
		}()
	}
	<-entered
	require.Eventually(t, func() bool { return depth(t, s, vid) == 2 }, patient, tick)
	require.Empty(t, entered, "one slot, one request")
	close(proceed)
	// The test's worker looks into the queue when it is told; the agent also looks whenever a slot is free.
	require.NoError(t, s.conn.NATS().Publish("inv.hint."+vid, nil))
	for range 3 {
		require.Equal(t, http.StatusOK, (<-got).StatusCode)
	}
}

func TestAFullQueueRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	vid := uuid.NewString()
	fid := s.function(vid)
	require.NoError(t, s.conn.EnsureQueue(t.Context(), vid))
	limitQueue(t, s, vid, 1)
	_, err := s.conn.Enqueue(t.Context(), vid, uuid.NewString(), []byte("somebody else"))
	require.NoError(t, err)
	got := do(t, client(t, false), request(t, "GET", s.url+"/", nil, "Host", direct(fid), "Authorization", auth(s.invoker())))
	require.Equal(t, problem.QueueFull, refused(t, got, 429).Code)
	require.Equal(t, "1", got.Header.Get("Retry-After"))
	require.Equal(t, "errored", got.Header.Get("Nvcf-Status"))
}

func TestTheWindowEndsInA504(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	stay := make(chan struct{})
	served, _ := s.deployed(t, func(http.ResponseWriter, *http.Request) { <-stay })
	t.Cleanup(func() { close(stay) })
	vid := uuid.NewString()
	nobody := s.function(vid)
	for name, r := range map[string]*http.Request{
		"no worker, direct": request(t, "GET", s.url+"/", nil, "Host", direct(nobody)),
		"silent, direct":    request(t, "GET", s.url+"/", nil, "Host", direct(served)),
		"no worker, pexec":  request(t, "POST", s.url+"/v2/nvcf/pexec/functions/"+nobody, strings.NewReader("{}")),
		"stalled upload":    request(t, "POST", s.url+"/", stalled(t), "Host", direct(served)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r.Header.Set("Authorization", auth(s.invoker()))
			r.Header.Set("NVCF-POLL-SECONDS", "0") // raised to 1
			began := time.Now()
			got := do(t, client(t, false), r)
			took := time.Since(began)
			require.Equal(t, problem.GatewayTimeout, refused(t, got, 504).Code)
			require.Equal(t, "errored", got.Header.Get("Nvcf-Status"))
			require.GreaterOrEqual(t, took, 2900*time.Millisecond)
			require.Less(t, took, invocation.DefaultPoll, "its own window, not the usual one")
			require.Eventually(t, func() bool { return depth(t, s, vid) == 0 }, patient, tick)
		})
	}
}

// stalled is a body of which only the first bytes ever come.
func stalled(t testing.TB) io.Reader {
	t.Helper()
	body, in := io.Pipe()
	go func() { _, _ = io.WriteString(in, "first") }()
	t.Cleanup(func() { _ = in.CloseWithError(io.ErrUnexpectedEOF) })
	return body
}

func TestWindows(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, _ := s.deployed(t, tell)
	for _, bad := range []string{"3601", "abc", "-1", "1.5", "99999999999999999999"} {
		got := refused(t, do(t, client(t, false), request(t, "GET", s.url+"/", nil, "Host", direct(fid), "Authorization", auth(s.invoker()), "NVCF-POLL-SECONDS", bad)), 400)
		require.Equal(t, "NVCF-POLL-SECONDS", got.Violations[0].Field)
	}
	for given, want := range map[string]string{"0": "1", "3600": "3600", "": "60"} {
		got := told(t, do(t, client(t, false), request(t, "GET", s.url+"/", nil, "Host", direct(fid), "Authorization", auth(s.invoker()), "NVCF-POLL-SECONDS", given)))
		require.Equal(t, want, got.Header.Get("Nvcf-Poll-Seconds"))
	}
	for _, tc := range []struct {
		direct bool
		accept string
		want   time.Duration
	}{{true, "text/event-stream", time.Minute}, {false, "text/event-stream", 20 * time.Minute}, {false, "text/event-stream, */*", time.Minute}, {false, "", time.Minute}} {
		got, p := pollWindow(http.Header{"Accept": {tc.accept}}, tc.direct)
		require.Nil(t, p)
		require.Equal(t, tc.want, got)
	}
}

func TestFunctionStates(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bearer := s.invoker()
	v1, v2 := uuid.NewString(), uuid.NewString()
	fid := s.function(v1, v2)
	state := func(owner string, statuses ...functions.Status) {
		f := functions.ResolveResponse{FunctionID: fid, Owner: owner}
		for i, st := range statuses {
			f.Targets = append(f.Targets, functions.Target{VersionID: []string{v1, v2}[i], Status: st})
		}
		s.mu.Lock()
		s.functions[fid] = f
		s.mu.Unlock()
		s.gw.versions.forget(fid)
	}
	ask := func(bearer string, headers ...string) reply {
		return do(t, client(t, false), request(t, "GET", s.url+"/", nil, append([]string{"Function-Id", fid, "Authorization", auth(bearer)}, headers...)...))
	}
	require.Contains(t, refused(t, do(t, client(t, false), request(t, "GET", s.url+"/", nil, "Host", direct(uuid.NewString()), "Authorization", auth(bearer))), 404).Detail, "Not found")
	state("nvcf-default")
	require.Contains(t, refused(t, ask(bearer), 404).Detail, "Not found")
	state("nvcf-default", functions.Deploying, functions.Error)
	require.Contains(t, refused(t, ask(bearer), 404).Detail, "Not found")
	state("nvcf-default", functions.Degraded, functions.Error)
	require.Contains(t, refused(t, ask(bearer), 400).Detail, "DEGRADED")
	state("nvcf-default", functions.Active, functions.Active)
	require.Contains(t, refused(t, ask(bearer, "Function-Version-Id", uuid.NewString()), 404).Detail, "Not found")
	s.worker(t, v1, container(t, tell), 4)
	s.worker(t, v2, container(t, tell), 4)
	both := map[string]bool{}
	for range 64 {
		both[told(t, ask(bearer)).Header.Get("Nvcf-Function-Version-Id")] = true
		require.Equal(t, v2, told(t, ask(bearer, "Function-Version-Id", v2)).Header.Get("Nvcf-Function-Version-Id"))
	}
	require.Len(t, both, 2, "every version takes its share")

	narrow, _ := s.key([]string{"invoke_function"}, access1(fid+"/"+v1))
	for range 16 {
		require.Equal(t, v1, told(t, ask(narrow)).Header.Get("Nvcf-Function-Version-Id"))
	}
	require.Equal(t, problem.ResourceNotCovered, refused(t, ask(narrow, "Function-Version-Id", v2), 403).Code)
	other, _ := s.key([]string{"invoke_function"}, access1(uuid.NewString()+"/*"))
	require.Equal(t, problem.ResourceNotCovered, refused(t, ask(other), 403).Code)
	state("another-account", functions.Active, functions.Active)
	require.Equal(t, problem.NotFound, refused(t, ask(bearer), 404).Code, "a key for the account's own functions")
}

func TestAContainerThatCannotBeReachedIsA502(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	vid := uuid.NewString()
	fid := s.function(vid)
	s.worker(t, vid, "127.0.0.1:1", 1) // a port that nobody is given who asks for any
	require.Equal(t, problem.Upstream, refused(t, do(t, client(t, false), request(t, "GET", s.url+"/", nil, "Host", direct(fid), "Authorization", auth(s.invoker()))), 502).Code)
	got := refused(t, do(t, client(t, false), request(t, "POST", s.url+"/v2/nvcf/pexec/functions/"+fid, strings.NewReader("{}"), "Authorization", auth(s.invoker()))), 500)
	require.Contains(t, got.Detail, "Inference connection error")
}

func TestAResponseThatBreaksOffIsNotTakenForWhole(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, _ := s.deployed(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 64<<10))
		_ = http.NewResponseController(w).Flush()
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	})
	for _, h2 := range []bool{false, true} {
		resp, err := client(t, h2).Do(request(t, "GET", s.url+"/", nil, "Host", direct(fid), "Authorization", auth(s.invoker())))
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.Error(t, err)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		_ = resp.Body.Close()
	}
}

func TestTheRestOfARefusedBodyIsNotTheNextRequest(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, _ := s.deployed(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Content-Length", "5")
		_, _ = io.WriteString(w, "early")
	})
	bearer := s.invoker()
	for name, credential := range map[string]string{"answered early": bearer, "refused": "nvapi-wrong"} {
		conn := dial(t, s.url)
		_, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", direct(fid), credential)
		require.NoError(t, err)
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		require.NoError(t, err, name)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		_ = resp.Body.Close()
		_, _ = io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n") // in the middle of a chunked body
		rest, _ := io.ReadAll(in)
		require.Empty(t, rest, "%s: the gateway took the body for a request", name)
	}
}

func TestAClientThatStillSendsHearsTheRefusal(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	early, _ := s.deployed(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, strings.Repeat("no ", 1000))
	})
	for _, h2 := range []bool{false, true} {
		for range 3 {
			for _, length := range []int64{8 << 20, -1} {
				for credential, status := range map[string]int{s.invoker(): 403, "nonsense": 401} {
					r := request(t, "POST", s.url+"/", bytes.NewReader(make([]byte, 8<<20)), "Host", direct(early), "Authorization", auth(credential))
					r.ContentLength = length
					got := do(t, client(t, h2), r)
					require.Equal(t, status, got.StatusCode)
					if status == 403 {
						require.Len(t, got.body, 3000)
					}
				}
			}
		}
	}
}

func TestABrokenUploadIsTheClientsFault(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, _ := s.deployed(t, tell)
	for _, body := range []string{"zz\r\nhello", "5\r\nhelloXX5\r\n"} {
		conn := dial(t, s.url)
		_, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nTransfer-Encoding: chunked\r\n\r\n%s", direct(fid), s.invoker(), body)
		require.NoError(t, err)
		require.Contains(t, refused(t, read(t, conn), 400).Detail, "failed to read request body")
	}
}

func TestWebSocketsPass(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	closed := make(chan struct{})
	fid, _ := s.deployed(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			tell(w, r)
			return
		}
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer close(closed)
		defer conn.Close()
		_, _ = io.Copy(conn, rw)
	})
	conn := dial(t, s.url)
	_, err := fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n", direct(fid), s.invoker())
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	require.NoError(t, uuid.Validate(resp.Header.Get("Nvcf-Reqid")))
	for i := range 10 {
		msg := fmt.Sprintf("frame %d\n", i)
		_, err = io.WriteString(conn, msg)
		require.NoError(t, err)
		got, err := in.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, msg, got)
	}
	require.NoError(t, conn.Close())
	select {
	case <-closed:
	case <-time.After(patient):
		require.FailNow(t, "the container's side stayed open")
	}

	// What curl --http2 sends is no upgrade, and its body counts.
	conn = dial(t, s.url)
	_, err = fmt.Fprintf(conn, "POST /x HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nContent-Length: 5\r\n\r\nhello", direct(fid), s.invoker())
	require.NoError(t, err)
	require.Equal(t, 5, told(t, read(t, conn)).Length)
}

func TestStopLetsWhatIsInFlightFinish(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	entered, proceed := make(chan struct{}), make(chan struct{})
	fid, _ := s.deployed(t, func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-proceed
		tell(w, r)
	})
	bearer := s.invoker()
	for _, h2 := range []bool{false, true} {
		g, url, _ := s.gateway(t, func(*Config) {})
		got := make(chan reply, 1)
		go func() {
			got <- do(t, client(t, h2), request(t, "GET", url+"/", nil, "Host", direct(fid), "Authorization", auth(bearer)))
		}()
		<-entered
		stopped := make(chan struct{})
		go func() { stopGateway(t, g); close(stopped) }()
		require.Eventually(t, func() bool {
			c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err == nil {
				_ = c.Close()
			}
			return err != nil
		}, patient, tick, "takes nothing new")
		select {
		case <-stopped:
			require.FailNow(t, "did not wait")
		default:
		}
		proceed <- struct{}{}
		told(t, <-got)
		select {
		case <-stopped:
		case <-time.After(patient):
			require.FailNow(t, "did not stop")
		}
	}
}

func TestStopCutsWhatDoesNotFinishInTime(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	entered := make(chan struct{}, 1)
	fid, _ := s.deployed(t, func(_ http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-r.Context().Done()
	})
	g, url, _ := s.gateway(t, func(*Config) {})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		resp, err := client(t, false).Do(request(t, "GET", url+"/", nil, "Host", direct(fid), "Authorization", auth(s.invoker())))
		if err == nil {
			_ = resp.Body.Close()
		}
	}()
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_ = g.Stop(ctx)
	<-ended
}

func TestMetricsTellWhatBecameOfInvocations(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, _ := s.deployed(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	do(t, client(t, false), request(t, "GET", s.url+"/", nil, "Host", direct(fid), "Authorization", auth(s.invoker())))
	require.Eventually(t, func() bool {
		m := do(t, client(t, false), request(t, "GET", s.url+"/metrics", nil)).body
		return strings.Contains(m, fmt.Sprintf(`app_invocation_error{function_id=%q,http_status_code="418"} 1`, fid)) && strings.Contains(m, "axum_http_requests_pending 0")
	}, patient, tick)
}

// limitQueue makes the queue of a version small.
func limitQueue(t testing.TB, s *site, version string, messages int64) {
	t.Helper()
	js, err := jetstream.New(s.conn.NATS())
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), subject.QueueStream(version))
	require.NoError(t, err)
	cfg := stream.CachedInfo().Config
	cfg.MaxMsgs = messages
	_, err = js.UpdateStream(t.Context(), cfg)
	require.NoError(t, err)
}
