package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

func newFunction(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "function", Aliases: []string{"fn"}, Short: "Functions: create, deploy, invoke",
		Long: "A function is named by its id, or by its name where only one function has it.",
	}
	cmd.AddCommand(newFunctionCreate(s), newFunctionList(s), newFunctionGet(s), newDeploy(s), newUndeploy(s), newInvoke(s), newFunctionUpdate(s),
		newShare(s), newUnshare(s), newQueue(s), newFunctionDelete(s))
	return cmd
}

func newFunctionCreate(s *session) *cobra.Command {
	var file, of, image, inferenceURL, healthURI, args, description string
	var port int
	var env, secrets, tags []string
	var telemetry functions.Telemetries
	cmd := &cobra.Command{
		Use: "create [NAME]", Short: "Create a function, or with --version-of a version of one",
		Example: `  sirocco function create echo --image demo/echo:1 --inference-url /echo --port 8000 --health-uri /health
  sirocco function create echo --version-of echo -f echo.json --env LEVEL=debug`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("unexpected argument %q", args[1])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, names []string) error {
			body, err := s.readObject(file)
			if err != nil {
				return err
			}
			set := func(member string, value any, given bool) {
				if given {
					body[member] = value
				}
			}
			if len(names) > 0 {
				body["name"] = names[0]
			}
			given := cmd.Flags().Changed
			set("containerImage", image, given("image"))
			set("inferenceUrl", inferenceURL, given("inference-url"))
			set("inferencePort", port, given("port"))
			set("healthUri", healthURI, given("health-uri"))
			set("containerArgs", args, given("args"))
			set("description", description, given("description"))
			set("tags", tags, given("tag"))
			set("telemetries", telemetry, telemetry != functions.Telemetries{})
			variables, err := pairs(env, "--env")
			if err != nil {
				return &usage{command: cmd.CommandPath(), err: err}
			}
			set("containerEnvironment", variables.environment(), given("env"))
			hidden, err := s.secrets(secrets)
			if err != nil {
				return &usage{command: cmd.CommandPath(), err: err}
			}
			set("secrets", hidden, given("secret"))
			if body["name"] == nil {
				return &usage{command: cmd.CommandPath(), err: errors.New("missing NAME")}
			}
			return s.createFunction(cmd.Context(), of, body)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&file, "file", "f", "", "JSON file with the API's members (- for standard input); flags win over it")
	flags.StringVar(&of, "version-of", "", "the function, by id or name, to make a new version of")
	flags.StringVar(&image, "image", "", "container image")
	flags.StringVar(&inferenceURL, "inference-url", "", "path that invocations go to, or /grpc")
	flags.IntVar(&port, "port", 0, "port that the container listens on (default 8000)")
	flags.StringVar(&healthURI, "health-uri", "", "path that answers 200 when the container is ready (default /v2/health/ready)")
	flags.StringVar(&args, "args", "", "arguments of the container, as in a shell")
	flags.StringVar(&description, "description", "", "what the function does")
	flags.StringArrayVar(&env, "env", nil, "NAME=VALUE of the container's environment; repeat for several")
	flags.StringArrayVar(&secrets, "secret", nil, "NAME=VALUE, or NAME=@FILE (@- for standard input) to keep it out of the process list; repeat for several")
	flags.StringSliceVar(&tags, "tag", nil, "tag; repeat for several")
	flags.StringVar(&telemetry.Logs, "logs-telemetry", "", "id of the telemetry endpoint for logs")
	flags.StringVar(&telemetry.Metrics, "metrics-telemetry", "", "id of the telemetry endpoint for metrics")
	flags.StringVar(&telemetry.Traces, "traces-telemetry", "", "id of the telemetry endpoint for traces")
	_ = cmd.RegisterFlagCompletionFunc("version-of", s.completeFunctions)
	return cmd
}

func (s *session) createFunction(ctx context.Context, of string, body map[string]any) error {
	c, err := s.connect()
	if err != nil {
		return err
	}
	path := functionsPath
	if of != "" {
		id, err := functionID(ctx, c, of)
		if err != nil {
			return err
		}
		path += "/" + id + "/versions"
	}
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("function: %w", err)
	}
	answer, raw, err := ask[functions.FunctionResponse](ctx, c, client.Request{Method: http.MethodPost, Path: path, Body: b})
	if err != nil {
		return err
	}
	if s.output == formatTable {
		fmt.Fprintf(s.err, "created; next: sirocco function deploy %s --version %s\n", answer.Function.ID, answer.Function.VersionID)
	}
	return s.show(raw, func(w io.Writer) error { return writeFunctions(w, []functions.Function{answer.Function}) })
}

// readObject reads a JSON object from a file, standard input, the version to take after, or nothing. Its members stay as they were written.
func (s *session) readObject(file string) (map[string]any, error) {
	object := map[string]any{}
	var b []byte
	var err error
	switch {
	case file != "":
		b, err = s.readFile(file)
	case s.like != nil:
		b, err = json.Marshal(s.like)
	default:
		return object, nil
	}
	if err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return nil, next(fmt.Errorf("%s does not hold a JSON object: %w", file, err), "write it as the body of POST %s", functionsPath)
	}
	for name, value := range members {
		object[name] = value
	}
	return object, nil
}

func (s *session) readFile(name string) ([]byte, error) {
	if name == "-" {
		b, err := io.ReadAll(s.in)
		if err != nil {
			return nil, fmt.Errorf("standard input: %w", err)
		}
		return b, nil
	}
	return os.ReadFile(name)
}

// assignment is one NAME=VALUE.
type assignment struct{ name, value string }

type assignments []assignment

func pairs(list []string, flag string) (assignments, error) {
	var as assignments
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			// The text may be a secret, so it is not repeated.
			return nil, fmt.Errorf("%s must be NAME=VALUE", flag)
		}
		as = append(as, assignment{name, value})
	}
	return as, nil
}

func (as assignments) environment() []functions.EnvironmentEntry {
	var list []functions.EnvironmentEntry
	for _, a := range as {
		list = append(list, functions.EnvironmentEntry{Key: a.name, Value: a.value})
	}
	return list
}

// secrets reads the values of --secret; one that starts with @ names a file whose last line end is no part of it.
func (s *session) secrets(list []string) ([]functions.Secret, error) {
	as, err := pairs(list, "--secret")
	if err != nil {
		return nil, err
	}
	var secrets []functions.Secret
	for _, a := range as {
		value := a.value
		if file, ok := strings.CutPrefix(value, "@"); ok {
			b, err := s.readFile(file)
			if err != nil {
				return nil, fmt.Errorf("--secret %s: %w", a.name, err)
			}
			value = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
		}
		text, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("--secret %s: %w", a.name, err)
		}
		secrets = append(secrets, functions.Secret{Name: a.name, Value: text})
	}
	return secrets, nil
}

func newFunctionList(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "list [FUNCTION]", Short: "List functions with their versions", ValidArgsFunction: s.completeFunctions,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("unexpected argument %q", args[1])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			path := functionsPath
			if len(args) > 0 {
				id, err := functionID(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				path += "/" + id + "/versions"
			}
			list, raw, err := ask[functions.ListResponse](cmd.Context(), c, client.Request{Method: http.MethodGet, Path: path})
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error {
				slices.SortStableFunc(list.Functions, func(a, b functions.Function) int {
					if byName := strings.Compare(a.Name, b.Name); byName != 0 {
						return byName
					}
					return b.CreatedAt.Compare(a.CreatedAt)
				})
				return writeFunctions(w, list.Functions)
			})
		},
	}
}

func writeFunctions(w io.Writer, list []functions.Function) error {
	var rows [][]string
	for _, f := range list {
		what := f.ContainerImage
		if what == "" {
			what = f.HelmChart
		}
		rows = append(rows, []string{f.Name, string(f.Status), f.ID, f.VersionID, orDash(what), shown(f.CreatedAt)})
	}
	return writeTable(w, []string{"NAME", "STATUS", "ID", "VERSION", "IMAGE", "CREATED"}, rows)
}

func newFunctionGet(s *session) *cobra.Command {
	var version string
	cmd := &cobra.Command{
		Use: "show FUNCTION", Aliases: []string{"get"}, Short: "Show one version, its deployment and its instances", Args: arguments("FUNCTION"), ValidArgsFunction: s.completeFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, f, err := s.version(cmd.Context(), args[0], version, anyStatus)
			if err != nil {
				return err
			}
			answer, raw, err := ask[functions.FunctionResponse](cmd.Context(), c, client.Request{Method: http.MethodGet, Path: versionPath(f)})
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error { return writeVersion(cmd.Context(), w, c, answer.Function) })
		},
	}
	cmd.Flags().StringVar(&version, "version", "", "version id (default: the newest)")
	return cmd
}

func writeVersion(ctx context.Context, w io.Writer, c *client.Client, f functions.Function) error {
	rows := [][]string{
		{"Name", f.Name},
		{"Status", string(f.Status)},
		{"Function", f.ID},
		{"Version", f.VersionID},
		{"Image", orDash(f.ContainerImage)},
		{"Inference URL", f.InferenceURL},
	}
	if f.Health != nil {
		rows = append(rows, []string{"Health", fmt.Sprintf("%s port %d %s expects %d within %s", f.Health.Protocol, f.Health.Port, f.Health.URI, f.Health.ExpectedStatusCode, f.Health.Timeout)})
	}
	rows = append(rows, []string{"Description", orDash(f.Description)}, []string{"Tags", orDash(strings.Join(f.Tags, ", "))},
		[]string{"Secrets", orDash(strings.Join(f.Secrets, ", "))}, []string{"Created", shown(f.CreatedAt)})
	live := f.ActiveInstances
	if f.Status != functions.Inactive {
		d, err := deploymentOf(ctx, c, f)
		if err != nil {
			// The version was read; that its deployment is gone meanwhile, or hidden from this credential, is worth a line.
			rows = append(rows, []string{"Deployment", err.Error()})
		} else {
			rows = append(rows, deploymentRows(d)...)
			live = d.Instances
		}
	}
	if err := writeTable(w, nil, rows); err != nil {
		return err
	}
	return writeInstances(w, live)
}

func deploymentOf(ctx context.Context, c *client.Client, f functions.Function) (deployments.Deployment, error) {
	answer, _, err := ask[deployments.Response](ctx, c, client.Request{Method: http.MethodGet, Path: deploymentPath(f)})
	return answer.Deployment, err
}

func deploymentRows(d deployments.Deployment) [][]string {
	rows := [][]string{{"Deployment", d.ID}}
	for _, spec := range d.Specifications {
		rows = append(rows, []string{"Runs on", specification(spec)})
	}
	if d.Reason != nil && d.Reason.Message != "" {
		rows = append(rows, []string{"Reason", d.Reason.Message})
	}
	for _, h := range d.HealthInfo {
		rows = append(rows, []string{"Trouble", h.Error})
		for _, line := range h.Logs {
			rows = append(rows, []string{"", "| " + line})
		}
	}
	if d.Reason != nil && d.Reason.Action != "" {
		rows = append(rows, []string{"Next", d.Reason.Action})
	}
	return rows
}

func specification(spec deployments.Specification) string {
	number := func(n *int) string {
		if n == nil {
			return "?"
		}
		return fmt.Sprint(*n)
	}
	return fmt.Sprintf("%s %s, %s to %s instances, %s requests at once",
		spec.GPU, spec.InstanceType, number(spec.MinInstances), number(spec.MaxInstances), number(spec.MaxRequestConcurrency))
}

func writeInstances(w io.Writer, live []instances.Brief) error {
	if len(live) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, i := range live {
		since := "-"
		if i.UpdatedAt != nil {
			since = shown(*i.UpdatedAt)
		}
		rows = append(rows, []string{i.InstanceID, i.InstanceStatus, i.GPU, i.InstanceType, orDash(orDefault(i.ClusterName, i.Location)), since, i.LastError})
	}
	return writeTable(w, []string{"INSTANCE", "STATUS", "GPU", "TYPE", "CLUSTER", "SINCE", "LAST ERROR"}, rows)
}

func newFunctionDelete(s *session) *cobra.Command {
	var version string
	cmd := &cobra.Command{
		Use: "delete FUNCTION", Short: "Delete a function with all its versions, or one version; what is deployed is torn down",
		Args: arguments("FUNCTION"), ValidArgsFunction: s.completeFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			versions, err := versionsOf(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if version != "" {
				f, err := oneVersion(cmd.Context(), c, args[0], version, anyStatus)
				if err != nil {
					return err
				}
				versions = []functions.Function{f}
			}
			for _, f := range versions {
				if _, err := c.Answer(cmd.Context(), client.Request{Method: http.MethodDelete, Path: versionPath(f)}); err != nil {
					return fmt.Errorf("version %s: %w", f.VersionID, err)
				}
				if s.output == formatTable {
					fmt.Fprintln(s.out, "deleted", printable(label(f)))
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&version, "version", "", "delete this version only")
	return cmd
}
