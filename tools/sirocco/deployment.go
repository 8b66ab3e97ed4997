package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
			given := cmd.Flags().Changed
			change := map[string]any{}
			if given("min") {
				change["minInstances"] = least
			}
			if given("max") {
				change["maxInstances"] = most
			}
			if given("autoscaling") {
				change["autoscalingConfigurationPolicy"] = "PLATFORM_CONFIGURATION"
				if autoscaling != "platform" {
					settings, err := s.objectOf(autoscaling)
					if err != nil {
						return &usage{command: cmd.CommandPath(), err: fmt.Errorf("--autoscaling %w", err)}
					}
					change["autoscalingConfiguration"], change["autoscalingConfigurationPolicy"] = settings, "CUSTOM_CONFIGURATION"
				}
			}
			if len(change) == 0 && !given("concurrency") {
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
			if given("concurrency") {
				d.Specifications[i].MaxRequestConcurrency = &concurrency
				if given("min") {
					d.Specifications[i].MinInstances = &least
				}
				if given("max") {
					d.Specifications[i].MaxInstances = &most
				}
				delete(change, "minInstances")
				delete(change, "maxInstances")
				if err := replaceDeployment(ctx, c, d); err != nil {
					return err
				}
			}
			if len(change) > 0 {
				if err := patchSpecification(ctx, c, d.ID, d.Specifications[i].ID, change); err != nil {
					return err
				}
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
	body, err := json.Marshal(map[string][]deployments.Specification{"deploymentSpecifications": d.Specifications})
	if err != nil {
		return fmt.Errorf("deployment: %w", err)
	}
	_, err = c.Answer(ctx, client.Request{Method: http.MethodPut, Path: deploymentPath(functions.Function{ID: d.FunctionID, VersionID: d.VersionID}), Body: body})
	return err
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
