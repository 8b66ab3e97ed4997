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

// schemas collects the JSON Schemas of Go types, each named <package>.<Type>, with the comments of their source.
type schemas struct {
	known    object
	comments comments
	// http leaves out what travels as a header of an HTTP answer.
	http bool
}

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
		name := typeName(t)
		if _, known := s.known[name]; !known {
			s.known[name] = object{} // ends the recursion of a type that holds itself
			s.known[name] = s.structure(t)
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
		schema := object{"type": "string"}
		if values := s.comments.values[typeName(t)]; len(values) > 0 {
			schema["enum"] = values
		}
		return schema
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
	if text := s.comments.types[typeName(t)]; text != "" {
		schema["description"] = text
	}
	if len(members) > 0 {
		schema["properties"] = members
	}
	if len(required) > 0 {
		schema["required"] = required
	}
	return schema
}

func (s schemas) collect(t reflect.Type, members object, required *[]string) {
	for _, f := range fieldsOf(t) {
		name := f.json()
		if name == "" || s.http && f.Tag.Get("header") != "" {
			continue
		}
		members[name] = s.member(f)
		if !strings.Contains(f.Tag.Get("json"), ",omit") && f.Type.Kind() != reflect.Pointer {
			*required = append(*required, name)
		}
	}
}

// member is the schema of a field with its comment; a reference has no room for one.
func (s schemas) member(f field) object {
	schema := s.of(f.Type)
	if text := s.comments.members[typeName(f.owner)+"."+f.json()]; text != "" && schema["$ref"] == nil {
		schema["description"] = text
	}
	if s.http && f.Type.Kind() == reflect.Pointer && !strings.Contains(f.Tag.Get("json"), ",omit") && schema["$ref"] == nil {
		schema["nullable"] = true // it is there, and null says that there is no value
	}
	return schema
}

// field is an exported field with the struct that declares it.
type field struct {
	reflect.StructField

	owner reflect.Type
}

// fieldsOf lists what encoding/json sees as members: the fields of embedded structs stand for themselves.
func fieldsOf(t reflect.Type) []field {
	var all []field
	for f := range t.Fields() {
		if f.Anonymous && f.Tag.Get("json") == "" && f.Type.Kind() == reflect.Struct {
			all = append(all, fieldsOf(f.Type)...)
		} else if f.IsExported() {
			all = append(all, field{f, t})
		}
	}
	return all
}

// json is the name of the member; empty when the field is none.
func (f field) json() string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	switch name {
	case "-":
		return ""
	case "":
		return f.Name
	}
	return name
}

// bound says which part of an HTTP request fills the field; empty when it is the body.
func (f field) bound() (in, name string) {
	for _, in := range []string{"path", "query", "header"} {
		if name := f.Tag.Get(in); name != "" {
			return in, name
		}
	}
	return "", ""
}

func typeName(t reflect.Type) string { return path.Base(t.PkgPath()) + "." + t.Name() }
