package gateway

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// decode sets the fields of a Go struct from a JSON object in which no member stands twice. A member counts only when it
// has exactly the name of a field that comes from the body; all others are ignored whatever their type, also those
// that differ in case and those whose field comes from the path, the query or a header (functions-deployments §1.1).
// The package encoding/json would take such members for fields, and would tell only the first of several mistakes.
func decode(b []byte, into any) error {
	d := decoder{problem.NewCheck("request")}
	d.value(reflect.ValueOf(into).Elem(), b, "")
	return d.check.Err()
}

// member is a field of a struct that a body may set.
type member struct {
	name  string
	index []int
	kind  reflect.Type
	// secret fields are those with the tag secret:"true": nothing repeats what a client sent there.
	secret bool
}

// membersOf caches the members of the types that bodies are made of.
var membersOf sync.Map // reflect.Type → []member

// bodyMembers are the fields of a struct that come from the body, in the order of their declaration.
func bodyMembers(t reflect.Type) []member {
	if known, ok := membersOf.Load(t); ok {
		return known.([]member) //nolint:forcetypeassert // nothing else is stored
	}
	var members []member
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		source, _ := sourceOf(f)
		if f.Anonymous || !f.IsExported() || name == "-" || source != "" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		members = append(members, member{name, f.Index, f.Type, f.Tag.Get("secret") == "true"})
	}
	membersOf.Store(t, members)
	return members
}

func memberNamed(t reflect.Type, name string) (member, bool) {
	members := bodyMembers(t)
	i := slices.IndexFunc(members, func(m member) bool { return m.name == name })
	if i < 0 {
		return member{}, false
	}
	return members[i], true
}

type decoder struct{ check *problem.Check }

// value sets v from text, which stands at the path at. null leaves it as it is, or empty.
func (d decoder) value(v reflect.Value, text json.RawMessage, at string) {
	absent := string(text) == "null"
	switch t := v.Type(); {
	case d.check.Full():
	case readsItself(t):
		d.leaf(v, text, at)
	case t.Kind() == reflect.Pointer && !absent:
		target := reflect.New(t.Elem())
		d.value(target.Elem(), text, at)
		v.Set(target)
	case t.Kind() == reflect.Struct && !absent:
		if parts, ok := parse[map[string]json.RawMessage](d, t, text, at); ok {
			for _, m := range bodyMembers(t) {
				if part, given := parts[m.name]; given {
					d.value(v.FieldByIndex(m.index), part, join(at, m.name))
				}
			}
		}
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8 && !absent:
		if parts, ok := parse[[]json.RawMessage](d, t, text, at); ok && d.few(len(parts), at) {
			v.Set(reflect.MakeSlice(t, len(parts), len(parts)))
			for i, part := range parts {
				d.value(v.Index(i), part, fmt.Sprintf("%s[%d]", at, i))
			}
		}
	case t.Kind() == reflect.Map && !absent:
		if parts, ok := parse[map[string]json.RawMessage](d, t, text, at); ok && d.few(len(parts), at) {
			v.Set(reflect.MakeMapWithSize(t, len(parts)))
			for _, key := range slices.Sorted(maps.Keys(parts)) {
				element := reflect.New(t.Elem()).Elem()
				d.value(element, parts[key], join(at, key))
				v.SetMapIndex(reflect.ValueOf(key).Convert(t.Key()), element)
			}
		}
	default:
		d.leaf(v, text, at)
	}
}

// maxElements bounds lists and maps, because an element of two bytes becomes a struct of hundreds. No list of any API comes
// near it.
const maxElements = 10_000

func (d decoder) few(n int, at string) bool {
	d.check.Require(n <= maxElements, shortened(at), "must have at most %d elements", maxElements)
	return n <= maxElements
}

// parse takes an object or an array apart.
func parse[T any](d decoder, t reflect.Type, text json.RawMessage, at string) (parts T, ok bool) {
	err := json.Unmarshal(text, &parts)
	if err != nil {
		d.refuse(t, err, at)
	}
	return parts, err == nil
}

func (d decoder) leaf(v reflect.Value, text json.RawMessage, at string) {
	if err := json.Unmarshal(text, v.Addr().Interface()); err != nil {
		d.refuse(v.Type(), err, at)
	}
}

// refuse says which kind of JSON a Go type takes.
func (d decoder) refuse(t reflect.Type, err error, at string) {
	if at == "" {
		at = "body"
	}
	rule := "must be " + jsonKind(t)
	if typed, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		rule += ", not " + typed.Value
	}
	d.check.Require(false, shortened(at), "%s", rule)
}

// readsItself reports whether a type decides about its own JSON.
func readsItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// jsonKind is what a Go type takes, in the words of JSON.
func jsonKind(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[time.Time]() {
		return "a time such as 2026-05-04T10:11:12Z"
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Float32, reflect.Float64:
		return "a number"
	default:
		return "a whole number"
	}
}
