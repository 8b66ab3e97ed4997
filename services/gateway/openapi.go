package gateway

import (
	_ "embed"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// The document is made by `make generate` from [Operations] and the contract types, so that the field descriptions are
// those of the Go types. A test fails when it is not current.
//
//go:embed openapi.json
var openAPI []byte

// docsPage shows the document to people; it asks nobody but this gateway for anything.
//
//go:embed docs.html
var docsPage []byte

// Operation is one route as its documentation needs it.
type Operation struct {
	Method, Path string
	// Area groups operations: the service that answers.
	Area string
	// Summary is one sentence.
	Summary string
	// Row is what the credential must be allowed to do; nil needs none.
	Row *access.Row
	// Trusted routes are open to the administrators' networks unless the install is secured.
	Trusted bool
	// Input and Output are contract types; nil is no body, and then Media may still name what the answer holds.
	Input, Output reflect.Type
	Status        int
	// Later says that the answer may also be 202 without a body: it is to be fetched by its NVCF-REQID.
	Later bool
	// Media type of the answer; empty means application/json.
	Media string
	// Refusal is the body of every refusal, and RefusalMedia its type.
	Refusal      reflect.Type
	RefusalMedia string
}

// Operations lists every management route, by path and then method.
func Operations() []Operation {
	var all []Operation
	for _, r := range withMirrors(routes()) {
		op := Operation{
			Method: r.method, Path: r.path, Area: r.endpoint.Owner, Summary: r.endpoint.Doc, Row: documented(r.row),
			Input: r.endpoint.Input, Output: r.endpoint.Output, Status: r.status,
			Trusted: r.row != nil && r.trusted(),
		}
		if op.Status == http.StatusNoContent || op.Output == reflect.TypeFor[rpc.None]() {
			op.Output = nil
		}
		if op.Input == reflect.TypeFor[rpc.None]() {
			op.Input = nil
		}
		all = append(all, op)
	}
	for pattern, op := range described {
		op.Method, op.Path, _ = strings.Cut(pattern, " ")
		if op.Status == 0 {
			op.Status = http.StatusOK
		}
		all = append(all, op)
	}
	for i := range all {
		all[i].Refusal, all[i].RefusalMedia = refusalAt(all[i].Path)
	}
	slices.SortFunc(all, func(a, b Operation) int { return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method) })
	return all
}

// refusalAt is how the API that a path belongs to refuses.
func refusalAt(path string) (body reflect.Type, media string) {
	switch faceOf(path) {
	case inventoryFace:
		return reflect.TypeFor[inventoryError](), "application/json"
	case consoleFace:
		if path == oauthPath {
			return reflect.TypeFor[oauthError](), "application/json"
		}
		return reflect.TypeFor[consoleError](), "application/json"
	case functionsFace, keysFace:
	}
	if path == "/readyz" || path == "/startupz" {
		return nil, "text/plain"
	}
	return reflect.TypeFor[problem.Document](), problem.ContentType
}

// serveOpenAPI answers GET /v3/openapi.
func (g *Gateway) serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPI)
}

// serveDocs answers GET /docs.
func (g *Gateway) serveDocs(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'")
	_, _ = w.Write(docsPage)
}
