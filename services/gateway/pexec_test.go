package gateway

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

const pexecPath = "/v2/nvcf/pexec/functions/"

func pexec(t testing.TB, base, fid, bearer, body string, headers ...string) *http.Request {
	t.Helper()
	return request(t, "POST", base+pexecPath+fid, strings.NewReader(body), append([]string{"Authorization", auth(bearer)}, headers...)...)
}

func poll(t testing.TB, base, id, bearer string, headers ...string) *http.Request {
	t.Helper()
	return request(t, "GET", base+"/v2/nvcf/pexec/status/"+id, nil, append([]string{"Authorization", auth(bearer)}, headers...)...)
}

func TestPexecCallsTheInferenceURL(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, vid := s.deployed(t, tell)
	bearer := s.invoker()
	c := client(t, false)
	for _, path := range []string{fid, fid + "/versions/" + vid, strings.ToUpper(fid) + "/versions/" + strings.ToUpper(vid), fid + "?a=%2F&b"} {
		got := told(t, do(t, c, pexec(t, s.url, path, bearer, `{"x":1}`)))
		_, query, _ := strings.Cut(path, "?")
		want := "/infer"
		if query != "" {
			want += "?" + query
		}
		require.Equal(t, want, got.URI)
		require.Equal(t, "POST", got.Method)
		require.Equal(t, 7, got.Length)
		require.Equal(t, "application/json", got.Header.Get("Content-Type"))
	}
	got := told(t, do(t, c, request(t, "POST", s.url+"/v2/orgs/o/teams/t/nvcf/pexec/functions/"+fid, strings.NewReader("{}"), "Authorization", auth(bearer))))
	require.Equal(t, "/infer", got.URI)
	require.Equal(t, problem.BadRequest, refused(t, do(t, c, pexec(t, s.url, "nope", bearer, "{}")), 400).Code)
	require.Equal(t, "POST", refusedAllow(t, do(t, c, request(t, "GET", s.url+pexecPath+fid, nil, "Authorization", auth(bearer)))))
}

// refusedAllow requires a 405 and returns the methods that are allowed but OPTIONS.
func refusedAllow(t testing.TB, r reply) string {
	t.Helper()
	require.Equal(t, problem.MethodNotAllowed, refused(t, r, 405).Code)
	return strings.TrimPrefix(r.Header.Get("Allow"), "OPTIONS, ")
}

func TestPexecRewritesContainerErrors(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, _ := s.deployed(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("say") {
		case "object":
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = io.WriteString(w, `{"error":{"message":"bad prompt"}}`)
		case "text":
			w.WriteHeader(499)
			_, _ = io.WriteString(w, `{"error":"out of \"memory\""}`)
		case "noise":
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, strings.Repeat("<html>", 100_000))
		}
	})
	bearer := s.invoker()
	c := client(t, false)
	for say, want := range map[string]struct {
		status int
		detail string
	}{"object": {422, `{"message":"bad prompt"}`}, "text": {499, `out of "memory"`}, "noise": {500, "Inference error"}} {
		got := do(t, c, pexec(t, s.url, fid+"?say="+say, bearer, "{}"))
		doc := refused(t, got, want.status)
		require.Equal(t, want.detail, doc.Detail)
		require.True(t, strings.HasPrefix(doc.Type, "urn:inference-service:problem-details:"), doc.Type)
		require.Greater(t, len(doc.Type), len("urn:inference-service:problem-details:"))
		require.Equal(t, "errored", got.Header.Get("Nvcf-Status"))
		for _, raw := range [][]string{{"Accept", "text/event-stream"}, {"nvcf-feature-disable-worker-compatibility", "TRUE"}} {
			got = do(t, c, pexec(t, s.url, fid+"?say="+say, bearer, "{}", raw...))
			require.Equal(t, want.status, got.StatusCode)
			require.NotContains(t, got.body, "urn:inference-service")
		}
	}
}

func TestA202IsPolledThroughAnyGatewayAndAnsweredOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, second, _ := s.gateway(t, func(*Config) {})
	proceed := make(chan struct{})
	fid, _ := s.deployed(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		select {
		case <-proceed:
			_, _ = io.WriteString(w, "done "+string(b))
		case <-r.Context().Done():
		}
	})
	bearer, stranger := s.invoker(), s.invoker()
	s.mu.Lock()
	foreign := s.bearers[stranger]
	foreign.Account = "another"
	s.bearers[stranger] = foreign
	s.mu.Unlock()
	other, _ := s.key([]string{"invoke_function"}, access1(uuid.NewString()+"/*"))
	c := client(t, false)

	began := time.Now()
	got := do(t, c, pexec(t, s.url, fid, bearer, "work", "NVCF-POLL-SECONDS", "1", "Origin", "http://web"))
	require.Equal(t, http.StatusAccepted, got.StatusCode, got.body)
	require.GreaterOrEqual(t, time.Since(began), time.Second, "at the end of the window")
	require.Empty(t, got.body)
	require.Equal(t, "0", got.Header.Get("Content-Length"))
	require.Equal(t, "in-progress", got.Header.Get("Nvcf-Status"))
	require.Equal(t, "http://web", got.Header.Get("Access-Control-Allow-Origin"))
	id := got.Header.Get("Nvcf-Reqid")

	require.Equal(t, http.StatusAccepted, do(t, c, poll(t, second, id, bearer, "NVCF-POLL-SECONDS", "1")).StatusCode)
	refused(t, do(t, c, poll(t, second, id, stranger)), 404)
	require.Equal(t, problem.ResourceNotCovered, refused(t, do(t, c, poll(t, second, id, other)), 403).Code)
	refused(t, do(t, c, poll(t, s.url, uuid.NewString(), bearer)), 404)
	refused(t, do(t, c, poll(t, s.url, "not-a-uuid", bearer)), 400)

	// A poll whose client leaves does not end the work, and neither does one that another takes the place of.
	s.mu.Lock()
	address := s.records[id].Worker
	s.mu.Unlock()
	heard, err := s.conn.NATS().SubscribeSync(address + ".*") // what the gateways tell the worker
	require.NoError(t, err)
	require.NoError(t, s.conn.Flush(t.Context()))
	hear := func(what string) {
		_, err := heard.NextMsg(patient)
		require.NoError(t, err, what)
	}
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		if resp, err := c.Do(poll(t, second, id, bearer).WithContext(ctx)); err == nil {
			_ = resp.Body.Close()
		}
	}()
	hear("attach")
	leave()
	hear("detach")
	<-left
	first := make(chan reply, 1)
	go func() { first <- do(t, c, poll(t, second, id, bearer)) }()
	hear("attach")
	require.NoError(t, heard.Unsubscribe())

	final := make(chan reply, 1)
	go func() { final <- do(t, client(t, true), poll(t, second, strings.ToUpper(id), bearer)) }()
	require.Equal(t, problem.Conflict, refused(t, <-first, 409).Code)
	close(proceed)
	last := <-final
	require.Equal(t, http.StatusOK, last.StatusCode, last.body)
	require.Equal(t, "done work", last.body)
	require.Equal(t, "fulfilled", last.Header.Get("Nvcf-Status"))
	require.Equal(t, id, last.Header.Get("Nvcf-Reqid"))
	require.Contains(t, refused(t, do(t, c, poll(t, s.url, id, bearer)), 404).Detail, "Not found")
}

func TestAnAnswerWithinTheWindowCannotBePolled(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fid, _ := s.deployed(t, tell)
	got := do(t, client(t, false), pexec(t, s.url, fid, s.invoker(), "{}"))
	require.Equal(t, http.StatusOK, got.StatusCode)
	refused(t, do(t, client(t, false), poll(t, s.url, got.Header.Get("Nvcf-Reqid"), s.invoker())), 404)
}

func TestAPollOfALostWorkerIsA504(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	id := uuid.NewString()
	s.records[id] = invocation.RequestRecord{DetachRequest: invocation.DetachRequest{
		RequestID: id, Account: "nvcf-default", FunctionID: uuid.NewString(), VersionID: uuid.NewString(), Worker: "_INBOX.nobody",
	}}
	got := do(t, client(t, false), poll(t, s.url, id, s.invoker()))
	require.Equal(t, "worker did not acknowledge the status request.", refused(t, got, 504).Detail)
	require.Equal(t, "errored", got.Header.Get("Nvcf-Status"))
}

func TestPreflights(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := client(t, false)
	for path, allow := range map[string]string{pexecPath + uuid.NewString(): "POST", pexecPath + uuid.NewString() + "/versions/" + uuid.NewString(): "POST", "/v2/nvcf/pexec/status/" + uuid.NewString(): "GET,HEAD"} {
		got := do(t, c, request(t, "OPTIONS", s.url+path, nil, "Origin", "http://web", "Access-Control-Request-Headers", "authorization"))
		require.Equal(t, http.StatusOK, got.StatusCode)
		require.Equal(t, allow, got.Header.Get("Allow"))
		require.Equal(t, "http://web", got.Header.Get("Access-Control-Allow-Origin"))
		require.Equal(t, "true", got.Header.Get("Access-Control-Allow-Credentials"))
		require.Equal(t, "86400", got.Header.Get("Access-Control-Max-Age"))
		require.Equal(t, "authorization", got.Header.Get("Access-Control-Allow-Headers"))
	}
}

// TestTheAnswerOfAPublicFunctionIsForWhoeverCouldCallIt: what may be called whatever a key's resources are may be polled so, too.
func TestTheAnswerOfAPublicFunctionIsForWhoeverCouldCallIt(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	version := uuid.NewString()
	private, public := s.function(version), s.function(version)
	elsewhere, _ := s.key([]string{access.InvokeFunction}, access1(uuid.NewString()+"/*"))
	s.mu.Lock()
	s.functions[public].Targets[0].Public = true
	s.mu.Unlock()
	ask := func(function string) reply {
		id := uuid.NewString()
		s.mu.Lock()
		s.records[id] = invocation.RequestRecord{DetachRequest: invocation.DetachRequest{
			RequestID: id, FunctionID: function, VersionID: version, Account: access.DefaultAccount, Worker: "gone",
		}}
		s.mu.Unlock()
		return do(t, client(t, false), poll(t, s.url, id, elsewhere))
	}
	require.Equal(t, problem.ResourceNotCovered, refused(t, ask(private), 403).Code)
	require.Equal(t, problem.GatewayTimeout, refused(t, ask(public), 504).Code, "it went on to ask the worker")
}
