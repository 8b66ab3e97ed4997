package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// echo answers with the request body, piece by piece.
func echo(_ context.Context, w *Writer, r *Request) error {
	if err := w.WriteHead(http.StatusOK, http.Header{"X-Uri": {r.URI}, "X-Method": {r.Method}}, nil); err != nil {
		return err
	}
	return w.CopyFrom(r.Body, r.ContentLength)
}

// exchange opens and offers a request and returns the response head.
func exchange(t testing.TB, c *Client, r *Request) (*Exchange, *Response) {
	t.Helper()
	ex, err := c.Open(r)
	require.NoError(t, err)
	t.Cleanup(ex.Cancel)
	require.NoError(t, ex.Offer(background(t), subject))
	resp, err := ex.Response(background(t))
	require.NoError(t, err)
	return ex, resp
}

func post(body io.Reader, length int64) *Request {
	return &Request{
		ID: uuid.NewString(), Method: http.MethodPost, URI: "/echo?a=%2F&b", Header: http.Header{},
		Body: body, ContentLength: length,
	}
}

// exactKey is a header key that containers expect in this case, although it is not canonical.
var exactKey = "NVCF-REQID"

func TestSmallEchoIsOneMessageEachWay(t *testing.T) {
	t.Parallel()
	deadline := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	c, s, _ := pair(t, func(ctx context.Context, w *Writer, r *Request) error {
		if r.Attribute("NVCF-SUB") != "alice" || !r.Deadline.Equal(deadline) || r.Header[exactKey][0] != "exact" {
			return &Error{Code: "bad", Message: fmt.Sprint(r.Attributes, r.Deadline, deadline, r.Header)}
		}
		return echo(ctx, w, r)
	})
	s.delay = time.Hour // so that a slow machine does not accept early
	r := post(strings.NewReader("hello"), 5)
	r.Header[exactKey] = []string{"exact"}
	r.Attributes = []Attribute{{"NVCF-SUB", "alice"}}
	r.Deadline = deadline
	out, in := c.conn.Stats().OutMsgs, c.conn.Stats().InMsgs
	ex, resp := exchange(t, c, r)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "hello", string(body))
	require.Equal(t, http.StatusOK, resp.Status)
	require.Equal(t, "/echo?a=%2F&b", resp.Header.Get("X-Uri"))
	require.Empty(t, ex.Worker())
	<-ex.Accepted()
	require.Equal(t, out+1, c.conn.Stats().OutMsgs)
	require.Equal(t, in+1, c.conn.Stats().InMsgs)
}

func TestLargeBodiesBothWays(t *testing.T) {
	t.Parallel()
	const size = 20 << 20
	c, _, ended := pair(t, echo)
	for _, length := range []int64{size, -1} {
		sent := sha256.New()
		_, resp := exchange(t, c, post(io.TeeReader(io.LimitReader(rand.Reader, size), sent), length))
		got := sha256.New()
		n, err := io.Copy(got, resp.Body)
		require.NoError(t, err)
		require.EqualValues(t, size, n)
		require.Equal(t, sent.Sum(nil), got.Sum(nil))
		require.NoError(t, <-ended)
	}
}

func TestFullDuplexLineByLine(t *testing.T) {
	t.Parallel()
	c, _, _ := pair(t, echo)
	pr, pw := io.Pipe()
	defer pw.Close()
	_, resp := exchange(t, c, post(pr, -1))
	for i := range 100 {
		line := fmt.Sprintf("ping %d\n", i)
		_, err := io.WriteString(pw, line)
		require.NoError(t, err)
		got := make([]byte, len(line))
		_, err = io.ReadFull(resp.Body, got)
		require.NoError(t, err)
		require.Equal(t, line, string(got))
	}
	require.NoError(t, pw.Close())
	rest, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Empty(t, rest)
}

func TestResponseMayEndBeforeTheRequest(t *testing.T) {
	t.Parallel()
	c, _, _ := pair(t, func(_ context.Context, w *Writer, _ *Request) error {
		_, err := io.WriteString(w, "enough")
		return err
	})
	pr, pw := io.Pipe()
	defer pw.Close()
	_, resp := exchange(t, c, post(pr, -1))
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "enough", string(body))
}

func TestEveryFlushArrivesAlone(t *testing.T) {
	t.Parallel()
	step := make(chan struct{})
	c, _, _ := pair(t, func(_ context.Context, w *Writer, _ *Request) error {
		for i := range 5 {
			if _, err := fmt.Fprintf(w, "data: %d\n\n", i); err != nil {
				return err
			}
			if err := w.Flush(); err != nil {
				return err
			}
			<-step // the next event is not made before this one was seen
		}
		return nil
	})
	_, resp := exchange(t, c, get("/sse"))
	for i := range 5 {
		want := fmt.Sprintf("data: %d\n\n", i)
		got := make([]byte, len(want))
		_, err := io.ReadFull(resp.Body, got)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
		step <- struct{}{}
	}
	_, err := resp.Body.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
}

func TestTrailers(t *testing.T) {
	t.Parallel()
	c, _, _ := pair(t, func(_ context.Context, w *Writer, r *Request) error {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		if err := w.WriteHead(200, nil, http.Header{"Grpc-Status": nil}); err != nil {
			return err
		}
		w.SetTrailer(http.Header{"Grpc-Status": {"0"}, "X-Sum": {r.Trailer.Get("X-Sum")}})
		_, err = w.Write(body)
		return err
	})
	r := post(nil, -1)
	r.Trailer = http.Header{"X-Sum": nil}
	r.Body = io.MultiReader(strings.NewReader("abc"), readerFunc(func([]byte) (int, error) {
		r.Trailer.Set("X-Sum", "3")
		return 0, io.EOF
	}))
	_, resp := exchange(t, c, r)
	require.Contains(t, resp.Trailer, "Grpc-Status")
	_, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.Header{"Grpc-Status": {"0"}, "X-Sum": {"3"}}, resp.Trailer)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestCancelReachesTheHandler(t *testing.T) {
	t.Parallel()
	reached := make(chan error, 1)
	c, _, ended := pair(t, func(ctx context.Context, w *Writer, r *Request) error {
		if r.URI == "/stream" {
			_, _ = w.Write([]byte("x"))
			_ = w.Flush()
		}
		<-ctx.Done()
		reached <- context.Cause(ctx)
		return ctx.Err()
	})
	t.Run("before the head", func(t *testing.T) {
		ex, err := c.Open(get("/"))
		require.NoError(t, err)
		require.NoError(t, ex.Offer(background(t), subject))
		ctx, cancel := context.WithCancel(background(t))
		cancel()
		_, err = ex.Response(ctx)
		require.ErrorIs(t, err, context.Canceled)
		select {
		case err := <-reached:
			require.ErrorIs(t, err, ErrCanceled)
		case <-time.After(told):
			t.Fatal("the handler did not hear of it")
		}
		require.ErrorIs(t, <-ended, ErrCanceled)
	})
	t.Run("in the body", func(t *testing.T) {
		ex, resp := exchange(t, c, get("/stream"))
		require.NoError(t, resp.Body.Close())
		ex.Cancel()
		require.ErrorIs(t, <-reached, ErrCanceled)
	})
}

func TestRefusedThenTaken(t *testing.T) {
	t.Parallel()
	c, s, _ := pair(t, echo)
	sub, err := s.conn.Subscribe("inv.busy", func(m *nats.Msg) {
		call, err := s.Receive(m.Data)
		if err == nil {
			_ = call.Refuse(Draining)
		}
	})
	require.NoError(t, err)
	require.NoError(t, s.conn.Flush())
	defer func() { _ = sub.Unsubscribe() }()
	ex, err := c.Open(post(strings.NewReader("hi"), 2))
	require.NoError(t, err)
	defer ex.Cancel()
	err = ex.Offer(background(t), "inv.busy")
	require.ErrorIs(t, err, ErrBusy)
	require.ErrorContains(t, err, "draining")
	require.ErrorIs(t, ex.Offer(background(t), "inv.nobody"), ErrNoResponders)
	require.NoError(t, ex.Offer(background(t), subject))
	resp, err := ex.Response(background(t))
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "hi", string(body))
}

func TestOfferGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	c, s, _ := pair(t, echo)
	sub, err := s.conn.SubscribeSync("inv.silent")
	require.NoError(t, err)
	require.NoError(t, s.conn.Flush())
	defer func() { _ = sub.Unsubscribe() }()
	ex, err := c.Open(get("/"))
	require.NoError(t, err)
	defer ex.Cancel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, ex.Offer(ctx, "inv.silent"), context.Canceled)
	require.Empty(t, ex.Worker())
}

func TestClaimOfAQueuedOffer(t *testing.T) {
	t.Parallel()
	n := startNATS(t)
	s := newTestServer(t, connect1(t, n))
	other := newTestServer(t, connect1(t, n))
	c := newTestClient(t, connect1(t, n))

	t.Run("client waits", func(t *testing.T) {
		ex, err := c.Open(post(strings.NewReader("queued"), 6))
		require.NoError(t, err)
		defer ex.Cancel()
		offer := ex.Payload()
		call, err := s.Receive(offer)
		require.NoError(t, err)
		require.NoError(t, call.Claim(background(t)))
		<-ex.Accepted()
		require.Equal(t, s.Address(), ex.Worker())

		// A redelivery is not executed: not by another worker, not by the same.
		again, err := other.Receive(offer)
		require.NoError(t, err)
		require.ErrorIs(t, again.Claim(background(t)), ErrGone)
		again, err = s.Receive(offer)
		require.NoError(t, err)
		require.ErrorIs(t, again.Claim(background(t)), ErrGone)

		served := make(chan error, 1)
		go func() { served <- s.Serve(context.Background(), call, echo) }()
		resp, err := ex.Response(background(t))
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "queued", string(body))
		require.NoError(t, <-served)
	})
	t.Run("client has left", func(t *testing.T) {
		ex, err := c.Open(get("/"))
		require.NoError(t, err)
		offer := ex.Payload()
		ex.Cancel()
		call, err := s.Receive(offer)
		require.NoError(t, err)
		require.ErrorIs(t, call.Claim(background(t)), ErrGone)
	})
	t.Run("client's process is gone", func(t *testing.T) {
		conn := connect1(t, n)
		lost := newTestClient(t, conn)
		ex, err := lost.Open(get("/"))
		require.NoError(t, err)
		require.NoError(t, lost.Close(background(t)))
		require.NoError(t, conn.Flush())
		call, err := s.Receive(ex.Payload())
		require.NoError(t, err)
		require.ErrorIs(t, call.Claim(background(t)), ErrGone)
	})
	require.Empty(t, s.all())
	require.Empty(t, other.all())
}

func TestDetachAndAttach(t *testing.T) {
	t.Parallel()
	finish := make(chan struct{})
	n := startNATS(t)
	s := newTestServer(t, connect1(t, n))
	ended := work(t, s, func(ctx context.Context, w *Writer, r *Request) error {
		select {
		case <-finish:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		_, err := w.Write(bytes.Repeat([]byte("r"), 300<<10))
		return err
	})
	first := newTestClient(t, connect1(t, n))
	second := newTestClient(t, connect1(t, n))

	r := get("/")
	ex, err := first.Open(r)
	require.NoError(t, err)
	require.NoError(t, ex.Offer(background(t), subject))
	require.NoError(t, ex.Detach(background(t), time.Minute))
	worker := ex.Worker()
	require.Equal(t, s.Address(), worker)
	_, err = ex.Response(background(t))
	require.ErrorIs(t, err, ErrDetached)

	// A second process takes it up, and lets it go again.
	ex, err = second.Attach(background(t), worker, r.ID)
	require.NoError(t, err)
	require.NoError(t, ex.Detach(background(t), time.Minute))

	// The response waits for the next one.
	close(finish)
	ex, err = first.Attach(background(t), worker, r.ID)
	require.NoError(t, err)
	// Another client takes its place if it gets there before the head does; here the head is taken first.
	resp, err := ex.Response(background(t))
	require.NoError(t, err)
	require.ErrorIs(t, ex.Detach(background(t), time.Minute), ErrTooLate)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Len(t, body, 300<<10)
	require.NoError(t, <-ended)

	_, err = first.Attach(background(t), worker, r.ID)
	require.ErrorIs(t, err, ErrUnknown)
	_, err = first.Attach(background(t), "no.such.worker", r.ID)
	require.ErrorIs(t, err, ErrNoResponders)
}

func TestAttachSupersedes(t *testing.T) {
	t.Parallel()
	c, s, ended := pair(t, func(ctx context.Context, _ *Writer, _ *Request) error {
		<-ctx.Done()
		return context.Cause(ctx)
	})
	other := newTestClient(t, s.conn)
	ex, err := c.Open(get("/"))
	require.NoError(t, err)
	require.NoError(t, ex.Offer(background(t), subject))
	taken, err := other.Attach(background(t), ex.Worker(), ex.id)
	require.NoError(t, err)
	_, err = ex.Response(background(t))
	require.ErrorIs(t, err, ErrSuperseded)
	again, err := other.Attach(background(t), ex.Worker(), ex.id)
	require.NoError(t, err, "the same client may come twice, as when its first connection broke unnoticed")
	require.ErrorIs(t, taken.Detach(background(t), time.Minute), ErrSuperseded, "it has nothing to say any more")
	short, cancel := context.WithTimeout(background(t), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, again.Wait(short), context.DeadlineExceeded, "and does not disturb the other")
	again.Cancel()
	require.ErrorIs(t, <-ended, ErrCanceled)
}

func TestNobodyComesBack(t *testing.T) {
	t.Parallel()
	c, _, ended := pair(t, func(ctx context.Context, _ *Writer, _ *Request) error {
		<-ctx.Done()
		return context.Cause(ctx)
	})
	ex, err := c.Open(get("/"))
	require.NoError(t, err)
	require.NoError(t, ex.Offer(background(t), subject))
	require.NoError(t, ex.Detach(background(t), 20*time.Millisecond))
	require.ErrorIs(t, <-ended, ErrGone)
}

// A client that was promised the response and crashes must find it again.
func TestPromiseOutlivesTheClient(t *testing.T) {
	t.Parallel()
	finish := make(chan struct{})
	n := startNATS(t)
	quick := func(s *Server) { s.beat = beat / 10 }
	s := newTestServer(t, connect1(t, n), quick)
	work(t, s, func(ctx context.Context, w *Writer, _ *Request) error {
		select {
		case <-finish:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		_, err := io.WriteString(w, "kept")
		return err
	})
	conn := connect1(t, n)
	doomed := newTestClient(t, conn)
	survivor := newTestClient(t, connect1(t, n))
	ex, err := doomed.Open(get("/"))
	require.NoError(t, err)
	require.NoError(t, ex.Offer(background(t), subject))
	require.NoError(t, ex.Detach(background(t), time.Minute))
	_, err = doomed.Attach(background(t), ex.Worker(), ex.id)
	require.NoError(t, err)
	conn.Close()
	call := s.all()[0]
	require.Eventually(t, func() bool {
		call.mu.Lock()
		defer call.mu.Unlock()
		return call.detached
	}, patient, time.Millisecond)
	close(finish)
	again, err := survivor.Attach(background(t), s.Address(), ex.id)
	require.NoError(t, err)
	resp, err := again.Response(background(t))
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "kept", string(body))
}

func TestHandlerErrors(t *testing.T) {
	t.Parallel()
	c, _, _ := pair(t, func(_ context.Context, w *Writer, r *Request) error {
		switch r.URI {
		case "/typed":
			return &Error{Code: "unreachable", Message: "no container"}
		case "/plain":
			return errors.New("boom")
		case "/late":
			_, _ = io.WriteString(w, "part")
			_ = w.Flush()
			return &Error{Code: "broken", Message: "halfway"}
		}
		return nil
	})
	var failure *Error
	for uri, code := range map[string]string{"/typed": "unreachable", "/plain": "failed", "/nothing": "no-response"} {
		ex, err := c.Open(get(uri))
		require.NoError(t, err)
		err = ex.Offer(background(t), subject)
		if err == nil {
			_, err = ex.Response(background(t))
		}
		require.ErrorAs(t, err, &failure)
		require.Equal(t, code, failure.Code)
	}
	_, resp := exchange(t, c, get("/late"))
	body, err := io.ReadAll(resp.Body)
	require.Equal(t, "part", string(body))
	require.ErrorAs(t, err, &failure)
	require.Equal(t, "broken", failure.Code)
}

func TestSlowReaderHoldsUpNobody(t *testing.T) {
	t.Parallel()
	var written atomic.Int64
	c, _, _ := pair(t, func(_ context.Context, w *Writer, r *Request) error {
		if r.URI != "/flood" {
			_, err := io.WriteString(w, "quick")
			return err
		}
		for range 1024 {
			if _, err := w.Write(make([]byte, 16<<10)); err != nil {
				return err
			}
			written.Add(16 << 10)
		}
		return nil
	})
	_, flood := exchange(t, c, get("/flood"))
	for range 50 {
		_, resp := exchange(t, c, get("/"))
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "quick", string(body))
	}
	// The worker is held by credit: what it wrote is in the window, in the first message and in its buffer.
	require.LessOrEqual(t, written.Load(), int64(window+inlineLimit+2*chunkLimit))
	n, err := io.Copy(io.Discard, flood.Body)
	require.NoError(t, err)
	require.EqualValues(t, 16<<20, n)
}

func TestCreditViolationEndsTheExchange(t *testing.T) {
	t.Parallel()
	n := startNATS(t)
	rogue := connect1(t, n)
	c := newTestClient(t, connect1(t, n))
	heard := make(chan *nats.Msg, 16)
	up, err := rogue.ChanSubscribe("rogue.*", heard)
	require.NoError(t, err)
	defer func() { _ = up.Unsubscribe() }()
	sub, err := rogue.Subscribe(subject, func(m *nats.Msg) {
		b := append([]byte(nil), acceptFrame...)
		b = appendResponse(b, 200, nil, nil, nil)
		_ = rogue.PublishRequest(m.Reply, "rogue."+token(m.Reply), b)
		for i := range 2 * window / chunkLimit {
			d := append(openData(nil, uint64(i*chunkLimit)), make([]byte, chunkLimit)...)
			closeFrame(d, 0)
			_ = rogue.Publish(m.Reply, d)
		}
	})
	require.NoError(t, err)
	defer func() { _ = sub.Unsubscribe() }()
	require.NoError(t, rogue.Flush())
	_, resp := exchange(t, c, get("/"))
	for { // read nothing until the flood is over: the worker is told to stop
		if m := <-heard; kind(m.Data[0]) == kindCancel {
			break
		}
	}
	_, err = io.Copy(io.Discard, resp.Body)
	require.ErrorIs(t, err, ErrProtocol)
	require.Empty(t, c.all())
}

func TestLostMessageIsNoticed(t *testing.T) {
	t.Parallel()
	n := startNATS(t)
	rogue := connect1(t, n)
	c := newTestClient(t, connect1(t, n))
	sub, err := rogue.Subscribe(subject, func(m *nats.Msg) {
		b := append([]byte(nil), acceptFrame...)
		b = appendResponse(b, 200, nil, nil, nil)
		at := len(b)
		b = append(openData(b, 7), "the first seven bytes never came"...)
		closeFrame(b, at)
		_ = rogue.Publish(m.Reply, b)
	})
	require.NoError(t, err)
	defer func() { _ = sub.Unsubscribe() }()
	require.NoError(t, rogue.Flush())
	_, resp := exchange(t, c, get("/"))
	_, err = io.ReadAll(resp.Body)
	require.ErrorIs(t, err, ErrPeerLost)
}

func TestVanishedPeerIsNoticed(t *testing.T) {
	t.Parallel()
	n := startNATS(t)
	t.Run("worker", func(t *testing.T) {
		conn := connect1(t, n)
		s, err := NewServer(conn)
		require.NoError(t, err)
		require.NoError(t, s.Start(background(t)))
		work(t, s, func(ctx context.Context, _ *Writer, _ *Request) error {
			<-ctx.Done()
			return nil
		})
		c := newTestClient(t, connect1(t, n), func(c *Client) { c.beat = 100 * time.Millisecond })
		ex, err := c.Open(get("/"))
		require.NoError(t, err)
		require.NoError(t, ex.Offer(background(t), subject))
		conn.Close()
		_, err = ex.Response(background(t))
		require.ErrorIs(t, err, ErrPeerLost)
		require.NoError(t, s.Close(background(t)))
	})
	t.Run("silent worker", func(t *testing.T) {
		rogue := connect1(t, n)
		up, err := rogue.SubscribeSync("mute.*") // it listens, but never speaks
		require.NoError(t, err)
		defer func() { _ = up.Unsubscribe() }()
		sub, err := rogue.Subscribe("inv.mute", func(m *nats.Msg) {
			_ = rogue.PublishRequest(m.Reply, "mute."+token(m.Reply), acceptFrame)
		})
		require.NoError(t, err)
		defer func() { _ = sub.Unsubscribe() }()
		require.NoError(t, rogue.Flush())
		c := newTestClient(t, connect1(t, n), func(c *Client) { c.beat = 100 * time.Millisecond })
		ex, err := c.Open(get("/"))
		require.NoError(t, err)
		require.NoError(t, ex.Offer(background(t), "inv.mute"))
		_, err = ex.Response(background(t))
		require.ErrorIs(t, err, ErrPeerLost)
	})
	t.Run("worker that dies before a word", func(t *testing.T) {
		rogue := connect1(t, n)
		sub, err := rogue.SubscribeSync("inv.dead") // the offer is delivered, and nothing comes of it
		require.NoError(t, err)
		defer func() { _ = sub.Unsubscribe() }()
		require.NoError(t, rogue.Flush())
		c := newTestClient(t, connect1(t, n), func(c *Client) { c.beat = 100 * time.Millisecond })
		ex, err := c.Open(get("/"))
		require.NoError(t, err)
		require.ErrorIs(t, ex.Offer(background(t), "inv.dead"), ErrPeerLost)
	})
	t.Run("client", func(t *testing.T) {
		s := newTestServer(t, connect1(t, n), func(s *Server) { s.beat = 100 * time.Millisecond })
		ended := work(t, s, func(ctx context.Context, _ *Writer, _ *Request) error {
			<-ctx.Done()
			return nil
		})
		conn := connect1(t, n)
		c := newTestClient(t, conn)
		ex, err := c.Open(get("/"))
		require.NoError(t, err)
		require.NoError(t, ex.Offer(background(t), subject))
		conn.Close()
		require.ErrorIs(t, <-ended, ErrGone)
	})
}

// Keep-alive must not end an exchange whose peers are well.
func TestLongExchangeLives(t *testing.T) {
	t.Parallel()
	const beat = time.Second // three of them outlast the stalls of a busy machine
	n := startNATS(t)
	s := newTestServer(t, connect1(t, n), func(s *Server) { s.beat = beat })
	var pings atomic.Int32
	work(t, s, func(ctx context.Context, w *Writer, _ *Request) error {
		select {
		case <-time.After((maxMissed + 3) * beat): // more of silence than a lost peer is given
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		_, err := io.WriteString(w, "late")
		return err
	})
	spy, err := s.conn.Subscribe(s.prefix+"*", func(m *nats.Msg) {
		if len(m.Data) > 0 && kind(m.Data[0]) == kindPing {
			pings.Add(1)
		}
	})
	require.NoError(t, err)
	defer func() { _ = spy.Unsubscribe() }()
	c := newTestClient(t, connect1(t, n), func(c *Client) { c.beat = beat })
	_, resp := exchange(t, c, get("/"))
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "late", string(body))
	require.Positive(t, pings.Load())
}

func TestHundredAtOnce(t *testing.T) {
	t.Parallel()
	c, s, _ := pair(t, echo)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			body := bytes.Repeat([]byte{byte(i)}, i*4096)
			r := post(bytes.NewReader(body), int64(len(body)))
			if i%2 == 0 {
				r.ContentLength = -1
			}
			ex, err := c.Open(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer ex.Cancel()
			if err := ex.Offer(background(t), subject); err != nil {
				t.Error(err)
				return
			}
			resp, err := ex.Response(background(t))
			if err != nil {
				t.Error(err)
				return
			}
			got, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("exchange %d: %d bytes of %d, %v", i, len(got), len(body), err)
			}
		})
	}
	wg.Wait()
	require.Empty(t, c.all())
	require.Eventually(t, func() bool { return len(s.all()) == 0 }, patient, time.Millisecond)
}

// Over TCP, the NATS server restarts: what is under way ends with an error or rightly, and new exchanges work.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	opts := &server.Options{Host: "127.0.0.1", Port: testkit.Port(t), NoSigs: true, NoLog: true}
	start := func() *server.Server {
		n, err := server.NewServer(opts)
		require.NoError(t, err)
		n.Start()
		require.True(t, n.ReadyForConnections(patient))
		return n
	}
	n := start()
	url := n.ClientURL()
	dial := func() *nats.Conn {
		conn, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0))
		require.NoError(t, err)
		t.Cleanup(func() { closeConn(conn) })
		return conn
	}
	s := newTestServer(t, dial(), func(s *Server) { s.beat = beat / 10 })
	work(t, s, func(ctx context.Context, w *Writer, r *Request) error {
		if r.URI != "/endless" {
			return echo(ctx, w, r)
		}
		for {
			if _, err := w.Write(make([]byte, 1000)); err != nil {
				return err
			}
			if err := w.Flush(); err != nil {
				return err
			}
		}
	})
	c := newTestClient(t, dial(), func(c *Client) { c.beat = beat / 10 })
	_, endless := exchange(t, c, get("/endless"))
	_, err := io.ReadFull(endless.Body, make([]byte, 1<<20))
	require.NoError(t, err)

	var down sync.WaitGroup
	for _, conn := range []*nats.Conn{c.conn, s.conn} {
		down.Add(1)
		lost := conn.StatusChanged(nats.RECONNECTING)
		go func() { defer down.Done(); <-lost }()
	}
	n.Shutdown()
	n.WaitForShutdown()
	down.Wait()
	n = start()
	defer func() { n.Shutdown(); n.WaitForShutdown() }()

	require.Eventually(t, func() bool {
		ex, err := c.Open(post(strings.NewReader("again"), 5))
		require.NoError(t, err)
		defer ex.Cancel()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if ex.Offer(ctx, subject) != nil {
			return false
		}
		resp, err := ex.Response(ctx)
		if err != nil {
			return false
		}
		body, err := io.ReadAll(resp.Body)
		return err == nil && string(body) == "again"
	}, patient, 20*time.Millisecond)
	endless.Body.ctx = background(t)
	// Either it lost something and says so, or it goes on: then it is ours to end.
	if _, err := io.CopyN(io.Discard, endless.Body, 4<<20); err != nil {
		require.ErrorIs(t, err, ErrPeerLost)
	}
	endless.Body.Close()
}
