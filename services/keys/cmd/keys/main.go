// Command keys runs the keys service as a process of its own.
package main

import (
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/services/keys"
)

func main() { app.Run("keys", keys.Module) }
