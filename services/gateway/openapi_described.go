package gateway

import (
	"reflect"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
)

// described documents the routes of [Gateway.special], which have no line in the route tables.
var described = map[string]Operation{
	"POST /v1/admin/keys": {
		Area: "keys", Output: reflect.TypeFor[keys.Key](),
		Summary: "Mints an administrator token. Any body is accepted and ignored.",
	},
	"GET /.well-known/openid-configuration": {
		Area: "gateway", Media: "application/json",
		Summary: "Names the issuer of tokens and where its public keys are.",
	},
	"GET /.well-known/jwks.json": {
		Area: "gateway", Output: reflect.TypeFor[keys.JWKS](), Media: "application/jwk-set+json",
		Summary: "The public signing keys, the current one first.",
	},
	"POST /v2/nvcf/pexec/functions/{functionId}": {
		Area: "invocation", Row: &access.Invoke, Media: "*/*", Later: true,
		Summary: "Invokes a function: 200 with the container's answer, or 202 with NVCF-REQID to poll for it.",
	},
	"POST /v2/nvcf/pexec/functions/{functionId}/versions/{versionId}": {
		Area: "invocation", Row: &access.Invoke, Media: "*/*", Later: true,
		Summary: "Invokes one version of a function.",
	},
	"GET /v2/nvcf/pexec/status/{requestId}": {
		Area: "invocation", Row: &access.Invoke, Media: "*/*", Later: true,
		Summary: "Waits for the answer to an invocation that was not ready in time.",
	},
	"GET /v1/audit/stream": {
		Area: "ledger", Row: &access.ReadAudit, Media: "text/event-stream",
		Summary: "Streams events of the audit record as they happen; Last-Event-ID goes on where a client stopped.",
	},
	"POST /api/v1/token": {
		Area: "keys", Input: reflect.TypeFor[directory.GrantRequest](), Output: reflect.TypeFor[directory.Tokens](),
		Summary: "Gives tokens for a password, a client secret or a refresh token. The names of members are matched without regard to case.",
	},
	"POST " + oauthPath: {
		Area: "keys", Media: "application/json",
		Summary: "Gives tokens as RFC 6749 describes, for a form and HTTP Basic.",
	},
	"PUT /v2/nvcf/objects/{assetId}": {
		Area:    "functions",
		Summary: "Stores the bytes of an asset. The address comes signed from POST /v2/nvcf/assets, so that it needs no credential.",
	},
	"GET /v2/nvcf/objects/{assetId}": {
		Area: "functions", Media: "*/*",
		Summary: "The bytes of an asset. The address comes signed from its content-redirect.",
	},
	"GET /livez":    {Area: "gateway", Media: "text/plain", Summary: "The process runs."},
	"GET /healthz":  {Area: "gateway", Media: "text/plain", Summary: "The process runs, as clients of the token issuer ask."},
	"GET /readyz":   {Area: "gateway", Media: "text/plain", Summary: "A function can be called; ?verbose says what is waited for."},
	"GET /startupz": {Area: "gateway", Media: "text/plain", Summary: "The process has started."},
	"GET /health":   {Area: "gateway", Media: "application/json", Summary: "Liveness as clients of the reference expect it."},
	"GET /metrics":  {Area: "gateway", Media: "text/plain", Summary: "Prometheus metrics, for the networks of the administrators."},
	"GET /v3/openapi": {
		Area: "gateway", Media: "application/json",
		Summary: "This document.",
	},
	"GET /docs": {Area: "gateway", Media: "text/html", Summary: "This document, for people."},
}
