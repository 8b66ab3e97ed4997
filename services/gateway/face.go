package gateway

import (
	"strings"

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
)

// faceOf knows the APIs by their paths, for any host may serve any path (keys §14, ruling 11).
func faceOf(path string) face {
	for _, tree := range []string{"/v1/accounts/", "/v1/si/", "/v1/nvca/"} {
		if strings.HasPrefix(path, tree) {
			return inventoryFace
		}
	}
	for _, tree := range []string{"/v1/keys", "/v1/introspect", "/v1/namespaces/", "/v1/admin/", "/v1/service-admin/"} {
		if strings.HasPrefix(path, tree) {
			return keysFace
		}
	}
	return functionsFace
}

func (line *route) face() face { return faceOf(line.path) }

// refusal is a refusal of authentication as this API states it: a dead key is 401 where it is not 403 (keys §14,
// ruling 1).
func (f face) refusal(err error) error {
	if p, ok := problem.From(err); ok && f != functionsFace && p.Code == problem.Forbidden && p.Detail == deadKey {
		return problem.New(problem.Unauthorized, deadKey)
	}
	return err
}
