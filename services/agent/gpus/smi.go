package gpus

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
)

// fields are what nvidia-smi is asked for, in this order.
var fields = []string{"index", "uuid", "name", "memory.total", "memory.used", "driver_version", "pci.bus_id", "mig.mode.current"}

// errNoDriver: the program is there, the driver is not. Machine images for GPU
// hosts are also started without a GPU.
var errNoDriver = errors.New("nvidia-smi finds no driver")

// reading is one line of nvidia-smi.
type reading struct {
	index              int
	uuid, product      string
	memoryMiB, usedMiB int64 // -1 when not available
	driver, busID      string
	mig                bool
}

func runSMI(ctx context.Context, args ...string) ([]byte, error) {
	path, err := exec.LookPath("nvidia-smi")
	if err != nil {
		return nil, exec.ErrNotFound
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err == nil {
		return out, nil
	}
	text := strings.TrimSpace(string(out))
	if len(text) > 300 {
		text = text[:300]
	}
	if strings.Contains(text, "couldn't communicate with the NVIDIA driver") || strings.Contains(text, "No devices were found") {
		return nil, fmt.Errorf("%w: %s", errNoDriver, text)
	}
	return nil, fmt.Errorf("nvidia-smi: %w: %s", err, text)
}

// query asks nvidia-smi for the devices.
func (d Discoverer) query(ctx context.Context) (Inventory, error) {
	readings, err := d.read(ctx)
	if err != nil {
		return Inventory{}, err
	}
	inventory := Inventory{Devices: make([]clusters.Device, 0, len(readings))}
	for _, r := range readings {
		inventory.Devices = append(inventory.Devices, d.device(r))
		inventory.Driver = r.driver
	}
	return inventory, nil
}

func (d Discoverer) read(ctx context.Context) ([]reading, error) {
	run := d.Query
	if run == nil {
		run = runSMI
	}
	out, err := run(ctx, "--query-gpu="+strings.Join(fields, ","), "--format=csv,noheader,nounits")
	if err != nil {
		return nil, err
	}
	return parse(string(out))
}

// device describes a reading. A product without a usable name is there, but
// cannot be given away; its health says why.
func (d Discoverer) device(r reading) clusters.Device {
	device := clusters.Device{
		UUID: r.uuid, Index: r.index, Product: strings.ReplaceAll(r.product, " ", "-"),
		MemoryMiB: max(r.memoryMiB, 0), State: clusters.Free, Health: healthy,
	}
	name, err := Name(r.product, d.Names)
	switch {
	case err != nil:
		device.State, device.Health = clusters.Sick, err.Error()
	case r.mig:
		device.GPU, device.State = name, clusters.Sick
		device.Health = "MIG mode is on; slices are not supported yet, so the device is not offered"
	case r.usedMiB > foreignMiB:
		device.GPU, device.State, device.Health = name, clusters.Foreign, foreignHealth(r.usedMiB)
	default:
		device.GPU = name
	}
	return device
}

func foreignHealth(usedMiB int64) string {
	return fmt.Sprintf("a process that this agent did not start uses %d MiB", usedMiB)
}

// parse reads the CSV. Cards and drivers leave out different fields, as [N/A]
// or [Not Supported]; only a line without a uuid is an error.
func parse(text string) ([]reading, error) {
	lines := csv.NewReader(strings.NewReader(text))
	lines.TrimLeadingSpace = true
	lines.LazyQuotes = true
	lines.FieldsPerRecord = -1
	var readings []reading
	for {
		line, err := lines.Read()
		if errors.Is(err, io.EOF) {
			return readings, nil
		}
		if err != nil {
			return nil, fmt.Errorf("nvidia-smi output: %w", err)
		}
		if len(line) == 1 && strings.Contains(line[0], "No devices were found") {
			return nil, nil
		}
		if len(line) != len(fields) {
			return nil, fmt.Errorf("nvidia-smi output: %d fields instead of %d in %q", len(line), len(fields), strings.Join(line, ","))
		}
		for n := range line {
			line[n] = strings.TrimSpace(line[n])
		}
		r := reading{
			index: int(number(line[0], int64(len(readings)))), uuid: line[1], product: line[2],
			memoryMiB: number(line[3], -1), usedMiB: number(line[4], -1),
			driver: available(line[5]), busID: available(line[6]), mig: strings.EqualFold(line[7], "enabled"),
		}
		if !strings.HasPrefix(r.uuid, "GPU-") && !strings.HasPrefix(r.uuid, "MIG-") {
			return nil, fmt.Errorf("nvidia-smi output: %q is no device uuid", r.uuid)
		}
		readings = append(readings, r)
	}
}

func available(text string) string {
	if strings.HasPrefix(text, "[") {
		return ""
	}
	return text
}

func number(text string, missing int64) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return missing
	}
	return n
}
