// Command tasks runs the tasks service as a process of its own.
package main

import (
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/services/tasks"
)

func main() { app.Run("tasks", tasks.Module) }
