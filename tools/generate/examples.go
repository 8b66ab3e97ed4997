package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"

	"github.com/google/uuid"
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
		e.Request, e.Response = illustrate(e.Request), illustrate(e.Response)
		if _, told := byOperation[e.Operation]; !told {
			byOperation[e.Operation] = e
		}
	}
	return byOperation, nil
}

// illustrate puts something that looks real where the replay fills in what an earlier answer gave.
func illustrate(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for name, member := range x {
			x[name] = illustrate(member)
		}
	case []any:
		for i, element := range x {
			x[i] = illustrate(element)
		}
	case string:
		return placeholder.ReplaceAllStringFunc(x, func(name string) string {
			switch name {
			case "{tomorrow}":
				return "2031-05-02T08:00:00Z"
			case "{key}":
				return "nvapi-nvcf-stg-…"
			}
			return uuid.NewSHA1(uuid.NameSpaceURL, []byte(name)).String()
		})
	}
	return v
}

// placeholder is a {name} that the replay fills in.
var placeholder = regexp.MustCompile(`\{[a-zA-Z]+\}`)
