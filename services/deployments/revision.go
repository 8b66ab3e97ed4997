package deployments

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// etag names what clients have asked for, for If-Match (§14). It is made of the specifications alone, so a change of
// status, which no client makes, does not get in a writer's way.
func (d *deployment) etag() string {
	h := sha256.New()
	h.Write([]byte(d.ID))
	for _, s := range d.Specs {
		b, err := json.Marshal(s.Specification)
		if err != nil { // what was decoded from JSON always encodes; a tag that matches nothing is the safe answer
			return `""`
		}
		h.Write(b)
	}
	return `"` + hex.EncodeToString(h.Sum(nil)[:12]) + `"`
}

// unchanged refuses a change that was meant for another state of the deployment.
func (d *deployment) unchanged(ifMatch string) error {
	if strings.TrimSpace(ifMatch) == "" {
		return nil
	}
	for tag := range strings.SplitSeq(ifMatch, ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || tag == d.etag() {
			return nil
		}
	}
	return problem.New(problem.PreconditionFailed, "deployment '%s' is at revision %s, not at the one of If-Match; read it and try again", d.ID, d.etag())
}

func respond(d *deployment) contract.Response {
	return contract.Response{Deployment: answer(d), ETag: d.etag()}
}
