package functions

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Asset is a file that an account uploads once and names in invocations (§8). Its bytes lie in an object store under
// <account>/<assetId>.
type Asset struct {
	AssetID     string    `json:"assetId"`
	ContentType string    `json:"contentType"`
	Description string    `json:"description"`
	CreatedAt   time.Time `json:"createdAt"`
}

// AssetDescription is the header in which an upload repeats the description of its asset.
const AssetDescription = "x-amz-meta-nvcf-asset-description"

// ObjectsPath is where the gateway serves the object store of the platform itself; signed addresses lie below it.
const ObjectsPath = "/v2/nvcf/objects/"

// ObjectsBucket is the bucket of that store in JetStream.
const ObjectsBucket = "assets"

// CreateAssetRequest is POST /v2/nvcf/assets.
type CreateAssetRequest struct {
	ContentType string `json:"contentType"`
	Description string `json:"description"`
}

// CreateAssetResponse says where the bytes go, in one PUT with the same content type and description.
type CreateAssetResponse struct {
	AssetID     string `json:"assetId"`
	UploadURL   string `json:"uploadUrl"`
	ContentType string `json:"contentType"`
	Description string `json:"description"`
}

// AssetRequest names one asset.
type AssetRequest struct {
	AssetID string `json:"assetId" path:"assetId"`
}

// AssetResponse holds one asset.
type AssetResponse struct {
	Asset Asset `json:"asset"`
}

// AssetsResponse holds the assets of an account.
type AssetsResponse struct {
	Assets []Asset `json:"assets"`
}

// ContentRedirectResponse says where the bytes of an asset can be read for a while.
type ContentRedirectResponse struct {
	PresignedURL string `json:"presignedUrl"`
}

// The endpoints for clients.
var (
	CreateAsset     = rpc.Endpoint[CreateAssetRequest, CreateAssetResponse]{Service: "functions", Resource: "asset", Verb: "create", Doc: "Makes an asset and says where to upload its bytes."}
	ListAssets      = rpc.Endpoint[rpc.None, AssetsResponse]{Service: "functions", Resource: "asset", Verb: "list", Doc: "The assets of an account."}
	GetAsset        = rpc.Endpoint[AssetRequest, AssetResponse]{Service: "functions", Resource: "asset", Verb: "get", Doc: "One asset."}
	ContentRedirect = rpc.Endpoint[AssetRequest, ContentRedirectResponse]{Service: "functions", Resource: "asset", Verb: "redirect", Doc: "Where the bytes of an asset can be read."}
	DeleteAsset     = rpc.Endpoint[AssetRequest, rpc.None]{Service: "functions", Resource: "asset", Verb: "delete", Doc: "Deletes an asset with its bytes."}
)

// LookupAssetsRequest asks for the assets that an invocation refers to.
type LookupAssetsRequest struct {
	Account  string   `json:"account"`
	AssetIDs []string `json:"assetIds"`
}

// ReadableAsset is an asset with an address from which a node may read its bytes for a while. An address that begins
// with a slash lies below the gateway.
type ReadableAsset struct {
	Asset
	URL string `json:"url"`
}

// LookupAssetsResponse holds the assets in the order of the request.
type LookupAssetsResponse struct {
	Assets []ReadableAsset `json:"assets"`
}

// LookupAssets is how the invocation of a function finds the assets it refers to. One that the account does not have,
// or whose bytes were never uploaded, is not_found with the text "failed to find asset <id>".
var LookupAssets = rpc.Endpoint[LookupAssetsRequest, LookupAssetsResponse]{Service: "functions", Resource: "asset", Verb: "lookup", Doc: "The assets an invocation refers to, for another service."}

// AdmitObjectRequest holds what an address below [ObjectsPath] was used for, and the query parameter signature of it.
type AdmitObjectRequest struct {
	AssetID   string `json:"assetId"`
	Method    string `json:"method"`
	Signature string `json:"signature"`
}

// AdmittedObject is what the holder of a signed address may do: read or write the object Key.
type AdmittedObject struct {
	Key         string `json:"key"`
	ContentType string `json:"contentType"`
	Description string `json:"description"`
	MaxBytes    int64  `json:"maxBytes"`
}

// AdmitObject is how the gateway asks whether a signed address is good. A refusal is forbidden or not_found.
var AdmitObject = rpc.Endpoint[AdmitObjectRequest, AdmittedObject]{Service: "functions", Resource: "object", Verb: "admit", Doc: "Whether a signed address of the object store is good, for the gateway."}

// The asset events.
var (
	AssetCreated = rpc.Event[AssetResponse]{Domain: event.Functions, Entity: "asset", Name: "registered", Version: 1, Doc: "An asset was made; its bytes may come later."}
	AssetDeleted = rpc.Event[AssetResponse]{Domain: event.Functions, Entity: "asset", Name: "discarded", Version: 1, Doc: "An asset was deleted with its bytes."}
)
