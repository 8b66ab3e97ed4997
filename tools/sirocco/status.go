package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

const (
	// readyTime bounds the look at readiness, inventoryTime the questions that a platform in trouble may not answer.
	readyTime     = 10 * time.Second
	inventoryTime = 5 * time.Second
	// maxReady is the most of a readiness report that is read, in bytes.
	maxReady = 1 << 20
)

// checked is one line of the readiness report.
type checked struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"`
	// Waiting says what is waited for.
	Waiting string `json:"waiting,omitempty"`
}

// standing is everything that status knows.
type standing struct {
	URL     string    `json:"url"`
	Version string    `json:"cliVersion"`
	Ready   bool      `json:"ready"`
	Checks  []checked `json:"checks"`
	// Versions counts function versions by state.
	Versions map[functions.Status]int `json:"functionVersions,omitempty"`
	Groups   []clusters.Group         `json:"clusterGroups,omitempty"`
	// Unknown says why a part could not be read.
	Unknown []string `json:"unknown,omitempty"`
}

func newStatus(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show whether the platform is ready, and what it waits for if not (then the exit code is 1)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			st, err := readiness(cmd.Context(), c)
			if err != nil {
				return err
			}
			inventory(cmd.Context(), c, &st)
			raw, err := json.Marshal(st)
			if err != nil {
				return fmt.Errorf("status: %w", err)
			}
			if err := s.show(raw, st.write); err != nil || st.Ready {
				return err
			}
			return notReady(st)
		},
	}
}

// readiness asks the gateway about itself; that it is not ready is an answer, too.
func readiness(ctx context.Context, c *client.Client) (standing, error) {
	st := standing{URL: c.URL(), Version: app.Version}
	ctx, cancel := context.WithTimeoutCause(ctx, readyTime, &client.Unreachable{URL: c.URL(), Err: fmt.Errorf("no answer within %s", readyTime)})
	defer cancel()
	r := client.Request{Method: http.MethodGet, Path: "/readyz", Query: url.Values{"verbose": {""}}, Anonymous: true}
	resp, err := c.Exchange(ctx, r)
	if err != nil {
		return st, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReady))
	if err != nil {
		return st, &client.Unreachable{URL: c.URL(), Err: err}
	}
	last := ""
	for line := range strings.SplitSeq(strings.TrimSpace(string(body)), "\n") {
		last = line
		if name, ok := strings.CutPrefix(line, "[+] "); ok {
			st.Checks = append(st.Checks, checked{Name: strings.TrimSuffix(name, " ok"), Ready: true})
		} else if text, ok := strings.CutPrefix(line, "[-] "); ok {
			name, waiting, _ := strings.Cut(text, ": ")
			st.Checks = append(st.Checks, checked{Name: name, Waiting: waiting})
		}
	}
	st.Ready = resp.StatusCode == http.StatusOK
	if last != "ready" && last != "not ready" {
		return st, next(fmt.Errorf("%s/readyz answered %s with something else than a readiness report", c.URL(), resp.Status),
			"check that --url names a Sirocco gateway")
	}
	return st, nil
}

// inventory adds what the platform has. A platform that is not ready may not know; status is still worth printing then.
func inventory(ctx context.Context, c *client.Client, st *standing) {
	ctx, cancel := context.WithTimeoutCause(ctx, inventoryTime, fmt.Errorf("no answer within %s", inventoryTime))
	defer cancel()
	list, _, err := ask[functions.ListResponse](ctx, c, client.Request{Method: http.MethodGet, Path: functionsPath})
	if err != nil {
		st.Unknown = append(st.Unknown, "functions: "+err.Error())
	} else {
		st.Versions = map[functions.Status]int{}
		for _, f := range list.Functions {
			st.Versions[f.Status]++
		}
	}
	if st.Groups, _, err = clusterGroups(ctx, c); err != nil {
		st.Unknown = append(st.Unknown, "clusters: "+err.Error())
	}
}

func (st standing) write(w io.Writer) error {
	word := "ready"
	if !st.Ready {
		word = "NOT READY"
	}
	fmt.Fprintf(w, "%s  %s  (this command: %s)\n\n", st.URL, word, st.Version)
	var rows [][]string
	for _, c := range st.Checks {
		state := "ok"
		if !c.Ready {
			state = "waiting"
		}
		rows = append(rows, []string{c.Name, state, c.Waiting})
	}
	if err := writeTable(w, []string{"PART", "STATE", "WAITS FOR"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if st.Versions != nil {
		total := 0
		var parts []string
		for status, n := range st.Versions {
			total += n
			parts = append(parts, fmt.Sprintf("%d %s", n, status))
		}
		slices.Sort(parts)
		fmt.Fprintf(w, "%s", count(total, "function version"))
		if len(parts) > 0 {
			fmt.Fprintf(w, ": %s", printable(strings.Join(parts, ", ")))
		}
		fmt.Fprintln(w)
	}
	for _, text := range st.Unknown {
		fmt.Fprintln(w, "unknown,", printable(text))
	}
	if len(st.Groups) > 0 {
		fmt.Fprintln(w)
		return writeGroups(w, st.Groups)
	}
	return nil
}

func notReady(st standing) error {
	var waiting []string
	for _, c := range st.Checks {
		if !c.Ready {
			waiting = append(waiting, c.Name)
		}
	}
	if len(waiting) == 0 {
		return next(errors.New("the platform is not ready: it drains"), "wait until it has stopped, then start it again with `sirocco up`")
	}
	return next(fmt.Errorf("the platform is not ready: %s", strings.Join(waiting, ", ")),
		"it goes on by itself once what it waits for is there; if it does not, look at the platform's log")
}
