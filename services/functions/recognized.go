package functions

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// registry is one that functions may take artifacts of one type from.
type registry struct {
	name, hostname string
	origin         origin
}

// origin of a recognised registry decides how its artifacts are validated (docs/decisions/0012).
type origin int

const (
	// builtIn are the registries that everybody uses: an artifact there needs a credential, and the registry is asked.
	builtIn origin = iota
	// operated is one of SIROCCO_REGISTRIES_RECOGNIZED: it is asked, with a credential when the account has one.
	operated
	// declared is one of the NVCF_REGISTRIES_RECOGNIZED_… names: it is never asked, as in the reference.
	declared
)

// RegistryConfig adds registries to those that everybody uses.
type RegistryConfig struct {
	// Recognized is a comma-separated list of TYPE[+TYPE…]@host[:port][=name], such as
	// CONTAINER+HELM@registry.corp.example:5000=Corp registry. The types are CONTAINER, HELM, MODEL and RESOURCE.
	Recognized registryList `env:"SIROCCO_REGISTRIES_RECOGNIZED"`
	// declared are the registries of the reference's environment names.
	declared registryList
	// Validation says what becomes of an artifact that its registry does not have: throw, log or off.
	Validation validationMode `env:"SIROCCO_ARTIFACT_VALIDATION" envDefault:"log"`
}

// listedRegistry is a registry with the type it was listed for.
type listedRegistry struct {
	kind contract.ArtifactType
	registry
}

type registryList []listedRegistry

// UnmarshalText reads SIROCCO_REGISTRIES_RECOGNIZED.
func (l *registryList) UnmarshalText(text []byte) error {
	var list registryList
	for entry := range strings.SplitSeq(string(text), ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		kinds, rest, ok := strings.Cut(entry, "@")
		if !ok {
			return fmt.Errorf("%q: want TYPE[+TYPE…]@host[:port][=name]", entry)
		}
		host, name, _ := strings.Cut(rest, "=")
		if host, name = strings.TrimSpace(host), strings.TrimSpace(name); name == "" {
			name = host
		}
		if !isListable(host) {
			return fmt.Errorf("%q: %q is not a host name with or without a port", entry, host)
		}
		for kind := range strings.SplitSeq(kinds, "+") {
			t := contract.ArtifactType(upper(kind))
			if !slices.Contains(contract.ArtifactTypes, t) {
				return fmt.Errorf("%q: %q is not one of %v", entry, kind, contract.ArtifactTypes)
			}
			list = append(list, listedRegistry{t, registry{name: name, hostname: strings.ToLower(host), origin: operated}})
		}
	}
	*l = list
	return nil
}

// declaredPattern is NVCF_REGISTRIES_RECOGNIZED_<TYPE>_<KEY>_HOSTNAME.
var declaredPattern = regexp.MustCompile(`^(NVCF_REGISTRIES_RECOGNIZED_(CONTAINER|HELM|MODEL|RESOURCE)_([A-Za-z0-9_.-]+)_)HOSTNAME$`)

// declaredRegistries reads the reference's names from an environment of KEY=VALUE entries.
func declaredRegistries(environ []string) (registryList, error) {
	values := map[string]string{}
	for _, entry := range environ {
		if key, value, ok := strings.Cut(entry, "="); ok {
			values[key] = strings.TrimSpace(value)
		}
	}
	var list registryList
	for key, host := range values {
		m := declaredPattern.FindStringSubmatch(key)
		if m == nil || host == "" {
			continue
		}
		if !isListable(host) {
			return nil, fmt.Errorf("configuration: %s: %q is not a host name with or without a port", key, host)
		}
		name := values[m[1]+"NAME"]
		if name == "" {
			name = m[3]
		}
		list = append(list, listedRegistry{contract.ArtifactType(m[2]), registry{name: name, hostname: strings.ToLower(host), origin: declared}})
	}
	return list, nil
}

// recognized are the registries of each type, by name.
type recognized map[contract.ArtifactType][]registry

// shared are the registries that everybody uses for images; all but NGC's serve charts too.
var shared = []registry{
	{name: "Amazon ECR", hostname: hostECR},
	{name: "Amazon ECR Public", hostname: "public.ecr.aws"},
	{name: "Azure Container Registry", hostname: "azurecr.io"},
	{name: "Docker Hub", hostname: hostDocker},
	{name: "Volcengine Container Registry", hostname: "cr.volces.com"},
}

const (
	hostECR    = "dkr.ecr.amazonaws.com"
	hostDocker = "docker.io"
	nameNGC    = "NGC"
)

// newRecognized joins the built-in registries and the listed ones. A listed one takes the place of a built-in one of
// the same host.
func newRecognized(cfg RegistryConfig) recognized {
	r := recognized{
		contract.ContainerArtifact: append(slices.Clone(shared), registry{name: nameNGC, hostname: "nvcr.io"}),
		contract.HelmArtifact:      append(slices.Clone(shared), registry{name: nameNGC, hostname: "helm.ngc.nvidia.com"}),
		contract.ModelArtifact:     {{name: nameNGC, hostname: "api.ngc.nvidia.com"}},
		contract.ResourceArtifact:  {{name: nameNGC, hostname: "api.ngc.nvidia.com"}},
	}
	for _, listed := range slices.Concat(cfg.declared, cfg.Recognized) {
		others := slices.DeleteFunc(r[listed.kind], func(other registry) bool { return other.hostname == listed.hostname })
		r[listed.kind] = append(others, listed.registry)
	}
	for _, list := range r {
		slices.SortFunc(list, func(a, b registry) int {
			return strings.Compare(strings.ToLower(a.name)+"\x00"+a.hostname, strings.ToLower(b.name)+"\x00"+b.hostname)
		})
	}
	return r
}

// find returns the registry of a type that a host belongs to: the one of its very name, else the nearest one above it.
func (r recognized) find(kind contract.ArtifactType, host string) (registry, bool) {
	var best registry
	for _, candidate := range r[kind] {
		if under(host, candidate.hostname) && len(candidate.hostname) > len(best.hostname) {
			best = candidate
		}
	}
	return best, best.hostname != ""
}

// lists reports whether a host is in the list under its very name, for some type.
func (r recognized) lists(host string) bool {
	for _, list := range r {
		if slices.ContainsFunc(list, func(known registry) bool { return strings.EqualFold(known.hostname, host) }) {
			return true
		}
	}
	return false
}

// ecrPattern is a private registry of Amazon, which has its region between the parts of the recognised name.
var ecrPattern = regexp.MustCompile(`^(?:[a-z0-9-]+\.)?dkr\.ecr(?:-fips)?\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?$`)

// under reports whether a host is a registry or lies below it: nvcr.io and stg.nvcr.io are under nvcr.io, evilnvcr.io
// is not.
func under(host, above string) bool {
	host, above = canonicalHost(host), canonicalHost(above)
	return host == above || strings.HasSuffix(host, "."+above) || above == hostECR && ecrPattern.MatchString(host)
}

// canonicalHost is the one spelling of a host: Docker's registry has three names.
func canonicalHost(host string) string {
	host = strings.ToLower(host)
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		return hostDocker
	}
	return host
}

// isHostname is the rule of §7 for the host of a credential.
func isHostname(host string) bool {
	labels := strings.Split(host, ".")
	if len(host) < 4 || len(host) > 253 || len(labels) < 2 {
		return false
	}
	for _, label := range labels {
		if !isLabel(label) {
			return false
		}
	}
	top := labels[len(labels)-1]
	return len(top) >= 2 && !strings.Contains(top, "-")
}

func isLabel(label string) bool {
	return len(label) >= 1 && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-' &&
		!strings.ContainsFunc(label, func(r rune) bool {
			return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		})
}

// isListable is wider: an operator may list localhost, an address, and a port.
func isListable(host string) bool {
	name, port, withPort := strings.Cut(host, ":")
	if n, err := strconv.Atoi(port); withPort && (err != nil || n < 1 || n > maxPort) {
		return false
	}
	return name != "" && len(name) <= 253 && !slices.ContainsFunc(strings.Split(name, "."), func(label string) bool { return !isLabel(label) })
}

// RecognizedRegistries lists what [recognized] holds (§7).
func (f *Functions) RecognizedRegistries(ctx context.Context, _ rpc.None) (contract.RecognizedRegistriesResponse, error) {
	if _, err := client(ctx); err != nil {
		return contract.RecognizedRegistriesResponse{}, err
	}
	answer := contract.RecognizedRegistriesResponse{RecognizedRegistries: map[contract.ArtifactType][]contract.RecognizedRegistry{}}
	for _, kind := range contract.ArtifactTypes {
		list := make([]contract.RecognizedRegistry, 0, len(f.recognized[kind]))
		for _, r := range f.recognized[kind] {
			list = append(list, contract.RecognizedRegistry{Name: r.name, Hostname: r.hostname})
		}
		answer.RecognizedRegistries[kind] = list
	}
	return answer, nil
}
