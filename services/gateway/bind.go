package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// binding says how a request type is filled from an HTTP request: fields with a path, query or header tag from there,
// everything else from the JSON body.
type binding struct {
	tagged  []taggedField
	hasBody bool
	// optional is set by a field with the tag body:"optional": a request without a body stands for an empty object.
	optional bool
}

type taggedField struct {
	index        []int
	source, name string
	// single fields hold one value, so that of two headers neither is better than the other.
	single bool
	// object is what a field of the path names, for those that are not ill-formed but unknown when nothing can have such a
	// name (keys §4.4).
	object string
}

// bindingOf inspects a request type once, when the routes are made.
func bindingOf(t reflect.Type) binding {
	var b binding
	if t.Kind() != reflect.Struct {
		return b
	}
	for _, f := range reflect.VisibleFields(t) {
		if f.Anonymous {
			continue
		}
		source, name := sourceOf(f)
		if source == "" {
			b.hasBody = true
			b.optional = b.optional || f.Tag.Get("body") == "optional"
			continue
		}
		b.tagged = append(b.tagged, taggedField{index: f.Index, source: source, name: name, single: f.Type.Kind() != reflect.Slice, object: f.Tag.Get("object")})
	}
	return b
}

// sourceOf says where a field comes from, if not from the body.
func sourceOf(f reflect.StructField) (source, name string) {
	for _, s := range []string{"path", "query", "header"} {
		if v := f.Tag.Get(s); v != "" {
			return s, v
		}
	}
	return "", ""
}

// fill reads the body, if the type has one, and the tagged fields.
func (b binding) fill(r *http.Request, maxBody int64, into any) error {
	if b.hasBody && (!b.optional || r.ContentLength != 0) {
		if err := decodeBody(r, maxBody, into); err != nil {
			return err
		}
	}
	v := reflect.ValueOf(into).Elem()
	check := problem.NewCheck("request")
	for _, f := range b.tagged {
		var values []string
		switch f.source {
		case "path":
			if s := r.PathValue(f.name); s != "" {
				values = []string{s}
			}
		case "query":
			values = r.URL.Query()[f.name]
		case "header":
			values = r.Header.Values(f.name)
			if len(values) > 1 && f.single {
				check.Require(false, f.name, onlyOnce)
				continue
			}
		}
		if rule := set(v.FieldByIndex(f.index), values); rule != "" {
			if f.object != "" {
				return problem.New(problem.NotFound, "%s: Not found", f.object)
			}
			check.Require(false, f.name, "%s", rule)
		}
	}
	return check.Err()
}

// outgoing are the fields of an answer that travel as response headers: those with a header tag. Their JSON form, which
// the bus carries, must have omitempty, for they are emptied before the body is written.
type outgoing []taggedField

// headersOf inspects an answer type once, when the routes are made.
func headersOf(t reflect.Type) outgoing {
	var out outgoing
	if t.Kind() != reflect.Struct {
		return nil
	}
	for _, f := range reflect.VisibleFields(t) {
		if name := f.Tag.Get("header"); name != "" && !f.Anonymous {
			out = append(out, taggedField{index: f.Index, source: "header", name: name})
		}
	}
	return out
}

// move takes the fields out of an answer and sets the headers. An empty one sets none.
func (o outgoing) move(answer any, h http.Header) {
	if len(o) == 0 {
		return
	}
	v := reflect.ValueOf(answer).Elem()
	for _, f := range o {
		field, err := v.FieldByIndexErr(f.index)
		if err != nil || field.IsZero() {
			continue
		}
		values, ok := reflect.TypeAssert[[]string](field)
		if !ok {
			values = []string{fmt.Sprint(reflect.Indirect(field).Interface())}
		}
		h[http.CanonicalHeaderKey(f.name)] = values
		field.SetZero()
	}
}

// set converts texts of the path, the query and headers; the returned rule is empty when they fit.
func set(field reflect.Value, values []string) (rule string) {
	if len(values) == 0 {
		field.SetZero()
		return ""
	}
	for _, v := range values {
		switch {
		case strings.ContainsRune(v, 0):
			return noNUL
		case !utf8.ValidString(v): // the bus would carry U+FFFD in its place, and two owners would be one
			return notUTF8
		}
	}
	switch field.Kind() {
	case reflect.String:
		field.SetString(values[0])
	case reflect.Bool:
		b, ok := truth(values[0])
		if !ok {
			return "must be one of true, on, yes, 1, false, off, no, 0"
		}
		field.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(values[0], 10, 64)
		if err != nil {
			return "must be a whole number"
		}
		field.SetInt(n)
	case reflect.Slice:
		var list []string
		for _, v := range values {
			for item := range strings.SplitSeq(v, ",") {
				if item = strings.TrimSpace(item); item != "" {
					list = append(list, item)
				}
			}
		}
		field.Set(reflect.ValueOf(list))
	case reflect.Pointer:
		target := reflect.New(field.Type().Elem())
		if rule := set(target.Elem(), values); rule != "" {
			return rule
		}
		field.Set(target)
	default:
		return "cannot be given here"
	}
	return ""
}

func truth(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "true", "on", "yes", "1":
		return true, true
	case "false", "off", "no", "0":
		return false, true
	}
	return false, false
}

// decodeBody reads a JSON object with the rules of functions-deployments §1.1: unknown members ignored, duplicate
// members refused, every refusal naming the field and the rule.
func decodeBody(r *http.Request, maxBody int64, into any) error {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		media, _, err := mime.ParseMediaType(ct)
		if err != nil || media != "application/json" && !strings.HasSuffix(media, "+json") {
			return problem.New(problem.UnsupportedMedia, "Content-Type must be application/json")
		}
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil:
		return problem.New(problem.BadRequest, "failed to read request body: %v", err)
	case int64(len(b)) > maxBody:
		return problem.New(problem.TooLarge, "the request body is larger than %d bytes", maxBody)
	}
	if err := checkObject(b); err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(b)) // a refusal quotes it
	return decode(b, into)
}

// maxField is how much of the name of a member is repeated in a refusal, in bytes.
const maxField = 256

func violation(field, rule string) error {
	if field == "" {
		field = `""` // a JSON member may have no name
	}
	check := problem.NewCheck("request")
	check.Require(false, shortened(field), "%s", rule)
	return check.Err()
}

// shortened is the name of a member as a refusal repeats it.
func shortened(field string) string {
	return strings.ToValidUTF8(field[:min(len(field), maxField)], "")
}

// badBody refuses a body as a whole.
func badBody(rule string) error { return invalid("request", "body", rule) }

// invalid refuses what is no request at all, before a service could hold it against its rules.
func invalid(object, field, rule string) *problem.Problem {
	check := problem.NewCheck(object)
	check.Require(false, field, "%s", rule)
	p, _ := problem.From(check.Err())
	p.Code = problem.BadRequest
	return p
}

// maxDepth bounds the nesting of a body.
const maxDepth = 64

// checkObject makes sure that b is one JSON object in which no object names a member twice.
func checkObject(b []byte) error {
	if len(bytes.TrimSpace(b)) == 0 {
		return badBody("is empty; a JSON object is required")
	}
	if !utf8.Valid(b) { // the decoder would put U+FFFD in its place, and nobody would know
		return badBody("is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	first, err := dec.Token()
	if err != nil {
		return badBody("is not valid JSON: " + err.Error())
	}
	if first != json.Delim('{') {
		return badBody("must be a JSON object")
	}
	if err := walk(dec, "", 1); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badBody("has something after the JSON object")
	}
	return nil
}

// walk consumes the rest of the object or array that the decoder is in.
func walk(dec *json.Decoder, path string, depth int) error {
	if depth > maxDepth {
		return badBody(fmt.Sprintf("is nested deeper than %d levels", maxDepth))
	}
	seen := map[string]bool{}
	key, expectKey := "", true
	for {
		tok, err := dec.Token()
		if err != nil {
			return badBody("is not valid JSON: " + err.Error())
		}
		switch t := tok.(type) {
		case json.Delim:
			switch t {
			case '}', ']':
				return nil
			case '{':
				if err := walk(dec, join(path, key), depth+1); err != nil {
					return err
				}
			case '[':
				if err := walkArray(dec, join(path, key), depth+1); err != nil {
					return err
				}
			}
			expectKey = true
			continue
		case string:
			if expectKey {
				key = t
			}
			if strings.ContainsRune(t, 0) {
				return violation(join(path, key), noNUL)
			}
			if expectKey {
				if seen[key] {
					return violation(join(path, key), "appears twice in one object")
				}
				seen[key] = true
				expectKey = false
				continue
			}
		}
		expectKey = true
	}
}

func walkArray(dec *json.Decoder, path string, depth int) error {
	if depth > maxDepth {
		return badBody(fmt.Sprintf("is nested deeper than %d levels", maxDepth))
	}
	for i := 0; ; i++ {
		tok, err := dec.Token()
		if err != nil {
			return badBody("is not valid JSON: " + err.Error())
		}
		element := func() string { return fmt.Sprintf("%s[%d]", path, i) }
		switch t := tok.(type) {
		case json.Delim:
			switch t {
			case ']':
				return nil
			case '{':
				err = walk(dec, element(), depth+1)
			case '[':
				err = walkArray(dec, element(), depth+1)
			}
		case string:
			if strings.ContainsRune(t, 0) {
				err = violation(element(), noNUL)
			}
		}
		if err != nil {
			return err
		}
	}
}

// noNUL is a rule because no database column takes the character.
const noNUL = "must not contain the character U+0000"

const notUTF8 = "must be UTF-8"

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
