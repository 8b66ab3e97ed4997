package functions

import (
	"context"
	"os"
	"sync"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/services/functions/objects"
)

// resources is what the use cases of an account's other belongings need: the registries that are recognised, and the
// store of the bytes of assets.
type resources struct {
	registry   RegistryConfig
	recognized recognized
	// questions wait for [Functions.AskRegistries].
	questions chan question

	assets  AssetConfig
	objects objects.Store
	// secret signs the addresses of objects; signing guards it.
	signing sync.Mutex
	secret  []byte
	// doomed rings when an object has lost its asset.
	doomed chan struct{}
}

func newResources(cfg Config) *resources {
	return &resources{
		registry: cfg.Registries, recognized: newRecognized(cfg.Registries), questions: make(chan question, maxQuestions),
		assets: cfg.Assets.complete(), doomed: make(chan struct{}, 1),
	}
}

// loadConfig reads the service's own variables and those that operators of the reference know.
func loadConfig() (Config, error) {
	cfg, err := app.Load[Config]()
	if err == nil {
		cfg.Registries.declared, err = declaredRegistries(os.Environ())
	}
	return cfg, err
}

// attachResources gives the service its belongings: their endpoints, their background work, and the end of an account.
func (f *Functions) attachResources(s *app.Service, cfg Config) {
	f.resources = newResources(cfg)
	s.OnReady(func(ctx context.Context) error { return f.openObjects(ctx, s.Conn) })
	s.Loop("registries", f.AskRegistries)
	s.Loop("objects", func(ctx context.Context) error { return f.Sweep(ctx, s.Clock) })
	bus.On(s.Subscribe(event.Keys), keys.AccountDeleted, f.accountClosed)

	bus.Serve(s.Server, contract.CreateTelemetry, f.CreateTelemetry)
	bus.Serve(s.Server, contract.ListTelemetries, f.ListTelemetries)
	bus.Serve(s.Server, contract.GetTelemetry, f.GetTelemetry)
	bus.Serve(s.Server, contract.DeleteTelemetry, f.DeleteTelemetry)
	bus.Serve(s.Server, contract.SetTelemetrySecret, f.SetTelemetrySecret)
	bus.Serve(s.Server, contract.CheckTelemetries, f.CheckTelemetries)

	bus.Serve(s.Server, contract.CreateRegistryCredential, f.CreateRegistryCredential)
	bus.Serve(s.Server, contract.ListRegistryCredentials, f.ListRegistryCredentials)
	bus.Serve(s.Server, contract.GetRegistryCredential, f.GetRegistryCredential)
	bus.Serve(s.Server, contract.UpdateRegistryCredential, f.UpdateRegistryCredential)
	bus.Serve(s.Server, contract.DeleteRegistryCredential, f.DeleteRegistryCredential)
	bus.Serve(s.Server, contract.RecognizedRegistries, f.RecognizedRegistries)
	bus.Serve(s.Server, contract.LookupRegistryAuth, f.LookupRegistryAuth)
	bus.Serve(s.Server, contract.CheckArtifacts, f.CheckArtifacts)

	bus.Serve(s.Server, contract.CreateAsset, f.CreateAsset)
	bus.Serve(s.Server, contract.ListAssets, f.ListAssets)
	bus.Serve(s.Server, contract.GetAsset, f.GetAsset)
	bus.Serve(s.Server, contract.ContentRedirect, f.ContentRedirect)
	bus.Serve(s.Server, contract.DeleteAsset, f.DeleteAsset)
	bus.Serve(s.Server, contract.LookupAssets, f.LookupAssets)
	bus.Serve(s.Server, contract.AdmitObject, f.AdmitObject)

	bus.Serve(s.Server, contract.AccountUse, f.AccountUse)
	bus.Serve(s.Server, contract.AddRegistryCredential, f.AddRegistryCredential)
}
