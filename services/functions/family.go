package functions

import (
	"bytes"
	"slices"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// The versions of an LLM function are a family (§2.5.3): a model of one name serves the same paths with the same
// tokenizer in all of them, and its limits, its routing and the priorities of callers are shared.

// joins checks that spec may become a version beside its siblings, which are in the order of their creation, and
// returns it with the priorities that it inherits from the oldest.
func joins(spec contract.Spec, siblings []contract.Spec) (contract.Spec, error) {
	for _, s := range siblings {
		if (s.FunctionType == contract.LLM) != (spec.FunctionType == contract.LLM) {
			return spec, problem.New(problem.BadRequest, "functionType: either all versions of a function are LLM or none is")
		}
	}
	if spec.FunctionType != contract.LLM {
		return spec, nil
	}
	for _, s := range siblings {
		for _, m := range s.Models {
			mine := model(spec, m.Name)
			if mine == nil || mine.LLMConfig == nil || m.LLMConfig == nil {
				continue
			}
			if !slices.Equal(mine.LLMConfig.URIs, m.LLMConfig.URIs) || mine.LLMConfig.Tokenizer != m.LLMConfig.Tokenizer {
				return spec, problem.New(problem.BadRequest, "models: uris and tokenizer of the model %q may not change between versions", m.Name)
			}
		}
	}
	if spec.LLMInvocationConfig == nil && len(siblings) > 0 {
		spec.LLMInvocationConfig = siblings[0].LLMInvocationConfig
	}
	return spec, nil
}

// kinship is what a version tells its siblings: settings by model name, and priorities when not nil.
type kinship struct {
	models     map[string]contract.LLMConfig
	priorities []byte
}

// sharedBy collects what a new version tells.
func sharedBy(spec contract.Spec) kinship {
	s := kinship{models: map[string]contract.LLMConfig{}, priorities: spec.LLMInvocationConfig}
	for _, m := range spec.Models {
		if m.LLMConfig != nil {
			s.models[m.Name] = *m.LLMConfig
		}
	}
	return s
}

// sharedByUpdate collects what an update tells.
func sharedByUpdate(r contract.UpdateRequest) kinship {
	s := kinship{models: map[string]contract.LLMConfig{}, priorities: r.LLMInvocationConfig}
	for _, u := range r.ModelUpdates {
		s.models[u.ModelName] = u.LLMConfig
	}
	return s
}

// takes returns spec with what is shared, and whether that changed anything. Spec itself stays as it is.
func takes(spec contract.Spec, s kinship) (contract.Spec, bool) {
	changed := false
	spec.Models = slices.Clone(spec.Models)
	for i, m := range spec.Models {
		told, ok := s.models[m.Name]
		if !ok || m.LLMConfig == nil {
			continue
		}
		config := *m.LLMConfig
		if told.TokenRateLimit != "" {
			config.TokenRateLimit = told.TokenRateLimit
		}
		if told.RoutingMethod != "" {
			config.RoutingMethod = told.RoutingMethod
		}
		changed = changed || config.TokenRateLimit != m.LLMConfig.TokenRateLimit || config.RoutingMethod != m.LLMConfig.RoutingMethod
		spec.Models[i].LLMConfig = &config
	}
	if s.priorities != nil && !bytes.Equal(s.priorities, spec.LLMInvocationConfig) {
		spec.LLMInvocationConfig, changed = s.priorities, true
	}
	return spec, changed
}

func model(spec contract.Spec, name string) *contract.Artifact {
	for i := range spec.Models {
		if spec.Models[i].Name == name {
			return &spec.Models[i]
		}
	}
	return nil
}
