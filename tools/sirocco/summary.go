package main

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// summary is what an event says, in a few words; an event of a type that is not known here is shown by what it refers to.
func summary(e event.Envelope) string {
	if say, ok := summaries()[e.Type]; ok {
		if words := say(e.Data); words != "" {
			return words
		}
	}
	return strings.Join(e.All(), " ")
}

type sayer = func(data json.RawMessage) string

// says pairs an event's type with the words for its payload.
func says[P any](into map[string]sayer, e rpc.Event[P], words func(P) string) {
	into[e.Type()] = func(data json.RawMessage) string {
		var p P
		if json.Unmarshal(data, &p) != nil {
			return ""
		}
		return words(p)
	}
}

func summaries() map[string]sayer {
	m := map[string]sayer{}
	key := func(k keys.Changed) string { return "of " + k.OwnerID + because(k.Reason) }
	says(m, keys.Created, key)
	says(m, keys.Updated, key)
	says(m, keys.Revoked, key)
	says(m, keys.Issued, func(t keys.TokenIssued) string { return "for " + t.Subject })

	version := func(c functions.Changed) string { return c.Function.Name + " " + c.Function.ContainerImage }
	says(m, functions.Created, version)
	says(m, functions.Updated, version)
	says(m, functions.Deleted, version)
	says(m, functions.StatusMoved, func(c functions.StatusChanged) string {
		return moved(string(c.From), string(c.To)) + because(orDefault(c.Reason.Message, c.Reason.Code))
	})

	deployment := func(c deployments.Changed) string {
		var specs []string
		for _, spec := range c.Deployment.Specifications {
			specs = append(specs, specification(spec))
		}
		return strings.TrimSpace(c.Deployment.FunctionName + " " + strings.Join(specs, "; "))
	}
	says(m, deployments.Created, deployment)
	says(m, deployments.Updated, deployment)
	says(m, deployments.DrainStarted, deployment)
	says(m, deployments.Removed, deployment)
	says(m, deployments.ScaleChanged, func(d deployments.ScaleDecided) string {
		return fmt.Sprintf("%d -> %d instances%s", d.From, d.To, because(orDefault(d.Reason, d.Cause)))
	})
	says(m, deployments.InstancePlaced, func(p deployments.Placed) string {
		return fmt.Sprintf("on %s/%s with %s", p.Cluster, p.Node, count(len(p.Order.Devices), "device")) + rejected(p.Rejected)
	})
	says(m, deployments.InstanceUnplaced, func(u deployments.Unplaced) string { return u.Reason + rejected(u.Rejected) })

	for _, e := range instances.ReportEvents {
		says(m, e, func(r instances.Report) string {
			words := string(r.State)
			if r.Phase != "" {
				words += " " + string(r.Phase)
			}
			if r.Activity != "" {
				words += " " + string(r.Activity)
			}
			if r.Cause != "" {
				words += " " + string(r.Cause)
			}
			if r.Driver != "" {
				words += " by " + r.Driver
			}
			return words + " on " + r.Cluster + "/" + r.Node + because(r.Message)
		})
	}

	says(m, clusters.CapacitySnapshot, func(s clusters.Snapshot) string {
		return fmt.Sprintf("%s/%s %s with %s", s.Cluster, s.Node, s.State, count(len(s.Devices), "device"))
	})
	says(m, clusters.CapacityDelta, func(d clusters.Delta) string {
		var changed []string
		for _, device := range d.Changed {
			changed = append(changed, fmt.Sprintf("%s %d %s", device.GPU, device.Index, device.State))
		}
		return fmt.Sprintf("%s/%s %s", d.Cluster, d.Node, strings.Join(changed, ", "))
	})
	says(m, clusters.NodeLeft, func(b clusters.Bye) string { return b.Cluster + "/" + b.Node + because(b.Reason) })
	cluster := func(c clusters.ClusterChanged) string {
		return strings.TrimSpace(c.Name+" "+moved(c.From, c.To)) + because(c.Reason)
	}
	says(m, clusters.ClusterRegistered, cluster)
	says(m, clusters.ClusterMoved, cluster)
	says(m, clusters.NodeMoved, func(n clusters.NodeChanged) string {
		return n.Cluster + "/" + n.Node + " " + moved(string(n.From), string(n.To)) + because(n.Reason)
	})
	image := func(c clusters.ImageChanged) string {
		return c.Image.Reference + " is " + strings.Join(c.Image.Command, " ")
	}
	says(m, clusters.ImagePut, image)
	says(m, clusters.ImageRemoved, image)
	return m
}

func moved(from, to string) string {
	switch {
	case to == "":
		return from
	case from == "":
		return to
	}
	return from + " -> " + to
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

func rejected(counts map[string]int) string {
	if len(counts) == 0 {
		return ""
	}
	var parts []string
	for why, n := range counts {
		parts = append(parts, fmt.Sprintf("%d %s", n, why))
	}
	sort.Strings(parts)
	return "; not elsewhere: " + strings.Join(parts, ", ")
}
