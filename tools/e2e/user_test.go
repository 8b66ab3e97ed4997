package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/tools/stack"
)

// user is a person with a credential in front of one gateway.
type user struct {
	t *testing.T
	// url of the door, credential, and the directory of the platform behind it.
	url, credential, dir string
}

// administrator mints a token as the curl recipe does.
func administrator(t *testing.T, url, dir string) user {
	t.Helper()
	u := user{t: t, url: url, dir: dir}
	a := u.call("POST", "/v1/admin/keys")
	require.Equal(t, 200, a.status, a)
	var key struct {
		Value string `json:"value"`
	}
	a.into(&key)
	u.credential = remember(key.Value)
	return u
}

func (p *platform) administrator(t *testing.T) user {
	t.Helper()
	return administrator(t, p.URL, p.Dir)
}

func (u user) with(credential string) user {
	u.credential = credential
	return u
}

func (u user) through(url string) user {
	u.url = url
	return u
}

// asked changes a request before it is sent.
type asked func(*http.Request)

func header(name, value string) asked {
	return func(r *http.Request) {
		if name == "Host" {
			r.Host = value
		}
		r.Header.Set(name, value)
	}
}

func host(name string) asked { return header("Host", name) }

func body(v any) asked {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text(string(b))
}

func text(s string) asked {
	return func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(s)), int64(len(s))
		r.Header.Set("Content-Type", "application/json")
	}
}

// answer is a response, read to its end.
type answer struct {
	t      *testing.T
	status int
	header http.Header
	body   []byte
	took   time.Duration
}

// String shows a failed assertion what came.
func (a answer) String() string { return fmt.Sprintf("%d %.1500s", a.status, a.body) }

func (a answer) into(v any) {
	a.t.Helper()
	require.NoError(a.t, json.Unmarshal(a.body, v), a)
}

// request makes a request with the user's credential.
func (u user) request(ctx context.Context, method, path string, how ...asked) *http.Request {
	req, err := http.NewRequestWithContext(ctx, method, u.url+path, http.NoBody)
	if err != nil {
		panic(err)
	}
	if u.credential != "" {
		req.Header.Set("Authorization", "Bearer "+u.credential)
	}
	for _, h := range how {
		h(req)
	}
	return req
}

// patience bounds every call of a test.
const patience = 90 * time.Second

// try makes a call that may fail.
func (u user) try(ctx context.Context, method, path string, how ...asked) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	resp, err := client.Do(u.request(ctx, method, path, how...))
	if err != nil {
		return answer{t: u.t, took: time.Since(began)}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if d, broken := document(); broken == nil && err == nil {
		d.check(resp.Request, resp, b)
	}
	return answer{t: u.t, status: resp.StatusCode, header: resp.Header, body: b, took: time.Since(began)}, err
}

// call makes a call that must be answered, with whatever.
func (u user) call(method, path string, how ...asked) answer {
	u.t.Helper()
	a, err := u.try(context.Background(), method, path, how...)
	require.NoError(u.t, err, "%s %s", method, path)
	return a
}

// get, post and friends make calls that must succeed.
func (u user) must(method, path string, into any, how ...asked) answer {
	u.t.Helper()
	a := u.call(method, path, how...)
	require.Less(u.t, a.status, 300, "%s %s: %s", method, path, a)
	if into != nil {
		a.into(into)
	}
	return a
}

// problem is an RFC 9457 document as clients read it.
type problem struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail"`
	Instance string `json:"instance"`
	Code     string `json:"code"`
	Errors   []struct {
		Field string `json:"field"`
		Rule  string `json:"rule"`
	} `json:"errors"`
	RequiredScopes        []string `json:"required_scopes"`
	RequiredResourceTypes []string `json:"required_resource_types"`
	RequestID             string   `json:"requestId"`
}

// refused asserts that the answer is a problem document with the status.
func (a answer) refused(status int) problem {
	a.t.Helper()
	require.Equal(a.t, status, a.status, a)
	return a.problem()
}

// problem asserts that the answer is a problem document (functions-deployments §1.2).
func (a answer) problem() problem {
	a.t.Helper()
	require.Contains(a.t, a.header.Get("Content-Type"), "json", a)
	var p problem
	a.into(&p)
	require.Equal(a.t, a.status, p.Status, a)
	require.NotEmpty(a.t, p.Type, a)
	require.NotEmpty(a.t, p.Title, a)
	require.NotEmpty(a.t, p.Detail, a)
	return p
}

// version is a function version.
type version struct {
	function, id string
}

func (v version) path() string { return "/v2/nvcf/functions/" + v.function + "/versions/" + v.id }

func (v version) deploymentPath() string {
	return "/v2/nvcf/deployments/functions/" + v.function + "/versions/" + v.id
}

func (v version) host() asked { return host(v.function + ".invocation.localhost") }

// details are what the platform says of a version.
type details struct {
	ID              string   `json:"id"`
	VersionID       string   `json:"versionId"`
	Name            string   `json:"name"`
	Status          string   `json:"status"`
	Secrets         []string `json:"secrets"`
	ActiveInstances []struct {
		InstanceID string `json:"instanceId"`
		Status     string `json:"instanceStatus"`
	} `json:"activeInstances"`
}

// deployment is what the platform says of a deployment.
type deployment struct {
	ID             string `json:"deploymentId"`
	FunctionStatus string `json:"functionStatus"`
	Specifications []struct {
		ID string `json:"gpuSpecificationId"`
	} `json:"deploymentSpecifications"`
	HealthInfo []struct {
		Error string   `json:"error"`
		Logs  []string `json:"logs"`
	} `json:"healthInfo"`
	Reason struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Action  string `json:"action"`
	} `json:"reason"`
}

// image registers the test's function, in one of its modes, under a reference.
func (u user) image(reference, mode string) {
	u.t.Helper()
	self, err := os.Executable()
	require.NoError(u.t, err)
	u.must("PUT", "/v2/nvcf/images", nil, body(map[string]any{"reference": reference, "command": []string{self, containerRole, "-mode", mode}}))
}

// functionBody is the request that creates a function of the test.
func functionBody(name, image string) map[string]any {
	return map[string]any{
		"name": name, "containerImage": image, "inferenceUrl": "/run", "inferencePort": 8000,
		"health": map[string]any{"protocol": "HTTP", "uri": "/health", "port": 8000, "timeout": "PT2S", "expectedStatusCode": 200},
	}
}

// create makes a function whose image is the test's own, healthy one.
func (u user) create(name string) version {
	u.t.Helper()
	u.image("e2e/"+name+":1", healthy)
	return u.createOf(name, "e2e/"+name+":1")
}

func (u user) createOf(name, image string) version {
	u.t.Helper()
	return u.createFrom(functionBody(name, image))
}

func (u user) createFrom(request map[string]any) version {
	u.t.Helper()
	var made struct {
		Function details `json:"function"`
	}
	u.must("POST", "/v2/nvcf/functions", &made, body(request))
	return version{function: made.Function.ID, id: made.Function.VersionID}
}

// scale is what a deployment asks for.
type scale struct{ min, max, slots int }

func (s scale) request() asked {
	return body(map[string]any{"deploymentSpecifications": []any{map[string]any{
		"gpu": "H100", "instanceType": "NCP.GPU.H100_1x",
		"minInstances": s.min, "maxInstances": cmp.Or(s.max, 1), "maxRequestConcurrency": cmp.Or(s.slots, 8),
	}}})
}

// deploy asks for instances and waits until the version is ACTIVE.
func (u user) deploy(v version, s scale) deployment {
	u.t.Helper()
	d := u.startDeploy(v, s)
	u.awaitStatus(v, "ACTIVE", 10*time.Second)
	return d
}

func (u user) startDeploy(v version, s scale) deployment {
	u.t.Helper()
	var made struct {
		Deployment deployment `json:"deployment"`
	}
	u.must("POST", v.deploymentPath(), &made, s.request())
	return made.Deployment
}

func (u user) look(v version) details {
	u.t.Helper()
	var got struct {
		Function details `json:"function"`
	}
	u.must("GET", v.path(), &got)
	return got.Function
}

func (u user) lookDeployment(v version) deployment {
	u.t.Helper()
	var got struct {
		Deployment deployment `json:"deployment"`
	}
	u.must("GET", v.deploymentPath(), &got)
	return got.Deployment
}

func (u user) awaitStatus(v version, status string, limit time.Duration) {
	u.t.Helper()
	deployment := func() string { return u.call("GET", v.deploymentPath()).String() }
	soon(u.t, limit, "version "+v.id+" is "+status, func() bool {
		now := u.look(v).Status
		if now == "ERROR" && status == "ACTIVE" {
			require.Fail(u.t, "the version failed to start", deployment())
		}
		return now == status
	}, deployment)
}

// awaitInstances waits until exactly so many processes of the version run.
func (u user) awaitInstances(v version, n int, limit time.Duration) map[string]int {
	u.t.Helper()
	var found map[string]int
	soon(u.t, limit, fmt.Sprintf("%d processes of version %s", n, v.id), func() bool {
		found = instancesOf(u.dir, v.id)
		return len(found) == n
	}, func() string { return fmt.Sprintf("there are %v; %s", found, u.call("GET", v.deploymentPath())) })
	return found
}

// remove deletes a version in whatever state; its processes end.
func (u user) remove(v version) {
	u.t.Helper()
	u.must("DELETE", v.path(), nil)
	u.awaitInstances(v, 0, 10*time.Second)
}

// removeLater removes the version when the test is over, so that the next test finds its GPUs free.
func (u user) removeLater(v version) {
	u.t.Cleanup(func() {
		if u.call("DELETE", v.path()).status < 300 {
			u.awaitInstances(v, 0, 20*time.Second)
		}
	})
}

// resource is one entry of a key's policy.
type resource struct {
	Type string `json:"type"`
	ID   string `json:"id"`
}

var everyFunction = []resource{{"account-functions", "*"}}

// issuer are the headers of /v1/keys for an owner of function keys.
func issuer(owner string) asked {
	return func(r *http.Request) {
		r.Header.Set("Key-Issuer-Service", "nvcf-api")
		r.Header.Set("Key-Issuer-Id", stack.FunctionsService)
		r.Header.Set("Key-Owner-Id", owner)
	}
}

func keyBody(scopes []string, resources []resource) map[string]any {
	return map[string]any{
		"description": "made by a test", "expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
		"authorizations": map[string]any{"policies": []any{map[string]any{
			"aud": stack.FunctionsService, "product": "nv-cloud-functions", "scopes": scopes, "resources": resources,
		}}},
	}
}

// key makes a key of its own owner, whose quota is therefore never full.
func (u user) key(scopes []string, resources ...resource) (user, keyRef) {
	u.t.Helper()
	if len(resources) == 0 {
		resources = everyFunction
	}
	ref := keyRef{owner: nextOwner()}
	var made struct {
		ID    string `json:"id"`
		Value string `json:"value"`
	}
	u.with("").must("POST", "/v1/keys", &made, body(keyBody(scopes, resources)), issuer(ref.owner))
	ref.id = made.ID
	return u.with(remember(made.Value)), ref
}

var owners atomic.Int64

// nextOwner names an owner that no other key has.
func nextOwner() string { return fmt.Sprintf("owner-%d@e2e.example", owners.Add(1)) }

// keyRef is what is needed to find a key again.
type keyRef struct{ id, owner string }

func (u user) revoke(k keyRef) {
	u.t.Helper()
	require.Equal(u.t, 204, u.with("").call("DELETE", "/v1/keys/"+k.id, issuer(k.owner)).status)
}

// caller is a user with a key that may invoke everything.
func (u user) caller() user {
	u.t.Helper()
	c, _ := u.key([]string{"invoke_function"})
	return c
}

// run calls the function's /run by its host.
func (u user) run(v version, milliseconds int, how ...asked) answer {
	u.t.Helper()
	return u.call("POST", "/run", append([]asked{v.host(), body(run{milliseconds})}, how...)...)
}

// runs asserts that a call is answered by the function, and returns what it says.
func (u user) runs(v version, milliseconds int, how ...asked) report {
	u.t.Helper()
	a := u.run(v, milliseconds, how...)
	require.Equal(u.t, 200, a.status, a)
	var r report
	a.into(&r)
	return r
}

// report asks the function what happened to it.
func (u user) report(v version) report {
	u.t.Helper()
	a := u.call("GET", "/report", v.host())
	require.Equal(u.t, 200, a.status, a)
	var r report
	a.into(&r)
	return r
}

// later makes a call in the background.
func (u user) later(method, path string, how ...asked) <-chan result {
	out := make(chan result, 1)
	go func() {
		a, err := u.try(context.Background(), method, path, how...)
		out <- result{a, err}
	}()
	return out
}

type result struct {
	answer answer
	err    error
}

// status of a result; 0 when the connection broke.
func (r result) status() int {
	if r.err != nil {
		return 0
	}
	return r.answer.status
}

func take(t *testing.T, c <-chan result, limit time.Duration) result {
	t.Helper()
	select {
	case r := <-c:
		return r
	case <-time.After(lenient(limit)):
		require.Fail(t, "no answer within "+lenient(limit).String())
		return result{}
	}
}
