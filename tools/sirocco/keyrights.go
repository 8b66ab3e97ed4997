package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

// product is what a key is made for: an issuing service with its audience (keys §1).
type product struct {
	name, issuer, audience, policy string
	// scopes and resources are those of a key that says nothing else.
	scopes    []access.Scope
	resources []access.Resource
}

// products are the issuing services in the order in which a key is looked for.
var products = []product{
	{
		name: "function", issuer: "nvcf-api", audience: access.FunctionsAudience, policy: "nv-cloud-functions",
		scopes:    []access.Scope{access.InvokeFunction, access.ListFunctions, access.QueueDetails, access.ListFunctionDetails},
		resources: []access.Resource{{ID: "*", Type: string(access.AllFunctions)}, {ID: "*", Type: string(access.SharedFunctions)}},
	},
	{
		name: "task", issuer: "nvct-api", audience: access.TasksAudience, policy: "nv-cloud-tasks",
		scopes: []access.Scope{
			access.LaunchTask, access.ListTasks, access.TaskDetails, access.CancelTask, access.DeleteTask, access.ListEvents, access.ListResults, access.UpdateSecrets,
		},
		resources: []access.Resource{{ID: "*", Type: string(access.AllTasks)}},
	},
}

// productOf is --for; the name of the first product is the default of the flag.
func productOf(name string) (product, error) {
	for _, p := range products {
		if p.name == name {
			return p, nil
		}
	}
	return product{}, errors.New("--for must be function or task")
}

// issued are the headers that every call about keys needs.
func (p product) issued(owner string) http.Header {
	return http.Header{"Key-Owner-Id": {owner}, "Key-Issuer-Id": {p.audience}, "Key-Issuer-Service": {p.issuer}}
}

// grant is what the flags of create and update say about rights.
type grant struct {
	scopes, functions, versions, clusters, tasks                 []string
	allFunctions, sharedFunctions, allClusters, allTasks, entity bool
}

func (g *grant) register(s *session, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&g.scopes, "scope", nil, "what the key may do; see `sirocco key scopes`; repeat for several")
	flags.StringArrayVar(&g.functions, "function", nil, "a function, by id or name, with all its versions; repeat for several")
	flags.StringArrayVar(&g.versions, "function-version", nil, "one version, as FUNCTION/VERSION-ID; repeat for several")
	flags.BoolVar(&g.allFunctions, "all-functions", false, "every function of the account, present and future")
	flags.BoolVar(&g.sharedFunctions, "shared-functions", false, "functions of others that are shared with the account")
	flags.StringArrayVar(&g.clusters, "cluster", nil, "a cluster by its id; repeat for several")
	flags.BoolVar(&g.allClusters, "all-clusters", false, "every cluster of the account")
	flags.StringArrayVar(&g.tasks, "task", nil, "a task by its id; repeat for several")
	flags.BoolVar(&g.allTasks, "all-tasks", false, "every task of the account")
	flags.BoolVar(&g.entity, "entity", false, "the whole organisation: what registries, telemetry, quota and accounts ask for")
	_ = cmd.RegisterFlagCompletionFunc("function", s.completeFunctions)
	_ = cmd.RegisterFlagCompletionFunc("scope", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return knownScopes(), cobra.ShellCompDirectiveNoFileComp
	})
}

// resources turns the flags into resource entries; none when no flag was given.
func (g *grant) resources(ctx context.Context, c *client.Client) ([]access.Resource, error) {
	var list []access.Resource
	for _, whole := range []struct {
		given bool
		kind  access.ResourceType
	}{
		{g.allFunctions, access.AllFunctions},
		{g.sharedFunctions, access.SharedFunctions},
		{g.allClusters, access.AllClusters},
		{g.allTasks, access.AllTasks},
		{g.entity, access.AllEntity},
	} {
		if whole.given {
			list = append(list, access.Resource{ID: "*", Type: string(whole.kind)})
		}
	}
	for _, ref := range g.functions {
		id, err := functionID(ctx, c, ref)
		if err != nil {
			return nil, err
		}
		list = append(list, access.Resource{ID: id + "/*", Type: string(access.Function)})
	}
	for _, ref := range g.versions {
		function, version, ok := strings.Cut(ref, "/")
		if !ok || !isID(version) {
			return nil, fmt.Errorf("--function-version %q must be FUNCTION/VERSION-ID", ref)
		}
		id, err := functionID(ctx, c, function)
		if err != nil {
			return nil, err
		}
		list = append(list, access.Resource{ID: id + "/" + strings.ToLower(version), Type: string(access.Function)})
	}
	for kind, ids := range map[access.ResourceType][]string{access.Cluster: g.clusters, access.Task: g.tasks} {
		for _, id := range ids {
			list = append(list, access.Resource{ID: id, Type: string(kind)})
		}
	}
	return list, nil
}

// limits are the bounds of a key beside its rights (keys §4.6).
type limits struct {
	rps, burst, concurrent int
	cidrs                  []string
}

func (l *limits) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVar(&l.rps, "rate", 0, "requests per second")
	flags.IntVar(&l.burst, "burst", 0, "requests at once above --rate")
	flags.IntVar(&l.concurrent, "concurrent", 0, "requests in flight")
	flags.StringSliceVar(&l.cidrs, "cidr", nil, "network that the key may be used from, such as 10.0.0.0/8; repeat for several; '' lifts the limit")
}

// members are the limits that were given, as the API has them.
func (l *limits) members(cmd *cobra.Command) map[string]any {
	given, m, rate := cmd.Flags().Changed, map[string]any{}, map[string]int{}
	for flag, limit := range map[string]struct {
		name  string
		value int
	}{"rate": {"rps", l.rps}, "burst": {"burst", l.burst}, "concurrent": {"concurrent", l.concurrent}} {
		if given(flag) {
			rate[limit.name] = limit.value
		}
	}
	if len(rate) > 0 {
		m["rate_limit"] = rate
	}
	if given("cidr") {
		m["allowed_cidrs"] = append([]string{}, l.cidrs...)
	}
	return m
}

func (p product) authorizations(scopes []string, resources []access.Resource) map[string][]access.Policy {
	return map[string][]access.Policy{"policies": {{
		Audience: p.audience, Audiences: []string{p.audience}, Product: p.policy, Resources: resources, Scopes: scopes,
	}}}
}

// policiesOf reads the policies of a key; what is no policy document has none.
func policiesOf(authorizations json.RawMessage) []access.Policy {
	var document struct {
		Policies []access.Policy `json:"policies"`
	}
	if json.Unmarshal(authorizations, &document) != nil {
		return nil
	}
	return document.Policies
}

// rights are all scopes of a key in a sentence.
func rights(authorizations json.RawMessage) string {
	var scopes []string
	for _, p := range policiesOf(authorizations) {
		scopes = append(scopes, p.Scopes...)
	}
	return orDefault(strings.Join(scopes, ", "), "do nothing")
}

// resourcesOf names what a policy reaches as a person says it.
func resourcesOf(p access.Policy) string {
	var parts []string
	for _, r := range p.Resources {
		words := r.Type + " " + r.ID
		switch access.ResourceType(r.Type) {
		case access.AllFunctions:
			words = "all functions"
		case access.SharedFunctions:
			words = "shared functions"
		case access.AllClusters:
			words = "all clusters"
		case access.AllTasks:
			words = "all tasks"
		case access.AllEntity:
			words = "the whole organisation"
		case access.Function:
			words = "function " + strings.TrimSuffix(r.ID, "/*")
		case access.Cluster, access.Task:
		}
		parts = append(parts, words)
	}
	return orDefault(strings.Join(parts, ", "), "nothing")
}

// regrant replaces the scopes or resources of a key and keeps what was not named. The rights of a key of several
// policies have no one place to put them.
func regrant(ctx context.Context, c *client.Client, owner, path string, scopes []string, resources []access.Resource) ([]byte, error) {
	raw, err := aboutKey(ctx, c, owner, client.Request{Method: http.MethodGet, Path: path})
	if err != nil {
		return nil, err
	}
	var key keys.Key
	if err := json.Unmarshal(raw, &key); err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	policies := policiesOf(key.Authorizations)
	if len(policies) > 1 {
		return nil, next(fmt.Errorf("the key has %d policies, and flags name only one", len(policies)), "revoke it and create keys with one policy each")
	}
	p := products[0]
	if key.IssuerServiceID == products[1].audience {
		p = products[1]
	}
	policy := p.authorizations(p.scopes, p.resources)["policies"][0]
	if len(policies) == 1 {
		policy = policies[0]
	}
	if len(scopes) > 0 {
		policy.Scopes = scopes
	}
	if len(resources) > 0 {
		policy.Resources = resources
	}
	body, err := json.Marshal(map[string]any{"authorizations": map[string]any{"policies": []access.Policy{policy}}})
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return aboutKey(ctx, c, owner, client.Request{Method: http.MethodPut, Path: path + "/authorizations", Body: body})
}
