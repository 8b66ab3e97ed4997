package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/catalogue"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// document is an AsyncAPI 3 document in the making.
type document struct {
	channels, operations, messages object
	schemas                        schemas
}

// asyncAPI describes every message that services exchange.
func asyncAPI(c comments) ([]byte, error) {
	d := document{channels: object{}, operations: object{}, messages: object{}, schemas: schemas{object{}, c, false}}
	d.messages["problem"] = object{
		"summary": "The request was refused.", "contentType": "application/json", "payload": d.schemas.of(reflect.TypeFor[problem.Problem]()),
	}
	for _, m := range catalogue.All() {
		switch m.Kind {
		case rpc.KindRequest:
			d.request(m)
		case rpc.KindEvent:
			d.event(m)
		case rpc.KindCommand:
			d.command(m)
		}
	}
	return encode(object{
		"asyncapi": "3.0.0",
		"info": object{
			"title": "Sirocco", "version": "1",
			"description": "What the services say to one another over NATS. Generated from contracts; change it there.",
		},
		"defaultContentType": "application/json",
		"channels":           d.channels,
		"operations":         d.operations,
		"components":         object{"messages": d.messages, "schemas": d.schemas.known},
	})
}

// encode writes JSON for people: indented, and without escapes that only a browser needs.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return b.Bytes(), nil
}

func ref(kind, name string) object { return object{"$ref": "#/" + kind + "/" + name} }

// channel adds a channel with one message and returns the reference to the message in it.
func (d document) channel(name string, channel object, messages ...string) []object {
	in, refs := object{}, []object{}
	for _, m := range messages {
		in[m] = ref("components/messages", m)
		refs = append(refs, ref("channels", name+"/messages/"+m))
	}
	channel["messages"] = in
	d.channels[name] = channel
	return refs
}

func (d document) request(m rpc.Description) {
	name := m.Owner + "." + m.Type
	d.messages[name] = object{"summary": m.Doc, "payload": d.schemas.of(m.Input)}
	d.messages[name+".answer"] = object{"payload": d.schemas.of(m.Output)}
	asked := d.channel(name, object{"address": m.Subject, "description": m.Doc}, name)
	answered := d.channel(name+".answer", object{"address": nil, "description": "The inbox that the request names."}, name+".answer", "problem")
	d.operations[name] = object{
		"action": "receive", "channel": ref("channels", name), "messages": asked, "summary": m.Doc, "x-service": m.Owner,
		"reply":    object{"channel": ref("channels", name+".answer"), "messages": answered},
		"bindings": object{"nats": object{"queue": m.Owner}},
	}
}

func (d document) event(m rpc.Description) {
	envelope := d.schemas.of(reflect.TypeFor[event.Envelope]())
	d.messages[m.Type] = object{
		"summary": m.Doc, "contentType": event.ContentType,
		"headers": object{"type": "object", "properties": object{"Nats-Msg-Id": object{"type": "string", "description": "the event's id"}}},
		"payload": object{"allOf": []any{
			envelope, object{"properties": object{"type": object{"const": m.Type}, "data": d.schemas.of(m.Input)}},
		}},
	}
	domain := strings.Split(m.Subject, ".")[1]
	published := d.channel(m.Type, object{
		"address":     fill(m.Subject, "account", "entity"),
		"description": m.Doc,
		"parameters": object{
			"account": object{"description": "The owning account as a subject token; _ for the platform."},
			"entity":  object{"description": "The id of what the event is about, as a subject token."},
		},
		"x-stream": event.StreamOf(domain),
	}, m.Type)
	d.operations[m.Type] = object{
		"action": "send", "channel": ref("channels", m.Type), "messages": published, "summary": m.Doc, "x-service": m.Owner,
	}
}

func (d document) command(m rpc.Description) {
	name := "cmd." + m.Type
	d.messages[name] = object{"summary": m.Doc, "payload": d.schemas.of(m.Input)}
	received := d.channel(name, object{
		"address":     fill(m.Subject, "cluster", "node"),
		"description": m.Doc,
		"parameters": object{
			"cluster": object{"description": "The cluster of the node, as a subject token."},
			"node":    object{"description": "The node, as a subject token."},
		},
		"x-stream": "CMD",
	}, name)
	d.operations[name] = object{
		"action": "receive", "channel": ref("channels", name), "messages": received, "summary": m.Doc, "x-service": m.Owner,
	}
}

// fill puts named parameters in the place of the wildcards of a subject.
func fill(subject string, names ...string) string {
	for _, n := range names {
		subject = strings.Replace(subject, "*", "{"+n+"}", 1)
	}
	return subject
}
