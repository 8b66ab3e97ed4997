package catalogue

import "github.com/sirocco-cloud/sirocco/contracts/functions"

var functionsEntries = []Entry{
	{"functions.Create", functions.Create},
	{"functions.Get", functions.Get},
	{"functions.List", functions.List},
	{"functions.ListIDs", functions.ListIDs},
	{"functions.ListVersions", functions.ListVersions},
	{"functions.Update", functions.Update},
	{"functions.Delete", functions.Delete},
	{"functions.Lookup", functions.Lookup},
	{"functions.Launch", functions.Launch},
	{"functions.SetStatus", functions.SetStatus},
	{"functions.Resolve", functions.Resolve},
	{"functions.Created", functions.Created},
	{"functions.Updated", functions.Updated},
	{"functions.Deleted", functions.Deleted},
	{"functions.StatusMoved", functions.StatusMoved},
}
