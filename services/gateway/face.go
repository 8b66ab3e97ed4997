package gateway

import (
	"errors"
	"net/http"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// face is how an API looks to its clients where the documents of this project differ (keys §2.1).
type face int

const (
	// functionsFace answers 403 to a dead key and a problem document to everything.
	functionsFace face = iota
	// keysFace answers 401 to a dead key.
	keysFace
	// inventoryFace answers 401 to a dead key and {"error":"…"} to everything.
	inventoryFace
	// consoleFace answers 401 to a dead key and {"code":…,"message":"…"} to everything (keys §9).
	consoleFace
)

// faceOf knows the APIs by their paths, for any host may serve any path (keys §14, ruling 11).
func faceOf(path string) face {
	for _, tree := range []string{"/v1/accounts/", "/v1/si/", "/v1/nvca/"} {
		if strings.HasPrefix(path, tree) {
			return inventoryFace
		}
	}
	if strings.HasPrefix(path, "/api/v1/") || strings.HasPrefix(path, "/api/v2/") {
		return consoleFace
	}
	for _, tree := range []string{"/v1/keys", "/v1/introspect", "/v1/namespaces/", "/v1/admin/", "/v1/service-admin/", "/v1/services"} {
		if strings.HasPrefix(path, tree) {
			return keysFace
		}
	}
	return functionsFace
}

// faceFor is the face of a request. A function has paths of its own, which are no API of the platform.
func faceFor(r *http.Request) face {
	if d, p := classify(r); p != nil || d.functionID != "" || d.invocationHost {
		return functionsFace
	}
	return faceOf(r.URL.Path)
}

func (line *route) face() face { return faceOf(line.path) }

// refusal is a refusal of authentication as this API states it: a dead key is 401 where it is not 403 (keys §14,
// ruling 1).
func (f face) refusal(err error) error {
	p, ok := problem.From(err)
	if !ok || f == functionsFace || p.Code != problem.Forbidden || p.Detail != deadKey {
		return err
	}
	d, _ := errors.AsType[*denial](err)
	if d == nil {
		d = &denial{reason: access.ReasonUnknownKey}
	}
	return &denial{problem.New(problem.Unauthorized, deadKey), d.reason, d.of}
}

// Limits of request heads (keys §2 rule 4 and §2.1), in bytes.
const (
	maxKeysHeader      = 8 << 10
	maxInventoryBearer = 2048
)

// tooLarge refuses a head that the API does not take.
func (f face) tooLarge(h http.Header) *problem.Problem {
	switch f {
	case keysFace:
		size := 0
		for name, values := range h {
			for _, v := range values {
				size += len(name) + len(v) + len(": \r\n")
			}
		}
		if size > maxKeysHeader {
			return problem.New(problem.HeadersTooLarge, "the headers are larger than %d bytes in total", maxKeysHeader)
		}
	case inventoryFace:
		if token, p := bearer(h); p == nil && len(token) > maxInventoryBearer || len(h.Get("Authorization")) > maxBearer {
			return problem.New(problem.HeadersTooLarge, "JWT exceeds maximum size of %d bytes", maxInventoryBearer)
		}
	case functionsFace, consoleFace:
	}
	return nil
}

// inventoryError is the error body of the cluster inventory: clients read error, people the rest.
type inventoryError struct {
	Error                 string              `json:"error"`
	Detail                string              `json:"detail,omitempty"`
	Code                  problem.Code        `json:"code,omitempty"`
	RequestID             string              `json:"requestId,omitempty"`
	Violations            []problem.Violation `json:"errors,omitempty"`
	RequiredScopes        []string            `json:"required_scopes,omitempty"`
	RequiredResourceTypes []string            `json:"required_resource_types,omitempty"`
}

func inventoryErrorOf(p *problem.Problem, requestID string) inventoryError {
	e := inventoryError{
		Error: p.Detail, Code: p.Code, RequestID: requestID, Violations: p.Violations,
		RequiredScopes: p.RequiredScopes, RequiredResourceTypes: p.RequiredResourceTypes,
	}
	switch p.Status() {
	case http.StatusUnauthorized:
		e.Error = "Authentication failure - " + p.Detail
	case http.StatusForbidden:
		e.Error, e.Detail = "Access Denied", p.Detail
	}
	return e
}
