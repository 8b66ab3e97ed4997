package deployments

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// Limits of §11.1, and bounds on what a client may make us keep.
const (
	maxConcurrency    = 16384
	maxPreferred      = 99
	maxSpecifications = 100
	maxInstances      = 100_000
	maxNames          = 256
	maxName           = 256
	maxConfiguration  = 1 << 20
)

// cleaned drops what counts as absent: null documents, an empty backend, blank attributes. Everything else stays as it
// was sent.
func cleaned(specs []contract.Specification) []contract.Specification {
	out := slices.Clone(specs)
	for n := range out {
		s := &out[n]
		s.ID = ""
		s.Backend = strings.TrimSpace(s.Backend)
		s.Configuration, s.Autoscaling, s.HelmValidationPolicy = present(s.Configuration), present(s.Autoscaling), present(s.HelmValidationPolicy)
		s.Attributes = slices.DeleteFunc(slices.Clone(s.Attributes), func(a string) bool { return strings.TrimSpace(a) == "" })
	}
	return out
}

// present turns a null document into an absent one.
func present(raw json.RawMessage) json.RawMessage {
	if trimmed := bytes.TrimSpace(raw); len(trimmed) == 0 || bytes.Equal(trimmed, []byte("null")) {
		return nil
	}
	return raw
}

// validSpecs is the check of §11.4 step 1: everything that can be said without knowing the function or the clusters.
func validSpecs(specs []contract.Specification) error {
	check := problem.NewCheck("deployment")
	check.Require(len(specs) > 0, "deploymentSpecifications", "must have at least one GPU specification")
	check.Require(len(specs) <= maxSpecifications, "deploymentSpecifications", "must have at most %d GPU specifications", maxSpecifications)
	if len(specs) > maxSpecifications {
		return check.Err()
	}
	for n, s := range specs {
		at := fmt.Sprintf("deploymentSpecifications[%d].", n)
		validName(check, at+"gpu", s.GPU, true)
		validName(check, at+"instanceType", s.InstanceType, true)
		validName(check, at+"backend", s.Backend, false)
		validBounds(check, at, s.MinInstances, s.MaxInstances)
		validConcurrency(check, at, s.MaxRequestConcurrency)
		check.Require(s.PreferredOrder == nil || *s.PreferredOrder >= 1 && *s.PreferredOrder <= maxPreferred, at+"preferredOrder", "must be between 1 and %d", maxPreferred)
		for field, names := range map[string][]string{"clusters": s.Clusters, "regions": s.Regions, "availabilityZones": s.AvailabilityZones, "attributes": s.Attributes} {
			check.Require(len(names) <= maxNames, at+field, "must have at most %d entries", maxNames)
			for _, name := range names[:min(len(names), maxNames)] {
				validName(check, at+field, name, true)
			}
		}
		validAutoscaling(check, at+"autoscalingConfiguration", s.Autoscaling)
		check.Require(len(s.Configuration) <= maxConfiguration, at+"configuration", "must be at most %d bytes", maxConfiguration)
		check.Require(len(s.Configuration) == 0 || bytes.HasPrefix(bytes.TrimSpace(s.Configuration), []byte("{")), at+"configuration", "must be a JSON object")
		check.Require(!nul(s.Configuration) && !nul(s.HelmValidationPolicy), at+"configuration", "must not hold the character U+0000")
		validPolicy(check, at+"helmValidationPolicy", s.HelmValidationPolicy)
		for field, text := range map[string]string{
			"cpuArch": s.CPUArch, "os": s.OS, "driverVersion": s.DriverVersion, "storage": s.Storage, "systemMemory": s.SystemMemory, "gpuMemory": s.GPUMemory,
		} {
			validName(check, at+field, text, false)
		}
	}
	return check.Err()
}

func validName(check *problem.Check, field, name string, required bool) {
	check.Require(!required || strings.TrimSpace(name) != "", field, "must not be blank")
	check.Require(len(name) <= maxName, field, "must be at most %d bytes", maxName)
	check.Require(!strings.ContainsRune(name, 0), field, "must not hold the character U+0000")
}

// nul reports whether a document holds an escaped U+0000, which the store cannot keep.
func nul(raw json.RawMessage) bool { return bytes.Contains(raw, []byte(`\u0000`)) }

func validBounds(check *problem.Check, at string, low, high *int) {
	check.Require(low != nil, at+"minInstances", "must be given")
	check.Require(low == nil || *low >= 0 && *low <= maxInstances, at+"minInstances", "must be between 0 and %d", maxInstances)
	check.Require(high != nil, at+"maxInstances", "must be given")
	check.Require(high == nil || *high >= 1 && *high <= maxInstances, at+"maxInstances", "must be between 1 and %d", maxInstances)
	check.Require(low == nil || high == nil || *low <= *high, at+"minInstances", "must not be greater than maxInstances")
}

func validConcurrency(check *problem.Check, at string, n *int) {
	check.Require(n == nil || *n >= 1 && *n <= maxConcurrency, at+"maxRequestConcurrency", "must be between 1 and %d", maxConcurrency)
}

// validIDs checks the ids of a path.
func validIDs(ids map[string]string) error {
	check := problem.NewCheck("path")
	for field, id := range ids {
		check.Require(isUUID(id), field, "must be a UUID")
	}
	return check.Err()
}

// validAgainst is steps 9 to 11 of §11.4: what is asked for exists. All texts name the field.
func validAgainst(nodes []clusters.Node, f functions.Function, specs []contract.Specification) error {
	if len(nodes) == 0 {
		return problem.New(problem.IllegalState, "the account has no cluster group: no node of its own has joined yet, and no cluster of another account lets it deploy; join a node, or have a cluster authorize the account")
	}
	check := problem.NewCheck("deployment")
	for n, s := range specs {
		at := fmt.Sprintf("deploymentSpecifications[%d].", n)
		check.Require(s.Backend == "" || len(s.Clusters) == 0, at+"backend", "must be absent when clusters are given")
		allowed := nodes
		if s.Backend != "" {
			allowed = slices.DeleteFunc(slices.Clone(nodes), func(n clusters.Node) bool { return !strings.EqualFold(n.Cluster, s.Backend) })
			check.Require(len(allowed) > 0, at+"backend", "unknown cluster group '%s'", s.Backend)
			offers := slices.ContainsFunc(allowed, func(n clusters.Node) bool { return len(n.Types) > 0 })
			check.Require(len(allowed) == 0 || offers, at+"backend", "the cluster group '%s' has no GPUs", s.Backend)
		}
		if len(allowed) == 0 {
			continue
		}
		known := func(field string, names []string, match func(clusters.Node, string) bool) {
			for _, name := range names {
				check.Require(slices.ContainsFunc(nodes, func(n clusters.Node) bool { return match(n, name) }), at+field, "unknown: '%s'", name)
			}
		}
		cluster := func(n clusters.Node, name string) bool { return strings.EqualFold(n.Cluster, name) }
		region := func(n clusters.Node, name string) bool { return strings.EqualFold(n.Facts.Region, name) }
		known("clusters", s.Clusters, cluster)
		known("regions", s.Regions, region)
		known("availabilityZones", s.AvailabilityZones, func(n clusters.Node, name string) bool { return cluster(n, name) || region(n, name) })
		known("attributes", s.Attributes, func(n clusters.Node, name string) bool {
			return slices.ContainsFunc(n.Attributes, func(has string) bool { return strings.EqualFold(has, name) })
		})
		checkOffer(check, at, allowed, s)
		if f.ContainerImage != "" || f.HelmChart == "" {
			check.Require(s.Configuration == nil, at+"configuration", "must be absent for a container function")
			check.Require(s.HelmValidationPolicy == nil, at+"helmValidationPolicy", "must be absent for a container function")
		}
	}
	if err := check.Err(); err != nil {
		return err
	}
	if f.ContainerImage == "" && f.HelmChart != "" {
		return problem.New(problem.IllegalState,
			"helmChart: a chart cannot be deployed here, because that takes Kubernetes and Sirocco runs containers by itself; create a version with the containerImage of the chart's service instead and deploy that")
	}
	return nil
}

// checkOffer looks for the GPU, and the type of it, among the nodes.
func checkOffer(check *problem.Check, at string, nodes []clusters.Node, s contract.Specification) {
	gpu, typ := false, false
	for _, n := range nodes {
		for _, t := range n.Types {
			if strings.EqualFold(t.GPU, s.GPU) {
				gpu = true
				typ = typ || strings.EqualFold(t.Name, s.InstanceType)
			}
		}
	}
	check.Require(gpu, at+"gpu", "unknown GPU '%s'", s.GPU)
	check.Require(!gpu || typ, at+"instanceType", "unknown instance type '%s' for GPU '%s'", s.InstanceType, s.GPU)
}

// describe fills in what the inventory knows about the type of a specification (§11.1), and tells how many GPUs an
// instance of it has.
func describe(s *contract.Specification, nodes []clusters.Node) (gpus int) {
	for _, n := range nodes {
		for _, t := range n.Types {
			if !strings.EqualFold(t.GPU, s.GPU) || !strings.EqualFold(t.Name, s.InstanceType) {
				continue
			}
			s.CPUArch, s.OS, s.DriverVersion = cmp.Or(t.CPUArch, s.CPUArch), cmp.Or(t.OS, s.OS), cmp.Or(t.Driver, s.DriverVersion)
			s.Storage, s.SystemMemory, s.GPUMemory = cmp.Or(t.Storage, s.Storage), cmp.Or(t.SystemMemory, s.SystemMemory), cmp.Or(t.GPUMemory, s.GPUMemory)
			return max(t.GPUCount, 1)
		}
	}
	return 1
}

// helmPolicy is what §11.1 lets a client say about the objects of a chart.
type helmPolicy struct {
	Name  *string     `json:"name"`
	Types []chartKind `json:"extraKubernetesTypes"`
}

type chartKind struct {
	Group   string `json:"group"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
}

func validPolicy(check *problem.Check, field string, raw json.RawMessage) {
	if len(raw) == 0 {
		return
	}
	var p *helmPolicy
	if err := json.Unmarshal(raw, &p); err != nil || p == nil {
		check.Require(false, field, "must be an object with a name")
		return
	}
	known := p.Name != nil && (strings.EqualFold(*p.Name, "DEFAULT") || strings.EqualFold(*p.Name, "UNRESTRICTED"))
	check.Require(known, field+".name", "must be DEFAULT or UNRESTRICTED")
	check.Require(p.Types == nil || len(p.Types) > 0, field+".extraKubernetesTypes", "must have at least one element when it is given")
	check.Require(len(p.Types) <= maxNames, field+".extraKubernetesTypes", "must have at most %d elements", maxNames)
	for n, k := range p.Types[:min(len(p.Types), maxNames)] {
		at := fmt.Sprintf("%s.extraKubernetesTypes[%d].", field, n)
		for name, value := range map[string]string{"group": k.Group, "version": k.Version, "kind": k.Kind} {
			check.Require(strings.TrimSpace(value) != "", at+name, "must not be blank")
		}
	}
}
