package bus

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/event"
)

// Watch calls fn for every new event of a domain, in order, until stop is called. It keeps nothing: it is for caches
// that an event makes stale. fn must be quick; it sees subject and envelope.
func (c *Conn) Watch(ctx context.Context, domain string, fn func(event.Envelope)) (stop func(), err error) {
	return c.watch(ctx, domain, jetstream.DeliverNewPolicy, fn)
}

// WatchLatest is [Watch] that first delivers the last event of every subject of the domain, so that a projection in
// memory is whole before it is used.
func (c *Conn) WatchLatest(ctx context.Context, domain string, fn func(event.Envelope)) (stop func(), err error) {
	return c.watch(ctx, domain, jetstream.DeliverLastPerSubjectPolicy, fn)
}

func (c *Conn) watch(ctx context.Context, domain string, from jetstream.DeliverPolicy, fn func(event.Envelope)) (func(), error) {
	cons, err := c.js.OrderedConsumer(ctx, event.StreamOf(domain), jetstream.OrderedConsumerConfig{DeliverPolicy: from})
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
