package main

import (
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/services/gateway"
)

// areas are the tags of the OpenAPI document, in the order of a reader's interest.
var areas = []object{
	{"name": "functions", "description": "Functions, their versions, and what belongs to them."},
	{"name": "deployments", "description": "Deployments of versions on GPUs."},
	{"name": "invocation", "description": "Calls of functions and their queues."},
	{"name": "cluster-inventory", "description": "Clusters, GPUs, capacity and quota."},
	{"name": "tasks", "description": "Batch tasks."},
	{"name": "keys", "description": "API keys, tokens, accounts and the people of the access API."},
	{"name": "ledger", "description": "The audit record."},
	{"name": "gateway", "description": "Health, metrics and documentation."},
}

// openAPI makes the OpenAPI document of the gateway's routes. Its schemas are the contract types with the comments that
// their source has; its examples are replayed against a running platform by the end-to-end suite.
func openAPI(c comments) ([]byte, error) {
	examples, err := readExamples()
	if err != nil {
		return nil, err
	}
	d := &openAPIDocument{schemas: schemas{object{}, c, true}, examples: examples, paths: object{}, refusals: object{}}
	for _, op := range gateway.Operations() {
		d.add(op)
	}
	if len(d.examples) > 0 {
		return nil, fmt.Errorf("examples of no operation: %s", strings.Join(slices.Sorted(maps.Keys(d.examples)), ", "))
	}
	return encode(object{
		"openapi": "3.0.3",
		"info": object{
			"title": "Sirocco", "version": "2", "description": "Self-hosted GPU functions. Every path below /v2/nvcf is also served below " +
				"/v2/orgs/{org}/nvcf and /v2/orgs/{org}/teams/{team}/nvcf. Refusals are problem documents with a stable code; a 403 names " +
				"the scope or the resource type that would have been accepted.",
		},
		"tags": areas, "paths": d.paths, "security": []object{{"bearer": []string{}}},
		"components": object{
			"schemas": d.schemas.known, "responses": d.refusals,
			"securitySchemes": object{"bearer": object{
				"type": "http", "scheme": "bearer", "description": "An API key (nvapi-…) or a token.",
			}},
		},
	})
}

// openAPIDocument collects operations.
type openAPIDocument struct {
	schemas schemas
	// examples by "METHOD path"; each is taken out when its operation is added.
	examples map[string]example
	paths    object
	refusals object
}

func (d *openAPIDocument) add(op gateway.Operation) {
	key := op.Method + " " + op.Path
	sample := d.examples[key]
	delete(d.examples, key)
	answers := object{strconv.Itoa(op.Status): d.answer(op, sample.Response), "default": d.refusal(op)}
	if op.Later {
		answers[strconv.Itoa(http.StatusAccepted)] = object{"description": "In progress: ask /v2/nvcf/pexec/status/{requestId}."}
	}
	o := object{"operationId": operationID(op), "summary": op.Summary, "tags": []string{op.Area}, "responses": answers}
	if op.Row == nil {
		o["security"] = []object{}
	} else {
		o["description"] = permissionText(*op.Row)
		if op.Trusted {
			o["description"] = permissionText(*op.Row) + " Open to the administrators' networks, unless the install is secured."
		}
		o["x-sirocco-row"] = op.Row.Name
	}
	parameters, body := d.request(op)
	if len(parameters) > 0 {
		o["parameters"] = parameters
	}
	if body != nil {
		content := object{"schema": body}
		if sample.Request != nil {
			content["example"] = sample.Request
		}
		o["requestBody"] = object{"content": object{"application/json": content}}
	}
	item, ok := d.paths[op.Path].(object)
	if !ok {
		item = object{}
		d.paths[op.Path] = item
	}
	item[strings.ToLower(op.Method)] = o
}

// request splits an input type into the parameters of path, query and headers and the members of the body.
func (d *openAPIDocument) request(op gateway.Operation) (parameters []object, body object) {
	named := map[string]bool{}
	members := object{}
	if op.Input != nil && op.Input.Kind() == reflect.Struct {
		for _, f := range fieldsOf(op.Input) {
			in, name := f.bound()
			switch {
			case in == "path" && !strings.Contains(op.Path, "{"+name+"}"):
			case in != "":
				schema := d.schemas.member(f)
				text, _ := schema["description"].(string)
				delete(schema, "description")
				parameter := object{"name": name, "in": in, "required": in == "path", "schema": schema}
				if text != "" {
					parameter["description"] = text
				}
				parameters = append(parameters, parameter)
				named[name] = true
			case f.json() != "":
				members[f.json()] = d.schemas.member(f)
			}
		}
	}
	for part := range strings.SplitSeq(op.Path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok && !named[strings.TrimSuffix(name, "}")] {
			parameters = append(parameters, object{
				"name": strings.TrimSuffix(name, "}"), "in": "path", "required": true, "schema": object{"type": "string"},
			})
		}
	}
	if op.Method == http.MethodGet || len(members) == 0 {
		return parameters, nil
	}
	// Twins of a route under /accounts/{ncaId} share its body by name.
	name := typeName(op.Input) + "Body"
	d.schemas.known[name] = object{"type": "object", "properties": members, "description": d.schemas.comments.types[typeName(op.Input)]}
	return parameters, object{"$ref": "#/components/schemas/" + name}
}

// answer is the response of success: the output type without the fields that travel as headers.
func (d *openAPIDocument) answer(op gateway.Operation, sample any) object {
	content := object{}
	r := object{"description": http.StatusText(op.Status)}
	media := op.Media
	if media == "" {
		media = "application/json"
	}
	headers := object{}
	switch {
	case op.Output != nil && op.Output.Kind() == reflect.Struct:
		for _, f := range fieldsOf(op.Output) {
			if name := f.Tag.Get("header"); name != "" {
				headers[name] = object{"schema": object{"type": "string"}}
			}
		}
		content["schema"] = d.schemas.of(op.Output)
	case op.Output != nil:
		content["schema"] = d.schemas.of(op.Output)
	case op.Media != "":
		content["schema"] = object{}
	}
	if schema, ok := content["schema"].(object); ok && sample != nil {
		content["example"] = d.schemas.complete(sample, schema)
	}
	if len(content) > 0 {
		r["content"] = object{media: content}
	}
	if len(headers) > 0 {
		r["headers"] = headers
	}
	return r
}

// refusal is every other answer; how it looks differs between the APIs that clients know.
func (d *openAPIDocument) refusal(op gateway.Operation) object {
	content := object{}
	if op.Refusal != nil {
		content["schema"] = d.schemas.of(op.Refusal)
	}
	name := "refusal." + strings.ReplaceAll(op.RefusalMedia, "/", ".")
	if op.Refusal != nil {
		name = typeName(op.Refusal)
	}
	d.refusals[name] = object{"description": "A refusal.", "content": object{op.RefusalMedia: content}}
	return object{"$ref": "#/components/responses/" + name}
}

// permissionText says in a sentence what a row asks for.
func permissionText(r access.Row) string {
	var ways []string
	for _, w := range r.Ways {
		var reaches []string
		for _, reach := range w.Reaches {
			reaches = append(reaches, reach.Wire())
		}
		way := strings.Join(w.Scopes, " with ")
		if way == "" {
			way = "any valid token"
		}
		switch {
		case w.Own:
			way += " (tokens, for their own account)"
		case len(reaches) == 0:
			way += " (tokens only)"
		default:
			way += " (keys: on " + strings.Join(reaches, ", ") + ")"
		}
		ways = append(ways, way)
	}
	return "Needs " + strings.Join(ways, " or ") + "."
}

// operationID is unique because it spells method and path.
func operationID(op gateway.Operation) string {
	var b strings.Builder
	b.WriteString(strings.ToLower(op.Method))
	for part := range strings.SplitSeq(strings.Trim(op.Path, "/"), "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			part = "By-" + strings.TrimRight(name, ".}")
		}
		for word := range strings.FieldsFuncSeq(part, func(r rune) bool { return r == '-' || r == '_' || r == '.' }) {
			b.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return b.String()
}
