package docker

import (
	"context"
	"errors"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"

	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

// backOff is the pause before each further try of a pull that failed in
// transport; all tries start within a minute.
var backOff = []time.Duration{3 * time.Second, 12 * time.Second}

// Prepare implements drivers.Driver: a local image is used as it is.
func (d *Driver) Prepare(ctx context.Context, spec drivers.Spec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	if d.openErr != nil {
		return wrap(drivers.ErrUnavailable, spec.InstanceID, "engine", d.openErr)
	}
	_, err := d.engine.ImageInspect(ctx, spec.Image)
	if err == nil {
		return nil
	}
	if !cerrdefs.IsNotFound(err) && !cerrdefs.IsInvalidArgument(err) {
		return wrap(drivers.ErrUnavailable, spec.InstanceID, "inspect image "+spec.Image, err)
	}
	bounded, cancel := context.WithTimeout(ctx, d.options.PullTimeout)
	defer cancel()
	for try := 0; ; try++ {
		err := d.pull(bounded, spec)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil && bounded.Err() != nil {
			return &drivers.Error{
				Kind: drivers.ErrRegistryUnreachable, Instance: spec.InstanceID,
				Detail: "pull " + spec.Image + ": not done within " + d.options.PullTimeout.String(),
			}
		}
		if kind := pullKind(err, spec.RegistryAuth != nil); !errors.Is(kind, drivers.ErrRegistryUnreachable) || try == len(backOff) {
			return wrap(kind, spec.InstanceID, "pull "+spec.Image, err)
		}
		timer := d.clock.NewTimer(backOff[try], "docker", "pull")
		select {
		case <-timer.C:
		case <-bounded.Done():
			timer.Stop()
			return wrap(drivers.ErrRegistryUnreachable, spec.InstanceID, "pull "+spec.Image, errors.Join(bounded.Err(), err))
		}
	}
}

// pull downloads the image once. The engine shares the work of concurrent pulls.
func (d *Driver) pull(ctx context.Context, spec drivers.Spec) error {
	options := client.ImagePullOptions{}
	if a := spec.RegistryAuth; a != nil {
		encoded, err := authconfig.Encode(registry.AuthConfig{Username: a.Username, Password: a.Password, ServerAddress: a.ServerAddress})
		if err != nil {
			return err
		}
		options.RegistryAuth = encoded
	}
	progress, err := d.engine.ImagePull(ctx, spec.Image, options)
	if err != nil {
		return err
	}
	defer progress.Close()
	for message, err := range progress.JSONMessages(ctx) {
		if err != nil {
			return err
		}
		if message.Error != nil {
			return message.Error
		}
	}
	return nil
}

// pullKind sorts the failures of a pull. The engine passes on what a registry
// said as text only, and with status 404 or 500 whatever it was.
func pullKind(err error, withCredentials bool) error {
	text := strings.ToLower(err.Error())
	says := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	switch {
	case client.IsErrConnectionFailed(err):
		return drivers.ErrUnavailable
	case says("repository does not exist") && !withCredentials:
		// What a public registry says of a name that it does not know.
		return drivers.ErrImageNotFound
	case cerrdefs.IsUnauthorized(err), cerrdefs.IsPermissionDenied(err),
		says("unauthorized", "authentication required", "access denied", "denied:", "no basic auth credentials", "forbidden"):
		return drivers.ErrUnauthorized
	case cerrdefs.IsNotFound(err), cerrdefs.IsInvalidArgument(err),
		says("manifest unknown", "name unknown", "no matching manifest", "invalid reference format"):
		return drivers.ErrImageNotFound
	default:
		return drivers.ErrRegistryUnreachable
	}
}
