package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

const (
	// pageSize is how many records are asked for at once.
	pageSize = 500
	// settleTime is by how much an event may reach the ledger behind one that happened after it.
	settleTime = 10 * time.Second
	// silence is how long a stream may say nothing at all; the gateway sends a comment every 15 s.
	silence = 45 * time.Second
	// maxRecord is the longest line of a stream, in bytes.
	maxRecord = 16 << 20
	// firstPause and longestPause are between two attempts to go on with a broken stream.
	firstPause   = 250 * time.Millisecond
	longestPause = 5 * time.Second
)

// record is a record of the ledger; its event is also kept as it was published.
type record struct {
	Sequence int64    `json:"sequence"`
	Event    envelope `json:"event"`
}

type envelope struct {
	event.Envelope
	raw json.RawMessage
}

// UnmarshalJSON keeps the text beside its meaning.
func (e *envelope) UnmarshalJSON(text []byte) error {
	e.raw = slices.Clone(text)
	return e.Envelope.UnmarshalJSON(text)
}

// page is a page of records.
type page struct {
	Events []record `json:"events"`
	Next   int64    `json:"next"`
	More   bool     `json:"more"`
}

// filter is what the flags of both commands say.
type filter struct{ since, until, entity, domain string }

func newEvents(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "events", Short: "The record of everything that happened, in order",
		Long: "A line for each event: time, number in the record, type, entity, who caused it, what it says.\nWith -o json each line is the event's CloudEvents envelope.",
	}
	cmd.AddCommand(newTail(s), newReplay(s))
	return cmd
}

func (f *filter) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.since, "since", f.since, "first moment: a time such as 2031-04-02T08:00:00Z, or how long ago, such as 10m")
	flags.StringVar(&f.entity, "entity", "", "only events about this id: a function, version, deployment, instance, node, key")
	flags.StringVar(&f.domain, "domain", "", "only events of this domain: "+strings.Join(event.Domains(), ", "))
	_ = cmd.RegisterFlagCompletionFunc("domain", cobra.FixedCompletions(event.Domains(), cobra.ShellCompDirectiveNoFileComp))
}

// query fixes the moments, so that every page and every attempt asks for the same ones.
func (f *filter) query(now time.Time) (url.Values, error) {
	q := url.Values{}
	for name, text := range map[string]string{"since": f.since, "until": f.until} {
		if text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			ago, err := time.ParseDuration(text)
			if err != nil || ago < 0 {
				return nil, fmt.Errorf("--%s must be a time such as 2031-04-02T08:00:00Z, or how long ago, such as 10m", name)
			}
			at = now.Add(-ago)
		}
		q.Set(name, at.UTC().Format(time.RFC3339Nano))
	}
	if f.entity != "" {
		q.Set("entity", f.entity)
	}
	if f.domain != "" {
		q.Set("domain", f.domain)
	}
	return q, nil
}

func newReplay(s *session) *cobra.Command {
	var f filter
	cmd := &cobra.Command{
		Use: "replay", Short: "Print what happened in order of time, from the beginning or --since to now or --until", Args: cobra.NoArgs,
		Example: "  sirocco events replay --since 1h --entity 5e0c2a5c-7f0e-4f5d-9f1c-2c6f3c3a1b10",
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.query(s.now())
			if err != nil {
				return &usage{command: cmd.CommandPath(), err: err}
			}
			c, err := s.connect()
			if err != nil {
				return err
			}
			return s.replay(cmd.Context(), c, q)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&f.until, "until", "", "first moment that is not shown, like --since")
	return cmd
}

// replay reads page by page and prints in order of time. The ledger's own order is that in which events reached it, and
// what two services did within milliseconds may reach it the other way round.
func (s *session) replay(ctx context.Context, c *client.Client, q url.Values) error {
	out := bufio.NewWriter(s.out)
	defer out.Flush()
	q.Set("limit", strconv.Itoa(pageSize))
	var waiting []record
	for after := int64(0); ; {
		q.Set("after", strconv.FormatInt(after, 10))
		p, _, err := ask[page](ctx, c, client.Request{Method: http.MethodGet, Path: "/v1/audit/events", Query: q})
		if err != nil {
			return err
		}
		if p.More && (len(p.Events) == 0 || p.Next <= after) {
			return fmt.Errorf("the record says that more follows event %d, but not where", after)
		}
		waiting = append(waiting, p.Events...)
		slices.SortStableFunc(waiting, func(a, b record) int { return a.Event.Time.Compare(b.Event.Time) })
		settled := len(waiting)
		if p.More {
			newest := waiting[len(waiting)-1].Event.Time
			settled = slices.IndexFunc(waiting, func(r record) bool { return newest.Sub(r.Event.Time) < settleTime })
		}
		for _, r := range waiting[:settled] {
			if err := s.print(out, r); err != nil {
				return err
			}
		}
		waiting = slices.Delete(waiting, 0, settled)
		if !p.More {
			return out.Flush()
		}
		after = p.Next
	}
}

func newTail(s *session) *cobra.Command {
	f := filter{since: "0s"}
	cmd := &cobra.Command{
		Use: "tail", Short: "Print events as they happen, until Ctrl-C", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.query(s.now())
			if err != nil {
				return &usage{command: cmd.CommandPath(), err: err}
			}
			c, err := s.connect()
			if err != nil {
				return err
			}
			return s.tail(cmd.Context(), c, q)
		},
	}
	f.register(cmd)
	return cmd
}

// tail follows the stream until the context ends, which is how it is meant to end. A stream that breaks is taken up
// where it broke; only the very first attempt must succeed.
func (s *session) tail(ctx context.Context, c *client.Client, q url.Values) error {
	last, pause, opened := "", firstPause, false
	for {
		heard, err := s.listen(ctx, c, q, &last)
		opened = opened || heard
		if ctx.Err() != nil {
			return nil //nolint:nilerr // Ctrl-C is how a tail ends
		}
		var refusal *client.Refusal
		if !opened || errors.As(err, &refusal) && refusal.Status < http.StatusInternalServerError {
			return err
		}
		var lost *client.Unreachable
		if err != nil && !errors.As(err, &lost) && refusal == nil {
			return err
		}
		if heard {
			pause = firstPause
		}
		fmt.Fprintf(s.err, "sirocco: the stream of events broke off (%s); going on behind event %s\n", reason(err), orDefault(last, "0"))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
			pause = min(2*pause, longestPause)
		}
	}
}

func reason(err error) string {
	if err == nil {
		return "it ended"
	}
	return printable(err.Error())
}

// listen reads one stream to its end. heard says that the gateway opened it; last is the id of the last event.
func (s *session) listen(ctx context.Context, c *client.Client, q url.Values, last *string) (heard bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silence, func() {
		cancel(&client.Unreachable{URL: c.URL(), Err: fmt.Errorf("nothing was heard for %s", silence)})
	})
	defer quiet.Stop()
	r := client.Request{Method: http.MethodGet, Path: "/v1/audit/stream", Query: q, Header: http.Header{"Accept": {"text/event-stream"}}}
	if *last != "" {
		r.Header.Set("Last-Event-ID", *last)
	}
	resp, err := c.Open(ctx, r)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxRecord)
	var data []byte
	id := ""
	for lines.Scan() {
		quiet.Reset(silence)
		line := lines.Bytes()
		if len(line) > 0 {
			if value, ok := bytes.CutPrefix(line, []byte("data:")); ok {
				data = append(data, value...)
			} else if value, ok := bytes.CutPrefix(line, []byte("id:")); ok {
				id = string(bytes.TrimSpace(value))
			}
			continue
		}
		if len(data) == 0 {
			continue
		}
		var rec record
		if err := json.Unmarshal(data, &rec); err != nil {
			return true, fmt.Errorf("event %s is not readable: %w", id, err)
		}
		if err := s.print(s.out, rec); err != nil {
			return true, err
		}
		*last, data = id, nil
	}
	switch err := lines.Err(); {
	case ctx.Err() != nil:
		return true, context.Cause(ctx)
	case errors.Is(err, bufio.ErrTooLong):
		return true, fmt.Errorf("the event behind %s is larger than %d MiB", orDefault(*last, "0"), maxRecord>>20)
	case err != nil:
		return true, &client.Unreachable{URL: c.URL(), Err: err}
	}
	return true, nil
}

// print writes one event: its envelope, or a line for a person.
func (s *session) print(w io.Writer, r record) error {
	if s.output == formatJSON {
		var b bytes.Buffer
		if err := json.Compact(&b, r.Event.raw); err != nil {
			return fmt.Errorf("event %d: %w", r.Sequence, err)
		}
		b.WriteByte('\n')
		_, err := w.Write(b.Bytes())
		return err
	}
	e := r.Event.Envelope
	actor := orDash(e.Actor.Type)
	if e.Actor.ID != "" {
		actor += "/" + e.Actor.ID
	}
	// The type has named the kind of the entity already.
	entity := e.Subject
	if _, id, ok := strings.Cut(entity, "/"); ok {
		entity = id
	}
	//nolint:gosmopolitan // a person reads it in their own time
	at := e.Time.Local().Format("2006-01-02 15:04:05.000")
	line := fmt.Sprintf("%s  %6s  %-36s  %-36s  %-25s  %s", at,
		"#"+strconv.FormatInt(r.Sequence, 10), shortType(e.Type), orDash(entity), actor, summary(e))
	_, err := fmt.Fprintln(w, strings.TrimRight(printable(line), " "))
	return err
}

// shortType is a type without what all types have: nvcf.functions.version_created.v1 is functions.version_created.
func shortType(t string) string {
	t = strings.TrimPrefix(t, "nvcf.")
	if i := strings.LastIndex(t, ".v"); i > 0 {
		t = t[:i]
	}
	return t
}
