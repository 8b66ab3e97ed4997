// Command deployments runs the deployments service as a process of its own.
package main

import (
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/services/deployments"
)

func main() { app.Run("deployments", deployments.Module) }
