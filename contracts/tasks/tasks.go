// Package tasks is the contract of the tasks service: batch runs of a container on GPUs (spec tasks). The service has
// its room and its stream; its endpoints come with the tasks issue.
package tasks

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Task is one run, as far as this release knows it.
type Task struct {
	ID        string    `json:"id"`
	NCAID     string    `json:"ncaId"`
	Name      string    `json:"name"`
	Status    string    `json:"status"`
	CreatedAt time.Time `json:"createdAt"`
}

// ListRequest is GET /v1/nvct/tasks.
type ListRequest struct{}

// ListResponse answers ListRequest.
type ListResponse struct {
	Tasks []Task `json:"tasks"`
}

// List is the one endpoint of this release.
var List = rpc.Endpoint[ListRequest, ListResponse]{Service: "tasks", Resource: "task", Verb: "list", Doc: "The tasks of the account."}

// Changed is the payload of the task events.
type Changed struct {
	Task Task `json:"task"`
}

// Created is published when a task is accepted.
var Created = rpc.Event[Changed]{Domain: event.Tasks, Entity: "task", Name: "created", Version: 1, Doc: "A task was accepted."}
