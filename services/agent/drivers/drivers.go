// Package drivers is the one interface behind which a node runs instances:
// docker (any image through the Engine API), process (local commands from a
// catalogue) and sim (no process at all, thousands on a laptop).
//
// # Life of an instance
//
//	Prepare ─ the image is here ─► Start ─ Handle ─► Status · Wait · Logs · Transport ─► Stop ─► Remove
//
// The agent persists the [Handle] that Start returns and gives it back after a
// restart, possibly to a new driver value in a new process; every method works
// with such a handle. Restarting an agent therefore never touches an instance.
// Should the agent die between Start and the moment it persists the handle,
// [Driver.List] finds the instance again by the marks that Start put on it.
//
// A driver knows nothing of functions, deployments or the bus. It decides
// nothing either: it never restarts an instance and never gives up on one.
//
// All drivers pass the suite in driverstest.
package drivers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"
)

// Driver runs instances on this node. All methods may be called concurrently.
// Errors are [*Error] values where the kind matters to the caller.
type Driver interface {
	// Name is the word that operators use: docker, process or sim.
	Name() string

	// Check says why the driver cannot be used on this node, or nil.
	Check(ctx context.Context) error

	// Prepare makes the image of the spec available. It fails with
	// ErrImageNotFound, ErrUnauthorized or ErrRegistryUnreachable.
	Prepare(ctx context.Context, spec Spec) error

	// Start starts the instance. It is idempotent by instance id: for an id that
	// was started before and not yet removed it returns the handle of that
	// instance, running or not, and starts nothing.
	Start(ctx context.Context, spec Spec) (Handle, error)

	// Status is what the instance is doing now. An instance that the driver has
	// never seen, or that was removed, is ErrInstanceNotFound.
	Status(ctx context.Context, h Handle) (Status, error)

	// Wait blocks until the instance has ended or ctx has.
	Wait(ctx context.Context, h Handle) (Status, error)

	// Stop sends SIGTERM, waits for grace at most, then sends SIGKILL; to all
	// processes of the instance. Stopping what has ended is no error. When it
	// returns nil, nothing of the instance runs any more.
	Stop(ctx context.Context, h Handle, grace time.Duration) error

	// Logs returns the last lines that the instance wrote, oldest first.
	Logs(ctx context.Context, h Handle, lines int) ([]string, error)

	// List returns the instances of this agent id that exist on the node,
	// whether or not this agent remembers them. Their ports are current, so a
	// restarted agent should prefer these handles to the ones it persisted.
	List(ctx context.Context) ([]Handle, error)

	// Remove frees everything that the instance holds: what still runs, the
	// container, its directory. It is idempotent.
	Remove(ctx context.Context, h Handle) error

	// Transport says how to call the instance. A request names the port on the
	// container's side, such as http://127.0.0.1:8000/echo; the transport knows
	// where that port really is. Requests with ProtoMajor 2 are sent as HTTP/2
	// without TLS (gRPC), all others as HTTP/1.1. Each call makes a new
	// connection pool: keep the value for as long as the instance lives, then
	// call CloseIdleConnections.
	Transport(h Handle) Transport

	// Close ends the driver's own goroutines and connections. It touches no
	// instance.
	Close() error
}

// Transport calls one instance.
type Transport interface {
	http.RoundTripper
	CloseIdleConnections()
}

// Device is one GPU of an instance.
type Device struct {
	// UUID is the full form, GPU-… or MIG-….
	UUID string `json:"uuid"`
	// Simulated devices exist in the inventory only and are never requested
	// from an engine.
	Simulated bool `json:"simulated,omitempty"`
}

// RealDevices returns the uuids of the devices that exist in hardware.
func RealDevices(devices []Device) []string {
	var uuids []string
	for _, d := range devices {
		if !d.Simulated {
			uuids = append(uuids, d.UUID)
		}
	}
	return uuids
}

// Spec is everything a driver needs to start one instance.
type Spec struct {
	// InstanceID is the identity: one id is started once. It may hold letters,
	// digits, '-', '_' and '.'.
	InstanceID string
	Generation int64
	Image      string
	// Args replace the command of the image when there are any. They are split
	// already and passed without a shell.
	Args []string
	// Env holds KEY=VALUE in order; a later entry wins.
	Env []string
	// InferencePort and HealthPort are ports on the container's side; they are
	// often the same. HealthPort 0 means the inference port.
	InferencePort int
	HealthPort    int
	// HealthPath is the path of an HTTP health check; only sim needs it.
	HealthPath string
	Devices    []Device
	// CPUMilli, MemoryMiB and ShmMiB are limits; 0 sets none.
	CPUMilli  int64
	MemoryMiB int64
	ShmMiB    int64
	// Dir is the directory of the instance on the host: absolute, its last
	// element is the instance id, made by the caller, deleted by Remove. See
	// [Mounts] for what a driver gives the instance of it.
	Dir    string
	Labels map[string]string
	// RegistryAuth is used for pulling only; it is never stored or logged.
	RegistryAuth *RegistryAuth
}

// RegistryAuth is a user and a secret for one image registry.
type RegistryAuth struct {
	ServerAddress string
	Username      string
	Password      string
}

// String hides the secret from logs and error texts.
func (a RegistryAuth) String() string { return a.ServerAddress + " as " + a.Username }

// GoString hides the secret from %#v.
func (a RegistryAuth) GoString() string { return a.String() }

// Ports returns the distinct container ports of the spec.
func (s Spec) Ports() []int {
	ports := []int{s.InferencePort}
	if s.HealthPort != 0 && s.HealthPort != s.InferencePort {
		ports = append(ports, s.HealthPort)
	}
	return ports
}

// Validate names the first field that breaks a rule.
func (s Spec) Validate() error {
	bad := func(field, rule string) error {
		return &Error{Kind: ErrInvalidSpec, Instance: s.InstanceID, Detail: field + " " + rule}
	}
	switch {
	case !validID(s.InstanceID):
		return bad("instanceId", "must be 1 to 128 letters, digits, '-', '_' or '.', and start with a letter or digit")
	case s.Image == "":
		return bad("image", "must not be empty: nothing here serves models alone; create a version with a containerImage that does, such as a Triton server")
	case s.InferencePort < 1 || s.InferencePort > 65535:
		return bad("inferencePort", "must lie between 1 and 65535")
	case s.HealthPort < 0 || s.HealthPort > 65535:
		return bad("healthPort", "must lie between 1 and 65535")
	case !filepath.IsAbs(s.Dir) || filepath.Base(s.Dir) != s.InstanceID:
		return bad("dir", "must be an absolute path that ends in the instance id")
	}
	for _, kv := range s.Env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" || strings.ContainsRune(kv, 0) {
			return bad("env", "must hold KEY=VALUE without a NUL")
		}
	}
	for _, a := range s.Args {
		if strings.ContainsRune(a, 0) {
			return bad("args", "must not hold a NUL")
		}
	}
	return nil
}

func validID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i, c := range []byte(id) {
		alphanumeric := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alphanumeric && (i == 0 || c != '-' && c != '_' && c != '.') {
			return false
		}
	}
	return true
}

// Handle finds an instance again. It is plain data: the agent persists it.
type Handle struct {
	Driver     string `json:"driver"`
	InstanceID string `json:"instanceId"`
	Generation int64  `json:"generation,omitempty"`
	Image      string `json:"image,omitempty"`
	// Ref is the driver's own name of the instance: a container id, a process.
	Ref string `json:"ref"`
	// Ports maps each container port to the host:port to dial.
	Ports     map[int]string `json:"ports,omitempty"`
	StartedAt time.Time      `json:"startedAt"`
	Dir       string         `json:"dir,omitempty"`
}

// Status is what an instance is doing.
type Status struct {
	Running bool `json:"running"`
	// ExitCode is nil while the instance runs and when nobody could see it, for
	// example because a process ended while no agent was there. A process that
	// was killed by a signal has 128 plus its number.
	ExitCode *int `json:"exitCode,omitempty"`
	// OOM says that the instance hit its memory limit.
	OOM bool `json:"oom,omitempty"`
	// Reason is a sentence for people.
	Reason string `json:"reason,omitempty"`
}

// Mount is a sub-directory of [Spec.Dir] that an instance sees.
type Mount struct {
	// Sub is the name under Spec.Dir, Target the path inside a container.
	Sub, Target string
	ReadOnly    bool
	// Env is the variable by which the process driver, which cannot mount,
	// tells the path.
	Env string
}

// Mounts lists what an instance sees of its directory. A driver mounts those
// that exist when the instance starts.
var Mounts = []Mount{
	{Sub: "secrets", Target: "/var/secrets", ReadOnly: true, Env: "SIROCCO_SECRETS_DIR"},
	{Sub: "inf", Target: "/var/inf", Env: "SIROCCO_INF_DIR"},
	{Sub: "info", Target: "/var/run/nvcf/info", ReadOnly: true, Env: "SIROCCO_INFO_DIR"},
	{Sub: "models", Target: "/config/models", ReadOnly: true, Env: "SIROCCO_MODELS_DIR"},
	{Sub: "resources", Target: "/config/resources", ReadOnly: true, Env: "SIROCCO_RESOURCES_DIR"},
	{Sub: "shared", Target: "/config/shared", Env: "SIROCCO_SHARED_DIR"},
	{Sub: "results", Target: "/var/task/results", Env: "SIROCCO_RESULTS_DIR"},
}

// CheckRemovable guards the recursive delete of Remove: only a directory that
// carries the name of the instance is ever deleted.
func CheckRemovable(h Handle) error {
	if h.Dir == "" {
		return nil
	}
	if !filepath.IsAbs(h.Dir) || !validID(h.InstanceID) || filepath.Base(h.Dir) != h.InstanceID {
		return &Error{Kind: ErrInvalidSpec, Instance: h.InstanceID, Detail: "refusing to delete directory " + h.Dir}
	}
	return nil
}

// LastLines returns the last n lines of text, without a final empty line.
func LastLines(text string, n int) []string {
	text = strings.TrimRight(text, "\n")
	if text == "" || n <= 0 {
		return nil
	}
	lines := strings.Split(text, "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], "\r")
	}
	return lines
}

// LastWins drops all but the last setting of each name. Programs disagree about
// which of two settings counts.
func LastWins(env []string) []string {
	last := map[string]int{}
	for n, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		last[name] = n
	}
	out := make([]string, 0, len(last))
	for n, kv := range env {
		if name, _, _ := strings.Cut(kv, "="); last[name] == n {
			out = append(out, kv)
		}
	}
	return out
}

// ReasonOf is the sentence of an exit code as shells count them.
func ReasonOf(code int) string {
	switch code {
	case 0:
		return "ended by itself with exit code 0"
	case 137:
		return "killed (exit code 137, SIGKILL)"
	case 143:
		return "stopped (exit code 143, SIGTERM)"
	default:
		return fmt.Sprintf("ended with exit code %d", code)
	}
}

// IsNotFound reports whether err says that there is no such instance.
func IsNotFound(err error) bool { return errors.Is(err, ErrInstanceNotFound) }
