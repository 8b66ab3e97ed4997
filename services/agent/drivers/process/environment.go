package process

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

// The marks by which an instance is found again. Together they hold its handle,
// so that nothing on disk is needed to adopt an orphan.
const (
	markInstance   = "SIROCCO_INSTANCE_ID"
	markAgent      = "SIROCCO_AGENT_ID"
	markGeneration = "SIROCCO_GENERATION"
	markImage      = "SIROCCO_IMAGE"
	markPorts      = "SIROCCO_PORTS"
	markDir        = "SIROCCO_INSTANCE_DIR"
	markStarted    = "SIROCCO_STARTED_AT"
)

// inherited are the only variables of the agent that an instance sees; the
// others may hold its credentials.
var inherited = []string{"PATH", "HOME", "LANG", "TMPDIR"}

func environment(agentID string, spec drivers.Spec, command Command, local map[int]int, h drivers.Handle) []string {
	var env []string
	set := func(name, value string) { env = append(env, name+"="+value) }
	for _, name := range inherited {
		if value, ok := os.LookupEnv(name); ok {
			set(name, value)
		}
	}
	env = append(env, command.Env...)
	env = append(env, spec.Env...)

	inference := strconv.Itoa(local[spec.InferencePort])
	set("HOST", "127.0.0.1")
	set("PORT", inference)
	set("HEALTH_PORT", strconv.Itoa(local[cmp.Or(spec.HealthPort, spec.InferencePort)]))
	for _, port := range slices.Sorted(maps.Keys(local)) {
		set(fmt.Sprintf("PORT_%d", port), strconv.Itoa(local[port]))
	}
	// Always set, so that a function with simulated devices or none cannot take
	// a real one that belongs to somebody else.
	devices := strings.Join(drivers.RealDevices(spec.Devices), ",")
	set("CUDA_VISIBLE_DEVICES", devices)
	set("NVIDIA_VISIBLE_DEVICES", cmp.Or(devices, "void"))
	set("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
	for _, m := range drivers.Mounts {
		path := filepath.Join(spec.Dir, m.Sub)
		if _, err := os.Stat(path); err == nil {
			set(m.Env, path)
		}
	}
	set(markInstance, spec.InstanceID)
	set(markAgent, agentID)
	set(markGeneration, strconv.FormatInt(spec.Generation, 10))
	set(markImage, spec.Image)
	set(markDir, spec.Dir)
	set(markStarted, h.StartedAt.Format(time.RFC3339Nano))
	var ports []string
	for _, port := range slices.Sorted(maps.Keys(h.Ports)) {
		ports = append(ports, fmt.Sprintf("%d=%s", port, h.Ports[port]))
	}
	set(markPorts, strings.Join(ports, ","))
	// A function must not be able to forge the marks, hence last and once.
	return drivers.LastWins(env)
}

// handleOf reads a handle back from the marks; ok is false for a process that
// is not an instance of this agent.
func handleOf(environ []string, agentID string) (h drivers.Handle, ok bool) {
	marks := map[string]string{}
	for _, kv := range environ {
		if name, value, found := strings.Cut(kv, "="); found && strings.HasPrefix(name, "SIROCCO_") {
			marks[name] = value
		}
	}
	if marks[markAgent] != agentID || marks[markInstance] == "" {
		return h, false
	}
	h = drivers.Handle{
		Driver: "process", InstanceID: marks[markInstance], Image: marks[markImage], Dir: marks[markDir], Ports: map[int]string{},
	}
	h.Generation, _ = strconv.ParseInt(marks[markGeneration], 10, 64)
	h.StartedAt, _ = time.Parse(time.RFC3339Nano, marks[markStarted])
	for pair := range strings.SplitSeq(marks[markPorts], ",") {
		port, address, found := strings.Cut(pair, "=")
		if n, err := strconv.Atoi(port); found && err == nil {
			h.Ports[n] = address
		}
	}
	return h, true
}

// portPattern finds the stand-ins for ports; $PORTAL and $PORT_1 are none.
var portPattern = regexp.MustCompile(`\{\{(?:port|health_port)\}\}|\$\{(?:PORT|HEALTH_PORT)\}|\$(?:PORT|HEALTH_PORT)\b`)

// substitute puts the local ports into arguments.
func substitute(args []string, spec drivers.Spec, local map[int]int) []string {
	inference := strconv.Itoa(local[spec.InferencePort])
	health := strconv.Itoa(local[cmp.Or(spec.HealthPort, spec.InferencePort)])
	out := make([]string, len(args))
	for n, a := range args {
		out[n] = portPattern.ReplaceAllStringFunc(a, func(match string) string {
			if strings.Contains(strings.ToLower(match), "health") {
				return health
			}
			return inference
		})
	}
	return out
}
