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

	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

// lookEvery is how often a deployment is looked at while a person waits for it.
const lookEvery = 250 * time.Millisecond

// maxLogLines is how many of an instance's last lines are shown.
const maxLogLines = 20

func newDeploy(s *session) *cobra.Command {
	var version, gpu, instanceType string
	var least, most, concurrency int
	var wait bool
	var patience time.Duration
	cmd := &cobra.Command{
		Use: "deploy FUNCTION", Short: "Run instances of a version and wait until it takes requests",
		Args: arguments("FUNCTION"), ValidArgsFunction: s.completeFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, f, err := s.version(ctx, args[0], version, anyStatus)
			if err != nil {
				return err
			}
			if gpu == "" || instanceType == "" {
				groups, _, err := clusterGroups(ctx, c)
				if err != nil {
					return err
				}
				if gpu, instanceType, err = chooseType(groups, gpu, instanceType); err != nil {
					return err
				}
			}
			if !cmd.Flags().Changed("max") {
				most = max(least, 1)
			}
			spec := deployments.Specification{GPU: gpu, InstanceType: instanceType, MinInstances: &least, MaxInstances: &most}
			if cmd.Flags().Changed("concurrency") {
				spec.MaxRequestConcurrency = &concurrency
			}
			raw, err := postDeployment(ctx, c, f, spec)
			if err != nil {
				return err
			}
			if wait {
				if raw, err = s.follow(ctx, c, f, patience); err != nil {
					return err
				}
			}
			return s.show(raw, func(w io.Writer) error { return writeDeployment(w, raw) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&version, "version", "", "version id (default: the newest)")
	flags.StringVar(&gpu, "gpu", "", "GPU name (default: one that is free)")
	flags.StringVar(&instanceType, "instance-type", "", "instance type (default: the default one of the GPU)")
	flags.IntVar(&least, "min", 1, "instances that always run; 0 starts them on demand")
	flags.IntVar(&most, "max", 1, "instances at most (default: --min)")
	flags.IntVar(&concurrency, "concurrency", 1, "requests that one instance takes at once")
	flags.BoolVar(&wait, "wait", true, "wait until the version is ACTIVE or has failed")
	flags.DurationVar(&patience, "timeout", 15*time.Minute, "how long to wait; the deployment goes on afterwards")
	return cmd
}

func postDeployment(ctx context.Context, c *client.Client, f functions.Function, spec deployments.Specification) ([]byte, error) {
	body, err := specifications(spec)
	if err != nil {
		return nil, err
	}
	_, raw, err := ask[deployments.Response](ctx, c, client.Request{Method: http.MethodPost, Path: deploymentPath(f), Body: body})
	var refusal *client.Refusal
	if errors.As(err, &refusal) && (refusal.Problem.Code == problem.IllegalState || deployed(f.Status)) {
		return nil, next(err, "`sirocco function show %s --version %s` shows the present deployment; `sirocco function undeploy` with the same arguments removes it", f.ID, f.VersionID)
	}
	return raw, err
}

// follow shows a deployment's way to ACTIVE and returns its last answer, or the reason why it did not get there.
func (s *session) follow(ctx context.Context, c *client.Client, f functions.Function, patience time.Duration) ([]byte, error) {
	line := &progress{w: s.err, live: s.live}
	defer line.end()
	timed, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began, tick := s.now(), time.NewTicker(lookEvery)
	defer tick.Stop()
	last := "nothing was heard of it"
	for {
		answer, raw, err := ask[deployments.Response](timed, c, client.Request{Method: http.MethodGet, Path: deploymentPath(f)})
		var refusal *client.Refusal
		switch d := answer.Deployment; {
		case err == nil:
			last = progressOf(d)
			line.show(f.Name+": "+last, s.now().Sub(began))
			switch d.FunctionStatus {
			case functions.Active:
				return raw, nil
			case functions.Error:
				return nil, failed(f, d)
			case functions.Inactive:
				return nil, next(errors.New("the version was undeployed meanwhile"), "deploy it again: `sirocco function deploy %s`", f.ID)
			case functions.Deploying, functions.Degrading, functions.Degraded:
			}
		case timed.Err() != nil:
			// The time is up; said below.
		case errors.As(err, &refusal) && refusal.Status == http.StatusNotFound:
			return nil, next(fmt.Errorf("the deployment was removed meanwhile: %w", err), "deploy it again: `sirocco function deploy %s`", f.ID)
		case errors.As(err, &refusal) && refusal.Status < http.StatusInternalServerError:
			return nil, err
		default:
			// A gateway that restarts does not stop the deployment; the wait goes on.
			line.show(fmt.Sprintf("%s: %v", f.Name, err), s.now().Sub(began))
		}
		select {
		case <-timed.Done():
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, next(fmt.Errorf("%s is not ACTIVE after %s: %s", f.Name, patience, last),
				"it goes on without you: `sirocco function show %s --version %s`", f.ID, f.VersionID)
		case <-tick.C:
		}
	}
}

// progressOf says where a deployment stands: its state, its instances by state, and what is waited for.
func progressOf(d deployments.Deployment) string {
	parts := []string{string(d.FunctionStatus)}
	states := map[string]int{}
	for _, i := range d.Instances {
		states[strings.ToLower(i.InstanceStatus)]++
	}
	names := make([]string, 0, len(states))
	for name := range states {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%d %s", states[name], name))
	}
	if d.FunctionStatus != functions.Active {
		if d.Reason != nil && d.Reason.Message != "" {
			parts = append(parts, d.Reason.Message)
		} else if len(d.HealthInfo) > 0 {
			parts = append(parts, d.HealthInfo[0].Error)
		}
	}
	return strings.Join(parts, ", ")
}

// failed is what a person needs to mend a deployment: why it failed, what the instance said last, and what to do.
func failed(f functions.Function, d deployments.Deployment) error {
	why, logs := "no reason was reported", []string(nil)
	if d.Reason != nil && d.Reason.Message != "" {
		why = d.Reason.Message
	}
	for _, h := range d.HealthInfo {
		if h.Error != "" {
			why, logs = h.Error, h.Logs
			break
		}
	}
	advice := "correct the cause, undeploy the version and deploy it again"
	if d.Reason != nil && d.Reason.Action != "" {
		advice = strings.TrimSuffix(d.Reason.Action, ".")
	}
	advice += fmt.Sprintf(": `sirocco function undeploy %s --version %s`", f.ID, f.VersionID)
	var details []string
	if len(logs) > 0 {
		details = append(details, "the instance's last lines:")
		for _, line := range logs[max(0, len(logs)-maxLogLines):] {
			details = append(details, "| "+line)
		}
	}
	return &failure{err: fmt.Errorf("%s failed to start: %s", f.Name, why), details: details, next: advice}
}

func writeDeployment(w io.Writer, raw []byte) error {
	var answer deployments.Response
	if err := json.Unmarshal(raw, &answer); err != nil {
		return fmt.Errorf("deployment: %w", err)
	}
	return writeDeployments(w, answer.Deployment)
}

// progress is one line about something that takes time: written over on a terminal, printed at each change elsewhere.
type progress struct {
	w     io.Writer
	live  bool
	last  string
	shown bool
}

const eraseLine = "\r\x1b[K"

func (p *progress) show(text string, since time.Duration) {
	text = printable(text)
	switch {
	case p.live:
		const width = 110
		if r := []rune(text); len(r) > width {
			text = string(r[:width]) + "…" // a line that wraps cannot be written over
		}
		fmt.Fprintf(p.w, "%s%s (%s)", eraseLine, text, since.Round(100*time.Millisecond))
		p.shown = true
	case text != p.last:
		fmt.Fprintln(p.w, text)
	}
	p.last = text
}

func (p *progress) end() {
	if p.shown {
		fmt.Fprintln(p.w)
	}
}

func newUndeploy(s *session) *cobra.Command {
	var version string
	var graceful bool
	cmd := &cobra.Command{
		Use: "undeploy FUNCTION", Short: "Stop a version's instances and remove its deployment",
		Args: arguments("FUNCTION"), ValidArgsFunction: s.completeFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, f, err := s.version(cmd.Context(), args[0], version, deployed)
			if err != nil {
				return err
			}
			r := client.Request{Method: http.MethodDelete, Path: deploymentPath(f)}
			if graceful {
				r.Query = url.Values{"graceful": {"true"}}
			}
			answer, raw, err := ask[functions.FunctionResponse](cmd.Context(), c, r)
			var refusal *client.Refusal
			if errors.As(err, &refusal) && refusal.Status == http.StatusNotFound {
				return next(err, "it is not deployed; `sirocco function list` shows what is")
			}
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error { return writeFunctions(w, []functions.Function{answer.Function}) })
		},
	}
	cmd.Flags().StringVar(&version, "version", "", "version id (default: the newest one that is deployed)")
	cmd.Flags().BoolVar(&graceful, "graceful", false, "let queued and running requests finish first")
	return cmd
}
