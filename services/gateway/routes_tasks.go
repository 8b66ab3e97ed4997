package gateway

import (
	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/tasks"
)

// taskRoutes is what the tasks service answers so far (tasks, list).
func taskRoutes() []route {
	return []route{
		to(get, "/v1/nvct/tasks", &access.ReadTasks, ok, tasks.List),
	}
}
