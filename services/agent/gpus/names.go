package gpus

import (
	"fmt"
	"regexp"
	"strings"
)

// maxName is the longest GPU name that the control plane takes.
const maxName = 22

// defaultNames are products that the rules would name after their family.
var defaultNames = []struct {
	pattern *regexp.Regexp
	name    string
}{
	// Tesla-V100-SXM2-16GB → V100; the rules alone say TESLA.
	{regexp.MustCompile(`(?i)^(?:NVIDIA-)?TESLA-([A-Z]+[0-9]+[A-Z]*)(?:-.*)?$`), "$1"},
}

var (
	migSuffix  = regexp.MustCompile(`(?i)-MIG-([0-9]+)g[.-]([0-9]+)gb$`)
	memorySize = regexp.MustCompile(`[1-9][0-9]*(?:T|G|M|K)B$`)
	digits     = regexp.MustCompile(`^[0-9]+$`)
	nameForm   = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
)

// Name is the GPU name that deployments use for a product (clusters-agents
// §3.1, rules 1 to 5). overrides, which may be nil, win over the rules.
func Name(product string, overrides map[string]string) (string, error) {
	text := strings.ReplaceAll(strings.TrimSpace(product), " ", "-")
	if name, ok := overrides[product]; ok {
		return checked(product, name)
	}
	if name, ok := overrides[text]; ok {
		return checked(product, name)
	}
	var mig string
	if m := migSuffix.FindStringSubmatch(text); m != nil {
		mig = "-MIG-" + m[1] + "g-" + m[2] + "gb"
		text = text[:len(text)-len(m[0])]
	}
	for _, d := range defaultNames {
		if d.pattern.MatchString(text) {
			return checked(product, strings.ToUpper(d.pattern.ReplaceAllString(text, d.name))+mig)
		}
	}
	return checked(product, baseName(text)+mig)
}

// baseName applies rules 2 to 4.
func baseName(text string) string {
	for _, family := range []string{"RTX", "GTX"} {
		// Something must follow: a product that ends in the word is not cut.
		if at := strings.Index(text, family); at >= 0 && len(text) > at+len(family) {
			text = text[at:]
			break
		}
	}
	parts := strings.Split(strings.ToUpper(text), "-")
	if memorySize.MatchString(parts[len(parts)-1]) {
		parts = parts[:len(parts)-1]
	}
	for _, maker := range []string{"NVIDIA", "GEFORCE"} {
		if len(parts) > 0 && parts[0] == maker {
			parts = parts[1:]
		}
	}
	if len(parts) == 0 {
		return ""
	}
	if (parts[0] != "RTX" && parts[0] != "GTX") || len(parts) < 2 {
		return parts[0]
	}
	name := parts[0] + parts[1]
	if len(parts) > 2 {
		switch {
		case parts[2] == "TI":
			name += "Ti"
		case parts[1] == "PRO" && digits.MatchString(parts[2]):
			name += parts[2]
		}
	}
	return name
}

func checked(product, name string) (string, error) {
	if name == "" || strings.HasPrefix(name, "-MIG") {
		return "", fmt.Errorf("GPU product %q has no name; give it one by an override", product)
	}
	if len(name) > maxName || !nameForm.MatchString(name) {
		return "", fmt.Errorf("GPU product %q would be named %q, which is not 1 to %d letters, digits, '_' or '-'; give it another name by an override", product, name, maxName)
	}
	return name, nil
}
