package functions

import (
	"context"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/services/functions/objects"
)

// AssetConfig says where the bytes of assets lie and how many there may be.
type AssetConfig struct {
	// PublicURL is how clients reach the gateway, such as https://api.corp.example; when it is empty, addresses are made
	// from what the client called the gateway.
	PublicURL string `env:"SIROCCO_PUBLIC_URL"`
	// MaxBytes bounds one asset in the platform's own store.
	MaxBytes int64 `env:"SIROCCO_ASSET_MAX_BYTES" envDefault:"1073741824"`
	// StoreBytes bounds all assets together there.
	StoreBytes int64 `env:"SIROCCO_OBJECTS_MAX_BYTES" envDefault:"17179869184"`
	// MaxAssets bounds the assets of one account, so that their list fits into an answer.
	MaxAssets int `env:"SIROCCO_ASSETS_MAX" envDefault:"10000"`
	S3        objects.S3Config
}

// complete puts the defaults in the place of what is not positive.
func (c AssetConfig) complete() AssetConfig {
	if c.MaxBytes <= 0 {
		c.MaxBytes = 1 << 30
	}
	if c.StoreBytes <= 0 {
		c.StoreBytes = 16 << 30
	}
	if c.MaxAssets <= 0 {
		c.MaxAssets = 10_000
	}
	return c
}

const (
	maxContentType = 127
	// addressLife is how long a signed address is good.
	addressLife = time.Hour
	// sweepInterval is how often objects without an asset are looked for; a deletion rings sooner.
	sweepInterval = time.Minute
	// maxLookup bounds the assets of one invocation.
	maxLookup = 128
)

// assetKey is where the bytes of an asset lie (§8).
func assetKey(account, assetID string) string { return account + "/" + assetID }

// object is what the store must know of an asset.
func object(account string, a contract.Asset) objects.Object {
	return objects.Object{Key: assetKey(account, a.AssetID), ContentType: a.ContentType, Description: a.Description}
}

// CreateAsset makes an asset and says where to upload its bytes (§8).
func (f *Functions) CreateAsset(ctx context.Context, r contract.CreateAssetRequest) (contract.CreateAssetResponse, error) {
	none := contract.CreateAssetResponse{}
	caller, err := client(ctx)
	if err != nil {
		return none, err
	}
	a := contract.Asset{
		AssetID: uuid.NewString(), ContentType: strings.TrimSpace(r.ContentType), Description: strings.TrimSpace(r.Description), CreatedAt: f.moment(),
	}
	c := newChecker("asset")
	apply(c, "", assetRules, a)
	if err := c.Err(); err != nil {
		return none, err
	}
	address, err := f.objects.UploadURL(ctx, object(caller.Account, a), addressLife)
	if err != nil {
		return none, err
	}
	err = f.store.change(ctx, func(u unit) error {
		if err := u.lockAll(ctx, "assets", caller.Account); err != nil {
			return err
		}
		n, err := u.countAssets(ctx, caller.Account)
		if err != nil {
			return err
		}
		if n >= f.assets.MaxAssets {
			return limitReached(caller.Account, n, "assets", "SIROCCO_ASSETS_MAX")
		}
		if err := u.insertAsset(ctx, caller.Account, a); err != nil {
			return err
		}
		return announce(ctx, u, contract.AssetCreated, caller.Account, a.AssetID, contract.AssetResponse{Asset: a})
	})
	return contract.CreateAssetResponse{
		AssetID: a.AssetID, UploadURL: f.reachable(caller, address), ContentType: a.ContentType, Description: a.Description,
	}, err
}

var assetRules = []rule[contract.Asset]{
	{"contentType", "is required: a media type such as image/png, 127 characters at most", func(a contract.Asset) bool {
		media, _, err := mime.ParseMediaType(a.ContentType)
		return err == nil && strings.Contains(media, "/") && len(a.ContentType) <= maxContentType && isHeader(a.ContentType)
	}},
	{"description", "is required: 1 to 256 characters, none of them a control character", func(a contract.Asset) bool {
		return a.Description != "" && isDescription(a.Description) && isHeader(a.Description)
	}},
}

// isHeader reports whether a text can be the value of a header.
func isHeader(s string) bool { return !strings.ContainsFunc(s, unicode.IsControl) }

// reachable completes an address below the gateway with the gateway's own.
func (f *Functions) reachable(caller access.Caller, address string) string {
	if !strings.HasPrefix(address, "/") {
		return address
	}
	if f.assets.PublicURL != "" {
		return strings.TrimRight(f.assets.PublicURL, "/") + address
	}
	return bare(caller.Origin) + address
}

// bare takes the label of a service off an origin that no resolver knows under its full name: a client that calls
// 127.0.0.1:8080 with the Host api.127.0.0.1:8080 must reach the address too.
func bare(origin string) string {
	u, err := url.Parse(origin)
	if err != nil {
		return origin
	}
	_, rest, ok := strings.Cut(u.Host, ".")
	if !ok || net.ParseIP(u.Hostname()) != nil {
		return origin
	}
	name := (&url.URL{Host: rest}).Hostname()
	if net.ParseIP(name) == nil && name != "localhost" {
		return origin
	}
	return u.Scheme + "://" + rest
}

// ListAssets returns the assets of the account, newest first.
func (f *Functions) ListAssets(ctx context.Context, _ rpc.None) (contract.AssetsResponse, error) {
	answer := contract.AssetsResponse{Assets: []contract.Asset{}}
	caller, err := client(ctx)
	if err != nil {
		return answer, err
	}
	all, err := f.store.assets(ctx, caller.Account)
	answer.Assets = append(answer.Assets, all...)
	return answer, err
}

// GetAsset returns one asset.
func (f *Functions) GetAsset(ctx context.Context, r contract.AssetRequest) (contract.AssetResponse, error) {
	_, a, err := f.assetNamed(ctx, r)
	return contract.AssetResponse{Asset: a}, err
}

// ContentRedirect says where the bytes of an asset can be read for a while.
func (f *Functions) ContentRedirect(ctx context.Context, r contract.AssetRequest) (contract.ContentRedirectResponse, error) {
	none := contract.ContentRedirectResponse{}
	caller, a, err := f.assetNamed(ctx, r)
	if err != nil {
		return none, err
	}
	address, err := f.objects.DownloadURL(ctx, object(caller.Account, a), addressLife)
	if err != nil {
		return none, err
	}
	return contract.ContentRedirectResponse{PresignedURL: f.reachable(caller, address)}, nil
}

func (f *Functions) assetNamed(ctx context.Context, r contract.AssetRequest) (caller access.Caller, a contract.Asset, err error) {
	if caller, err = client(ctx); err != nil {
		return caller, a, err
	}
	assetID, err := id("assetId", r.AssetID)
	if err != nil {
		return caller, a, err
	}
	a, found, err := f.store.asset(ctx, caller.Account, assetID, unlocked)
	if err == nil && !found {
		err = assetNotFound(caller.Account, assetID)
	}
	return caller, a, err
}

// DeleteAsset deletes an asset. Its bytes follow; from now on no address of them is good.
func (f *Functions) DeleteAsset(ctx context.Context, r contract.AssetRequest) (rpc.None, error) {
	caller, err := client(ctx)
	if err != nil {
		return rpc.None{}, err
	}
	assetID, err := id("assetId", r.AssetID)
	if err != nil {
		return rpc.None{}, err
	}
	err = f.store.change(ctx, func(u unit) error {
		a, found, err := u.asset(ctx, caller.Account, assetID, forUpdate)
		if err != nil {
			return err
		}
		if !found {
			return assetNotFound(caller.Account, assetID)
		}
		if err := u.deleteAsset(ctx, assetID, assetKey(caller.Account, assetID), f.moment()); err != nil {
			return err
		}
		return announce(ctx, u, contract.AssetDeleted, caller.Account, assetID, contract.AssetResponse{Asset: a})
	})
	if err == nil {
		f.ringSweeper()
	}
	return rpc.None{}, err
}

func assetNotFound(account, assetID string) *problem.Problem {
	return problem.New(problem.NotFound, "Account '%s' Asset '%s': Not found", account, assetID)
}

// LookupAssets finds the assets that an invocation refers to, for another service.
func (f *Functions) LookupAssets(ctx context.Context, r contract.LookupAssetsRequest) (contract.LookupAssetsResponse, error) {
	answer := contract.LookupAssetsResponse{Assets: []contract.ReadableAsset{}}
	if len(r.AssetIDs) > maxLookup {
		return answer, problem.New(problem.BadRequest, "assetIds: must have %d entries at most", maxLookup)
	}
	for i, given := range r.AssetIDs {
		assetID, err := id(fmt.Sprintf("assetIds[%d]", i), given)
		if err != nil {
			return answer, err
		}
		a, found, err := f.store.asset(ctx, r.Account, assetID, unlocked)
		if err == nil && found {
			found, err = f.objects.Has(ctx, assetKey(r.Account, assetID))
		}
		if err != nil {
			return answer, err
		}
		if !found {
			return answer, problem.New(problem.NotFound, "Account '%s': failed to find asset %s: Not found", r.Account, assetID)
		}
		address, err := f.objects.DownloadURL(ctx, object(r.Account, a), addressLife)
		if err != nil {
			return answer, err
		}
		answer.Assets = append(answer.Assets, contract.ReadableAsset{Asset: a, URL: address})
	}
	return answer, nil
}

// AdmitObject tells the gateway whether an address of the platform's own store is good.
func (f *Functions) AdmitObject(ctx context.Context, r contract.AdmitObjectRequest) (contract.AdmittedObject, error) {
	none := contract.AdmittedObject{}
	assetID, err := id("assetId", r.AssetID)
	if err != nil {
		return none, err
	}
	admitted := false
	if own, ok := f.objects.(*objects.Embedded); ok {
		if admitted, err = own.Admits(ctx, r.Method, assetID, r.Signature); err != nil {
			return none, err
		}
		if admitted && r.Method == http.MethodPut {
			if err := own.Restore(ctx); err != nil {
				return none, err
			}
		}
	}
	if !admitted {
		return none, problem.New(problem.Forbidden, "this address is not signed for the request, or its time is over; ask for another one")
	}
	account, a, found, err := f.store.assetOfAnyone(ctx, assetID)
	if err != nil {
		return none, err
	}
	if !found {
		return none, problem.New(problem.NotFound, "Asset '%s': Not found", assetID)
	}
	return contract.AdmittedObject{
		Key: assetKey(account, assetID), ContentType: a.ContentType, Description: a.Description, MaxBytes: f.assets.MaxBytes,
	}, nil
}

// openObjects makes the store of bytes.
func (f *Functions) openObjects(ctx context.Context, conn *bus.Conn) (err error) {
	if f.assets.S3.Endpoint != "" {
		f.objects, err = objects.NewS3(f.assets.S3, &http.Client{Timeout: askPatience})
		return err
	}
	bucket := conn.Objects(contract.ObjectsBucket, f.assets.StoreBytes)
	if err := bucket.Declare(ctx); err != nil {
		return err
	}
	f.objects = objects.NewEmbedded(bucket, f.objectSecret, f.now)
	return nil
}

// ringSweeper lets [Functions.Sweep] look at once.
func (f *Functions) ringSweeper() {
	select {
	case f.doomed <- struct{}{}:
	default:
	}
}

// Sweep deletes the bytes of assets that are gone, until ctx ends. Replicas may do it at once.
func (f *Functions) Sweep(ctx context.Context, clock quartz.Clock) error {
	tick := clock.NewTicker(sweepInterval, "functions", "sweep")
	defer tick.Stop()
	for {
		if err := f.sweep(ctx); err != nil && ctx.Err() == nil {
			f.log.Warn("objects of deleted assets stay for now", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-f.doomed:
		}
	}
}

func (f *Functions) sweep(ctx context.Context) error {
	for {
		keys, err := f.store.doomedObjects(ctx)
		if err != nil || len(keys) == 0 {
			return err
		}
		for _, key := range keys {
			if err := f.objects.Delete(ctx, key); err != nil {
				return err
			}
			if err := f.store.forgetObject(ctx, key); err != nil {
				return err
			}
		}
	}
}
