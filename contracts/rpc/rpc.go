// Package rpc declares what a message is: an endpoint with its request and answer types, an event with its payload, a
// command with its order. Declaring it once, with types, makes a wrong message a compile error, and lets documentation
// and permissions be generated from the same lines ([Described]).
package rpc

import (
	"fmt"
	"reflect"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/subject"
)

// Endpoint is a request with one typed answer or one problem.
type Endpoint[Req, Resp any] struct {
	Service, Resource, Verb string
	// Doc is one sentence for the generated reference.
	Doc string
	// Timeout bounds a call that has no sooner deadline; 0 means [DefaultTimeout].
	Timeout time.Duration
}

// DefaultTimeout bounds a call between services.
const DefaultTimeout = 10 * time.Second

// Subject is where the endpoint listens.
func (e Endpoint[Req, Resp]) Subject() string { return subject.Request(e.Service, e.Resource, e.Verb) }

// Event is a fact of one kind.
type Event[Payload any] struct {
	Domain string
	// Entity is the kind of thing the fact is about, such as key or version.
	Entity string
	// Name is a past tense, the last token of the subject.
	Name    string
	Version int
	Doc     string
}

// Type is the CloudEvents type: nvcf.<domain>.<entity>_<name>.v<version>.
func (e Event[P]) Type() string {
	return fmt.Sprintf("nvcf.%s.%s_%s.v%d", e.Domain, e.Entity, e.Name, e.Version)
}

// Subject is where this fact about one entity is published.
func (e Event[P]) Subject(account, entity string) string {
	return subject.Event(e.Domain, account, entity, e.Name)
}

// Filter matches this fact for every account and entity.
func (e Event[P]) Filter() string { return subject.EventsNamed(e.Domain, e.Name) }

// Command is an order to one node.
type Command[Order any] struct {
	Verb string
	Doc  string
}

// Subject is where the order to one node is queued.
func (c Command[O]) Subject(cluster, node string) string {
	return subject.Command(cluster, node, c.Verb)
}

// Kind of a described message.
type Kind string

// The kinds that are declared in Go; work has no declaration because its content belongs to the caller.
const (
	KindRequest Kind = "request"
	KindEvent   Kind = "event"
	KindCommand Kind = "command"
)

// Description is a message without its type parameters.
type Description struct {
	Kind    Kind
	Owner   string
	Subject string
	Type    string
	Doc     string
	Input   reflect.Type
	Output  reflect.Type
}

// Described is anything that can be listed in the catalogue.
type Described interface{ Describe() Description }

// Describe implements [Described].
func (e Endpoint[Req, Resp]) Describe() Description {
	return Description{
		Kind: KindRequest, Owner: e.Service, Subject: e.Subject(), Type: e.Resource + "." + e.Verb, Doc: e.Doc,
		Input: reflect.TypeFor[Req](), Output: reflect.TypeFor[Resp](),
	}
}

// Describe implements [Described].
func (e Event[P]) Describe() Description {
	owner := ""
	for _, s := range event.Streams {
		if s.Name == event.StreamOf(e.Domain) {
			owner = s.Owner
		}
	}
	return Description{Kind: KindEvent, Owner: owner, Subject: e.Filter(), Type: e.Type(), Doc: e.Doc, Input: reflect.TypeFor[P]()}
}

// Describe implements [Described].
func (c Command[O]) Describe() Description {
	return Description{
		Kind: KindCommand, Owner: "agent", Subject: "cmd.*.*." + c.Verb, Type: c.Verb, Doc: c.Doc, Input: reflect.TypeFor[O](),
	}
}

// None is the request or answer of an endpoint that has none.
type None struct{}

// Rendered is an answer that is JSON already and travels as it is: a service that has the text need not read it, nor the
// gateway that passes it on. An endpoint is declared with the type of that JSON and served or called through [AsText].
type Rendered []byte

// AsText is the same endpoint for those who handle its answer as text.
func AsText[Req, Resp any](e Endpoint[Req, Resp]) Endpoint[Req, Rendered] {
	return Endpoint[Req, Rendered](e)
}
