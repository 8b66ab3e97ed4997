package catalogue

import "github.com/sirocco-cloud/sirocco/contracts/clusters"

var clustersEntries = []Entry{
	{"clusters.Heartbeat", clusters.Heartbeat},
	{"clusters.Nodes", clusters.Nodes},
	{"clusters.Groups", clusters.Groups},
	{"clusters.SupportedGPUs", clusters.SupportedGPUs},
	{"clusters.PutImage", clusters.PutImage},
	{"clusters.DeleteImage", clusters.DeleteImage},
	{"clusters.ListImages", clusters.ListImages},
	{"clusters.FindImage", clusters.FindImage},
	{"clusters.CapacitySnapshot", clusters.CapacitySnapshot},
	{"clusters.CapacityDelta", clusters.CapacityDelta},
	{"clusters.NodeLeft", clusters.NodeLeft},
	{"clusters.ClusterRegistered", clusters.ClusterRegistered},
	{"clusters.ClusterMoved", clusters.ClusterMoved},
	{"clusters.NodeMoved", clusters.NodeMoved},
	{"clusters.ImagePut", clusters.ImagePut},
	{"clusters.ImageRemoved", clusters.ImageRemoved},
}
