// Command gateway runs the gateway as a process of its own.
package main

import (
	"go.uber.org/fx"

	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/services/gateway"
)

// The gateway has no database, so it stands on the core and a bus connection only.
func main() {
	fx.New(app.Node("gateway"), gateway.Module).Run()
}
