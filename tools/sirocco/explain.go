package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

const (
	// recentEvents is how many events are shown, recentTime how far back they are looked for.
	recentEvents = 8
	recentTime   = 24 * time.Hour
)

// explanation is what is known about why a version is as it is.
type explanation struct {
	Name      string           `json:"name"`
	Function  string           `json:"functionId"`
	Version   string           `json:"versionId"`
	Status    functions.Status `json:"status"`
	Ready     bool             `json:"ready"`
	Code      string           `json:"code,omitempty"`
	Why       string           `json:"why"`
	Next      string           `json:"next,omitempty"`
	Troubles  []string         `json:"troubles,omitempty"`
	Instances []string         `json:"instances,omitempty"`
	Capacity  []string         `json:"capacity,omitempty"`
	Events    []string         `json:"events,omitempty"`
	Unknown   []string         `json:"unknown,omitempty"`
}

func newExplain(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "explain FUNCTION|VERSION|DEPLOYMENT", Short: "Say why something is not ready, and what to do about it",
		Long: `Say why a function, a version or a deployment is not ready: a reason code, a sentence and what to do next, from its
status, its health, its instances, what is free, and what happened lately. A function is explained by its newest version
and every version that is deployed.`,
		Example: "  sirocco explain echo\n  sirocco explain c2b8a0b4-5b1f-4a57-8a35-0d3c1f6f9a77",
		Args:    arguments("FUNCTION, VERSION or DEPLOYMENT"), ValidArgsFunction: s.completeFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			versions, err := meant(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			var list []explanation
			for _, f := range versions {
				list = append(list, s.explain(cmd.Context(), c, f))
			}
			raw, err := json.Marshal(map[string][]explanation{"versions": list})
			if err != nil {
				return fmt.Errorf("explain: %w", err)
			}
			return s.show(raw, func(w io.Writer) error {
				for i, e := range list {
					if i > 0 {
						fmt.Fprintln(w)
					}
					if err := e.write(w); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

// meant finds the versions that an id or name is about: of a function its newest and its deployed ones.
func meant(ctx context.Context, c *client.Client, ref string) ([]functions.Function, error) {
	list, _, err := ask[functions.ListResponse](ctx, c, client.Request{Method: http.MethodGet, Path: functionsPath})
	if err != nil {
		return nil, err
	}
	function := ref
	if isID(ref) {
		for _, f := range list.Functions {
			if strings.EqualFold(f.VersionID, ref) {
				return []functions.Function{f}, nil
			}
			if strings.EqualFold(f.ID, ref) {
				function = f.ID
			}
		}
		answer, _, err := ask[deployments.Response](ctx, c, client.Request{Method: http.MethodGet, Path: deploymentsPath + "/" + ref})
		if err == nil {
			return []functions.Function{{ID: answer.Deployment.FunctionID, VersionID: answer.Deployment.VersionID}}, nil
		}
	}
	versions, err := versionsOf(ctx, c, function)
	if err != nil {
		if refusal, ok := errors.AsType[*client.Refusal](err); ok && refusal.Status == http.StatusNotFound {
			err = next(&missing{fmt.Sprintf("a function, version or deployment %q", ref)}, "see what there is: `sirocco function list`, `sirocco deployment list`")
		}
		return nil, err
	}
	var chosen []functions.Function
	for i, f := range versions {
		if i == 0 || deployed(f.Status) {
			chosen = append(chosen, f)
		}
	}
	return chosen, nil
}

// explain gathers what is known. What cannot be read is said, and takes nothing from the rest.
func (s *session) explain(ctx context.Context, c *client.Client, f functions.Function) explanation {
	e := explanation{Name: f.Name, Function: f.ID, Version: f.VersionID, Status: f.Status}
	answer, _, err := ask[functions.FunctionResponse](ctx, c, client.Request{Method: http.MethodGet, Path: versionPath(f)})
	if err != nil {
		e.Unknown = append(e.Unknown, "the version: "+err.Error())
	} else {
		f = answer.Function
		e.Name, e.Status = f.Name, f.Status
	}
	d, err := deploymentOf(ctx, c, f)
	refusal, _ := errors.AsType[*client.Refusal](err)
	switch {
	case err == nil:
		groups, _, err := clusterGroups(ctx, c)
		if err != nil {
			e.Unknown = append(e.Unknown, "what is free: "+err.Error())
		}
		e.judge(d, groups, err == nil)
	case refusal != nil && refusal.Status == http.StatusNotFound:
		e.Code, e.Why = "not_deployed", "the version is not deployed, so nothing of it runs"
		e.Next = fmt.Sprintf("deploy it: `sirocco function deploy %s --version %s`", f.ID, f.VersionID)
	default:
		e.Why = "its deployment cannot be read"
		e.Unknown = append(e.Unknown, "the deployment: "+err.Error())
	}
	if e.Events, err = s.recent(ctx, c, f.VersionID); err != nil {
		e.Unknown = append(e.Unknown, "what happened lately: "+err.Error())
	}
	return e
}

// judge says why a deployment is as it is.
func (e *explanation) judge(d deployments.Deployment, groups []clusters.Group, known bool) {
	e.Status = d.FunctionStatus
	for _, h := range d.HealthInfo {
		e.Troubles = append(e.Troubles, strings.TrimSpace(h.GPU+" "+h.InstanceType+because(h.Error)))
		for _, line := range h.Logs[max(0, len(h.Logs)-maxLogLines):] {
			e.Troubles = append(e.Troubles, "| "+line)
		}
	}
	running := 0
	for _, i := range d.Instances {
		if strings.EqualFold(i.InstanceStatus, "RUNNING") || strings.EqualFold(i.InstanceStatus, "ACTIVE") {
			running++
		}
		e.Instances = append(e.Instances, strings.TrimSpace(i.InstanceID+" "+strings.ToLower(i.InstanceStatus)+" on "+orDefault(i.ClusterName, orDefault(i.Location, "?"))+because(i.LastError)))
	}
	short := ""
	if known {
		for _, spec := range d.Specifications {
			words, fits := room(spec, groups)
			e.Capacity = append(e.Capacity, words)
			if !fits {
				short = words
			}
		}
	}
	least := 0
	for _, spec := range d.Specifications {
		if spec.MinInstances != nil {
			least += *spec.MinInstances
		}
	}
	reason := functions.Reason{}
	if d.Reason != nil {
		reason = *d.Reason
	}
	e.Code, e.Why, e.Next = reason.Code, reason.Message, reason.Action
	trouble := ""
	if len(d.HealthInfo) > 0 {
		trouble = d.HealthInfo[0].Error
	}
	remove := fmt.Sprintf("`sirocco function undeploy %s --version %s`", d.FunctionID, d.VersionID)
	// What the platform says goes first; where it says nothing, its state does.
	say := func(code, why, next string) {
		e.Code, e.Why, e.Next = orDefault(e.Code, code), orDefault(e.Why, why), orDefault(e.Next, next)
	}
	switch d.FunctionStatus {
	case functions.Active:
		e.Ready = true
		e.Code, e.Next = "", ""
		e.Why = fmt.Sprintf("it takes requests; %s of %d wanted run", count(running, "instance"), least)
		if running == 0 {
			e.Why = "it takes requests; no instance runs now, and the first request starts one"
		}
	case functions.Deploying:
		if short != "" {
			say("no_capacity", "there is no room: "+short, "free GPUs, lower --min, or choose another instance type from `sirocco cluster list`")
		}
		say("starting", "instances are starting", "wait; `sirocco function show` shows how far they are")
	case functions.Degrading:
		say("too_few_instances", "it takes requests with fewer instances than wanted"+because(trouble), "see the instances above; the platform replaces them by itself when there is room")
	case functions.Degraded:
		if short != "" {
			say("no_capacity", "no instance runs and there is no room: "+short, "free GPUs, or bring the lost node back")
		}
		say("no_instance", "no instance runs"+because(trouble), "see what happened lately; the platform starts new ones by itself")
	case functions.Error:
		say("start_failed", "its instances failed to start"+because(trouble), "correct the cause, then remove the failed deployment with "+remove+" and deploy again")
	case functions.Inactive:
		say("draining", "it is being undeployed and finishes its last requests", "wait, or force it with "+remove)
	}
}

// room says how many more instances of a specification fit now.
func room(spec deployments.Specification, groups []clusters.Group) (string, bool) {
	free, known := 0, false
	for _, g := range groups {
		if spec.Backend != "" && !strings.EqualFold(spec.Backend, g.Name) {
			continue
		}
		for _, gpu := range g.GPUs {
			for _, t := range gpu.InstanceTypes {
				if strings.EqualFold(gpu.Name, spec.GPU) && strings.EqualFold(t.Name, spec.InstanceType) {
					known = true
					free += t.Available
				}
			}
		}
	}
	name := spec.GPU + " " + spec.InstanceType
	if !known {
		return "no cluster reports " + name + " now", false
	}
	return fmt.Sprintf("%s of %s fit now", count(free, "more instance"), name), free > 0
}

// recent are the last events about a version, the oldest first.
func (s *session) recent(ctx context.Context, c *client.Client, version string) ([]string, error) {
	q := url.Values{"entity": {version}, "since": {s.now().Add(-recentTime).UTC().Format(time.RFC3339)}, "limit": {strconv.Itoa(pageSize)}}
	var lines []string
	for {
		p, _, err := ask[page](ctx, c, client.Request{Method: http.MethodGet, Path: "/v1/audit/events", Query: q})
		if err != nil {
			return nil, err
		}
		for _, r := range p.Events {
			lines = append(lines, shown(r.Event.Time)+" "+r.Event.Type+" "+summary(r.Event.Envelope))
		}
		if lines = lines[max(0, len(lines)-recentEvents):]; !p.More {
			return lines, nil
		}
		q.Set("after", strconv.FormatInt(p.Next, 10))
	}
}

func (e *explanation) write(w io.Writer) error {
	word := "not ready"
	if e.Ready {
		word = "ready"
	}
	rows := [][]string{{"What", fmt.Sprintf("%s (function %s, version %s)", e.Name, e.Function, e.Version)}, {"State", fmt.Sprintf("%s, %s", e.Status, word)}}
	if e.Code != "" {
		rows = append(rows, []string{"Reason", e.Code})
	}
	rows = append(rows, []string{"Why", e.Why})
	for _, part := range []struct {
		title string
		lines []string
	}{{"Trouble", e.Troubles}, {"Instances", e.Instances}, {"Room", e.Capacity}, {"Lately", e.Events}, {"Unknown", e.Unknown}} {
		title := part.title
		for _, line := range part.lines {
			rows = append(rows, []string{title, line})
			title = ""
		}
	}
	if e.Next != "" {
		rows = append(rows, []string{"Next", e.Next})
	}
	return writeTable(w, nil, rows)
}
