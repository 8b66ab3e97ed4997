package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

const echoDeployment = "/v2/nvcf/deployments/functions/" + echoID + "/versions/" + echoVersion

func TestCreateMergesFileAndFlags(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{
		"POST /v2/nvcf/functions": answer(`{"function":` + version("echo", echoID, echoVersion, "INACTIVE", "2031-04-02T08:00:00Z") + `}`),
	})
	dir := t.TempDir()
	file, secret := filepath.Join(dir, "echo.json"), filepath.Join(dir, "token")
	require.NoError(t, os.WriteFile(file, []byte(`{"name":"old","inferenceUrl":"/echo","utilsContainerImage":"GO","containerImage":"demo/echo:0"}`), 0o600))
	require.NoError(t, os.WriteFile(secret, []byte("s3cr3t\n"), 0o600))
	got := sirocco(t, g, []string{
		"function", "create", "echo", "-f", file, "--image", "demo/echo:1", "--port", "8000", "--health-uri", "/health",
		"--env", "A=b=c", "--env", "EMPTY=", "--secret", "HF=@" + secret, "--tag", "x,y", "--tag", "z",
	})
	require.Zero(t, got.code, got.err)
	require.Contains(t, got.out, echoID)
	require.Contains(t, got.err, "sirocco function deploy "+echoID)
	require.NotContains(t, got.out+got.err, "s3cr3t")
	require.JSONEq(t, `{"name":"echo","inferenceUrl":"/echo","utilsContainerImage":"GO","containerImage":"demo/echo:1","inferencePort":8000,
		"healthUri":"/health","containerEnvironment":[{"key":"A","value":"b=c"},{"key":"EMPTY","value":""}],
		"secrets":[{"name":"HF","value":"s3cr3t"}],"tags":["x","y","z"]}`, g.asked()[0].body)
}

func TestASecretThatIsNoPairIsNotRepeated(t *testing.T) {
	t.Parallel()
	got := sirocco(t, newStandIn(t, nil), []string{"function", "create", "echo", "--secret", "s3cr3t"})
	require.Equal(t, exitUsage, got.code)
	require.NotContains(t, got.err, "s3cr3t")
	require.Contains(t, got.err, "--secret must be NAME=VALUE")
}

func TestCreateAVersionByTheNameOfItsFunction(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{
		"GET /v2/nvcf/functions":                          list(version("echo", echoID, echoVersion, "ACTIVE", "2031-04-02T08:00:00Z")),
		"POST /v2/nvcf/functions/" + echoID + "/versions": answer(`{"function":` + version("echo", echoID, oldVersion, "INACTIVE", "2031-04-02T08:00:00Z") + `}`),
	})
	got := sirocco(t, g, []string{"function", "create", "echo", "--version-of", "echo", "-f", "-"}, stdin(`{"inferenceUrl":"/x"}`))
	require.Zero(t, got.code, got.err)
	require.JSONEq(t, `{"name":"echo","inferenceUrl":"/x"}`, g.asked()[1].body)
}

func TestANameOfTwoFunctionsAsksForAnID(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{"GET /v2/nvcf/functions": list(
		version("echo", echoID, echoVersion, "ACTIVE", "2031-04-02T08:00:00Z"), version("echo", otherID, oldVersion, "ACTIVE", "2031-04-02T08:00:00Z"))})
	got := sirocco(t, g, []string{"function", "delete", "echo"})
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, echoID)
	require.Contains(t, got.err, otherID)
	require.Len(t, g.asked(), 1, "nothing is deleted")
}

func TestDeleteTakesAllVersionsOrOne(t *testing.T) {
	t.Parallel()
	both := list(version("echo", echoID, oldVersion, "INACTIVE", "2031-04-01T08:00:00Z"), version("echo", echoID, echoVersion, "ACTIVE", "2031-04-02T08:00:00Z"))
	deleted := func(line ...string) (paths []string) {
		g := newStandIn(t, map[string]http.HandlerFunc{
			"GET /v2/nvcf/functions/" + echoID + "/versions": both,
			"DELETE /v2/nvcf/functions/":                     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		})
		got := sirocco(t, g, append([]string{"function", "delete", echoID}, line...))
		require.Zero(t, got.code, got.err)
		for _, c := range g.asked() {
			if c.method == http.MethodDelete {
				paths = append(paths, c.path)
			}
		}
		return paths
	}
	path := "/v2/nvcf/functions/" + echoID + "/versions/"
	require.Equal(t, []string{path + echoVersion, path + oldVersion}, deleted())
	require.Equal(t, []string{path + oldVersion}, deleted("--version", oldVersion))
}

func TestUndeployTakesTheVersionThatIsDeployed(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{
		"GET /v2/nvcf/functions":   list(version("echo", echoID, oldVersion, "INACTIVE", "2031-04-03T08:00:00Z"), version("echo", echoID, echoVersion, "ERROR", "2031-04-02T08:00:00Z")),
		"DELETE " + echoDeployment: answer(`{"function":` + version("echo", echoID, echoVersion, "INACTIVE", "2031-04-02T08:00:00Z") + `}`),
	})
	got := sirocco(t, g, []string{"function", "undeploy", "echo", "--graceful"})
	require.Zero(t, got.code, got.err)
	require.Equal(t, echoDeployment+"?graceful=true", g.asked()[1].path)
}

const oneGroup = `{"clusterGroups":[{"name":"local","gpus":[
	{"name":"L40","instanceTypes":[{"name":"NCP.GPU.L40_1x","default":true,"available":0}]},
	{"name":"H100","instanceTypes":[{"name":"NCP.GPU.H100_8x","available":1},{"name":"NCP.GPU.H100_1x","default":true,"available":3}]}]}]}`

// deploying is a gateway on which a deployment goes through the given states, the last of which stays.
func deploying(t *testing.T, states ...string) *standIn {
	t.Helper()
	var looked atomic.Int64
	return newStandIn(t, map[string]http.HandlerFunc{
		"GET /v2/nvcf/functions":     list(version("echo", echoID, echoVersion, "INACTIVE", "2031-04-02T08:00:00Z")),
		"GET /v2/nvcf/clusterGroups": answer(oneGroup),
		"POST " + echoDeployment:     answer(`{"deployment":{"functionStatus":"DEPLOYING"}}`),
		"GET " + echoDeployment: func(w http.ResponseWriter, r *http.Request) {
			n := min(int(looked.Add(1)), len(states)) - 1
			answer(`{"deployment":`+states[n]+`}`)(w, r)
		},
	})
}

func TestDeployChoosesWhatIsFreeAndWaitsForActive(t *testing.T) {
	t.Parallel()
	g := deploying(t,
		`{"functionStatus":"DEPLOYING","instances":[{"instanceStatus":"STARTING"}],"reason":{"message":"pulling the image"}}`,
		`{"functionStatus":"DEPLOYING","instances":[{"instanceStatus":"STARTING"}],"reason":{"message":"pulling the image"}}`,
		`{"functionStatus":"ACTIVE","functionName":"echo","deploymentSpecifications":[{"gpu":"H100"}]}`)
	got := sirocco(t, g, []string{"function", "deploy", "echo", "--min", "2", "--concurrency", "8"})
	require.Zero(t, got.code, got.err)
	require.Equal(t, "echo: DEPLOYING, 1 starting, pulling the image\necho: ACTIVE\n", got.err, "off a terminal each state is said once")
	require.Regexp(t, `echo +ACTIVE`, got.out)
	for _, c := range g.asked() {
		if c.method == http.MethodPost {
			require.JSONEq(t, `{"deploymentSpecifications":[{"gpu":"H100","instanceType":"NCP.GPU.H100_1x","minInstances":2,"maxInstances":2,"maxRequestConcurrency":8}]}`, c.body)
		}
	}
}

func TestDeployOnATerminalWritesOneLine(t *testing.T) {
	t.Parallel()
	g := deploying(t, `{"functionStatus":"DEPLOYING"}`, `{"functionStatus":"ACTIVE"}`)
	got := sirocco(t, g, []string{"function", "deploy", "echo"}, func(c *console) { c.live = true })
	require.Zero(t, got.code)
	require.Equal(t, "\r\x1b[Kecho: DEPLOYING (0s)\r\x1b[Kecho: ACTIVE (0s)\n", got.err)
}

func TestAFailedDeploymentSaysWhyAndWhatToDo(t *testing.T) {
	t.Parallel()
	g := deploying(t, `{"functionStatus":"ERROR","healthInfo":[{"error":"the container ended with exit code 3","logs":["loading","boom\u001b[31m"]}],
		"reason":{"message":"no instance started","action":"Mend the image."}}`)
	got := sirocco(t, g, []string{"function", "deploy", "echo"})
	require.Equal(t, exitFailed, got.code)
	require.Empty(t, got.out)
	require.Contains(t, got.err, "echo failed to start: the container ended with exit code 3\n")
	require.Contains(t, got.err, "  | loading\n  | boom")
	require.NotContains(t, got.err, "\x1b")
	require.Contains(t, got.err, "next: Mend the image: `sirocco function undeploy "+echoID+" --version "+echoVersion+"`\n")
}

func TestAWaitThatEndsSaysThatTheDeploymentGoesOn(t *testing.T) {
	t.Parallel()
	g := deploying(t, `{"functionStatus":"DEPLOYING","reason":{"message":"no GPU is free"}}`)
	got := sirocco(t, g, []string{"function", "deploy", "echo", "--timeout", "1s"})
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, "not ACTIVE after 1s: DEPLOYING, no GPU is free")
	require.Contains(t, got.err, "it goes on without you")
}

func TestCtrlCEndsAWait(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	g := newStandIn(t, map[string]http.HandlerFunc{
		"GET /v2/nvcf/functions":     list(version("echo", echoID, echoVersion, "INACTIVE", "2031-04-02T08:00:00Z")),
		"GET /v2/nvcf/clusterGroups": answer(oneGroup),
		"POST " + echoDeployment:     answer(`{"deployment":{}}`),
		"GET " + echoDeployment:      func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() },
	})
	got := siroccoWith(ctx, t, g, []string{"function", "deploy", "echo"})
	require.Equal(t, exitInterrupted, got.code)
	require.Equal(t, "interrupted\n", got.err)
}

func TestDeployOfADeployedVersionSaysWhatToDo(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{
		"GET /v2/nvcf/functions": list(version("echo", echoID, echoVersion, "ACTIVE", "2031-04-02T08:00:00Z")),
		"POST " + echoDeployment: refuse(problem.New(problem.IllegalState, "Status ACTIVE, use PATCH endpoint")),
	})
	got := sirocco(t, g, []string{"function", "deploy", "echo", "--gpu", "H100", "--instance-type", "NCP.GPU.H100_1x"})
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, "sirocco function undeploy")
}

func TestTheTypeOfADeployment(t *testing.T) {
	t.Parallel()
	var groups clusters.GroupsResponse
	require.NoError(t, json.Unmarshal([]byte(oneGroup), &groups))
	for _, c := range []struct{ gpu, instanceType, wantGPU, wantType string }{
		{"", "", "H100", "NCP.GPU.H100_1x"},
		{"l40", "", "L40", "NCP.GPU.L40_1x"},
		{"", "ncp.gpu.h100_8x", "H100", "NCP.GPU.H100_8x"},
	} {
		gpu, instanceType, err := chooseType(groups.ClusterGroups, c.gpu, c.instanceType)
		require.NoError(t, err)
		require.Equal(t, []string{c.wantGPU, c.wantType}, []string{gpu, instanceType})
	}
	_, _, err := chooseType(groups.ClusterGroups, "B200", "")
	require.Equal(t, exitNotFound, exitCode(err))
	_, _, err = chooseType(nil, "", "")
	require.Equal(t, exitNotFound, exitCode(err))
}

// callable is a gateway with one active function that answers as given.
func callable(t *testing.T, function http.HandlerFunc) *standIn {
	t.Helper()
	return newStandIn(t, map[string]http.HandlerFunc{
		"GET /v2/nvcf/functions": list(version("echo", echoID, echoVersion, "ACTIVE", "2031-04-02T08:00:00Z")),
		"POST /v1/keys":          answer(`{"id":"key-1","value":"nvapi-borrowed"}`),
		"DELETE /v1/keys/key-1":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"/echo":                  function,
	})
}

func TestInvokeBorrowsAKeyAndGivesItBack(t *testing.T) {
	t.Parallel()
	g := callable(t, answer(`pong`))
	got := sirocco(t, g, []string{"function", "invoke", "echo", "-d", `{"x":1}`, "-H", "X-Trace: 7", "--version", echoVersion})
	require.Zero(t, got.code, got.err)
	require.Equal(t, "pong", got.out)
	require.Empty(t, got.err)
	calls := g.asked()
	require.Len(t, calls, 4)
	create, invoked, revoked := calls[1], calls[2], calls[3]
	require.Equal(t, "ann@desk", create.header.Get("Key-Owner-Id"))
	var order struct {
		ExpiresAt      time.Time `json:"expires_at"`
		Authorizations json.RawMessage
	}
	require.NoError(t, json.Unmarshal([]byte(create.body), &order))
	require.Equal(t, start.Add(15*time.Minute), order.ExpiresAt)
	require.JSONEq(t, `{"policies":[{"aud":"nvidia-cloud-functions-ncp-service-id-aketm","auds":["nvidia-cloud-functions-ncp-service-id-aketm"],
		"product":"nv-cloud-functions","resources":[{"id":"`+echoID+`/*","type":"function"}],"scopes":["invoke_function"]}]}`, string(order.Authorizations))
	require.Equal(t, call{http.MethodPost, "/echo", "nvapi-borrowed", `{"x":1}`, invoked.header}, invoked)
	for name, want := range map[string]string{
		"Function-Id": echoID, "Function-Version-Id": echoVersion, "Content-Type": "application/json", "X-Trace": "7", "Nvcf-Poll-Seconds": "60",
	} {
		require.Equal(t, want, invoked.header.Get(name), name)
	}
	require.Equal(t, http.MethodDelete, revoked.method)
	require.Equal(t, adminToken, revoked.bearer)
}

func TestInvokeWithAKeyAnIDAndAPathAsksNothingElse(t *testing.T) {
	t.Parallel()
	g := callable(t, answer(`pong`))
	got := sirocco(t, g, []string{"function", "invoke", echoID, "-X", "get", "--path", "/echo?q=1", "--timeout", "90s"}, env("SIROCCO_API_KEY", "nvapi-mine"))
	require.Zero(t, got.code, got.err)
	calls := g.asked()
	require.Len(t, calls, 1)
	require.Equal(t, call{http.MethodGet, "/echo?q=1", "nvapi-mine", "", calls[0].header}, calls[0])
	require.Equal(t, "90", calls[0].header.Get("Nvcf-Poll-Seconds"))
	require.Empty(t, calls[0].header.Get("Content-Type"))
}

func TestInvokeSendsStandardInputAndFilesAsTheyAre(t *testing.T) {
	t.Parallel()
	g := callable(t, answer(`ok`))
	file := filepath.Join(t.TempDir(), "body")
	require.NoError(t, os.WriteFile(file, []byte{0xff, 0x00, 0x01}, 0o600))
	require.Zero(t, sirocco(t, g, []string{"function", "invoke", "echo", "-d", "@-", "--key", "k"}, stdin("typed")).code)
	require.Zero(t, sirocco(t, g, []string{"function", "invoke", "echo", "-d", "@" + file, "-H", "Content-Type: image/jpeg", "--key", "k"}).code)
	calls := g.asked()
	require.Equal(t, "typed", calls[1].body)
	require.Equal(t, "\xff\x00\x01", calls[3].body)
	require.Equal(t, "image/jpeg", calls[3].header.Get("Content-Type"))
}

func TestWhatTheFunctionAnswersIsTheAnswer(t *testing.T) {
	t.Parallel()
	for name, function := range map[string]http.HandlerFunc{
		"plain": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, "mine: no such page")
		},
		"its own problem": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", problem.ContentType)
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, "mine: no such page")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := sirocco(t, callable(t, function), []string{"function", "invoke", "echo"})
			require.Equal(t, exitFailed, got.code)
			require.Equal(t, "mine: no such page", got.out)
			require.Contains(t, got.err, "the function answered 404 Not Found")
		})
	}
}

func TestWhatTheGatewayRefusesIsNot(t *testing.T) {
	t.Parallel()
	g := callable(t, refuse(problem.New(problem.Forbidden, "this key does not cover it")))
	got := sirocco(t, g, []string{"function", "invoke", "echo"})
	require.Equal(t, exitRefused, got.code)
	require.Empty(t, got.out)
	require.Contains(t, got.err, "sirocco key create --function "+echoID)
	require.Equal(t, http.MethodDelete, g.asked()[3].method, "the key is given back when the call fails, too")
}

func TestAKeyThatMayNotListSaysHowToDoWithout(t *testing.T) {
	t.Parallel()
	for code, says := range map[problem.Code]string{
		problem.ScopeMissing: "give --path", problem.Forbidden: "bring another key",
	} {
		g := newStandIn(t, map[string]http.HandlerFunc{"GET /v2/nvcf/functions": refuse(problem.New(code, "no"))})
		got := sirocco(t, g, []string{"function", "invoke", "echo", "--key", "nvapi-mine"})
		require.Equal(t, exitRefused, got.code)
		require.Contains(t, got.err, says)
		require.Equal(t, "nvapi-mine", g.asked()[0].bearer, "what is looked up is what the key may see")
	}
}

func TestCtrlCGivesTheKeyBack(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	g := callable(t, func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
	got := siroccoWith(ctx, t, g, []string{"function", "invoke", "echo"})
	require.Equal(t, exitInterrupted, got.code)
	calls := g.asked()
	require.Equal(t, http.MethodDelete, calls[len(calls)-1].method)
}

func TestTheNewestInvocableVersionNamesThePath(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{"GET /v2/nvcf/functions": list(
		version("echo", echoID, oldVersion, "INACTIVE", "2031-04-03T08:00:00Z"), version("echo", echoID, echoVersion, "ACTIVE", "2031-04-02T08:00:00Z"))})
	s := &session{url: g.URL, console: console{getenv: func(string) string { return "x" }, now: time.Now}}
	c, err := s.connect()
	require.NoError(t, err)
	t.Cleanup(c.Close)
	f, err := oneVersion(t.Context(), c, "echo", "", functions.Status.Invocable)
	require.NoError(t, err)
	require.Equal(t, echoVersion, f.VersionID)
}
