package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// recorded is one record of the ledger about a version that moves to a state, at a number of milliseconds.
func recorded(t *testing.T, sequence, ms int, to functions.Status) string {
	t.Helper()
	data, err := json.Marshal(functions.StatusChanged{From: functions.Inactive, To: to, Reason: functions.Reason{Message: "asked to"}})
	require.NoError(t, err)
	e := event.Envelope{
		SpecVersion: "1.0", ID: fmt.Sprint("e", sequence), Type: functions.StatusMoved.Type(), Subject: "version/" + echoVersion,
		Time: start.Add(time.Duration(ms) * time.Millisecond), Actor: event.Actor{Type: "user", ID: "ncp"}, Data: data,
	}
	b, err := json.Marshal(e)
	require.NoError(t, err)
	return fmt.Sprintf(`{"sequence":%d,"event":%s}`, sequence, b)
}

func TestReplayReadsEveryPageInOrderOfTime(t *testing.T) {
	t.Parallel()
	pages := map[string]string{
		"0": `{"events":[` + recorded(t, 1, 0, "DEPLOYING") + `,` + recorded(t, 2, 30, "ACTIVE") + `],"next":2,"more":true}`,
		"2": `{"events":[` + recorded(t, 5, 20, "ERROR") + `],"next":5,"more":false}`,
	}
	g := newStandIn(t, map[string]http.HandlerFunc{"GET /v1/audit/events": func(w http.ResponseWriter, r *http.Request) {
		answer(pages[r.URL.Query().Get("after")])(w, r)
	}})
	got := sirocco(t, g, []string{"events", "replay", "--since", "10m", "--until", "2031-04-02T10:00:00+02:00", "--entity", echoID})
	require.Zero(t, got.code, got.err)
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	require.Len(t, lines, 3)
	require.Regexp(t, `^\S+ \S+ +#1 +functions\.version_status_changed +`+echoVersion+` +user/ncp +INACTIVE -> DEPLOYING: asked to$`, lines[0])
	require.Contains(t, lines[1], "#5")
	require.Contains(t, lines[2], "#2")
	for i, after := range []string{"0", "2"} {
		require.Equal(t, "/v1/audit/events?after="+after+"&entity="+echoID+"&limit=500&since=2031-04-02T07%3A50%3A00Z&until=2031-04-02T08%3A00%3A00Z", g.asked()[i].path,
			"every page asks for the same moments")
	}
	got = sirocco(t, g, []string{"events", "replay", "-o", "json"})
	lines = strings.Split(strings.TrimSpace(got.out), "\n")
	require.Len(t, lines, 3)
	var e event.Envelope
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &e), "each line is one envelope")
	require.Equal(t, "e1", e.ID)
}

func TestReplayOfALongRecordPrintsAsItGoes(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{"GET /v1/audit/events": func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("after") == "0" {
			answer(`{"events":[`+recorded(t, 1, 0, "ACTIVE")+`,`+recorded(t, 2, 60_000, "ACTIVE")+`],"next":2,"more":true}`)(w, r)
			return
		}
		refuse(problem.New(problem.Unavailable, "the ledger restarts"))(w, r)
	}})
	got := sirocco(t, g, []string{"events", "replay"})
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.out, "#1 ")
	require.NotContains(t, got.out, "#2 ", "what may still be overtaken is kept back")
}

func TestAPageThatLeadsNowhereIsNoEndlessLoop(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{"GET /v1/audit/events": answer(`{"events":[],"next":0,"more":true}`)})
	require.Equal(t, exitFailed, sirocco(t, g, []string{"events", "replay"}).code)
}

func TestBadMomentsAreUsage(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"yesterday", "-5m", "2031-04-02"} {
		require.Equal(t, exitUsage, sirocco(t, newStandIn(t, nil), []string{"events", "replay", "--since", text}).code, text)
	}
}

func TestTailGoesOnWhereAStreamBroke(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tries := 0
	g := newStandIn(t, map[string]http.HandlerFunc{"GET /v1/audit/stream": func(w http.ResponseWriter, r *http.Request) {
		tries++
		switch tries {
		case 1:
			require.Equal(t, "2031-04-02T08:00:00Z", r.URL.Query().Get("since"), "without --since, from now on")
			fmt.Fprintf(w, ": waiting\n\nid: 7\nevent: x\ndata: %s\n\nid: 8\ndata: {\"cut", recorded(t, 7, 0, "DEPLOYING"))
		case 2:
			require.Equal(t, "7", r.Header.Get("Last-Event-ID"))
			refuse(problem.New(problem.Unavailable, "the gateway restarts"))(w, r)
		default:
			require.Equal(t, "7", r.Header.Get("Last-Event-ID"))
			fmt.Fprintf(w, "id: 8\ndata: %s\n\n", recorded(t, 8, 5, "ACTIVE"))
			_ = http.NewResponseController(w).Flush()
			cancel()
			<-r.Context().Done()
		}
	}})
	got := siroccoWith(ctx, t, g, []string{"events", "tail"})
	require.Zero(t, got.code, "Ctrl-C is how a tail ends: %s", got.err)
	require.Contains(t, got.out, "INACTIVE -> DEPLOYING")
	require.NotContains(t, got.out, "cut")
	require.Equal(t, 2, strings.Count(got.err, "going on behind event 7"))
}

func TestTailThatMayNotDoesNotTryAgain(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{"GET /v1/audit/stream": refuse(problem.New(problem.Forbidden, "no"))})
	require.Equal(t, exitRefused, sirocco(t, g, []string{"events", "tail"}).code)
	require.Len(t, g.asked(), 1)
}

func TestEveryKnownEventHasWords(t *testing.T) {
	t.Parallel()
	known := summaries()
	for _, e := range []rpc.Described{functions.Created, functions.StatusMoved} {
		require.Contains(t, known, e.Describe().Type)
	}
	for name, say := range known {
		require.NotPanics(t, func() { say(json.RawMessage(`{}`)) }, name)
		require.Empty(t, say(json.RawMessage(`[1`)), "a payload that does not fit is shown by its references")
	}
	require.Equal(t, echoID, summary(event.Envelope{Type: "nvcf.of.tomorrow.v9", Refs: event.Refs{FunctionID: echoID}}))
}
