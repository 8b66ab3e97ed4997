package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sirocco runs the CLI in a home of its own.
func sirocco(t *testing.T, url, home string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "sirocco"), args...)
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "SIROCCO_URL=" + url, "USER=tester"}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestCLI walks through the README with the sirocco command.
func TestCLI(t *testing.T) {
	p := common(t)
	home := t.TempDir()
	does := func(args ...string) string {
		t.Helper()
		out, errs, code := sirocco(t, p.URL, home, args...)
		require.Zero(t, code, "sirocco %q\n%s%s", args, out, errs)
		return out
	}
	require.Contains(t, does("status"), "ready")
	self, err := os.Executable()
	require.NoError(t, err)
	does("image", "add", "e2e/cli:1", "--", self, containerRole)
	require.Contains(t, does("image", "list"), "e2e/cli:1")
	does("function", "create", "from-cli", "--image", "e2e/cli:1", "--inference-url", "/echo", "--health-uri", "/health")
	does("function", "deploy", "from-cli", "--min", "1", "--max", "2")
	require.Contains(t, does("function", "list"), "from-cli")
	require.Contains(t, does("function", "get", "from-cli"), "ACTIVE")
	require.Contains(t, does("function", "invoke", "from-cli", "-d", `{"message":"hello ","repeats":3}`), "hello hello hello ")
	require.Contains(t, does("cluster", "list"), "local")
	var list struct {
		Functions []details `json:"functions"`
	}
	require.NoError(t, json.Unmarshal([]byte(does("function", "list", "-o", "json")), &list))
	id := ""
	for _, f := range list.Functions {
		if f.Name == "from-cli" {
			id = f.ID
		}
	}
	require.NotEmpty(t, id)
	require.Contains(t, does("events", "replay", "--entity", id), "created")
	does("function", "undeploy", "from-cli")
	does("function", "delete", "from-cli")
	does("image", "remove", "e2e/cli:1")

	_, errs, code := sirocco(t, p.URL, home, "function", "get", "from-cli")
	require.Equal(t, 5, code, "not found")
	require.NotEmpty(t, errs)
	_, errs, code = sirocco(t, "http://127.0.0.1:1", home, "status")
	require.Equal(t, 3, code, "unreachable")
	require.Contains(t, errs, "sirocco up", "what to do next")
	_, _, code = sirocco(t, p.URL, home, "function", "dance")
	require.Equal(t, 2, code, "wrong usage")
}

// cli runs the sirocco command in a home of its own, and says what was typed when a line fails.
type cli struct {
	t         *testing.T
	url, home string
}

func newCLI(t *testing.T) cli {
	t.Helper()
	return cli{t: t, url: common(t).URL, home: t.TempDir()}
}

func (c cli) does(args ...string) string {
	c.t.Helper()
	out, errs, code := sirocco(c.t, c.url, c.home, args...)
	require.Zero(c.t, code, "sirocco %q\n%s%s", args, out, errs)
	return out
}

// fails returns what a person reads when a line does not work.
func (c cli) fails(code int, args ...string) string {
	c.t.Helper()
	out, errs, got := sirocco(c.t, c.url, c.home, args...)
	require.Equal(c.t, code, got, "sirocco %q\n%s%s", args, out, errs)
	require.Contains(c.t, errs, "next: ", "sirocco %q", args)
	return errs
}

// file writes a file in the home and returns its path.
func (c cli) file(name, content string) string {
	c.t.Helper()
	path := filepath.Join(c.home, name)
	require.NoError(c.t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// TestCLIKeys is a key's whole life.
func TestCLIKeys(t *testing.T) {
	c := newCLI(t)
	const owner = "--owner=cli-keys@corp.example"
	value := remember(strings.TrimSpace(c.does("key", "create", owner, "--scope", "list_functions", "--all-functions", "--description", "cli keys")))
	require.True(t, strings.HasPrefix(value, "nvapi-"), "the value alone is on standard output")
	var list struct {
		Keys []struct {
			ID    string `json:"id"`
			Value string `json:"value"`
		} `json:"keys"`
	}
	require.NoError(t, json.Unmarshal([]byte(c.does("key", "list", owner, "-o", "json")), &list))
	require.Len(t, list.Keys, 1)
	require.NotEqual(t, value, list.Keys[0].Value)
	id := list.Keys[0].ID
	require.Contains(t, c.does("key", "show", owner, id), "all functions")

	key := c.file("key", value)
	require.Contains(t, c.does("key", "explain", "--key", "@"+key, "--path", "/v2/nvcf/functions"), "yes")
	says := c.fails(4, "key", "explain", "--key", "@"+key, "--method", "POST", "--path", "/v2/nvcf/functions")
	require.Contains(t, says, "--scope register_function")
	require.NotContains(t, says, value)

	require.Contains(t, c.does("key", "update", owner, id, "--rate", "50", "--cidr", "127.0.0.0/8"), "127.0.0.0/8")
	c.does("key", "suspend", owner, id)
	require.Contains(t, c.does("key", "list", owner), "SUSPENDED")
	c.does("key", "activate", owner, id)
	next := remember(strings.TrimSpace(c.does("key", "rotate", owner, id, "--grace", "1h")))
	require.NotEqual(t, value, next)
	require.Contains(t, c.does("key", "list", owner), "cli keys")
	c.does("key", "revoke", owner, id)
	c.fails(5, "key", "revoke", owner, id)
	c.fails(5, "key", "show", owner, "no-such-key")
	c.fails(2, "key", "update", owner, id)

	task := remember(strings.TrimSpace(c.does("key", "create", owner, "--for", "task", "--description", "cli tasks")))
	require.True(t, strings.HasPrefix(task, "nvapi-"))
	require.Contains(t, c.does("key", "list", owner), "cli tasks", "keys of both kinds are listed")
	require.Contains(t, c.does("whoami"), "minted by this command")
}

// TestCLIApply takes one function from nothing through every kind of change.
func TestCLIApply(t *testing.T) {
	c := newCLI(t)
	self, err := os.Executable()
	require.NoError(t, err)
	c.does("image", "add", "e2e/apply:1", "--", self, containerRole)
	secret := remember("s3cr3t-of-apply-5b1f")
	c.file("token", secret+"\n")
	document := func(tag, most, environment string) string {
		return c.file("apply.yaml", `
name: from-apply
containerImage: e2e/apply:1
inferenceUrl: /echo
healthUri: /health
tags: [`+tag+`]
secrets: [{name: TOKEN, file: token}]
containerEnvironment: [{key: LEVEL, value: "`+environment+`"}]
deploymentSpecifications:
  - {gpu: H100, instanceType: NCP.GPU.H100_1x, minInstances: 1, maxInstances: `+most+`, maxRequestConcurrency: 4}
`)
	}
	file := document("one", "2", "1")
	require.Contains(t, c.does("apply", "-f", file, "--dry-run"), "would create function from-apply")
	require.NotContains(t, c.does("function", "list"), "from-apply", "a dry run does nothing")
	require.Contains(t, c.does("apply", "-f", file, "--wait"), "from-apply: ACTIVE")
	require.Equal(t, "from-apply: unchanged\n", c.does("apply", "-f", file))
	require.Contains(t, c.does("function", "invoke", "from-apply", "-d", `{"message":"applied ","repeats":2}`), "applied applied ")

	document("two", "3", "1")
	out := c.does("apply", "-f", file)
	require.Contains(t, out, "update tags")
	require.Contains(t, out, "maxInstances 2 -> 3")
	require.Equal(t, "from-apply: unchanged\n", c.does("apply", "-f", file))

	document("two", "3", "2")
	out = c.does("apply", "-f", file)
	require.Contains(t, out, "containerEnvironment changed")
	require.Contains(t, out, "undeploy version")
	require.Equal(t, "from-apply: unchanged\n", c.does("apply", "-f", file))
	require.Equal(t, 2, strings.Count(c.does("version", "list", "from-apply"), "from-apply"))

	document("two", "3", "1")
	out = c.does("apply", "-f", file)
	require.NotContains(t, out, "create", "the older version is what the file wants")
	require.Contains(t, out, "undeploy version")
	require.NotContains(t, c.does("function", "show", "from-apply")+out, secret)

	require.Contains(t, c.fails(1, "apply", "-f", c.file("wrong.yaml", "name: x\nimage: y\n")), `member "image" is not known`)
	c.does("function", "delete", "from-apply")
	c.does("image", "remove", "e2e/apply:1")
}

// TestCLIExplain says why something is not ready, for each way to name it.
func TestCLIExplain(t *testing.T) {
	c := newCLI(t)
	self, err := os.Executable()
	require.NoError(t, err)
	c.does("image", "add", "e2e/explain:1", "--", self, containerRole)
	c.does("function", "create", "to-explain", "--image", "e2e/explain:1", "--inference-url", "/echo", "--health-uri", "/health")
	require.Contains(t, c.does("explain", "to-explain"), "not_deployed")
	// More at once than there are.
	c.does("deployment", "create", "to-explain", "--gpu", "H100", "--instance-type", "NCP.GPU.H100_16x", "--min", "2", "--max", "2", "--wait=false")
	var answer struct {
		Deployments []struct {
			ID      string `json:"deploymentId"`
			Name    string `json:"functionName"`
			Version string `json:"functionVersionId"`
		} `json:"deployments"`
	}
	require.NoError(t, json.Unmarshal([]byte(c.does("deployment", "list", "-o", "json")), &answer))
	refs := []string{"to-explain"}
	for _, d := range answer.Deployments {
		if d.Name == "to-explain" {
			refs = append(refs, d.ID, d.Version)
		}
	}
	require.Len(t, refs, 3)
	for _, ref := range refs {
		soon(t, 30*time.Second, "the reason is told", func() bool {
			text := c.does("explain", ref)
			return strings.Contains(text, "not ready") && strings.Contains(text, "H100") && strings.Contains(text, "Reason") && strings.Contains(text, "Next")
		}, func() string { return c.does("explain", ref) })
	}
	require.Contains(t, c.does("deployment", "show", "to-explain"), "DEPLOYING")
	require.Contains(t, c.does("deployment", "update", "to-explain", "--min", "0"), "0 to 2 instances")
	c.does("deployment", "remove", "to-explain")
	c.fails(5, "explain", "no-such-thing")
	c.does("function", "delete", "to-explain")
	c.does("image", "remove", "e2e/explain:1")
}

// TestCLIResources is what functions lean on: secrets, telemetry, registries, assets, sharing, accounts, capacity.
func TestCLIResources(t *testing.T) {
	c := newCLI(t)
	secret := remember("s3cr3t-of-resources-77aa")
	value := c.file("value", secret+"\n")
	c.does("function", "create", "with-things", "--image", "docker.io/e2e/things:1", "--inference-url", "/", "--health-uri", "/health")
	c.does("secret", "set", "with-things", "HF_TOKEN", "--from-file", value)
	require.Contains(t, c.does("secret", "list", "with-things"), "HF_TOKEN")
	c.does("secret", "unset", "with-things", "HF_TOKEN")
	require.NotContains(t, c.does("secret", "list", "with-things"), "HF_TOKEN")
	require.Contains(t, c.does("function", "share", "with-things"), "nobody")
	c.does("function", "update", "with-things", "--tag", "stable", "--description", "changed", "--rate-limit", "100-S")
	require.Contains(t, c.does("function", "show", "with-things"), "stable")
	c.does("function", "update", "with-things", "--rate-limit", "none")
	require.Contains(t, c.does("version", "create", "with-things", "--env", "A=1"), "INACTIVE")

	c.does("telemetry", "create", "https://otlp.example.net", "--provider", "OTEL_COLLECTOR", "--type", "logs,metrics", "--secret", "cli-sink=@"+value)
	var sinks struct {
		Telemetries []struct {
			ID   string `json:"telemetryId"`
			Name string `json:"name"`
		} `json:"telemetries"`
	}
	require.NoError(t, json.Unmarshal([]byte(c.does("telemetry", "list", "-o", "json")), &sinks))
	for _, sink := range sinks.Telemetries {
		if sink.Name == "cli-sink" {
			require.Contains(t, c.does("telemetry", "show", sink.ID), "LOGS, METRICS")
			c.does("telemetry", "set-secret", sink.ID, "--secret", "cli-sink=@"+value)
			c.does("telemetry", "delete", sink.ID)
			c.fails(5, "telemetry", "show", sink.ID)
		}
	}
	require.Contains(t, c.fails(2, "telemetry", "create", "x", "--provider", "SPLUNK", "--type", "LOGS", "--secret", "a="+secret), "NAME=@FILE")
	require.Contains(t, c.does("registry", "hosts"), "nvcr.io")

	asset := strings.TrimSpace(c.does("asset", "upload", value, "--type", "text/plain"))
	require.Contains(t, c.does("asset", "list"), asset)
	require.Equal(t, secret+"\n", c.does("asset", "download", asset))
	copied := filepath.Join(c.home, "copy")
	c.does("asset", "download", asset, "-f", copied)
	content, err := os.ReadFile(copied)
	require.NoError(t, err)
	require.Equal(t, secret+"\n", string(content))
	c.does("asset", "delete", asset)

	require.Contains(t, c.does("account", "list"), "nvcf-default")
	require.Contains(t, c.does("account", "show", "nvcf-default"), "ncp")
	require.Contains(t, c.does("cluster", "groups"), "local")
	require.Contains(t, c.does("cluster", "gpus"), "H100")
	require.Contains(t, c.does("cluster", "capacity"), "NCP.GPU.H100_1x")
	require.Contains(t, c.does("quota"), "RULE")
	soon(t, 30*time.Second, "decisions are recorded", func() bool { return strings.Contains(c.does("audit", "keys", "--limit", "20"), "allow") })
	c.does("function", "delete", "with-things")
}

// TestCLILogin signs in as a person and as an application, on a platform with an administrator of its own.
func TestCLILogin(t *testing.T) {
	const password = "cli-e2e-Passw0rd"
	remember(password)
	p := up(t, []string{"--no-sample"}, "SIROCCO_ADMIN_USER=root@corp.example", "SIROCCO_ADMIN_PASSWORD="+password)
	c := cli{t: t, url: p.URL, home: t.TempDir()}
	require.Contains(t, c.fails(4, "user", "list"), "sirocco login")
	c.fails(1, "login", "root@corp.example", "--password-file", c.file("wrong", "nonsense\n"))
	c.does("login", "root@corp.example", "--password-file", c.file("right", password+"\n"))
	require.Contains(t, c.does("whoami"), "root@corp.example")

	first := remember(strings.TrimSpace(c.does("user", "create", "ops@corp.example")))
	c.does("rule", "create", "ops@corp.example", "--role", "6")
	require.Contains(t, c.does("rule", "list"), "Viewer")
	secret := remember(strings.TrimSpace(c.does("app", "create", "ci-deployer")))
	c.does("account", "create", "team-vision", "--name", "team-vision")
	c.does("function", "create", "shared", "--image", "docker.io/e2e/shared:1", "--inference-url", "/", "--health-uri", "/health")
	require.Contains(t, c.does("function", "share", "shared", "team-vision"), "team-vision")
	require.Contains(t, c.does("function", "unshare", "shared", "--all"), "nobody")
	require.Contains(t, c.does("admin", "signing-keys"), "current")

	ops := cli{t: t, url: p.URL, home: t.TempDir()}
	ops.does("login", "ops@corp.example", "--password-file", ops.file("pw", first+"\n"))
	require.Contains(t, ops.does("function", "list"), "shared", "a viewer sees")
	ops.fails(4, "function", "delete", "shared")
	ops.fails(4, "user", "list")

	program := cli{t: t, url: p.URL, home: t.TempDir()}
	program.does("login", "--app", "ci-deployer", "--password-file", program.file("pw", secret+"\n"))
	program.does("function", "list")
	var apps []struct {
		ID string `json:"id"`
	}
	require.NoError(t, json.Unmarshal([]byte(c.does("app", "list", "-o", "json")), &apps))
	require.Len(t, apps, 1)
	c.does("app", "disable", apps[0].ID)
	soon(t, 30*time.Second, "a disabled application is refused", func() bool {
		_, errs, code := sirocco(t, program.url, program.home, "function", "list")
		return code == 4 && strings.Contains(errs, "login")
	})
	c.does("logout")
	require.Contains(t, c.does("whoami"), "minted by this command")
	require.Contains(t, c.does("logout"), "nobody was signed in")
}
