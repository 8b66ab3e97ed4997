// Command cluster-inventory runs the cluster inventory as a process of its own.
package main

import (
	"github.com/sirocco-cloud/sirocco/libs/app"
	clusterinventory "github.com/sirocco-cloud/sirocco/services/cluster-inventory"
)

func main() { app.Run("cluster-inventory", clusterinventory.Module) }
