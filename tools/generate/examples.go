package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

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

// complete adds to the example of an answer what its schema requires and the story does not tell, so that the document
// is valid with its examples and a reader sees whole answers.
func (s schemas) complete(v any, schema object) any {
	schema = s.resolve(schema)
	switch x := v.(type) {
	case map[string]any:
		members, _ := schema["properties"].(object)
		rest, _ := schema["additionalProperties"].(object)
		for name, member := range x {
			if described, ok := members[name].(object); ok {
				x[name] = s.complete(member, described)
			} else {
				x[name] = s.complete(member, rest)
			}
		}
		required, _ := schema["required"].([]string)
		for _, name := range required {
			if _, told := x[name]; !told {
				described, _ := members[name].(object)
				x[name] = s.plausible(name, described)
			}
		}
	case []any:
		items, _ := schema["items"].(object)
		for i, element := range x {
			x[i] = s.complete(element, items)
		}
	}
	return v
}

// plausible is a value that a schema accepts.
func (s schemas) plausible(name string, schema object) any {
	schema = s.resolve(schema)
	values, _ := schema["enum"].([]string)
	switch {
	case len(values) > 0:
		return values[0]
	case schema["format"] == "date-time":
		return "2031-05-01T08:00:00Z"
	case schema["type"] == "string" && strings.HasSuffix(strings.ToLower(name), "id"):
		return "3f1c9a52-7d0e-5b8a-9c64-2e8f5a1d7b03"
	case schema["type"] == "string":
		return name
	case schema["type"] == "integer", schema["type"] == "number":
		return 1
	case schema["type"] == "boolean":
		return false
	case schema["type"] == "array":
		return []any{}
	default:
		return s.complete(map[string]any{}, schema)
	}
}

func (s schemas) resolve(schema object) object {
	reference, _ := schema["$ref"].(string)
	if named, ok := s.known[strings.TrimPrefix(reference, "#/components/schemas/")].(object); ok {
		return named
	}
	return schema
}
