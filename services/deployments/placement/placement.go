// Package placement chooses a node and devices for one instance. It is pure: what it knows comes in as arguments, and
// the same arguments give the same answer. One decision leads to one reservation and one launch (spec clusters-agents
// §4.6); which specification is served first is decided by the caller, who goes by preferredOrder.
//
// A decision has three steps. Filter drops the nodes that cannot take the instance and counts why. Score orders the
// rest: nodes where the version has failed recently come last; when a specification wants two instances or more they
// spread over nodes; else, and among equals, the fullest node that still fits is taken, so that whole nodes stay free
// for large types. Choose takes the best node and its lowest free devices.
package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
)

// Reasons why a node cannot take an instance. They are stable; explanations and events count them.
const (
	OtherCluster   = "other-cluster"
	OtherRegion    = "other-region"
	NoAttribute    = "missing-attribute"
	NodeNotReady   = "node-not-ready"
	NoSuchGPU      = "no-such-gpu"
	NoSuchType     = "no-such-instance-type"
	TooFewDevices  = "too-few-free-devices"
	NoNode         = "no-node"
	multiNodeTypes = "MULTI"
)

// Node names one node.
type Node struct{ Cluster, Name string }

// Of names the node of an inventory record.
func Of(n clusters.Node) Node { return Node{n.Cluster, n.Node} }

// Device names one device.
type Device struct {
	Node

	UUID string
}

// Held are the devices that live instances hold, whether or not their node knows yet.
type Held map[Device]bool

// Request asks for a place for one instance. Names are compared without case; an empty list means any.
type Request struct {
	GPU          string
	InstanceType string
	// Backend is a group name. A cluster has a group of its own name.
	Backend  string
	Clusters []string
	Regions  []string
	// Zones are clusters or regions.
	Zones []string
	// Attributes that the cluster must have, all of them.
	Attributes []string
	// Spread puts instances on different nodes where possible.
	Spread bool
	// Peers counts the live instances of the same specification per node.
	Peers map[Node]int
	// Failures counts the recent failures of the same version per node.
	Failures map[Node]int
}

// Place is where an instance goes.
type Place struct {
	Node    clusters.Node
	Type    clusters.InstanceType
	Devices []clusters.Device
}

// UUIDs of the devices.
func (p Place) UUIDs() []string {
	ids := make([]string, len(p.Devices))
	for i, d := range p.Devices {
		ids[i] = d.UUID
	}
	return ids
}

// Simulated reports whether no real device is involved.
func (p Place) Simulated() bool {
	return !slices.ContainsFunc(p.Devices, func(d clusters.Device) bool { return !d.Simulated })
}

// Refusal says why there is no place.
type Refusal struct {
	// Code is stable, such as no-node-with-4-free-H100.
	Code string
	// Message is a sentence with the numbers behind the code.
	Message string
}

// candidate is a node that passed the filter.
type candidate struct {
	node clusters.Node
	typ  clusters.InstanceType
	free []clusters.Device
}

// Choose finds the best place, and counts per reason the nodes that could not take the instance.
func Choose(nodes []clusters.Node, held Held, r Request) (place Place, rejected map[string]int, refusal *Refusal) {
	rejected = map[string]int{}
	var fit []candidate
	largest, need := 0, 1
	for _, n := range nodes {
		c, reason := filter(n, held, r)
		if c.typ.GPUCount > 0 {
			need = c.typ.GPUCount
		}
		if reason != "" {
			rejected[reason]++
			largest = max(largest, len(c.free))
			continue
		}
		fit = append(fit, c)
	}
	if len(fit) == 0 {
		return Place{}, rejected, refuse(len(nodes), largest, need, rejected, r)
	}
	best := slices.MinFunc(fit, func(a, b candidate) int { return compare(a, b, r) })
	return Place{Node: best.node, Type: best.typ, Devices: best.free[:best.typ.GPUCount]}, rejected, nil
}

// filter returns the node as a candidate, or the first reason why it is none.
func filter(n clusters.Node, held Held, r Request) (candidate, string) {
	switch {
	case !anyOf(r.Clusters, n.Cluster), r.Backend != "" && !strings.EqualFold(r.Backend, n.Cluster),
		len(r.Zones) > 0 && !anyOf(r.Zones, n.Cluster) && !anyOf(r.Zones, n.Facts.Region):
		return candidate{}, OtherCluster
	case !anyOf(r.Regions, n.Facts.Region):
		return candidate{}, OtherRegion
	case slices.ContainsFunc(r.Attributes, func(a string) bool { return len(n.Attributes) == 0 || !anyOf(n.Attributes, a) }):
		return candidate{}, NoAttribute
	}
	typ, reason := typeOn(n, r)
	if reason != "" {
		return candidate{}, reason
	}
	c := candidate{node: n, typ: typ}
	if n.State != clusters.NodeReady {
		return c, NodeNotReady
	}
	c.free = slices.DeleteFunc(n.FreeDevices(typ.GPU), func(d clusters.Device) bool { return held[Device{Of(n), d.UUID}] })
	slices.SortFunc(c.free, func(a, b clusters.Device) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), strings.Compare(a.UUID, b.UUID))
	})
	if len(c.free) < typ.GPUCount {
		return c, TooFewDevices
	}
	return c, ""
}

func typeOn(n clusters.Node, r Request) (clusters.InstanceType, string) {
	known := false
	for _, t := range n.Types {
		if !strings.EqualFold(t.GPU, r.GPU) {
			continue
		}
		known = true
		if strings.EqualFold(t.Name, r.InstanceType) && t.NodeType != multiNodeTypes && t.GPUCount > 0 {
			return t, ""
		}
	}
	if !known {
		return clusters.InstanceType{}, NoSuchGPU
	}
	return clusters.InstanceType{}, NoSuchType
}

// compare orders candidates, the better one first; the name decides between equals, so that the answer is always one.
func compare(a, b candidate, r Request) int {
	spread := 0
	if r.Spread {
		spread = cmp.Compare(r.Peers[Of(a.node)], r.Peers[Of(b.node)])
	}
	return cmp.Or(
		cmp.Compare(r.Failures[Of(a.node)], r.Failures[Of(b.node)]),
		spread,
		cmp.Compare(len(a.free)-a.typ.GPUCount, len(b.free)-b.typ.GPUCount),
		strings.Compare(a.node.Cluster, b.node.Cluster),
		strings.Compare(a.node.Node, b.node.Node),
	)
}

// refuse explains from the rejections what is missing.
func refuse(nodes, largest, need int, rejected map[string]int, r Request) *Refusal {
	able := rejected[NodeNotReady] + rejected[TooFewDevices]
	switch {
	case nodes == 0:
		return &Refusal{NoNode, "no node has joined"}
	case able == 0:
		return &Refusal{
			"no-node-for-" + r.InstanceType,
			fmt.Sprintf("none of %s offers %s with %s where the specification allows it (%s)", count(nodes, "node"), r.InstanceType, r.GPU, reasons(rejected)),
		}
	case rejected[TooFewDevices] == 0:
		return &Refusal{
			"no-ready-node-for-" + r.InstanceType,
			fmt.Sprintf("%s could run %s, but none is ready", count(able, "node"), r.InstanceType),
		}
	}
	return &Refusal{
		fmt.Sprintf("no-node-with-%d-free-%s", need, r.GPU),
		fmt.Sprintf("no node with %d free %s: %s, largest free group %d", need, r.GPU, count(able, "node"), largest),
	}
}

func reasons(rejected map[string]int) string {
	parts := make([]string, 0, len(rejected))
	for reason, n := range rejected {
		parts = append(parts, fmt.Sprintf("%s %d", reason, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// anyOf reports whether name is in names; an empty list has every name.
func anyOf(names []string, name string) bool {
	return len(names) == 0 || slices.ContainsFunc(names, func(s string) bool { return strings.EqualFold(s, name) })
}
