package functions

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// check does with a body what Create does before it looks at anything else.
func check(t testing.TB, body string) (contract.Spec, error) {
	t.Helper()
	var r contract.CreateRequest
	require.NoError(t, json.Unmarshal([]byte(body), &r), body)
	spec := normalise(r.Spec)
	return complete(spec), validate(spec, r)
}

// with is a good body with members added or replaced.
func with(t testing.TB, members string) string {
	t.Helper()
	body := map[string]json.RawMessage{}
	for _, part := range []string{`{"name":"n","inferenceUrl":"/x","containerImage":"a/b:c"}`, "{" + members + "}"} {
		require.NoError(t, json.Unmarshal([]byte(part), &body), part)
	}
	return mustJSON(t, body)
}

func list(n int, item func(i int) string) string {
	items := make([]string, n)
	for i := range items {
		items[i] = item(i)
	}
	return "[" + strings.Join(items, ",") + "]"
}

func healthWith(replace string) string {
	members := map[string]json.RawMessage{}
	for _, part := range []string{`{"protocol":"HTTP","uri":"/h","port":80,"timeout":"PT1S","expectedStatusCode":200}`, "{" + replace + "}"} {
		if err := json.Unmarshal([]byte(part), &members); err != nil {
			return part
		}
	}
	text, err := json.Marshal(members)
	if err != nil {
		return err.Error()
	}
	return `"health":` + string(text)
}

func quoted(n int) string { return `"` + strings.Repeat("a", n) + `"` }

func TestBadBodiesNameTheirField(t *testing.T) {
	t.Parallel()
	const llmHead = `"functionType":"LLM","models":`
	tags65 := list(65, func(i int) string { return fmt.Sprintf(`"t%d"`, i) })
	accounts33 := list(33, func(i int) string { return fmt.Sprintf(`"a%d"`, i) })
	rates33 := strings.NewReplacer("[", "{", "]", "}").Replace(list(33, func(i int) string { return fmt.Sprintf(`"a%d":"1-S"`, i) }))
	priorities65 := strings.NewReplacer("[", "{", "]", "}").Replace(list(65, func(i int) string { return fmt.Sprintf(`"a%d":1`, i) }))
	cases := []struct{ members, field string }{
		{`"name":""`, "name"},
		{`"name":null,"name":" "`, "name"},
		{`"name":"-a"`, "name"},
		{`"name":"a b"`, "name"},
		{`"name":"é"`, "name"},
		{`"name":"a\n"`, "name"},
		{`"name":` + quoted(129), "name"},
		{`"inferenceUrl":""`, "inferenceUrl"},
		{`"inferenceUrl":"  "`, "inferenceUrl"},
		{`"inferenceUrl":"/a b"`, "inferenceUrl"},
		{`"inferenceUrl":"/a\u0000"`, "inferenceUrl"},
		{`"inferenceUrl":"/{x}"`, "inferenceUrl"},
		{`"inferenceUrl":"%zz"`, "inferenceUrl"},
		{`"inferencePort":-1`, "inferencePort"},
		{`"inferencePort":65536`, "inferencePort"},
		{`"containerImage":""`, "containerImage"},
		{`"containerImage":"a b"`, "containerImage"},
		{`"containerImage":"https://host/a"`, "containerImage"},
		{`"containerImage":"host/UPPER:1"`, "containerImage"},
		{`"containerImage":"host/a:"`, "containerImage"},
		{`"containerImage":"host/a@sha256:12"`, "containerImage"},
		{`"containerArgs":"'open"`, "containerArgs"},
		{`"containerArgs":"a\\"`, "containerArgs"},
		{`"containerArgs":"a\u0000b"`, "containerArgs"},
		{`"containerEnvironment":[{"value":"v"}]`, "containerEnvironment[0].key"},
		{`"containerEnvironment":[{"key":"A","value":"v"},{"key":"A"}]`, "containerEnvironment[1].value"},
		{`"containerEnvironment":[{"key":"A=B","value":"v"}]`, "containerEnvironment[0].key"},
		{`"containerEnvironment":[{"key":"A B","value":"v"}]`, "containerEnvironment[0].key"},
		{`"containerEnvironment":[{"key":"A","value":"\u0000"}]`, "containerEnvironment[0].value"},
		{`"containerEnvironment":[{"key":"NVCF_NCA_ID","value":"v"}]`, "containerEnvironment[0].key"},
		{`"containerEnvironment":[{"key":"nvcf_x","value":"v"}]`, "containerEnvironment[0].key"},
		{`"containerImage":null,"helmChart":"oci://h/c:1"`, "helmChartServiceName"},
		{`"helmChartServiceName":"svc"`, "helmChart"},
		{`"helmChart":"oci://h/c:1","helmChartServiceName":"s"`, "containerImage"},
		{`"containerImage":null,"helmChart":"oci://h/c:1","helmChartServiceName":"s","containerArgs":"x"`, "containerArgs"},
		{`"containerImage":null,"helmChart":"oci://h/c:1","helmChartServiceName":"s","containerEnvironment":[{"key":"A","value":"v"}]`, "containerEnvironment"},
		{`"containerImage":null,"helmChart":"ftp://h/c.tgz","helmChartServiceName":"s"`, "helmChart"},
		{`"containerImage":null,"helmChart":"oci://h/c","helmChartServiceName":"s"`, "helmChart"},
		{`"functionType":"BATCH"`, "functionType"},
		{`"apiBodyFormat":"JSON"`, "apiBodyFormat"},
		{`"apiBodyFormat":"OPENAI_CHAT"`, "apiBodyFormat"},
		{`"healthUri":"/a b"`, "healthUri"},
		{`"health":{}`, "health.protocol"},
		{healthWith(`"protocol":"TCP"`), "health.protocol"},
		{healthWith(`"uri":" "`), "health.uri"},
		{healthWith(`"uri":"/a b"`), "health.uri"},
		{healthWith(`"port":0`), "health.port"},
		{healthWith(`"port":70000`), "health.port"},
		{healthWith(`"timeout":""`), "health.timeout"},
		{healthWith(`"timeout":"10s"`), "health.timeout"},
		{healthWith(`"timeout":"P"`), "health.timeout"},
		{healthWith(`"timeout":"PT"`), "health.timeout"},
		{healthWith(`"timeout":"P1DT"`), "health.timeout"},
		{healthWith(`"timeout":"PT0S"`), "health.timeout"},
		{healthWith(`"timeout":"P1Y"`), "health.timeout"},
		{healthWith(`"timeout":"PT-5S"`), "health.timeout"},
		{healthWith(`"expectedStatusCode":0`), "health.expectedStatusCode"},
		{healthWith(`"expectedStatusCode":600`), "health.expectedStatusCode"},
		{`"description":` + quoted(257), "description"},
		{`"description":"a\u0000"`, "description"},
		{`"tags":` + tags65, "tags"},
		{`"tags":["ok",""]`, "tags[1]"},
		{`"tags":["a b"]`, "tags[0]"},
		{`"tags":["a,b"]`, "tags[0]"},
		{`"tags":[` + quoted(129) + `]`, "tags[0]"},
		{`"models":[{"version":"1","uri":"/u"}]`, "models[0].name"},
		{`"models":[{"name":"m","uri":"/u"}]`, "models[0].version"},
		{`"models":[{"name":"m","version":"1"}]`, "models[0].uri"},
		{`"models":[{"name":"m","version":"1","uri":"a b"}]`, "models[0].uri"},
		{`"models":[{"name":"m","version":"1","uri":"https://api.ngc/v2/models/m/zip"}]`, "models[0].uri"},
		{`"models":[{"name":"m","version":"1","uri":"/u"},{"name":"m","version":"2","uri":"/u"}]`, "models"},
		{`"models":[{"name":"m","version":"1","uri":"/u","llmConfig":{"routingMethod":"best"}}]`, "models[0].llmConfig.routingMethod"},
		{`"resources":[{"version":"1","uri":"/u"}]`, "resources[0].name"},
		{`"resources":[{"name":"r","uri":"/u"}]`, "resources[0].version"},
		{`"resources":[{"name":"r","version":"1"}]`, "resources[0].uri"},
		{llmHead + `[]`, "models"},
		{llmHead + `[{"name":"m"}]`, "models[0].llmConfig"},
		{llmHead + `[{"name":"m","llmConfig":{}}]`, "models[0].llmConfig.uris"},
		{llmHead + `[{"name":"m","llmConfig":{"uris":[""]}}]`, "models[0].llmConfig.uris"},
		{llmHead + `[{"name":" ","llmConfig":{"uris":["/v1"]}}]`, "models[0].name"},
		{llmHead + `[{"name":"m","uri":"a b","llmConfig":{"uris":["/v1"]}}]`, "models[0].uri"},
		{llmHead + `[{"name":"m","uri":"https://h/m/zip","llmConfig":{"uris":["/v1"]}}]`, "models[0].uri"},
		{llmHead + `[{"name":"m","llmConfig":{"uris":["/v1"],"tokenRateLimit":"5-Y"}}]`, "models[0].llmConfig.tokenRateLimit"},
		{llmHead + `[{"name":"m","llmConfig":{"uris":["/v1"],"tokenRateLimit":"5-S,6-S"}}]`, "models[0].llmConfig.tokenRateLimit"},
		{llmHead + `[{"name":"m","llmConfig":{"uris":["/v1"],"routingMethod":"sticky"}}]`, "models[0].llmConfig.routingMethod"},
		{`"llmInvocationConfig":{}`, "llmInvocationConfig"},
		{llmHead + `[{"name":"m","llmConfig":{"uris":["/v1"]}}],"llmInvocationConfig":[]`, "llmInvocationConfig"},
		{llmHead + `[{"name":"m","llmConfig":{"uris":["/v1"]}}],"llmInvocationConfig":{"priority":{"defaultPriority":-1}}`, "llmInvocationConfig"},
		{llmHead + `[{"name":"m","llmConfig":{"uris":["/v1"]}}],"llmInvocationConfig":{"priority":{"defaultPriority":4294967296}}`, "llmInvocationConfig"},
		{llmHead + `[{"name":"m","llmConfig":{"uris":["/v1"]}}],"llmInvocationConfig":{"priority":{"perAccountPriority":{"a":1}}}`, "llmInvocationConfig.priority.defaultPriority"},
		{llmHead + `[{"name":"m","llmConfig":{"uris":["/v1"]}}],"llmInvocationConfig":{"priority":{"defaultPriority":1,"perAccountPriority":` + priorities65 + `}}`, "llmInvocationConfig.priority.perAccountPriority"},
		{`"telemetries":{}`, "telemetries"},
		{`"telemetries":{"logsTelemetryId":"x"}`, "telemetries.logsTelemetryId"},
		{`"telemetries":{"metricsTelemetryId":"x"}`, "telemetries.metricsTelemetryId"},
		{`"telemetries":{"tracesTelemetryId":"x"}`, "telemetries.tracesTelemetryId"},
		{`"rateLimit":{}`, "rateLimit"},
		{`"rateLimit":{"syncCheck":true}`, "rateLimit"},
		{`"rateLimit":{"rateLimit":"100"}`, "rateLimit.rateLimit"},
		{`"rateLimit":{"rateLimit":"0-S"}`, "rateLimit.rateLimit"},
		{`"rateLimit":{"rateLimit":"1-W"}`, "rateLimit.rateLimit"},
		{`"rateLimit":{"rateLimit":"1-s"}`, "rateLimit.rateLimit"},
		{`"rateLimit":{"rateLimit":"1-S,2-M,3-S"}`, "rateLimit.rateLimit"},
		{`"rateLimit":{"rateLimit":"1-S ,2-M"}`, "rateLimit.rateLimit"},
		{`"rateLimit":{"rateLimit":"1-S,"}`, "rateLimit.rateLimit"},
		{`"rateLimit":{"rateLimit":"99999999999999999999-S"}`, "rateLimit.rateLimit"},
		{`"rateLimit":{"perUserRate":"1-X"}`, "rateLimit.perUserRate"},
		{`"rateLimit":{"perNcaIdRate":{"a":"1-X"}}`, "rateLimit.perNcaIdRate[a]"},
		{`"rateLimit":{"perNcaIdRate":{"":"1-S"}}`, "rateLimit.perNcaIdRate"},
		{`"rateLimit":{"perNcaIdRate":` + rates33 + `}`, "rateLimit.perNcaIdRate"},
		{`"rateLimit":{"rateLimit":"1-S","exemptedNcaIds":` + accounts33 + `}`, "rateLimit.exemptedNcaIds"},
		{`"rateLimit":{"rateLimit":"1-S","exemptedNcaIds":[""]}`, "rateLimit.exemptedNcaIds"},
		{`"rateLimit":{"perUserRate":"1-S","exemptedNcaIds":["a"]}`, "rateLimit.exemptedNcaIds"},
		{`"rateLimit":{"rateLimit":"1-S","exemptedNcaIds":["a"],"perNcaIdRate":{"a":"1-S"}}`, "rateLimit.exemptedNcaIds"},
		{`"secrets":[{"value":"v"}]`, "secrets[0].name"},
		{`"secrets":[{"name":"_a","value":"v"}]`, "secrets[0].name"},
		{`"secrets":[{"name":` + quoted(49) + `,"value":"v"}]`, "secrets[0].name"},
		{`"secrets":[{"name":"a"}]`, "secrets[0].value"},
		{`"secrets":[{"name":"a","value":null}]`, "secrets[0].value"},
		{`"secrets":[{"name":"a","value":"  "}]`, "secrets[0].value"},
		{`"secrets":[{"name":"a","value":5}]`, "secrets[0].value"},
		{`"secrets":[{"name":"a","value":["x"]}]`, "secrets[0].value"},
		{`"secrets":[{"name":"a","value":` + quoted(32769) + `}]`, "secrets[0].value"},
		{`"secrets":[{"name":"a","value":{"k":` + quoted(32768) + `}}]`, "secrets[0].value"},
		{`"secrets":[{"name":"a","value":"v"},{"name":"a","value":"w"}]`, "secrets"},
		{`"utilsContainerImage":"a b"`, "utilsContainerImage"},
		{`"idempotencyKey":` + quoted(256), "Idempotency-Key"},
		{`"idempotencyKey":"a\nb"`, "Idempotency-Key"},
	}
	require.GreaterOrEqual(t, len(cases), 60)
	broken := map[string]bool{}
	for _, c := range cases {
		body := with(t, c.members)
		_, err := check(t, body)
		requireProblem(t, err, problem.Validation)
		p, _ := problem.From(err)
		var fields []string
		for _, v := range p.Violations {
			fields = append(fields, v.Field)
			require.NotEmpty(t, v.Rule)
			broken[v.Rule] = true
		}
		require.Contains(t, fields, c.field, "%.200s", body)
	}
	every := slices.Concat(texts(specRules), texts(healthRules), texts(environmentRules), texts(resourceRules), texts(llmModelRules),
		texts(llmConfigRules), texts(telemetryRules), texts(rateRules), texts(secretRules))
	for _, text := range every {
		require.True(t, broken[text], "no case breaks the rule: %s", text)
	}
}

func texts[T any](rules []rule[T]) (all []string) {
	for _, r := range rules {
		all = append(all, r.text)
	}
	return all
}

func TestGoodBodies(t *testing.T) {
	t.Parallel()
	for _, members := range []string{
		``,
		`"name":` + quoted(128),
		`"inferencePort":0`,
		`"containerImage":"echo"`,
		`"containerImage":"localhost:5000/a/b"`,
		`"containerArgs":"sh -c 'a; b' \"c d\" e\\ f"`,
		`"containerArgs":"  ","containerEnvironment":[],"models":[],"resources":[],"tags":[],"secrets":[]`,
		`"helmChart":"","helmChartServiceName":" ","description":null,"health":null,"telemetries":null,"rateLimit":null,"llmInvocationConfig":null,"apiBodyFormat":null`,
		`"containerImage":"","helmChart":"oci://h/charts/c:1.2.3","helmChartServiceName":"svc"`,
		`"containerImage":null,"helmChart":"https://h/c-1.2.3.tgz","helmChartServiceName":"svc"`,
		`"containerImage":null,"models":[{"name":"m","version":"1","uri":"https://h/m/files"}]`,
		`"apiBodyFormat":"predict_v2","functionType":"streaming"`,
		`"unknown":{"a":1},"instanceCount":3,"creationTime":"x"`,
		healthWith(`"protocol":"GRPC"`), healthWith(`"protocol":"http"`),
		healthWith(`"timeout":"PT0.5S"`), healthWith(`"timeout":"P1DT2H3M4.5S"`), healthWith(`"timeout":"pt5m"`), healthWith(`"timeout":"P1D"`),
		`"tags":["a","a","team:x=1-2_3"]`,
		`"description":"` + strings.Repeat("é", 256) + `"`,
		`"containerEnvironment":[{"key":"NVC","value":"v"},{"key":"XNVCF_","value":"v"}]`,
		`"rateLimit":{"rateLimit":"100-S,  2000-M,1-H,1-D"}`,
		`"rateLimit":{"perUserRate":"1-S","syncCheck":false}`,
		`"functionType":"LLM","apiBodyFormat":"OPENAI_CHAT","models":[{"name":"m","llmConfig":{"uris":["/v1/chat/completions"],"routingMethod":"Wait_And-Widen","tokenRateLimit":"1-S,1-W"}}],"llmInvocationConfig":{"priority":{"defaultPriority":0,"perAccountPriority":{"a":4294967295}}}`,
		`"utilsContainerImage":"go"`, `"utilsContainerImage":"PYTHON"`, `"utilsContainerImage":"registry.local/side-car:1"`, `"utilsContainerImage":""`,
		`"secrets":[{"name":"a","value":` + quoted(32768) + `},{"name":"0.b-c_D","value":{"k":1}}]`,
	} {
		_, err := check(t, with(t, members))
		require.NoError(t, err, members)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	of := func(members string) contract.Spec {
		t.Helper()
		s, err := check(t, with(t, members))
		require.NoError(t, err)
		return s
	}
	require.Equal(t, "gRPC", of(`"inferenceUrl":"/grpc"`).Health.Protocol)
	for _, url := range []string{"/grpc/", "/GRPC", "/v1/grpc", "grpc"} {
		require.Equal(t, "HTTP", of(`"inferenceUrl":"`+url+`"`).Health.Protocol, url)
	}
	require.Equal(t, 9000, of(`"inferencePort":9000`).Health.Port)
	fromURI := of(`"healthUri":"/ok"`)
	require.Equal(t, contract.Health{Protocol: "HTTP", URI: "/ok", Port: 8000, Timeout: "PT10S", ExpectedStatusCode: 200}, *fromURI.Health)
	require.Equal(t, "/ok", fromURI.HealthURI)
	require.Equal(t, "/h", of(`"healthUri":"/other",`+healthWith("")).HealthURI, "health wins")
	require.Equal(t, "gRPC", of(healthWith(`"protocol":"gRPC"`)).Health.Protocol)
	require.Equal(t, "http", of(healthWith(`"protocol":"http"`)).Health.Protocol, "echoed as sent")
	require.Equal(t, "PT60S", of(healthWith(`"timeout":"PT60S"`)).Health.Timeout)
	require.Equal(t, "n", of(`"description":"  "`).Description)
	require.Empty(t, of(``).ContainerArgs)
	triton := of(`"containerImage":null,"models":[{"name":"m","version":"1","uri":"/u"}]`)
	require.Contains(t, triton.ContainerArgs, "/config/models")
	require.Equal(t, "mine", of(`"containerImage":null,"containerArgs":"mine","models":[{"name":"m","version":"1","uri":"/u"}]`).ContainerArgs)
	require.Equal(t, []string{"b", "a"}, of(`"tags":["b","a","b"]`).Tags)
}

// An answer that lists violations stays small, whatever the request was.
func TestViolationsAreBounded(t *testing.T) {
	t.Parallel()
	entries := list(100_000, func(int) string { return `{}` })
	_, err := check(t, with(t, `"containerEnvironment":`+entries+`,"rateLimit":{"perNcaIdRate":{`+quoted(100_000)+`:"x"}}`))
	p, _ := problem.From(err)
	require.Len(t, p.Violations, maxViolations)
	_, err = check(t, with(t, `"rateLimit":{"perNcaIdRate":{`+quoted(100_000)+`:"x"}}`))
	require.Less(t, len(err.Error()), 1000)
}

func FuzzSpecification(f *testing.F) {
	f.Add([]byte(`{"name":"n","inferenceUrl":"/x","containerImage":"a/b:c"}`))
	f.Add([]byte(`{"name":"n","inferenceUrl":"/grpc","functionType":"llm","models":[{"name":"m","llmConfig":{"uris":["/v1"]}}],"llmInvocationConfig":{"priority":{}}}`))
	f.Add([]byte(`{"health":{"timeout":"P"},"rateLimit":{"rateLimit":"1-S,"},"secrets":[{"name":"a","value":{}}],"tags":[null]}`))
	f.Add([]byte(`{"containerArgs":"'\\","llmInvocationConfig":" ","models":[null],"telemetries":{}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var r contract.CreateRequest
		if json.Unmarshal(body, &r) != nil {
			return
		}
		spec := normalise(r.Spec)
		if err := validate(spec, r); err != nil {
			requireProblem(t, err, problem.Validation)
			return
		}
		// What is accepted can be stored, answered and sent again, and comes out the same.
		once := complete(spec)
		text, err := json.Marshal(once)
		require.NoError(t, err)
		var again contract.Spec
		require.NoError(t, json.Unmarshal(text, &again))
		require.NoError(t, validate(normalise(again), contract.CreateRequest{}))
		twice, err := json.Marshal(complete(normalise(again)))
		require.NoError(t, err)
		require.Equal(t, string(text), string(twice))
	})
}
