package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// terraform is the unmodified program with the unmodified NGC provider, in a folder of its own.
type terraform struct {
	t       *testing.T
	program string
	dir     string
	env     []string
}

func (tf terraform) run(args ...string) (string, error) {
	tf.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tf.program, append(args, "-no-color")...)
	cmd.Dir, cmd.Env = tf.dir, tf.env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func (tf terraform) does(says string, args ...string) string {
	tf.t.Helper()
	out, err := tf.run(args...)
	require.NoError(tf.t, err, "terraform %s\n%s", strings.Join(args, " "), out)
	require.Contains(tf.t, out, says)
	return out
}

// apply writes the configuration, applies it, and finds that a second plan is empty.
func (tf terraform) apply(configuration, says string) {
	tf.t.Helper()
	require.NoError(tf.t, os.WriteFile(filepath.Join(tf.dir, "main.tf"), []byte(configuration), 0o600))
	tf.does(says, "apply", "-auto-approve")
	tf.does("No changes.", "plan")
}

const providerSource = `terraform {
  required_providers {
    ngc = { source = "nvidia/ngc" }
  }
}
provider "ngc" {}
`

// functionResource is a resource with a second version and, when there is one, a deployment.
func functionResource(tags, deployment, more string) string {
	return providerSource + fmt.Sprintf(`
resource "ngc_cloud_function" "f" {
  function_name   = "terraformed"
  container_image = "e2e/terraformed:1"
  container_args  = "serve --fast"
  inference_port  = 8000
  inference_url   = "/echo"
  health = { uri = "/health", port = 8000, expected_status_code = 200, timeout = "PT60S", protocol = "HTTP" }
  container_environment = [{ key = "A", value = "1" }, { key = "B", value = "two words" }]
  secrets = [{ name = "HF", value = "hush of terraform" }]
  tags    = %s
  %s
  timeouts = { create = "3m", update = "3m" }
}
resource "ngc_cloud_function" "second" {
  function_name   = "terraformed"
  function_id     = ngc_cloud_function.f.id
  container_image = "e2e/terraformed:2"
  inference_port  = 8000
  inference_url   = "/echo"
}
resource "ngc_cloud_function_telemetry" "t" {
  endpoint           = "https://otlp.example.net/otlp"
  protocol           = "HTTP"
  telemetry_provider = "GRAFANA_CLOUD"
  types              = ["LOGS", "METRICS"]
  secret             = { name = "grafana-key", value = "hush of the sink" }
}
%s`, tags, deployment, more)
}

func specification(least, most int) string {
	return fmt.Sprintf(`deployment_specifications = [{ gpu_type = "H100", instance_type = "NCP.GPU.H100_1x",
    min_instances = %d, max_instances = %d, max_request_concurrency = 2 }]`, least, most)
}

// TestTerraform takes the public NGC provider through apply, an empty plan, changes, clearing, sharing, import and
// destroy, through the organisation-prefixed paths with and without a team.
func TestTerraform(t *testing.T) {
	program, provider := os.Getenv("TERRAFORM"), os.Getenv("TERRAFORM_PROVIDER_NGC")
	if program == "" || provider == "" {
		t.Skip("TERRAFORM names no terraform, or TERRAFORM_PROVIDER_NGC no folder with terraform-provider-ngc")
	}
	p := up(t, []string{"--no-sample"}, "SIROCCO_DRIVERS=sim", "SIROCCO_GPUS=H100:8", "SIROCCO_ADMIN_EXTRA_SCOPES=account_setup")
	admin := p.administrator(t)
	admin.must("POST", "/v2/nvcf/accounts/another-team", nil, body(map[string]string{"name": "another-team"}))
	holder, _ := admin.key([]string{
		"register_function", "list_functions", "list_functions_details", "deploy_function", "update_function", "delete_function",
		"authorize_clients", "manage_telemetries",
	}, resource{"account-functions", "*"}, resource{"*", "*"})

	for _, team := range []string{"my-team", ""} {
		t.Run("team "+team, func(t *testing.T) {
			dir := t.TempDir()
			settings := filepath.Join(dir, "terraformrc")
			require.NoError(t, os.WriteFile(settings, []byte(fmt.Sprintf("provider_installation {\n  dev_overrides { \"nvidia/ngc\" = %q }\n  direct {}\n}\n", provider)), 0o600))
			tf := terraform{t: t, program: program, dir: dir, env: []string{
				"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "TF_CLI_CONFIG_FILE=" + settings, "CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1",
				"NGC_ENDPOINT=" + p.URL, "NGC_API_KEY=" + holder.credential, "NGC_ORG=my-org", "NGC_TEAM=" + team,
			}}
			tf.apply(functionResource(`["a", "b:c"]`, specification(1, 2), ""), "3 added")
			tf.apply(functionResource(`["z"]`, specification(2, 4), ""), "1 changed")
			tf.apply(functionResource(`[]`, specification(2, 4), ""), "1 changed")
			tf.apply(functionResource(`["shared"]`, specification(2, 4)+"\n  authorized_parties = [{ nca_id = \"another-team\" }]", ""), "1 changed")
			tf.apply(functionResource(`["shared"]`, specification(2, 4), ""), "1 changed")

			var id, version string
			for line := range strings.Lines(tf.does("version_id", "state", "show", "ngc_cloud_function.f")) {
				name, value, _ := strings.Cut(line, "=")
				switch strings.TrimSpace(name) {
				case "id":
					id = strings.Trim(strings.TrimSpace(value), `"`)
				case "version_id":
					version = strings.Trim(strings.TrimSpace(value), `"`)
				}
			}
			out, err := tf.run("state", "rm", "ngc_cloud_function.f")
			require.NoError(t, err, out)
			tf.does("Import successful!", "import", "ngc_cloud_function.f", id+","+version)
			tf.does("1 to change, 0 to destroy", "plan") // what only the configuration knows: secrets and time-outs
			tf.does("3 destroyed", "destroy", "-auto-approve")
			var left struct{ Functions []any }
			holder.must("GET", "/v2/nvcf/functions", &left)
			require.Empty(t, left.Functions)
		})
	}
}
