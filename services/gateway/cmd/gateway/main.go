// Command gateway runs the gateway as a process of its own.
package main

import (
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/services/gateway"
)

func main() { app.Run("gateway", gateway.Module) }
