package clusterinventory

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/coder/quartz"
	"github.com/distribution/reference"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// Catalogue maps image references to local commands, for nodes whose process driver runs them instead of containers.
type Catalogue struct {
	store   *store
	journal *bus.Journal
	clock   quartz.Clock
}

// NewCatalogue makes the use cases over a store whose schema is migrated.
func NewCatalogue(s *store, j *bus.Journal, clock quartz.Clock) *Catalogue {
	return &Catalogue{store: s, journal: j, clock: clock}
}

// Limits of one entry; a command line beyond them would not start on Linux either.
const (
	maxReference = 512
	maxArguments = 256
	maxArgument  = 32 << 10
	maxDirectory = 4096
)

// Put adds an image or replaces the one of the same normal form.
func (c *Catalogue) Put(ctx context.Context, req clusters.ImageRequest) (clusters.Image, error) {
	name, err := validImage(req)
	if err != nil {
		return clusters.Image{}, err
	}
	img := clusters.Image{Reference: req.Reference, Command: req.Command, Directory: req.Directory, CreatedAt: c.clock.Now().UTC()}
	err = c.store.tx(ctx, func(t tx) error {
		if err := c.store.putImage(ctx, t, name, img); err != nil {
			return err
		}
		return bus.Record(ctx, t, c.journal, clusters.ImagePut, bus.Fact{Entity: name, CorrelationID: name}, clusters.ImageChanged{Image: img})
	})
	return img, err
}

// Delete removes an image.
func (c *Catalogue) Delete(ctx context.Context, q clusters.ImageQuery) (rpc.None, error) {
	name, err := normal(q.Reference)
	if err != nil {
		return rpc.None{}, err
	}
	err = c.store.tx(ctx, func(t tx) error {
		img, found, err := c.store.deleteImage(ctx, t, name)
		if err != nil {
			return err
		}
		if !found {
			return problem.New(problem.NotFound, "Image '%s': Not found", q.Reference)
		}
		return bus.Record(ctx, t, c.journal, clusters.ImageRemoved, bus.Fact{Entity: name, CorrelationID: name}, clusters.ImageChanged{Image: img})
	})
	return rpc.None{}, err
}

// List answers with the whole catalogue, by name.
func (c *Catalogue) List(ctx context.Context, _ rpc.None) (clusters.ImagesResponse, error) {
	images, err := c.store.images(ctx)
	return clusters.ImagesResponse{Images: images}, err
}

// Find looks a reference up in whatever spelling: echo, docker.io/library/echo and echo:latest are one image.
func (c *Catalogue) Find(ctx context.Context, q clusters.ImageQuery) (clusters.ImageResponse, error) {
	name, err := normal(q.Reference)
	if err != nil {
		return clusters.ImageResponse{}, err
	}
	img, found, err := c.store.image(ctx, name)
	return clusters.ImageResponse{Found: found, Image: img}, err
}

// normal is the one spelling of a reference: registry, path, and a tag or digest.
func normal(ref string) (string, error) {
	check := problem.NewCheck("image")
	check.Require(ref != "", "reference", "must name an image, such as registry.example/team/echo:1.0")
	check.Require(len(ref) <= maxReference, "reference", "must be at most %d bytes", maxReference)
	if err := check.Err(); err != nil {
		return "", err
	}
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		check.Require(false, "reference", "must be an image reference such as registry.example/team/echo:1.0: %v", err)
		return "", check.Err()
	}
	return named.String(), nil
}

func validImage(req clusters.ImageRequest) (name string, err error) {
	if name, err = normal(req.Reference); err != nil {
		return "", err
	}
	check := problem.NewCheck("image")
	check.Require(len(req.Command) > 0 && strings.TrimSpace(req.Command[0]) != "", "command", "must start with the program to run")
	check.Require(len(req.Command) <= maxArguments, "command", "must have at most %d arguments", maxArguments)
	for _, arg := range req.Command {
		if len(arg) > maxArgument || strings.ContainsRune(arg, 0) {
			check.Require(false, "command", "each argument must be at most %d bytes and hold no NUL", maxArgument)
			break
		}
	}
	check.Require(req.Directory == "" || filepath.IsAbs(req.Directory), "directory", "must be an absolute path")
	check.Require(len(req.Directory) <= maxDirectory && !strings.ContainsRune(req.Directory, 0), "directory",
		"must be at most %d bytes and hold no NUL", maxDirectory)
	return name, check.Err()
}
