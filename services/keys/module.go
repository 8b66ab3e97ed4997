// Package keys is the service of credentials: it makes opaque API keys, mints administrator tokens, and tells the rest of
// the platform what a credential is good for.
//
// An opaque key is 32 random bytes that only its owner has. The service keeps their HMAC under the deployment's
// data-domain key ([Format]), so the database can recognise a key and cannot produce one. Half of that HMAC is part of
// the key itself; a guess is refused by arithmetic, before any storage is asked.
//
// An administrator token is an ES256 JWT that anyone can verify with the published keys ([Signer]); it is not stored.
//
// The secrets of the deployment are found or made once by [Secrets] and shared by all replicas through the database,
// sealed (libs/seal). Signing keys are replaced in order, or at once when one is compromised, by [Rotation]. Every
// change of a key is an event in the same transaction ([Store]); no event, log line or row holds a key or a token.
package keys

import (
	"context"
	"crypto/rand"
	"embed"
	"time"

	"go.uber.org/fx"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/services/keys/directory"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Module wires the service.
var Module = fx.Module("keys",
	fx.Provide(app.Load[Config], fx.Private),
	fx.Invoke(func(lc fx.Lifecycle, p app.Platform, cfg Config) error {
		s, err := newService(p, cfg)
		if err != nil {
			return err
		}
		app.Attach(lc, s)
		return nil
	}),
)

// newService assembles one replica.
func newService(p app.Platform, cfg Config) (*app.Service, error) {
	s := app.NewService(p, "keys", "keys", app.Migrations(migrations))
	store := NewStore(p.Pool, s.Tx, s.Journal)
	vault, err := newVault(cfg, p.Pool, func() time.Time { return p.Clock.Now() })
	if err != nil {
		return nil, err
	}
	secrets, err := NewSecrets(cfg, store, vault, rand.Reader)
	if err != nil {
		return nil, err
	}
	signer := NewSigner(store, vault)
	rotation := NewRotation(store, signer, p.Clock, cfg.SigningKeyLife, s.Log)
	tokens := NewTokens(store, signer, cfg, p.Clock, rand.Reader, p.Metrics)
	keys := NewKeys(store, p.Clock, rand.Reader, cfg, s.Log)
	owners := NewOwners(keys)
	accounts := NewAccounts(store, p.Conn, p.Clock, cfg, s.Log)
	decisions := NewDecisions(store, p.Clock)
	registry := NewRegistry(store)
	census, err := NewCensus(store, p.Clock, p.Metrics)
	if err != nil {
		return nil, err
	}
	peopleStore := directory.NewStore(p.Pool, s.Tx, s.Journal, RecordRevocation)
	people, err := directory.New(cfg.Directory, peopleStore, signer, p.Clock, rand.Reader, p.Metrics, s.Log)
	if err != nil {
		return nil, err
	}

	s.OnReady(func(ctx context.Context) error {
		domainKeys, err := secrets.Open(ctx)
		if err != nil {
			return err
		}
		format, err := NewFormat(cfg.Prefix, domainKeys...)
		if err != nil {
			return err
		}
		keys.Use(format)
		return rotation.Step(ctx)
	})
	s.OnReady(people.Prepare)
	s.Loop("directory", func(ctx context.Context) error { return people.Tidy(ctx, cfg.ReapInterval) })
	s.Loop("reaper", NewReaper(store, p.Clock, cfg, s.Log).Run)
	s.Loop("census", census.Run)
	bus.On(s.Subscribe(event.Access), access.Decided, decisions.Learn)

	s.Loop("signing keys", func(ctx context.Context) error { return rotation.Run(ctx, p.Conn) })
	s.Loop("encryption", func(ctx context.Context) error { return vault.Run(ctx, s.Log) })

	useCases{
		vault: vault, rotation: rotation, tokens: tokens, keys: keys, owners: owners, accounts: accounts, decisions: decisions, registry: registry,
	}.serve(s.Server)
	people.Serve(s.Server)
	return s, nil
}
