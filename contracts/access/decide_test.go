package access

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

const (
	fnA  = "5e0c2a5c-7f0e-4f5d-9f1c-2c6f3c3a1b10"
	fnB  = "8b0f0d1c-3b0a-4a5e-9d3e-6f1f2b7c9a01"
	verA = "c2b8a0b4-5b1f-4a57-8a35-0d3c1f6f9a77"
	verB = "1d2c3b4a-5f6e-4d7c-8b9a-0a1b2c3d4e5f"
)

func key(policies ...Policy) Credential {
	return Credential{Kind: Key, Account: DefaultAccount, ID: "k", Audiences: []string{FunctionsAudience}, Policies: policies}
}

func policy(scopes string, resources ...string) Policy {
	p := Policy{Audience: FunctionsAudience, Scopes: strings.Fields(scopes)}
	for _, r := range resources {
		typ, id, _ := strings.Cut(r, " ")
		p.Resources = append(p.Resources, Resource{Type: typ, ID: id})
	}
	return p
}

const (
	allFunctions = "account-functions *"
	everything   = "* *"
	oneFunction  = "function " + fnA + "/*"
	oneVersion   = "function " + fnA + "/" + verA
)

// TestDecide is the rules of keys §7.5 that need no object: each refusal says what would have been accepted.
func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name string
		row  Row
		cred Credential
		want problem.Code
	}{
		{"scope missing", Deploy, key(policy("register_function", allFunctions)), problem.ScopeMissing},
		{"deploy needs two scopes", Deploy, key(policy("deploy_function", allFunctions)), problem.ScopeMissing},
		{"details do not replace list", Deploy, key(policy("deploy_function list_functions_details", allFunctions)), problem.ScopeMissing},
		{"both scopes", Deploy, key(policy("deploy_function list_functions", allFunctions)), ""},
		{"reading a deployment needs one", ReadDeployment, key(policy("deploy_function", allFunctions)), ""},
		{"two scopes may stand in two policies", Deploy, key(policy("deploy_function", oneFunction), policy("list_functions", allFunctions)), ""},
		{"each with a resource of its own", Deploy, key(policy("deploy_function", allFunctions), policy("list_functions")), problem.ResourceType},
		{"scope and resource of two policies never combine", Invoke, key(policy("invoke_function"), policy("list_functions", allFunctions)), problem.ResourceType},
		{"create with a narrow key", CreateFunction, key(policy("register_function", oneFunction)), problem.ResourceType},
		{"create with a version key", CreateVersion, key(policy("register_function", oneVersion)), problem.ResourceType},
		{"invoke with all entity only", Invoke, key(policy("invoke_function", everything)), problem.ResourceType},
		{"all entity beside all functions", Invoke, key(policy("invoke_function", everything, allFunctions)), ""},
		{"an entry that does not parse grants nothing", Invoke, key(policy("invoke_function", "function "+fnA, "function *", "account-functions x", "what *")), problem.ResourceType},
		{"a key never manages clusters", ManageClusters, key(policy("cluster-management", everything)), problem.Forbidden},
		{"clusters with all functions", ReadGroups, key(policy("list_clusters", allFunctions)), problem.ResourceType},
		{"clusters with all clusters", ReadGroups, key(policy("list_clusters", "account-clusters *")), ""},
		{"a key of another audience", Invoke, Credential{Kind: Key, Audiences: []string{TasksAudience}, Policies: []Policy{policy("invoke_function", allFunctions)}}, problem.AudienceMismatch},
		{"a policy of another audience", Invoke, key(Policy{Audience: TasksAudience, Scopes: []string{InvokeFunction}, Resources: []Resource{{"*", "account-functions"}}}), problem.ScopeMissing},
		{"a token has no resources", Deploy, Credential{Kind: JWT, Scopes: AdminDefaults()}, ""},
		{"the administrator token does not invoke", Invoke, Credential{Kind: JWT, Scopes: AdminDefaults()}, problem.ScopeMissing},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, p := Decide(c.row, c.cred)
			switch {
			case p == nil && c.want != "":
				t.Fatalf("allowed, want %s", c.want)
			case p != nil && p.Code != c.want:
				t.Fatalf("%s, want %q", p, c.want)
			case p != nil && p.Code == problem.ScopeMissing && len(p.RequiredScopes) == 0:
				t.Fatal("the refusal does not name the scope")
			case p != nil && p.Code == problem.ResourceType && len(p.RequiredResourceTypes) == 0:
				t.Fatal("the refusal does not name the resource type")
			}
		})
	}
}

// TestDetailsStayWithTheirPolicy: the details scope of one function is none for all functions.
func TestDetailsStayWithTheirPolicy(t *testing.T) {
	caller, p := Decide(ReadFunctions, key(policy("list_functions", allFunctions), policy("list_functions list_functions_details", oneFunction)))
	if p != nil || !caller.MayAlso(ListFunctionDetails, true, fnA, verA) || caller.MayAlso(ListFunctionDetails, true, fnB, verA) ||
		!caller.CoversFunction(true, fnB, verA) {
		t.Fatalf("%+v %v", caller, p)
	}
}

// TestTwoScopesMustBothCover: deploying function A needs both scopes for A (keys §14, ruling 10).
func TestTwoScopesMustBothCover(t *testing.T) {
	caller, p := Decide(Deploy, key(policy("deploy_function", oneFunction), policy("list_functions", "function "+fnB+"/*")))
	if p != nil || caller.CoversFunction(true, fnA, verA) || caller.CoversFunction(true, fnB, verB) {
		t.Fatalf("%+v %v", caller, p)
	}
}

func TestEveryRowCanBeSatisfied(t *testing.T) {
	for name, r := range Matrix {
		if len(r.Ways) == 0 || r.What == "" || r.Audience == "" {
			t.Errorf("%s is incomplete: %+v", name, r)
		}
		for _, w := range r.Ways {
			if _, p := Decide(r, Credential{Kind: JWT, Scopes: w.Scopes}); p != nil {
				t.Errorf("%s refuses its own scopes: %s", name, p)
			}
		}
		if plain := r.Ways[0].Scopes; len(plain) > 0 && !isAdmin(plain[0]) && r.ForAccount().CrossesAccounts(plain) {
			t.Errorf("%s of another account is open to a plain scope", name)
		}
	}
}

func TestCoversFunction(t *testing.T) {
	for _, c := range []struct {
		resource    string
		own         bool
		fn, version string
		want        bool
	}{
		{allFunctions, true, fnA, verA, true},
		{allFunctions, false, fnA, verA, false},
		{"authorized-functions *", false, fnA, verA, true},
		{"authorized-functions *", true, fnA, verA, false},
		{oneFunction, true, fnA, verA, true},
		{oneFunction, true, fnA, "", true},
		{oneFunction, true, fnB, verA, false},
		{oneVersion, true, fnA, verA, true},
		{oneVersion, true, fnA, verB, false},
		{oneVersion, true, fnA, "", false},
		{everything, true, fnA, verA, true},
	} {
		caller := Caller{Kind: Key, Grants: []Grant{{InvokeFunction: policy("", c.resource).Resources}}}
		if got := caller.CoversFunction(c.own, c.fn, c.version); got != c.want {
			t.Errorf("%q own=%v covers %s/%s: %v, want %v", c.resource, c.own, c.fn, c.version, got, c.want)
		}
	}
	if !(Caller{Kind: JWT}).CoversFunction(true, fnA, verA) {
		t.Error("a token is not restricted by resources")
	}
}

func FuzzDecide(f *testing.F) {
	f.Add(`{"kind":"key","audiences":["`+FunctionsAudience+`"],"policies":[{"scopes":["invoke_function"],"resources":[{"type":"function","id":"`+fnA+`/*"}]}]}`, fnA)
	f.Add(`{}`, "")
	f.Fuzz(func(t *testing.T, credential, functionID string) {
		var c Credential
		if json.Unmarshal([]byte(credential), &c) != nil || c.Kind == JWT {
			return
		}
		caller, p := Decide(Invoke, c)
		if p == nil && len(caller.Grants) == 0 {
			t.Fatal("a key was let through without a resource")
		}
		_ = caller.CoversFunction(true, functionID, "")
	})
}

// TestRefusalNamesAScopeThatWouldDo is that nobody is sent for a scope which their kind of credential cannot have.
func TestRefusalNamesAScopeThatWouldDo(t *testing.T) {
	for name, r := range Matrix {
		if !r.forKeys() {
			continue
		}
		_, p := Decide(r, Credential{Kind: Key, Account: DefaultAccount, Audiences: []string{r.Audience}})
		if p == nil || p.Code != problem.ScopeMissing {
			t.Errorf("%s: a key without scopes is answered %v", name, p)
			continue
		}
		granted := Policy{Audience: r.Audience, Scopes: p.RequiredScopes, Resources: []Resource{
			{Type: "account-functions", ID: "*"}, {Type: "account-clusters", ID: "*"}, {Type: "account-tasks", ID: "*"}, {Type: "*", ID: "*"},
		}}
		if _, again := Decide(r, Credential{Kind: Key, Account: DefaultAccount, Audiences: []string{r.Audience}, Policies: []Policy{granted}}); again != nil {
			t.Errorf("%s: a key with %v, as it was told to have, is answered %v", name, p.RequiredScopes, again)
		}
	}
	if _, p := Decide(SupportedGPUs, Credential{Kind: JWT}); p == nil || p.RequiredScopes[0] != RegisterFunction {
		t.Errorf("who may list GPUs: %v", p)
	}
}
