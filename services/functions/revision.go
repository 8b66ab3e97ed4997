package functions

import (
	"strconv"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// etag names the revision of a version for If-Match.
func (v version) etag() string { return `"` + strconv.FormatInt(v.revision, 10) + `"` }

// matches holds a version against an If-Match header: a list of tags, or * for any. An empty header asks for nothing.
func (v version) matches(header string) error {
	if strings.TrimSpace(header) == "" {
		return nil
	}
	for tag := range strings.SplitSeq(header, ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || tag == v.etag() {
			return nil
		}
	}
	return problem.New(problem.PreconditionFailed, "version '%s' is at revision %s, not at the one of If-Match; read it and try again", v.id, v.etag())
}
