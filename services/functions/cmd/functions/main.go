// Command functions runs the functions service as a process of its own.
package main

import (
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/services/functions"
)

func main() { app.Run("functions", functions.Module) }
