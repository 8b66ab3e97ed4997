package gpus

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
)

// DefaultProvider is the first part of instance type names.
const DefaultProvider = "NCP"

// Providers are the first parts that clients know.
var Providers = []string{"ON-PREM", "AWS", "GCP", "OCI", "AZURE", "DGX-CLOUD", "NCP"}

// CheckProvider returns the provider in the form that type names use; empty
// means the default.
func CheckProvider(provider string) (string, error) {
	upper := strings.ToUpper(strings.TrimSpace(provider))
	if upper == "" {
		return DefaultProvider, nil
	}
	if !slices.Contains(Providers, upper) {
		return "", fmt.Errorf("instance name provider %q must be one of %s", provider, strings.Join(Providers, ", "))
	}
	return upper, nil
}

// Types cuts a node into instance types (clusters-agents §3.2): for each GPU
// name 1, 2, 4, … of its devices and all of them. Devices that are not healthy
// count, since a type describes the node and not what is free on it.
func Types(provider string, node clusters.NodeFacts, devices []clusters.Device) []clusters.InstanceType {
	groups := map[string][]clusters.Device{}
	for _, d := range devices {
		if d.GPU != "" {
			groups[d.GPU] = append(groups[d.GPU], d)
		}
	}
	var types []clusters.InstanceType
	for gpu, group := range groups {
		for _, n := range multiples(len(group)) {
			types = append(types, instanceType(provider, node, gpu, group[0], n, len(group), len(devices)))
		}
	}
	slices.SortFunc(types, func(a, b clusters.InstanceType) int {
		return cmp.Or(cmp.Compare(a.GPU, b.GPU), cmp.Compare(a.GPUCount, b.GPUCount), cmp.Compare(a.Name, b.Name))
	})
	// The default is the smallest of each GPU name, since a client that names the
	// GPU only gets a type of that GPU.
	seen := map[string]bool{}
	for n := range types {
		types[n].Default = !seen[types[n].GPU]
		seen[types[n].GPU] = true
	}
	return types
}

// multiples are the powers of two below all, and all.
func multiples(all int) []int {
	var out []int
	for n := 1; n < all; n *= 2 {
		out = append(out, n)
	}
	return append(out, all)
}

// instanceType is n of the group's devices with their share of the node, whose
// devices of all names are total.
func instanceType(provider string, node clusters.NodeFacts, gpu string, device clusters.Device, n, group, total int) clusters.InstanceType {
	share := func(whole int64) int64 {
		if n == total {
			return whole
		}
		return whole * int64(n) / int64(total)
	}
	cpu, memory := share(node.CPUMilli), share(node.MemoryMiB)
	base := provider + ".GPU." + gpu
	return clusters.InstanceType{
		Name:         fmt.Sprintf("%s_%dx", base, n),
		Value:        base,
		Description:  fmt.Sprintf("%s, %s, %s", device.Product, family(gpu), machine(node, device, group)),
		GPU:          gpu,
		GPUCount:     n,
		CPUCores:     int((cpu + 999) / 1000),
		CPUMilli:     cpu,
		MemoryMiB:    memory,
		SystemMemory: Quantity(memory << 20),
		GPUMemory:    Quantity(device.MemoryMiB * int64(n) << 20),
		Storage:      Quantity(share(node.DiskMiB) << 20),
		CPUArch:      node.Arch,
		OS:           node.OS,
		Driver:       node.Driver,
		NodeType:     "SINGLE",
	}
}

// families are the architectures behind the names, for descriptions.
var families = []struct{ prefix, family string }{
	{"RTXPRO", "blackwell"},
	{"RTX50", "blackwell"},
	{"RTX40", "ada-lovelace"},
	{"RTX30", "ampere"},
	{"RTX20", "turing"},
	{"RTX8000", "turing"},
	{"RTX6000", "turing"},
	{"GH200", "hopper"},
	{"H", "hopper"},
	{"GB", "blackwell"},
	{"B", "blackwell"},
	{"L4", "ada-lovelace"},
	{"A", "ampere"},
	{"T4", "turing"},
	{"V100", "volta"},
	{"P", "pascal"},
	{"GTX16", "turing"},
	{"GTX10", "pascal"},
}

func family(gpu string) string {
	for _, f := range families {
		if strings.HasPrefix(gpu, f.prefix) {
			return f.family
		}
	}
	return "unknown family"
}

func machine(node clusters.NodeFacts, device clusters.Device, group int) string {
	kind := fmt.Sprintf("%s node with %d", cmp.Or(node.Arch, "unknown"), group)
	if device.Simulated {
		return "simulated " + kind
	}
	return kind
}

var binaryUnits = []string{"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"}

// Quantity writes bytes as a Kubernetes quantity: exact in canonical form when
// that has at most four digits, else rounded down in the first unit in which
// the number is below 10 000.
func Quantity(bytes int64) string {
	if bytes <= 0 {
		return "0"
	}
	exact, unit := bytes, 0
	for exact%1024 == 0 && unit < len(binaryUnits)-1 {
		exact, unit = exact/1024, unit+1
	}
	for ; unit < len(binaryUnits)-1 && exact >= 10_000; unit++ {
		exact /= 1024
	}
	return fmt.Sprintf("%d%s", exact, binaryUnits[unit])
}
