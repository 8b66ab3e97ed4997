package docker

import (
	"cmp"
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

// labelPorts lists the container ports, which an engine does not record for
// ports that are not published.
const labelPorts = "sirocco.ports"

// self is what the engine knows of the container that the agent runs in.
type self struct {
	networks []string
	mounts   []container.MountPoint
}

// place is how the agent and an instance see one another.
type place struct {
	// network is what the instance joins; empty publishes ports instead.
	network string
	inside  *self
}

// place finds out where the agent runs. On a host there is nothing to ask.
func (d *Driver) place(ctx context.Context) (place, error) {
	if !marked() {
		return place{network: d.options.Network}, nil
	}
	d.mu.Lock()
	known := d.self
	d.mu.Unlock()
	if known == nil {
		c, err := d.inspect(ctx, ownContainer(), "")
		if drivers.IsNotFound(err) {
			// The mark lies: a machine whose disk was made from an image has it
			// too. The engine does not know us, so we are its host.
			return place{network: d.options.Network}, nil
		}
		if err != nil {
			return place{}, err
		}
		known = selfOf(c)
		d.mu.Lock()
		d.self = known
		d.mu.Unlock()
	}
	return placeOf(d.options.Network, known), nil
}

// marked says that this file system was made for a container.
func marked() bool {
	_, err := os.Stat("/.dockerenv")
	return err == nil
}

func selfOf(c container.InspectResponse) *self {
	s := &self{mounts: c.Mounts}
	if c.NetworkSettings != nil {
		s.networks = slices.Sorted(maps.Keys(c.NetworkSettings.Networks))
	}
	return s
}

func placeOf(configured string, s *self) place {
	p := place{network: configured, inside: s}
	for _, name := range s.networks {
		// Sharing the host's network is like running on the host.
		if name != "host" && name != "none" {
			p.network = cmp.Or(p.network, name)
		}
	}
	return p
}

// hostPath is what the engine calls a path of the agent.
func (p place) hostPath(path string) (string, bool) {
	if p.inside == nil {
		return path, true
	}
	best, found := container.MountPoint{}, false
	for _, m := range p.inside.mounts {
		if rest, ok := strings.CutPrefix(path, m.Destination); ok && (rest == "" || rest[0] == '/') &&
			m.Source != "" && len(m.Destination) > len(best.Destination) {
			best, found = m, true
		}
	}
	if !found {
		return "", false
	}
	return filepath.Join(best.Source, strings.TrimPrefix(path, best.Destination)), true
}

var containerInMounts = regexp.MustCompile(`/containers/([0-9a-f]{64})/`)

// ownContainer is the id of the agent's container. The engine mounts files from
// a directory with that name into each one; the host name is the id unless the
// operator chose another.
func ownContainer() string {
	if text, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		if m := containerInMounts.FindSubmatch(text); m != nil {
			return string(m[1])
		}
	}
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}
