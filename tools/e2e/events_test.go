package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// record is one event as the ledger tells it.
type record struct {
	Sequence int64  `json:"sequence"`
	PrevHash string `json:"prevHash"`
	Hash     string `json:"hash"`
	Event    struct {
		ID         string          `json:"id"`
		Type       string          `json:"type"`
		Time       time.Time       `json:"time"`
		ActorType  string          `json:"actortype"`
		VersionID  string          `json:"versionid"`
		FunctionID string          `json:"functionid"`
		Data       json.RawMessage `json:"data"`
	} `json:"event"`
}

// word is the event in a few words: its type, and for a status its transition.
func (r record) word() string {
	word := strings.TrimSuffix(r.Event.Type[strings.LastIndex(strings.TrimSuffix(r.Event.Type, ".v1"), ".")+1:], ".v1")
	var moved struct{ From, To string }
	if strings.Contains(word, "status_changed") && json.Unmarshal(r.Event.Data, &moved) == nil {
		word += " " + moved.From + "→" + moved.To
	}
	return word
}

// events reads all pages of the audit record that match a query.
func (u user) events(query string) []record {
	u.t.Helper()
	var all []record
	for after := int64(0); ; {
		var page struct {
			Events []record `json:"events"`
			Next   int64    `json:"next"`
			More   bool     `json:"more"`
		}
		u.must("GET", fmt.Sprintf("/v1/audit/events?%s&after=%d", query, after), &page)
		all = append(all, page.Events...)
		if !page.More {
			return all
		}
		require.Greater(u.t, page.Next, after)
		after = page.Next
	}
}

func words(records []record) (out []string) {
	for _, r := range records {
		out = append(out, r.word())
	}
	return out
}

// awaitStory waits until the record tells these things of a version, in this order, with others in between, and returns
// all it tells. Domains reach the ledger side by side, so across them the order is the one of the events' own times.
func (u user) awaitStory(v version, story ...string) []record {
	u.t.Helper()
	var told []record
	soon(u.t, 5*time.Second, "the record tells "+strings.Join(story, ", "), func() bool {
		told = u.events("entity=" + v.function)
		slices.SortStableFunc(told, func(a, b record) int { return a.Event.Time.Compare(b.Event.Time) })
		at := 0
		for _, word := range words(told) {
			if at < len(story) && word == story[at] {
				at++
			}
		}
		return at == len(story)
	}, func() string { return "it tells:\n" + strings.Join(words(told), "\n") })
	return told
}

// TestStory asserts that the audit record tells the life of one function, from its creation to its end, in order.
func TestStory(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("story")
	admin.deploy(v, scale{min: 1})
	admin.must("DELETE", v.deploymentPath()+"?graceful=true", nil)
	soon(t, 10*time.Second, "the deployment is gone", func() bool { return admin.call("GET", v.deploymentPath()).status == 404 })
	admin.must("DELETE", v.path(), nil)
	told := admin.awaitStory(v,
		"version_created", "deployment_created", "deployment_scale_decided", "instance_placed", "instance_started", "instance_running",
		"deployment_drain_started", "instance_shutting_down", "instance_terminated", "deployment_removed", "version_deleted")
	// The statuses move beside that.
	admin.awaitStory(v,
		"deployment_created", "version_status_changed INACTIVE→DEPLOYING", "version_status_changed DEPLOYING→ACTIVE",
		"deployment_drain_started", "version_status_changed ACTIVE→INACTIVE", "version_deleted")
	admin.awaitStory(v, "instance_running", "version_status_changed DEPLOYING→ACTIVE")
	t.Logf("the story of a function:\n%s", strings.Join(words(told), "\n"))
	var since string
	for _, r := range told {
		if r.word() == "version_deleted" {
			since = r.Event.Time.Add(-time.Microsecond).UTC().Format(time.RFC3339Nano)
		}
		require.NotEmpty(t, r.Event.ActorType, r.word())
		require.False(t, r.Event.Time.IsZero())
	}
	require.Len(t, admin.events("entity="+v.function+"&domain=functions&since="+since), 1, "only the end happened since then")

	caller := admin.caller()
	caller.call("GET", "/v1/audit/events").refused(403)
	caller.with("").call("GET", "/v1/audit/events").refused(401)
	var verdict struct {
		Intact bool `json:"intact"`
	}
	admin.must("POST", "/v1/audit/verify", &verdict, text("{}"))
	require.True(t, verdict.Intact)
}

// TestTail asserts that whoever follows the record sees an event within a second.
func TestTail(t *testing.T) {
	admin := common(t).administrator(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	last := int64(0)
	for _, r := range admin.events("domain=functions") {
		last = r.Sequence
	}
	began := time.Now()
	resp, err := client.Do(admin.request(ctx, "GET", fmt.Sprintf("/v1/audit/stream?domain=functions&after=%d", last)))
	require.NoError(t, err)
	require.Less(t, time.Since(began), lenient(time.Second), "a quiet stream answers at once, too")
	defer resp.Body.Close()
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	seen := make(chan record, 16)
	go func() {
		defer close(seen)
		scan := bufio.NewScanner(resp.Body)
		scan.Buffer(nil, 1<<20)
		for scan.Scan() {
			data, ok := strings.CutPrefix(scan.Text(), "data: ")
			var r record
			if ok && json.Unmarshal([]byte(data), &r) == nil {
				seen <- r
			}
		}
	}()
	next := func(v version, what string) {
		t.Helper()
		told := time.Now()
		late := time.After(lenient(time.Second))
		for {
			select {
			case r, open := <-seen:
				require.True(t, open, "the stream ended")
				if r.Event.VersionID != v.id {
					continue // of an earlier test
				}
				require.Contains(t, r.Event.Type, what)
				t.Logf("%s: seen %s after the answer", what, time.Since(told).Round(time.Millisecond))
				return
			case <-late:
				require.FailNow(t, "the event is not seen within a second")
			}
		}
	}
	for range 3 {
		v := admin.create("tail")
		next(v, "version_created")
		admin.must("DELETE", v.path(), nil)
		next(v, "version_deleted")
	}
}
