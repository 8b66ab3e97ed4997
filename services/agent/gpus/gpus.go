// Package gpus finds the GPUs of a node, names them and cuts the node into
// instance types.
//
// A setting, SIROCCO_GPUS, says what to find:
//
//	auto           what nvidia-smi lists; simulated H100:8 when it lists nothing
//	H100:8         eight simulated H100
//	H100:3,L40S:5  three of one and five of the other
//	none           no GPU
//
// Simulated devices have the same uuids after every start, so that an agent
// finds the reservations of its instances again.
package gpus

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
)

// Setting is the name of the environment variable, for error texts.
const Setting = "SIROCCO_GPUS"

// The special settings.
const (
	Auto = "auto"
	None = "none"
)

const (
	// defaultSimulated stands in for hardware on a machine that has none.
	defaultSimulated = "H100:8"
	// maxSimulated bounds the devices of one node.
	maxSimulated = 4096
	// foreignMiB is the memory in use by others above which a device is not offered.
	foreignMiB = 512
	// queryTimeout bounds one run of nvidia-smi, which hangs when a driver does.
	queryTimeout = 20 * time.Second
)

// healthy is the Health of a device with which nothing is wrong.
const healthy = "ok"

// Inventory is what a node has.
type Inventory struct {
	Devices []clusters.Device
	// Driver is the version of the NVIDIA driver, or "simulated", or empty.
	Driver string
	// Simulated says that no device is real.
	Simulated bool
}

// Discoverer looks for GPUs. The zero value looks at this machine.
type Discoverer struct {
	// Node goes into the uuids of simulated devices.
	Node string
	// Query runs nvidia-smi and returns its output; nil runs the real one. It
	// returns exec.ErrNotFound where there is none.
	Query func(ctx context.Context, args ...string) ([]byte, error)
	// Names overrides the GPU name of a product, before the rules of Name.
	Names map[string]string
}

// Discover finds the GPUs that the setting asks for.
func (d Discoverer) Discover(ctx context.Context, setting string) (Inventory, error) {
	setting = strings.TrimSpace(setting)
	switch strings.ToLower(setting) {
	case "", Auto:
		found, err := d.query(ctx)
		if err != nil && !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, errNoDriver) {
			return Inventory{}, err
		}
		if len(found.Devices) > 0 {
			return found, nil
		}
		return d.simulate(defaultSimulated)
	case None:
		return Inventory{Devices: []clusters.Device{}}, nil
	default:
		return d.simulate(setting)
	}
}

var simulatedName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,22}$`)

// simulate makes the devices of a list such as H100:3,L40S:5.
func (d Discoverer) simulate(setting string) (Inventory, error) {
	bad := func(part, rule string) (Inventory, error) {
		return Inventory{}, fmt.Errorf("%s: %q %s; it must be auto, none or a list such as H100:8 or H100:3,L40S:5", Setting, part, rule)
	}
	inventory := Inventory{Driver: "simulated", Simulated: true, Devices: []clusters.Device{}}
	for part := range strings.SplitSeq(setting, ",") {
		part = strings.TrimSpace(part)
		name, countText, ok := strings.Cut(part, ":")
		if !ok {
			return bad(part, "has no count")
		}
		if !simulatedName.MatchString(name) {
			return bad(part, "has no GPU name of 1 to 22 letters, digits, '_' or '-'")
		}
		count, err := strconv.Atoi(countText)
		if err != nil || count < 1 {
			return bad(part, "has no positive whole count")
		}
		if len(inventory.Devices)+count > maxSimulated {
			return bad(part, fmt.Sprintf("exceeds %d devices", maxSimulated))
		}
		for range count {
			index := len(inventory.Devices)
			inventory.Devices = append(inventory.Devices, clusters.Device{
				UUID: simulatedUUID(d.Node, index), Index: index, GPU: name, Product: simulatedProduct(name),
				MemoryMiB: simulatedMemory(name), State: clusters.Free, Health: healthy, Simulated: true,
			})
		}
	}
	return inventory, nil
}

// simulatedUUID has the form of a real one and depends on node and index alone.
func simulatedUUID(node string, index int) string {
	return "GPU-" + uuid.NewHash(sha256.New(), uuid.NameSpaceURL, fmt.Appendf(nil, "sirocco:gpu:%s:%d", node, index), 8).String()
}

// models are the products that simulated devices claim to be.
var models = map[string]struct {
	product   string
	memoryMiB int64
}{
	"H100":       {"NVIDIA-H100-80GB-HBM3", 81559},
	"H200":       {"NVIDIA-H200", 143771},
	"GH200":      {"NVIDIA-GH200-480GB", 97871},
	"B200":       {"NVIDIA-B200", 183359},
	"GB200":      {"NVIDIA-GB200", 189471},
	"B300":       {"NVIDIA-B300", 275040},
	"A100":       {"NVIDIA-A100-SXM4-80GB", 81920},
	"A100-40GB":  {"NVIDIA-A100-SXM4-40GB", 40960},
	"A100-80GB":  {"NVIDIA-A100-SXM4-80GB", 81920},
	"A10":        {"NVIDIA-A10", 23028},
	"A10G":       {"NVIDIA-A10G", 23028},
	"A16":        {"NVIDIA-A16", 15356},
	"A30":        {"NVIDIA-A30", 24576},
	"A40":        {"NVIDIA-A40", 46068},
	"L4":         {"NVIDIA-L4", 23034},
	"L40":        {"NVIDIA-L40", 46068},
	"L40S":       {"NVIDIA-L40S", 46068},
	"T4":         {"Tesla-T4", 15360},
	"V100":       {"Tesla-V100-SXM2-16GB", 16384},
	"P100":       {"Tesla-P100-PCIE-16GB", 16384},
	"RTX4090":    {"NVIDIA-GeForce-RTX-4090", 24564},
	"RTX5090":    {"NVIDIA-GeForce-RTX-5090", 32607},
	"RTXPRO6000": {"NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", 97887},
}

// unknownMemoryMiB is what a simulated device has whose name nobody knows.
const unknownMemoryMiB = 16384

func simulatedProduct(name string) string {
	if m, ok := models[name]; ok {
		return m.product
	}
	return "SIMULATED-" + name
}

func simulatedMemory(name string) int64 {
	if m, ok := models[name]; ok {
		return m.memoryMiB
	}
	return unknownMemoryMiB
}
