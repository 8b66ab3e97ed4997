// Command agent runs the agent of one GPU node.
package main

import (
	"go.uber.org/fx"

	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/services/agent"
)

// An agent has no database, so it stands on the core and a bus connection only.
func main() {
	fx.New(app.Node("agent"), agent.Module).Run()
}
