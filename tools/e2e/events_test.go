package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
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

// requireStory asserts that the words occur in this order, with others in between.
func requireStory(t *testing.T, told []string, story ...string) {
	t.Helper()
	at := 0
	for _, want := range story {
		found := false
		for ; at < len(told) && !found; at++ {
			found = told[at] == want
		}
		require.True(t, found, "%q is missing, or told too early, in:\n%s", want, strings.Join(told, "\n"))
	}
}

// TestStory asserts that the audit record tells the life of one function, from its creation to its end, in order.
func TestStory(t *testing.T) {
	admin := common(t).administrator(t)
	v := admin.create("story")
	admin.deploy(v, scale{min: 1})
	admin.must("DELETE", v.deploymentPath()+"?graceful=true", nil)
	admin.awaitInstances(v, 0, 10*time.Second)
	admin.must("DELETE", v.path(), nil)
	var told []record
	story := []string{
		"version_created", "deployment_created", "version_status_changed INACTIVE→DEPLOYING", "version_status_changed DEPLOYING→ACTIVE",
		"version_status_changed ACTIVE→INACTIVE", "version_deleted",
	}
	soon(t, 5*time.Second, "the story has an end", func() bool {
		told = admin.events("entity=" + v.function)
		return strings.Contains(strings.Join(words(told), " "), "version_deleted") && strings.Contains(strings.Join(words(told), " "), "deployment_removed")
	}, func() string { return strings.Join(words(told), "\n") })
	t.Logf("the story of a function:\n%s", strings.Join(words(told), "\n"))
	requireStory(t, words(told), story...)
	requireStory(t, words(told), "deployment_created", "deployment_scale_decided", "instance_started", "instance_running", "instance_shutting_down", "instance_terminated", "deployment_removed")
	requireStory(t, words(told), "instance_running", "version_status_changed DEPLOYING→ACTIVE")
	var since string
	for n, r := range told {
		if r.word() == "version_deleted" {
			since = r.Event.Time.Add(-time.Microsecond).UTC().Format(time.RFC3339Nano)
		}
		require.NotEmpty(t, r.Event.ActorType, r.word())
		require.False(t, r.Event.Time.IsZero())
		if n > 0 {
			require.Greater(t, r.Sequence, told[n-1].Sequence)
		}
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
	before := admin.events("domain=functions")
	last := before[len(before)-1].Sequence
	resp, err := client.Do(admin.request(ctx, "GET", fmt.Sprintf("/v1/audit/stream?domain=functions&after=%d", last)))
	require.NoError(t, err)
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
	for range 3 {
		v := admin.create("tail")
		told := time.Now()
		select {
		case r := <-seen:
			require.Equal(t, v.id, r.Event.VersionID)
			require.Contains(t, r.Event.Type, "version_created")
			t.Logf("seen %s after the answer", time.Since(told).Round(time.Millisecond))
		case <-time.After(time.Second):
			require.Fail(t, "the event is not seen within a second")
		}
		admin.must("DELETE", v.path(), nil)
		select {
		case r := <-seen:
			require.Contains(t, r.Event.Type, "version_deleted")
		case <-time.After(time.Second):
			require.Fail(t, "the event is not seen within a second")
		}
	}
}
