package gateway

import (
	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/audit"
)

// auditRoutes is the audit record.
func auditRoutes() []route {
	return []route{
		to(get, "/v1/audit/events", &access.ReadAudit, ok, audit.Events),
		to(post, "/v1/audit/verify", &access.ReadAudit, ok, audit.Verify),
	}
}
