package apply

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
)

// changeable are the members of a version that an update changes; all others take a new version.
var changeable = []string{"tags", "description", "rateLimit", "llmInvocationConfig"}

// differences names the members that only a new version can change. Both sides are brought to the form that the platform
// stores, so that a default that is written out, or left out, makes no difference.
func differences(want, have functions.Spec) []string {
	if want.ContainerImage == "" && want.HelmChart == "" && strings.TrimSpace(want.ContainerArgs) == "" {
		want.ContainerArgs = have.ContainerArgs // the platform's own command line for models
	}
	a, b := members(normal(want)), members(normal(have))
	var names []string
	for name := range a {
		if !reflect.DeepEqual(a[name], b[name]) {
			names = append(names, name)
		}
	}
	for name := range b {
		if _, there := a[name]; !there {
			names = append(names, name)
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(changeable, name) })
	slices.Sort(names)
	return names
}

// The defaults of functions-deployments §2.4 and §2.5.
const (
	defaultPort      = 8000
	defaultHealthURI = "/v2/health/ready"
	defaultTimeout   = "PT10S"
	expectedStatus   = 200
)

func normal(s functions.Spec) functions.Spec {
	s.APIBodyFormat = strings.ToUpper(s.APIBodyFormat)
	if s.APIBodyFormat == "" {
		s.APIBodyFormat = "CUSTOM"
	}
	if s.FunctionType = functions.Type(strings.ToUpper(string(s.FunctionType))); s.FunctionType == "" {
		s.FunctionType = functions.Default
	}
	s.ContainerArgs = strings.TrimSpace(s.ContainerArgs)
	health := functions.Health{Protocol: "HTTP", URI: s.HealthURI, Port: s.InferencePort, Timeout: defaultTimeout, ExpectedStatusCode: expectedStatus}
	if s.InferenceURL == "/grpc" {
		health.Protocol = "GRPC"
	}
	if health.URI == "" {
		health.URI = defaultHealthURI
	}
	if health.Port == 0 {
		health.Port = defaultPort
	}
	if s.Health != nil {
		health = *s.Health
		health.Protocol = strings.ToUpper(health.Protocol)
	}
	s.Health, s.HealthURI = &health, health.URI
	if s.Telemetries != nil && *s.Telemetries == (functions.Telemetries{}) {
		s.Telemetries = nil
	}
	s.ContainerEnvironment = slices.SortedStableFunc(slices.Values(s.ContainerEnvironment), func(a, b functions.EnvironmentEntry) int {
		return strings.Compare(a.Key, b.Key)
	})
	s.Models = slices.Clone(s.Models)
	for i, m := range s.Models {
		if m.LLMConfig != nil {
			fixed := functions.LLMConfig{URIs: m.LLMConfig.URIs, Tokenizer: m.LLMConfig.Tokenizer}
			s.Models[i].LLMConfig = &fixed
		}
	}
	return s
}

// members is a value as JSON has it, by member.
func members(value any) map[string]any {
	text, err := json.Marshal(value)
	if err != nil {
		return nil
	}
	var m map[string]any
	if json.Unmarshal(text, &m) != nil {
		return nil
	}
	return m
}

// sameJSON compares two values as JSON has them; null and absent are the same.
func sameJSON(a, b any) bool {
	read := func(value any) (v any) {
		if raw, ok := value.(json.RawMessage); ok && len(raw) == 0 {
			return nil
		}
		text, err := json.Marshal(value)
		if err != nil || json.Unmarshal(text, &v) != nil {
			return nil
		}
		return v
	}
	return reflect.DeepEqual(read(a), read(b))
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// modelUpdates are the limits of models that the document wants otherwise (§3.7); those it does not name stay.
func modelUpdates(want, have []functions.Artifact) []functions.ModelUpdate {
	var updates []functions.ModelUpdate
	for _, w := range want {
		i := slices.IndexFunc(have, func(h functions.Artifact) bool { return h.Name == w.Name })
		if w.LLMConfig == nil || i < 0 {
			continue
		}
		now := functions.LLMConfig{}
		if have[i].LLMConfig != nil {
			now = *have[i].LLMConfig
		}
		change := functions.LLMConfig{}
		if w.LLMConfig.TokenRateLimit != "" && w.LLMConfig.TokenRateLimit != now.TokenRateLimit {
			change.TokenRateLimit = w.LLMConfig.TokenRateLimit
		}
		if method := strings.ReplaceAll(strings.ToLower(w.LLMConfig.RoutingMethod), "_", "-"); method != "" && method != now.RoutingMethod {
			change.RoutingMethod = method
		}
		if change.TokenRateLimit != "" || change.RoutingMethod != "" {
			updates = append(updates, functions.ModelUpdate{ModelName: w.Name, LLMConfig: change})
		}
	}
	return updates
}

// pairs finds for each wanted specification the present one on the same place; nil unless all of them pair up. Their
// order may differ, their numbers and autoscaling too: those change while the version runs.
func pairs(want, have []deployments.Specification) []int {
	if len(want) != len(have) {
		return nil
	}
	used := map[int]bool{}
	var found []int
	for _, w := range want {
		i := slices.IndexFunc(have, func(h deployments.Specification) bool {
			return sameJSON(where(w), where(h))
		})
		for i >= 0 && used[i] {
			next := slices.IndexFunc(have[i+1:], func(h deployments.Specification) bool { return sameJSON(where(w), where(h)) })
			if next < 0 {
				return nil
			}
			i += next + 1
		}
		if i < 0 {
			return nil
		}
		used[i] = true
		found = append(found, i)
	}
	return found
}

// where is what of a specification only a new deployment can change.
func where(s deployments.Specification) map[string]any {
	set := func(list []string) []string {
		if len(list) == 0 {
			return nil
		}
		return slices.Sorted(slices.Values(list))
	}
	order := 1
	if s.PreferredOrder != nil {
		order = *s.PreferredOrder
	}
	return map[string]any{
		"gpu": strings.ToLower(s.GPU), "instanceType": strings.ToLower(s.InstanceType), "backend": strings.ToLower(s.Backend), "clusters": set(s.Clusters),
		"regions": set(s.Regions), "zones": set(s.AvailabilityZones), "attributes": set(s.Attributes), "order": order,
		"configuration": orNil(s.Configuration), "policy": orNil(s.HelmValidationPolicy),
	}
}

func orNil(raw json.RawMessage) any {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	return raw
}

func number(n *int) int {
	if n == nil {
		return 0
	}
	return *n
}

// concurrency is how many requests an instance takes at once; one unless it is said otherwise (§11.1).
func concurrency(s deployments.Specification) int {
	if s.MaxRequestConcurrency == nil {
		return 1
	}
	return *s.MaxRequestConcurrency
}
