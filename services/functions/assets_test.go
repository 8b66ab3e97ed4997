package functions

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// via is an administrator who called the gateway by this origin.
func via(origin string) access.Caller {
	c := admin()
	c.Origin = origin
	return c
}

func (w *world) asset(contentType, description string) contract.CreateAssetResponse {
	w.t.Helper()
	answer, err := call(w, via("http://127.0.0.1:8080"), contract.CreateAsset, contract.CreateAssetRequest{ContentType: contentType, Description: description})
	require.NoError(w.t, err)
	return answer
}

// admit asks what the gateway would ask for a request at an address.
func (w *world) admit(method, address string) (contract.AdmittedObject, error) {
	w.t.Helper()
	u, err := url.Parse(address)
	require.NoError(w.t, err)
	return asService(w, contract.AdmitObject, contract.AdmitObjectRequest{
		AssetID: strings.TrimPrefix(u.Path, contract.ObjectsPath), Method: method, Signature: u.Query().Get("signature"),
	})
}

func (w *world) bucket() *bus.Objects { return w.conn.Objects(contract.ObjectsBucket, 0) }

func TestAssets(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, Config{Assets: AssetConfig{StoreBytes: 1 << 20, MaxBytes: 1 << 10}})
	made := w.asset("image/png", "a picture")
	require.Equal(t, contract.CreateAssetResponse{AssetID: made.AssetID, UploadURL: made.UploadURL, ContentType: "image/png", Description: "a picture"}, made)
	require.True(t, strings.HasPrefix(made.UploadURL, "http://127.0.0.1:8080"+contract.ObjectsPath+made.AssetID+"?"), made.UploadURL)
	second := w.asset("text/plain; charset=utf-8", "words")

	list, err := call(w, admin(), contract.ListAssets, rpc.None{})
	require.NoError(t, err)
	require.Equal(t, []string{second.AssetID, made.AssetID}, []string{list.Assets[0].AssetID, list.Assets[1].AssetID})
	got, err := call(w, admin(), contract.GetAsset, contract.AssetRequest{AssetID: made.AssetID})
	require.NoError(t, err)
	require.Equal(t, contract.Asset{AssetID: made.AssetID, ContentType: "image/png", Description: "a picture", CreatedAt: w.clock.Now().UTC().Truncate(time.Millisecond)}, got.Asset)

	object, err := w.admit(http.MethodPut, made.UploadURL)
	require.NoError(t, err)
	require.Equal(t, contract.AdmittedObject{Key: account + "/" + made.AssetID, ContentType: "image/png", Description: "a picture", MaxBytes: 1 << 10}, object)
	_, err = w.admit(http.MethodGet, made.UploadURL)
	requireProblem(t, err, problem.Forbidden, "not signed")

	redirect, err := call(w, via("https://api.corp.example"), contract.ContentRedirect, contract.AssetRequest{AssetID: made.AssetID})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(redirect.PresignedURL, "https://api.corp.example"+contract.ObjectsPath))
	_, err = w.admit(http.MethodGet, redirect.PresignedURL)
	require.NoError(t, err)

	request := contract.AssetRequest{AssetID: made.AssetID}
	missing := fmt.Sprintf("Account 'other' Asset '%s': Not found", made.AssetID)
	_, err = call(w, adminOf("other"), contract.GetAsset, request)
	requireProblem(t, err, problem.NotFound, missing)
	_, err = call(w, adminOf("other"), contract.ContentRedirect, request)
	requireProblem(t, err, problem.NotFound, missing)
	_, err = call(w, adminOf("other"), contract.DeleteAsset, request)
	requireProblem(t, err, problem.NotFound, missing)
	elsewhere, err := call(w, adminOf("other"), contract.ListAssets, rpc.None{})
	require.NoError(t, err)
	require.NotNil(t, elsewhere.Assets)
	require.Empty(t, elsewhere.Assets)

	_, err = w.bucket().Put(t.Context(), object.Key, strings.NewReader("bytes"))
	require.NoError(t, err)
	_, err = call(w, admin(), contract.DeleteAsset, request)
	require.NoError(t, err)
	_, err = call(w, admin(), contract.DeleteAsset, request)
	requireProblem(t, err, problem.NotFound, "Not found")
	_, err = w.admit(http.MethodPut, made.UploadURL)
	requireProblem(t, err, problem.NotFound, made.AssetID)
	w.gone(object.Key)
	types, _ := w.facts(made.AssetID, 2)
	require.Equal(t, []string{"nvcf.functions.asset_registered.v1", "nvcf.functions.asset_discarded.v1"}, types)
}

// gone waits until an object is deleted.
func (w *world) gone(key string) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		there, err := w.bucket().Has(w.t.Context(), key)
		return err == nil && !there
	}, patience, 2*time.Millisecond)
}

func TestAssetRules(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, Config{Assets: AssetConfig{MaxAssets: 1}})
	for field, r := range map[string][]contract.CreateAssetRequest{
		"contentType": {
			{Description: "d"},
			{ContentType: "image", Description: "d"},
			{ContentType: "image/png\r\nX: y", Description: "d"},
			{ContentType: "image/" + strings.Repeat("p", 130), Description: "d"},
		},
		"description": {
			{ContentType: "image/png"},
			{ContentType: "image/png", Description: "  "},
			{ContentType: "image/png", Description: "a\nb"},
			{ContentType: "image/png", Description: strings.Repeat("d", 257)},
		},
	} {
		for _, request := range r {
			_, err := call(w, admin(), contract.CreateAsset, request)
			requireProblem(t, err, problem.Validation, "field: "+field+",")
		}
	}
	w.asset("image/png", "the only one")
	_, err := call(w, admin(), contract.CreateAsset, contract.CreateAssetRequest{ContentType: "image/png", Description: "d"})
	requireProblem(t, err, problem.BadRequest, "SIROCCO_ASSETS_MAX")
	_, err = call(w, admin(), contract.GetAsset, contract.AssetRequest{AssetID: "x"})
	requireProblem(t, err, problem.Validation, "assetId")
}

func TestLookupAssets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.asset("image/png", "a picture")
	lookup := func(account string, ids ...string) (contract.LookupAssetsResponse, error) {
		return asService(w, contract.LookupAssets, contract.LookupAssetsRequest{Account: account, AssetIDs: ids})
	}
	_, err := lookup(account, made.AssetID)
	requireProblem(t, err, problem.NotFound, "failed to find asset "+made.AssetID)
	_, err = w.bucket().Put(t.Context(), account+"/"+made.AssetID, strings.NewReader("bytes"))
	require.NoError(t, err)
	found, err := lookup(account, strings.ToUpper(made.AssetID))
	require.NoError(t, err)
	require.Equal(t, "image/png", found.Assets[0].ContentType)
	_, err = w.admit(http.MethodGet, found.Assets[0].URL)
	require.NoError(t, err)
	_, err = lookup("other", made.AssetID)
	requireProblem(t, err, problem.NotFound, "failed to find asset")
	_, err = lookup(account, uuid.NewString())
	requireProblem(t, err, problem.NotFound, "failed to find asset")
	_, err = lookup(account, "x")
	requireProblem(t, err, problem.Validation, "assetIds[0]")
	_, err = lookup(account, make([]string, maxLookup+1)...)
	requireProblem(t, err, problem.BadRequest, "assetIds")
}

func TestReplicasSignAlike(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(Config{}, zap.NewNop())
	address := w.asset("image/png", "a picture").UploadURL
	for range 8 {
		_, err := w.admit(http.MethodPut, address)
		require.NoError(t, err)
		_, err = w.admit(http.MethodPut, w.asset("image/png", "another").UploadURL)
		require.NoError(t, err)
	}
}

func TestWhatAnAccountLeavesIsDropped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.asset("image/png", "a picture")
	key := account + "/" + made.AssetID
	_, err := w.bucket().Put(t.Context(), key, strings.NewReader("bytes"))
	require.NoError(t, err)
	w.telemetry("logs", "LOGS")
	w.credential(credentialRequest("nvcr.io", contract.ContainerArtifact))
	outbox := store.NewOutbox(schema) // stands in for that of the keys service
	require.NoError(t, store.InTx(t.Context(), w.pool, func(tx pgx.Tx) error {
		journal := bus.NewJournal("keys", outbox, func() time.Time { return w.clock.Now() })
		closed := keys.AccountResponse{Account: keys.Account{NCAID: account}}
		return bus.Record(t.Context(), tx, journal, keys.AccountDeleted, bus.Fact{Account: account, Entity: account}, closed)
	}, outbox))
	require.Eventually(t, func() bool {
		use, err := asService(w, contract.AccountUse, contract.AccountUseRequest{Account: account})
		return err == nil && len(use.Telemetries) == 0 && len(use.RegistryCredentials) == 0
	}, patience, 5*time.Millisecond)
	_, err = call(w, admin(), contract.GetAsset, contract.AssetRequest{AssetID: made.AssetID})
	requireProblem(t, err, problem.NotFound)
	// The next deletion rings; without one the bytes would stay for a minute.
	_, err = call(w, admin(), contract.DeleteAsset, contract.AssetRequest{AssetID: w.asset("image/png", "another").AssetID})
	require.NoError(t, err)
	w.gone(key)
}

func TestAddressesThatClientsCanReach(t *testing.T) {
	t.Parallel()
	for origin, want := range map[string]string{
		"http://127.0.0.1:8080": "http://127.0.0.1:8080", "http://api.127.0.0.1:8080": "http://127.0.0.1:8080", "http://api.localhost:8080": "http://localhost:8080",
		"http://localhost": "http://localhost", "https://api.corp.example": "https://api.corp.example", "http://[::1]:8080": "http://[::1]:8080",
		"http://gateway:8080": "http://gateway:8080",
	} {
		require.Equal(t, want, bare(origin), origin)
	}
	f := &Functions{resources: &resources{assets: AssetConfig{PublicURL: "https://x.example/"}}}
	require.Equal(t, "https://x.example/v2/a", f.reachable(via("http://y"), "/v2/a"))
	require.Equal(t, "https://s3/a", f.reachable(via("http://y"), "https://s3/a"))
}
