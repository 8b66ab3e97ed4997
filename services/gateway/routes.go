package gateway

import (
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// Short names for the tables in routes_*.go.
const (
	get, post   = http.MethodGet, http.MethodPost
	put, patch  = http.MethodPut, http.MethodPatch
	remove      = http.MethodDelete
	ok, nothing = http.StatusOK, http.StatusNoContent
)

// open marks a route that needs no credential.
var open *access.Row

// routes is the management API: method and path, what the credential must be allowed to do, the status of success, and
// the endpoint that answers. The aliases under /v2/orgs/… are rewritten to these paths before they are looked up.
func routes() []route {
	return slices.Concat(keyRoutes(), functionRoutes(), resourceRoutes(), deploymentRoutes(), clusterRoutes(), taskRoutes(), auditRoutes(), explainRoutes(), consoleRoutes())
}

// healthPatience bounds a look at the bus for /health.
const healthPatience = 2 * time.Second

// special are the routes that are more than a translation.
func (g *Gateway) special() map[string]http.HandlerFunc {
	const pexec = "/v2/nvcf/pexec/functions/{functionId}"
	return map[string]http.HandlerFunc{
		"POST /v1/admin/keys":                        g.mintAdminToken,
		"GET /.well-known/openid-configuration":      g.discovery,
		"GET /.well-known/jwks.json":                 g.publicKeys,
		"POST " + tokenPath:                          g.consoleToken,
		"POST " + oauthPath:                          g.oauthToken,
		"POST " + pexec:                              g.invokePexec,
		"POST " + pexec + "/versions/{versionId}":    g.invokePexec,
		"GET /v2/nvcf/pexec/status/{requestId}":      g.pollPexec,
		"OPTIONS " + pexec:                           preflight("POST"),
		"OPTIONS " + pexec + "/versions/{versionId}": preflight("POST"),
		"OPTIONS /v2/nvcf/pexec/status/{requestId}":  preflight("GET,HEAD"),
		"GET /v1/audit/stream":                       g.streamEvents,
		"PUT /v2/nvcf/objects/{assetId}":             g.putObject,
		"GET /v2/nvcf/objects/{assetId}":             g.getObject,
		"GET /livez":                                 func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) },
		"GET /healthz":                               func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("OK")) },
		"GET /readyz":                                g.health.ServeReady,
		"GET /startupz":                              g.health.ServeReady,
		"GET /metrics":                               g.serveMetrics,
		"GET /v3/openapi":                            g.serveOpenAPI,
		"GET /docs":                                  g.serveDocs,
	}
}

// serveMetrics is for scrapers on the same machine or network as the administrators.
func (g *Gateway) serveMetrics(w http.ResponseWriter, r *http.Request) {
	if p := g.mayScrape(r); p != nil {
		writeProblem(w, r, newRequestID(), p)
		return
	}
	promhttp.HandlerFor(g.metrics, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}

func (g *Gateway) mayScrape(r *http.Request) *problem.Problem {
	if g.fromAdminNetwork(r) {
		return nil
	}
	return problem.New(problem.Forbidden, "metrics are served to the networks of SIROCCO_ADMIN_NETWORKS only")
}

// minting is POST /v1/admin/keys as the audit record names it.
var minting = &station{service: "keys", method: http.MethodPost, route: "/v1/admin/keys"}

func mintReason(p *problem.Problem) access.Reason {
	switch {
	case p == nil:
		return access.ReasonOK
	case p.Code == problem.Forbidden:
		return access.ReasonCIDR
	}
	return access.ReasonNoCredential
}

// mintAdminToken takes any body and none (keys §6.1); who may is decided by the trust mode.
func (g *Gateway) mintAdminToken(w http.ResponseWriter, r *http.Request) {
	id := newRequestID()
	p := keysFace.tooLarge(r.Header)
	if p == nil {
		p = g.mayMint(r)
		g.decisions.note(minting, nil, mintReason(p), r, id)
	}
	if p != nil {
		writeProblem(w, r, id, p)
		return
	}
	caller := nobody()
	caller.RequestID, caller.Address = id, remoteHost(r)
	key, err := bus.Call(access.WithCaller(r.Context(), caller), g.conn, keys.MintAdminToken, rpc.None{})
	if err == nil {
		err = writeJSON(w, id, http.StatusOK, key)
	}
	if err != nil {
		g.refuse(w, r, id, err)
	}
}

// discovery names the issuer and where its keys are, by the address the caller used (keys §6.4).
func (g *Gateway) discovery(w http.ResponseWriter, r *http.Request) {
	scheme := "http"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	id := newRequestID()
	err := writeJSON(w, id, http.StatusOK, map[string]any{
		"issuer": keys.TokenIssuer, "jwks_uri": scheme + "://" + r.Host + "/.well-known/jwks.json",
		"id_token_signing_alg_values_supported": []string{"ES256"}, "response_types_supported": []string{"token"},
		"subject_types_supported": []string{"public"},
	})
	if err != nil {
		g.refuse(w, r, id, err)
	}
}

func (g *Gateway) publicKeys(w http.ResponseWriter, r *http.Request) {
	id := newRequestID()
	set, err := bus.Call(r.Context(), g.conn, keys.PublicKeys, rpc.None{})
	if err == nil {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		err = writeJSON(w, id, http.StatusOK, set)
	}
	if err != nil {
		g.refuse(w, r, id, err)
	}
}
