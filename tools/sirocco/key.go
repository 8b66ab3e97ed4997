package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

const keysPath = "/v1/keys"

func newKey(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "key", Short: "API keys: for those who call functions, and for programs",
		Long: `Keys belong to an owner; every command here is about the keys of one --owner. A key holds scopes, which say what it
may do, and resources, which say to what. A key's value is shown once, when it is made.`,
	}
	var owner string
	cmd.PersistentFlags().StringVar(&owner, "owner", s.owner, "whose keys")
	cmd.AddCommand(
		newKeyCreate(s, &owner), newKeyList(s, &owner), newKeyShow(s, &owner), newKeyUpdate(s, &owner), newKeyRotate(s, &owner), newKeyRevoke(s, &owner),
		newKeyStatus(s, &owner, "suspend ID", "Refuse a key until it is activated again", keys.Suspended, "suspended"),
		newKeyStatus(s, &owner, "activate ID", "Let a suspended key work again", keys.Active, "activated"),
		newKeyExplain(s), newScopes(s),
	)
	return cmd
}

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

func newKeyCreate(s *session, owner *string) *cobra.Command {
	var description, ttl, service string
	var g grant
	var l limits
	cmd := &cobra.Command{
		Use: "create", Short: "Create a key and print its value, which is shown only this once",
		Long: `Create a key. Its value alone goes to standard output, everything else to standard error. Without --scope and
resources it is a key that calls every function of the account, or with --for task runs every task.`,
		Example: `  export SIROCCO_API_KEY=$(sirocco key create --description laptop)
  sirocco key create --scope invoke_function --function echo --ttl 7d
  sirocco key create --scope deploy_function,list_functions --all-functions --description "ci deployer"
  sirocco key create --scope manage_registry_credentials --entity`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			life, err := lifetime(ttl)
			if err != nil {
				return &usage{command: cmd.CommandPath(), err: fmt.Errorf("--ttl: %w", err)}
			}
			p, err := productOf(service)
			if err != nil {
				return &usage{command: cmd.CommandPath(), err: err}
			}
			c, err := s.connect()
			if err != nil {
				return err
			}
			order := keyOrder{product: p, owner: *owner, description: description, scopes: g.scopes, expires: s.now().Add(life), limits: l.members(cmd)}
			if order.resources, err = g.resources(cmd.Context(), c); err != nil {
				return err
			}
			key, raw, err := createKey(cmd.Context(), c, order)
			if err != nil {
				return err
			}
			return s.showNewKey(key, raw)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&description, "description", "made by sirocco", "what the key is for: letters, digits, spaces, - and _")
	flags.StringVar(&ttl, "ttl", "24h", "how long the key is good, such as 90m, 24h, 30d, 2w")
	flags.StringVar(&service, "for", products[0].name, "what the key is for: function or task")
	g.register(s, cmd)
	l.register(cmd)
	return cmd
}

// showNewKey prints a value that no later answer has.
func (s *session) showNewKey(key keys.Key, raw []byte) error {
	if s.output == formatJSON {
		return writeJSON(s.out, raw)
	}
	fmt.Fprintf(s.err, "key %s of %s may %s until %s; its value is not shown again\n",
		key.ID, printable(key.OwnerID), printable(rights(key.Authorizations)), shown(key.ExpiresAt))
	_, err := fmt.Fprintln(s.out, key.Value)
	return err
}

// lifetime is a Go duration, or a number of days or weeks.
func lifetime(text string) (time.Duration, error) {
	const day = 24 * time.Hour
	life, err := time.ParseDuration(text)
	for suffix, unit := range map[string]time.Duration{"d": day, "w": 7 * day} {
		if number, ok := strings.CutSuffix(text, suffix); ok {
			var n int
			n, err = strconv.Atoi(number)
			life = time.Duration(n) * unit
		}
	}
	if err != nil || life <= 0 || life > 100*365*day {
		return 0, errors.New("must be a duration such as 90m, 24h, 30d or 2w")
	}
	return life, nil
}

// keyOrder says what a new key is for; without scopes or resources it has those of its product.
type keyOrder struct {
	product
	owner, description string
	scopes             []string
	resources          []access.Resource
	expires            time.Time
	limits             map[string]any
}

func createKey(ctx context.Context, c *client.Client, o keyOrder) (keys.Key, []byte, error) {
	if len(o.scopes) == 0 {
		o.scopes = o.product.scopes
	}
	if len(o.resources) == 0 {
		o.resources = o.product.resources
	}
	order := map[string]any{
		"description": o.description, "expires_at": instant(o.expires), "authorizations": o.authorizations(o.scopes, o.resources),
		"audience_service_ids": []string{o.audience},
	}
	maps.Copy(order, o.limits)
	body, err := json.Marshal(order)
	if err != nil {
		return keys.Key{}, nil, fmt.Errorf("key: %w", err)
	}
	return ask[keys.Key](ctx, c, client.Request{Method: http.MethodPost, Path: keysPath, Header: o.issued(o.owner), Body: body})
}

func (p product) authorizations(scopes []string, resources []access.Resource) map[string][]access.Policy {
	return map[string][]access.Policy{"policies": {{
		Audience: p.audience, Audiences: []string{p.audience}, Product: p.policy, Resources: resources, Scopes: scopes,
	}}}
}

// instant is a moment as the keys service reads it.
func instant(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000Z") }

// borrow makes a key for what follows. The returned function revokes it, also for a person who has pressed Ctrl-C.
func (s *session) borrow(ctx context.Context, c *client.Client, why string, l loan) (value string, giveBack func(), err error) {
	key, _, err := createKey(ctx, c, keyOrder{
		product: products[0], owner: s.owner, description: why, scopes: l.scopes, resources: []access.Resource{l.resource}, expires: s.now().Add(loanTime),
	})
	if err != nil {
		var refusal *client.Refusal
		if errors.As(err, &refusal) && refusal.Status == http.StatusBadRequest {
			err = next(fmt.Errorf("no key could be made for this call: %w", err), "bring one with --key or SIROCCO_API_KEY, or make room: `sirocco key list`, `sirocco key revoke`")
		}
		return "", nil, err
	}
	return key.Value, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterword)
		defer cancel()
		if _, err := aboutKey(ctx, c, s.owner, client.Request{Method: http.MethodDelete, Path: keysPath + "/" + escape(key.ID)}); err != nil {
			fmt.Fprintf(s.err, "sirocco: the key %s of this call was not revoked (%s); it expires at %s\n", key.ID, printable(err.Error()), shown(key.ExpiresAt))
		}
	}, nil
}

// aboutKey makes a call about a key of whichever product has it.
func aboutKey(ctx context.Context, c *client.Client, owner string, r client.Request) (raw []byte, err error) {
	for _, p := range products {
		r.Header = p.issued(owner)
		raw, err = c.Answer(ctx, r)
		if refusal, ok := errors.AsType[*client.Refusal](err); !ok || refusal.Status != http.StatusNotFound {
			return raw, err
		}
	}
	return raw, err
}

func newKeyList(s *session, owner *string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List an owner's keys, without their values", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			var all keys.ListResponse
			for _, p := range products {
				list, _, err := ask[keys.ListResponse](cmd.Context(), c, client.Request{Method: http.MethodGet, Path: keysPath, Header: p.issued(*owner)})
				if err != nil {
					return err
				}
				all.Keys = append(all.Keys, list.Keys...)
			}
			raw, err := json.Marshal(all)
			if err != nil {
				return fmt.Errorf("keys: %w", err)
			}
			return s.show(raw, func(w io.Writer) error {
				return table{member: "keys", columns: columns("ID", "id", "Status", "status", "Key", "value", "Description", "description",
					"Created", "created_at", "Expires", "expires_at", "Last used", "last_used_at")}.write(w, raw)
			})
		},
	}
}

func newKeyShow(s *session, owner *string) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Aliases: []string{"get"}, Short: "Show a key: its rights, limits, and when it was used", Args: arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			raw, err := aboutKey(cmd.Context(), c, *owner, client.Request{Method: http.MethodGet, Path: keysPath + "/" + escape(args[0])})
			if err != nil {
				return err
			}
			return s.showKey(raw)
		},
	}
}

// showKey prints a key with its policies, one scope-and-resource pair of lines for each.
func (s *session) showKey(raw []byte) error {
	return s.show(raw, func(w io.Writer) error {
		t := table{columns: columns("ID", "id", "Status", "status", "Key", "value", "Owner", "owner_id", "Description", "description",
			"Created", "created_at", "Expires", "expires_at", "Changed", "updated_at", "Last used", "last_used_at", "Rotated from", "rotated_from",
			"Requests per second", "rate_limit.rps", "At once above that", "rate_limit.burst", "In flight", "rate_limit.concurrent", "Networks", "allowed_cidrs")}
		var answer any
		var key keys.Key
		if err := errors.Join(json.Unmarshal(raw, &answer), json.Unmarshal(raw, &key)); err != nil {
			return fmt.Errorf("key: %w", err)
		}
		rows := t.members(answer)
		for _, p := range policiesOf(key.Authorizations) {
			rows = append(rows, []string{"May", strings.Join(p.Scopes, ", ")}, []string{"  on", resourcesOf(p)})
		}
		return writeTable(w, nil, rows)
	})
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

func newKeyUpdate(s *session, owner *string) *cobra.Command {
	var description, ttl string
	var g grant
	var l limits
	cmd := &cobra.Command{
		Use: "update ID", Short: "Change a key's rights, description, life or limits; its value stays",
		Long: `Change a key. --scope and the resource flags each replace what the key has of that kind; what is not named stays.
A change holds everywhere within a second.`,
		Example: `  sirocco key update 5d0c7c0e-… --scope invoke_function,list_functions
  sirocco key update 5d0c7c0e-… --ttl 30d --rate 10 --burst 20 --cidr 10.0.0.0/8`,
		Args: arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := s.connect()
			if err != nil {
				return err
			}
			changes := l.members(cmd)
			if cmd.Flags().Changed("description") {
				changes["description"] = description
			}
			if cmd.Flags().Changed("ttl") {
				life, err := lifetime(ttl)
				if err != nil {
					return &usage{command: cmd.CommandPath(), err: fmt.Errorf("--ttl: %w", err)}
				}
				changes["expires_at"] = instant(s.now().Add(life))
			}
			resources, err := g.resources(ctx, c)
			if err != nil {
				return err
			}
			if len(changes) == 0 && len(resources) == 0 && len(g.scopes) == 0 {
				return &usage{command: cmd.CommandPath(), err: errors.New("nothing to change: give a flag")}
			}
			path := keysPath + "/" + escape(args[0])
			var raw []byte
			if len(resources) > 0 || len(g.scopes) > 0 {
				if raw, err = regrant(ctx, c, *owner, path, g.scopes, resources); err != nil {
					return err
				}
			}
			if len(changes) > 0 {
				body, err := json.Marshal(changes)
				if err != nil {
					return fmt.Errorf("key: %w", err)
				}
				if raw, err = aboutKey(ctx, c, *owner, client.Request{Method: http.MethodPatch, Path: path, Body: body}); err != nil {
					return err
				}
			}
			return s.showKey(raw)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&description, "description", "", "what the key is for: letters, digits, spaces, - and _")
	flags.StringVar(&ttl, "ttl", "", "how long the key is good from now, such as 90m, 24h, 30d, 2w")
	g.register(s, cmd)
	l.register(cmd)
	return cmd
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

func newKeyRotate(s *session, owner *string) *cobra.Command {
	var grace, ttl string
	cmd := &cobra.Command{
		Use: "rotate ID", Short: "Replace a key by a new one with the same rights and print its value, only this once",
		Long: `Replace a key. The new value goes to standard output. The old key works for --grace longer, so that whoever uses it
has time to change; without --grace it is dead at once.`,
		Example: "  sirocco key rotate 5d0c7c0e-… --grace 1h",
		Args:    arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			order := map[string]any{}
			if cmd.Flags().Changed("grace") {
				overlap, err := lifetime(grace)
				if err != nil {
					return &usage{command: cmd.CommandPath(), err: fmt.Errorf("--grace: %w", err)}
				}
				order["grace_seconds"] = int64(overlap.Seconds())
			}
			if cmd.Flags().Changed("ttl") {
				life, err := lifetime(ttl)
				if err != nil {
					return &usage{command: cmd.CommandPath(), err: fmt.Errorf("--ttl: %w", err)}
				}
				order["expires_at"] = instant(s.now().Add(life))
			}
			body, err := json.Marshal(order)
			if err != nil {
				return fmt.Errorf("key: %w", err)
			}
			c, err := s.connect()
			if err != nil {
				return err
			}
			raw, err := aboutKey(cmd.Context(), c, *owner, client.Request{Method: http.MethodPost, Path: keysPath + "/" + escape(args[0]) + "/rotate", Body: body})
			if err != nil {
				return err
			}
			var key keys.Key
			if err := json.Unmarshal(raw, &key); err != nil {
				return fmt.Errorf("key: %w", err)
			}
			return s.showNewKey(key, raw)
		},
	}
	cmd.Flags().StringVar(&grace, "grace", "", "how long the old key still works, such as 1h; at most 7d (default: not at all)")
	cmd.Flags().StringVar(&ttl, "ttl", "", "how long the new key is good (default: until the old one would have expired)")
	return cmd
}

func newKeyRevoke(s *session, owner *string) *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID…", Aliases: []string{"delete"}, Short: "Delete keys; they stop working everywhere within a second",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("missing ID")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			for _, id := range args {
				if _, err := aboutKey(cmd.Context(), c, *owner, client.Request{Method: http.MethodDelete, Path: keysPath + "/" + escape(id)}); err != nil {
					return fmt.Errorf("key %s: %w", id, err)
				}
				if s.output == formatTable {
					fmt.Fprintln(s.out, "revoked", printable(id))
				}
			}
			return nil
		},
	}
}

func newKeyStatus(s *session, owner *string, use, short string, status keys.Status, done string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			body, err := json.Marshal(map[string]keys.Status{"status": status})
			if err != nil {
				return fmt.Errorf("key: %w", err)
			}
			path := "/v1/service-admin/users/" + escape(*owner) + "/keys/" + escape(args[0]) + "/status"
			raw, err := aboutKey(cmd.Context(), c, *owner, client.Request{Method: http.MethodPut, Path: path, Body: body})
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, done, printable(args[0]))
				return err
			})
		},
	}
}

// knownScopes are the scopes that the rows of the matrix ask of keys.
func knownScopes() []string {
	var scopes []string
	for _, row := range access.Matrix {
		for _, way := range row.Ways {
			if len(way.Reaches) > 0 {
				scopes = append(scopes, way.Scopes...)
			}
		}
	}
	slices.Sort(scopes)
	return slices.Compact(scopes)
}

func newScopes(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "scopes", Short: "List what keys may be allowed to do, and which resources that takes", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			type line struct {
				Scopes    []string `json:"scopes"`
				Opens     string   `json:"opens"`
				Resources []string `json:"resources"`
			}
			var lines []line
			for _, row := range access.Matrix {
				for _, way := range row.Ways {
					l := line{Scopes: way.Scopes, Opens: row.What}
					for _, reach := range way.Reaches {
						l.Resources = append(l.Resources, reach.Wire())
					}
					if len(l.Resources) > 0 {
						lines = append(lines, l)
					}
				}
			}
			slices.SortFunc(lines, func(a, b line) int {
				return strings.Compare(strings.Join(a.Scopes, "+")+a.Opens, strings.Join(b.Scopes, "+")+b.Opens)
			})
			raw, err := json.Marshal(lines)
			if err != nil {
				return fmt.Errorf("scopes: %w", err)
			}
			return s.show(raw, func(w io.Writer) error {
				var rows [][]string
				for _, l := range lines {
					rows = append(rows, []string{strings.Join(l.Scopes, " + "), l.Opens, strings.Join(l.Resources, ", ")})
				}
				return writeTable(w, []string{"SCOPE", "OPENS", "ON ONE OF"}, rows)
			})
		},
	}
}
