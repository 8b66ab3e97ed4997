package catalogue

import "github.com/sirocco-cloud/sirocco/contracts/audit"

var auditEntries = []Entry{
	{"audit.Events", audit.Events},
	{"audit.Verify", audit.Verify},
}
