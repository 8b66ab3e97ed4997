package gateway

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/audit"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// routes is the management API: method and path, what the credential must be allowed to do, the status of success, and
// the endpoint that answers. The aliases under /v2/orgs/… are rewritten to these paths before they are looked up.
func routes() []route {
	const (
		function    = "/v2/nvcf/functions/{functionId}"
		version     = function + "/versions/{versionId}"
		deployment  = "/v2/nvcf/deployments/functions/{functionId}/versions/{versionId}"
		specs       = "/v2/nvcf/deployments/{deploymentId}/gpu-specifications/{gpuSpecificationId}"
		queues      = "/v2/nvcf/queues/functions/{functionId}"
		get, post   = http.MethodGet, http.MethodPost
		put, patch  = http.MethodPut, http.MethodPatch
		remove      = http.MethodDelete
		ok, nothing = http.StatusOK, http.StatusNoContent
	)
	open := (*access.Row)(nil)
	return []route{
		to(post, "/v1/keys", open, ok, keys.Create),
		to(get, "/v1/keys", open, ok, keys.List),
		to(get, "/v1/keys/{id}", open, ok, keys.Get),
		to(remove, "/v1/keys/{id}", open, nothing, keys.Delete),
		to(post, "/v1/introspect", open, ok, keys.Introspect),
		to(get, "/v1/services", open, ok, keys.Services),
		to(get, "/v1/services/{service_id}", open, ok, keys.Service),

		to(post, "/v2/nvcf/functions", &access.CreateFunction, ok, functions.Create),
		to(get, "/v2/nvcf/functions", &access.ReadFunctions, ok, functions.List),
		to(get, "/v2/nvcf/functions/ids", &access.ReadFunctions, ok, functions.ListIDs),
		to(post, function+"/versions", &access.CreateVersion, ok, functions.Create),
		to(get, function+"/versions", &access.ReadFunctions, ok, functions.ListVersions),
		to(get, version, &access.ReadFunctions, ok, functions.Get),
		to(put, version, &access.WriteFunction, ok, functions.Update),
		to(put, "/v2/nvcf/metadata/functions/{functionId}/versions/{versionId}", &access.WriteFunction, ok, functions.Update),
		to(remove, version, &access.RemoveFunction, nothing, functions.Delete),

		to(post, deployment, &access.Deploy, ok, deployments.Create),
		to(put, deployment, &access.Deploy, ok, deployments.Replace),
		to(get, deployment, &access.ReadDeployment, ok, deployments.Get),
		to(remove, deployment, &access.ReadDeployment, ok, deployments.Delete),
		to(get, "/v2/nvcf/deployments", &access.ReadDeployment, ok, deployments.List),
		to(get, "/v2/nvcf/deployments/{deploymentId}", &access.ReadDeployment, ok, deployments.GetByID),
		to(patch, specs, &access.Deploy, ok, deployments.Patch),

		to(get, queues, &access.ReadQueues, ok, invocation.QueueDepth),
		to(get, queues+"/versions/{versionId}", &access.ReadQueues, ok, invocation.QueueDepth),

		to(get, "/v2/nvcf/clusterGroups", &access.ReadGroups, ok, clusters.Groups),
		to(get, "/v2/nvcf/supportedGpus", &access.SupportedGPUs, ok, clusters.SupportedGPUs),
		to(get, "/v2/nvcf/images", &access.ManageClusters, ok, clusters.ListImages),
		to(put, "/v2/nvcf/images", &access.ManageClusters, ok, clusters.PutImage),
		to(remove, "/v2/nvcf/images", &access.ManageClusters, nothing, clusters.DeleteImage),

		to(get, "/v1/audit/events", &access.ReadAudit, ok, audit.Events),
		to(post, "/v1/audit/verify", &access.ReadAudit, ok, audit.Verify),
	}
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
		"POST " + pexec:                              g.invokePexec,
		"POST " + pexec + "/versions/{versionId}":    g.invokePexec,
		"GET /v2/nvcf/pexec/status/{requestId}":      g.pollPexec,
		"OPTIONS " + pexec:                           preflight("POST"),
		"OPTIONS " + pexec + "/versions/{versionId}": preflight("POST"),
		"OPTIONS /v2/nvcf/pexec/status/{requestId}":  preflight("GET,HEAD"),
		"GET /v1/audit/stream":                       g.streamEvents,
		"GET /livez":                                 func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) },
		"GET /readyz":                                g.health.ServeReady,
		"GET /startupz":                              g.health.ServeReady,
		"GET /metrics":                               g.serveMetrics,
	}
}

// serveMetrics is for scrapers on the same machine or network as the administrators.
func (g *Gateway) serveMetrics(w http.ResponseWriter, r *http.Request) {
	if !g.fromAdminNetwork(r) {
		writeProblem(w, r, newRequestID(), problem.New(problem.Forbidden, "metrics are served to the networks of SIROCCO_ADMIN_NETWORKS only"))
		return
	}
	promhttp.HandlerFor(g.metrics, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}

// mintAdminToken is open to the administrators' networks, whatever the body is (keys §3, §6.1).
func (g *Gateway) mintAdminToken(w http.ResponseWriter, r *http.Request) {
	id := newRequestID()
	if !g.fromAdminNetwork(r) {
		writeProblem(w, r, id, problem.New(problem.Forbidden, "administrator tokens are minted for the networks of SIROCCO_ADMIN_NETWORKS only"))
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

func (g *Gateway) fromAdminNetwork(r *http.Request) bool {
	addr, err := netip.ParseAddr(remoteHost(r))
	if err != nil {
		return false
	}
	addr = addr.Unmap()
	for _, network := range g.admins {
		if network.Contains(addr) {
			return true
		}
	}
	return false
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
