package catalogue

import "github.com/sirocco-cloud/sirocco/contracts/instances"

var instancesEntries = []Entry{
	{"instances.Started", instances.Started},
	{"instances.Ready", instances.Ready},
	{"instances.Sickened", instances.Sickened},
	{"instances.Stopping", instances.Stopping},
	{"instances.Ended", instances.Ended},
	{"instances.Rested", instances.Rested},
	{"instances.Resumed", instances.Resumed},
	{"instances.Retained", instances.Retained},
	{"instances.Launch", instances.Launch},
	{"instances.Terminate", instances.Terminate},
	{"instances.UpdateSecrets", instances.UpdateSecrets},
}
