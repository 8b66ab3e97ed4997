package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
)

// The examples are one story, told from top to bottom: the end-to-end suite replays it against a running platform, so an
// answer here is what a reader gets.
//
//go:embed examples.json
var story []byte

// example is one call of the story. Its path parameters and {names} in the request are filled from earlier answers.
type example struct {
	Operation string `json:"operation"`
	Request   any    `json:"request"`
	Response  any    `json:"response"`
}

// readExamples indexes the story by operation; of two calls of one operation the first is shown.
func readExamples() (map[string]example, error) {
	var all []example
	if err := json.Unmarshal(story, &all); err != nil {
		return nil, fmt.Errorf("examples.json: %w", err)
	}
	byOperation := make(map[string]example, len(all))
	for _, e := range all {
		if _, told := byOperation[e.Operation]; !told {
			byOperation[e.Operation] = e
		}
	}
	return byOperation, nil
}
