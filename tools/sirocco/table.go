package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// table says which members of an answer are worth a person's eye.
type table struct {
	// member holds the rows, or the one object; empty when the answer itself is it.
	member  string
	columns []column
}

// column is a title and the member below it; dots lead into objects, | names others to take where the first is absent.
type column struct{ title, member string }

// columns reads "TITLE member" pairs, which keeps tables of verbs readable.
func columns(pairs ...string) []column {
	var list []column
	for i := 0; i+1 < len(pairs); i += 2 {
		list = append(list, column{pairs[i], pairs[i+1]})
	}
	return list
}

// write shows an array as rows and an object as a list of its members.
func (t table) write(w io.Writer, raw []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var answer any
	if err := decoder.Decode(&answer); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if inner := at(answer, t.member); inner != nil {
		answer = inner
	}
	rows, isList := answer.([]any)
	if object, isObject := answer.(map[string]any); isObject && !isList && !t.absent(object) {
		return writeTable(w, nil, t.members(answer))
	}
	var header []string
	var cells [][]string
	for _, c := range t.columns {
		header = append(header, strings.ToUpper(c.title))
	}
	for _, row := range rows {
		var line []string
		for _, c := range t.columns {
			line = append(line, orDash(c.of(row)))
		}
		cells = append(cells, line)
	}
	return writeTable(w, header, cells)
}

// absent reports that the answer has neither the rows nor any member of one: an empty list that was left out.
func (t table) absent(object map[string]any) bool {
	return len(object) == 0 || len(t.members(object)) == 0
}

// members are the columns of one object, one per line; what it does not have is left out.
func (t table) members(object any) [][]string {
	var rows [][]string
	for _, c := range t.columns {
		if value := c.of(object); value != "" {
			rows = append(rows, []string{c.title, value})
		}
	}
	return rows
}

func (c column) of(row any) string {
	for name := range strings.SplitSeq(c.member, "|") {
		if value := cell(at(row, name)); value != "" {
			return value
		}
	}
	return ""
}

// at follows a path of member names.
func at(value any, path string) any {
	if path == "" {
		return value
	}
	for name := range strings.SplitSeq(path, ".") {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[name]
	}
	return value
}

// cell is a JSON value as a person reads it in a table; an absent one is empty.
func cell(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		if moment, err := time.Parse(time.RFC3339, v); err == nil {
			return shown(moment)
		}
		return v
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case json.Number:
		return v.String()
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []any:
		var parts []string
		for _, element := range v {
			parts = append(parts, cell(element))
		}
		return strings.Join(parts, ", ")
	case map[string]any:
		// An element of a list is known by its name or id.
		for _, name := range []string{"name", "id", "ncaId", "hostname"} {
			if text, ok := v[name].(string); ok {
				return text
			}
		}
		var parts []string
		for name, member := range v {
			parts = append(parts, name+"="+cell(member))
		}
		slices.Sort(parts)
		return strings.Join(parts, " ")
	}
	return fmt.Sprint(value)
}
