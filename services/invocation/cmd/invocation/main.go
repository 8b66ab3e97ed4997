// Command invocation runs the invocation service as a process of its own.
package main

import (
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/services/invocation"
)

func main() { app.Run("invocation", invocation.Module) }
