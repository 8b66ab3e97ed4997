package bus

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/event"
)

// Watch calls fn for every event of a domain that is stored after it returns, in order, until stop is called, also
// over an outage of the server. It keeps nothing: it is for caches that an event makes stale. fn must be quick.
func (c *Conn) Watch(ctx context.Context, domain string, fn func(event.Envelope)) (stop func(), err error) {
	s, err := c.js.Stream(ctx, event.StreamOf(domain))
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", domain, err)
	}
	// A number, not "new": a consumer that is made anew before it has seen anything would skip what came in between.
	from := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: s.CachedInfo().State.LastSeq + 1}
	return c.watch(ctx, domain, from, fn)
}

// WatchLatest is [Watch] that first delivers the last event of every subject of the domain, so that a projection in
// memory is whole before it is used.
func (c *Conn) WatchLatest(ctx context.Context, domain string, fn func(event.Envelope)) (stop func(), err error) {
	return c.watch(ctx, domain, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy}, fn)
}

func (c *Conn) watch(ctx context.Context, domain string, from jetstream.OrderedConsumerConfig, fn func(event.Envelope)) (func(), error) {
	cons, err := c.js.OrderedConsumer(ctx, event.StreamOf(domain), from)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", domain, err)
	}
	cc, err := cons.Consume(func(m jetstream.Msg) {
		var env event.Envelope
		if err := json.Unmarshal(m.Data(), &env); err != nil {
			c.log.Error("not an event", zap.String("subject", m.Subject()), zap.Error(err))
			return
		}
		fn(env)
	})
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", domain, err)
	}
	return func() { cc.Stop(); <-cc.Closed() }, nil
}

// As decodes the payload of an envelope when it is of the type of e; ok is false for any other event.
func As[P any](env event.Envelope, typ interface{ Type() string }) (p P, ok bool) {
	if env.Type != typ.Type() || json.Unmarshal(env.Data, &p) != nil {
		return p, false
	}
	return p, true
}
