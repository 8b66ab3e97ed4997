package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers/docker"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers/process"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers/sim"
)

// simPrefix marks images that the sim driver answers for when it was not chosen for everything.
const simPrefix = "sim/"

// newDrivers makes the drivers of SIROCCO_DRIVERS, in the order in which they are tried for an image. auto is the
// process catalogue first, then Docker, and sim for images whose name begins with "sim/".
func newDrivers(cfg Config, agentID, dir string, images process.Catalogue) ([]drivers.Driver, error) {
	names := cfg.Drivers
	auto := len(names) == 1 && names[0] == "auto"
	if auto {
		names = []string{"process", "docker", "sim"}
	}
	var ds []drivers.Driver
	for _, name := range names {
		switch strings.TrimSpace(name) {
		case "process":
			ds = append(ds, process.New(process.Options{AgentID: agentID, Catalogue: images}))
		case "docker":
			ds = append(ds, docker.New(docker.Options{AgentID: agentID, Network: cfg.DockerNetwork}))
		case "sim":
			var d drivers.Driver = sim.New(sim.Options{AgentID: agentID, StateDir: filepath.Join(dir, "sim")})
			if len(names) > 1 {
				d = prefixed{d}
			}
			ds = append(ds, d)
		default:
			return nil, fmt.Errorf("SIROCCO_DRIVERS: %q is none of auto, docker, process, sim", name)
		}
	}
	if len(ds) == 0 {
		return nil, errors.New("SIROCCO_DRIVERS: names no driver; use auto")
	}
	return ds, nil
}

// prefixed restricts the sim driver to images that ask for it.
type prefixed struct{ drivers.Driver }

func (p prefixed) Prepare(ctx context.Context, spec drivers.Spec) error {
	if !strings.HasPrefix(spec.Image, simPrefix) {
		return &drivers.Error{Kind: drivers.ErrImageNotFound, Instance: spec.InstanceID, Detail: "not a " + simPrefix + " image"}
	}
	return p.Driver.Prepare(ctx, spec)
}

// prepare finds the first driver that has the image. When none has, the error tells what each said and what to do.
func (a *Agent) prepare(ctx context.Context, spec drivers.Spec) (drivers.Driver, error) {
	var said []string
	for _, d := range a.drivers {
		err := d.Prepare(ctx, spec)
		switch {
		case err == nil:
			return d, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case !errors.Is(err, drivers.ErrImageNotFound) && !errors.Is(err, drivers.ErrUnavailable):
			return nil, err // this driver has it, but cannot run it
		}
		if _, foreign := d.(prefixed); !foreign {
			said = append(said, d.Name()+": "+err.Error())
		}
	}
	return nil, &drivers.Error{
		Kind: drivers.ErrImageNotFound, Instance: spec.InstanceID,
		Detail: fmt.Sprintf("no driver of this node can run %s (%s); pull the image, correct its name, or let a local command stand for it with: sirocco image add %s -- COMMAND",
			spec.Image, strings.Join(said, "; "), spec.Image),
	}
}

// usable lists the drivers that can be used now, for the node's facts.
func (a *Agent) usable(ctx context.Context) []string {
	var names []string
	for _, d := range a.drivers {
		check, cancel := context.WithTimeout(ctx, 2*time.Second)
		if d.Check(check) == nil {
			names = append(names, d.Name())
		}
		cancel()
	}
	return names
}

// absent stands for a driver that an earlier configuration had; its instances cannot be seen.
type absent struct{ name string }

func (d absent) err() error {
	return &drivers.Error{Kind: drivers.ErrInstanceNotFound, Detail: "driver " + d.name + " is not configured any more"}
}
func (d absent) Name() string                                                { return d.name }
func (d absent) Check(context.Context) error                                 { return d.err() }
func (d absent) Prepare(context.Context, drivers.Spec) error                 { return d.err() }
func (d absent) List(context.Context) ([]drivers.Handle, error)              { return nil, nil }
func (d absent) Stop(context.Context, drivers.Handle, time.Duration) error   { return d.err() }
func (d absent) Remove(context.Context, drivers.Handle) error                { return d.err() }
func (d absent) Logs(context.Context, drivers.Handle, int) ([]string, error) { return nil, d.err() }
func (d absent) Transport(drivers.Handle) drivers.Transport                  { return drivers.NewTransport(nil) }
func (d absent) Close() error                                                { return nil }
func (d absent) Start(context.Context, drivers.Spec) (drivers.Handle, error) {
	return drivers.Handle{}, d.err()
}

func (d absent) Status(context.Context, drivers.Handle) (drivers.Status, error) {
	return drivers.Status{}, d.err()
}

func (d absent) Wait(context.Context, drivers.Handle) (drivers.Status, error) {
	return drivers.Status{}, d.err()
}

// catalogue asks the inventory which command stands for an image.
type catalogue struct{ conn *bus.Conn }

// cataloguePatience is how long a look-up waits for the inventory to come back.
const cataloguePatience = time.Minute

// Lookup implements [process.Catalogue].
func (c catalogue) Lookup(ctx context.Context, ref string) (process.Command, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, cataloguePatience)
	defer cancel()
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		resp, err := bus.Call(ctx, c.conn, clusters.FindImage, clusters.ImageQuery{Reference: ref})
		if err == nil {
			return process.Command{Argv: resp.Image.Command, Dir: resp.Image.Directory}, resp.Found, nil
		}
		sleep(ctx, wait)
		if ctx.Err() != nil {
			return process.Command{}, false, err
		}
	}
}
