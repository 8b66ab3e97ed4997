// Command ledger runs the ledger service as a process of its own.
package main

import (
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/services/ledger"
)

func main() { app.Run("ledger", ledger.Module) }
