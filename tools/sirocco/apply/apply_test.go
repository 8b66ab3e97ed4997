package apply_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/apply"
)

const echo = `
name: echo
containerImage: demo/echo:1
inferenceUrl: /echo
inferencePort: 8000
healthUri: /health
tags: [team:vision]
deploymentSpecifications:
  - gpu: H100
    instanceType: NCP.GPU.H100_1x
    minInstances: 1
    maxInstances: 4
    maxRequestConcurrency: 8
`

func one(t *testing.T, text string) apply.Document {
	t.Helper()
	documents, err := apply.Parse([]byte(text))
	require.NoError(t, err)
	require.Len(t, documents, 1)
	return documents[0]
}

// stored is what the platform says of a version that echo made: defaults are filled in.
func stored(id string, status functions.Status) apply.Version {
	least, most, slots := 1, 4, 8
	v := apply.Version{Function: functions.Function{
		ID: "f", VersionID: id, Status: status, CreatedAt: time.Date(2031, 4, 2, 8, 0, 0, 0, time.UTC),
		Spec: functions.Spec{
			Name: "echo", ContainerImage: "demo/echo:1", InferenceURL: "/echo", InferencePort: 8000, HealthURI: "/health", Description: "echo",
			Health:        &functions.Health{Protocol: "HTTP", URI: "/health", Port: 8000, Timeout: "PT10S", ExpectedStatusCode: 200},
			APIBodyFormat: "CUSTOM", FunctionType: functions.Default, Tags: []string{"team:vision"},
		},
	}}
	if status != functions.Inactive {
		v.Deployment = &deployments.Deployment{ID: "d-" + id, Specifications: []deployments.Specification{{
			ID: "s", GPU: "H100", InstanceType: "NCP.GPU.H100_1x", MinInstances: &least, MaxInstances: &most, MaxRequestConcurrency: &slots,
			CPUArch: "amd64",
		}}}
	}
	return v
}

func actions(steps []apply.Step) (list []string) {
	for _, s := range steps {
		list = append(list, string(s.Action))
	}
	return list
}

func TestPlan(t *testing.T) {
	t.Parallel()
	with := func(change string) string { return echo + change }
	active, inactive, failed := stored("v1", functions.Active), stored("v1", functions.Inactive), stored("v1", functions.Error)
	secret := active
	secret.Secrets = []string{"A", "B"}
	older := stored("v0", functions.Active)
	changed := stored("v2", functions.Active)
	changed.ContainerImage = "demo/echo:2"
	custom := stored("v1", functions.Active)
	custom.Deployment.Specifications[0].Autoscaling = json.RawMessage(`{"scaleUpDetails":{"factor":1.5,"threshold":80}}`)
	const unmanaged = "name: echo\ncontainerImage: demo/echo:1\ninferenceUrl: /echo\ninferencePort: 8000\nhealthUri: /health\n"
	cases := map[string]struct {
		text    string
		have    []apply.Version
		options apply.Options
		want    []string
		target  string
	}{
		"nothing is there":        {echo, nil, apply.Options{}, []string{"create-function", "deploy"}, ""},
		"only the function":       {unmanaged, nil, apply.Options{}, []string{"create-function"}, ""},
		"as it should be":         {echo, []apply.Version{active}, apply.Options{}, nil, "v1"},
		"created, not deployed":   {echo, []apply.Version{inactive}, apply.Options{}, []string{"deploy"}, "v1"},
		"failed is tried again":   {echo, []apply.Version{failed}, apply.Options{}, []string{"undeploy", "deploy"}, "v1"},
		"another image":           {with("containerArgs: -v\n"), []apply.Version{active}, apply.Options{}, []string{"create-version", "deploy", "await", "undeploy"}, ""},
		"the old one stays":       {with("containerArgs: -v\n"), []apply.Version{active}, apply.Options{Keep: true}, []string{"create-version", "deploy"}, ""},
		"the old one goes first":  {with("containerArgs: -v\n"), []apply.Version{active}, apply.Options{Recreate: true}, []string{"create-version", "undeploy", "deploy"}, ""},
		"blank arguments":         {with("containerArgs: ' '\n"), []apply.Version{active}, apply.Options{}, nil, "v1"},
		"defaults written out":    {with("apiBodyFormat: custom\nfunctionType: default\n"), []apply.Version{active}, apply.Options{}, nil, "v1"},
		"what was left over":      {echo, []apply.Version{active, older}, apply.Options{}, []string{"await", "undeploy"}, "v1"},
		"back to an older file":   {echo, []apply.Version{changed, inactive}, apply.Options{}, []string{"deploy", "await", "undeploy"}, "v1"},
		"description":             {with("description: says it again\n"), []apply.Version{active}, apply.Options{}, []string{"update"}, "v1"},
		"rate limit":              {with("rateLimit: {rateLimit: 100-S}\n"), []apply.Version{active}, apply.Options{}, []string{"update"}, "v1"},
		"deployment is not named": {unmanaged, []apply.Version{active}, apply.Options{}, nil, "v1"},
		"older when not managed":  {unmanaged, []apply.Version{changed, active}, apply.Options{}, []string{"create-version"}, ""},
		"no deployment":           {unmanaged + "deploymentSpecifications: []\n", []apply.Version{active}, apply.Options{}, []string{"undeploy"}, "v1"},
		"autoscaling is taken back": {
			echo, []apply.Version{custom}, apply.Options{}, []string{"scale"}, "v1",
		},
		"secrets are named":        {with("secrets: [{name: A, env: A}, {name: B, env: B}]\n"), []apply.Version{secret}, apply.Options{}, nil, "v1"},
		"secrets are written anew": {with("secrets: [{name: A, env: A}, {name: B, env: B}]\n"), []apply.Version{secret}, apply.Options{Secrets: true}, []string{"set-secrets"}, "v1"},
		"one more, one less":       {with("secrets: [{name: A, env: A}, {name: C, env: C}]\n"), []apply.Version{secret}, apply.Options{}, []string{"set-secrets", "unset-secret"}, "v1"},
		"secrets are not named":    {echo, []apply.Version{secret}, apply.Options{}, nil, "v1"},
		"first secrets, undeployed": {
			with("secrets: [{name: A, env: A}]\n"), []apply.Version{inactive}, apply.Options{}, []string{"set-secrets", "deploy"}, "v1",
		},
		"first secrets of what runs": {
			with("secrets: [{name: A, env: A}]\n"), []apply.Version{active}, apply.Options{}, []string{"create-version", "deploy", "await", "undeploy"}, "",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			steps, target, err := apply.Plan(one(t, c.text), c.have, c.options)
			require.NoError(t, err)
			require.Equal(t, c.want, actions(steps))
			require.Equal(t, c.target, target)
		})
	}
}

// A new version is told from the one that runs, not from one that was left behind.
func TestWhatANewVersionChanges(t *testing.T) {
	t.Parallel()
	runs, left := stored("v1", functions.Active), stored("v2", functions.Inactive)
	runs.ContainerEnvironment = []functions.EnvironmentEntry{{Key: "A", Value: "1"}, {Key: "B", Value: "2"}}
	left.ContainerEnvironment = []functions.EnvironmentEntry{{Key: "A", Value: "other"}}
	const environment = "containerEnvironment: [{key: B, value: '2'}, {key: A, value: '1'}]\n"
	steps, target, err := apply.Plan(one(t, echo+environment), []apply.Version{left, runs}, apply.Options{})
	require.NoError(t, err)
	require.Empty(t, steps, "the order of variables means nothing")
	require.Equal(t, "v1", target)
	steps, _, err = apply.Plan(one(t, strings.Replace(echo, "gpu: H100", "gpu: L40", 1)+environment), []apply.Version{left, runs}, apply.Options{})
	require.NoError(t, err)
	require.Equal(t, "create a version of echo: where it is deployed changed", steps[0].What)
}

// The numbers of a deployment change in place; where it runs takes a new version.
func TestPlanOfADeployment(t *testing.T) {
	t.Parallel()
	const head = "name: echo\ncontainerImage: demo/echo:1\ninferenceUrl: /echo\ninferencePort: 8000\nhealthUri: /health\ndeploymentSpecifications:\n"
	spec := func(members string) string {
		return head + "  - {gpu: h100, instanceType: ncp.gpu.h100_1x, maxRequestConcurrency: 8, minInstances: 1, maxInstances: 4" + members + "}\n"
	}
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"another case of letters": {spec(""), nil},
		"more of them":            {head + "  - {gpu: H100, instanceType: NCP.GPU.H100_1x, maxRequestConcurrency: 8, minInstances: 2, maxInstances: 5}\n", []string{"scale"}},
		"more at once":            {head + "  - {gpu: H100, instanceType: NCP.GPU.H100_1x, maxRequestConcurrency: 16, minInstances: 2, maxInstances: 4}\n", []string{"replace"}},
		"autoscaling":             {spec(", autoscalingConfiguration: {scaleUpDetails: {factor: 1.5, threshold: 80}}"), []string{"scale"}},
		"the default order":       {spec(", preferredOrder: 1, clusters: []"), nil},
		"elsewhere":               {spec(", clusters: [lab-a]"), []string{"create-version", "deploy", "await", "undeploy"}},
		"on more":                 {spec("") + "  - {gpu: L40, instanceType: NCP.GPU.L40_1x, minInstances: 0, maxInstances: 1}\n", []string{"create-version", "deploy", "await", "undeploy"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			steps, _, err := apply.Plan(one(t, c.text), []apply.Version{stored("v1", functions.Active)}, apply.Options{})
			require.NoError(t, err)
			require.Equal(t, c.want, actions(steps))
		})
	}
}

func TestWhatAScaleSends(t *testing.T) {
	t.Parallel()
	least := 2
	d := one(t, echo)
	(*d.Specifications)[0].MinInstances = &least
	steps, _, err := apply.Plan(d, []apply.Version{stored("v1", functions.Degraded)}, apply.Options{})
	require.NoError(t, err)
	require.Len(t, steps, 1)
	require.Equal(t, map[string]any{"minInstances": 2}, steps[0].Change, "what stays is not sent")
	require.Equal(t, "d-v1", steps[0].DeploymentID)
	require.Equal(t, "s", steps[0].SpecificationID)
	require.Contains(t, steps[0].What, "minInstances 1 -> 2")
}

func TestANewVersionTakesOverWhatTheDocumentLeaves(t *testing.T) {
	t.Parallel()
	before := stored("v1", functions.Inactive)
	before.Tags, before.Description, before.RateLimit = []string{"kept"}, "kept too", &functions.RateLimit{RateLimit: "5-S"}
	steps, _, err := apply.Plan(one(t, "name: echo\ncontainerImage: demo/echo:2\ninferenceUrl: /echo\n"), []apply.Version{before}, apply.Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"create-version"}, actions(steps))
	require.Equal(t, []string{"kept"}, steps[0].Spec.Tags)
	require.Equal(t, "kept too", steps[0].Spec.Description)
	require.Equal(t, "5-S", steps[0].Spec.RateLimit.RateLimit)
	require.Contains(t, steps[0].What, "containerImage")

	before.Secrets = []string{"HF_TOKEN"}
	_, _, err = apply.Plan(one(t, "name: echo\ncontainerImage: demo/echo:2\ninferenceUrl: /echo\n"), []apply.Version{before}, apply.Options{})
	require.ErrorContains(t, err, "HF_TOKEN", "a secret would be lost")
}

func TestPlanOfModels(t *testing.T) {
	t.Parallel()
	have := apply.Version{Function: functions.Function{VersionID: "v1", Status: functions.Inactive, Spec: functions.Spec{
		Name: "chat", InferenceURL: "/", FunctionType: functions.LLM, ContainerArgs: "the platform's own", HealthURI: "/v2/health/ready", APIBodyFormat: "CUSTOM", Description: "chat",
		Models: []functions.Artifact{{Name: "m", LLMConfig: &functions.LLMConfig{URIs: []string{"/v1/chat/completions"}, TokenRateLimit: "10-S", RoutingMethod: "round-robin"}}},
	}}}
	const head = "name: chat\ninferenceUrl: /\nfunctionType: llm\nmodels:\n  - name: m\n    llmConfig:\n      uris: [/v1/chat/completions]\n"
	steps, _, err := apply.Plan(one(t, head), []apply.Version{have}, apply.Options{})
	require.NoError(t, err)
	require.Empty(t, steps, "limits that are not named stay")
	steps, _, err = apply.Plan(one(t, head+"      routingMethod: ROUND_ROBIN\n      tokenRateLimit: 20-S\n"), []apply.Version{have}, apply.Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"update"}, actions(steps))
	require.Equal(t, []functions.ModelUpdate{{ModelName: "m", LLMConfig: functions.LLMConfig{TokenRateLimit: "20-S"}}}, steps[0].Change["modelUpdates"])
}

func TestTheFunctionThatIsMeant(t *testing.T) {
	t.Parallel()
	all := []functions.Function{
		{ID: "a", VersionID: "1", Spec: functions.Spec{Name: "echo"}, CreatedAt: time.Unix(1, 0)},
		{ID: "a", VersionID: "2", Spec: functions.Spec{Name: "renamed"}, CreatedAt: time.Unix(2, 0)},
		{ID: "b", VersionID: "3", Spec: functions.Spec{Name: "echo"}, OwnedByDifferentAccount: true},
		{ID: "c", VersionID: "4", Spec: functions.Spec{Name: "twice"}},
		{ID: "d", VersionID: "5", Spec: functions.Spec{Name: "twice"}},
	}
	own, err := apply.Own(one(t, "name: echo"), all)
	require.NoError(t, err)
	require.Equal(t, []string{"2", "1"}, []string{own[0].VersionID, own[1].VersionID}, "every version of it, the newest first")
	own, err = apply.Own(one(t, "name: new"), all)
	require.NoError(t, err)
	require.Empty(t, own)
	_, err = apply.Own(one(t, "name: twice"), all)
	require.ErrorIs(t, err, apply.ErrSeveral)
	own, err = apply.Own(one(t, "name: twice\nfunctionId: d"), all)
	require.NoError(t, err)
	require.Len(t, own, 1)
	_, err = apply.Own(one(t, "name: twice\nfunctionId: e"), all)
	require.ErrorContains(t, err, "e is not there")
}

func TestParse(t *testing.T) {
	t.Parallel()
	documents, err := apply.Parse([]byte("---\nname: a\n---\n# nothing\n---\nname: b\n"))
	require.NoError(t, err)
	require.Len(t, documents, 2)
	documents, err = apply.Parse([]byte("{\n\t\"name\": \"a\"}\n{\"name\": \"b\"}"))
	require.NoError(t, err)
	require.Len(t, documents, 2)
	for text, says := range map[string]string{
		"":                              "no document",
		"name: [":                       "no YAML",
		`{"name": `:                     "no JSON",
		"- a":                           "must be an object",
		"image: x":                      `member "image" is not known`,
		"inferenceUrl: /":               "name is missing",
		"name: a\nname: b":              "already defined",
		"kind: task\nname: a":           `kind "task"`,
		"name: a\ninferencePort: x":     "inferencePort must be a whole number",
		"name: 1":                       "name must be text; put it in quotes",
		"name: a\ntags: x":              "tags must be a list",
		"name: a\n1: x":                 "keys that are no text",
		"name: a\nsecrets: [{name: S}]": "one of file, env and value",
		"name: a\nsecrets: [{env: S}]":  "secrets[0].name is missing",
		"name: a\n---\nname: b\nx: y":   "document 2",
		"name: a\nsecrets: [{name: S, env: E, file: F}]":                      "one of file, env and value",
		"name: a\nsecrets: [{name: S, env: E}, {name: S, env: F}]":            "there twice",
		"name: a\ncontainerEnvironment: [{key: PORT, value: 8000}]":           "must be text; put it in quotes",
		"name: a\ndeploymentSpecifications: [{gpu: H100, minInstances: '1'}]": "minInstances must be",
	} {
		_, err := apply.Parse([]byte(text))
		require.ErrorContains(t, err, says, "%q", text)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(echo))
	f.Add([]byte(`{"name":"a","secrets":[{"name":"s","value":{"a":1}}]}`))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, content []byte) {
		documents, err := apply.Parse(content)
		if err != nil {
			return
		}
		for _, d := range documents {
			require.NotEmpty(t, d.Name)
			if _, _, err := apply.Plan(d, nil, apply.Options{}); err != nil {
				require.NotEmpty(t, err.Error())
			}
		}
	})
}
