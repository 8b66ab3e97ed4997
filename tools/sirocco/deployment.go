package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

const deploymentsPath = "/v2/nvcf/deployments"

// newDeployment gathers what is done with deployments; create and remove are the verbs deploy and undeploy of functions.
func newDeployment(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "deployment", Aliases: []string{"deploy"}, Short: "Deployments: where versions run, and how many instances",
		Long: "A version has at most one deployment. A deployment is named by its function, or by its own id.",
	}
	create, remove := newDeploy(s), newUndeploy(s)
	create.Use, remove.Use, remove.Aliases = "create FUNCTION", "remove FUNCTION", []string{"delete"}
	cmd.AddCommand(create, newDeploymentList(s), newDeploymentShow(s), newDeploymentUpdate(s), remove)
	return cmd
}

func newDeploymentList(s *session) *cobra.Command {
	var status []string
	cmd := &cobra.Command{
		Use: "list", Short: "List deployments", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			r := client.Request{Method: http.MethodGet, Path: deploymentsPath}
			if len(status) > 0 {
				r.Query = url.Values{"status": {strings.ToUpper(strings.Join(status, ","))}}
			}
			list, raw, err := ask[deployments.ListResponse](cmd.Context(), c, r)
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error { return writeDeployments(w, list.Deployments...) })
		},
	}
	cmd.Flags().StringSliceVar(&status, "status", nil, "only those in this state, such as ACTIVE; repeat for several")
	return cmd
}

// findDeployment finds a deployment by its own id, or as the one of a function.
func findDeployment(ctx context.Context, c *client.Client, ref, version string) (deployments.Deployment, []byte, error) {
	if isID(ref) && version == "" {
		answer, raw, err := ask[deployments.Response](ctx, c, client.Request{Method: http.MethodGet, Path: deploymentsPath + "/" + ref})
		if refusal, ok := errors.AsType[*client.Refusal](err); !ok || refusal.Status != http.StatusNotFound {
			return answer.Deployment, raw, err
		}
	}
	f, err := oneVersion(ctx, c, ref, version, deployed)
	if err != nil {
		return deployments.Deployment{}, nil, err
	}
	answer, raw, err := ask[deployments.Response](ctx, c, client.Request{Method: http.MethodGet, Path: deploymentPath(f)})
	if refusal, ok := errors.AsType[*client.Refusal](err); ok && refusal.Status == http.StatusNotFound {
		err = next(err, "deploy it: `sirocco function deploy %s --version %s`", f.ID, f.VersionID)
	}
	return answer.Deployment, raw, err
}

func newDeploymentShow(s *session) *cobra.Command {
	var version string
	cmd := &cobra.Command{
		Use: "show FUNCTION|ID", Aliases: []string{"get"}, Short: "Show a deployment, its instances, and what is wrong with them",
		Args: arguments("FUNCTION or ID"), ValidArgsFunction: s.completeFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			d, raw, err := findDeployment(cmd.Context(), c, args[0], version)
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error {
				rows := append([][]string{
					{"Name", d.FunctionName}, {"Status", string(d.FunctionStatus)}, {"Function", d.FunctionID}, {"Version", d.VersionID},
				}, deploymentRows(d)...)
				if err := writeTable(w, nil, append(rows, []string{"Changed", shown(d.LastUpdatedAt)})); err != nil {
					return err
				}
				return writeInstances(w, d.Instances)
			})
		},
	}
	cmd.Flags().StringVar(&version, "version", "", "version id (default: the newest one that is deployed)")
	return cmd
}

func newDeploymentUpdate(s *session) *cobra.Command {
	var version, gpu, instanceType, specID, autoscaling string
	var least, most, concurrency int
	cmd := &cobra.Command{
		Use: "update FUNCTION|ID", Short: "Change how many instances run, while it takes requests",
		Example: "  sirocco deployment update echo --min 2 --max 8\n  sirocco deployment update echo --autoscaling '{\"scaleUpDetails\":{\"factor\":1.5,\"threshold\":80}}'",
		Args:    arguments("FUNCTION or ID"), ValidArgsFunction: s.completeFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			var to resize
			given := cmd.Flags().Changed
			if given("min") {
				to.least = &least
			}
			if given("max") {
				to.most = &most
			}
			if given("concurrency") {
				to.concurrency = &concurrency
			}
			if given("autoscaling") {
				var err error
				if to.autoscaling, err = s.autoscaling(autoscaling); err != nil {
					return &usage{command: cmd.CommandPath(), err: fmt.Errorf("--autoscaling %w", err)}
				}
			}
			if to.none() {
				return &usage{command: cmd.CommandPath(), err: errors.New("nothing to change: give --min, --max, --concurrency or --autoscaling")}
			}
			ctx := cmd.Context()
			c, err := s.connect()
			if err != nil {
				return err
			}
			d, _, err := findDeployment(ctx, c, args[0], version)
			if err != nil {
				return err
			}
			i, err := oneSpecification(d, specID, gpu, instanceType)
			if err != nil {
				return err
			}
			if err := to.apply(ctx, c, d, i); err != nil {
				return err
			}
			d, raw, err := findDeployment(ctx, c, d.ID, "")
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error { return writeDeployments(w, d) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&version, "version", "", "version id (default: the newest one that is deployed)")
	flags.StringVar(&specID, "spec", "", "id of the GPU specification, where there are several")
	flags.StringVar(&gpu, "gpu", "", "GPU of the specification, where there are several")
	flags.StringVar(&instanceType, "instance-type", "", "instance type of the specification, where there are several")
	flags.IntVar(&least, "min", 0, "instances that always run")
	flags.IntVar(&most, "max", 0, "instances at most")
	flags.IntVar(&concurrency, "concurrency", 0, "requests that one instance takes at once")
	flags.StringVar(&autoscaling, "autoscaling", "", "JSON object or @FILE, or platform for the platform's own settings")
	return cmd
}

// resize is what an update asks of one GPU specification; what is nil stays.
type resize struct {
	least, most, concurrency *int
	// autoscaling are the API's members that say how instances follow the work.
	autoscaling map[string]any
}

func (to resize) none() bool {
	return to.least == nil && to.most == nil && to.concurrency == nil && to.autoscaling == nil
}

// apply changes the specification with index i. A new concurrency takes the older full update, which sets the numbers of
// instances as well.
func (to resize) apply(ctx context.Context, c *client.Client, d deployments.Deployment, i int) error {
	spec := &d.Specifications[i]
	change := map[string]any{}
	maps.Copy(change, to.autoscaling)
	for _, bound := range []struct {
		member string
		given  *int
		now    **int
	}{{"minInstances", to.least, &spec.MinInstances}, {"maxInstances", to.most, &spec.MaxInstances}} {
		switch {
		case bound.given == nil:
		case to.concurrency == nil:
			change[bound.member] = *bound.given
		default:
			*bound.now = bound.given
		}
	}
	if to.concurrency != nil {
		spec.MaxRequestConcurrency = to.concurrency
		if err := replaceDeployment(ctx, c, d); err != nil {
			return err
		}
	}
	if len(change) == 0 {
		return nil
	}
	return patchSpecification(ctx, c, d.ID, spec.ID, change)
}

// autoscaling reads the settings of --autoscaling: the platform's own ones, or an object.
func (s *session) autoscaling(given string) (map[string]any, error) {
	if given == "platform" {
		return map[string]any{"autoscalingConfigurationPolicy": "PLATFORM_CONFIGURATION"}, nil
	}
	settings, err := s.objectOf(given)
	return map[string]any{"autoscalingConfigurationPolicy": "CUSTOM_CONFIGURATION", "autoscalingConfiguration": settings}, err
}

// oneSpecification finds which of a deployment's specifications is meant.
func oneSpecification(d deployments.Deployment, id, gpu, instanceType string) (int, error) {
	found := -1
	for i, spec := range d.Specifications {
		fits := (id == "" || strings.EqualFold(id, spec.ID)) && (gpu == "" || strings.EqualFold(gpu, spec.GPU)) &&
			(instanceType == "" || strings.EqualFold(instanceType, spec.InstanceType))
		switch {
		case !fits:
		case found >= 0:
			return 0, next(errors.New("the deployment has several GPU specifications that fit"), "say which one with --spec, --gpu or --instance-type")
		default:
			found = i
		}
	}
	if found < 0 {
		return 0, next(&missing{"such a GPU specification"}, "see what it has: `sirocco deployment show %s`", d.ID)
	}
	return found, nil
}

func patchSpecification(ctx context.Context, c *client.Client, deployment, spec string, change any) error {
	body, err := json.Marshal(change)
	if err != nil {
		return fmt.Errorf("deployment: %w", err)
	}
	_, err = c.Answer(ctx, client.Request{Method: http.MethodPatch, Path: deploymentsPath + "/" + deployment + "/gpu-specifications/" + spec, Body: body})
	return err
}

// replaceDeployment writes what only the older full update can change: the requests that an instance takes at once.
func replaceDeployment(ctx context.Context, c *client.Client, d deployments.Deployment) error {
	body, err := specifications(d.Specifications...)
	if err != nil {
		return err
	}
	_, err = c.Answer(ctx, client.Request{Method: http.MethodPut, Path: deploymentPath(functions.Function{ID: d.FunctionID, VersionID: d.VersionID}), Body: body})
	return err
}

// specifications is the body of a deployment.
func specifications(list ...deployments.Specification) ([]byte, error) {
	body, err := json.Marshal(map[string][]deployments.Specification{"deploymentSpecifications": list})
	if err != nil {
		return nil, fmt.Errorf("deployment: %w", err)
	}
	return body, nil
}

// writeDeployments prints a line for each GPU specification.
func writeDeployments(w io.Writer, list ...deployments.Deployment) error {
	var rows [][]string
	for _, d := range list {
		for _, spec := range d.Specifications {
			rows = append(rows, []string{d.FunctionName, string(d.FunctionStatus), d.FunctionID, d.VersionID, d.ID, specification(spec)})
		}
	}
	return writeTable(w, []string{"NAME", "STATUS", "FUNCTION", "VERSION", "DEPLOYMENT", "RUNS ON"}, rows)
}
