package deployments

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// valid is decode, clean and check, as Create does them, against one cluster.
func valid(body string) error {
	var req contract.CreateRequest
	if err := json.Unmarshal([]byte(body), &req); err != nil {
		return problem.New(problem.BadRequest, "%v", err)
	}
	specs := cleaned(req.Specifications)
	if err := validSpecs(specs); err != nil {
		return err
	}
	return validAgainst([]clusters.Node{node("n1", 4)}, functions.Function{Spec: functions.Spec{ContainerImage: "echo"}}, specs)
}

// spec is a body with one specification, in which rest overrides what is good.
func spec(rest string) string {
	good := map[string]json.RawMessage{
		"gpu": json.RawMessage(`"H100"`), "instanceType": json.RawMessage(`"NCP.GPU.H100_1x"`), "minInstances": json.RawMessage("1"), "maxInstances": json.RawMessage("2"),
	}
	var over map[string]json.RawMessage
	if err := json.Unmarshal([]byte("{"+rest+"}"), &over); err != nil {
		panic(err)
	}
	for k, v := range over {
		good[k] = v
		if string(v) == `"-"` {
			delete(good, k)
		}
	}
	b, err := json.Marshal(good)
	if err != nil {
		panic(err)
	}
	return `{"deploymentSpecifications":[` + string(b) + `]}`
}

func scale(which, rest string) string {
	return `"autoscalingConfiguration":{"` + which + `":{` + rest + `}}`
}

func TestBadBodiesNameTheField(t *testing.T) {
	t.Parallel()
	for body, field := range map[string]string{
		`{}`:                                    "deploymentSpecifications",
		`{"deploymentSpecifications":null}`:     "deploymentSpecifications",
		`{"deploymentSpecifications":[]}`:       "deploymentSpecifications",
		`{"deploymentSpecifications":{}}`:       "deploymentSpecifications",
		`{"deploymentSpecifications":["H100"]}`: "deploymentSpecifications",
		`{"deploymentSpecifications":[` + strings.Repeat("{},", 100) + `{}]}`: "deploymentSpecifications",
		spec(`"gpu":"-"`):                        "[0].gpu",
		spec(`"gpu":""`):                         "[0].gpu",
		spec(`"gpu":"  "`):                       "[0].gpu",
		spec(`"gpu":7`):                          "gpu",
		spec(`"gpu":"B200"`):                     "[0].gpu",
		spec(`"gpu":"a\u0000"`):                  "[0].gpu",
		spec(`"instanceType":"-"`):               "[0].instanceType",
		spec(`"instanceType":" "`):               "[0].instanceType",
		spec(`"instanceType":"NCP.GPU.H100_9x"`): "[0].instanceType",
		spec(`"instanceType":"` + strings.Repeat("x", 300) + `"`):                   "[0].instanceType",
		spec(`"minInstances":"-"`):                                                  "[0].minInstances",
		spec(`"minInstances":-1`):                                                   "[0].minInstances",
		spec(`"minInstances":3`):                                                    "[0].minInstances",
		spec(`"minInstances":"1"`):                                                  "minInstances",
		spec(`"minInstances":1.5`):                                                  "minInstances",
		spec(`"minInstances":100001,"maxInstances":100001`):                         "[0].minInstances",
		spec(`"maxInstances":"-"`):                                                  "[0].maxInstances",
		spec(`"maxInstances":0,"minInstances":0`):                                   "[0].maxInstances",
		spec(`"maxInstances":1e40`):                                                 "maxInstances",
		spec(`"maxRequestConcurrency":0`):                                           "[0].maxRequestConcurrency",
		spec(`"maxRequestConcurrency":16385`):                                       "[0].maxRequestConcurrency",
		spec(`"preferredOrder":0`):                                                  "[0].preferredOrder",
		spec(`"preferredOrder":100`):                                                "[0].preferredOrder",
		spec(`"backend":"nowhere"`):                                                 "[0].backend",
		spec(`"backend":"lab","clusters":["lab"]`):                                  "[0].backend",
		spec(`"clusters":["nowhere"]`):                                              "[0].clusters",
		spec(`"clusters":[""]`):                                                     "[0].clusters",
		spec(`"clusters":"lab"`):                                                    "clusters",
		spec(`"regions":["mars-1"]`):                                                "[0].regions",
		spec(`"availabilityZones":["mars-1"]`):                                      "[0].availabilityZones",
		spec(`"attributes":["KataRuntimeIsolation"]`):                               "[0].attributes",
		spec(`"configuration":{}`):                                                  "[0].configuration",
		spec(`"configuration":[1]`):                                                 "[0].configuration",
		spec(`"helmValidationPolicy":{"name":"DEFAULT"}`):                           "[0].helmValidationPolicy",
		spec(`"helmValidationPolicy":{}`):                                           "helmValidationPolicy.name",
		spec(`"helmValidationPolicy":7`):                                            "helmValidationPolicy",
		spec(`"helmValidationPolicy":{"name":"LAX"}`):                               "helmValidationPolicy.name",
		spec(`"helmValidationPolicy":{"name":"unrestricted"}`):                      "[0].helmValidationPolicy",
		spec(`"helmValidationPolicy":{"name":"default","extraKubernetesTypes":[]}`): "extraKubernetesTypes",
		spec(`"helmValidationPolicy":{"name":"default","extraKubernetesTypes":[{"group":"g","version":" ","kind":"k"}]}`): "extraKubernetesTypes[0].version",
		spec(`"cpuArch":7`): "cpuArch",
		spec(`"gpuMemory":"` + strings.Repeat("x", 300) + `"`):                                                    "[0].gpuMemory",
		spec(scale("scaleUpDetails", `"factor":2,"threshold":1,"stickiness":{"size":"PT0S","threshold":"PT0S"}`)): "stickiness.threshold",
		spec(`"autoscalingConfiguration":7`):                                                                      "[0].autoscalingConfiguration",
		spec(`"autoscalingConfiguration":{"scaleUpDetails":"x"}`):                                                 "[0].autoscalingConfiguration",
		spec(scale("scaleUpDetails", `"threshold":1`)):                                                            "scaleUpDetails.factor",
		spec(scale("scaleUpDetails", `"factor":1.0,"threshold":1`)):                                               "scaleUpDetails.factor",
		spec(scale("scaleUpDetails", `"factor":2`)):                                                               "scaleUpDetails.threshold",
		spec(scale("scaleUpDetails", `"factor":2,"threshold":-1`)):                                                "scaleUpDetails.threshold",
		spec(scale("scaleUpDetails", `"factor":2,"threshold":1.5`)):                                               "scaleUpDetails.threshold",
		spec(scale("scaleDownDetails", `"factor":1,"threshold":1`)):                                               "scaleDownDetails.factor",
		spec(scale("scaleDownDetails", `"factor":0,"threshold":1`)):                                               "scaleDownDetails.factor",
		spec(scale("scaleUpDetails", `"factor":2,"threshold":1,"stickiness":{}`)):                                 "stickiness.size",
		spec(scale("scaleUpDetails", `"factor":2,"threshold":1,"stickiness":{"size":"PT2H","threshold":"PT1M"}`)): "stickiness.size",
		spec(scale("scaleUpDetails", `"factor":2,"threshold":1,"stickiness":{"size":"5m","threshold":"PT1M"}`)):   "stickiness.size",
		spec(scale("scaleUpDetails", `"factor":2,"threshold":1,"stickiness":{"size":"PT5M"}`)):                    "stickiness.threshold",
		spec(scale("scaleUpDetails", `"factor":2,"threshold":1,"stickiness":{"size":"PT5M","threshold":"PT5M"}`)): "stickiness.threshold",
	} {
		t.Run(body[:min(len(body), 120)], func(t *testing.T) {
			t.Parallel()
			err := valid(body)
			require.Error(t, err)
			p, ok := problem.From(err)
			require.True(t, ok)
			require.Equal(t, 400, p.Status())
			require.Contains(t, p.Detail, field)
		})
	}
}

func TestGoodBodies(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		spec(``),
		spec(`"minInstances":0`),
		spec(`"gpu":"h100","instanceType":"ncp.gpu.h100_1X"`),
		spec(`"backend":"","configuration":null,"clusters":null,"regions":null`), // what terraform sends
		spec(`"instanceCount":1,"preferredOrder":99`),                            // what another public client sends
		spec(`"backend":"LAB"`),
		spec(`"clusters":["Lab"],"regions":["EU-north-1"],"availabilityZones":["lab","eu-north-1"],"attributes":["",null]`),
		spec(`"cpuArch":"amd64","os":"linux","gpuMemory":"79Gi"`),
		spec(scale("scaleUpDetails", `"metric":"x","factor":1.5,"threshold":80,"stickiness":{"size":"PT1H","threshold":"PT30S"}`)),
		spec(scale("scaleDownDetails", `"factor":0.5,"threshold":0`)),
	} {
		require.NoError(t, valid(body), body)
	}
}

func TestNobodyHasJoined(t *testing.T) {
	t.Parallel()
	err := validAgainst(nil, functions.Function{}, []contract.Specification{one(1, 1)})
	require.True(t, problem.HasCode(err, problem.IllegalState))
	require.ErrorContains(t, err, "no cluster group")
	require.ErrorContains(t, err, "join a node, or have a cluster authorize the account")
}

func TestChartsNeedACluster(t *testing.T) {
	t.Parallel()
	s := one(1, 1)
	s.Configuration = json.RawMessage(`{"replicas":2}`)
	err := validAgainst([]clusters.Node{node("n1", 1)}, functions.Function{Spec: functions.Spec{HelmChart: "oci://x"}}, []contract.Specification{s})
	require.ErrorContains(t, err, "helmChart")
	require.ErrorContains(t, err, "Kubernetes", "why")
	require.ErrorContains(t, err, "create a version with the containerImage", "and what to do")
}

func TestISODurations(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"PT10S": 10 * time.Second, "PT1M": time.Minute, "PT1H": time.Hour, "P1D": 24 * time.Hour, "P1DT1H1M1.5S": 25*time.Hour + time.Minute + 1500*time.Millisecond, "PT0S": 0,
	} {
		got, ok := parseISO(text)
		require.True(t, ok, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "P", "PT", "P1DT", "10s", "pt10s", "PT-1S", "P1Y", "P1M", "PT1S ", "PT9999999999S", "PTS"} {
		_, ok := parseISO(text)
		require.False(t, ok, text)
	}
}

// Whatever comes in, the answer is either a problem that a client may see or a specification that can be stored.
func FuzzCreate(f *testing.F) {
	f.Add(spec(``))
	f.Add(spec(scale("scaleUpDetails", `"factor":2,"threshold":1,"stickiness":{"size":"PT5M","threshold":"PT1M"}`)))
	f.Add(`{"deploymentSpecifications":[{"configuration":{"a":"\u0000"}}]}`)
	f.Add(`{"deploymentSpecifications":[null]}`)
	f.Fuzz(func(t *testing.T, body string) {
		err := valid(body)
		if err == nil {
			return
		}
		p, ok := problem.From(err)
		if !ok || p.Status() != 400 {
			t.Fatalf("%q: %v", body, err)
		}
	})
}

func FuzzPatch(f *testing.F) {
	f.Add(`{"minInstances":1}`)
	f.Add(`{"autoscalingConfigurationPolicy":"PLATFORM_CONFIGURATION","autoscalingConfiguration":null}`)
	f.Fuzz(func(t *testing.T, body string) {
		var req contract.PatchRequest
		if json.Unmarshal([]byte(body), &req) != nil {
			return
		}
		req.Autoscaling = present(req.Autoscaling)
		err := validPatch(req, strings.ToUpper(req.AutoscalingPolicy))
		if p, ok := problem.From(err); err != nil && (!ok || p.Status() != 400) {
			t.Fatalf("%q: %v", body, err)
		}
	})
}
