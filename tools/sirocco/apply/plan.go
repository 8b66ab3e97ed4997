package apply

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
)

// Version is a version as it is: with the names of its secrets, and its deployment when it has one.
type Version struct {
	functions.Function
	Deployment *deployments.Deployment
}

// Options change what a plan does beside making things as the document says.
type Options struct {
	// Keep leaves other versions of the function deployed.
	Keep bool
	// Recreate removes the other versions before the new one starts: less room is needed, and there is a gap.
	Recreate bool
	// Secrets writes every value again. Values cannot be read, so that they changed is not seen otherwise.
	Secrets bool
}

// Action is what a step does.
type Action string

// The actions.
const (
	CreateFunction Action = "create-function"
	CreateVersion  Action = "create-version"
	Update         Action = "update"
	SetSecrets     Action = "set-secrets"
	UnsetSecret    Action = "unset-secret"
	Deploy         Action = "deploy"
	Scale          Action = "scale"
	Replace        Action = "replace"
	Undeploy       Action = "undeploy"
	// Await waits until the version of the document is ACTIVE: what it replaces may go then, and not before.
	Await Action = "await"
)

// Step is one thing to do.
type Step struct {
	Action Action `json:"action"`
	// What says it to a person.
	What string `json:"what"`
	// VersionID is the version it is about; empty means the one that an earlier step creates.
	VersionID string `json:"versionId,omitempty"`
	// Names are the secrets to set, or the one to delete.
	Names []string `json:"names,omitempty"`
	// Spec is what a new version is made of.
	Spec functions.Spec `json:"-"`
	// Change is the body of an update or of a change of scale.
	Change map[string]any `json:"-"`
	// DeploymentID and SpecificationID say what is scaled.
	DeploymentID    string `json:"deploymentId,omitempty"`
	SpecificationID string `json:"gpuSpecificationId,omitempty"`
	// Specifications are what is deployed or replaced.
	Specifications []deployments.Specification `json:"-"`
}

// Plan compares what there is of one function, newest version first, with what the document wants. No step means that
// nothing is to be done. target is the version that will be what the document says; empty when it has to be made.
func Plan(want Document, have []Version, o Options) (steps []Step, target string, err error) {
	p := &planner{want: want, have: have, Options: o}
	chosen, why := p.choose()
	if chosen == nil {
		if err := p.create(why); err != nil {
			return nil, "", err
		}
	} else {
		target = chosen.VersionID
		p.update(*chosen)
		p.secrets(*chosen)
	}
	p.deploy(chosen)
	return p.steps, target, nil
}

type planner struct {
	Options

	want  Document
	have  []Version
	steps []Step
}

func (p *planner) add(s Step) { p.steps = append(p.steps, s) }

// managed reports whether the document says anything about deployment.
func (p *planner) managed() bool { return p.want.Specifications != nil }

// choose finds the version that already is, or can become, what the document wants: one that is deployed as wanted,
// else one that is not deployed, else a failed one. why says what is different about the present one when there is none.
func (p *planner) choose() (chosen *Version, why []string) {
	if len(p.have) == 0 {
		return nil, nil
	}
	why = differences(p.want.Spec, p.present().Spec)
	ranks := map[int]*Version{}
	for i := range p.have {
		v := &p.have[i]
		// Only the newest counts where nothing says which one runs.
		if len(differences(p.want.Spec, v.Spec)) > 0 || i > 0 && !p.managed() {
			continue
		}
		if len(v.Secrets) == 0 && len(p.want.Secrets) > 0 && v.Status != functions.Inactive {
			why = append(why, "secrets of a version that was deployed without any")
			continue
		}
		rank := 0
		switch {
		case !p.managed() || len(*p.want.Specifications) == 0:
		case v.Deployment == nil || v.Status == functions.Inactive:
			rank = 1
		case len(pairs(*p.want.Specifications, v.Deployment.Specifications)) == 0:
			why = append(why, "where it is deployed")
			continue
		case v.Status == functions.Error:
			rank = 2
		}
		if ranks[rank] == nil {
			ranks[rank] = v
		}
	}
	for rank := range 3 {
		if ranks[rank] != nil {
			return ranks[rank], nil
		}
	}
	return nil, slices.Compact(why)
}

// present is the version that a new one replaces: the newest that is deployed, if any is and the document has a say in it.
func (p *planner) present() Version {
	if deployed := slices.IndexFunc(p.have, func(v Version) bool { return v.Status != functions.Inactive }); p.managed() && deployed >= 0 {
		return p.have[deployed]
	}
	return p.have[0]
}

// create makes a function, or a version that takes over what the document leaves as it is.
func (p *planner) create(why []string) error {
	spec := p.want.Spec
	if len(p.have) == 0 {
		p.add(Step{Action: CreateFunction, What: "create function " + spec.Name, Spec: spec, Names: p.secretNames()})
		return nil
	}
	before := p.present()
	if spec.Tags == nil {
		spec.Tags = before.Tags
	}
	if spec.Description == "" && before.Description != before.Name {
		spec.Description = before.Description
	}
	if spec.RateLimit == nil {
		spec.RateLimit = before.RateLimit
	}
	if p.want.Secrets == nil && len(before.Secrets) > 0 {
		return fmt.Errorf("a new version is needed (%s), and the present one has secrets that the document does not name: %s; a value cannot be read, so name each with a file or env",
			strings.Join(why, ", "), strings.Join(before.Secrets, ", "))
	}
	p.add(Step{Action: CreateVersion, What: "create a version of " + spec.Name + ": " + strings.Join(why, ", ") + " changed", Spec: spec, Names: p.secretNames()})
	return nil
}

func (p *planner) secretNames() []string {
	var names []string
	for _, s := range p.want.Secrets {
		names = append(names, s.Name)
	}
	return names
}

// update changes what can be changed of a version that stays.
func (p *planner) update(v Version) {
	change, words := map[string]any{}, []string(nil)
	if p.want.Tags != nil && !sameSet(p.want.Tags, v.Tags) {
		change["tags"], words = p.want.Tags, append(words, "tags")
	}
	if p.want.Description != "" && p.want.Description != v.Description {
		change["description"], words = p.want.Description, append(words, "description")
	}
	if p.want.RateLimit != nil && !sameJSON(p.want.RateLimit, v.RateLimit) {
		change["rateLimit"], words = p.want.RateLimit, append(words, "rateLimit")
	}
	if len(p.want.LLMInvocationConfig) > 0 && !sameJSON(p.want.LLMInvocationConfig, v.LLMInvocationConfig) {
		change["llmInvocationConfig"], words = p.want.LLMInvocationConfig, append(words, "llmInvocationConfig")
	}
	if models := modelUpdates(p.want.Models, v.Models); len(models) > 0 {
		change["modelUpdates"], words = models, append(words, "models")
	}
	if len(change) > 0 {
		p.add(Step{Action: Update, What: "update " + strings.Join(words, ", "), VersionID: v.VersionID, Change: change})
	}
}

// secrets adds the missing names and removes the ones that the document does not have, when it has any say.
func (p *planner) secrets(v Version) {
	if p.want.Secrets == nil {
		return
	}
	names := p.secretNames()
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !p.Secrets && slices.Contains(v.Secrets, name) })
	if len(missing) > 0 {
		p.add(Step{Action: SetSecrets, What: "set secrets " + strings.Join(missing, ", "), VersionID: v.VersionID, Names: missing})
	}
	for _, name := range v.Secrets {
		if !slices.Contains(names, name) {
			p.add(Step{Action: UnsetSecret, What: "delete secret " + name, VersionID: v.VersionID, Names: []string{name}})
		}
	}
}

// deploy brings the chosen version, nil for the new one, to where the document wants it, and takes the others away.
func (p *planner) deploy(chosen *Version) {
	if !p.managed() {
		return
	}
	specs, id := *p.want.Specifications, ""
	if chosen != nil {
		id = chosen.VersionID
	}
	var others []Step
	for _, v := range p.have {
		if deployed := v.Status.Busy() || v.Status == functions.Error; deployed && (len(specs) == 0 || v.VersionID != id && !p.Keep) {
			others = append(others, Step{Action: Undeploy, What: "undeploy version " + v.VersionID, VersionID: v.VersionID})
		}
	}
	if len(specs) == 0 {
		p.steps = append(p.steps, others...)
		return
	}
	if p.Recreate {
		p.steps = append(p.steps, others...)
	}
	switch {
	case chosen != nil && chosen.Status.Busy():
		p.scale(*chosen)
	default:
		if chosen != nil && chosen.Status == functions.Error {
			p.add(Step{Action: Undeploy, What: "undeploy version " + id + ", which failed", VersionID: id})
		}
		p.add(Step{Action: Deploy, What: "deploy on " + places(specs), VersionID: id, Specifications: specs})
	}
	if len(others) > 0 && !p.Recreate {
		p.add(Step{Action: Await, What: "wait until it is ACTIVE", VersionID: id})
		p.steps = append(p.steps, others...)
	}
}

// scale changes the numbers of a deployment that is otherwise as wanted.
func (p *planner) scale(v Version) {
	matched := pairs(*p.want.Specifications, v.Deployment.Specifications)
	replaced := slices.Clone(v.Deployment.Specifications)
	full, words := false, []string(nil)
	var patches []Step
	for i, want := range *p.want.Specifications {
		have := v.Deployment.Specifications[matched[i]]
		change, what := map[string]any{}, []string(nil)
		for _, n := range []struct {
			member     string
			want, have *int
		}{{"minInstances", want.MinInstances, have.MinInstances}, {"maxInstances", want.MaxInstances, have.MaxInstances}} {
			if n.want != nil && number(n.want) != number(n.have) {
				change[n.member] = *n.want
				what = append(what, fmt.Sprintf("%s %d -> %d", n.member, number(n.have), number(n.want)))
			}
		}
		if concurrency(want) != concurrency(have) {
			full = true
			what = append(what, fmt.Sprintf("maxRequestConcurrency %d -> %d", concurrency(have), concurrency(want)))
			slots := concurrency(want)
			replaced[matched[i]].MaxRequestConcurrency = &slots
		}
		if want.MinInstances != nil {
			replaced[matched[i]].MinInstances = want.MinInstances
		}
		if want.MaxInstances != nil {
			replaced[matched[i]].MaxInstances = want.MaxInstances
		}
		auto := map[string]any{}
		switch {
		case sameJSON(want.Autoscaling, have.Autoscaling):
		case len(want.Autoscaling) == 0 || string(want.Autoscaling) == "null":
			auto["autoscalingConfigurationPolicy"] = "PLATFORM_CONFIGURATION"
		default:
			auto["autoscalingConfigurationPolicy"], auto["autoscalingConfiguration"] = "CUSTOM_CONFIGURATION", want.Autoscaling
		}
		place := want.GPU + " " + want.InstanceType
		if len(what) > 0 {
			words = append(words, place+": "+strings.Join(what, ", "))
			patches = append(patches, Step{Action: Scale, What: "scale " + place + ": " + strings.Join(what, ", "), VersionID: v.VersionID, DeploymentID: v.Deployment.ID, SpecificationID: have.ID, Change: change})
		}
		if len(auto) > 0 {
			p.add(Step{Action: Scale, What: "change the autoscaling of " + place, VersionID: v.VersionID, DeploymentID: v.Deployment.ID, SpecificationID: have.ID, Change: auto})
		}
	}
	if full {
		// The requests that an instance takes at once are changed by the full update alone, which takes the rest along.
		p.add(Step{Action: Replace, What: "scale " + strings.Join(words, "; "), VersionID: v.VersionID, DeploymentID: v.Deployment.ID, Specifications: replaced})
		return
	}
	p.steps = append(p.steps, patches...)
}

func places(specs []deployments.Specification) string {
	var parts []string
	for _, spec := range specs {
		parts = append(parts, fmt.Sprintf("%s %s (%d to %d instances)", spec.GPU, spec.InstanceType, number(spec.MinInstances), number(spec.MaxInstances)))
	}
	return strings.Join(parts, ", ")
}

// ErrSeveral says that a name does not say which function is meant.
var ErrSeveral = errors.New("several functions have this name")

// Own keeps the versions of the function that a document means, newest first. Functions of other accounts that are
// shared with this one may have the same name; they are never meant.
func Own(want Document, all []functions.Function) ([]functions.Function, error) {
	var own []functions.Function
	ids := map[string]bool{}
	for _, f := range all {
		if !f.OwnedByDifferentAccount && (want.FunctionID == "" && f.Name == want.Name || want.FunctionID != "" && strings.EqualFold(f.ID, want.FunctionID)) {
			ids[f.ID] = true
		}
	}
	if len(ids) > 1 {
		return nil, fmt.Errorf("%w: %s; say which one with functionId", ErrSeveral, want.Name)
	}
	if want.FunctionID != "" && len(ids) == 0 {
		return nil, fmt.Errorf("function %s is not there; without functionId, one is made", want.FunctionID)
	}
	for _, f := range all {
		if ids[f.ID] {
			own = append(own, f)
		}
	}
	slices.SortStableFunc(own, func(a, b functions.Function) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return own, nil
}
