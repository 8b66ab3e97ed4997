package access

import (
	"slices"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// Row is one line of the matrix of keys §7.4: what a route asks of a credential.
type Row struct {
	// Name identifies the row in routes and documentation.
	Name string
	// What completes the sentence "this credential may not …".
	What string
	// AnyOf lists alternatives; within one alternative every scope is needed.
	AnyOf [][]Scope
	// Reaches are the resource entries of a key that are compatible; none means that keys are refused.
	Reaches []Reach
	// Audience is the service id a key must be made for.
	Audience string
}

// Matrix is every row, by name.
var Matrix = map[string]Row{}

func row(name, what string, reaches []Reach, anyOf ...[]Scope) Row {
	r := Row{Name: name, What: what, AnyOf: anyOf, Reaches: reaches, Audience: FunctionsAudience}
	Matrix[name] = r
	return r
}

var (
	managed   = []Reach{AF, F, V, AE}
	invokable = []Reach{AF, SF, F, V}
	visible   = []Reach{AF, SF, F, V, AE}
)

// The rows that routes refer to.
var (
	CreateFunction = row("function.create", "create a function", []Reach{AF, AE}, []Scope{RegisterFunction})
	CreateVersion  = row("version.create", "create a version", []Reach{AF, F, AE}, []Scope{RegisterFunction})
	ReadFunctions  = row("function.read", "read functions", visible, []Scope{ListFunctionDetails}, []Scope{ListFunctions})
	WriteFunction  = row("function.update", "update a function", managed, []Scope{UpdateFunction})
	RemoveFunction = row("function.delete", "delete a function", managed, []Scope{DeleteFunction})
	Deploy         = row("deployment.write", "deploy a function", managed, []Scope{DeployFunction, ListFunctions})
	ReadDeployment = row("deployment.read", "read or remove a deployment", managed, []Scope{DeployFunction})
	Invoke         = row("function.invoke", "invoke a function", invokable, []Scope{InvokeFunction})
	ReadQueues     = row("queue.read", "read queues", visible, []Scope{QueueDetails})
	ReadGroups     = row("clustergroup.read", "list cluster groups", []Reach{AC, AE, AF}, []Scope{ListClusterGroups}, []Scope{ListClusters})
	SupportedGPUs  = row("gpu.read", "list supported GPUs", managed, []Scope{RegisterFunction})
	ManageClusters = row("cluster.manage", "manage clusters", nil, []Scope{ClusterManagement})
	ReadAudit      = row("audit.read", "read the audit record", nil, []Scope{AuditRead})
)

// Decide applies a row to a credential (keys §7.3, steps 4 and 5) and returns the caller that the route's service
// will see, or the problem that names the missing scope or resource type. Whether the named object is covered is
// decided where the object is known, with [Caller.CoversFunction].
func Decide(r Row, c Credential) (Caller, *problem.Problem) {
	caller := Caller{Account: c.Account, Kind: c.Kind, ID: c.ID, Subject: c.Subject}
	if c.Kind == JWT {
		if !satisfied(r.AnyOf, c.Scopes) {
			return Caller{}, missingScope(r)
		}
		caller.Scopes = c.Scopes
		return caller, nil
	}
	if !slices.Contains(c.Audiences, r.Audience) {
		return Caller{}, problem.New(problem.Forbidden, "this key was not made for this service")
	}
	if len(r.Reaches) == 0 {
		return Caller{}, problem.New(problem.Forbidden, "a key cannot %s; use an administrator token", r.What)
	}
	scoped, contributed := false, false
	for _, p := range c.Policies {
		if !p.isFor(r.Audience) || !satisfied(r.AnyOf, p.Scopes) {
			continue
		}
		scoped = true
		before := len(caller.Resources)
		for _, res := range p.Resources {
			if reach, ok := res.Reach(); ok && slices.Contains(r.Reaches, reach) {
				caller.Resources = append(caller.Resources, res)
			}
		}
		switch {
		case len(caller.Resources) == before:
		case !contributed:
			caller.Scopes, contributed = slices.Clone(p.Scopes), true
		default:
			// A scope that goes beyond the row holds for every resource of the caller or for none: one of this policy
			// must not reach the resources of another.
			caller.Scopes = slices.DeleteFunc(caller.Scopes, func(s Scope) bool { return !slices.Contains(p.Scopes, s) })
		}
	}
	switch {
	case !scoped:
		return Caller{}, missingScope(r)
	case len(caller.Resources) == 0:
		p := problem.New(problem.ResourceType, "no resource of this credential is of a type that may %s", r.What)
		for _, reach := range r.Reaches {
			p.RequiredResourceTypes = append(p.RequiredResourceTypes, reachWire[reach])
		}
		return Caller{}, p
	}
	return caller, nil
}

// isFor reports whether the policy was written for an audience; one without an audience serves every audience of
// its key (keys §4.9).
func (p Policy) isFor(audience string) bool {
	if p.Audience == "" && len(p.Audiences) == 0 {
		return true
	}
	return p.Audience == audience || slices.Contains(p.Audiences, audience)
}

func satisfied(anyOf [][]Scope, have []Scope) bool {
	for _, all := range anyOf {
		if !slices.ContainsFunc(all, func(s Scope) bool { return !slices.Contains(have, s) }) {
			return true
		}
	}
	return false
}

func missingScope(r Row) *problem.Problem {
	// The last alternative is the narrowest one, so it is the one to ask for.
	need := r.AnyOf[len(r.AnyOf)-1]
	what := "only with " + need[0]
	if len(need) == 2 {
		what = "only with both " + need[0] + " and " + need[1]
	}
	p := problem.New(problem.ScopeMissing, "this credential may %s %s", r.What, what)
	p.RequiredScopes = need
	return p
}

// NotCovered is the answer for an object that exists in the caller's account but lies outside its key's resources.
func NotCovered(r Row, what string) *problem.Problem {
	p := problem.New(problem.ResourceNotCovered, "no resource of this credential covers %s", what)
	for _, reach := range r.Reaches {
		p.RequiredResourceTypes = append(p.RequiredResourceTypes, reachWire[reach])
	}
	return p
}
