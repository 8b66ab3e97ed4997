package main

import (
	"encoding/json"
	"path"
	"reflect"
	"strings"
	"time"
)

// object is a JSON object; its members are written in the order of their names.
type object map[string]any

// schemas collects the JSON Schemas of Go types, each named <package>.<Type>.
type schemas object

var (
	timeType = reflect.TypeFor[time.Time]()
	rawType  = reflect.TypeFor[json.RawMessage]()
)

// of returns a schema, or the reference to one, for what encoding/json makes of a type.
func (s schemas) of(t reflect.Type) object {
	switch t {
	case timeType:
		return object{"type": "string", "format": "date-time"}
	case rawType:
		return object{"description": "any JSON value"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.Struct:
		if t.Name() == "" {
			return s.structure(t)
		}
		name := path.Base(t.PkgPath()) + "." + t.Name()
		if _, known := s[name]; !known {
			s[name] = object{} // ends the recursion of a type that holds itself
			s[name] = s.structure(t)
		}
		return object{"$ref": "#/components/schemas/" + name}
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return object{"type": "string", "contentEncoding": "base64"}
		}
		return object{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Interface:
		return object{"description": "any JSON value"}
	default:
		return object{"type": "integer"}
	}
}

func (s schemas) structure(t reflect.Type) object {
	members, required := object{}, []string{}
	s.collect(t, members, &required)
	schema := object{"type": "object"}
	if len(members) > 0 {
		schema["properties"] = members
	}
	if len(required) > 0 {
		schema["required"] = required
	}
	return schema
}

func (s schemas) collect(t reflect.Type, members object, required *[]string) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			s.collect(f.Type, members, required)
			continue
		}
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		members[name] = s.of(f.Type)
		if !strings.Contains(options, "omit") && f.Type.Kind() != reflect.Pointer {
			*required = append(*required, name)
		}
	}
}
