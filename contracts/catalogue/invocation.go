package catalogue

import "github.com/sirocco-cloud/sirocco/contracts/invocation"

var invocationEntries = []Entry{
	{"invocation.EnsureQueue", invocation.EnsureQueue},
	{"invocation.QueueDepth", invocation.QueueDepth},
	{"invocation.GetPosition", invocation.GetPosition},
	{"invocation.Detach", invocation.Detach},
	{"invocation.Find", invocation.Find},
	{"invocation.Finish", invocation.Finish},
	{"invocation.Detached", invocation.Detached},
	{"invocation.Finished", invocation.Finished},
	{"invocation.QueueProvided", invocation.QueueProvided},
	{"invocation.QueueRemoved", invocation.QueueRemoved},
}
