package catalogue

import "github.com/sirocco-cloud/sirocco/contracts/tasks"

var tasksEntries = []Entry{
	{"tasks.List", tasks.List},
	{"tasks.Created", tasks.Created},
}
