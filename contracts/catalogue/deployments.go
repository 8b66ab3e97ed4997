package catalogue

import "github.com/sirocco-cloud/sirocco/contracts/deployments"

var deploymentsEntries = []Entry{
	{"deployments.Create", deployments.Create},
	{"deployments.Replace", deployments.Replace},
	{"deployments.Get", deployments.Get},
	{"deployments.GetByID", deployments.GetByID},
	{"deployments.List", deployments.List},
	{"deployments.Delete", deployments.Delete},
	{"deployments.Patch", deployments.Patch},
	{"deployments.Instances", deployments.Instances},
	{"deployments.Wake", deployments.Wake},
	{"deployments.Scale", deployments.Scale},
	{"deployments.GetUsage", deployments.GetUsage},
	{"deployments.GetLiveUsage", deployments.GetLiveUsage},
	{"deployments.GetDeploymentUsage", deployments.GetDeploymentUsage},
	{"deployments.GetOffers", deployments.GetOffers},
	{"deployments.GetCapacity", deployments.GetCapacity},
	{"deployments.RollOver", deployments.RollOver},
	{"deployments.RemoveInstance", deployments.RemoveInstance},
	{"deployments.ListGoldenImages", deployments.ListGoldenImages},
	{"deployments.Created", deployments.Created},
	{"deployments.Updated", deployments.Updated},
	{"deployments.DrainStarted", deployments.DrainStarted},
	{"deployments.Removed", deployments.Removed},
	{"deployments.ScaleChanged", deployments.ScaleChanged},
	{"deployments.HealthChanged", deployments.HealthChanged},
	{"deployments.RolledOver", deployments.RolledOver},
	{"deployments.InstanceEnded", deployments.InstanceEnded},
	{"deployments.InstancePlaced", deployments.InstancePlaced},
	{"deployments.InstanceUnplaced", deployments.InstanceUnplaced},
}
