package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/apply"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

// applied is what apply did, or would do, about one document.
type applied struct {
	Name       string       `json:"name"`
	FunctionID string       `json:"functionId,omitempty"`
	VersionID  string       `json:"versionId,omitempty"`
	Unchanged  bool         `json:"unchanged"`
	DryRun     bool         `json:"dryRun,omitempty"`
	Steps      []apply.Step `json:"steps,omitempty"`
}

func newApply(s *session) *cobra.Command {
	var file string
	var dry, wait bool
	var patience time.Duration
	var o apply.Options
	cmd := &cobra.Command{
		Use: "apply", Short: "Make functions and their deployments what a file says", Args: cobra.NoArgs,
		Long: `Make functions and their deployments what a file says, and nothing that is so already. The file is YAML or JSON, with
as many documents as functions; docs/apply.md describes it.

A function that is not there is created. A change that a version can take (tags, description, rate limit, secrets, how
many instances) is made in place; any other makes a new version, which is deployed, and the version it replaces is
undeployed when the new one is ACTIVE. Applying the same file again changes nothing.`,
		Example: "  sirocco apply -f echo.yaml --dry-run\n  sirocco apply -f echo.yaml --wait",
		RunE: func(cmd *cobra.Command, _ []string) error {
			content, err := s.readFile(file)
			if err != nil {
				return err
			}
			documents, err := apply.Parse(content)
			if err != nil {
				return next(fmt.Errorf("%s: %w", file, err), "correct it; docs/apply.md describes the format")
			}
			c, err := s.connect()
			if err != nil {
				return err
			}
			a := &applier{session: s, client: c, dir: filepath.Dir(file), options: o, dry: dry, wait: wait, patience: patience}
			if file == "-" {
				a.dir = "."
			}
			var results []applied
			for _, d := range documents {
				result, err := a.apply(cmd.Context(), d)
				if err != nil {
					return fmt.Errorf("%s: %w", d.Name, err)
				}
				results = append(results, result)
			}
			if s.output != formatJSON {
				return nil
			}
			raw, err := json.Marshal(map[string][]applied{"documents": results})
			if err != nil {
				return fmt.Errorf("apply: %w", err)
			}
			return writeJSON(s.out, raw)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&file, "file", "f", "", "file with the documents (- for standard input)")
	flags.BoolVar(&dry, "dry-run", false, "say what would be done, and do nothing")
	flags.BoolVar(&wait, "wait", false, "wait until everything that is deployed is ACTIVE")
	flags.DurationVar(&patience, "timeout", 15*time.Minute, "how long to wait for each function")
	flags.BoolVar(&o.Keep, "keep", false, "leave the versions that are replaced deployed")
	flags.BoolVar(&o.Recreate, "recreate", false, "undeploy what is replaced first: needs less room, and leaves a gap")
	flags.BoolVar(&o.Secrets, "secrets", false, "write the value of every secret again; that one changed is not seen otherwise")
	_ = cmd.MarkFlagRequired("file")
	cmd.MarkFlagsMutuallyExclusive("keep", "recreate")
	return cmd
}

// applier carries out plans.
type applier struct {
	*session

	client    *client.Client
	dir       string // where the files of secrets are looked for
	options   apply.Options
	dry, wait bool
	patience  time.Duration
}

func (a *applier) apply(ctx context.Context, d apply.Document) (applied, error) {
	have, err := a.look(ctx, d)
	if err != nil {
		return applied{}, err
	}
	steps, target, err := apply.Plan(d, have, a.options)
	if err != nil {
		return applied{}, err
	}
	result := applied{Name: d.Name, VersionID: target, Unchanged: len(steps) == 0, DryRun: a.dry, Steps: steps}
	current := functions.Function{VersionID: target, Spec: functions.Spec{Name: d.Name}}
	if len(have) > 0 {
		current.ID = have[0].ID
	}
	result.FunctionID = current.ID
	words := func(text string) {
		if a.output == formatTable {
			fmt.Fprintln(a.out, printable(d.Name+": "+text))
		}
	}
	if result.Unchanged {
		words("unchanged")
	}
	made := false
	for _, step := range steps {
		if a.dry {
			words("would " + step.What)
			continue
		}
		if err := a.do(ctx, d, step, &current); err != nil {
			if made && step.Action == apply.Deploy {
				err = a.takeBack(ctx, current, err)
			}
			return result, fmt.Errorf("%s: %w", step.What, err)
		}
		made = made || step.Action == apply.CreateFunction || step.Action == apply.CreateVersion
		words(step.What)
	}
	result.FunctionID, result.VersionID = current.ID, current.VersionID
	if a.wait && !a.dry && d.Specifications != nil && len(*d.Specifications) > 0 {
		if _, err := a.follow(ctx, a.client, current, a.patience); err != nil {
			return result, err
		}
		words("ACTIVE")
	}
	return result, nil
}

// look reads the versions of the document's function, with what a list does not have: secrets and deployments.
func (a *applier) look(ctx context.Context, d apply.Document) ([]apply.Version, error) {
	path := functionsPath
	if d.FunctionID != "" {
		path += "/" + escape(d.FunctionID) + "/versions"
	}
	list, _, err := ask[functions.ListResponse](ctx, a.client, client.Request{Method: http.MethodGet, Path: path})
	if err != nil {
		return nil, err
	}
	own, err := apply.Own(d, list.Functions)
	if errors.Is(err, apply.ErrSeveral) {
		return nil, next(err, "see them: `sirocco function list`")
	}
	if err != nil {
		return nil, err
	}
	var have []apply.Version
	for _, f := range own {
		answer, _, err := ask[functions.FunctionResponse](ctx, a.client, client.Request{Method: http.MethodGet, Path: versionPath(f)})
		if err != nil {
			return nil, err
		}
		v := apply.Version{Function: answer.Function}
		if d.Specifications != nil && deployed(v.Status) {
			deployment, err := deploymentOf(ctx, a.client, f)
			if refusal, ok := errors.AsType[*client.Refusal](err); err != nil && (!ok || refusal.Status != http.StatusNotFound) {
				return nil, err
			}
			if err == nil {
				v.Deployment = &deployment
			}
		}
		have = append(have, v)
	}
	return have, nil
}

// do carries out one step. current is the version of the document; a step that makes it fills it in.
func (a *applier) do(ctx context.Context, d apply.Document, step apply.Step, current *functions.Function) error {
	at := *current
	if step.VersionID != "" {
		at.VersionID = step.VersionID
	}
	switch step.Action {
	case apply.CreateFunction, apply.CreateVersion:
		made, err := a.create(ctx, d, step, current.ID)
		if err == nil {
			*current = made
		}
		return err
	case apply.Update:
		return a.send(ctx, http.MethodPut, versionPath(at), step.Change)
	case apply.SetSecrets:
		values, err := a.values(d, step.Names)
		if err != nil {
			return err
		}
		return putSecrets(ctx, a.client, at, values)
	case apply.UnsetSecret:
		return deleteSecret(ctx, a.client, at, step.Names[0])
	case apply.Deploy:
		return a.send(ctx, http.MethodPost, deploymentPath(at), map[string]any{"deploymentSpecifications": step.Specifications})
	case apply.Scale:
		return patchSpecification(ctx, a.client, step.DeploymentID, step.SpecificationID, step.Change)
	case apply.Replace:
		return replaceDeployment(ctx, a.client, deployments.Deployment{FunctionID: at.ID, VersionID: at.VersionID, Specifications: step.Specifications})
	case apply.Undeploy:
		return a.undeploy(ctx, at)
	case apply.Await:
		_, err := a.follow(ctx, a.client, at, a.patience)
		return err
	}
	return fmt.Errorf("step %q is not known", step.Action)
}

// takeBack deletes a version that was made to be deployed, when that was refused, so that the next try begins where this
// one did. After any other failure the version may be on its way.
func (a *applier) takeBack(ctx context.Context, f functions.Function, why error) error {
	if refusal, ok := errors.AsType[*client.Refusal](why); !ok || refusal.Status >= http.StatusInternalServerError {
		return why
	}
	if _, err := a.client.Answer(ctx, client.Request{Method: http.MethodDelete, Path: versionPath(f)}); err != nil {
		return fmt.Errorf("%w; version %s, which was made for it, stays: %w", why, f.VersionID, err)
	}
	return fmt.Errorf("%w; version %s, which was made for it, is deleted again", why, f.VersionID)
}

func (a *applier) send(ctx context.Context, method, path string, content any) error {
	body, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	_, err = a.client.Answer(ctx, client.Request{Method: method, Path: path, Body: body})
	return err
}

func (a *applier) create(ctx context.Context, d apply.Document, step apply.Step, function string) (functions.Function, error) {
	values, err := a.values(d, step.Names)
	if err != nil {
		return functions.Function{}, err
	}
	order := struct {
		functions.Spec
		Secrets []functions.Secret `json:"secrets,omitempty"`
	}{step.Spec, values}
	body, err := json.Marshal(order)
	if err != nil {
		return functions.Function{}, fmt.Errorf("apply: %w", err)
	}
	path := functionsPath
	if step.Action == apply.CreateVersion {
		path += "/" + function + "/versions"
	}
	answer, _, err := ask[functions.FunctionResponse](ctx, a.client, client.Request{Method: http.MethodPost, Path: path, Body: body})
	return answer.Function, err
}

// values reads the secrets that a step sends.
func (a *applier) values(d apply.Document, names []string) ([]functions.Secret, error) {
	var secrets []functions.Secret
	for _, name := range names {
		for _, s := range d.Secrets {
			if s.Name != name {
				continue
			}
			value, err := a.value(s)
			if err != nil {
				return nil, fmt.Errorf("secret %s: %w", name, err)
			}
			secrets = append(secrets, functions.Secret{Name: name, Value: value})
		}
	}
	return secrets, nil
}

func (a *applier) value(s apply.Secret) (json.RawMessage, error) {
	switch {
	case s.Env != "":
		value := a.getenv(s.Env)
		if value == "" {
			return nil, next(fmt.Errorf("%s is not set", s.Env), "set it in the environment of this command")
		}
		return secretJSON([]byte(value))
	case s.File != "":
		name := s.File
		if !filepath.IsAbs(name) {
			name = filepath.Join(a.dir, name)
		}
		content, err := a.readFile(name)
		if err != nil {
			return nil, err
		}
		return secretJSON(content)
	}
	return s.Value, nil
}

// undeploy lets running requests finish first. A version that is not deployed any more is what was wanted.
func (a *applier) undeploy(ctx context.Context, f functions.Function) error {
	_, err := a.client.Answer(ctx, client.Request{Method: http.MethodDelete, Path: deploymentPath(f), Query: map[string][]string{"graceful": {"true"}}})
	if refusal, ok := errors.AsType[*client.Refusal](err); ok && refusal.Status == http.StatusNotFound && !strings.Contains(refusal.Problem.Detail, "account") {
		return nil
	}
	return err
}
