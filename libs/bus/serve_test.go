package bus_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

type text struct {
	Text string `json:"text"`
}

// say has a time-out that nobody waits for, however busy the machine.
var say = rpc.Endpoint[text, text]{Service: "shop", Resource: "text", Verb: "say", Timeout: 10 * patience}

// serve answers e until the test ends; the caller's connection is another one, as in production.
func serve[Req, Resp any](t *testing.T, e rpc.Endpoint[Req, Resp], h func(context.Context, Req) (Resp, error)) (caller *bus.Conn, s *bus.Server) {
	t.Helper()
	nats := testkit.NATS(t)
	s = bus.NewServer(connect(t, nats), e.Service)
	bus.Serve(s, e, h)
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, s.Stop(context.Background())) })
	return connect(t, nats), s
}

func TestCallCarriesCallerTraceAndDeadline(t *testing.T) {
	t.Parallel()
	type seen struct {
		caller   access.Caller
		trace    string
		deadline time.Time
	}
	got := make(chan seen, 1)
	c, _ := serve(t, say, func(ctx context.Context, r text) (text, error) {
		deadline, _ := ctx.Deadline()
		got <- seen{access.CallerFrom(ctx), bus.TraceParent(ctx), deadline}
		return text{"you said " + r.Text}, nil
	})
	caller := access.Caller{Account: "acct", Kind: access.Key, ID: "k1", Subject: "someone", Scopes: []string{"list_functions"}}
	ctx := bus.WithTraceParent(access.WithCaller(t.Context(), caller), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()

	answer, err := bus.Call(ctx, c, say, text{"hello"})
	require.NoError(t, err)
	require.Equal(t, "you said hello", answer.Text)
	s := next(t, got)
	require.Equal(t, caller, s.caller)
	require.Equal(t, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", s.trace)
	deadline, _ := ctx.Deadline()
	require.WithinDuration(t, deadline, s.deadline, time.Millisecond, "the handler has as long as its caller waits, and not as long as the endpoint allows")
}

func TestProblemsArriveWhole(t *testing.T) {
	t.Parallel()
	c, _ := serve(t, say, func(_ context.Context, r text) (text, error) {
		check := problem.NewCheck("text")
		check.Require(false, "text", "must not be %q", r.Text)
		return text{}, check.Err()
	})
	_, err := bus.Call(t.Context(), c, say, text{"bad"})
	var p *problem.Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, problem.Validation, p.Code)
	require.Equal(t, []problem.Violation{{Object: "text", Field: "text", Rule: `must not be "bad"`}}, p.Violations)
}

func TestOtherErrorsAreInternalAndKeepTheirTextHome(t *testing.T) {
	t.Parallel()
	c, _ := serve(t, say, func(context.Context, text) (text, error) { return text{}, errors.New("password is hunter2") })
	_, err := bus.Call(t.Context(), c, say, text{})
	require.True(t, problem.HasCode(err, problem.Internal), "%v", err)
	require.NotContains(t, err.Error(), "hunter2")
}

func TestPanicFailsOneRequest(t *testing.T) {
	t.Parallel()
	c, _ := serve(t, say, func(_ context.Context, r text) (text, error) {
		if r.Text == "boom" {
			panic("boom")
		}
		return r, nil
	})
	_, err := bus.Call(t.Context(), c, say, text{"boom"})
	require.True(t, problem.HasCode(err, problem.Internal), "%v", err)
	answer, err := bus.Call(t.Context(), c, say, text{"still there?"})
	require.NoError(t, err)
	require.Equal(t, "still there?", answer.Text)
}

func TestNobodyServesIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	c := connect(t, testkit.NATS(t))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := bus.Call(ctx, c, say, text{})
	require.True(t, problem.HasCode(err, problem.Unavailable), "not after a time-out: %v", err)
	require.ErrorContains(t, err, "shop")
}

func TestLateAnswerIsATimeoutAndTheHandlerHearsOfIt(t *testing.T) {
	t.Parallel()
	slow := say
	slow.Timeout = time.Second // the request must have left by then
	gaveUp := make(chan error, 1)
	c, _ := serve(t, slow, func(ctx context.Context, _ text) (text, error) {
		<-ctx.Done()
		gaveUp <- ctx.Err()
		return text{}, ctx.Err()
	})
	_, err := bus.Call(t.Context(), c, slow, text{})
	require.True(t, problem.HasCode(err, problem.GatewayTimeout), "%v", err)
	require.ErrorIs(t, next(t, gaveUp), context.DeadlineExceeded)
}

func TestBodiesOfSeveralMegabytes(t *testing.T) {
	t.Parallel()
	c, _ := serve(t, say, func(_ context.Context, r text) (text, error) {
		if r.Text == "too much" {
			return text{strings.Repeat("x", bus.MaxPayload)}, nil
		}
		return r, nil
	})
	big := strings.Repeat("a", 6<<20)
	answer, err := bus.Call(t.Context(), c, say, text{big})
	require.NoError(t, err)
	require.Len(t, answer.Text, len(big))

	_, err = bus.Call(t.Context(), c, say, text{strings.Repeat("a", bus.MaxPayload)})
	require.True(t, problem.HasCode(err, problem.TooLarge), "%v", err)
	_, err = bus.Call(t.Context(), c, say, text{"too much"})
	require.True(t, problem.HasCode(err, problem.TooLarge), "%v", err)
}

func TestStopAnswersWhatIsInFlight(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	c, s := serve(t, say, func(_ context.Context, r text) (text, error) {
		close(entered)
		<-leave
		return r, nil
	})
	answered := make(chan error, 1)
	go func() { _, err := bus.Call(t.Context(), c, say, text{}); answered <- err }()
	next(t, entered)
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(context.Background()) }()
	require.Eventually(t, func() bool { // new requests find nobody while the old one goes on
		_, err := bus.Call(t.Context(), c, say, text{})
		return problem.HasCode(err, problem.Unavailable)
	}, patience, tick)
	close(leave)
	require.NoError(t, next(t, answered))
	require.NoError(t, next(t, stopped))
}

func TestReplicasShareTheLoad(t *testing.T) {
	t.Parallel()
	nats := testkit.NATS(t)
	served := make(chan string, 200)
	for _, name := range []string{"a", "b"} {
		s := bus.NewServer(connect(t, nats), "shop")
		bus.Serve(s, say, func(context.Context, text) (text, error) { served <- name; return text{name}, nil })
		require.NoError(t, s.Start(t.Context()))
		t.Cleanup(func() { require.NoError(t, s.Stop(context.Background())) })
	}
	c := connect(t, nats)
	by := map[string]int{}
	for range 100 {
		answer, err := bus.Call(t.Context(), c, say, text{})
		require.NoError(t, err)
		by[answer.Text]++
	}
	require.Len(t, by, 2)
	require.Len(t, served, 100, "each request is worked on once")
}

func TestServiceComesBackWithTheServer(t *testing.T) {
	t.Parallel()
	nats := startTCP(t)
	s := bus.NewServer(nats.connect(), "shop")
	bus.Serve(s, say, func(_ context.Context, r text) (text, error) { return r, nil })
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, s.Stop(context.Background())) })
	c := nats.connect()
	_, err := bus.Call(t.Context(), c, say, text{})
	require.NoError(t, err)

	nats.stop()
	require.Eventually(t, func() bool {
		err := c.Check(t.Context())
		return err != nil && err.Error() == "waiting for NATS"
	}, patience, tick)
	nats.start()
	require.Eventually(t, func() bool { return c.Check(t.Context()) == nil }, patience, tick)
	require.Eventually(t, func() bool {
		_, err := bus.Call(t.Context(), c, say, text{})
		return err == nil
	}, patience, tick)
}
