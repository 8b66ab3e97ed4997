package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// A refusal of a value repeats the value (functions-deployments §1.2). The services name the field; what stood there is
// looked up here, in the request itself, so that every service tells it alike and none of them can tell a secret: the
// contract marks those fields with the tag secret:"true".

type inputKey struct{}

// withInput says which type a request is read into, for its refusal.
func withInput(r *http.Request, input reflect.Type) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), inputKey{}, input))
}

// quoting completes a problem with what the request had in place of its violations.
func quoting(r *http.Request, p *problem.Problem) *problem.Problem {
	if len(p.Violations) == 0 {
		return p
	}
	input, _ := r.Context().Value(inputKey{}).(reflect.Type)
	s := &sent{r: r, input: input}
	return p.Quoting(s.at)
}

// sent is what a client sent.
type sent struct {
	r     *http.Request
	input reflect.Type
	body  any
	read  bool
}

// at is what stood at the path of a field, such as models[1].name: a string as it is, anything else as JSON, and null when
// there was nothing.
func (s *sent) at(field string) string {
	steps := stepsOf(field)
	if s.input != nil && s.input.Kind() == reflect.Struct && len(steps) > 0 {
		for _, f := range bindingOf(s.input).tagged {
			if f.name == steps[0] {
				return quoted(s.outside(f.source, f.name))
			}
		}
		return s.inside(steps)
	}
	for _, source := range []string{"path", "query", "header"} {
		if v := s.outside(source, field); v != nil {
			return quoted(v)
		}
	}
	return problem.Hidden
}

// outside is a parameter of the path, the query or a header; nil when there is none.
func (s *sent) outside(source, name string) any {
	var values []string
	switch source {
	case "path":
		if v := s.r.PathValue(name); v != "" {
			values = []string{v}
		}
	case "query":
		values = s.r.URL.Query()[name]
	case "header":
		if name != "Authorization" && name != "Cookie" {
			values = s.r.Header.Values(name)
		}
	}
	if len(values) == 0 {
		return nil
	}
	return strings.Join(values, ",")
}

// inside follows the steps into the body and its type.
func (s *sent) inside(steps []string) string {
	if !s.read {
		s.read = true
		s.body = readBack(s.r)
	}
	value, t := s.body, s.input
	if steps[0] == "body" {
		if _, known := memberNamed(t, "body"); !known {
			return problem.Hidden // it may be no JSON at all
		}
	}
	for _, step := range steps {
		for t != nil && t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch {
		case t != nil && t.Kind() == reflect.Struct && !readsItself(t):
			m, known := memberNamed(t, step)
			if parts, ok := value.(map[string]any); !known && ok && parts[step] == nil {
				return quoted(nil)
			}
			if !known || m.secret {
				return problem.Hidden
			}
			t = m.kind
		case t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Map) && !readsItself(t):
			t = t.Elem()
		default:
			t = nil // what is below is as the client likes
		}
		switch parts := value.(type) {
		case map[string]any:
			value = parts[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(parts) {
				return quoted(nil)
			}
			value = parts[i]
		default:
			return quoted(nil)
		}
	}
	return quoted(masked(value, t))
}

// readBack decodes the body of a request that was read before; nil when it is no JSON.
func readBack(r *http.Request) (value any) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if dec.Decode(&value) != nil {
		return nil
	}
	return value
}

// stepsOf splits a path: a.b[0].c[key.with.dots] has the steps a, b, 0, c and key.with.dots.
func stepsOf(field string) []string {
	var steps []string
	for field != "" {
		i := strings.IndexAny(field, ".[")
		switch {
		case i < 0:
			return append(steps, field)
		case i > 0:
			steps, field = append(steps, field[:i]), field[i:]
		case field[0] == '.':
			field = field[1:]
		default:
			end := strings.IndexByte(field, ']')
			if end < 0 {
				end = len(field)
			}
			steps = append(steps, field[1:end])
			field = field[min(end+1, len(field)):]
		}
	}
	return steps
}

// masked is a value of a type without its secrets and without what the type does not know. A value of another kind than
// that of a type with secrets is hidden as a whole.
func masked(value any, t reflect.Type) any {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if value == nil || t == nil || readsItself(t) {
		return value
	}
	switch v := value.(type) {
	case map[string]any:
		switch t.Kind() {
		case reflect.Struct:
			kept := map[string]any{}
			for _, m := range bodyMembers(t) {
				part, given := v[m.name]
				switch {
				case given && m.secret:
					kept[m.name] = problem.Hidden
				case given:
					kept[m.name] = masked(part, m.kind)
				}
			}
			return kept
		case reflect.Map:
			kept := make(map[string]any, len(v))
			for key, part := range v {
				kept[key] = masked(part, t.Elem())
			}
			return kept
		default:
		}
	case []any:
		if t.Kind() == reflect.Slice {
			kept := make([]any, len(v))
			for i, part := range v {
				kept[i] = masked(part, t.Elem())
			}
			return kept
		}
	}
	if holdsSecrets(t, 0) {
		return problem.Hidden
	}
	return value
}

// maxNesting is deeper than the types of requests nest.
const maxNesting = 16

func holdsSecrets(t reflect.Type, depth int) bool {
	if depth > maxNesting || readsItself(t) {
		return false
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Array:
		return holdsSecrets(t.Elem(), depth+1)
	case reflect.Struct:
		for _, m := range bodyMembers(t) {
			if m.secret || holdsSecrets(m.kind, depth+1) {
				return true
			}
		}
	default:
	}
	return false
}

func quoted(value any) string {
	if s, ok := value.(string); ok && s != "" {
		return s
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return problem.Hidden
	}
	return strings.TrimSuffix(b.String(), "\n")
}
